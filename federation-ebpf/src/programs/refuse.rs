//! Refusals: who cannot be served is told so at once, by the same packet turned into the answer.
//!
//! TCP gets a reset, everything else an ICMP error that quotes its packet. Answers leave through the interface that the
//! packet came from, and only so many a second: nobody shall be able to aim them at others.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use federation_ebpf::{
    address::Address as _,
    answer::{self, Answer, Unreachable},
    checksum::Difference,
    frame::{Covered, Frame},
    maps::{EventKind, FlowKey, Protocol},
    outcome::Outcome,
    packet::{self, Fragment, Ip, Network, Packet, icmp, number},
    tcp::Flags,
};
use network_types::{eth::EthHdr, tcp::TcpHdr};

use super::{
    event::{self, About},
    hook::Hook,
    maps::{ALLOWANCE, Family},
    scratch::Scratch,
};

/// What of a packet an ICMP error quotes at most, in words of 4 bytes: the longest IPv4 header and 8 bytes more (RFC 792).
const QUOTED_WORDS: usize = 17;

/// Turns the packet in `scratch`, whose network header at least was read, into the answer that it is refused for the
/// outcome there; the outcome, or why there is no answer.
#[inline(never)]
pub fn answer<F: Family, P: Hook>(frame: P, scratch: &mut Scratch<F::Address>) -> Outcome {
    // SAFETY: written by the callers.
    let (network, reason) = unsafe { (scratch.network.assume_init_ref(), scratch.outcome.assume_init()) };
    // RFC 1122, section 3.2.2; RFC 4443, section 2.4 (e).
    if !network.source.is_one_host() || matches!(network.fragment, Fragment::Later(_)) {
        return Outcome::Unanswerable;
    }
    let protocol = packet::protocol(network.protocol);
    if protocol == Some(Protocol::Tcp) {
        return reset::<F, P>(frame, scratch);
    }
    let why = match (reason, protocol) {
        (Outcome::UnknownProtocol, _) => Unreachable::Protocol,
        (_, Some(_)) => Unreachable::Port,
        (_, None) => Unreachable::Host,
    };
    unreachable::<F, P>(frame, scratch, why)
}

#[inline(never)]
fn reset<F: Family, P: Hook>(frame: P, scratch: &Scratch<F::Address>) -> Outcome {
    // SAFETY: written by the callers.
    let (packet, reason) = unsafe { (scratch.packet.assume_init_ref(), scratch.outcome.assume_init()) };
    if packet.flags.has(Flags::RST) {
        return Outcome::Unanswerable;
    }
    if !is_allowed::<P>() {
        return Outcome::RefusalLimited;
    }
    tell(reason, &packet.key);
    match write_reset::<F::Address, P>(frame, packet) {
        Ok(()) => reason,
        Err(failure) => failure,
    }
}

/// The reset in place of the packet. Its sum is corrected from nothing, in the same two steps as any other, so that it is
/// right also where the kernel has yet to complete it.
#[inline(always)]
fn write_reset<A: Answer, P: Hook>(frame: P, packet: &Packet<A>) -> Result<(), Outcome> {
    let header: answer::TcpHeader = frame.load(packet.transport).ok_or(Outcome::Malformed)?;
    let header = answer::reset(packet, &header);
    let (source, destination) = (packet.key.destination, packet.key.source);
    let length = TcpHdr::LEN as u16;
    let transport = packet.network + A::HEADER;
    // The kernel cuts nothing off within the header whose checksum it has yet to complete: options in front of it leave no
    // room.
    frame.reshape(transport + TcpHdr::LEN, 0).map_err(|_| Outcome::Unanswerable)?;
    frame.store(packet.network, &A::new_header(source, destination, number::TCP, length))?;
    frame.store(transport, &header)?;
    let checksum = transport + packet::TCP_CHECKSUM;
    let pseudo =
        Difference::default().adds_pseudo_header(source, destination, number::TCP, u32::from(length));
    frame.correct(checksum, answer::tcp_sum(&header), Covered::Body, false)?;
    frame.correct(checksum, pseudo, Covered::Addresses, false)
}

#[inline(never)]
fn unreachable<F: Family, P: Hook>(frame: P, scratch: &Scratch<F::Address>, why: Unreachable) -> Outcome {
    // SAFETY: written by the callers.
    let (network, reason) = unsafe { (scratch.network.assume_init_ref(), scratch.outcome.assume_init()) };
    if !is_allowed::<P>() {
        return Outcome::RefusalLimited;
    }
    let protocol = packet::protocol(network.protocol);
    let word = protocol.and_then(|_| frame.load(network.transport)).unwrap_or_default();
    let (from, to) = packet::ports(word);
    let protocol = protocol.unwrap_or(Protocol::None);
    tell(reason, &FlowKey::new(network.source, from, network.destination, to, protocol));
    match write_error::<F::Address, P>(frame, network, why) {
        Ok(()) => reason,
        Err(failure) => failure,
    }
}

/// The error before the packet, of which only the beginning stays.
#[inline(always)]
fn write_error<A: Answer, P: Hook>(frame: P, network: &Network<A>, why: Unreachable) -> Result<(), Outcome> {
    let quoted = network.transport + icmp::HEADER - network.offset;
    let end = network.offset + quoted;
    if quoted > QUOTED_WORDS * 4 || !frame.has(end) {
        return Err(Outcome::Unanswerable);
    }
    let mut sum = Difference::default();
    for word in 0..QUOTED_WORDS {
        if word * 4 >= quoted {
            break;
        }
        let word = quoted_word(frame, network.offset + word * 4);
        sum = sum.adds((word >> 16) as u16).adds(word as u16);
    }
    let (source, destination) = (network.destination, network.source);
    let error = answer::error(source, destination, why, sum, quoted as u16);
    let front = A::HEADER + icmp::HEADER;
    let header = A::new_header(source, destination, A::ICMP, (icmp::HEADER + quoted) as u16);
    match network.offset - EthHdr::LEN {
        0 => move_link::<[u8; 14]>(frame, end, front)?,
        4 => move_link::<[u8; 18]>(frame, end, front)?,
        _ => move_link::<[u8; 22]>(frame, end, front)?,
    }
    frame.store(network.offset, &header)?;
    frame.store(network.offset + A::HEADER, &error)
}

/// The word at `at`, which is there. A call, for the loop around it would be unrolled otherwise and each
/// round take its own part of the stack.
#[inline(never)]
fn quoted_word<P: Hook>(frame: P, at: usize) -> u32 {
    u32::from_be(frame.load(at).unwrap_or_default())
}

/// Ends the packet, and moves its link header, of this type's length, to the new front.
#[inline(always)]
fn move_link<L: packet::Plain>(frame: impl Frame, end: usize, front: usize) -> Result<(), Outcome> {
    let link: L = frame.load(0).ok_or(Outcome::Malformed)?;
    frame.reshape(end, front)?;
    frame.store(0, &link)
}

#[inline(always)]
fn tell<A: Ip>(reason: Outcome, key: &FlowKey<A>) {
    // The end of a flow was told already, with its backend.
    if reason != Outcome::BackendGone {
        event::tell(EventKind::Refused, reason, key, About::default());
    }
}

#[inline(always)]
fn is_allowed<P: Hook>() -> bool {
    let Some(bucket) = ALLOWANCE.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own element of a per-CPU array; a helper without arguments.
    unsafe { (*bucket).take(bpf_ktime_get_ns(), P::REFUSALS) }
}
