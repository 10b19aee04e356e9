//! What an `Accept` header asks for: an encoding and a shape.
//!
//! By apiserver's rules (goautoneg's order, one clause after another until one can be met). YAML and CBOR are
//! not written here; a clause that asks for them is passed over.

use super::Encoding;

/// What to answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How it is written.
    pub encoding: Encoding,
    /// What is made of the objects.
    pub shape: Shape,
}

/// What is made of the objects before they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing: they are sent whole.
    Object,
    /// `as=Table;g=meta.k8s.io;v=v1`: rows as `kubectl get` shows them.
    Table,
    /// `as=PartialObjectMetadata`: only their metadata.
    PartialMetadata,
    /// `as=PartialObjectMetadataList`: only their metadata, of a list.
    PartialMetadataList,
}

/// All that an `Accept` header allows, the most wanted first. No header, or an empty one, is JSON.
///
/// An empty answer is 406. Clauses of quality 0, of types that are not written here, and of shapes that do
/// not exist (`as=Table;v=v9`) are left out.
pub fn accepted(header: Option<&str>) -> Vec<Wanted> {
    let header = header.map(str::trim).filter(|h| !h.is_empty()).unwrap_or("application/json");
    let mut clauses: Vec<Clause> = header.split(',').filter_map(Clause::parse).collect();
    clauses.sort_by(|a, b| b.quality.cmp(&a.quality).then(a.wildcards.cmp(&b.wildcards)));
    let mut wanted = Vec::new();
    for clause in clauses {
        if !wanted.contains(&clause.wanted) {
            wanted.push(clause.wanted);
        }
    }
    wanted
}

struct Clause {
    /// In thousandths.
    quality: u32,
    /// How many of type and subtype are `*`.
    wildcards: u8,
    wanted: Wanted,
}

impl Clause {
    fn parse(clause: &str) -> Option<Clause> {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next()?.to_ascii_lowercase();
        let (encoding, wildcards) = match media.as_str() {
            "application/json" => (Encoding::Json, 0),
            "application/vnd.kubernetes.protobuf" => (Encoding::Protobuf, 0),
            "application/*" => (Encoding::Json, 1),
            "*/*" | "*" => (Encoding::Json, 2),
            _ => return None,
        };
        let (mut quality, mut kind, mut group, mut version) = (1000, None, None, None);
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match key.trim() {
                "q" => quality = (value.parse::<f64>().ok()?.clamp(0.0, 1.0) * 1000.0) as u32,
                "as" => kind = Some(value),
                "g" => group = Some(value),
                "v" => version = Some(value),
                _ => {}
            }
        }
        let shape = match (kind, group, version) {
            (None, ..) => Shape::Object,
            (Some("Table"), Some("meta.k8s.io"), Some("v1" | "v1beta1")) => Shape::Table,
            (Some("PartialObjectMetadata"), Some("meta.k8s.io"), Some("v1")) => Shape::PartialMetadata,
            (Some("PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
                Shape::PartialMetadataList
            }
            _ => return None,
        };
        // A table has no protobuf form.
        let possible = quality > 0 && (shape, encoding) != (Shape::Table, Encoding::Protobuf);
        possible.then_some(Clause { quality, wildcards, wanted: Wanted { encoding, shape } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &str) -> String {
        let show = |w: &Wanted| format!("{:?} {:?}", w.encoding, w.shape);
        accepted(Some(header)).iter().map(show).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn headers_that_clients_send() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,\
            application/json";
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,\
            application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        let cases = [
            ("", "Json Object"),
            ("*/*", "Json Object"),
            ("application/vnd.kubernetes.protobuf,application/json", "Protobuf Object, Json Object"),
            ("application/json, application/vnd.kubernetes.protobuf;q=0.9", "Json Object, Protobuf Object"),
            ("*/*, application/vnd.kubernetes.protobuf", "Protobuf Object, Json Object"),
            ("application/json;q=0.5, application/vnd.kubernetes.protobuf", "Protobuf Object, Json Object"),
            ("application/vnd.kubernetes.protobuf;stream=watch", "Protobuf Object"),
            ("application/cbor,application/yaml,application/json;q=0.1", "Json Object"),
            ("application/yaml", ""),
            ("application/json;q=0", ""),
            ("application/json;as=Table;g=meta.k8s.io;v=v9", ""),
            (table, "Json Table, Json Object"),
            (metadata, "Protobuf PartialMetadataList, Json PartialMetadataList, Json Object"),
        ];
        for (header, want) in cases {
            assert_eq!(read(header), want, "{header}");
        }
        assert_eq!(accepted(None).len(), 1);
    }
}
