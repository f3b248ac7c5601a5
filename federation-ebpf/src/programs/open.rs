//! Opening a flow: a backend is chosen for a client's first packet, and both entries are made.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_ktime_get_ns};
use federation_ebpf::{
    hash,
    maps::{
        ANSWERED, Affinity, Backend, BackendPlace, BackendState, Direction, EventKind, Flow, FlowKey,
        Frontend, FrontendKey, Protocol, TICKS_PER_SECOND, UNMEASURED, stamp,
    },
    outcome::Outcome,
    packet::{Ip, Packet},
    slots::Table,
    tcp::TcpState,
};

use super::{
    count,
    event::{self, About},
    flow::{is_expired, now, passed, silence},
    health::{self, Avoided},
    maps::{Family, id_in},
    scratch::Scratch,
};

/// Slots that a new flow may try: past a collision of reply keys, a backend that has just died, or one that is avoided.
/// Few, for the verifier walks through each.
const SLOT_ATTEMPTS: u32 = 10;

/// Those of them that a client who waits for another backend tries in the fallback, if there is one.
const FALLBACK_ATTEMPTS: core::ops::Range<u32> = 6..9;

/// The one at which nobody is avoided any more: a client may as well ask a silent backend again.
const LAST_ATTEMPT: u32 = SLOT_ATTEMPTS - 1;

/// Ports that a new flow may try for its client, once no slot will do.
const PORT_ATTEMPTS: u32 = 4;

/// Which backends may be chosen.
#[derive(Clone, Copy, PartialEq)]
pub enum Reach {
    Anywhere,
    /// On this node alone: replies of others would not pass here.
    Local,
}

/// What a new flow is made of, beside its first packet.
pub struct Choice {
    frontend: u32,
    near: Table,
    fallback: Table,
    affinity: Affinity,
    /// What picks the slots.
    hash: u32,
    /// Different for every connection of a client.
    spread: u32,
    avoided: Avoided,
    /// The best of those that were passed over because they are avoided; 0 for none yet.
    spare: u32,
    backend: u32,
    /// The first backend whose slot was met, for which only the client's port was taken; 0 for none yet.
    first: u32,
    client_port: u16,
    opened: u16,
    now: u32,
    /// Whether the agent is told of it.
    is_sampled: bool,
    /// How the last attempt went.
    attempt: Attempt,
    /// The outcome if none succeeds.
    refusal: Outcome,
}

impl Choice {
    /// The backend to try.
    #[inline(always)]
    fn candidate(&self, attempt: u32) -> Option<u32> {
        if attempt == LAST_ATTEMPT && self.spare != 0 {
            return Some(self.spare);
        }
        let falls_back = FALLBACK_ATTEMPTS.contains(&attempt) && self.fallback.size != 0;
        let table = if falls_back { self.fallback } else { self.near };
        id_in(table, hash::slot(self.hash, attempt, table.size))
    }

