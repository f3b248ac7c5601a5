//! Flows: finding the translation of a packet, and following the connection. How a new one is made is in `open`.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_jiffies64};
use federation_ebpf::{
    maps::{
        ANSWERED, BackendState, Direction, EventKind, Flow, FlowKey, Protocol, RETRANSMITTED,
        TICKS_PER_SECOND, elapsed,
    },
    outcome::Outcome,
    packet::{Ip, Packet},
    tcp::{Side, TcpState},
};

use super::{
    count,
    event::{self, About},
    health::{self, Avoided},
    maps::{self, Family},
    scratch::Scratch,
};

/// Whether a flow still stands for the packets that find it.
#[derive(Clone, Copy, PartialEq)]
pub enum Standing {
    Good,
    /// Silent for too long, or closed and opened anew.
    Over,
    /// Its backend is dead, or its id has another tenant.
    Gone,
    /// The client asks again, for nobody has answered.
    Unanswered,
}

/// Finds the flow of the packet in `scratch`, which is to a VIP; the tuple to send on is in `to` afterwards, where the
/// outcome lets the packet pass. Nothing where a flow is still to be opened.
#[inline(never)]
pub fn forward<F: Family>(scratch: &mut Scratch<F::Address>, bytes: usize) -> Option<Outcome> {
    // SAFETY: written by the caller.
    let packet = unsafe { scratch.packet.assume_init_ref() };
    let now = now();
    scratch.avoided.write(Avoided::NOBODY);
    let entry = F::flows().get_ptr_mut(&packet.key)?;
    // SAFETY: entries are not freed while the program runs; fields may change under us on another CPU, and each is
    // written whole.
    let flow = unsafe { &mut *entry };
    match standing::<F>(flow, packet, now) {
        Standing::Good => {
            let side = if flow.direction.is_forward() { Side::Client } else { Side::Backend };
            // Of a hairpin, whose replies come this way.
            if side == Side::Backend {
                health::heed::<F>(flow, packet, now);
            }
            follow::<F>(flow, packet, side, now);
            count::packet(flow, bytes, false);
            scratch.to.write(packet.key.translated(flow));
            Some(passed(flow, Outcome::Forwarded))
        }
        Standing::Gone if packet.key.protocol == Protocol::Tcp && !packet.flags.opens() => {
            if flow.state != TcpState::Closing {
                event::tell(EventKind::Reset, Outcome::BackendGone, &packet.key, About::of(flow));
                touch::<F>(flow, &packet.key, Some(TcpState::Closing), now);
            }
            Some(Outcome::BackendGone)
        }
        Standing::Gone | Standing::Over => {
            forget::<F>(&packet.key, flow);
            None
        }
        Standing::Unanswered => {
            scratch.avoided.write(health::suspect::<F>(&packet.key, flow, now));
            // The entry of replies too: an answer that comes late must not be taken for the next backend's.
            forget::<F>(&packet.key, flow);
            None
        }
    }
}

#[inline(always)]
fn standing<F: Family>(flow: &Flow<F::Address>, packet: &Packet<F::Address>, now: u32) -> Standing {
    if is_reopened(flow, packet) || is_expired(flow, packet.key.protocol, now) {
        return Standing::Over;
    }
    if !lives::<F>(flow) {
        Standing::Gone
    } else if is_unanswered::<F>(flow, packet, now) {
        Standing::Unanswered
    } else {
        Standing::Good
    }
}

/// Whether the packet is the SYN of another connection from the same port: the one before has ended, or was given up
/// before anybody answered. One that is sent again has the same number.
#[inline(always)]
fn is_reopened<A: Ip>(flow: &Flow<A>, packet: &Packet<A>) -> bool {
    packet.flags.opens()
        && match flow.state {
            TcpState::Closing => true,
            TcpState::Opening => flow.direction.is_forward() && flow.handshake != packet.sequence,
            _ => false,
        }
}

/// Whether the packet is a SYN sent again, since its backend has not answered. A duplicate on the wire comes too early
/// for that; and where the backend did answer, that answer was lost on its way to the client and comes again as well.
#[inline(always)]
fn is_unanswered<F: Family>(flow: &Flow<F::Address>, packet: &Packet<F::Address>, now: u32) -> bool {
    packet.flags.opens()
        && flow.state == TcpState::Opening
        && flow.direction.is_forward()
        && silence(flow, now) >= RETRANSMITTED
        && !is_answered::<F>(flow, &packet.key)
}

/// By the entry of replies: that of the client's packets does not change with what the backend sends.
#[inline(never)]
fn is_answered<F: Family>(flow: &Flow<F::Address>, key: &FlowKey<F::Address>) -> bool {
    let partner = key.partner(flow);
    // SAFETY: entries are not freed while the program runs.
    match unsafe { F::flows().get(&partner) } {
        Some(other) => is_partner(&partner, other, key) && other.handshake == ANSWERED,
        None => false,
    }
}

/// Whether the flow's backend is there, and the one that was chosen.
#[inline(always)]
pub fn lives<F: Family>(flow: &Flow<F::Address>) -> bool {
    let Some(backend) = F::backends().get(flow.backend) else { return false };
    matches!(backend.state, BackendState::Active | BackendState::Draining)
        && backend.generation == flow.generation
}

#[inline(always)]
pub fn is_expired<A>(flow: &Flow<A>, protocol: Protocol, now: u32) -> bool {
    silence(flow, now) > flow.state.timeout(protocol)
}

