//! The layout of a description: names and values by level, and small tables.

use serde_json::Value;

/// Where values stand, from the left edge of their level.
const VALUES: usize = 18;

/// A text that grows line by line.
#[derive(Debug, Default)]
pub(super) struct Page {
    out: String,
}

impl Page {
    /// `Name:   value`; `<none>` for nothing.
    pub(super) fn field(&mut self, level: usize, name: &str, value: &str) {
        let value = if value.is_empty() || value == "/" { "<none>" } else { value };
        let mut lines = value.lines();
        let first = lines.next().unwrap_or_default();
        self.line(level, &format!("{:<width$} {first}", format!("{name}:"), width = VALUES - 1));
        for line in lines {
            self.line(level, &format!("{:VALUES$}{line}", ""));
        }
    }

    /// A field whose value is in the object; nothing otherwise.
    pub(super) fn present(&mut self, level: usize, name: &str, value: &Value) {
        match value {
            Value::Null => {}
            Value::String(text) if text.is_empty() => {}
            Value::String(text) => self.field(level, name, text),
            other => self.field(level, name, &other.to_string()),
        }
    }

    /// A field with a line for each value.
    pub(super) fn list(&mut self, level: usize, name: &str, values: &[String]) {
        self.field(level, name, &values.join("\n"));
    }

    /// A name that has things below it.
    pub(super) fn title(&mut self, level: usize, name: &str) {
        self.line(level, &format!("{name}:"));
    }

    /// Columns, each as wide as its widest cell; cells are cut at their first line.
    pub(super) fn table(&mut self, level: usize, rows: &[Vec<String>]) {
        let cut = |cell: &String| cell.lines().next().unwrap_or_default().to_owned();
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(cut).collect()).collect();
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |i: usize| rows.iter().filter_map(|row| row.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  "));
            let line: String = cells.collect();
            self.line(level, line.trim_end());
        }
    }

    fn line(&mut self, level: usize, text: &str) {
        (0..level * 2).for_each(|_| self.out.push(' '));
        // What a container writes must not command the terminal.
        self.out.extend(text.trim_end().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }));
        self.out.push('\n');
    }

    pub(super) fn finish(self) -> String {
        self.out
    }
}

/// A text in the object, or the empty text.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
