//! Rewriting a packet: other ends, and every checksum right.

use crate::{
    checksum::Difference,
    frame::{Covered, Frame},
    maps::{FlowKey, Protocol},
    outcome::Outcome,
    packet::{self, Fragment, Ip, Network, Packet, Plain, number},
};

/// Makes the tuple of `packet` be `to`.
#[inline(always)]
pub fn packet<A: Ip>(frame: impl Frame, packet: &Packet<A>, to: &FlowKey<A>) -> Result<(), Outcome> {
    let key = &packet.key;
    let change =
        Difference::default().address(key.source, to.source).address(key.destination, to.destination);
    let checksum = A::header_checksum(packet.checksum, change);
    let (old, new) = ([key.source, key.destination], [to.source, to.destination]);
    A::store_ends(frame, packet.network, checksum, old, new)?;
    if matches!(packet.fragment, Fragment::Later(_)) {
        return Ok(());
    }
    let same_ports = key.source_port == to.source_port && key.destination_port == to.destination_port;
    let Some(at) = packet::checksum_offset(key.protocol) else {
        return if same_ports { Ok(()) } else { Err(Outcome::PortMustStay) };
    };
    let at = packet.transport + at;
    let zero_is_none = key.protocol == Protocol::Udp;
    frame.correct(at, change, Covered::Addresses, zero_is_none)?;
    if !same_ports {
        let change = ports_change(key, to);
        frame.correct(at, change, Covered::Body, zero_is_none)?;
        frame.store(packet.transport, &packet::ports_word(to.source_port, to.destination_port))?;
    }
    Ok(())
}

/// As [`packet`], of one that [`packet::plain`] has read: with one write for all that changes.
#[inline(always)]
pub fn plain<A: Ip>(frame: impl Frame, packet: &Packet<A>, to: &FlowKey<A>) -> Result<(), Outcome> {
    match packet.key.protocol {
        Protocol::Tcp => in_one_go::<A, A::TcpWindow>(frame, packet, to, TCP),
        _ => in_one_go::<A, A::UdpWindow>(frame, packet, to, UDP),
    }
}

/// Where a transport header has its checksum: in which word, and how far from its end.
struct Place {
    word: usize,
    shift: u32,
    number: u8,
}

const TCP: Place = Place { word: 4, shift: 16, number: number::TCP };
const UDP: Place = Place { word: 1, shift: 0, number: number::UDP };

#[inline(always)]
fn in_one_go<A: Ip, Window: Plain + AsMut<[u32]>>(
    frame: impl Frame,
    packet: &Packet<A>,
    to: &FlowKey<A>,
    Place { word, shift, number }: Place,
) -> Result<(), Outcome> {
    let key = &packet.key;
    let start = packet.network + packet::WINDOW;
    let mut window: Window = frame.read(start).ok_or(Outcome::Malformed)?;
    let words = window.as_mut();
    let addresses =
        Difference::default().address(key.source, to.source).address(key.destination, to.destination);
    let ports = ports_change(key, to);
    A::put_ends(words, A::header_checksum(packet.checksum, addresses), to.source, to.destination);
    words[A::LEAD] = packet::ports_word(to.source_port, to.destination_port);

    let zero_is_none = key.protocol == Protocol::Udp;
    let place = u32::from_be(words[A::LEAD + word]);
    let old = (place >> shift) as u16;
    let pseudo = Difference::default().adds_pseudo_header(key.source, key.destination, number, packet.length);
    if !frame.may_be_partial(old == !pseudo.checksum()) {
        let both = addresses.and(ports);
        let new = if zero_is_none { both.apply_udp(old) } else { both.apply(old) };
        let others = place & !(0xffff << shift);
        words[A::LEAD + word] = (others | u32::from(new) << shift).to_be();
        return frame.store(start, &window);
    }
    // Only the kernel knows; and what it makes of the first change tells us, which saves the second.
    frame.store(start, &window)?;
    let at = packet.transport + word * 4 + 2 - shift as usize / 8;
    frame.correct(at, addresses, Covered::Addresses, zero_is_none)?;
    let partial = addresses.apply_partial(old);
    let is_partial = partial != addresses.apply(old) && frame.read(at) == Some(partial.to_be());
    if is_partial || (key.source_port, key.destination_port) == (to.source_port, to.destination_port) {
        return Ok(());
    }
    frame.correct(at, ports, Covered::Body, zero_is_none)
}

/// Makes the packet inside an ICMP error be one that `to` answers, where it was one that `key` answers; what that changes
/// in the error's own sum.
#[inline(always)]
pub fn quoted<A: Ip>(
    frame: impl Frame,
    inner: &Network<A>,
    key: &FlowKey<A>,
    to: &FlowKey<A>,
) -> Result<Difference, Outcome> {
    let addresses = ends(frame, inner, to.destination, to.source)?;
    let checksum = A::header_checksum(inner.checksum, addresses);
    let ports_change = ports_change(key, to);
    frame.store(inner.transport, &packet::ports_word(to.destination_port, to.source_port))?;
    let both = addresses.and(ports_change);
    let mut change = addresses.word(inner.checksum, checksum).and(ports_change);
    // As much of the packet is quoted as its sender saw fit: the checksum may not be there.
    if let Some(at) = packet::checksum_offset(key.protocol)
        && let Some(old) = frame.load(inner.transport + at)
    {
        let old = u16::from_be(old);
        let new = if key.protocol == Protocol::Udp { both.apply_udp(old) } else { both.apply(old) };
        frame.store(inner.transport + at, &new.to_be())?;
        change = change.and(Difference::default().word(old, new));
    }
    Ok(change)
}

/// Makes the ends of a network header be these; what that changes in a sum over them.
#[inline(always)]
pub fn ends<A: Ip>(
    frame: impl Frame,
    network: &Network<A>,
    source: A,
    destination: A,
) -> Result<Difference, Outcome> {
    let change =
        Difference::default().address(network.source, source).address(network.destination, destination);
    let checksum = A::header_checksum(network.checksum, change);
    let (old, new) = ([network.source, network.destination], [source, destination]);
    A::store_ends(frame, network.offset, checksum, old, new)?;
    Ok(change)
}

#[inline(always)]
fn ports_change<A>(key: &FlowKey<A>, to: &FlowKey<A>) -> Difference {
    Difference::default()
        .word(key.source_port, to.source_port)
        .word(key.destination_port, to.destination_port)
}
