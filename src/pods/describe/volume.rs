//! Volumes: where each one comes from.

use serde_json::Value;

use super::list;
use super::page::{Page, text};

pub(super) fn all(page: &mut Page, volumes: &Value) {
    if list(volumes).next().is_none() {
        return;
    }
    page.title(0, "Volumes");
    for volume in list(volumes) {
        let source = volume.as_object().into_iter().flatten().find(|(key, _)| key.as_str() != "name");
        let (kind, detail) =
            source.map_or(("emptyDir", &Value::Null), |(kind, detail)| (kind.as_str(), detail));
        page.field(1, text(&volume["name"]), format!("{kind} {}", origin(kind, detail)).trim_end());
    }
}

/// The few words that say where a volume comes from.
fn origin(kind: &str, detail: &Value) -> String {
    let optional = if detail["optional"] == true { " (optional)" } else { "" };
    match kind {
        "configMap" => format!("{}{optional}", text(&detail["name"])),
        "secret" => format!("{}{optional}", text(&detail["secretName"])),
        "persistentVolumeClaim" => text(&detail["claimName"]).to_owned(),
        "hostPath" => format!("{} {}", text(&detail["path"]), text(&detail["type"])),
        "image" => text(&detail["reference"]).to_owned(),
        "csi" => text(&detail["driver"]).to_owned(),
        "nfs" => format!("{}:{}", text(&detail["server"]), text(&detail["path"])),
        "emptyDir" => text(&detail["medium"]).to_owned(),
        "projected" => list(&detail["sources"]).map(projected).collect::<Vec<_>>().join(", "),
        _ => String::new(),
    }
}

fn projected(source: &Value) -> String {
    let kind = source.as_object().and_then(|source| source.keys().next()).map_or("", String::as_str);
    let detail = &source[kind];
    match (kind, detail["name"].as_str()) {
        ("serviceAccountToken", _) => format!("token for {}s", detail["expirationSeconds"]),
        (kind, Some(name)) => format!("{kind} {name}"),
        (kind, None) => kind.to_owned(),
    }
}
