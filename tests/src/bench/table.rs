//! The results as a table.

use super::Measurement;
use crate::table;

const HEADINGS: [&str; 8] = ["CASE", "UNIT", "MEDIAN", "LOW", "HIGH", "RATIO", "PROMISE", ""];

/// One line a case.
pub fn of(measurements: &[Measurement]) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(measurements.iter().map(row));
    table::of(&rows, 2)
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
