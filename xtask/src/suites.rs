//! Every check and every test, and whether the tests cleaned up behind themselves.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, ensure};

use crate::programs::{build, cargo, ours, run};

/// In the environment of every process of a lab; here it marks what the suites start, so that it can be found again.
const MARK: &str = "FEDERATION_LAB";

/// With filters, only the tests that they name; without, all there is.
pub fn run_all(filters: &[String]) -> Result<()> {
    let everything = filters.is_empty();
    if everything {
        run(cargo().args(["fmt", "--all", "--check"]))?;
        run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    }
    build()?;

    let before = traces()?;
    let mark = format!("suites-{}", std::process::id());
    let mut tests = cargo();
    tests.env(MARK, &mark).args(["nextest", "run", "--workspace"]).args(filters);
    let outcome = run(&mut tests);
    let after = traces()?;
    outcome?;
    let left: Vec<_> = after.difference(&before).map(String::as_str).collect();
    ensure!(
        left.is_empty(),
        "the tests left this behind (`cargo xtask down` removes what belongs to labs):\n  {}",
        left.join("\n  ")
    );
    if everything {
        run(cargo().args(["test", "--workspace", "--doc", "--quiet"]))?;
    }
    Ok(())
}

/// What on this machine is named like ours without a lab that owns it, and every network link outside of labs.
fn traces() -> Result<BTreeSet<String>> {
    let output = ours("lab").arg("remains").output().context("start lab")?;
    ensure!(output.status.success(), "lab remains: {}", String::from_utf8_lossy(&output.stderr));
    let remains = String::from_utf8(output.stdout).context("read what lab says")?;
    let mut traces: BTreeSet<_> = remains.lines().map(str::to_owned).collect();
    for link in fs::read_dir("/sys/class/net").context("list network links")? {
        let link = link.context("list network links")?.file_name();
        traces.insert(format!("network link {}", link.display()));
    }
    Ok(traces)
}
