//! Holds the walls of the house: reads what each file under `src/` imports, and fails where an arrow runs up or between
//! two rooms, or where somebody but the command line prints.
//!
//! It reads words, not types: comments and literals are left out, everything else counts, macros and tests included.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use Storey::{Cli, Config, Daemon, Floor, Ground, Room};

/// How high a part lies. A part may use what lies lower, and nothing beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Storey {
    Floor,
    Ground,
    Room,
    Config,
    Daemon,
    Cli,
}

const HOUSE: [(&str, Storey); 21] = [
    ("cli", Cli),
    ("daemon", Daemon),
    ("config", Config),
    ("proxy", Room),
    ("pods", Room),
    ("registry", Room),
    ("mirror", Room),
    ("bundle", Room),
    ("node", Room),
    ("system", Room),
    ("cache", Ground),
    ("store", Ground),
    ("trust", Ground),
    ("oci", Ground),
    ("git", Ground),
    ("kube", Ground),
    ("cri", Ground),
    ("link", Ground),
    ("health", Ground),
    ("pack", Floor),
    ("sys", Floor),
];

/// systemd hands its socket over in the environment; nothing else is read from there but by `cli`.
const READS_ENVIRONMENT: &str = "daemon/notify.rs";

#[test]
fn arrows_run_down_and_only_the_command_line_prints() -> Result<()> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = Vec::new();
    for (part, _) in HOUSE {
        let is_there = src.join(part).join("mod.rs").exists() || src.join(format!("{part}.rs")).exists();
        assert!(is_there, "`{part}` has a place in the house, and is not there");
    }
    let files = rust_files(&src)?;
    assert!(files.len() > 100, "`{}` holds {} files only", src.display(), files.len());
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read `{}`", file.display()))?;
        faults.extend(faults_of(&file.strip_prefix(&src)?.to_string_lossy(), &text));
    }
    assert!(faults.is_empty(), "the walls of the house (see ARCHITECTURE.md):\n{}", faults.join("\n"));
    Ok(())
}

/// The test above must be able to fail: each of these texts breaks one rule.
#[test]
fn a_broken_wall_is_seen() {
    for (file, text, fault) in [
        ("cache/mod.rs", "use crate::proxy::Proxy;", "an arrow runs up"),
        ("cache/mod.rs", "use crate::kube::meta;", "side by side"),
        ("proxy/a.rs", "use crate::{\n    sys::clock,\n    pods::{Pod},\n};", "side by side"),
        ("proxy/a.rs", "fn a() { let b = crate::registry::c(); }", "side by side"),
        ("proxy/join/mod.rs", "use super::super::pods::Pod;", "side by side"),
        ("sys/lock.rs", "use crate::store;", "an arrow runs up"),
        ("daemon/mod.rs", "use crate::cli::output;", "an arrow runs up"),
        ("config/mod.rs", "use crate::daemon;", "an arrow runs up"),
        ("config/mod.rs", "use crate::proxy; fn a() { proxy::serve() }", "only Settings"),
        ("attic/mod.rs", "", "stands nowhere"),
        ("pods/a.rs", "fn a() { println!(\"\") }", "only cli prints"),
        ("pods/a.rs", "fn a() { std::io::stderr().lock() }", "only cli prints"),
        ("pods/a.rs", "fn a() { std::env::var(\"A\") }", "only cli reads"),
    ] {
        let faults = faults_of(file, text);
        assert!(matches!(&faults[..], [one] if one.contains(fault)), "{file}: {text}: {faults:?}");
    }
    for (file, text) in [
        ("proxy/a.rs", "use crate::{cache::Cache, kube, proxy::cloud};"),
        (
            "proxy/a.rs",
            "// crate::pods\n/* crate::pods /* */ */ const A: &str = \"crate::pods\"; const B: char = '\"';",
        ),
        ("proxy/a.rs", "const A: &str = r#\"\"crate::pods\"#; fn a<'a>(b: &'a str) {}"),
        ("proxy/mod.rs", "mod tests { use super::*; }"),
        ("config/mod.rs", "use crate::proxy; struct A { b: proxy::CloudSettings }"),
        ("cli/a.rs", "use crate::proxy::join; fn a() { println!(\"\") }"),
        ("pods/a.rs", "fn a(c: Command) { c.stdout(b) }"),
    ] {
        assert_eq!(faults_of(file, text), [""; 0], "{file}: {text}");
    }
}

/// What breaks a rule in one file; `file` is its path below `src/`.
fn faults_of(file: &str, text: &str) -> Vec<String> {
    // The roof: only `main.rs`, `lib.rs` and the other binaries.
    let Some((own, _)) = file.split_once(['/', '.']) else { return Vec::new() };
    if ["main", "lib", "bin"].contains(&own) {
        return Vec::new();
    }
    let Some(storey) = storey(own) else {
        return vec![format!(
            "{file}: `{own}` stands nowhere in the house hint: give it a place in {}",
            file!()
        )];
    };
    let tokens = tokens(text);
    let mut faults = Vec::new();
    for (line, other) in imports(file, &tokens) {
        let why = match self::storey(&other) {
            Some(theirs) if other == own || theirs < storey => continue,
            Some(theirs) if theirs == storey => {
                format!("`{own}` and `{other}` lie side by side: neither uses the other")
            }
            Some(_) => {
                format!("an arrow runs up from `{own}` to `{other}`: lower parts know nothing of higher ones")
            }
            None => format!("`{other}` stands nowhere in the house"),
        };
        faults.push(format!("{file}:{line}: {why}"));
    }
    if own == "config" {
        faults.extend(beyond_settings(file, &tokens));
    }
    if own != "cli" {
        faults.extend(terminal(file, &tokens));
    }
    faults
}

