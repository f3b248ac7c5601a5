//! Somebody outside this node speaks to a VIP.

use aya_ebpf::programs::XdpContext;
use federation_ebpf::{outcome::Outcome, packet};

use super::{
    flow::{self, Reach},
    maps::{Family as _, V4},
    xdp::{self, XdpFrame},
};

#[inline(always)]
pub fn outcome(ctx: &XdpContext) -> Outcome {
    let frame = XdpFrame(ctx);
    let Some(ip) = packet::ipv4(&frame) else { return Outcome::NotOurs };
    if !V4::is_vip(ip.dst_addr) {
        return Outcome::NotOurs;
    }
    match packet::transport(&frame, &ip) {
        Ok(packet) => match flow::forward::<V4>(&packet, frame.len(), Reach::Local) {
            Ok((outcome, to)) => {
                xdp::rewrite_destination(&frame, &packet, &to).map_or_else(|e| e, |()| outcome)
            }
            Err(refusal) => refusal,
        },
        Err(refusal) => refusal,
    }
}
