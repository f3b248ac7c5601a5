//! Registering a cluster with one command, and letting it go again: `federation-agent join` and `leave`.
//!
//! A person with rights at both APIs runs them; what lasts is a `Cluster` and a Secret, which the controller acts on.
//! [`login`] and [`survey`] decide and are pure but for files that a kubeconfig names; the rest asks and writes.

pub mod join;
pub mod leave;
mod login;
mod survey;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use kube::Client;

use crate::client;

/// Who writes what a person registers.
const FIELD_MANAGER: &str = "federation-agent-join";

/// How long one question to an API may take.
const ANSWER: Duration = Duration::from_secs(10);

/// Where the Federation API is.
#[derive(Args, Debug)]
struct FederationApi {
    /// Kubeconfig of the Federation API
    #[arg(long, env = "FEDERATION_KUBECONFIG", value_name = "FILE")]
    kubeconfig: PathBuf,
}

impl FederationApi {
    async fn client(&self) -> Result<Client> {
        client::from_kubeconfig(&self.kubeconfig).await
    }

    /// Asks it something; the error says what was wanted.
    async fn ask<T>(&self, what: &str, answer: impl Future<Output = Result<T, kube::Error>>) -> Result<T> {
        let place = || format!("{what} at the Federation API of {}", self.kubeconfig.display());
        in_time(answer).await.with_context(place)
    }
}

/// An answer, or why there is none, in words.
async fn in_time<T>(answer: impl Future<Output = Result<T, kube::Error>>) -> Result<T> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(answer) => answer.map_err(|error| anyhow!("{}", client::chain(&error))),
        Err(_) => Err(anyhow!("no answer within {} s", ANSWER.as_secs())),
    }
}

/// Tells the person a sentence.
fn say(sentence: &str) -> Result<()> {
    writeln!(io::stdout().lock(), "{sentence}").context("write to the standard output")
}
