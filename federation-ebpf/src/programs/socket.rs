//! Sockets in the node's own network (of pods with `hostNetwork`, and of the node itself): translated once, when they are
//! told whom to talk to, and not packet by packet. No veth of a pod's leads their packets past the other programs.
//!
//! All programs of the hooks' cgroup are asked for every socket below it, pods' as well: what is not to a VIP goes at
//! once, and what is of another network namespace next. They run in the process that asks and can be interrupted by those
//! on packets, so that the scratch is not theirs.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    programs::SockAddrContext,
};
use federation_ebpf::{
    address::Address,
    hash,
    maps::{Affinity, Backend, BackendState, Frontend, FrontendKey, SocketKey, SocketPeer},
    outcome::{Outcome, Verdict},
    packet,
    slots::Table,
};

use super::{
    count,
    flow::now,
    health,
    maps::{self, Family, SOCKETS, V4, V6},
    reply::may_be_ours,
};

/// Slots that a socket may try, past backends that have just died or are about to leave.
const SLOT_ATTEMPTS: u32 = 8;

/// `ECONNREFUSED`: what a RST or an ICMP error would have come to.
const REFUSED: i32 = -111;

/// What the kernel takes for "go on" and for "do not".
const ALLOW: i32 = 1;
const DENY: i32 = 0;

/// How long an answer holds.
#[derive(Clone, Copy, PartialEq)]
pub enum Asking {
    /// The socket is connected by it.
    ForGood,
    /// The next datagram asks again, and is to have the same backend.
    EachTime,
}

/// What a socket is told.
#[derive(Clone, Copy, PartialEq)]
pub enum Telling {
    /// Whom it is connected to.
    Peer,
    /// Whom a datagram is from: asked for everyone's.
    Sender,
}

/// The peer of a socket where a hook shows it.
trait Peer: Copy {
    type Family: Family;

    fn socket(self) -> *mut bpf_sock_addr;
    fn address(self) -> AddressOf<Self>;
    fn set_address(self, address: AddressOf<Self>);

    #[inline(always)]
    fn port(self) -> u16 {
        // SAFETY: the kernel's context; volatile, for the verifier allows no access but to whole fields. The lower half
        // holds the port in network order.
        u16::from_be(unsafe { core::ptr::read_volatile(&raw const (*self.socket()).user_port) } as u16)
    }

    #[inline(always)]
    fn set(self, address: AddressOf<Self>, port: u16) {
        self.set_address(address);
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(&raw mut (*self.socket()).user_port, port.to_be().into()) };
    }
}

type AddressOf<P> = <<P as Peer>::Family as Family>::Address;

/// Of a socket of IPv4.
#[derive(Clone, Copy)]
struct InV4(*mut bpf_sock_addr);

/// Of a socket of IPv6.
#[derive(Clone, Copy)]
struct InV6(*mut bpf_sock_addr);

/// Of a socket of IPv6 that talks to an IPv4 address, mapped into IPv6.
#[derive(Clone, Copy)]
struct Mapped(*mut bpf_sock_addr);

// === impl Peer ===

impl Peer for InV4 {
    type Family = V4;

    #[inline(always)]
    fn socket(self) -> *mut bpf_sock_addr {
        self.0
    }

    #[inline(always)]
    fn address(self) -> [u8; 4] {
        // SAFETY: as in `Peer::port`.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).user_ip4) }.to_ne_bytes()
    }

    #[inline(always)]
    fn set_address(self, address: [u8; 4]) {
        // SAFETY: as in `Peer::port`.
        unsafe { core::ptr::write_volatile(&raw mut (*self.0).user_ip4, u32::from_ne_bytes(address)) };
    }
}

impl Peer for InV6 {
    type Family = V6;

    #[inline(always)]
    fn socket(self) -> *mut bpf_sock_addr {
        self.0
    }

