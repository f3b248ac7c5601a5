//! A backend answers, to a pod of this node (`to_pod`) or past it (`to_wire`): the source becomes the VIP again.

use aya_ebpf::programs::TcContext;
use federation_ebpf::{filter, outcome::Outcome, packet};

use super::{
    flow,
    maps::{RETURN_FILTER, V4},
    skb::{self, End, Skb},
};

#[inline(always)]
pub fn outcome(ctx: &TcContext) -> Outcome {
    let skb = Skb::new(ctx);
    let Some(ip) = packet::ipv4(&skb) else { return Outcome::NotOurs };
    // What cannot be read is not ours to judge here: it may be anybody's.
    let Ok(packet) = packet::transport(&skb, &ip) else { return Outcome::NotOurs };
    let bit = filter::bit(packet.key.source, packet.key.source_port);
    let Some(word) = RETURN_FILTER.get(bit.word) else { return Outcome::NotOurs };
    if word & bit.mask == 0 {
        return Outcome::NotOurs;
    }
    match flow::reply::<V4>(&packet, skb.len()) {
        Ok(to) => match skb::rewrite(&skb, &packet, End::Source, &to) {
            Ok(()) => Outcome::Replied,
            Err(refusal) => refusal,
        },
        Err(refusal) => refusal,
    }
}
