//! Which processor a measured thread runs on: left to the scheduler, two that talk meet on one or on two, and that makes
//! more of a difference than what is measured.

use std::thread;

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The processors for the two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Cpus {
    pub client: usize,
    pub server: usize,
}

impl Cpus {
    /// Both ends on one: all that a packet costs is on the way, and nobody is woken on another processor.
    ///
    /// # Errors
    /// The kernel does not tell which there are.
    pub fn one() -> Result<Self> {
        let cpu = *allowed()?.last().context("no processor is ours")?;
        Ok(Self { client: cpu, server: cpu })
    }

    /// An end each, if there are two.
    ///
    /// # Errors
    /// The kernel does not tell which there are.
    pub fn two() -> Result<Self> {
        let allowed = allowed()?;
        let (first, last) = allowed.first().zip(allowed.last()).context("no processor is ours")?;
        Ok(Self { client: *first, server: *last })
    }
}

/// This thread runs on `cpu` alone from now on.
///
/// # Errors
/// It is none of ours.
pub fn stay_on(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("processor {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("stay on processor {cpu}"))
}

/// Does `work` on a thread of its own, which stays on `cpu`.
///
/// # Errors
/// Those of `work`, or `cpu` is none of ours.
pub fn on<T: Send>(cpu: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            stay_on(cpu)?;
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn allowed() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("ask for this process's processors")?;
    Ok((0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}
