//! `-o custom-columns=HEADER:PATH,…` and `-o custom-columns-file`.

use serde_json::Value;

use super::go;
use super::jsonpath::JsonPath;
use super::layout::lay_out_raw;

/// The columns, parsed.
#[derive(Debug, Clone)]
pub struct Columns {
    columns: Vec<(String, JsonPath)>,
}

impl Columns {
    /// `HEADER:PATH`, with commas between.
    ///
    /// # Errors
    /// In kubectl's words.
    pub fn parse(spec: &str) -> Result<Self, String> {
        if spec.is_empty() {
            return Err("custom-columns format specified but no custom columns given".to_owned());
        }
        let column = |part: &str| match part.split_once(':') {
            Some((header, path)) => Ok((header.to_owned(), JsonPath::parse(&relaxed(path)?)?)),
            None => {
                Err(format!("unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>"))
            }
        };
        Ok(Self { columns: spec.split(',').map(column).collect::<Result<_, String>>()? })
    }

    /// A line of headers and a line of paths, each with white space between.
    ///
    /// # Errors
    /// In kubectl's words.
    pub fn parse_file(text: &str) -> Result<Self, String> {
        const FORMAT: &str = "Expected format is one line of space separated headers, one line of space \
                              separated column specs.";
        let mut lines = text.lines();
        let mut words = |line: &str| {
            let found = lines.next().map(|l| l.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
            found.ok_or_else(|| format!("invalid template, missing {line} line. {FORMAT}"))
        };
        let (headers, specs) = (words("header")?, words("spec")?);
        if headers.len() != specs.len() {
            let (h, s) = (headers.len(), specs.len());
            return Err(format!("number of headers ({h}) and field specifications ({s}) don't match"));
        }
        let columns = headers.into_iter().zip(specs);
        let columns =
            columns.map(|(h, s)| Ok((h, JsonPath::parse(&relaxed(&s)?)?))).collect::<Result<_, String>>()?;
        Ok(Self { columns })
    }

    /// A row for each object.
    ///
    /// # Errors
    /// In kubectl's words.
    pub(super) fn print(&self, objects: &[Value], headers: bool) -> Result<String, String> {
        let mut rows = Vec::new();
        if headers {
            rows.push(self.columns.iter().map(|(header, _)| header.clone()).collect());
        }
        for object in objects {
            let cells = self.columns.iter().map(|(_, path)| cell(path, object));
            rows.push(cells.collect::<Result<_, _>>()?);
        }
        Ok(lay_out_raw(&rows))
    }
}

fn cell(path: &JsonPath, object: &Value) -> Result<String, String> {
    let results = path.find(object)?;
    let mut texts: Vec<String> = Vec::new();
    if results.first().is_none_or(Vec::is_empty) {
        texts.push("<none>".to_owned());
    }
    texts.extend(results.iter().flatten().map(|value| go::sprint(value)));
    Ok(texts.join(","))
}

/// `a.b`, `.a.b`, `{a.b}` and `{.a.b}` are all `{.a.b}`.
fn relaxed(path: &str) -> Result<String, String> {
    if path.is_empty() {
        return Ok(String::new());
    }
    let inner = path.strip_prefix('{').and_then(|p| p.strip_suffix('}')).unwrap_or(path);
    let inner = inner.strip_prefix('.').unwrap_or(inner);
    if inner.is_empty() || inner.contains(['{', '}']) {
        return Err(
            "unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{name1.name2}' or \
                    '{.name1.name2}'"
                .to_owned(),
        );
    }
    Ok(format!("{{.{inner}}}"))
}
