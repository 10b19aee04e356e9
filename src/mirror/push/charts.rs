//! Charts of web servers as helm pushes them: one manifest of what `Chart.yaml` says, the package, and its signature.
//! They go to `<prefix>/charts/[<path>/]<name>`, under their version with `_` for `+`.

use bytes::Bytes;
use futures_util::stream;
use serde_json::{Map, Value, json};

use super::{Target, is_there, put, send_blob};
use crate::mirror::error::Failure;
use crate::mirror::fetch::Wire;
use crate::mirror::oci_charts::{PACKAGE, PROVENANCE};
use crate::oci::chart::sound;
use crate::oci::{is_repository_path, is_tag, media};
use crate::store::NewChart;
use crate::sys::digest::Digest;

const CONFIG: &str = "application/vnd.cncf.helm.config.v1+json";

/// Path and tag of a chart there.
pub(super) fn place(to: &Target, chart: &NewChart) -> (String, String) {
    let parts = [to.prefix.as_str(), "charts", &chart.repository, &chart.name];
    let path: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    (path.join("/"), chart.version.replace('+', "_"))
}

/// Sends a chart, unless it is there.
pub(super) async fn send(wire: &Wire, to: &Target, chart: &NewChart) -> Result<(), Failure> {
    let (path, tag) = place(to, chart);
    if !is_repository_path(&path) || !is_tag(&tag) {
        let why = format!("`{path}:{tag}` can be no name in a registry: those have small letters only");
        return Err(Failure::Chart(why));
    }
    let mut layers = vec![(PACKAGE, chart.digest.clone(), size(wire, &chart.digest).await?)];
    if let Some(provenance) = &chart.provenance {
        layers.push((PROVENANCE, provenance.clone(), size(wire, provenance).await?));
    }
    let (config, manifest) = written(chart, &layers).map_err(|e| Failure::Chart(e.to_string()))?;
    if is_there(wire, to, &path, &tag, &Digest::sha256(&manifest)).await? {
        return Ok(());
    }
    let host = &to.upstream.host;
    let title = format!("{}-{}", chart.name, chart.version);
    for (_, digest, _) in &layers {
        send_blob(wire, to, &path, digest, &title).await?;
    }
    let digest = Digest::sha256(&config);
    if !wire.ask(host, async || wire.client.has_blob(&to.upstream, &path, &digest).await).await? {
        let put = async || {
            let (size, bytes) = (config.len() as u64, stream::iter([Ok(config.clone())]));
            wire.client.push_blob(&to.upstream, &path, &digest, size, bytes).await
        };
        wire.ask(host, put).await?;
    }
    put(wire, to, &path, &tag, media::OCI_MANIFEST, &manifest).await
}

async fn size(wire: &Wire, digest: &Digest) -> Result<u64, Failure> {
    let wanted = digest.clone();
    let blob = wire.blocking(move |store| store.blob(None, &wanted)).await?;
    blob.map(|blob| blob.size).ok_or_else(|| Failure::Chart(format!("`{digest}` of it is not here")))
}

/// The configuration, which is what `Chart.yaml` says, and the manifest: the same for the same chart. Pure.
fn written(chart: &NewChart, layers: &[(&str, Digest, u64)]) -> Result<(Bytes, Bytes), serde_json::Error> {
    // Helm reads it as JSON, and an older edge kept it as it was written.
    let mut said: Map<String, Value> = serde_json::from_str(&sound(&chart.entry))?;
    // What an index says besides.
    for key in ["urls", "digest", "created", "removed"] {
        said.remove(key);
    }
    let config = serde_json::to_vec(&said)?;
    let layers: Vec<Value> = layers
        .iter()
        .map(|(kind, digest, size)| json!({"mediaType": kind, "digest": digest, "size": size}))
        .collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "layers": layers,
        "config": {"mediaType": CONFIG, "digest": Digest::sha256(&config), "size": config.len()},
        "annotations": {"org.opencontainers.image.title": chart.name,
            "org.opencontainers.image.version": chart.version}});
    Ok((config.into(), serde_json::to_vec(&manifest)?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_a_chart_is_in_helm_s_shapes() {
        let digest = Digest::sha256(b"package");
        for (entry, config) in [
            (
                json!({"name": "app", "version": 1.5, "appVersion": 1.16, "keywords": ["a", 2], "x": 1,
                       "urls": ["u"], "digest": "d", "created": "c", "removed": true}),
                json!({"name": "app", "version": "1.5", "appVersion": "1.16", "keywords": ["a", "2"]}),
            ),
            (json!({"name": "app", "version": "1.0.0"}), json!({"name": "app", "version": "1.0.0"})),
        ] {
            let chart = NewChart {
                repository: String::new(),
                name: "app".into(),
                version: "1.5".into(),
                digest: digest.clone(),
                provenance: None,
                created: 0,
                entry: entry.to_string(),
            };
            let (bytes, manifest) = written(&chart, &[(PACKAGE, digest.clone(), 7)]).unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), config);
            let manifest: Value = serde_json::from_slice(&manifest).unwrap();
            assert_eq!(manifest["config"]["digest"], Digest::sha256(&bytes).to_string());
        }
    }
}
