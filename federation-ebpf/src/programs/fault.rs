//! What should never happen, told to the agent's log: an operator who reads it has a kernel or a map that fails us.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::error;
use federation_ebpf::outcome::Outcome;

/// Tells of `outcome`, if it is such a thing.
#[inline(always)]
pub fn tell(ctx: &impl EbpfContext, outcome: Outcome) {
    match outcome {
        Outcome::FlowsFull => flows_full(ctx),
        Outcome::NotWritable => not_writable(ctx),
        _ => {}
    }
}

#[inline(never)]
fn flows_full(ctx: &impl EbpfContext) {
    error!(ctx, "a connection is refused: the kernel has no memory for its flow");
}

#[inline(never)]
fn not_writable(ctx: &impl EbpfContext) {
    error!(ctx, "a packet is dropped: the kernel does not let it be rewritten");
}
