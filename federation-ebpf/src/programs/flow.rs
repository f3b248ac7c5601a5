//! Flows: finding the translation of a packet, or opening a new one.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_ktime_get_coarse_ns};
use federation_ebpf::{
    hash,
    maps::{
        self, Affinity, Backend, BackendPlace, BackendState, Counter, Direction, Flow, FlowKey, Frontend,
        FrontendKey, Protocol,
    },
    outcome::Outcome,
    packet::Packet,
    tcp::TcpState,
};

use super::maps::{BACKEND_COUNTERS, FRONTEND_COUNTERS, Family, SLOTS};

/// Slots that a new flow may try: past a collision of reply keys, or a backend that has just died.
const ATTEMPTS: u32 = 8;

/// What a packet's destination (forward) or source (reply) becomes.
pub struct Translation<A> {
    pub address: A,
    pub port: u16,
}

/// Which backends may be chosen.
#[derive(Clone, Copy, PartialEq)]
pub enum Reach {
    Anywhere,
    /// On this node alone: replies of others would not pass here.
    Local,
}

/// Finds or opens the flow of a packet to a VIP.
#[inline(always)]
pub fn forward<F: Family>(
    packet: &Packet<F::Address>,
    bytes: u32,
    reach: Reach,
) -> Result<(Outcome, Translation<F::Address>), Outcome> {
    let now = now();
    if let Some(entry) = F::flows().get_ptr_mut(&packet.key) {
        // SAFETY: entries are not freed while the program runs; fields may change under us on another CPU, and each
        // is written whole.
        let flow = unsafe { &mut *entry };
        if continues::<F>(flow, packet) {
            follow::<F>(flow, packet, now);
            count(flow, bytes, 0);
            return Ok((Outcome::Forwarded, Translation { address: flow.address, port: flow.port }));
        }
        if packet.key.protocol == Protocol::Tcp && !packet.flags.opens() {
            return Err(Outcome::BackendGone);
        }
        let reply = packet.key.answer_from(flow.address, flow.port);
        // Either may be gone already, which is what is wanted.
        if answers::<F>(&reply, &packet.key) {
            let _ = F::flows().remove(&reply);
        }
        let _ = F::flows().remove(&packet.key);
    }
    open::<F>(packet, bytes, reach, now)
}

/// Whether the flow still stands for this packet: its backend lives and its connection is not replaced.
#[inline(always)]
fn continues<F: Family>(flow: &Flow<F::Address>, packet: &Packet<F::Address>) -> bool {
    let Some(backend) = F::backends().get(flow.backend) else { return false };
    let lives = matches!(backend.state, BackendState::Active | BackendState::Draining);
    let reopened = flow.state == TcpState::Closing && packet.flags.opens();
    lives && backend.generation == flow.generation && !reopened
}

#[inline(always)]
fn follow<F: Family>(flow: &mut Flow<F::Address>, packet: &Packet<F::Address>, now: u32) {
    let state = flow.state.after(packet.flags);
    // Written only when it changes: the cache line is shared with whoever sends the other packets.
    if state != flow.state {
        flow.state = state;
    }
    if flow.last_seen != now {
        flow.last_seen = now;
        let reply = packet.key.answer_from(flow.address, flow.port);
        // Heals a reply entry that was evicted; usually it is there.
        let _ = F::flows().insert(&reply, answering(&packet.key, flow), BPF_NOEXIST.into());
    }
}

/// Chooses a backend and remembers it: the reply's entry first, the one that makes the flow usable last.
#[inline(always)]
fn open<F: Family>(
    packet: &Packet<F::Address>,
    bytes: u32,
    reach: Reach,
    now: u32,
) -> Result<(Outcome, Translation<F::Address>), Outcome> {
    let key = &packet.key;
    let frontend_key = FrontendKey::new(key.destination, key.destination_port, key.protocol);
    // SAFETY: a frontend is replaced as a whole; the copy is one of the old or the new.
    let frontend: Frontend = *unsafe { F::frontends().get(&frontend_key) }.ok_or(Outcome::NoFrontend)?;
    if frontend.size == 0 {
        return Err(Outcome::NoBackend);
    }
    let hash = match frontend.affinity {
        Affinity::None => hash::connection(key),
        Affinity::ClientIp => hash::client(key.source),
    };
    let mut refusal = Outcome::NoBackend;
    for attempt in 0..ATTEMPTS {
        let slot = frontend.offset + hash::slot(hash, attempt, frontend.size);
        let Some(id) = SLOTS.get(slot) else { continue };
        let Some(backend) = F::backends().get(*id) else { continue };
        if backend.state != BackendState::Active {
            continue;
        }
        if reach == Reach::Local && backend.place != BackendPlace::Local {
            refusal = Outcome::NotLocal;
            continue;
        }
        let flow = opened(packet, &frontend, *id, backend, now);
        let reply = key.answer_from(flow.address, flow.port);
        if !reserve::<F>(&reply, key, &flow) {
            refusal = Outcome::NoFreeReply;
            continue;
        }
        if F::flows().insert(key, flow, 0).is_err() {
            let _ = F::flows().remove(&reply);
            return Err(Outcome::FlowsFull);
        }
        count(&flow, bytes, 1);
        let adopted = key.protocol == Protocol::Tcp && !packet.flags.opens();
        let outcome = if adopted { Outcome::Adopted } else { Outcome::Opened };
        return Ok((outcome, Translation { address: flow.address, port: flow.port }));
    }
    Err(refusal)
}

