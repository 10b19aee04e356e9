//! kubectl's jsonpath, text to nodes. The dialect is that of client-go's `util/jsonpath`, quirks included:
//! `[ ]` takes a slice, a quoted name, a filter or a union, and a field name takes backslashes.

use super::unquote::unquote;
use super::{Node, Range};

/// Templates nested deeper than this (unions and filters in one another) are refused.
const DEEPEST: usize = 32;

/// The nodes of a template: text, and a list of nodes for each `{…}`.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, String> {
    Parser::new(text, 0)?.text()
}

struct Parser<'a> {
    input: &'a str,
    start: usize,
    position: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(input: &'a str, depth: usize) -> Result<Self, String> {
        if depth > DEEPEST {
            return Err("nested too deeply".to_owned());
        }
        Ok(Self { input, start: 0, position: 0, depth })
    }

    fn text(&mut self) -> Result<Vec<Node>, String> {
        let mut nodes = Vec::new();
        loop {
            let open = self.rest().find('{');
            self.position = open.map_or(self.input.len(), |at| self.position + at);
            if self.position > self.start {
                nodes.push(Node::Text(self.consume().to_owned()));
            }
            if open.is_none() {
                return Ok(nodes);
            }
            self.position += 1;
            self.consume();
            nodes.push(Node::List(self.action()?));
        }
    }

    /// What stands between `{` and `}`.
    fn action(&mut self) -> Result<Vec<Node>, String> {
        let mut nodes = Vec::new();
        loop {
            if self.rest().starts_with('}') {
                self.position += 1;
                self.consume();
                return Ok(nodes);
            }
            if self.rest().starts_with("[?(") {
                nodes.push(self.filter()?);
                continue;
            }
            if self.rest().starts_with("..") {
                self.recursive(&mut nodes)?;
                continue;
            }
            match self.next() {
                None | Some('\r' | '\n') => return Err("unclosed action".to_owned()),
                // `@` and `$` are the current object, which is where every path starts.
                Some(' ' | '@' | '$') => {
                    self.consume();
                }
                Some('[') => self.array(&mut nodes)?,
                Some(quote @ ('"' | '\'')) => nodes.push(self.quote(quote)?),
                Some('.') => nodes.push(self.field()),
                Some(c) if matches!(c, '+' | '-') || c.is_numeric() => {
                    self.back(c);
                    nodes.push(self.number()?);
                }
                Some(c) if is_word(c) => {
                    self.back(c);
                    nodes.push(self.identifier());
                }
                Some(c) => return Err(format!("unrecognized character in action: {}", code_point(c))),
            }
        }
    }

    fn recursive(&mut self, nodes: &mut Vec<Node>) -> Result<(), String> {
        if matches!(nodes.last(), Some(Node::Recursive)) {
            return Err("invalid multiple recursive descent".to_owned());
        }
        self.position += 2;
        self.consume();
        nodes.push(Node::Recursive);
        if self.rest().starts_with(is_word) {
            nodes.push(self.field());
        }
        Ok(())
    }

    fn identifier(&mut self) -> Node {
        while let Some(c) = self.next() {
            if is_terminator(c) {
                self.back(c);
                break;
            }
        }
        match self.consume() {
            "true" => Node::Bool(true),
            "false" => Node::Bool(false),
            name => Node::Identifier(name.to_owned()),
        }
    }

    fn number(&mut self) -> Result<Node, String> {
        if self.rest().starts_with(['+', '-']) {
            self.next();
        }
        while let Some(c) = self.next() {
            if c != '.' && !c.is_numeric() {
                self.back(c);
                break;
            }
        }
        let text = self.consume();
        if let Ok(int) = text.parse() {
            return Ok(Node::Int(int));
        }
        text.parse().map(Node::Float).map_err(|_| format!("cannot parse number {text}"))
    }

    fn array(&mut self, nodes: &mut Vec<Node>) -> Result<(), String> {
        loop {
            match self.next() {
                None | Some('\n') => return Err("unterminated array".to_owned()),
                Some(']') => break,
                Some(_) => {}
            }
        }
        let text = self.consume();
        let text = &text[1..text.len() - 1];
        let text = if text == "*" { ":" } else { text };
        if text.contains(',') {
            let lists = text.split(',').map(|part| self.nested(&format!("[{}]", part.trim_matches(' '))));
            nodes.push(Node::Union(lists.collect::<Result<_, _>>()?));
        } else if let Some(key) = quoted(text) {
            nodes.extend(self.nested(&format!(".{key}"))?);
        } else {
            nodes.push(Node::Array(slice(text)?));
        }
        Ok(())
    }

    fn filter(&mut self) -> Result<Node, String> {
        self.position += 3;
        self.consume();
        let (mut begun, mut ended, mut pair) = (false, false, '"');
        loop {
            match self.next() {
                None | Some('\n') => return Err("unterminated filter".to_owned()),
                Some(quote @ ('"' | '\'')) if !begun => {
                    begun = true;
                    pair = quote;
                }
                Some(quote @ ('"' | '\'')) => ended |= quote == pair && !self.escaped(),
                Some(')') if begun == ended => break,
                Some(_) => {}
            }
        }
        if self.next() != Some(']') {
            return Err("unclosed array expect ]".to_owned());
        }
        let text = self.consume();
        let text = &text[..text.len() - 2];
        Ok(match comparison(text) {
            None => Node::Exists(self.nested(text)?),
            Some((left, operator, right)) => {
                Node::Filter(self.nested(left)?, operator.to_owned(), self.nested(right)?)
            }
        })
    }

    fn quote(&mut self, end: char) -> Result<Node, String> {
        loop {
            match self.next() {
                None | Some('\n') => return Err("unterminated quoted string".to_owned()),
                Some(c) if c == end && !self.escaped() => break,
                Some(_) => {}
            }
        }
        let text = self.consume();
        unquote(text).map(Node::Text).map_err(|e| format!("unquote string {text} error {e}"))
    }

    fn field(&mut self) -> Node {
        self.consume();
        while let Some(c) = self.next() {
            if c == '\\' {
                self.next();
            } else if is_terminator(c) {
                self.back(c);
                break;
            }
        }
        match self.consume() {
            "*" => Node::Wildcard,
            name => Node::Field(name.replace('\\', "")),
        }
    }

    /// The nodes of `text` as if it stood in braces of its own.
    fn nested(&self, text: &str) -> Result<Vec<Node>, String> {
        let braced = format!("{{{text}}}");
        match Parser::new(&braced, self.depth + 1)?.text()?.into_iter().next() {
            Some(Node::List(nodes)) => Ok(nodes),
            _ => Ok(Vec::new()),
        }
    }

    fn rest(&self) -> &'a str {
        &self.input[self.position..]
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest().chars().next()?;
        self.position += c.len_utf8();
        Some(c)
    }

    fn back(&mut self, c: char) {
        self.position -= c.len_utf8();
    }

    /// Whether the character just read has a backslash before it.
    fn escaped(&self) -> bool {
        self.position >= 2 && self.input.as_bytes()[self.position - 2] == b'\\'
    }

    fn consume(&mut self) -> &'a str {
        let text = &self.input[self.start..self.position];
        self.start = self.position;
        text
    }
}

