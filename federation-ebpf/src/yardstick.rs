//! What the benchmark runs: the data plane's own programs in a form that can be repeated, and what they are held
//! against. Never shipped: the agent does not embed this object.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs;

/// There is nothing to run on a host.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod measured {
    use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};

    use super::programs;

    /// Headers of Ethernet, IPv4 and TCP without options: all that a program rewrites.
    type Headers = [u64; 7];

    /// What it costs to run any program at all.
    #[classifier]
    pub fn empty(_: TcContext) -> i32 {
        TC_ACT_UNSPEC
    }

    /// `from_pod` that leaves the packet as it came, so that it meets the same packet in each repetition.
    #[classifier]
    pub fn from_pod_restored(ctx: TcContext) -> i32 {
        let skb = programs::Skb(ctx.skb.skb);
        restored(&ctx, || {
            programs::tc_verdict(skb, programs::to_vip::outcome(skb, programs::Reach::Anywhere))
        })
    }

    /// `to_pod` likewise.
    #[classifier]
    pub fn to_pod_restored(ctx: TcContext) -> i32 {
        let skb = programs::Skb(ctx.skb.skb);
        restored(&ctx, || programs::tc_verdict(skb, programs::reply::outcome(skb)))
    }

    /// What the restoring itself costs.
    #[classifier]
    pub fn empty_restored(ctx: TcContext) -> i32 {
        restored(&ctx, || TC_ACT_UNSPEC)
    }

    #[inline(always)]
    fn restored(ctx: &TcContext, program: impl FnOnce() -> i32) -> i32 {
        let Ok(headers) = ctx.load::<Headers>(0) else { return TC_ACT_UNSPEC };
        let verdict = program();
        let _ = ctx.store(0, &headers, 0);
        verdict
    }
}