#[inline(always)]
fn opened<A: Copy>(
    packet: &Packet<A>,
    frontend: &Frontend,
    id: u32,
    backend: &Backend<A>,
    now: u32,
) -> Flow<A> {
    let is_tcp = packet.key.protocol == Protocol::Tcp;
    let state = if is_tcp { TcpState::Opening.after(packet.flags) } else { TcpState::None };
    Flow {
        address: backend.address,
        backend: id,
        generation: backend.generation,
        frontend: frontend.id,
        last_seen: now,
        port: backend.port,
        direction: Direction::Forward,
        state,
    }
}

/// The entry of what comes back on `flow`, which was asked under `key`.
#[inline(always)]
fn answering<A: Copy>(key: &FlowKey<A>, flow: &Flow<A>) -> Flow<A> {
    Flow { address: key.destination, port: key.destination_port, direction: Direction::Reply, ..*flow }
}

/// Makes the entry of what comes back, unless another flow waits for an answer under the same key: two VIPs can share a
/// backend, and a client its port.
#[inline(always)]
fn reserve<F: Family>(
    reply: &FlowKey<F::Address>,
    key: &FlowKey<F::Address>,
    flow: &Flow<F::Address>,
) -> bool {
    let answer = answering(key, flow);
    F::flows().insert(reply, answer, BPF_NOEXIST.into()).is_ok()
        || ((answers::<F>(reply, key) || is_over::<F>(reply)) && F::flows().insert(reply, answer, 0).is_ok())
}

/// Whether nobody waits for what the entry under `reply` translates: its flow is closed or was evicted.
#[inline(always)]
fn is_over<F: Family>(reply: &FlowKey<F::Address>) -> bool {
    // SAFETY: entries are not freed while the program runs.
    let Some(flow) = (unsafe { F::flows().get(reply) }) else { return true };
    let asked = reply.asked_at(flow.address, flow.port);
    // SAFETY: as above.
    let Some(forward) = (unsafe { F::flows().get(&asked) }) else { return true };
    forward.state == TcpState::Closing || (forward.address, forward.port) != (reply.source, reply.source_port)
}

/// Whether the entry under `reply` answers `key`: left from a lost forward entry, or just made on another CPU.
#[inline(always)]
fn answers<F: Family>(reply: &FlowKey<F::Address>, key: &FlowKey<F::Address>) -> bool {
    // SAFETY: entries are not freed while the program runs.
    let Some(flow) = (unsafe { F::flows().get(reply) }) else { return false };
    flow.direction == Direction::Reply && flow.address == key.destination && flow.port == key.destination_port
}

/// Finds the flow that a packet from a backend answers.
#[inline(always)]
pub fn reply<F: Family>(packet: &Packet<F::Address>, bytes: u32) -> Result<Translation<F::Address>, Outcome> {
    let key = &packet.key;
    // SAFETY: entries are not freed while the program runs.
    let flow = unsafe { F::flows().get(key) }.ok_or(Outcome::NoFlow)?;
    if flow.direction != Direction::Reply {
        return Err(Outcome::NoFlow);
    }
    if packet.flags.ends()
        && let Some(forward) = F::flows().get_ptr_mut(&key.asked_at(flow.address, flow.port))
    {
        // SAFETY: as in `forward`.
        unsafe { (*forward).state = TcpState::Closing };
    }
    count(flow, bytes, 0);
    Ok(Translation { address: flow.address, port: flow.port })
}

#[inline(always)]
fn count<A>(flow: &Flow<A>, bytes: u32, flows: u64) {
    for counter in [FRONTEND_COUNTERS.get_ptr_mut(flow.frontend), BACKEND_COUNTERS.get_ptr_mut(flow.backend)]
    {
        if let Some(counter) = counter {
            // SAFETY: this CPU's own element of a per-CPU array.
            let counter: &mut Counter = unsafe { &mut *counter };
            counter.packets += 1;
            counter.bytes += u64::from(bytes);
            counter.flows += flows;
        }
    }
}

/// The monotonic clock, to a jiffy (kernel 5.11): all that `last_seen` needs.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: a helper without arguments.
    maps::tick(unsafe { bpf_ktime_get_coarse_ns() })
}
