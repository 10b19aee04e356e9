//! Each kind of value on settings of the test's own: what it takes, shows and refuses.

use serde::{Deserialize, Serialize};
use toml_edit::{DocumentMut, Item};

use super::rows::Rows;
use super::slot::Slot;

#[derive(Debug, Default, Clone, PartialEq)]
struct Place {
    number: u32,
    size: u64,
    limit: Option<u64>,
    rate: Option<u64>,
    text: Option<String>,
    texts: Vec<String>,
    paths: Vec<std::path::PathBuf>,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Row {
    host: String,
    #[serde(default)]
    plain_http: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inner: Option<Box<Row>>,
}

const SLOTS: [(&str, Slot<Place>); 8] = [
    ("number", Slot::Number(|p| &mut p.number, 1, 9)),
    ("size", Slot::Size(|p| &mut p.size, 1 << 10, 1 << 30)),
    ("limit", Slot::OptionalSize(|p| &mut p.limit, "10GiB")),
    ("rate", Slot::OptionalRate(|p| &mut p.rate, "2MiB/s")),
    ("text", Slot::OptionalText(|p| &mut p.text, "ship-7")),
    ("texts", Slot::Texts(|p| &mut p.texts)),
    ("paths", Slot::Paths(|p| &mut p.paths)),
    ("rows", Slot::Rows(&Rows(|p: &mut Place| &mut p.rows))),
];

fn slot(name: &str) -> &'static Slot<Place> {
    static ALL: std::sync::LazyLock<[(&str, Slot<Place>); 8]> = std::sync::LazyLock::new(|| SLOTS);
    &ALL.iter().find(|(known, _)| *known == name).unwrap().1
}

/// Fills the slot of that name from a file's text; the error as a user reads it.
fn fill(name: &str, text: &str) -> Result<Place, String> {
    let document: DocumentMut = text.parse().unwrap();
    let mut place = Place::default();
    let item = &document[name];
    slot(name)
        .fill(item, &mut place)
        .map_err(|wrong| wrong.of(name, super::file::shown(item)).to_string())?;
    Ok(place)
}

#[test]
fn what_is_taken_is_shown_so_that_it_reads_back() {
    for text in [
        "number = 9",
        "size = \"1536B\"",
        "limit = \"10GiB\"",
        "rate = \"2MiB/s\"",
        "text = \"ship 7\"",
        "texts = [\"a\", \"b,c\"]",
        "paths = [\"/media\"]",
        "rows = [{ host = \"a\", plain-http = true, inner = { host = \"b\" } }]",
        "[[rows]]\nhost = \"a\"\n[rows.inner]\nhost = \"b\"\nplain-http = true\n[[rows]]\nhost = \"c\"",
    ] {
        let name = SLOTS.iter().find(|(name, _)| text.trim_start_matches('[').starts_with(name)).unwrap().0;
        let name = if text.starts_with("texts") { "texts" } else { name };
        let mut place = fill(name, text).unwrap();
        let shown = slot(name).show(&mut place).unwrap();
        assert_eq!(fill(name, &format!("{name} = {shown}")).unwrap(), place, "{text}");
        assert_ne!(place, Place::default(), "{text}");
    }
}

#[test]
fn what_is_not_taken_says_what_was_expected_and_changes_nothing() {
    for (text, error) in [
        ("number = 0", "key `number` is `0`, expected a whole number from `1` to `9`"),
        ("number = \"5\"", "key `number` is `5`, expected a whole number"),
        ("size = \"1B\"", "key `size` is `1B`, expected a size from `1KiB` to `1GiB`"),
        ("limit = \"0B\"", "key `limit` is `0B`, expected a size"),
        ("rate = \"2MiB\"", "key `rate` is `2MiB`, expected a rate"),
        ("text = \"\"", "key `text` is ``, expected a text"),
        ("texts = \"a\"", "key `texts` is `a`, expected a list"),
        ("texts = [1]", "key `texts` is `[1]`, expected a list"),
        ("paths = [\"media\"]", "key `paths` is `[\"media\"]`, expected a list of absolute"),
        ("rows = [1]", "key `rows` is `[1]`, expected a list of tables"),
        ("rows = {}", "key `rows` is `{}`, expected a list of tables"),
        (
            "rows = [{ host = \"a\" }, { hots = \"b\" }]",
            "key `rows[1].hots`: unknown field `hots`, expected one of",
        ),
        ("rows = [{}]", "key `rows[0]`: missing field `host`"),
        (
            "rows = [{ host = \"a\", inner = { host = 1 } }]",
            "key `rows[0].inner.host`: invalid type: integer",
        ),
    ] {
        let name = text.split(' ').next().unwrap();
        let told = fill(name, text).unwrap_err();
        assert!(told.starts_with(error), "{text}: {told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn a_command_line_s_text_becomes_a_value_of_the_kind() {
    for (name, text, file) in [
        ("number", "5", "number = 5"),
        ("texts", "a, b", "texts = [\"a\", \"b\"]"),
        ("texts", "[\"a,b\"]", "texts = [\"a,b\"]"),
        ("texts", "", "texts = []"),
        ("paths", "/a,/b", "paths = [\"/a\", \"/b\"]"),
        ("rows", "[{\"host\": \"a\", \"inner\": null}]", "rows = [{ host = \"a\" }]"),
        ("rows", "[{ host = \"a\" }]", "rows = [{ host = \"a\" }]"),
    ] {
        let mut place = Place::default();
        let value = slot(name).value_of(text);
        slot(name).fill(&Item::Value(value), &mut place).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
        assert_eq!(place, fill(name, file).unwrap(), "{text}");
    }
    assert!(slot("rows").fill(&Item::Value(slot("rows").value_of("[{")), &mut Place::default()).is_err());
}
