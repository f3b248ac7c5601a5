//! Flows: finding the translation of a packet, or opening a new one.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_jiffies64};
use federation_ebpf::{
    hash,
    maps::{
        Affinity, Backend, BackendPlace, BackendState, Direction, EventKind, Flow, FlowKey, Frontend,
        FrontendKey, Protocol, TICKS_PER_SECOND,
    },
    outcome::Outcome,
    packet::{Ip, Packet},
    tcp::{Side, TcpState},
};

use super::{
    count,
    event::{self, About},
    maps::{self, Family, SLOTS},
    scratch::Scratch,
};

/// Slots that a new flow may try: past a collision of reply keys, or a backend that has just died.
const SLOT_ATTEMPTS: u32 = 8;

/// Ports that a new flow may try for its client, once no slot will do.
const PORT_ATTEMPTS: u32 = 4;

/// Which backends may be chosen.
#[derive(Clone, Copy, PartialEq)]
pub enum Reach {
    Anywhere,
    /// On this node alone: replies of others would not pass here.
    Local,
}

/// Whether a flow still stands for the packets that find it.
#[derive(Clone, Copy, PartialEq)]
pub enum Standing {
    Good,
    /// Silent for too long, or closed and opened anew.
    Over,
    /// Its backend is dead, or its id has another tenant.
    Gone,
}

/// What a new flow is made of, beside its first packet.
pub struct Choice {
    frontend: u32,
    backend: u32,
    /// The first backend whose slot was met, for which only the client's port was taken; 0 for none yet.
    first: u32,
    client_port: u16,
    now: u32,
    /// How the last attempt went.
    attempt: Attempt,
    /// The outcome if none succeeds.
    refusal: Outcome,
}

/// How an attempt to make a flow went.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq)]
pub enum Attempt {
    Done,
    /// Another CPU has made the flow of the same tuple meanwhile, and its choice stands.
    Outrun,
    /// Somebody else waits for an answer under the key that ours would come under.
    Taken,
    Full,
    PortMustStay,
}

/// Finds the flow of the packet in `scratch`, which is to a VIP; the tuple to send on is in `to` afterwards, where the
/// outcome lets the packet pass. Nothing where a flow is still to be opened.
#[inline(never)]
pub fn forward<F: Family>(scratch: &mut Scratch<F::Address>, bytes: usize) -> Option<Outcome> {
    // SAFETY: written by the caller.
    let packet = unsafe { scratch.packet.assume_init_ref() };
    let now = now();
    let entry = F::flows().get_ptr_mut(&packet.key)?;
    // SAFETY: entries are not freed while the program runs; fields may change under us on another CPU, and each is
    // written whole.
    let flow = unsafe { &mut *entry };
    match standing::<F>(flow, packet, now) {
        Standing::Good => {
            let side = if flow.direction.is_forward() { Side::Client } else { Side::Backend };
            follow::<F>(flow, packet, side, now);
            count::packet(flow, bytes, false);
            scratch.to.write(packet.key.translated(flow));
            Some(passed(flow, Outcome::Forwarded))
        }
        Standing::Gone if packet.key.protocol == Protocol::Tcp && !packet.flags.opens() => {
            if flow.state != TcpState::Closing {
                let about = About { backend: flow.backend, generation: flow.generation };
                event::tell(EventKind::Reset, Outcome::BackendGone, &packet.key, about);
                touch::<F>(flow, &packet.key, Some(TcpState::Closing), now);
            }
            Some(Outcome::BackendGone)
        }
        Standing::Gone | Standing::Over => {
            forget::<F>(&packet.key, flow);
            None
        }
    }
}

#[inline(always)]
pub fn standing<F: Family>(flow: &Flow<F::Address>, packet: &Packet<F::Address>, now: u32) -> Standing {
    let reopened = flow.state == TcpState::Closing && packet.flags.opens();
    if reopened || is_expired(flow, packet.key.protocol, now) {
        return Standing::Over;
    }
    if lives::<F>(flow) { Standing::Good } else { Standing::Gone }
}

/// Whether the flow's backend is there, and the one that was chosen.
#[inline(always)]
pub fn lives<F: Family>(flow: &Flow<F::Address>) -> bool {
    let Some(backend) = F::backends().get(flow.backend) else { return false };
    matches!(backend.state, BackendState::Active | BackendState::Draining)
        && backend.generation == flow.generation
}

#[inline(always)]
fn is_expired<A>(flow: &Flow<A>, protocol: Protocol, now: u32) -> bool {
    silence(flow, now) > flow.state.timeout(protocol)
}

/// Whether nothing is due to be written: the last packet was seen within a second.
#[inline(always)]
pub fn is_fresh<A>(flow: &Flow<A>, now: u32) -> bool {
    silence(flow, now) < TICKS_PER_SECOND
}

