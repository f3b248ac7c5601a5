//! The demo: a whole federation on this machine, its service asked without pause while clusters fail.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use federation_tests::demo::{self, Options};

#[derive(Parser)]
#[command(name = "demo", about = "Show the main job: three clusters, one service, and two failovers")]
struct Arguments {
    /// Write what was measured to this file, as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Leave the lab up and print how to look inside
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { report, keep } = Arguments::parse();
    match demo::run(Options { report, keep }).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
