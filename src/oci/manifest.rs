//! Manifests and indexes, of OCI and of Docker (schema 2): read for what they link to, never written.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Platform;
use crate::sys::digest::{Algorithm, Digest};
use crate::sys::facts::{Child, Facts, Kind};

/// Media types.
pub mod media {
    /// An OCI image or artifact manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// A Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// All that edge can take, for the `Accept` header.
    pub const ACCEPTED: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];
}

/// The largest manifest that is taken, in bytes.
pub const LARGEST: usize = 4 << 20;
/// The most bytes that the manifests of one image may have: an index of ten thousand could else fill the memory.
pub const LARGEST_IMAGE: usize = 16 << 20;
/// The most things that one manifest may link to.
const MOST_LINKS: usize = 10_000;

/// Why bytes are no manifest that edge takes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    /// Larger than any registry takes.
    #[error("the manifest has {0} bytes hint: the most is {LARGEST}")]
    TooLarge(usize),
    /// Not JSON, or not of the right shape.
    #[error("the manifest cannot be read: {0}")]
    Malformed(String),
    /// Docker's oldest format.
    #[error(
        "the manifest is of Docker schema 1, which is no longer supported hint: push the image again with a current tool"
    )]
    Schema1,
    /// The media type is of something else.
    #[error("`{0}` is not the media type of a manifest")]
    MediaType(String),
    /// The media type that was announced is not the one that is written in the manifest.
    #[error("the manifest says it is `{written}`, and was sent as `{sent}`")]
    Contradicts {
        /// In the manifest.
        written: String,
        /// In the `Content-Type`.
        sent: String,
    },
    /// It names more blobs than anybody needs.
    #[error("the manifest links to more than {MOST_LINKS} others")]
    TooManyLinks,
}

/// A descriptor: what is linked to.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Of what.
    #[serde(default)]
    pub media_type: String,
    /// Which.
    pub digest: Digest,
    /// Bytes.
    #[serde(default)]
    pub size: u64,
    /// What kind of artifact it is, in a list of what is about a manifest; registries may leave it out.
    #[serde(default)]
    pub artifact_type: Option<String>,
    /// Where it runs, in an index.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// Other places to fetch it from; layers that have them are foreign, and never required.
    #[serde(default)]
    pub urls: Vec<String>,
    /// What is noted of it.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Whether it is a layer that registries need not have.
    pub fn is_foreign(&self) -> bool {
        !self.urls.is_empty()
            || self.media_type.contains(".foreign.")
            || self.media_type.contains(".nondistributable.")
    }

    /// Whether it is what buildkit attests about one of these.
    pub fn attests_one_of(&self, images: &[&Digest]) -> bool {
        let about = self.annotations.get("vnd.docker.reference.digest");
        about.is_some_and(|about| images.iter().any(|digest| digest.as_str() == about))
    }
}

/// The images of an index.
pub type ImageIndex = Vec<Descriptor>;

/// What a manifest says.
#[derive(Clone, Debug)]
pub struct ParsedManifest {
    /// The media type that it is served with.
    pub media_type: String,
    /// What the referrers API filters by: its own, or its configuration's media type.
    pub artifact_type: Option<String>,
    /// The manifest that it is about.
    pub subject: Option<Descriptor>,
    /// The configuration, of an image.
    pub config: Option<Descriptor>,
    /// The layers, of an image.
    pub layers: Vec<Descriptor>,
    /// The manifests, of an index.
    pub manifests: ImageIndex,
    /// Its annotations, as they stand.
    pub annotations: Option<Box<serde_json::value::RawValue>>,
}

/// A manifest as it is written, with `L` of each thing that it links to.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<L> {
    schema_version: Option<u32>,
    #[serde(default)]
    media_type: String,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<L>>,
    manifests: Option<Vec<L>>,
    subject: Option<Descriptor>,
    annotations: Option<Box<serde_json::value::RawValue>>,
}

/// What a store keeps of a descriptor: ten thousand whole ones take four megabytes.
#[derive(Deserialize)]
#[serde(from = "Descriptor")]
struct Link {
    digest: Digest,
    size: u64,
    is_foreign: bool,
}

impl From<Descriptor> for Link {
    fn from(from: Descriptor) -> Self {
        Self { is_foreign: from.is_foreign(), digest: from.digest, size: from.size }
    }
}

