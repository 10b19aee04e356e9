//! CRI-O has no call for pins: it reads them from its configuration.

use super::Needed;

/// The content of `/etc/crio/crio.conf.d/50-edge-pins.conf`, which CRI-O reads again at SIGHUP.
pub fn drop_in(needed: &Needed) -> String {
    let images = needed.names.iter().filter(|name| !name.starts_with("sha256:"));
    let lines: String = images.map(|name| format!("    {},\n", toml_string(name))).collect();
    format!(
        "# Written by edge: the images that this gateway's pods need.\n[crio.image]\npinned_images = [\n{lines}]\n"
    )
}

fn toml_string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::pins::needed;

    #[test]
    fn the_drop_in_is_toml_that_names_every_image() {
        let pods = [json!({"spec": {"containers": [{"image": "nginx"}, {"image": "a.test/b:1"}]}})];
        let read: toml::Table = drop_in(&needed(&pods)).parse().unwrap();
        let pinned = read["crio"]["image"]["pinned_images"].as_array().unwrap();
        assert_eq!(pinned.len(), 2);
        assert_eq!(pinned[1].as_str(), Some("docker.io/library/nginx:latest"));
    }
}