    /// Whether another is to be tried first. Who is only of a silent cluster is still better than the silent one itself.
    #[inline(always)]
    fn passes_over<A>(&mut self, id: u32, backend: &Backend<A>, attempt: u32) -> bool {
        if attempt == LAST_ATTEMPT || !self.avoided.has(id, backend) {
            return false;
        }
        if self.spare == 0 || self.spare == self.avoided.backend {
            self.spare = id;
        }
        true
    }
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

/// Chooses a backend for the packet in `scratch` and remembers it; as `flow::forward` otherwise.
#[inline(always)]
pub fn open<F: Family>(scratch: &mut Scratch<F::Address>, bytes: usize, reach: Reach) -> Outcome {
    match prepare::<F>(scratch, reach) {
        Some(refusal) => refusal,
        None => choose::<F>(scratch, bytes, reach),
    }
}

/// Writes into `scratch` what there is to choose from; the refusal if there is nothing.
#[inline(never)]
fn prepare<F: Family>(scratch: &mut Scratch<F::Address>, reach: Reach) -> Option<Outcome> {
    // SAFETY: written by the caller.
    let (packet, avoided) = unsafe { (scratch.packet.assume_init_ref(), scratch.avoided.assume_init()) };
    let key = &packet.key;
    let frontend_key = FrontendKey::new(key.destination, key.destination_port, key.protocol);
    // SAFETY: an entry that is replaced is kept while programs run that may read it.
    let Some(frontend) = (unsafe { F::frontends().get(&frontend_key) }) else {
        return Some(Outcome::NoFrontend);
    };
    let Frontend { id, offset, size, fallback_offset, fallback_size, affinity, .. } = *frontend;
    if size == 0 {
        return Some(Outcome::NoBackend);
    }
    let spread = hash::connection(key);
    // Nobody beyond the nearest is on this node, and who does not wait needs nobody farther.
    let may_fall_back = avoided.is_anybody() && reach == Reach::Anywhere;
    let is_sampled = event::is_sampled();
    // In the scratch and not in registers: the verifier would walk through all that follows for each of their values.
    scratch.choice.write(Choice {
        frontend: id,
        near: Table { offset, size },
        fallback: Table { offset: fallback_offset, size: if may_fall_back { fallback_size } else { 0 } },
        affinity,
        hash: match affinity {
            Affinity::None => spread,
            Affinity::ClientIp => hash::client(key.source),
        },
        spread,
        avoided,
        spare: 0,
        backend: 0,
        first: 0,
        client_port: key.source_port,
        opened: opened_at(packet, is_sampled && !avoided.is_anybody()),
        now: now(),
        is_sampled,
        attempt: Attempt::Taken,
        refusal: Outcome::NoBackend,
    });
    None
}

#[inline(never)]
fn choose<F: Family>(scratch: &mut Scratch<F::Address>, bytes: usize, reach: Reach) -> Outcome {
    for attempt in 0..SLOT_ATTEMPTS {
        let choice = choice_in(scratch);
        let Some(id) = choice.candidate(attempt) else { continue };
        let Some(backend) = F::backends().get(id) else { continue };
        if backend.state != BackendState::Active {
            continue;
        }
        if reach == Reach::Local && backend.place != BackendPlace::Local {
            choice.refusal = Outcome::NotLocal;
            continue;
        }
        if choice.passes_over(id, backend, attempt) {
            continue;
        }
        choice.backend = id;
        if choice.first == 0 {
            choice.first = id;
        }
        // With affinity the backend is what matters, not the port.
        if try_establish::<F>(scratch) != Attempt::Taken || choice_in(scratch).affinity == Affinity::ClientIp
        {
            break;
        }
    }
    if choice_in(scratch).attempt == Attempt::Taken
        && let Some(refusal) = try_ports::<F>(scratch)
    {
        return refusal;
    }
    match choice_in(scratch).attempt {
        Attempt::Done | Attempt::Outrun => opened::<F>(scratch, bytes),
        Attempt::Taken => Outcome::NoFreeReply,
        Attempt::Full => Outcome::FlowsFull,
        Attempt::PortMustStay => Outcome::PortMustStay,
    }
}

/// Tries other ports of the client's at the first backend whose slot was met; the refusal if there is none to try.
#[inline(always)]
fn try_ports<F: Family>(scratch: &mut Scratch<F::Address>) -> Option<Outcome> {
    let choice = choice_in(scratch);
    if choice.first == 0 {
        return Some(choice.refusal);
    }
    choice.backend = choice.first;
    // SAFETY: written by the caller. SCTP's checksum covers the port and cannot be corrected.
    if unsafe { scratch.packet.assume_init_ref() }.key.protocol == Protocol::Sctp {
        return None;
    }
    for attempt in 0..PORT_ATTEMPTS {
        let choice = choice_in(scratch);
        choice.client_port = hash::port(choice.spread, attempt);
        if try_establish::<F>(scratch) != Attempt::Taken {
            break;
        }
    }
    None
}

#[inline(always)]
fn choice_in<A>(scratch: &mut Scratch<A>) -> &mut Choice {
    // SAFETY: written by `prepare`, which comes before all who ask.
    unsafe { scratch.choice.assume_init_mut() }
}

/// What the entry of replies knows of the handshake. The clock is asked for those alone that are measured.
///
/// Whose SYN is sent again is not (Karn's algorithm, RFC 6298, section 3): where the same backend was chosen once more, an
/// answer to the first SYN cannot be told from one to the second.
#[inline(always)]
fn opened_at<A>(packet: &Packet<A>, is_measured: bool) -> u16 {
    if packet.key.protocol != Protocol::Tcp || !packet.flags.opens() {
        ANSWERED
    } else if is_measured {
        // SAFETY: a helper without arguments.
        stamp(unsafe { bpf_ktime_get_ns() })
    } else {
        UNMEASURED
    }
}

/// Tries to make a flow of what is in `scratch`.
#[inline(always)]
fn try_establish<F: Family>(scratch: &mut Scratch<F::Address>) -> Attempt {
    note_attempt::<F>(scratch);
    choice_in(scratch).attempt
}

/// The result goes through the scratch for the same reason as the choice.
#[inline(never)]
fn note_attempt<F: Family>(scratch: &mut Scratch<F::Address>) {
    let attempt = establish::<F>(scratch);
    choice_in(scratch).attempt = attempt;
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
    let to = scratch.to.write(key.sent(flow));
    let reply = scratch.reply.write(to.reversed());
    let answer = scratch.answer.write(flow.opposite(key));
    answer.handshake = choice.opened;
    if flow.state == TcpState::None {
        // Due to be written, so that the backend's first answer takes the long way and is heeded there: no state of the
        // flow tells it from the others.
        answer.last_seen = choice.now.wrapping_sub(TICKS_PER_SECOND);
    }
    if F::flows().insert(&*reply, &*answer, BPF_NOEXIST.into()).is_err() {
        // SAFETY: entries are not freed while the program runs.
        let Some(other) = (unsafe { F::flows().get(&*reply) }) else { return Attempt::Full };
        // Ours is left from a lost entry, or was just made by another CPU.
        let ours = !other.direction.is_forward() && reply.asked(other) == *key;
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
    *to = key.sent(winner);
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
    let partner = key.asked(flow);
    // SAFETY: entries are not freed while the program runs.
    match unsafe { F::flows().get(&partner) } {
        Some(other) => !other.direction.is_forward() || partner.sent(other).reversed() != *key,
        // One that another CPU is just making has its other entry in a moment. It may be as old as a second by then.
        None => silence(flow, now) >= 2 * TICKS_PER_SECOND,
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
        handshake: packet.sequence,
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
    if first {
        health::used(flow.backend, choice.now);
        if choice.is_sampled {
            event::tell(EventKind::Opened, outcome, &packet.key, About::of(flow));
        }
    }
    passed(flow, outcome)
}