fn storey(name: &str) -> Option<Storey> {
    HOUSE.iter().find(|(known, _)| *known == name).map(|(_, storey)| *storey)
}

/// The parts that a file names: `crate::PART`, each of `crate::{PART.., PART..}`, and `super::..::PART` as far as the root.
fn imports(file: &str, tokens: &[Token]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let depth = file.trim_end_matches("/mod.rs").split('/').count();
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    for (at, token) in tokens.iter().enumerate() {
        let from_root = token.text == "crate" && word(at + 1) == "::";
        if from_root && word(at + 2) == "{" {
            found.extend(group(&tokens[at + 2..]));
        } else if from_root {
            found.push((token.line, word(at + 2).to_owned()));
        }
        if token.text == "super" && (at == 0 || word(at - 1) != "::") {
            let length = (0..).take_while(|up| word(at + 2 * up) == "super").count();
            let next = word(at + 2 * length);
            if length >= depth && storey(next).is_some() {
                found.push((token.line, next.to_owned()));
            }
        }
    }
    found
}

/// The first word of each entry of a group that begins at `tokens[0]`.
fn group(tokens: &[Token]) -> Vec<(usize, String)> {
    let (mut found, mut depth) = (Vec::new(), 0);
    for pair in tokens.windows(2) {
        match pair[0].text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        let begins = pair[0].text == "{" || pair[0].text == ",";
        if depth == 1 && begins && pair[1].text != "}" {
            found.push((pair[1].line, pair[1].text.clone()));
        }
    }
    found
}

/// `config` fills the rooms' settings, and wants nothing else of them.
fn beyond_settings(file: &str, tokens: &[Token]) -> Vec<String> {
    let lower = |name: &str| matches!(storey(name), Some(Room | Ground));
    let paths = tokens.windows(3).filter(|three| lower(&three[0].text) && three[1].text == "::");
    let wrong = paths.filter(|three| !three[2].text.ends_with("Settings"));
    wrong
        .map(|three| {
            format!(
                "{file}:{}: `{}::{}`: config takes only Settings",
                three[0].line, three[0].text, three[2].text
            )
        })
        .collect()
}

/// Who prints, or reads the environment, without being the command line.
fn terminal(file: &str, tokens: &[Token]) -> Vec<String> {
    let mut faults = Vec::new();
    for three in tokens.windows(3) {
        let [before, word, after] = three else { continue };
        let (name, line) = (word.text.as_str(), word.line);
        let macros = ["print", "println", "eprint", "eprintln", "dbg"].contains(&name) && after.text == "!";
        let streams =
            ["stdout", "stderr", "stdin"].contains(&name) && after.text == "(" && before.text != ".";
        if macros || streams {
            faults.push(format!(
                "{file}:{line}: `{name}`: only cli prints; give the value to it, or log an event"
            ));
        }
        if before.text == "env" && name == "::" && after.text.starts_with("var") && !may_read(file) {
            faults.push(format!("{file}:{line}: `env::{}`: only cli reads the environment", after.text));
        }
    }
    faults
}

fn may_read(file: &str) -> bool {
    file == READS_ENVIRONMENT || file.ends_with("_tests.rs")
}

/// A word or sign of Rust, and its line from 1.
struct Token {
    text: String,
    line: usize,
}

/// Words, `::`, and every other sign by itself. Comments and literals are left out.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while at < chars.len() {
        let end = end_of(&chars, at);
        let text: String = chars[at..end].iter().collect();
        let said = matches!(chars[at], 'a'..='z' | 'A'..='Z' | '_') && !text.contains('"') || text == "::";
        if said || (end == at + 1 && !chars[at].is_whitespace()) {
            found.push(Token { text: text.clone(), line });
        }
        line += text.matches('\n').count();
        at = end;
    }
    found
}

/// Where what begins at `at` ends.
fn end_of(chars: &[char], at: usize) -> usize {
    let is = |at: usize, c: char| chars.get(at) == Some(&c);
    let word = |mut at: usize| {
        while chars.get(at).is_some_and(|c| c.is_alphanumeric() || *c == '_') {
            at += 1;
        }
        at
    };
    match chars[at] {
        '/' if is(at + 1, '/') => (at..chars.len()).find(|&i| is(i, '\n')).unwrap_or(chars.len()),
        '/' if is(at + 1, '*') => end_of_comment(chars, at),
        '"' => end_of_string(chars, at),
        // A character, and not a lifetime.
        '\'' if is(at + 1, '\\') => {
            (at + 3..chars.len()).find(|&i| is(i, '\'')).map_or(chars.len(), |i| i + 1)
        }
        '\'' if is(at + 2, '\'') => at + 3,
        ':' if is(at + 1, ':') => at + 2,
        c if c.is_alphanumeric() || c == '_' => {
            let end = word(at);
            let prefix: String = chars[at..end].iter().collect();
            let hashes = chars[end..].iter().take_while(|c| **c == '#').count();
            match prefix.as_str() {
                "b" | "c" if is(end, '"') => end_of_string(chars, end),
                "r" | "br" | "cr" if is(end + hashes, '"') => end_of_raw(chars, end + hashes, hashes),
                _ => end,
            }
        }
        _ => at + 1,
    }
}

fn end_of_comment(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') if depth == 1 => return at + 2,
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn end_of_raw(chars: &[char], quote: usize, hashes: usize) -> usize {
    let closes =
        |at: &usize| chars[*at] == '"' && chars[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
    (quote + 1..chars.len()).find(closes).map_or(chars.len(), |at| at + 1 + hashes)
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}
