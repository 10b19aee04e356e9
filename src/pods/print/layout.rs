//! Columns as kubectl lays them out: each as wide as its widest cell and three spaces, six at least, the last
//! one ragged; cells end at their first line break.

/// Lays out `rows`, the header being one of them, with a newline after each. No row, no text.
pub(super) fn lay_out(rows: &[Vec<String>]) -> String {
    let rows = rows.iter().map(|row| row.iter().map(|cell| one_line(cell)).collect()).collect();
    align(rows)
}

/// The same, but that a cell's own line breaks and tabs stay, as in kubectl's custom columns.
pub(super) fn lay_out_raw(rows: &[Vec<String>]) -> String {
    let text: String = rows.iter().map(|row| safe(&row.join("\t")) + "\n").collect();
    align(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}

fn align(rows: Vec<Vec<String>>) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        for (i, cell) in row.iter().enumerate().take(row.len().saturating_sub(1)) {
            let width = (cell.chars().count() + 3).max(6);
            match widths.get_mut(i) {
                Some(widest) => *widest = (*widest).max(width),
                None => widths.push(width),
            }
        }
    }
    let mut out = String::new();
    for row in rows {
        let last = row.len().saturating_sub(1);
        for (i, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if i < last {
                (cell.chars().count()..widths[i]).for_each(|_| out.push(' '));
            }
        }
        out.push('\n');
    }
    out
}

/// The first line of a cell, and `...` where there were more.
fn one_line(cell: &str) -> String {
    match cell.find(['\u{c}', '\n', '\r']) {
        Some(end) => format!("{}...", safe(&cell[..end])),
        None => safe(cell),
    }
}

/// Without the characters that a terminal would obey.
fn safe(text: &str) -> String {
    text.replace('\u{1b}', "^[").replace('\r', "\\r")
}
