//! The benchmark: groups of cases, each measured beside its peer in the same run.
//!
//! [`measurement`] is the arithmetic, [`table`] what a person reads; the other rooms measure.

mod agent;
mod apiserver;
mod controller;
mod cpu;
mod dns;
mod measurement;
mod nftables;
mod packet;
mod path;
mod scale;
mod server;
mod stream;
mod table;
mod tap;
mod yardstick;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};

pub use measurement::{Case, Measurement, Promise};

/// What to measure, and where to write it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub json: Option<PathBuf>,
    /// Only the cases whose names begin with this.
    pub only: String,
}

/// Measures, prints a table and writes the JSON.
///
/// # Errors
/// A case could not be measured; a promise that was not kept is a figure, not an error.
pub async fn run(options: Options) -> Result<()> {
    let mut measured = Vec::new();
    if wanted(packet::GROUP, &options.only) {
        eprintln!("what a packet costs in the programs");
        measured.extend(packet::measure().context("measure packets in the programs")?);
    }
    if wanted(scale::GROUP, &options.only) {
        eprintln!("what the number of services costs");
        measured.extend(scale::measure().context("measure federations of all sizes")?);
    }
    if wanted(agent::GROUP, &options.only) {
        eprintln!("what an agent needs for the largest federation");
        measured.extend(agent::measure().await.context("measure an agent of a large federation")?);
    }
    if wanted(apiserver::GROUP, &options.only) {
        eprintln!("what the embedded Federation API costs at size");
        measured.extend(apiserver::measure().await.context("measure the embedded Federation API")?);
    }
    if wanted(controller::GROUP, &options.only) {
        eprintln!("how long a federation of many clusters takes to become what was asked for");
        measured.extend(controller::measure().await.context("measure a controller of many clusters")?);
    }
    if wanted(dns::GROUP, &options.only) {
        eprintln!("what answers of DNS cost");
        measured.extend(dns::measure().await.context("measure DNS")?);
    }
    if wanted(path::GROUP, &options.only) {
        measured.extend(path::measure(&options.only).await.context("measure paths through a lab")?);
    }
    measured.retain(|measurement: &Measurement| measurement.name.starts_with(&options.only));
    ensure!(!measured.is_empty(), "no case has a name that begins with {:?}", options.only);
    print!("{}", table::of(&measured));
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&measured).context("encode the results")?;
        fs::write(file, text + "\n").with_context(|| format!("write the results to {}", file.display()))?;
    }
    Ok(())
}

/// Whether cases whose names begin with `group` were asked for.
fn wanted(group: &str, prefix: &str) -> bool {
    group.starts_with(prefix) || prefix.starts_with(group)
}