fn is_terminator(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}')
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphabetic() || c.is_numeric()
}

/// As Go's `%#U` writes it.
fn code_point(c: char) -> String {
    if c.is_control() { format!("U+{:04X}", u32::from(c)) } else { format!("U+{:04X} '{c}'", u32::from(c)) }
}

/// `'name'`, without the quotes.
fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('\'')?.strip_suffix('\'').filter(|key| !key.contains('\''))
}

/// `LEFT op RIGHT`, where the operator is the first run of `!<>=` and both sides have something.
fn comparison(text: &str) -> Option<(&str, &str, &str)> {
    let sign = |c: char| matches!(c, '!' | '<' | '>' | '=');
    let at = text.find(sign).filter(|at| *at > 0)?;
    let run = text[at..].find(|c| !sign(c))?;
    Some((&text[..at], &text[at..at + run], &text[at + run..]))
}

/// `FROM:TO:STEP`, each with an optional minus sign and each optional; a single number is one element.
fn slice(text: &str) -> Result<Range, String> {
    let invalid = || format!("invalid array index {text}");
    let parts: Vec<&str> = text.split(':').collect();
    let digits = |part: &str| part.strip_prefix('-').unwrap_or(part).bytes().all(|b| b.is_ascii_digit());
    if parts.len() > 3 || !parts.iter().all(|part| digits(part)) {
        return Err(invalid());
    }
    let number = |part: Option<&&str>| match part {
        None | Some(&"") => Ok(None),
        Some(part) => {
            part.parse::<i64>().map(Some).map_err(|_| format!("array index {part} is not a number"))
        }
    };
    let from = number(parts.first())?;
    let (to, derived) = match parts.len() {
        1 => (Some(from.unwrap_or(0).saturating_add(1)), true),
        _ => (number(parts.get(1))?, false),
    };
    Ok(Range { from, to, derived, step: number(parts.get(2))? })
}
