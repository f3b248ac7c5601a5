//! What a scenario's runs add up to, as a table and as JSON.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{run::Run, scenario::Scenario};
use crate::{figures::nearest_rank, table};

const HEADINGS: [&str; 10] =
    ["SCENARIO", "RUNS", "P50 s", "P99 s", "WORST s", "FAILED", "REQUESTS", "RATE /s", "EXPECTED s", ""];

/// A scenario's line of the report. Without runs its figures are 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    pub scenario: String,
    pub runs: usize,
    pub p50_seconds: f64,
    pub p99_seconds: f64,
    pub worst_seconds: f64,
    pub failed_requests: usize,
    pub requests: usize,
}

/// All that is known of a scenario.
#[derive(Debug)]
pub struct Measured {
    pub line: Line,
    /// Requests a second that were really begun.
    rate: f64,
    expected: Option<f64>,
    /// What must not happen and did.
    pub wrongs: Vec<String>,
}

impl Measured {
    pub fn new(scenario: &Scenario, runs: &[Run]) -> Self {
        let seconds: Vec<_> = runs.iter().map(|run| run.seconds).collect();
        let rank = |part| nearest_rank(&seconds, part).unwrap_or_default();
        let requests = runs.iter().map(|run| run.requests).sum();
        let line = Line {
            scenario: scenario.name.to_owned(),
            runs: runs.len(),
            p50_seconds: rank(0.5),
            p99_seconds: rank(0.99),
            worst_seconds: rank(1.0),
            failed_requests: runs.iter().map(|run| run.failed).sum(),
            requests,
        };
        let lasted: f64 = runs.iter().map(|run| run.lasted.as_secs_f64()).sum();
        let told = |(number, run): (usize, &Run)| {
            let place = format!("{}, run {}: ", scenario.name, number + 1);
            run.wrongs.iter().map(move |wrong| format!("{place}{wrong}")).collect::<Vec<_>>()
        };
        Self {
            line,
            rate: if runs.is_empty() { 0.0 } else { requests as f64 / lasted },
            expected: scenario.seconds,
            wrongs: runs.iter().enumerate().flat_map(told).collect(),
        }
    }

    fn row(&self) -> [String; HEADINGS.len()] {
        let line = &self.line;
        let verdict = match self.expected {
            _ if !self.wrongs.is_empty() => "FAIL",
            Some(bound) if line.p99_seconds > bound => "MISS",
            Some(_) => "pass",
            None => "",
        };
        [
            line.scenario.clone(),
            line.runs.to_string(),
            format!("{:.3}", line.p50_seconds),
            format!("{:.3}", line.p99_seconds),
            format!("{:.3}", line.worst_seconds),
            line.failed_requests.to_string(),
            line.requests.to_string(),
            format!("{:.0}", self.rate),
            self.expected.map(|bound| bound.to_string()).unwrap_or_default(),
            verdict.to_owned(),
        ]
    }
}

/// The table for people.
pub fn table(measured: &[Measured]) -> String {
    let rows: Vec<_> =
        [HEADINGS.map(str::to_owned)].into_iter().chain(measured.iter().map(Measured::row)).collect();
    table::of(&rows, 1)
}

/// # Errors
/// The file cannot be written.
pub fn write(measured: &[Measured], path: &Path) -> Result<()> {
    let lines: Vec<_> = measured.iter().map(|measured| &measured.line).collect();
    let json = serde_json::to_string_pretty(&lines).context("encode the report")?;
    fs::write(path, json + "\n").with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::scenario::ALL, *};

    fn run(seconds: f64, failed: usize) -> Run {
        Run { seconds, failed, requests: 1000, lasted: Duration::from_secs(1), wrongs: Vec::new() }
    }

    #[test]
    fn the_report_has_exactly_the_promised_fields() {
        let measured = Measured::new(&ALL[1], &[run(0.5, 3), run(0.25, 4)]);
        let expected = serde_json::json!({
            "scenario": "pods-killed", "runs": 2, "p50_seconds": 0.25, "p99_seconds": 0.5,
            "worst_seconds": 0.5, "failed_requests": 7, "requests": 2000,
        });
        assert_eq!(serde_json::to_value(&measured.line).unwrap(), expected);
    }

    #[test]
    fn the_table_says_what_was_kept_missed_and_broken() {
        let kept = Measured::new(&ALL[1], &[run(0.5, 3)]);
        let missed = Measured::new(&ALL[1], &[run(0.5, 3), run(1.5, 3)]);
        let wrong = Run { wrongs: vec!["it broke".to_owned()], ..run(0.5, 0) };
        let broken = Measured::new(&ALL[0], &[run(0.1, 0), wrong]);
        assert_eq!(broken.wrongs, ["readiness-lost, run 2: it broke"]);
        let table = table(&[kept, missed, broken]);
        let ends: Vec<_> =
            table.lines().map(|line| line.split_whitespace().last().unwrap_or_default()).collect();
        assert_eq!(ends, ["s", "pass", "MISS", "FAIL"], "{table}");
    }
}
