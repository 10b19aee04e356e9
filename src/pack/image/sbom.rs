//! What an image is made of, for those who must know: SPDX 2.3, as JSON.

use anyhow::Result;
use serde_json::{Value, json};

use super::lock::{Lock, Package};
use super::modules::Module;

/// A part that is no package of the distribution.
#[derive(Clone, Debug)]
pub struct Part {
    /// Tells it from all others of the document, such as `edge` or `cargo-serde-1.0.200`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence, by SPDX's names.
    pub licence: &'static str,
    /// Of its file, in hexadecimal, where it is one.
    pub sha256: Option<String>,
    /// Its package URL, such as `pkg:cargo/serde@1.0.200`.
    pub purl: Option<String>,
    /// Who gives it out, where that is known.
    pub supplier: Option<String>,
    /// The address that it is downloaded from, where it is one.
    pub from: Option<String>,
    /// The parts that it is linked of.
    pub linked: Vec<Part>,
}

impl Part {
    /// A library of a program; `kind` is that of its package URL, such as `cargo`.
    pub fn library(kind: &str, module: &Module) -> Self {
        let Module { name, version, sha256 } = module;
        Self {
            id: format!("{kind}-{name}-{version}"),
            name: name.clone(),
            version: version.clone(),
            licence: "NOASSERTION",
            sha256: sha256.clone(),
            purl: Some(format!("pkg:{kind}/{}@{}", escaped(name), escaped(version))),
            supplier: None,
            from: None,
            linked: Vec::new(),
        }
    }
}

/// A file of the owner's that was laid over the packages'.
#[derive(Clone, Debug)]
pub struct Laid {
    /// Below the root.
    pub path: String,
    /// Of its bytes, in hexadecimal.
    pub sha1: String,
    /// The same.
    pub sha256: String,
}

/// The document's text. `identity` tells images apart; `created` is a time of RFC 3339, in seconds and in UTC.
///
/// # Errors
/// None that is known.
pub fn text(
    lock: &Lock,
    parts: &[Part],
    laid: &[Laid],
    version: &str,
    identity: &str,
    created: &str,
) -> Result<String> {
    let root = json!({
        "SPDXID": "SPDXRef-image",
        "name": "edge-appliance",
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": "OPERATING-SYSTEM",
    });
    let mut packages = vec![root];
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image")];
    for part in parts {
        let of = add(&mut packages, &mut relations, "SPDXRef-image", part);
        for library in &part.linked {
            add(&mut packages, &mut relations, &of, library);
        }
    }
    for package in &lock.package {
        add(&mut packages, &mut relations, "SPDXRef-image", &part_of(package, &lock.suite));
    }
    let files: Vec<Value> = laid.iter().enumerate().map(|(number, file)| file_of(number, file)).collect();
    if !laid.is_empty() {
        packages.push(overlay(laid));
        relations.push(relation("SPDXRef-image", "CONTAINS", "SPDXRef-overlay"));
        let ids = files.iter().filter_map(|file| file["SPDXID"].as_str());
        relations.extend(ids.map(|id| relation("SPDXRef-overlay", "CONTAINS", id)));
    }
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("edge-appliance-{version}-{}", lock.architecture),
        "documentNamespace": format!("https://spdx.org/spdxdocs/edge-appliance-{identity}"),
        "creationInfo": {"created": created, "creators": [format!("Tool: edge-pack-{}", env!("CARGO_PKG_VERSION"))]},
        "packages": packages,
        "files": files,
        "relationships": relations,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

/// A package. Debian's is the same from any mirror; another archive's is that archive's, which is known by its host.
fn part_of(package: &Package, suite: &str) -> Part {
    let (name, version) = (escaped(&package.name), escaped(&package.version));
    let archive =
        package.from.as_deref().and_then(|from| Some((from, from.split_once("://")?.1.split('/').next()?)));
    let (supplier, purl) = match archive {
        None => {
            let arch = &package.architecture;
            ("Debian", format!("pkg:deb/debian/{name}@{version}?arch={arch}&distro={suite}"))
        }
        Some((from, host)) => {
            let (arch, url) = (&package.architecture, escaped(from).replace('/', "%2F"));
            (host, format!("pkg:deb/{}/{name}@{version}?arch={arch}&download_url={url}", escaped(host)))
        }
    };
    Part {
        id: package.name.clone(),
        name: package.name.clone(),
        version: package.version.clone(),
        licence: "NOASSERTION",
        sha256: Some(package.sha256.clone()),
        purl: Some(purl),
        supplier: Some(format!("Organization: {supplier}")),
        from: package.from.clone(),
        linked: Vec::new(),
    }
}

/// Adds a part of `of`; its identifier.
fn add(packages: &mut Vec<Value>, relations: &mut Vec<Value>, of: &str, part: &Part) -> String {
    let id = format!("SPDXRef-{}", identifier(&part.id));
    let mut package = json!({
        "SPDXID": id,
        "name": part.name,
        "versionInfo": part.version,
        "downloadLocation": part.from.as_deref().unwrap_or("NOASSERTION"),
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": part.licence,
        "copyrightText": "NOASSERTION",
    });
    if let Some(supplier) = &part.supplier {
        package["supplier"] = json!(supplier);
    }
    if let Some(sha256) = &part.sha256 {
        package["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": sha256}]);
    }
    if let Some(purl) = &part.purl {
        package["externalRefs"] = json!([{
            "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl,
        }]);
    }
    packages.push(package);
    relations.push(relation(of, "CONTAINS", &id));
    id
}

