//! The configuration as text: the one in force, and the sample that documents every key.

use super::Config;
use super::names::AT_START;
use super::table::KEYS;

/// The settings in force as an `edge.toml`: every key that has a value.
pub fn to_toml(config: &Config) -> String {
    let mut config = config.clone();
    let mut text = String::new();
    each_section(&mut text, |text, key| {
        if let Some(value) = key.slot.show(&mut config) {
            text.push_str(&format!("{} = {}\n", key.split().1, value.to_string().trim()));
        }
    });
    text
}

/// What follows the value of a key without a default in the sample.
const EXAMPLE: &str = "# an example; there is no default";

/// A commented `edge.toml`: every key with its help and its default, or an example and that it is one;
/// all of them commented out.
pub fn sample() -> String {
    let mut defaults = Config::default();
    let mut text = String::from(
        "# The configuration of edge. Every key is optional; shown are the defaults, or examples where a line says so.\n\
         # `edge config set KEY=VALUE` edits this file, `edge config validate` checks it,\n\
         # `systemctl reload edge` makes the daemon read it again. ",
    );
    let (last, others) = AT_START.split_last().unwrap_or((&"", &[]));
    text.push_str(&format!("`{}` and `{last}` wait for its restart.\n\n", others.join("`, `")));
    each_section(&mut text, |text, key| {
        for line in wrapped(key.help, 100) {
            text.push_str(&format!("# {line}\n"));
        }
        let name = key.split().1;
        match (key.slot.show(&mut defaults), key.slot.example()) {
            (Some(value), _) => text.push_str(&format!("#{name} = {}\n", value.to_string().trim())),
            (None, Some(example)) => text.push_str(&format!("#{name} = \"{example}\"  {EXAMPLE}\n")),
            (None, None) => text.push_str(&format!("#{name} =\n")),
        }
    });
    text
}

fn each_section(text: &mut String, mut show: impl FnMut(&mut String, &super::Key)) {
    let mut current = "";
    for key in KEYS {
        let (section, _) = key.split();
        if section != current {
            text.push_str(&format!("\n[{section}]\n"));
            current = section;
        }
        show(text, key);
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let full = lines.last().is_some_and(|line| !line.is_empty() && line.len() + word.len() + 1 > width);
        if full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
