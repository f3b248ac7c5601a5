//! Entry points: one match from outcome to verdict, and the count.

mod edge;
mod flow;
pub mod from_pod;
mod maps;
pub mod reply;
mod skb;
mod words;
mod xdp;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use federation_ebpf::outcome::{Outcome, Verdict};

/// tc ingress of a pod's host-side interface: client pod to VIP.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    tc_verdict(from_pod::outcome(&ctx))
}

/// tc egress of a pod's host-side interface: backend to client pod.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    tc_verdict(reply::outcome(&ctx))
}

/// XDP on the uplink: off-node client to VIP.
#[xdp]
pub fn edge(ctx: XdpContext) -> u32 {
    let outcome = edge::outcome(&ctx);
    count(outcome);
    match outcome.verdict() {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
    }
}

/// tc egress of the uplink: local backend to off-node client.
#[classifier]
pub fn to_wire(ctx: TcContext) -> i32 {
    tc_verdict(reply::outcome(&ctx))
}

#[inline(always)]
pub fn tc_verdict(outcome: Outcome) -> i32 {
    count(outcome);
    match outcome.verdict() {
        // Lets other programs on the hook have their turn: TCX_NEXT under tcx, "no verdict" under clsact.
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Drop => TC_ACT_SHOT as i32,
    }
}

#[inline(always)]
fn count(outcome: Outcome) {
    if outcome == Outcome::NotOurs {
        return;
    }
    if let Some(count) = maps::OUTCOMES.get_ptr_mut(outcome as u32) {
        // SAFETY: this CPU's own element of a per-CPU array.
        unsafe { *count += 1 };
    }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier rejects a program from which this can be reached.
    unsafe { core::hint::unreachable_unchecked() }
}
