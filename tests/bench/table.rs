//! The figures, as they are printed: each at once, and all of them in columns at the end.

/// Rows of: what, without edge, with edge, the figure, its target.
#[derive(Default)]
pub struct Table {
    rows: Vec<[String; 5]>,
}

const HEAD: [&str; 5] = ["figure", "baseline", "edge", "measured", "target"];

impl Table {
    /// Adds a figure, and prints it so that a run that ends early has shown what it measured.
    pub fn add(&mut self, what: &str, baseline: &str, edge: &str, measured: &str, target: &str) {
        println!("{what}: baseline {baseline}, edge {edge}, measured {measured}, target {target}");
        self.rows.push([what, baseline, edge, measured, target].map(str::to_owned));
    }

    /// Prints all in aligned columns.
    pub fn print(&self) {
        let head = HEAD.map(str::to_owned);
        let widths: [usize; 5] = std::array::from_fn(|i| {
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

/// The middle of some measurements.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
