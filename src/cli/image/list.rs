//! `edge image list`, and the text of `edge image inspect`.

use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::word;
use crate::cli::output::{self, Format};
use crate::config::Config;
use crate::daemon::needs;
use crate::registry::images::{self, Image};

/// `edge image list`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge image list                     all of them
  edge image list 'docker.io/*'       those whose name matches; without a star, whose name contains it
  edge image list -o json | jq -r '.[] | select(.neededBy == []) | .repository + \":\" + .tag'

FROM says who keeps the name: `push` a client's push, `edge image pull` or `edge image import`; `pull-through` what
was fetched because somebody asked for it; `mirror` a run of the mirror; or the stream of a bundle.
NEEDED BY says who needs the image whatever its name: pods of this node, or whatever else pins it.")]
pub struct List {
    /// Part of a name, or a pattern with `*`
    pattern: Option<String>,
    /// How to write it
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl List {
    pub fn run(&self, config: &Config) -> Result<()> {
        let pods = needs::pods(&config.state_dir)?;
        let mut listed = match super::store(config)? {
            Some(store) => images::list(&store, |name, digest| pods.of(name, digest))?,
            None => Vec::new(),
        };
        if let Some(pattern) = &self.pattern {
            listed.retain(|image| images::matches(&image.name(), pattern));
        }
        match self.output {
            Format::Json => output::json(&listed),
            Format::Text if listed.is_empty() => {
                output::note("no images");
                Ok(())
            }
            Format::Text => output::result(&table(&listed)),
        }
    }
}

fn table(images: &[Image]) -> String {
    let heads = ["REPOSITORY", "TAG", "DIGEST", "PLATFORMS", "SIZE", "FROM", "NEEDED BY"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(images.iter().map(|image| {
        let tag = if image.tag.contains(':') { "-" } else { &image.tag };
        let platforms = match (image.kind, image.platforms.is_empty()) {
            ("image", false) => image.platforms.join(","),
            ("image", true) => "-".into(),
            (kind, _) => kind.to_owned(),
        };
        let partly = if image.missing > 0 { format!(" ({} missing)", image.missing) } else { String::new() };
        let needed = match &image.needed_by[..] {
            [] => "-".to_owned(),
            [one] => one.clone(),
            [one, more @ ..] => format!("{one} and {} more", more.len()),
        };
        let size = output::size(image.size) + &partly;
        vec![
            image.repository.clone(),
            tag.to_owned(),
            image.digest.hex()[..12].to_owned(),
            platforms,
            size,
            image.from.clone(),
            needed,
        ]
    }));
    output::columns(&rows)
}

/// What `edge image inspect` says to people.
pub fn inspected(told: &Value) -> String {
    let mut out = String::new();
    let mut line = |name: &str, what: &str| {
        let _ = writeln!(out, "{name:<12}{what}");
    };
    let size = |value: &Value| output::size(value.as_u64().unwrap_or(0));
    let texts = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|v| Some(output::visible(v.as_str()?).into_owned()))
            .collect()
    };
    line("Repository", &word(told, "repository"));
    line("Digest", &word(told, "digest"));
    line("Type", &word(told, "mediaType"));
    let missing = told["missing"].as_u64().unwrap_or(0);
    let partly =
        if missing > 0 { format!(", {missing} blobs or manifests are not here") } else { String::new() };
    line("Size", &format!("{}{partly}", size(&told["size"])));
    line("Platforms", &texts(&told["platforms"]).join(", "));
    for name in told["names"].as_array().into_iter().flatten() {
        line(
            "Name",
            &format!("{} from {}, stored {}", word(name, "tag"), word(name, "from"), word(name, "stored")),
        );
    }
    for needed in texts(&told["neededBy"]) {
        line("Needed by", &needed);
    }
    for referrer in told["referrers"].as_array().into_iter().flatten() {
        line("Referrer", &format!("{} {}", word(referrer, "digest"), word(referrer, "artifactType")));
    }
    for manifest in told["manifests"].as_array().into_iter().flatten() {
        let here = if manifest["here"] == true { "" } else { " (not here)" };
        line("Manifest", &format!("{} {}{here}", word(manifest, "digest"), word(manifest, "platform")));
        for layer in manifest["layers"].as_array().into_iter().flatten() {
            let here = if layer["here"] == true { "" } else { " (not here)" };
            line("  Layer", &format!("{} {}{here}", word(layer, "digest"), size(&layer["size"])));
        }
    }
    out
}
