//! The results as a table.

use super::Measurement;

const HEADINGS: [&str; 8] = ["CASE", "UNIT", "MEDIAN", "LOW", "HIGH", "RATIO", "PROMISE", ""];

/// One line a case, the columns as wide as they need to be.
pub fn of(measurements: &[Measurement]) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(measurements.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..HEADINGS.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Names to the left, figures to the right.
            let cell = if column < 2 { format!("{cell:<width$}  ") } else { format!("{cell:>width$}  ") };
            text.push_str(&cell);
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn row(measurement: &Measurement) -> [String; HEADINGS.len()] {
    let ratio = match (measurement.ratio, measurement.against) {
        (Some(ratio), Some(against)) => format!("{ratio:.3} of {against}"),
        (None, Some(against)) => format!("over {against}"),
        _ => String::new(),
    };
    let verdict = match measurement.pass {
        Some(true) => "pass",
        Some(false) => "MISS",
        None => "",
    };
    [
        measurement.name.to_owned(),
        measurement.unit.to_owned(),
        format!("{:.2}", measurement.median),
        format!("{:.2}", measurement.low),
        format!("{:.2}", measurement.high),
        ratio,
        measurement.promise.map(|bound| bound.to_string()).unwrap_or_default(),
        verdict.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use crate::bench::{Case, Promise};

    #[test]
    fn the_table_shows_figures_ratio_and_verdict() {
        let peer = Case { name: "direct", unit: "us", against: None, promise: None };
        let promise = Some(Promise::RatioAtMost(1.02));
        let case = Case { name: "vip", unit: "us", against: Some("direct"), promise };
        let rows = [peer.alone(&[100.0]).unwrap(), case.beside(&[103.0], &[100.0]).unwrap()];
        let table = super::of(&rows);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].starts_with("direct") && lines[1].contains("100.00"), "{table}");
        assert!(lines[2].contains("1.030 of direct") && lines[2].ends_with("1.02  MISS"), "{table}");
    }
}
