//! What an image is made of, for those who must know: SPDX 2.3, as JSON.

use anyhow::Result;
use serde_json::{Value, json};

use super::lock::Lock;

/// A part that is no package of the distribution.
pub struct Part<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Its licence, by SPDX's names.
    pub licence: &'a str,
    /// Of its file, in hexadecimal.
    pub sha256: &'a str,
}

/// The document's text. `identity` tells images apart; `created` is a time of RFC 3339, in seconds and in UTC.
///
/// # Errors
/// None that is known.
pub fn text(lock: &Lock, parts: &[Part], version: &str, identity: &str, created: &str) -> Result<String> {
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
    packages
        .extend(parts.iter().map(|part| package(part.name, part.version, part.sha256, part.licence, None)));
    for debian in &lock.package {
        let purl = format!(
            "pkg:deb/debian/{}@{}?arch={}&distro={}",
            escaped(&debian.name),
            escaped(&debian.version),
            debian.architecture,
            lock.suite
        );
        packages.push(package(&debian.name, &debian.version, &debian.sha256, "NOASSERTION", Some(&purl)));
    }
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image")];
    let ids = packages.iter().skip(1).filter_map(|package| package["SPDXID"].as_str());
    relations.extend(ids.map(|id| relation("SPDXRef-image", "CONTAINS", id)));
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("edge-appliance-{version}-{}", lock.architecture),
        "documentNamespace": format!("https://spdx.org/spdxdocs/edge-appliance-{identity}"),
        "creationInfo": {"created": created, "creators": [format!("Tool: edge-pack-{}", env!("CARGO_PKG_VERSION"))]},
        "packages": packages,
        "relationships": relations,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn package(name: &str, version: &str, sha256: &str, licence: &str, purl: Option<&str>) -> Value {
    let mut package = json!({
        "SPDXID": format!("SPDXRef-{}", identifier(name)),
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "checksums": [{"algorithm": "SHA256", "checksumValue": sha256}],
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": licence,
        "copyrightText": "NOASSERTION",
    });
    if let Some(purl) = purl {
        package["externalRefs"] = json!([{
            "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl,
        }]);
    }
    package
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

/// Letters, digits, points and hyphens: all that an identifier may have. A name of Debian has plus signs beside them.
fn identifier(name: &str) -> String {
    name.replace('+', ".plus")
}

/// As package URLs want it.
fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('+', "%2B").replace(':', "%3A")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::image::lock::Package;

    #[test]
    fn every_part_is_named_once_and_contained() {
        let package = Package {
            name: "libstdc++6".into(),
            version: "1:14-2+b1".into(),
            architecture: "arm64".into(),
            sha256: "0".repeat(64),
        };
        let lock = Lock { suite: "trixie".into(), architecture: "arm64".into(), package: vec![package] };
        let edge = Part { name: "edge", version: "1", licence: "Apache-2.0", sha256: "1" };
        let text = text(&lock, &[edge], "7", "abc", "2026-01-01T00:00:00Z").unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        let ids: Vec<_> =
            document["packages"].as_array().unwrap().iter().map(|p| p["SPDXID"].as_str().unwrap()).collect();
        assert_eq!(ids, ["SPDXRef-image", "SPDXRef-edge", "SPDXRef-libstdc.plus.plus6"]);
        assert_eq!(
            document["packages"][2]["externalRefs"][0]["referenceLocator"],
            "pkg:deb/debian/libstdc%2B%2B6@1%3A14-2%2Bb1?arch=arm64&distro=trixie"
        );
        assert_eq!(document["relationships"].as_array().unwrap().len(), 3);
    }
}