    #[inline(always)]
    fn address(self) -> [u8; 16] {
        let mut address = [0; 16];
        for (bytes, word) in address.as_chunks_mut().0.iter_mut().zip(words(self.0)) {
            *bytes = word.to_ne_bytes();
        }
        address
    }

    #[inline(always)]
    fn set_address(self, address: [u8; 16]) {
        for (index, word) in address.as_chunks().0.iter().enumerate() {
            // SAFETY: as in `Peer::port`; four words each.
            unsafe {
                core::ptr::write_volatile(&raw mut (*self.0).user_ip6[index], u32::from_ne_bytes(*word));
            }
        }
    }
}

impl Peer for Mapped {
    type Family = V4;

    #[inline(always)]
    fn socket(self) -> *mut bpf_sock_addr {
        self.0
    }

    #[inline(always)]
    fn address(self) -> [u8; 4] {
        words(self.0)[3].to_ne_bytes()
    }

    #[inline(always)]
    fn set_address(self, address: [u8; 4]) {
        // SAFETY: as in `Peer::port`.
        unsafe { core::ptr::write_volatile(&raw mut (*self.0).user_ip6[3], u32::from_ne_bytes(address)) };
    }
}

impl Mapped {
    #[inline(always)]
    fn of(socket: *mut bpf_sock_addr) -> Option<Self> {
        let [first, second, third, _] = words(socket);
        (first == 0 && second == 0 && third == 0xffff_u32.to_be()).then_some(Self(socket))
    }
}

#[inline(always)]
fn words(socket: *mut bpf_sock_addr) -> [u32; 4] {
    // SAFETY: as in `Peer::port`; each word by itself.
    unsafe {
        [
            core::ptr::read_volatile(&raw const (*socket).user_ip6[0]),
            core::ptr::read_volatile(&raw const (*socket).user_ip6[1]),
            core::ptr::read_volatile(&raw const (*socket).user_ip6[2]),
            core::ptr::read_volatile(&raw const (*socket).user_ip6[3]),
        ]
    }
}

#[inline(always)]
pub fn asking_v4(ctx: SockAddrContext, asking: Asking) -> i32 {
    verdict(ask(InV4(ctx.sock_addr), asking))
}

#[inline(always)]
pub fn asking_v6(ctx: SockAddrContext, asking: Asking) -> i32 {
    verdict(match Mapped::of(ctx.sock_addr) {
        Some(mapped) => ask(mapped, asking),
        None => ask(InV6(ctx.sock_addr), asking),
    })
}

#[inline(always)]
pub fn told_v4(ctx: SockAddrContext, telling: Telling) -> i32 {
    tell(InV4(ctx.sock_addr), telling);
    ALLOW
}

#[inline(always)]
pub fn told_v6(ctx: SockAddrContext, telling: Telling) -> i32 {
    match Mapped::of(ctx.sock_addr) {
        Some(mapped) => tell(mapped, telling),
        None => tell(InV6(ctx.sock_addr), telling),
    }
    ALLOW
}

#[inline(always)]
fn verdict(outcome: Outcome) -> i32 {
    count::outcome(outcome);
    if outcome.verdict() == Verdict::Pass {
        return ALLOW;
    }
    // SAFETY: a number. What it was before is nobody's.
    unsafe { bpf_set_retval(REFUSED) };
    DENY
}

