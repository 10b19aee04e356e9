//! Go's text/template, a tree on a value to text.

use std::borrow::Cow;

use serde_json::Value;

use super::functions;
use super::parse::{Node, Operand, Pipeline, Trees};
use crate::pods::print::go;

/// Templates that call one another deeper than this are stopped.
const DEEPEST: usize = 100;

/// What an operand is. Numbers within `Json` are floats, as Go reads them from JSON.
#[derive(Debug, Clone)]
pub(super) enum Val<'a> {
    Json(Cow<'a, Value>),
    Int(i64),
    Float(f64),
    Text(String),
    Bool(bool),
    /// `nil`, a null, or a member that is not there.
    Nil,
}

impl<'a> Val<'a> {
    pub(super) fn of(value: Cow<'a, Value>) -> Self {
        match value.as_ref() {
            Value::Null => Self::Nil,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::Float(number.as_f64().unwrap_or_default()),
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(_) | Value::Object(_) => Self::Json(value),
        }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::Json(value) => match value.as_ref() {
                Value::Array(items) => !items.is_empty(),
                Value::Object(members) => !members.is_empty(),
                _ => true,
            },
        }
    }

    /// As `%v` prints it; `nil` is `<nil>` there.
    pub(super) fn show(&self) -> String {
        match self {
            Self::Nil => "<nil>".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Float(value) => go::float(*value),
            Self::Text(text) => text.clone(),
            Self::Json(value) => go::sprint_floats(value),
        }
    }

    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Nil => "<nil>",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
            Self::Json(value) => go::type_of(value),
        }
    }
}

enum Flow {
    On,
    Break,
    Continue,
}

pub(super) struct Run<'a, 't> {
    pub(super) trees: &'t Trees,
    pub(super) allow_missing: bool,
    pub(super) variables: Vec<(String, Val<'a>)>,
    pub(super) depth: usize,
    pub(super) out: String,
}

impl<'a> Run<'a, '_> {
    pub(super) fn all(&mut self, nodes: &[Node], dot: &Val<'a>) -> Result<(), String> {
        self.nodes(nodes, dot).map(|_| ())
    }