fn file_of(number: usize, file: &Laid) -> Value {
    json!({
        "SPDXID": format!("SPDXRef-file-{}", number + 1),
        "fileName": format!("./{}", file.path),
        "checksums": [
            {"algorithm": "SHA1", "checksumValue": file.sha1},
            {"algorithm": "SHA256", "checksumValue": file.sha256},
        ],
        "licenseConcluded": "NOASSERTION",
        "copyrightText": "NOASSERTION",
    })
}

/// All that was laid over, as one package: its code is the SHA-1 of theirs, sorted (SPDX 2.3, 7.9).
fn overlay(laid: &[Laid]) -> Value {
    let mut sums: Vec<&str> = laid.iter().map(|file| file.sha1.as_str()).collect();
    sums.sort_unstable();
    json!({
        "SPDXID": "SPDXRef-overlay",
        "name": "overlay",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": true,
        "packageVerificationCode": {"packageVerificationCodeValue": sha1(sums.concat().as_bytes())},
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "licenseInfoFromFiles": ["NOASSERTION"],
        "copyrightText": "NOASSERTION",
    })
}

/// In hexadecimal: SPDX asks for it of every file, beside one that proves something.
pub fn sha1(bytes: &[u8]) -> String {
    let sum = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

/// Letters, digits, points and hyphens: all that an identifier may have. Names of Debian have plus signs beside them, those
/// of other package managers more.
fn identifier(name: &str) -> String {
    let mut id = String::new();
    for char in name.chars() {
        match char {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' => id.push(char),
            '+' => id.push_str(".plus"),
            '/' => id.push_str(".."),
            other => id += &format!(".{:x}.", u32::from(other)),
        }
    }
    id
}

/// As package URLs want it.
fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('+', "%2B").replace(':', "%3A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_named_once_and_contained() {
        let package = Package {
            name: "libstdc++6".into(),
            version: "1:14-2+b1".into(),
            architecture: "arm64".into(),
            sha256: "0".repeat(64),
            from: None,
        };
        let kernel = Package {
            name: "linux-image-v8".into(),
            from: Some("https://own.test:8443/debian/pool/linux-image-v8_1%3a14-2+b1_arm64.deb".into()),
            ..package.clone()
        };
        let lock = Lock {
            suite: "trixie".into(),
            architecture: "arm64".into(),
            package: vec![package, kernel],
            tool: Vec::new(),
            toolchain: Vec::new(),
        };
        let module = |name: &str| Module { name: name.into(), version: "v1".into(), sha256: None };
        let edge = Part {
            linked: vec![Part::library("golang", &module("example.test/a_b/v2"))],
            purl: None,
            ..Part::library("edge", &Module { sha256: Some("1".into()), ..module("edge") })
        };
        let laid = |path: &str| Laid { path: path.into(), sha1: sha1(path.as_bytes()), sha256: "2".into() };
        let text = text(&lock, &[edge], &[laid("etc/b"), laid("etc/a")], "7", "abc", "2026-01-01T00:00:00Z")
            .unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        let ids: Vec<_> =
            document["packages"].as_array().unwrap().iter().map(|p| p["SPDXID"].as_str().unwrap()).collect();
        let library = "SPDXRef-golang-example.test..a.5f.b..v2-v1";
        let wanted = [
            "SPDXRef-image",
            "SPDXRef-edge-edge-v1",
            library,
            "SPDXRef-libstdc.plus.plus6",
            "SPDXRef-linux-image-v8",
            "SPDXRef-overlay",
        ];
        assert_eq!(ids, wanted);
        let purl = |at: usize| &document["packages"][at]["externalRefs"][0]["referenceLocator"];
        assert_eq!(purl(2), "pkg:golang/example.test/a_b/v2@v1");
        assert_eq!(purl(3), "pkg:deb/debian/libstdc%2B%2B6@1%3A14-2%2Bb1?arch=arm64&distro=trixie");
        // What is another archive's is not Debian's.
        let of = |at: usize, key: &str| document["packages"][at][key].as_str().unwrap_or("none").to_owned();
        assert_eq!(
            (of(3, "supplier"), of(3, "downloadLocation")),
            ("Organization: Debian".into(), "NOASSERTION".into())
        );
        assert_eq!(of(4, "supplier"), "Organization: own.test:8443");
        assert_eq!(
            of(4, "downloadLocation"),
            "https://own.test:8443/debian/pool/linux-image-v8_1%3a14-2+b1_arm64.deb"
        );
        assert_eq!(
            purl(4),
            "pkg:deb/own.test%3A8443/linux-image-v8@1%3A14-2%2Bb1?arch=arm64&download_url=https%3A%2F%2Fown.test%3A8443%2Fdebian%2Fpool%2Flinux-image-v8_1%253a14-2%2Bb1_arm64.deb"
        );
        assert_eq!(of(2, "supplier"), "none");
        let relations = document["relationships"].as_array().unwrap();
        assert!(relations.contains(&relation("SPDXRef-edge-edge-v1", "CONTAINS", library)), "{relations:?}");
        assert_eq!(relations.len(), 8);
        assert_eq!(document["files"][1]["fileName"], "./etc/a");
        let code = &document["packages"][5]["packageVerificationCode"]["packageVerificationCodeValue"];
        let mut sums = [sha1(b"etc/a"), sha1(b"etc/b")];
        sums.sort();
        assert_eq!(*code, sha1(sums.concat().as_bytes()));
        assert_eq!(sha1(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }
}
