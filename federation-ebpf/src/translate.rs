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
        return if same_ports { Ok(()) } else { Err(Outcome::NotWritable) };
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

/// Makes the packet inside an ICMP error, which ends at `end`, be one that `to` answers, where it was one that `key`
/// answers; what that changes in the error's own sum.
#[inline(always)]
pub fn quoted<A: Ip>(
    frame: impl Frame,
    inner: &Network<A>,
    end: usize,
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
        && inner.transport + at + size_of::<u16>() <= end
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

#[cfg(test)]
mod tests {
    use core::{cell::RefCell, mem::MaybeUninit};
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::packet::{Bytes, Plain};

    const ETHERNET: usize = 14;

    /// A frame in a buffer, whose checksum is complete or still to be completed, as the kernel knows it.
    #[derive(Clone, Copy)]
    struct Buffer<'a> {
        bytes: &'a RefCell<Vec<u8>>,
        partial: bool,
    }

    impl Bytes for Buffer<'_> {
        fn read<T: Plain>(&self, at: usize) -> Option<T> {
            let bytes = self.bytes.borrow();
            let bytes = bytes.get(at..at + size_of::<T>())?;
            // SAFETY: the slice holds a whole T, and a plain T may be read from any bytes anywhere.
            Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
        }

        fn load<T: Plain>(&self, at: usize) -> Option<T> {
            self.read(at)
        }

        fn length(&self) -> usize {
            self.bytes.borrow().len()
        }
    }

    impl Frame for Buffer<'_> {
        fn store<T: Plain>(self, at: usize, value: &T) -> Result<(), Outcome> {
            let mut bytes = self.bytes.borrow_mut();
            let bytes = bytes.get_mut(at..at + size_of::<T>()).ok_or(Outcome::NotWritable)?;
            // SAFETY: the slice has room for a whole T, and a plain T has no padding.
            unsafe { bytes.as_mut_ptr().cast::<T>().write_unaligned(*value) };
            Ok(())
        }

        fn correct(
            self,
            at: usize,
            change: Difference,
            covered: Covered,
            zero_is_none: bool,
        ) -> Result<(), Outcome> {
            let old = u16::from_be(self.load(at).ok_or(Outcome::NotWritable)?);
            let new = match (self.partial, covered) {
                (true, Covered::Addresses) => change.apply_partial(old),
                (true, Covered::Body) => old,
                (false, _) if zero_is_none => change.apply_udp(old),
                (false, _) => change.apply(old),
            };
            self.store(at, &new.to_be())
        }

        fn may_be_partial(self, looks: bool) -> bool {
            looks
        }

        fn reshape(self, _: usize, _: usize) -> Result<(), Outcome> {
            Err(Outcome::NotWritable)
        }
    }

    /// The packet in the buffer.
    fn read<A: Ip>(buffer: Buffer<'_>) -> Packet<A> {
        let mut network = MaybeUninit::uninit();
        packet::network::<A>(&buffer, ETHERNET, &mut network).unwrap();
        // SAFETY: read without an error, so it was written.
        let network = unsafe { network.assume_init() };
        packet::transport(&buffer, &network, packet::protocol(network.protocol).unwrap()).unwrap()
    }

    /// Arbitrary bytes behind a header that says what they are.
    fn frame<A: Ip>(protocol: u8, options: usize, mut body: Vec<u8>) -> Vec<u8> {
        let ip = if A::HEADER == 20 {
            let words = u8::try_from(5 + options).unwrap();
            let total = u8::try_from(body.len()).unwrap();
            (body[0], body[2], body[3]) = (0x40 | words, 0, total);
            body[6..8].fill(0);
            body[9] = protocol;
            body
        } else {
            let payload = u8::try_from(body.len() - 40).unwrap();
            (body[0], body[4], body[5], body[6]) = (0x60, 0, payload, protocol);
            body
        };
        [&[0x02; ETHERNET][..], &ip].concat()
    }

    /// The frame with every checksum that is 0xffff become 0, which is the same sum.
    fn canonical<A: Ip>(mut bytes: Vec<u8>, packet: &Packet<A>) -> Vec<u8> {
        let network = (A::HEADER == 20).then_some(packet.network + 10);
        let transport = packet::checksum_offset(packet.key.protocol).map(|at| packet.transport + at);
        for at in network.into_iter().chain(transport) {
            if bytes[at..at + 2] == [0xff, 0xff] {
                bytes[at..at + 2].fill(0);
            }
        }
        bytes
    }

    fn comes_back<A: Ip + core::fmt::Debug>(
        original: Vec<u8>,
        source: A,
        destination: A,
        ports: (u16, u16),
    ) -> Result<(), TestCaseError> {
        let bytes = RefCell::new(original.clone());
        let buffer = Buffer { bytes: &bytes, partial: false };
        let before = read::<A>(buffer);
        let to = FlowKey::new(source, ports.0, destination, ports.1, before.key.protocol);
        if before.key.protocol == Protocol::Sctp {
            prop_assert_eq!(super::packet(buffer, &before, &to), Err(Outcome::NotWritable));
            return Ok(());
        }
        super::packet(buffer, &before, &to).unwrap();
        let there = read::<A>(buffer);
        prop_assert_eq!(there.key, to);
        super::packet(buffer, &there, &before.key).unwrap();
        let after = read::<A>(buffer);
        prop_assert_eq!(after.key, before.key);
        let unchecked = before.key.protocol == Protocol::Udp
            && original[before.transport + 6..before.transport + 8] == [0, 0];
        prop_assert!(!unchecked || bytes.borrow()[before.transport + 6..before.transport + 8] == [0, 0]);
        prop_assert_eq!(canonical(bytes.into_inner(), &before), canonical(original, &before));
        Ok(())
    }

    /// The ways of a plain packet and of any other lead to the same bytes.
    fn both_ways_agree<A: Ip + core::fmt::Debug>(
        mut original: Vec<u8>,
        source: A,
        destination: A,
        ports: (u16, u16),
        partial: bool,
    ) -> Result<(), TestCaseError> {
        let bytes = RefCell::new(original.clone());
        let before = read::<A>(Buffer { bytes: &bytes, partial });
        let to = FlowKey::new(source, ports.0, destination, ports.1, before.key.protocol);
        if partial {
            let number = if before.key.protocol == Protocol::Tcp { number::TCP } else { number::UDP };
            let FlowKey { source, destination, .. } = before.key;
            let pseudo = Difference::default().adds_pseudo_header(source, destination, number, before.length);
            let at = before.transport + packet::checksum_offset(before.key.protocol).unwrap();
            original[at..at + 2].copy_from_slice(&(!pseudo.checksum()).to_be_bytes());
        }
        let [one, other] = [original.clone(), original].map(RefCell::new);
        super::packet(Buffer { bytes: &one, partial }, &before, &to).unwrap();
        let buffer = Buffer { bytes: &other, partial };
        let plain = packet::plain::<A>(&buffer, ETHERNET).unwrap();
        super::plain(buffer, &plain, &to).unwrap();
        prop_assert_eq!(canonical(one.into_inner(), &before), canonical(other.into_inner(), &before));
        Ok(())
    }

    proptest! {
        #[test]
        fn a_plain_packet_is_translated_as_any_other(
            protocol in prop::sample::select(std::vec![number::TCP, number::UDP]),
            body in prop::collection::vec(any::<u8>(), 84..200),
            source: [u8; 16],
            destination: [u8; 16],
            ports: (u16, u16),
            same_ports: bool,
            partial: bool,
        ) {
            let short = |address: [u8; 16]| [address[0], address[1], address[2], address[3]];
            for v4 in [true, false] {
                let frame = if v4 {
                    frame::<[u8; 4]>(protocol, 0, body.clone())
                } else {
                    frame::<[u8; 16]>(protocol, 0, body.clone())
                };
                let transport = ETHERNET + if v4 { 20 } else { 40 };
                let number = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
                let ports = if same_ports { (number(transport), number(transport + 2)) } else { ports };
                if v4 {
                    both_ways_agree(frame, short(source), short(destination), ports, partial)?;
                } else {
                    both_ways_agree(frame, source, destination, ports, partial)?;
                }
            }
        }

        #[test]
        fn there_and_back_is_where_it_began(
            protocol in prop::sample::select(std::vec![number::TCP, number::UDP, number::SCTP]),
            options in 0_usize..11,
            body in prop::collection::vec(any::<u8>(), 84..200),
            source: [u8; 16],
            destination: [u8; 16],
            ports: (u16, u16),
            unchecked: bool,
        ) {
            let short = |address: [u8; 16]| [address[0], address[1], address[2], address[3]];
            let mut v4 = frame::<[u8; 4]>(protocol, options, body.clone());
            let mut v6 = frame::<[u8; 16]>(protocol, options, body);
            if unchecked && protocol == number::UDP {
                v4[ETHERNET + (5 + options) * 4 + 6..][..2].fill(0);
                v6[ETHERNET + 40 + 6..][..2].fill(0);
            }
            comes_back(v4, short(source), short(destination), ports)?;
            comes_back(v6, source, destination, ports)?;
        }
    }
}
