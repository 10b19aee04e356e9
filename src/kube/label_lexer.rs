//! The tokens of a label selector, as apimachinery's lexer cuts them.

use std::fmt;

/// One token. `in` and `notin` are words where a key or value is expected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token<'a> {
    End,
    Open,
    Close,
    Comma,
    Not,
    Equals,
    NotEquals,
    Greater,
    Less,
    In,
    NotIn,
    Word(&'a str),
}

/// The rest of the text, cut on demand.
pub(super) struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    /// The next token where `in` and `notin` are operators.
    pub(super) fn next_operator(&mut self) -> Token<'a> {
        let (token, rest) = cut(self.rest);
        self.rest = rest;
        token
    }

    /// The next token where `in` and `notin` are words.
    pub(super) fn next_value(&mut self) -> Token<'a> {
        match self.next_operator() {
            Token::In => Token::Word("in"),
            Token::NotIn => Token::Word("notin"),
            other => other,
        }
    }

    /// What `next_value` would give, left in place.
    pub(super) fn peek_value(&self) -> Token<'a> {
        Tokens { rest: self.rest }.next_value()
    }
}

fn cut(text: &str) -> (Token<'_>, &str) {
    let text = text.trim_start_matches([' ', '\t', '\r', '\n']);
    let symbols = [
        ("==", Token::Equals),
        ("!=", Token::NotEquals),
        ("=", Token::Equals),
        ("!", Token::Not),
        ("(", Token::Open),
        (")", Token::Close),
        (",", Token::Comma),
        (">", Token::Greater),
        ("<", Token::Less),
    ];
    for (symbol, token) in symbols {
        if let Some(rest) = text.strip_prefix(symbol) {
            return (token, rest);
        }
    }
    let end = text.find(|c| "=!(),>< \t\r\n".contains(c)).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    match word {
        "" => (Token::End, rest),
        "in" => (Token::In, rest),
        "notin" => (Token::NotIn, rest),
        word => (Token::Word(word), rest),
    }
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Token::End => "",
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
            Token::Not => "!",
            Token::Equals => "=",
            Token::NotEquals => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::In => "in",
            Token::NotIn => "notin",
            Token::Word(word) => word,
        })
    }
}
