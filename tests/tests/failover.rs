//! The failover suite in a short form: what it measures is measured, and nothing happens that must not. How long anything
//! takes is for `cargo xtask failover` to say.

use anyhow::{Context as _, Result};
use federation_tests::failover::{self, Line, Options};

/// Connections a second: fewer than in the suite, for other tests run beside this one.
const RATE: u32 = 200;

#[tokio::test]
async fn users_are_served_elsewhere_when_things_fail_and_nowhere_else_when_they_do_not() -> Result<()> {
    let scenarios = ["readiness-lost", "pods-killed", "cluster-power-cut", "control-plane-down"];
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report.json");
    let measured = failover::measure(&Options {
        report: Some(report.clone()),
        only: scenarios.map(str::to_owned).to_vec(),
        runs: 1,
        rate: RATE,
    })
    .await?;
    for measured in &measured {
        assert!(measured.wrongs.is_empty(), "{:?}", measured.wrongs);
    }

    let lines: Vec<Line> = serde_json::from_slice(&std::fs::read(report).context("read the report")?)?;
    assert_eq!(lines.iter().map(|line| line.scenario.as_str()).collect::<Vec<_>>(), scenarios);
    for line in &lines {
        assert!(line.runs == 1 && line.requests > 0, "{line:?}");
    }
    // A planned drain fails nobody, and a control plane says nothing of pods.
    for quiet in ["readiness-lost", "control-plane-down"] {
        let failed = lines.iter().filter(|line| line.scenario == quiet).map(|line| line.failed_requests);
        assert_eq!(failed.sum::<usize>(), 0, "{quiet}");
    }
    Ok(())
}