impl<L: DeserializeOwned> Wire<L> {
    /// Reads the bytes of a manifest that was sent as `sent`; the media type and what filters go by are set then.
    fn read(bytes: &[u8], sent: &str) -> Result<Self, ManifestError> {
        if bytes.len() > LARGEST {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        let sent = sent.split(';').next().unwrap_or_default().trim();
        let mut wire: Self =
            serde_json::from_slice(bytes).map_err(|e| ManifestError::Malformed(e.to_string()))?;
        if wire.schema_version == Some(1) || sent.contains("manifest.v1+") && sent.contains("docker") {
            return Err(ManifestError::Schema1);
        }
        let generic = sent.is_empty() || sent == "application/json" || sent == "application/octet-stream";
        if !wire.media_type.is_empty() && !generic && wire.media_type != sent {
            return Err(ManifestError::Contradicts { written: wire.media_type, sent: sent.into() });
        }
        wire.media_type = match (wire.media_type.as_str(), generic, wire.manifests.is_some()) {
            ("", true, true) => media::OCI_INDEX.to_owned(),
            ("", true, false) => media::OCI_MANIFEST.to_owned(),
            ("", false, _) => sent.to_owned(),
            (written, ..) => written.to_owned(),
        };
        if !media::ACCEPTED.contains(&wire.media_type.as_str()) {
            return Err(ManifestError::MediaType(wire.media_type));
        }
        let index = is_index(&wire.media_type);
        let (has, lacks) = if index {
            (wire.manifests.is_some(), wire.layers.is_some())
        } else {
            (wire.config.is_some(), wire.manifests.is_some())
        };
        if !has || lacks {
            let of = if index {
                "an index has `manifests` and no `layers`"
            } else {
                "an image has `config` and no `manifests`"
            };
            return Err(ManifestError::Malformed(of.into()));
        }
        let links = |of: &Option<Vec<L>>| of.as_ref().map_or(0, Vec::len);
        if links(&wire.layers).max(links(&wire.manifests)) > MOST_LINKS {
            return Err(ManifestError::TooManyLinks);
        }
        let own = wire.artifact_type.filter(|own| !own.is_empty());
        wire.artifact_type = own.or_else(|| wire.config.as_ref().map(|config| config.media_type.clone()));
        wire.annotations = wire.annotations.filter(|a| a.get() != "null");
        Ok(wire)
    }
}

fn is_index(media_type: &str) -> bool {
    matches!(media_type, media::OCI_INDEX | media::DOCKER_LIST)
}

/// What a store keeps of a manifest, of whose bytes nothing else is asked.
///
/// # Errors
/// Where it is none, is too large, or contradicts its media type.
pub fn facts_of(bytes: &[u8], sent: &str) -> Result<Facts, ManifestError> {
    let wire: Wire<Link> = Wire::read(bytes, sent)?;
    let child = |kind| move |link: Link| Child { digest: link.digest, size: link.size, kind };
    let blobs = wire.config.map(Link::from).into_iter().chain(wire.layers.unwrap_or_default());
    let blobs = blobs.filter(|link| !link.is_foreign).map(child(Kind::Blob));
    let manifests = wire.manifests.unwrap_or_default().into_iter().map(child(Kind::Manifest));
    Ok(Facts {
        media_type: wire.media_type,
        artifact_type: wire.artifact_type,
        subject: wire.subject.map(|subject| (subject.digest, subject.size)),
        annotations: wire.annotations.map(|annotations| annotations.get().to_owned()),
        children: blobs.chain(manifests).collect(),
    })
}

impl ParsedManifest {
    /// Reads the bytes of a manifest that was sent as `sent` (a `Content-Type`, or empty).
    ///
    /// # Errors
    /// Where it is none, is too large, or contradicts its media type.
    pub fn parse(bytes: &[u8], sent: &str) -> Result<Self, ManifestError> {
        let wire: Wire<Descriptor> = Wire::read(bytes, sent)?;
        Ok(Self {
            media_type: wire.media_type,
            artifact_type: wire.artifact_type,
            subject: wire.subject,
            config: wire.config,
            layers: wire.layers.unwrap_or_default(),
            manifests: wire.manifests.unwrap_or_default(),
            annotations: wire.annotations,
        })
    }

    /// Whether it is an index rather than an image.
    pub fn is_index(&self) -> bool {
        is_index(&self.media_type)
    }

    /// Configuration and layers that a registry must have.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.config.iter().chain(&self.layers).filter(|descriptor| !descriptor.is_foreign())
    }

    /// What a store keeps of it.
    pub fn facts(&self) -> Facts {
        let child = |kind| move |d: &Descriptor| Child { digest: d.digest.clone(), size: d.size, kind };
        let blobs = self.blobs().map(child(Kind::Blob));
        let manifests = self.manifests.iter().map(child(Kind::Manifest));
        Facts {
            media_type: self.media_type.clone(),
            artifact_type: self.artifact_type.clone(),
            subject: self.subject.as_ref().map(|subject| (subject.digest.clone(), subject.size)),
            annotations: self.annotations.as_ref().map(|annotations| annotations.get().to_owned()),
            children: blobs.chain(manifests).collect(),
        }
    }

