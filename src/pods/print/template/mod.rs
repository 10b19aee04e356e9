//! Go's text/template on JSON values, with the functions that Go has in it and those that kubectl adds
//! (`exists`, `base64decode`). Parsing, evaluation and words of errors follow Go's.

mod eval;
mod functions;
mod lex;
mod parse;
mod printf;

use std::borrow::Cow;

use serde_json::Value;

use eval::{Run, Val};

pub(super) use printf::quote;

/// A template, parsed.
#[derive(Debug, Clone)]
pub struct Template {
    main: Vec<parse::Node>,
    trees: parse::Trees,
    allow_missing: bool,
}

impl Template {
    /// Parses a template. With `allow_missing`, a member that is not there prints as `<no value>`.
    ///
    /// # Errors
    /// Go's words.
    pub fn parse(text: &str, allow_missing: bool) -> Result<Self, String> {
        let (main, trees) = lex::pieces(text)
            .and_then(parse::parse)
            .map_err(|error| format!("template: output:1: {error}"))?;
        Ok(Self { main, trees, allow_missing })
    }

    /// The text for `data`.
    ///
    /// # Errors
    /// Go's words for what went wrong, without the place.
    pub fn run(&self, data: &Value) -> Result<String, String> {
        let dot = Val::of(Cow::Borrowed(data));
        let mut run = Run {
            trees: &self.trees,
            allow_missing: self.allow_missing,
            variables: vec![(String::new(), dot.clone())],
            depth: 0,
            out: String::new(),
        };
        run.all(&self.main, &dot)?;
        Ok(run.out)
    }
}
