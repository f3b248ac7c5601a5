//! The way of nearly every packet: of a flow that is known, alive and in the middle of its life, with nothing to be
//! written but the packet. All others take the long way, which would do the same with these.

use federation_ebpf::{
    maps::{Direction, Flow},
    outcome::Outcome,
    packet::{self, Packet},
    tcp::TcpState,
    translate,
};

use super::{count, flow, hook::Hook, maps::Family};

/// A client's packet to a VIP.
#[inline(never)]
pub fn forward<F: Family, P: Hook>(frame: P, network: usize) -> Option<Outcome> {
    let packet = packet::plain::<F::Address>(&frame, network)?;
    // SAFETY: entries are not freed while the program runs.
    let flow = unsafe { F::flows().get(&packet.key) }?;
    let ready = flow.direction == Direction::Forward && is_settled(flow, &packet) && flow::lives::<F>(flow);
    ready.then(|| carry::<F, P>(frame, &packet, flow, Outcome::Forwarded))
}

/// A backend's packet to a client.
#[inline(never)]
pub fn reply<F: Family, P: Hook>(frame: P, network: usize) -> Option<Outcome> {
    let packet = packet::plain::<F::Address>(&frame, network)?;
    // SAFETY: as above.
    let flow = unsafe { F::flows().get(&packet.key) }?;
    let ready = flow.direction == Direction::Reply && is_settled(flow, &packet);
    ready.then(|| carry::<F, P>(frame, &packet, flow, Outcome::Replied))
}

/// The packet changes nothing about the flow, not even when it was seen last.
#[inline(always)]
fn is_settled<A>(flow: &Flow<A>, packet: &Packet<A>) -> bool {
    packet.flags.is_midway() && flow.state != TcpState::Opening && flow::is_fresh(flow, flow::now())
}

#[inline(always)]
fn carry<F: Family, P: Hook>(
    frame: P,
    packet: &Packet<F::Address>,
    flow: &Flow<F::Address>,
    outcome: Outcome,
) -> Outcome {
    count::packet(flow, frame.length(), false);
    let to = packet.key.translated(flow);
    match translate::plain(frame, packet, &to) {
        Ok(()) => outcome,
        Err(refusal) => refusal,
    }
}
