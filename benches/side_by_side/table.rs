//! The table: one row a measurement, one column a way, and how pgferry compares.

use std::{fmt::Write as _, fs, path::Path};

use serde_json::json;

use crate::ways::{COLUMNS, Column};

/// Numbers of one row, by column; a way that cannot do it has none.
pub(crate) type Numbers = [Vec<f64>; COLUMNS.len()];

/// Rows of what was measured.
#[derive(Default)]
pub(crate) struct Table(Vec<(String, Numbers)>);

/// The number below which this part of the numbers lies.
fn quantile(numbers: &[f64], at: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let index = ((sorted.len().saturating_sub(1)) as f64 * at).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

fn cell(numbers: &[f64]) -> String {
    match numbers {
        [] => String::new(),
        // One process in the middle of one long transfer: there is no distribution to tell of.
        [_] | [_, _] | [_, _, _] => format!("{:.1}", quantile(numbers, 0.5)),
        _ => format!("{:.1} ({:.1})", quantile(numbers, 0.5), quantile(numbers, 0.95)),
    }
}

fn ratio(numbers: &Numbers, to: Column) -> String {
    let [ours, theirs] = [Column::Pgferry, to].map(|column| quantile(&numbers[column as usize], 0.5));
    let ratio = ours / theirs;
    if ratio.is_finite() { format!("{ratio:.2}") } else { String::new() }
}

impl Table {
    pub(crate) fn add(&mut self, what: impl Into<String>, numbers: Numbers) {
        self.0.push((what.into(), numbers));
    }

    /// In Markdown.
    pub(crate) fn markdown(&self) -> String {
        let names: Vec<&str> = COLUMNS.iter().map(|(_, name)| *name).collect();
        let mut out = format!("| p50 (p95) | {} | to direct | to kubectl |\n", names.join(" | "));
        let _ = writeln!(out, "| --- |{}", " --- |".repeat(names.len() + 2));
        for (what, numbers) in &self.0 {
            let cells: Vec<String> = numbers.iter().map(|numbers| cell(numbers)).collect();
            let (direct, kubectl) = (ratio(numbers, Column::Direct), ratio(numbers, Column::Kubectl));
            let _ = writeln!(out, "| {what} | {} | {direct} | {kubectl} |", cells.join(" | "));
        }
        out
    }

    /// Every single number, as JSON.
    pub(crate) fn keep(&self, about: &str, file: &Path) -> anyhow::Result<()> {
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|(what, numbers)| {
                let by_way: serde_json::Map<_, _> = COLUMNS
                    .iter()
                    .zip(numbers)
                    .map(|((_, name), numbers)| ((*name).to_owned(), json!(numbers)))
                    .collect();
                json!({ "row": what, "numbers": by_way })
            })
            .collect();
        // One row a line: long, and still to be read.
        let rows: Vec<String> = rows.iter().map(|row| format!("  {row}")).collect();
        fs::write(file, format!("{{\"about\": {}, \"rows\": [\n{}\n]}}\n", json!(about), rows.join(",\n")))?;
        Ok(())
    }
}
