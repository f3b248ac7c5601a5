//! A pod speaks: to a VIP, or to anybody else.

use aya_ebpf::programs::TcContext;
use federation_ebpf::{outcome::Outcome, packet};
use network_types::ip::Ipv4Hdr;

use super::{
    flow::{self, Reach},
    maps::{Family as _, V4},
    skb::{self, End, Skb},
};

#[inline(always)]
pub fn outcome(ctx: &TcContext) -> Outcome {
    let skb = Skb::new(ctx);
    let Some(ip) = packet::ipv4(&skb) else { return Outcome::NotOurs };
    if !V4::is_vip(ip.dst_addr) {
        return Outcome::NotOurs;
    }
    translate(&skb, &ip).unwrap_or_else(|refusal| refusal)
}

#[inline(always)]
fn translate(skb: &Skb<'_>, ip: &Ipv4Hdr) -> Result<Outcome, Outcome> {
    let packet = packet::transport(skb, ip)?;
    let (outcome, to) = flow::forward::<V4>(&packet, skb.len(), Reach::Anywhere)?;
    skb::rewrite(skb, &packet, End::Destination, &to)?;
    Ok(outcome)
}
