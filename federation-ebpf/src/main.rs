//! The programs: an entry point for each hook, where an outcome becomes a verdict and is counted.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs;

/// There is nothing to run on a host; the programs are built for the kernel by the agent's build script.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
