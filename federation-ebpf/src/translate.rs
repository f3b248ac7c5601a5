//! Rewriting a packet: other ends, and every checksum right.

use crate::{
    checksum::Difference,
    frame::{Covered, Frame},
    maps::{FlowKey, Protocol},
    outcome::Outcome,
    packet::{self, Fragment, Ip, Network, Packet},
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
