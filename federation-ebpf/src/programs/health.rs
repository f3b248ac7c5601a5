//! The kernel's half of health: which backends are used, which answer, and which let a client wait.
//!
//! Enough to send a waiting client elsewhere at once; and evidence for the agent, which decides about everybody else.
//! Nothing here is on the way of an established connection's packets.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use federation_ebpf::{
    maps::{
        ANSWERED, Backend, EventKind, Flow, FlowKey, Use, is_measured, is_silent, round_trip_microseconds,
        stamp,
    },
    outcome::Outcome,
    packet::Packet,
    tcp::TcpState,
};

use super::{
    event::{self, About},
    flow,
    maps::{BACKEND_USE, CLUSTER_ANSWERS, Family},
};

/// Whom a client that waits is not sent to again, while there is anybody else.
#[derive(Clone, Copy)]
pub struct Avoided {
    /// 0 for nobody.
    pub backend: u32,
    /// All of this cluster, [`NO_CLUSTER`] for none.
    cluster: u32,
}

/// No backend's number of its cluster.
const NO_CLUSTER: u32 = u32::MAX;

impl Avoided {
    pub const NOBODY: Self = Self { backend: 0, cluster: NO_CLUSTER };

    #[inline(always)]
    pub fn is_anybody(&self) -> bool {
        self.backend != 0
    }

    #[inline(always)]
    pub fn has<A>(&self, id: u32, backend: &Backend<A>) -> bool {
        self.is_anybody() && (id == self.backend || u32::from(backend.cluster) == self.cluster)
    }
}

/// A flow to this backend was opened, or goes on. Written once a tick, for all CPUs share it.
#[inline(always)]
pub fn used(backend: u32, now: u32) {
    if let Some(entry) = entry(backend)
        && entry.last_used != now
    {
        entry.last_used = now;
    }
}

/// A SYN of `flow`, found under `key`, has come again and nobody has answered the first: whom to avoid.
#[inline(never)]
pub fn suspect<F: Family>(key: &FlowKey<F::Address>, flow: &Flow<F::Address>, now: u32) -> Avoided {
    // What becomes of this packet is not known yet, but seldom anything else.
    event::tell(EventKind::Unanswered, Outcome::Opened, key, failed(flow));
    let cluster = match F::backends().get(flow.backend) {
        Some(backend) if is_silent_cluster(backend.cluster, now) => u32::from(backend.cluster),
        _ => NO_CLUSTER,
    };
    Avoided { backend: flow.backend, cluster }
}

/// Numbers beyond the map's are not followed: their backends are suspected each for itself.
#[inline(always)]
fn is_silent_cluster(cluster: u16, now: u32) -> bool {
    CLUSTER_ANSWERS.get(cluster.into()).is_some_and(|answered| is_silent(*answered, now))
}

/// Heeds what a backend's packet says about the backend; `flow` is the entry of replies, found under the packet's key.
#[inline(never)]
pub fn heed<F: Family>(flow: &mut Flow<F::Address>, packet: &Packet<F::Address>, now: u32) {
    let (kind, about) = match flow.state {
        TcpState::Opening if packet.flags.grants() => match granted::<F>(flow, now) {
            Some(round_trip_microseconds) => {
                (EventKind::RoundTrip, About { round_trip_microseconds, ..About::of(flow) })
            }
            None => return,
        },
        // What was granted and then ended was not refused.
        TcpState::Opening if packet.flags.is_reset() && flow.handshake != ANSWERED => {
            (EventKind::BackendRefused, failed(flow))
        }
        // The first answer is among those that find the entry due: see `open::establish`.
        TcpState::None if !flow::is_fresh(flow, now) => return succeeded(flow.backend),
        _ => return,
    };
    event::tell(kind, Outcome::Replied, &packet.key.asked(flow), about);
}

/// An ICMP error has told that `flow`, the entry of replies under `key`, has no use. Of TCP the connection itself tells.
#[inline(always)]
pub fn unreachable<F: Family>(flow: &Flow<F::Address>, key: &FlowKey<F::Address>) {
    if flow.state == TcpState::None {
        let outcome = Outcome::ErrorTranslated;
        event::tell(EventKind::BackendRefused, outcome, &key.asked(flow), failed(flow));
    }
}

/// A backend has granted a connection; how long that took, in microseconds, if it is measured.
#[inline(always)]
fn granted<F: Family>(flow: &mut Flow<F::Address>, now: u32) -> Option<u32> {
    if let Some(backend) = F::backends().get(flow.backend)
        && backend.generation == flow.generation
        && let Some(answered) = CLUSTER_ANSWERS.get_ptr_mut(backend.cluster.into())
    {
        // SAFETY: elements of an array stay; each is written whole.
        let answered = unsafe { &mut *answered };
        if *answered != now {
            *answered = now;
        }
    }
    succeeded(flow.backend);
    let opened = flow.handshake;
    if opened != ANSWERED {
        flow.handshake = ANSWERED;
    }
    // SAFETY: a helper without arguments.
    is_measured(opened).then(|| round_trip_microseconds(opened, stamp(unsafe { bpf_ktime_get_ns() })))
}

#[inline(always)]
fn succeeded(backend: u32) {
    if let Some(entry) = entry(backend)
        && entry.failures != 0
    {
        entry.failures = 0;
    }
}

/// Counts a failure of the flow's backend.
#[inline(always)]
fn failed<A>(flow: &Flow<A>) -> About {
    let mut about = About::of(flow);
    if let Some(entry) = entry(flow.backend) {
        entry.failures = entry.failures.saturating_add(1);
        about.failures = entry.failures;
    }
    about
}

#[inline(always)]
fn entry(backend: u32) -> Option<&'static mut Use> {
    let entry = BACKEND_USE.get_ptr_mut(backend)?;
    // SAFETY: elements of an array stay. Others may write meanwhile, each field whole.
    Some(unsafe { &mut *entry })
}
