//! `cargo xtask bench`: measures, each case beside its peer.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use federation_tests::bench::{self, Options};

#[derive(Parser)]
#[command(name = "bench", about = "Measure, each case beside its peer")]
struct Arguments {
    /// Write the results to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure only the cases whose names begin with this
    #[arg(long, value_name = "PREFIX", default_value = "")]
    only: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { json, only } = Arguments::parse();
    match bench::run(Options { json, only }).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