    /// The image of an index that a machine of `platform` runs best.
    pub fn choose(&self, platform: &Platform) -> Option<&Descriptor> {
        let ranked = |d: &Descriptor| d.platform.as_ref().and_then(|theirs| platform.rank(theirs));
        self.manifests.iter().filter(|d| ranked(d).is_some()).min_by_key(|d| ranked(d))
    }

    /// The images of an index that machines of these platforms run best, with what attests them.
    pub fn for_platforms(&self, platforms: &[Platform]) -> Vec<&Descriptor> {
        let chosen: Vec<&Digest> =
            platforms.iter().filter_map(|platform| self.choose(platform)).map(|d| &d.digest).collect();
        let taken = |d: &&Descriptor| chosen.contains(&&d.digest) || d.attests_one_of(&chosen);
        self.manifests.iter().filter(taken).collect()
    }

    /// The tag under which clients without the referrers API look for what is about `subject`.
    pub fn referrers_tag(subject: &Digest) -> String {
        let algorithm = match subject.algorithm() {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        };
        let hex = &subject.hex()[..subject.hex().len().min(64)];
        format!("{algorithm}-{hex}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(extra: &str) -> String {
        format!(r#"{{"mediaType":"t","size":3,"digest":"{}"{extra}}}"#, Digest::sha256(b"abc"))
    }

    #[test]
    fn reads_images_and_indexes_and_says_what_they_are() {
        let d = descriptor("");
        let image = format!(r#"{{"schemaVersion":2,"config":{d},"layers":[{d}],"annotations":{{"a":"b"}}}}"#);
        let parsed = ParsedManifest::parse(image.as_bytes(), media::OCI_MANIFEST).unwrap();
        assert_eq!(parsed.artifact_type.as_deref(), Some("t"));
        assert_eq!(parsed.blobs().count(), 2);
        assert_eq!(parsed.annotations.unwrap().get(), r#"{"a":"b"}"#);
        let platforms = [
            r#","platform":{"os":"linux","architecture":"amd64"}"#,
            r#","platform":{"os":"linux","architecture":"arm","variant":"v6"}"#,
        ];
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#,
            descriptor(platforms[0]),
            descriptor(platforms[1])
        );
        let parsed = ParsedManifest::parse(index.as_bytes(), "").unwrap();
        assert!(parsed.is_index());
        let chosen = parsed.choose(&"linux/arm/v7".parse().unwrap()).unwrap();
        assert_eq!(chosen.platform.as_ref().unwrap().variant, "v6");
    }

    #[test]
    fn what_a_store_keeps_is_the_same_both_ways() {
        let (d, foreign) = (descriptor(""), descriptor(r#","urls":["https://example.com/x"]"#));
        let rest = format!(r#""subject":{d},"artifactType":"a","annotations":{{"a":"b"}}"#);
        for text in [
            format!(r#"{{"config":{d},"layers":[{d},{foreign}],{rest}}}"#),
            format!(r#"{{"manifests":[{d},{foreign}],{rest}}}"#),
            format!(r#"{{"config":{d}}}"#),
        ] {
            let parsed = ParsedManifest::parse(text.as_bytes(), "").unwrap();
            assert_eq!(facts_of(text.as_bytes(), "").unwrap(), parsed.facts(), "{text}");
        }
    }

    #[test]
    fn refuses_what_it_would_serve_wrongly() {
        let d = descriptor("");
        let image = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{d},"layers":[]}}"#,
            media::OCI_MANIFEST
        );
        let error = |text: &str, sent: &str| ParsedManifest::parse(text.as_bytes(), sent).unwrap_err();
        assert!(matches!(error(&image, media::DOCKER_MANIFEST), ManifestError::Contradicts { .. }));
        assert_eq!(error(r#"{"schemaVersion":1,"fsLayers":[]}"#, ""), ManifestError::Schema1);
        assert!(matches!(error("{}", media::OCI_MANIFEST), ManifestError::Malformed(_)));
        assert!(matches!(error("{}", media::OCI_INDEX), ManifestError::Malformed(_)));
        assert!(matches!(error(&image.replace("oci.image", "oci.picture"), ""), ManifestError::MediaType(_)));
        let foreign = descriptor(r#","urls":["https://example.com/x"]"#);
        let image = format!(r#"{{"schemaVersion":2,"config":{d},"layers":[{foreign}]}}"#);
        assert_eq!(ParsedManifest::parse(image.as_bytes(), "").unwrap().blobs().count(), 1);
        assert_eq!(error(&" ".repeat(LARGEST + 1), ""), ManifestError::TooLarge(LARGEST + 1));
    }
}
