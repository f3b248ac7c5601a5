//! `cargo xtask`: the project's own commands. It is compiled before anything is set up, so it depends on little.

mod machine;
mod programs;
mod setup;
mod step;
mod suites;
mod toolchain;
mod validator;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use setup::Scope;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set up, build, show, test and measure Federation")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the build, the lab and the tests need; seconds when nothing is missing
    Setup,
    /// Build every program, the kernel's included
    Build,
    /// Show the main job: three clusters, a service, and two failovers
    Demo {
        /// Write what was measured to this file, as JSON
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
        /// Leave the lab up and print how to look inside
        #[arg(long)]
        keep: bool,
    },
    /// Run every check and every test, or only the tests whose names contain one of the filters
    Test { filters: Vec<String> },
    /// Measure, each case beside its peer
    Bench {
        /// Write the results to this file, as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Measure only the cases whose names begin with this
        #[arg(long, value_name = "PREFIX")]
        only: Option<String>,
    },
    /// Measure what users see when things fail
    Failover {
        /// Write the results to this file, as JSON
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
        /// Run only the scenarios whose names begin with this
        #[arg(long, value_name = "PREFIX")]
        only: Option<String>,
        /// How often each scenario is run; 20 times unless told otherwise
        #[arg(long, value_name = "N")]
        runs: Option<u16>,
    },
    /// Build the container image: one static program, as an OCI image layout and an archive of it; takes many minutes
    Image {
        /// Write it into this folder; target/image unless told otherwise
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
        /// Build the commit a second time in another folder, and see that it gives the same bytes
        #[arg(long)]
        verify: bool,
    },
    /// Write the definitions of the federation's kinds to deploy/crds
    Crds,
    /// Remove every lab that nobody owns any more, kept ones too
    Down,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    machine::complete_path()?;
    match command {
        Command::Setup => setup::all(),
        Command::Build => {
            setup::run(Scope::Run)?;
            programs::build()
        }
        Command::Demo { report, keep } => {
            let mut demo = prepared("demo")?;
            if let Some(report) = report {
                demo.arg("--report").arg(report);
            }
            demo.args(keep.then_some("--keep"));
            programs::become_program(demo)
        }
        Command::Test { filters } => {
            setup::run(Scope::Test)?;
            suites::run_all(&filters)
        }
        Command::Bench { json, only } => {
            let mut bench = prepared("bench")?;
            if let Some(json) = json {
                bench.arg("--json").arg(json);
            }
            if let Some(only) = only {
                bench.args(["--only", &only]);
            }
            programs::become_program(bench)
        }
        Command::Failover { report, only, runs } => {
            let mut failover = prepared("failover")?;
            if let Some(report) = report {
                failover.arg("--report").arg(report);
            }
            if let Some(only) = only {
                failover.args(["--only", &only]);
            }
            if let Some(runs) = runs {
                failover.args(["--runs", &runs.to_string()]);
            }
            programs::become_program(failover)
        }
        Command::Image { output, verify } => image(output, verify),
        Command::Crds => {
            setup::run(Scope::Run)?;
            programs::build()?;
            let folder = machine::workspace().join("deploy/crds");
            programs::run(programs::ours("federation-agent").args(["crds", "--dir"]).arg(folder))
        }
        Command::Down => programs::down(),
    }
}

/// One of our programs, with all that it needs.
fn prepared(name: &str) -> Result<std::process::Command> {
    setup::run(Scope::Run)?;
    programs::build()?;
    Ok(programs::ours(name))
}

/// The container image, built by a program of its own: xtask itself is compiled before anything is there.
fn image(output: Option<PathBuf>, verify: bool) -> Result<()> {
    setup::run(Scope::Run)?;
    programs::run(programs::cargo().args(["build", "--package", "federation-image", "--bins"]))?;
    let mut image = programs::ours("image");
    // The second clone has no tools of its own.
    programs::add_to_path(&mut image, toolchain::folder().join("bin"))?;
    image.arg("--sources").arg(machine::workspace()).arg("--target").arg(machine::target());
    image.arg("--output").arg(output.unwrap_or_else(|| machine::target().join("image")));
    image.args(verify.then_some("--verify"));
    programs::become_program(image)
}