/// Puts a backend in the place of a VIP.
#[inline(always)]
fn ask<P: Peer>(peer: P, asking: Asking) -> Outcome {
    let vip = peer.address();
    if !P::Family::is_vip(vip) || !is_of_host(peer) {
        return Outcome::NotOurs;
    }
    let Some(asked) = key(peer, vip) else { return Outcome::NotOurs };
    if asking == Asking::EachTime
        // SAFETY: entries are not freed while the program runs.
        && let Some(known) = unsafe { SOCKETS.get(&asked) }
        && let Some(backend) = P::Family::backends().get(known.backend)
        && backend.generation == known.generation
        && matches!(backend.state, BackendState::Active | BackendState::Draining)
    {
        return send_on(peer, &asked, known.frontend, (known.backend, backend), asking, Outcome::Forwarded);
    }
    let frontend_key = FrontendKey::new(vip, asked.port, asked.protocol);
    // SAFETY: an entry that is replaced is kept while programs run that may read it.
    let Some(frontend) = (unsafe { P::Family::frontends().get(&frontend_key) }) else {
        return Outcome::NoFrontend;
    };
    let Frontend { id, offset, size, affinity, .. } = *frontend;
    if size == 0 {
        return Outcome::NoBackend;
    }
    let hash = match affinity {
        Affinity::None => hash::socket(&asked),
        Affinity::ClientIp => maps::host().client,
    };
    let table = Table { offset, size };
    for attempt in 0..SLOT_ATTEMPTS {
        let Some(chosen) = maps::id_in(table, hash::slot(hash, attempt, size)) else { continue };
        let Some(backend) = P::Family::backends().get(chosen) else { continue };
        if backend.state == BackendState::Active {
            return send_on(peer, &asked, id, (chosen, backend), asking, Outcome::Opened);
        }
    }
    Outcome::NoBackend
}

/// Remembers both ways and turns the socket to its backend.
#[inline(always)]
fn send_on<P: Peer>(
    peer: P,
    asked: &SocketKey,
    frontend: u32,
    (id, backend): (u32, &Backend<AddressOf<P>>),
    asking: Asking,
    outcome: Outcome,
) -> Outcome {
    let Backend { address, generation, port, .. } = *backend;
    let between =
        |address, port| SocketPeer { address, backend: id, generation, frontend, port, reserved: 0 };
    let answer = SocketKey::new(asked.cookie, address, port, asked.protocol);
    let vip = between(asked.address, asked.port);
    // Written again only if it is another: one socket may ask two VIPs that lead to the same backend, and hears from the
    // one that it asked last.
    // SAFETY: entries are not freed while the program runs.
    let is_known = unsafe { SOCKETS.get(&answer) }.is_some_and(|known| *known == vip);
    if !is_known && SOCKETS.insert(&answer, &vip, 0).is_err() {
        return Outcome::FlowsFull;
    }
    if outcome == Outcome::Opened {
        if asking == Asking::EachTime && SOCKETS.insert(asked, &between(answer.address, port), 0).is_err() {
            return Outcome::FlowsFull;
        }
        count::socket(frontend, id);
    }
    health::used(id, now());
    peer.set(address, port);
    outcome
}

/// Puts the VIP back in the place of a backend.
#[inline(always)]
fn tell<P: Peer>(peer: P, telling: Telling) {
    let address = peer.address();
    // A socket may be connected to a backend for long after it has left the filter.
    if telling == Telling::Sender && !may_be_ours(address, peer.port()) || !is_of_host(peer) {
        return;
    }
    let Some(answer) = key(peer, address) else { return };
    // SAFETY: entries are not freed while the program runs.
    if let Some(vip) = unsafe { SOCKETS.get(&answer) } {
        peer.set(Address::unmapped(vip.address), vip.port);
    }
}

/// The socket and its peer; `None` of one whose protocol no VIP serves.
#[inline(always)]
fn key<P: Peer>(peer: P, address: AddressOf<P>) -> Option<SocketKey> {
    // SAFETY: as in `Peer::port`.
    let protocol =
        packet::protocol(unsafe { core::ptr::read_volatile(&raw const (*peer.socket()).protocol) } as u8)?;
    // SAFETY: the kernel's context.
    let cookie = unsafe { bpf_get_socket_cookie(peer.socket().cast()) };
    Some(SocketKey::new(cookie, address, peer.port(), protocol))
}

/// Whether the socket is in the node's own network.
#[inline(always)]
fn is_of_host<P: Peer>(peer: P) -> bool {
    // SAFETY: the kernel's context.
    unsafe { bpf_get_netns_cookie(peer.socket().cast()) == maps::host().cookie }
}
