//! What users see when things fail: scenarios, each run many times under steady traffic. `docs/failover.md` says how.
//!
//! [`scenario`] is the list, [`act`] does what is in it, [`run`] measures one run, [`judge`] knows what requests say. Three
//! scenarios have a story of their own and a room each.

mod act;
mod book;
mod crowd;
mod flapping;
mod judge;
mod load;
mod report;
mod run;
mod scenario;
mod traffic;
mod uplink;
mod world;

use std::path::PathBuf;

use anyhow::{Result, ensure};

pub use report::{Line, Measured};
use scenario::{ALL, Scenario};
use world::World;

/// Connections a second, unless told otherwise.
pub const RATE: u32 = 1000;

/// What to measure, and where to write it.
#[derive(Clone, Debug)]
pub struct Options {
    pub report: Option<PathBuf>,
    /// Only the scenarios whose names begin with one of these; with none, all.
    pub only: Vec<String>,
    /// How often each is run.
    pub runs: usize,
    /// Connections a second.
    pub rate: u32,
}

/// Measures, prints a table and writes the report.
///
/// # Errors
/// Something happened that must not, or could not be measured.
pub async fn run(options: &Options) -> Result<()> {
    let measured = tokio::select! {
        measured = measure(options) => measured?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("ended by the user; the lab is removed"),
    };
    let wrongs: Vec<_> = measured.iter().flat_map(|measured| &measured.wrongs).map(String::as_str).collect();
    ensure!(wrongs.is_empty(), "what must not happen did:\n  {}", wrongs.join("\n  "));
    Ok(())
}

/// Measures, prints a table and writes the report, whatever has happened.
///
/// # Errors
/// A scenario could not be measured.
pub async fn measure(options: &Options) -> Result<Vec<Measured>> {
    let wanted = |scenario: &&Scenario| {
        options.only.is_empty() || options.only.iter().any(|prefix| scenario.name.starts_with(prefix))
    };
    let scenarios: Vec<_> = ALL.iter().filter(wanted).collect();
    ensure!(!scenarios.is_empty(), "no scenario has a name that begins with {:?}", options.only);
    eprintln!("three regions with six clusters start");
    let mut world = World::new(options.rate).await?;
    let load = load::Meter::start(&world.traffic)?;
    let mut measured = Vec::new();
    for scenario in scenarios {
        eprintln!("{}", scenario.name);
        measured.push(repeat(scenario, options.runs, &mut world).await);
    }
    print!("{}", report::table(&measured));
    println!("{}", load.tell(&world.traffic)?);
    if let Some(path) = &options.report {
        report::write(&measured, path)?;
    }
    Ok(measured)
}

/// Runs a scenario so often, or until it cannot be run.
async fn repeat(scenario: &Scenario, count: usize, world: &mut World) -> Measured {
    let mut runs = Vec::new();
    for number in 1..=count {
        match run::once(scenario, world).await {
            Ok(run) => {
                eprintln!(
                    "  run {number}: {:.3} s, {} of {} requests failed",
                    run.seconds, run.failed, run.requests
                );
                for wrong in &run.wrongs {
                    eprintln!("    {wrong}");
                }
                runs.push(run);
            }
            // Others may go well, and what was measured is worth having.
            Err(error) => {
                eprintln!("  run {number} could not be measured: {error:#}");
                let wrong = format!("{}, run {number} could not be measured: {error:#}", scenario.name);
                let mut measured = Measured::new(scenario, &runs);
                measured.wrongs = vec![wrong];
                return measured;
            }
        }
    }
    Measured::new(scenario, &runs)
}
