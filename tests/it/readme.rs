//! What the README says of settings is what `edge config sample` says of them.

use anyhow::{Context, Result};

use crate::command::Place;

/// The table of settings, made of the sample: `# help`, then `#key = default`, under `[section]`. A line that says that
/// it is an example shows no default.
fn table(sample: &str) -> String {
    let (mut section, mut help, mut rows) = (String::new(), Vec::new(), String::new());
    for line in sample.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some(text) = line.strip_prefix("# ") {
            help.push(text);
        } else if let Some((key, value)) = line.strip_prefix('#').and_then(|line| line.split_once(" = ")) {
            let shown = match value.split_once("  # an example") {
                Some((example, _)) => format!("none (e.g. `{example}`)"),
                None => format!("`{value}`"),
            };
            rows += &format!("| `{section}{key}` | {shown} | {} |\n", help.join(" "));
            help.clear();
        } else {
            help.clear();
        }
    }
    rows
}

#[test]
fn the_table_of_settings_is_that_of_the_program() -> Result<()> {
    let output = Place::new().edge(&["config", "sample"]).output()?;
    let rows = table(&String::from_utf8(output.stdout)?);
    assert!(rows.contains("| `cloud.probe-interval` | `\"5s\"` |"), "{rows}");
    assert!(rows.contains("| `registry.size-limit` | none (e.g. `\"8GiB\"`) |"), "{rows}");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).context("cannot read README.md")?;
    assert!(readme.contains(&rows), "the README's table of settings is not today's; it should be:\n{rows}");
    Ok(())
}
