//! Go's text/template, tokens to a tree. Names of functions and variables are checked here, as Go does it.

use std::collections::{HashMap, VecDeque};

use super::functions::Function;
use super::lex::{Piece, Token};

/// Blocks and parentheses nested deeper than this are refused.
const DEEPEST: usize = 64;

#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    If(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
    Template(String, Option<Pipeline>),
    Break,
    Continue,
}

/// `$a, $b := command | command`.
#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    pub(super) variables: Vec<String>,
    pub(super) declares: bool,
    pub(super) commands: Vec<Vec<Operand>>,
}

#[derive(Debug, Clone)]
pub(super) enum Operand {
    Dot,
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Function(Function),
    Variable(String),
    Pipeline(Box<Pipeline>),
    Fields(Box<Operand>, Vec<String>),
}

pub(super) type Trees = HashMap<String, Vec<Node>>;

/// The main tree and those that `define` and `block` name.
pub(super) fn parse(pieces: Vec<Piece>) -> Result<(Vec<Node>, Trees), String> {
    let mut parser = Parser {
        pieces: pieces.into(),
        trees: Trees::new(),
        variables: vec![String::new()],
        ranges: 0,
        depth: 0,
    };
    match parser.block()? {
        (nodes, Stop::Eof) => Ok((nodes, parser.trees)),
        (_, Stop::Else(_)) => Err("unexpected {{else}}".to_owned()),
        (_, Stop::End) => Err("unexpected {{end}}".to_owned()),
    }
}

struct Parser {
    pieces: VecDeque<Piece>,
    trees: Trees,
    variables: Vec<String>,
    ranges: usize,
    depth: usize,
}

enum Stop {
    Eof,
    End,
    Else(Vec<Token>),
}

impl Parser {
    fn block(&mut self) -> Result<(Vec<Node>, Stop), String> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.pop_front() {
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => trimmed(tokens),
            };
            let Some(Token::Word(word)) = tokens.first() else {
                nodes.push(Node::Print(self.pipeline(&tokens, "command")?));
                continue;
            };
            let rest = trimmed(tokens[1..].to_vec());
            match word.as_str() {
                "end" => return Ok((nodes, Stop::End)),
                "else" => return Ok((nodes, Stop::Else(rest))),
                "if" | "with" | "range" => nodes.push(self.control(word, &rest)?),
                "template" => nodes.push(self.template(&rest)?),
                "define" => self.define(&rest)?,
                "block" => {
                    let (name, pipeline) = self.named(&rest, "block clause")?;
                    self.define_as(&name)?;
                    nodes.push(Node::Template(name, pipeline));
                }
                "break" | "continue" if self.ranges == 0 => {
                    return Err(format!("{{{{{word}}}}} outside {{{{range}}}}"));
                }
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                _ => nodes.push(Node::Print(self.pipeline(&tokens, "command")?)),
            }
        }
        Ok((nodes, Stop::Eof))
    }

    fn control(&mut self, word: &str, tokens: &[Token]) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("nested too deeply".to_owned());
        }
        let scope = self.variables.len();
        let pipeline = self.pipeline(tokens, word)?;
        self.ranges += usize::from(word == "range");
        let (body, end) = self.block()?;
        self.ranges -= usize::from(word == "range");
        let otherwise = match end {
            Stop::Eof => return Err("unexpected EOF".to_owned()),
            Stop::End => Vec::new(),
            Stop::Else(rest) => match rest.first() {
                None => match self.block()? {
                    (nodes, Stop::End) => nodes,
                    (_, Stop::Else(_)) => return Err("expected end; found {{else}}".to_owned()),
                    (_, Stop::Eof) => return Err("unexpected EOF".to_owned()),
                },
                // `{{else if}}` shares the `{{end}}` of its `{{if}}`.
                Some(Token::Word(next)) if next == word && word != "range" => {
                    vec![self.control(word, &trimmed(rest[1..].to_vec()))?]
                }
                Some(_) => return Err("unexpected token in else".to_owned()),
            },
        };
        self.variables.truncate(scope);
        self.depth -= 1;
        Ok(match word {
            "if" => Node::If(pipeline, body, otherwise),
            "with" => Node::With(pipeline, body, otherwise),
            _ => Node::Range(pipeline, body, otherwise),
        })
    }

    fn template(&mut self, tokens: &[Token]) -> Result<Node, String> {
        let (name, pipeline) = self.named(tokens, "template clause")?;
        Ok(Node::Template(name, pipeline))
    }

    fn named(&mut self, tokens: &[Token], context: &str) -> Result<(String, Option<Pipeline>), String> {
        let Some((Token::Text(name), rest)) = tokens.split_first() else {
            return Err(format!("unexpected token in {context}"));
        };
        let rest = trimmed(rest.to_vec());
        let pipeline = if rest.is_empty() { None } else { Some(self.pipeline(&rest, context)?) };
        Ok((name.clone(), pipeline))
    }

    fn define(&mut self, tokens: &[Token]) -> Result<(), String> {
        match tokens {
            [Token::Text(name)] => self.define_as(name),
            _ => Err("unexpected token in define clause".to_owned()),
        }
    }

    fn define_as(&mut self, name: &str) -> Result<(), String> {
        let variables = std::mem::replace(&mut self.variables, vec![String::new()]);
        let ranges = std::mem::take(&mut self.ranges);
        let (nodes, end) = self.block()?;
        if !matches!(end, Stop::End) {
            return Err("unexpected EOF".to_owned());
        }
        (self.variables, self.ranges) = (variables, ranges);
        self.trees.insert(name.to_owned(), nodes);
        Ok(())
    }

    fn pipeline(&mut self, tokens: &[Token], context: &str) -> Result<Pipeline, String> {
        let (variables, declares, rest) = declaration(tokens, context == "range")?;
        let mut commands = Vec::new();
        let parts = split(rest)?;
        if parts.iter().all(|part| part.is_empty()) {
            return Err(format!("missing value for {context}"));
        }
        for part in parts {
            if part.is_empty() {
                return Err("missing value for command".to_owned());
            }
            commands.push(self.command(&part)?);
        }
        for name in &variables {
            if declares {
                self.variables.push(name.clone());
            } else if !self.variables.contains(name) {
                return Err(format!("undefined variable \"${name}\""));
            }
        }
        for command in commands.iter().skip(1) {
            let callable = matches!(
                command.first(),
                Some(
                    Operand::Function(_) | Operand::Fields(..) | Operand::Variable(_) | Operand::Pipeline(_)
                )
            );
            if !callable {
                return Err("non executable command in pipeline".to_owned());
            }
        }
        Ok(Pipeline { variables, declares, commands })
    }

    fn command(&mut self, tokens: &[Token]) -> Result<Vec<Operand>, String> {
        let mut operands: Vec<Operand> = Vec::new();
        let mut adjacent = false;
        let mut i = 0;
        while i < tokens.len() {
            match &tokens[i] {
                Token::Space => adjacent = false,
                Token::Field(name) if adjacent => match operands.pop() {
                    Some(Operand::Fields(of, mut names)) => {
                        names.push(name.clone());
                        operands.push(Operand::Fields(of, names));
                    }
                    Some(operand) => operands.push(Operand::Fields(Box::new(operand), vec![name.clone()])),
                    None => {}
                },
                _ if adjacent => return Err("unexpected token in operand".to_owned()),
                Token::Open => {
                    let close = closing(tokens, i)?;
                    let inner = trimmed(tokens[i + 1..close].to_vec());
                    self.depth += 1;
                    if self.depth > DEEPEST {
                        return Err("nested too deeply".to_owned());
                    }
                    let pipeline = self.pipeline(&inner, "parenthesized pipeline")?;
                    self.depth -= 1;
                    operands.push(Operand::Pipeline(Box::new(pipeline)));
                    i = close;
                    adjacent = true;
                }
                token => {
                    operands.push(self.operand(token)?);
                    adjacent = true;
                }
            }
            i += 1;
        }
        Ok(operands)
    }

    fn operand(&self, token: &Token) -> Result<Operand, String> {
        Ok(match token {
            Token::Dot => Operand::Dot,
            Token::Field(name) => Operand::Fields(Box::new(Operand::Dot), vec![name.clone()]),
            Token::Text(text) => Operand::Text(text.clone()),
            Token::Int(int) => Operand::Int(*int),
            Token::Float(float) => Operand::Float(*float),
            Token::Variable(name) if self.variables.contains(name) => Operand::Variable(name.clone()),
            Token::Variable(name) => return Err(format!("undefined variable \"${name}\"")),
            Token::Word(word) => match word.as_str() {
                "true" => Operand::Bool(true),
                "false" => Operand::Bool(false),
                "nil" => Operand::Nil,
                name => Operand::Function(
                    Function::named(name).ok_or_else(|| format!("function \"{name}\" not defined"))?,
                ),
            },
            other => return Err(format!("unexpected {other:?} in operand")),
        })
    }
}