/// Ticks since the flow was seen; none where another CPU has seen it later than this one's `now`.
#[inline(always)]
fn silence<A>(flow: &Flow<A>, now: u32) -> u32 {
    let ticks = now.wrapping_sub(flow.last_seen);
    if ticks > u32::MAX / 2 { 0 } else { ticks }
}

/// The outcome for a packet that goes on: one of a hairpin goes back.
#[inline(always)]
fn passed<A>(flow: &Flow<A>, otherwise: Outcome) -> Outcome {
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

/// Chooses a backend for the packet in `scratch` and remembers it; as [`forward`] otherwise.
#[inline(never)]
pub fn open<F: Family>(scratch: &mut Scratch<F::Address>, bytes: usize, reach: Reach) -> Outcome {
    // SAFETY: written by the caller.
    let packet = unsafe { scratch.packet.assume_init_ref() };
    let key = &packet.key;
    let (protocol, spread, client) = (key.protocol, hash::connection(key), hash::client(key.source));
    let frontend_key = FrontendKey::new(key.destination, key.destination_port, protocol);
    // SAFETY: an entry that is replaced is kept while programs run that may read it.
    let Some(frontend) = (unsafe { F::frontends().get(&frontend_key) }) else { return Outcome::NoFrontend };
    let Frontend { id, offset, size, affinity, .. } = *frontend;
    if size == 0 {
        return Outcome::NoBackend;
    }
    let hash = match affinity {
        Affinity::None => spread,
        Affinity::ClientIp => client,
    };
    let client_port = key.source_port;
    // In the scratch and not in registers: the verifier would walk through all that follows for each of their values.
    scratch.choice.write(Choice {
        frontend: id,
        backend: 0,
        first: 0,
        client_port,
        now: now(),
        attempt: Attempt::Taken,
        refusal: Outcome::NoBackend,
    });
    for attempt in 0..SLOT_ATTEMPTS {
        let Some(id) = SLOTS.get(offset + hash::slot(hash, attempt, size)) else { continue };
        let Some(backend) = F::backends().get(*id) else { continue };
        if backend.state != BackendState::Active {
            continue;
        }
        // SAFETY: just written.
        let choice = unsafe { scratch.choice.assume_init_mut() };
        if reach == Reach::Local && backend.place != BackendPlace::Local {
            choice.refusal = Outcome::NotLocal;
            continue;
        }
        choice.backend = *id;
        if choice.first == 0 {
            choice.first = *id;
        }
        match try_establish::<F>(scratch) {
            Attempt::Done | Attempt::Outrun => return opened::<F>(scratch, bytes),
            Attempt::Full => return Outcome::FlowsFull,
            Attempt::PortMustStay => return Outcome::PortMustStay,
            Attempt::Taken => {}
        }
        // With affinity the backend is what matters, not the port.
        if affinity == Affinity::ClientIp {
            break;
        }
    }
    // SAFETY: just written.
    let choice = unsafe { scratch.choice.assume_init_mut() };
    if choice.first == 0 {
        return choice.refusal;
    }
    // SCTP's checksum covers the port and cannot be corrected.
    if protocol == Protocol::Sctp {
        return Outcome::NoFreeReply;
    }
    choice.backend = choice.first;
    for attempt in 0..PORT_ATTEMPTS {
        // SAFETY: as above.
        unsafe { scratch.choice.assume_init_mut() }.client_port = hash::port(spread, attempt);
        match try_establish::<F>(scratch) {
            Attempt::Done | Attempt::Outrun => return opened::<F>(scratch, bytes),
            Attempt::Taken => {}
            Attempt::Full | Attempt::PortMustStay => return Outcome::FlowsFull,
        }
    }
    Outcome::NoFreeReply
}

/// Tries to make a flow of what is in `scratch`.
#[inline(always)]
fn try_establish<F: Family>(scratch: &mut Scratch<F::Address>) -> Attempt {
    note_attempt::<F>(scratch);
    // SAFETY: written by the caller.
    unsafe { scratch.choice.assume_init_ref() }.attempt
}

/// The result goes through the scratch for the same reason as the choice.
#[inline(never)]
fn note_attempt<F: Family>(scratch: &mut Scratch<F::Address>) {
    let attempt = establish::<F>(scratch);
    // SAFETY: written by the caller.
    unsafe { scratch.choice.assume_init_mut() }.attempt = attempt;
}

/// Makes the two entries of a flow: the reply's first, the one that makes the flow usable last; both or neither.
#[inline(always)]
fn establish<F: Family>(scratch: &mut Scratch<F::Address>) -> Attempt {
    // SAFETY: written by the caller.
    let (packet, choice) = unsafe { (scratch.packet.assume_init_ref(), scratch.choice.assume_init_ref()) };
    let key = &packet.key;
    let Some(backend) = F::backends().get(choice.backend) else { return Attempt::Full };
    if key.protocol == Protocol::Sctp && backend.port != key.destination_port {
        return Attempt::PortMustStay;
    }
    let flow = scratch.flow.write(made(packet, choice, backend));
    let to = scratch.to.write(key.translated(flow));
    let reply = scratch.reply.write(to.reversed());
    let answer = scratch.answer.write(flow.opposite(key));
    if F::flows().insert(&*reply, &*answer, BPF_NOEXIST.into()).is_err() {
        // SAFETY: entries are not freed while the program runs.
        let Some(other) = (unsafe { F::flows().get(&*reply) }) else { return Attempt::Full };
        // Ours is left from a lost entry, or was just made by another CPU.
        let ours = is_partner(reply, other, key);
        if !ours && !is_over::<F>(reply, other, choice.now) {
            return Attempt::Taken;
        }
        if F::flows().insert(&*reply, &*answer, 0).is_err() {
            return Attempt::Full;
        }
    }
    if F::flows().insert(key, &*flow, BPF_NOEXIST.into()).is_ok() {
        return Attempt::Done;
    }
    // SAFETY: as above.
    let Some(winner) = (unsafe { F::flows().get(key) }) else {
        let _ = F::flows().remove(&*reply);
        return Attempt::Full;
    };
    *to = key.translated(winner);
    if to.reversed() != *reply {
        let _ = F::flows().remove(&*reply);
    }
    Attempt::Outrun
}

/// Whether nobody waits for what the reply entry under `key` translates.
#[inline(always)]
fn is_over<F: Family>(key: &FlowKey<F::Address>, flow: &Flow<F::Address>, now: u32) -> bool {
    if flow.state == TcpState::Closing || is_expired(flow, key.protocol, now) {
        return true;
    }
    let partner = key.partner(flow);
    // SAFETY: entries are not freed while the program runs.
    match unsafe { F::flows().get(&partner) } {
        Some(other) => !is_partner(&partner, other, key),
        // One that another CPU is just making has its other entry in a moment.
        None => !is_fresh(flow, now),
    }
}

#[inline(always)]
fn made<A: Ip>(packet: &Packet<A>, choice: &Choice, backend: &Backend<A>) -> Flow<A> {
    let state = match packet.key.protocol {
        Protocol::Tcp if packet.flags.opens() => TcpState::Opening,
        Protocol::Tcp if packet.flags.ends() => TcpState::Closing,
        Protocol::Tcp => TcpState::Established,
        _ => TcpState::None,
    };
    let hairpin = backend.address == packet.key.source;
    Flow {
        address: backend.address,
        backend: choice.backend,
        generation: backend.generation,
        frontend: choice.frontend,
        last_seen: choice.now,
        port: backend.port,
        client_port: choice.client_port,
        direction: if hairpin { Direction::HairpinForward } else { Direction::Forward },
        state,
        reserved: 0,
    }
}

/// Counts a flow that was just made, and tells of it, if it was made here.
#[inline(always)]
fn opened<F: Family>(scratch: &mut Scratch<F::Address>, bytes: usize) -> Outcome {
    // SAFETY: written by the caller.
    let (packet, choice) = unsafe { (scratch.packet.assume_init_ref(), scratch.choice.assume_init_ref()) };
    let first = choice.attempt == Attempt::Done;
    let outcome = if !first {
        Outcome::Forwarded
    } else if packet.key.protocol == Protocol::Tcp && !packet.flags.opens() {
        Outcome::Adopted
    } else {
        Outcome::Opened
    };
    // SAFETY: entries are not freed while the program runs.
    let Some(flow) = (unsafe { F::flows().get(&packet.key) }) else { return outcome };
    count::packet(flow, bytes, first);
    if first && event::is_sampled() {
        let about = About { backend: flow.backend, generation: flow.generation };
        event::tell(EventKind::Opened, outcome, &packet.key, about);
    }
    passed(flow, outcome)
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
    if flow.state == TcpState::Opening && packet.flags.is_reset() {
        let about = About { backend: flow.backend, generation: flow.generation };
        event::tell(EventKind::BackendRefused, Outcome::Replied, &key.partner(flow), about);
    }
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

/// The time, to a jiffy: all that flows need. No call, unlike every clock that a program may ask (kernel:
/// `do_misc_fixups` puts the variable's address into the program).
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: a helper without arguments.
    maps::jiffies().tick(unsafe { bpf_jiffies64() })
}
