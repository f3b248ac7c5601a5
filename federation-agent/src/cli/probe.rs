//! `probe`: what a kubelet asks about the node's agent, by running this command in its container.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Result, anyhow, bail};
use clap::{Args as ClapArgs, ValueEnum};
use http::StatusCode;
use tokio::time::timeout;

use super::{agent, show};

/// How long the agent may take. A kubelet's `timeoutSeconds` has to be longer for the sentence to be read.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// What is asked
    #[arg(value_enum)]
    question: Question,

    /// Where the node's agent keeps its socket
    #[arg(long, env = "FEDERATION_STATE_DIR", value_name = "DIR", default_value = crate::node::DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Question {
    /// Does the agent's main loop turn?
    Live,
    /// Do the maps follow the federation?
    Ready,
}

/// Fails with one sentence on the standard output, where a kubelet reads it.
pub(super) async fn run(args: Args) -> Result<ExitCode> {
    match ask(&args).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(why) => {
            show::print(&format!("{why:#}\n"))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn ask(args: &Args) -> Result<()> {
    let path = match args.question {
        Question::Live => "/live",
        Question::Ready => "/ready",
    };
    let answer = timeout(PATIENCE, agent::get(&args.state_dir, path)).await;
    let answer = answer.map_err(|_| {
        anyhow!("the agent has not answered within {} s: its main loop does not turn", PATIENCE.as_secs())
    });
    match answer?? {
        (StatusCode::OK, _) => Ok(()),
        (_, why) => bail!("{}", String::from_utf8_lossy(&why)),
    }
}