type Declaration<'t> = (Vec<String>, bool, &'t [Token]);

fn declaration(tokens: &[Token], range: bool) -> Result<Declaration<'_>, String> {
    let at = tokens.iter().position(|t| matches!(t, Token::Declare | Token::Assign));
    let Some(at) = at else { return Ok((Vec::new(), false, tokens)) };
    let mut names = Vec::new();
    for token in tokens[..at].iter().filter(|t| !matches!(t, Token::Space | Token::Comma)) {
        match token {
            Token::Variable(name) if !name.is_empty() => names.push(name.clone()),
            _ => return Err("unexpected token in declaration".to_owned()),
        }
    }
    if names.is_empty() || names.len() > 2 || (names.len() == 2 && !range) {
        return Err("too many declarations in command".to_owned());
    }
    Ok((names, tokens[at] == Token::Declare, &tokens[at + 1..]))
}

/// The commands of a pipeline: cut at the bars that stand in no parentheses.
fn split(tokens: &[Token]) -> Result<Vec<Vec<Token>>, String> {
    let mut parts = vec![Vec::new()];
    let mut depth = 0_usize;
    for token in tokens {
        match token {
            Token::Open => depth += 1,
            Token::Close => depth = depth.checked_sub(1).ok_or("unexpected right paren")?,
            _ => {}
        }
        match parts.last_mut() {
            _ if *token == Token::Pipe && depth == 0 => parts.push(Vec::new()),
            Some(part) => part.push(token.clone()),
            None => {}
        }
    }
    Ok(parts.into_iter().map(trimmed).collect())
}

fn closing(tokens: &[Token], open: usize) -> Result<usize, String> {
    let mut depth = 0_usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token {
            Token::Open => depth += 1,
            Token::Close if depth == 1 => return Ok(i),
            Token::Close => depth -= 1,
            _ => {}
        }
    }
    Err("unclosed left paren".to_owned())
}

fn trimmed(mut tokens: Vec<Token>) -> Vec<Token> {
    while tokens.last() == Some(&Token::Space) {
        tokens.pop();
    }
    let spaces = tokens.iter().take_while(|t| **t == Token::Space).count();
    tokens.drain(..spaces);
    tokens
}
