//! The figures, as they are printed: each at once, and all of them in columns at the end.

/// Rows of: what, without edge, with edge, the figure, its target, whether that is missed.
#[derive(Default)]
pub struct Table {
    rows: Vec<[String; 6]>,
    missed: usize,
}

const HEAD: [&str; 6] = ["figure", "baseline", "edge", "measured", "target", ""];

impl Table {
    /// Adds a figure, and prints it so that a run that ends early has shown what it measured.
    pub fn add(&mut self, what: &str, baseline: &str, edge: &str, measured: &str, target: &str) {
        println!("{what}: baseline {baseline}, edge {edge}, measured {measured}, target {target}");
        let missed = is_missed(measured, target);
        self.missed += usize::from(missed);
        let verdict = if missed { "MISSED" } else { "" };
        self.rows.push([what, baseline, edge, measured, target, verdict].map(str::to_owned));
    }

    /// How many figures miss their targets.
    pub fn missed(&self) -> usize {
        self.missed
    }

    /// Prints all in aligned columns.
    pub fn print(&self) {
        let head = HEAD.map(str::to_owned);
        let widths: [usize; 6] = std::array::from_fn(|i| {
            std::iter::once(&head).chain(&self.rows).map(|row| row[i].chars().count()).max().unwrap_or(0)
        });
        println!();
        for row in std::iter::once(&head).chain(&self.rows) {
            let cells: Vec<_> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            println!("{}", cells.join("  ").trim_end());
        }
    }
}

/// Whether a figure, to the digits that are printed of it, misses one of the bounds of its target: `1.28x, +0.25 ms` meets
/// `<= 1.3x and <= +1 ms`. A target in words has none.
fn is_missed(measured: &str, target: &str) -> bool {
    let bounds = target.split(" and ").filter_map(|bound| {
        let (sign, rest) = bound.split_once(' ')?;
        Some((sign, *numbers(rest).first()?))
    });
    let measured = numbers(measured);
    let mut bounds = bounds.zip(measured.iter().copied().map(Some).chain(std::iter::repeat(None)));
    // A figure that is not there meets nothing.
    bounds.any(|((sign, bound), figure)| match sign {
        "<=" => figure.is_none_or(|figure| figure > bound),
        ">=" => figure.is_none_or(|figure| figure < bound),
        _ => false,
    })
}

fn numbers(text: &str) -> Vec<f64> {
    let words = text.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-'));
    words.filter_map(|word| word.parse().ok()).collect()
}

/// The middle of some measurements.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