    fn nodes(&mut self, nodes: &[Node], dot: &Val<'a>) -> Result<Flow, String> {
        for node in nodes {
            let flow = match node {
                Node::Text(text) => {
                    self.out.push_str(text);
                    Flow::On
                }
                Node::Print(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        let shown =
                            if matches!(value, Val::Nil) { "<no value>".to_owned() } else { value.show() };
                        self.out.push_str(&shown);
                    }
                    Flow::On
                }
                Node::If(pipeline, body, otherwise) => self.scoped(|run| {
                    let holds = run.pipeline(pipeline, dot)?.is_true();
                    run.nodes(if holds { body } else { otherwise }, dot)
                })?,
                Node::With(pipeline, body, otherwise) => self.scoped(|run| {
                    let value = run.pipeline(pipeline, dot)?;
                    if value.is_true() { run.nodes(body, &value) } else { run.nodes(otherwise, dot) }
                })?,
                Node::Range(pipeline, body, otherwise) => {
                    self.scoped(|run| run.range(pipeline, body, otherwise, dot))?
                }
                Node::Template(name, pipeline) => {
                    self.call(name, pipeline.as_ref(), dot)?;
                    Flow::On
                }
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if !matches!(flow, Flow::On) {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn scoped(&mut self, run: impl FnOnce(&mut Self) -> Result<Flow, String>) -> Result<Flow, String> {
        let scope = self.variables.len();
        let flow = run(self);
        self.variables.truncate(scope);
        flow
    }

    fn call(&mut self, name: &str, pipeline: Option<&Pipeline>, dot: &Val<'a>) -> Result<(), String> {
        let nodes = self.trees.get(name).ok_or_else(|| format!("template \"{name}\" not defined"))?;
        let value = pipeline.map_or(Ok(Val::Nil), |p| self.pipeline(p, dot))?;
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("exceeded maximum template depth ({DEEPEST})"));
        }
        let variables = std::mem::replace(&mut self.variables, vec![(String::new(), value.clone())]);
        self.all(nodes, &value)?;
        self.variables = variables;
        self.depth -= 1;
        Ok(())
    }

    fn range(
        &mut self,
        pipeline: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Val<'a>,
    ) -> Result<Flow, String> {
        let over = self.value(pipeline, dot)?;
        let elements: Vec<(Val<'a>, Val<'a>)> = match over {
            Val::Nil => Vec::new(),
            Val::Int(count) => (0..count).map(|i| (Val::Int(i), Val::Int(i))).collect(),
            Val::Json(Cow::Borrowed(Value::Array(items))) => {
                let items = items.iter().enumerate();
                items.map(|(i, v)| (index(i), Val::of(Cow::Borrowed(v)))).collect()
            }
            Val::Json(Cow::Borrowed(Value::Object(members))) => {
                members.iter().map(|(k, v)| (Val::Text(k.clone()), Val::of(Cow::Borrowed(v)))).collect()
            }
            other => return Err(format!("range can't iterate over {}", other.show())),
        };
        if elements.is_empty() {
            return self.nodes(otherwise, dot);
        }
        let scope = self.variables.len();
        for (key, value) in elements {
            self.range_variables(pipeline, &key, &value);
            let flow = self.nodes(body, &value)?;
            self.variables.truncate(scope);
            if matches!(flow, Flow::Break) {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn range_variables(&mut self, pipeline: &Pipeline, key: &Val<'a>, value: &Val<'a>) {
        let values: &[&Val<'a>] = if pipeline.variables.len() == 2 { &[key, value] } else { &[value] };
        for (name, value) in pipeline.variables.iter().zip(values) {
            self.bind(name, (*value).clone(), pipeline.declares);
        }
    }

    fn bind(&mut self, name: &str, value: Val<'a>, declares: bool) {
        match self.variables.iter_mut().rev().find(|(n, _)| n == name) {
            Some((_, old)) if !declares => *old = value,
            _ => self.variables.push((name.to_owned(), value)),
        }
    }

    /// The value of a pipeline, given to its variable if it has one.
    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Val<'a>) -> Result<Val<'a>, String> {
        let value = self.value(pipeline, dot)?;
        if let [name] = pipeline.variables.as_slice() {
            self.bind(name, value.clone(), pipeline.declares);
        }
        Ok(value)
    }

    fn value(&mut self, pipeline: &Pipeline, dot: &Val<'a>) -> Result<Val<'a>, String> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.unwrap_or(Val::Nil))
    }

    fn command(
        &mut self,
        operands: &[Operand],
        dot: &Val<'a>,
        piped: Option<Val<'a>>,
    ) -> Result<Val<'a>, String> {
        let Some((first, rest)) = operands.split_first() else { return Ok(Val::Nil) };
        if let Operand::Function(function) = first {
            return functions::call(self, *function, rest, dot, piped);
        }
        if matches!(first, Operand::Nil) && rest.is_empty() {
            return Err("nil is not a command".to_owned());
        }
        if !rest.is_empty() || piped.is_some() {
            return Err(match first {
                Operand::Fields(_, names) => {
                    let name = names.last().map_or("", String::as_str);
                    format!("{name} is not a method but has arguments")
                }
                _ => "can't give argument to non-function".to_owned(),
            });
        }
        self.operand(first, dot)
    }

    pub(super) fn operand(&mut self, operand: &Operand, dot: &Val<'a>) -> Result<Val<'a>, String> {
        Ok(match operand {
            Operand::Dot => dot.clone(),
            Operand::Nil => Val::Nil,
            Operand::Bool(value) => Val::Bool(*value),
            Operand::Int(value) => Val::Int(*value),
            Operand::Float(value) => Val::Float(*value),
            Operand::Text(text) => Val::Text(text.clone()),
            Operand::Variable(name) => {
                let found = self.variables.iter().rev().find(|(n, _)| n == name);
                found.map(|(_, value)| value.clone()).ok_or_else(|| format!("undefined variable: ${name}"))?
            }
            Operand::Pipeline(pipeline) => self.pipeline(pipeline, dot)?,
            Operand::Function(function) => functions::call(self, *function, &[], dot, None)?,
            Operand::Fields(of, names) => {
                let mut value = self.operand(of, dot)?;
                for name in names {
                    value = self.field(value, name)?;
                }
                value
            }
        })
    }

    fn field(&self, of: Val<'a>, name: &str) -> Result<Val<'a>, String> {
        let missing = || {
            if self.allow_missing {
                Ok(Val::Nil)
            } else {
                Err(format!("map has no entry for key \"{name}\""))
            }
        };
        match of {
            Val::Nil => missing(),
            Val::Json(Cow::Borrowed(Value::Object(members))) => match members.get(name) {
                Some(value) => Ok(Val::of(Cow::Borrowed(value))),
                None => missing(),
            },
            Val::Json(_) => Err(format!("can't evaluate field {name} in type interface {{}}")),
            other => Err(format!("can't evaluate field {name} in type {}", other.type_name())),
        }
    }
}

fn index(i: usize) -> Val<'static> {
    Val::Int(i64::try_from(i).unwrap_or(i64::MAX))
}
