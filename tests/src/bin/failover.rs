//! `cargo xtask failover`: what users see when things fail, in figures.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use federation_tests::failover::{self, Options, RATE};

#[derive(Parser)]
#[command(name = "failover", about = "Measure what users see when things fail")]
struct Arguments {
    /// Write the results to this file, as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Run only the scenarios whose names begin with this
    #[arg(long, value_name = "PREFIX")]
    only: Vec<String>,
    /// How often each scenario is run
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { report, only, runs } = Arguments::parse();
    match failover::run(&Options { report, only, runs: runs.into(), rate: RATE }).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failover: {error:#}");
            ExitCode::FAILURE
        }
    }
}
