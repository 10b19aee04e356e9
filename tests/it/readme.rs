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

/// The three lines that make a gateway's snap, each as `tests/snapd/test.sh` has it done by the real snapd.
#[test]
fn the_three_lines_of_the_snap_are_those_that_are_tested() -> Result<()> {
    let read = |path: &str| std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR")));
    let (readme, tested) = (read("README.md")?, read("tests/snapd/test.sh")?);
    let (_, lines) = readme.split_once("Three lines on a gateway with snapd").context("no such lines")?;
    let lines: Vec<&str> = lines.lines().skip(2).take_while(|line| !line.is_empty()).map(str::trim).collect();
    let [install, connect, join] = lines[..] else { anyhow::bail!("they are not three: {lines:?}") };
    let file = format!("edge_{}_arm64.snap", env!("CARGO_PKG_VERSION"));
    assert_eq!(install, format!("snap install --dangerous {file}"));
    assert!(tested.contains("try snap install --dangerous ./edge.snap\n"));
    let plugs: Vec<&str> =
        connect.split(" && ").filter_map(|one| one.strip_prefix("snap connect edge:")).collect();
    assert_eq!(plugs, ["containerd", "kubelet"]);
    let looped = tested.lines().find_map(|line| line.strip_prefix("for plug in ")?.strip_suffix("; do"));
    let looped: Vec<&str> = looped.context("no interface is connected")?.split(' ').collect();
    assert!(plugs.iter().all(|plug| looped.contains(plug)), "{plugs:?} {looped:?}");
    // The same flags; only the files are those of the test.
    let flags = |line: &str| -> Vec<String> {
        line.split(' ').filter(|word| word.starts_with("--") || *word == "join").map(str::to_owned).collect()
    };
    let joined = tested.lines().find(|line| line.contains("/edge join --from"));
    assert_eq!(flags(join), flags(joined.context("nothing is joined")?));
    assert!(join.starts_with("edge join --from "), "{join}");
    Ok(())
}