/// Whether nothing is due to be written: the last packet was seen within a second.
#[inline(always)]
pub fn is_fresh<A>(flow: &Flow<A>, now: u32) -> bool {
    silence(flow, now) < TICKS_PER_SECOND
}

/// Ticks since the flow was seen.
#[inline(always)]
pub fn silence<A>(flow: &Flow<A>, now: u32) -> u32 {
    elapsed(flow.last_seen, now)
}

/// The outcome for a packet that goes on: one of a hairpin goes back.
#[inline(always)]
pub fn passed<A>(flow: &Flow<A>, otherwise: Outcome) -> Outcome {
    if flow.direction.is_hairpin() { Outcome::Hairpinned } else { otherwise }
}

#[inline(always)]
fn follow<F: Family>(flow: &mut Flow<F::Address>, packet: &Packet<F::Address>, side: Side, now: u32) {
    let state = flow.state.after(side, packet.flags);
    // Written only when it changes: the cache line is shared with whoever sends the other packets.
    if state != flow.state {
        touch::<F>(flow, &packet.key, Some(state), now);
    } else if !is_fresh(flow, now) {
        touch::<F>(flow, &packet.key, None, now);
    }
}

/// Writes what was seen into both entries of a flow, and puts back the other one if it was evicted. A state only where it
/// has changed, for another CPU may just have seen the end.
#[inline(never)]
fn touch<F: Family>(
    flow: &mut Flow<F::Address>,
    key: &FlowKey<F::Address>,
    state: Option<TcpState>,
    now: u32,
) {
    if let Some(state) = state {
        flow.state = state;
    }
    flow.last_seen = now;
    health::used(flow.backend, now);
    let partner = key.partner(flow);
    if let Some(entry) = F::flows().get_ptr_mut(&partner) {
        // SAFETY: as in `forward`.
        let other = unsafe { &mut *entry };
        if is_partner(&partner, other, key) {
            if let Some(state) = state {
                other.state = state;
            }
            other.last_seen = now;
        }
        return;
    }
    // Made by another CPU in between, it is as good.
    let _ = F::flows().insert(&partner, flow.opposite(key), BPF_NOEXIST.into());
}

/// Whether what is found under `key` translates to where `partner` comes from.
#[inline(always)]
fn is_partner<A: Ip>(key: &FlowKey<A>, flow: &Flow<A>, partner: &FlowKey<A>) -> bool {
    key.partner(flow) == *partner
}

/// Removes both entries of a flow, where they are still its.
#[inline(never)]
fn forget<F: Family>(key: &FlowKey<F::Address>, flow: &Flow<F::Address>) {
    let partner = key.partner(flow);
    // SAFETY: entries are not freed while the program runs.
    if let Some(other) = unsafe { F::flows().get(&partner) }
        && is_partner(&partner, other, key)
    {
        // Gone already is as well.
        let _ = F::flows().remove(&partner);
    }
    let _ = F::flows().remove(key);
}

/// Finds the flow that the packet in `scratch`, from a backend, answers; the tuple to send on is in `to` afterwards,
/// where there is one.
#[inline(never)]
pub fn reply<F: Family>(scratch: &mut Scratch<F::Address>, bytes: usize) -> Outcome {
    // SAFETY: written by the caller.
    let packet = unsafe { scratch.packet.assume_init_ref() };
    let key = &packet.key;
    let now = now();
    let Some(entry) = F::flows().get_ptr_mut(key) else { return Outcome::NoFlow };
    // SAFETY: as in `forward`.
    let flow = unsafe { &mut *entry };
    if flow.direction != Direction::Reply {
        return Outcome::NoFlow;
    }
    // Where the flow was closed, a grant is to a client that asked the backend directly from the port that it had.
    let to_another = flow.state == TcpState::Closing && packet.flags.grants();
    if to_another || is_expired(flow, key.protocol, now) {
        let _ = F::flows().remove(key);
        return Outcome::NoFlow;
    }
    health::heed::<F>(flow, packet, now);
    follow::<F>(flow, packet, Side::Backend, now);
    count::packet(flow, bytes, false);
    scratch.to.write(key.translated(flow));
    Outcome::Replied
}

/// The translation of the flow under `key`, if it stands, in `to`: for what belongs to it without being of it.
#[inline(never)]
pub fn translation<F: Family>(
    key: &FlowKey<F::Address>,
    to: &mut MaybeUninit<FlowKey<F::Address>>,
) -> Option<Direction> {
    // SAFETY: entries are not freed while the program runs.
    let flow = unsafe { F::flows().get(key) }?;
    if is_expired(flow, key.protocol, now()) {
        return None;
    }
    to.write(key.translated(flow));
    Some(flow.direction)
}

/// An ICMP error tells that the flow under `key`, an entry of replies, has not reached its backend.
#[inline(never)]
pub fn unreachable<F: Family>(key: &FlowKey<F::Address>) {
    // SAFETY: entries are not freed while the program runs.
    if let Some(flow) = unsafe { F::flows().get(key) } {
        health::unreachable::<F>(flow, key);
    }
}

/// The time, to a jiffy: all that flows need. No call, unlike every clock that a program may ask (kernel:
/// `do_misc_fixups` puts the variable's address into the program).
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: a helper without arguments.
    maps::jiffies().tick(unsafe { bpf_jiffies64() })
}
