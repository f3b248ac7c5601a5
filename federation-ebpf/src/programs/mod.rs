//! Entry points: one match from outcome to verdict, and the count.

mod count;
mod echo;
mod error;
mod event;
mod fault;
mod flow;
mod fragment;
mod health;
mod hook;
pub mod maps;
mod open;
mod refuse;
pub mod reply;
mod scratch;
mod shortcut;
mod skb;
mod socket;
pub mod to_vip;
mod words;
mod xdp;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{cgroup_sock_addr, classifier, xdp},
    programs::{SockAddrContext, TcContext, XdpContext},
};
use federation_ebpf::{
    frame::turn_back,
    outcome::{Outcome, Verdict},
};

pub use open::Reach;
pub use skb::Skb;
use socket::{Asking, Telling};
pub use xdp::XdpFrame;

/// tc ingress of a pod's host-side interface: client pod to VIP.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    tc_verdict(skb, to_vip::outcome(skb, Reach::Anywhere))
}

/// tc egress of a pod's host-side interface: backend to client pod.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    tc_verdict(skb, reply::outcome(skb))
}

/// XDP on the uplink: off-node client to VIP.
#[xdp]
pub fn edge(ctx: XdpContext) -> u32 {
    let frame = XdpFrame(ctx.ctx);
    xdp_verdict(frame, to_vip::outcome(frame, Reach::Local))
}

/// tc egress of the uplink: local backend to off-node client.
#[classifier]
pub fn to_wire(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    tc_verdict(skb, reply::outcome(skb))
}

/// Sockets of the node's own network are told whom they talk to: cgroup hooks, by family.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    socket::asking_v4(ctx, Asking::ForGood)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    socket::asking_v6(ctx, Asking::ForGood)
}

/// A datagram with an address of its own.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    socket::asking_v4(ctx, Asking::EachTime)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    socket::asking_v6(ctx, Asking::EachTime)
}

/// Whom a datagram is from.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    socket::told_v4(ctx, Telling::Sender)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    socket::told_v6(ctx, Telling::Sender)
}

/// Whom a socket is connected to.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    socket::told_v4(ctx, Telling::Peer)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    socket::told_v6(ctx, Telling::Peer)
}

/// Keeps the place of a program whose link is not pinned yet.
#[classifier]
pub fn idle_tc(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// The same on the uplink.
#[xdp]
pub fn idle_xdp(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[inline(always)]
pub fn xdp_verdict(frame: XdpFrame, outcome: Outcome) -> u32 {
    count::outcome(outcome);
    fault::tell(&frame, outcome);
    match outcome.verdict() {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
        Verdict::Back => match turn_back(frame) {
            Ok(()) => xdp_action::XDP_TX,
            Err(_) => xdp_action::XDP_DROP,
        },
    }
}

#[inline(always)]
pub fn tc_verdict(skb: Skb, outcome: Outcome) -> i32 {
    count::outcome(outcome);
    fault::tell(&skb, outcome);
    match outcome.verdict() {
        // Lets other programs on the hook have their turn: TCX_NEXT under tcx, "no verdict" under clsact.
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Drop => TC_ACT_SHOT as i32,
        Verdict::Back => skb::back(skb),
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
