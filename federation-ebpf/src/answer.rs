//! What a refused client is told: a TCP reset, or an ICMP error with the beginning of its packet.

use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

use crate::{
    checksum::Difference,
    packet::{Ip, Packet, Plain, icmp, number},
    tcp::Flags,
};

/// Hops that an answer may take (IANA, "IP Option Numbers": the recommended default).
const HOP_LIMIT: u8 = 64;

/// A transport header without options.
pub type TcpHeader = [u8; TcpHdr::LEN];
pub type IcmpHeader = [u8; icmp::HEADER];

/// Why a client is refused, as ICMP tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    Port,
    Protocol,
    Host,
}

/// A family's headers of answers.
pub trait Answer: Ip {
    type Header: Plain;

    /// A network header before `length` bytes of `protocol`.
    fn header(source: Self, destination: Self, protocol: u8, length: u16) -> Self::Header;

    /// Type and code of an ICMP message.
    fn unreachable(why: Unreachable) -> [u8; 2];
}

impl Answer for [u8; 4] {
    type Header = [u8; Ipv4Hdr::LEN];

    #[inline(always)]
    fn header(source: Self, destination: Self, protocol: u8, length: u16) -> Self::Header {
        let [a, b] = (Ipv4Hdr::LEN as u16 + length).to_be_bytes();
        let [c, d, e, f] = source;
        let [g, h, i, j] = destination;
        // Don't fragment; then an identification means nothing (RFC 6864).
        let sum = Difference::default()
            .adds(0x4500)
            .adds(Ipv4Hdr::LEN as u16 + length)
            .adds(0x4000)
            .adds(u16::from_be_bytes([HOP_LIMIT, protocol]))
            .adds_address(source)
            .adds_address(destination);
        let [k, l] = sum.checksum().to_be_bytes();
        [0x45, 0, a, b, 0, 0, 0x40, 0, HOP_LIMIT, protocol, k, l, c, d, e, f, g, h, i, j]
    }

    #[inline(always)]
    fn unreachable(why: Unreachable) -> [u8; 2] {
        // RFC 792, RFC 1122 section 3.2.2.1.
        match why {
            Unreachable::Port => [3, 3],
            Unreachable::Protocol => [3, 2],
            Unreachable::Host => [3, 1],
        }
    }
}

impl Answer for [u8; 16] {
    type Header = [u8; Ipv6Hdr::LEN];

    #[inline(always)]
    fn header(source: Self, destination: Self, protocol: u8, length: u16) -> Self::Header {
        let [a, b] = length.to_be_bytes();
        let mut header = [0; Ipv6Hdr::LEN];
        header[0] = 0x60;
        (header[4], header[5]) = (a, b);
        (header[6], header[7]) = (protocol, HOP_LIMIT);
        header[8..24].copy_from_slice(&source);
        header[24..40].copy_from_slice(&destination);
        header
    }

    #[inline(always)]
    fn unreachable(why: Unreachable) -> [u8; 2] {
        // RFC 4443, section 3.1. A protocol that is not there has a message of another kind, which says where its
        // number stands; to a client it comes to the same.
        match why {
            Unreachable::Port | Unreachable::Protocol => [1, 4],
            Unreachable::Host => [1, 3],
        }
    }
}

/// The header that ends the connection of `packet`, whose own is `header`; its checksum is 0.
///
/// RFC 9293, section 3.10.7.1: acceptable to the sender whatever the state of the connection is.
#[inline(always)]
pub fn reset<A: Ip>(packet: &Packet<A>, header: &TcpHeader) -> TcpHeader {
    let [a, b] = packet.key.destination_port.to_be_bytes();
    let [c, d] = packet.key.source_port.to_be_bytes();
    let (sequence, acknowledged, flags) = if packet.flags.has(Flags::ACK) {
        ([header[8], header[9], header[10], header[11]], [0; 4], Flags::RST)
    } else {
        let data = packet.length.saturating_sub(u32::from(header[12] >> 4) * 4);
        let controls = u32::from(packet.flags.has(Flags::SYN)) + u32::from(packet.flags.has(Flags::FIN));
        let next = u32::from_be_bytes([header[4], header[5], header[6], header[7]])
            .wrapping_add(data)
            .wrapping_add(controls);
        ([0; 4], next.to_be_bytes(), Flags::RST | Flags::ACK)
    };
    let [e, f, g, h] = sequence;
    let [i, j, k, l] = acknowledged;
    [a, b, c, d, e, f, g, h, i, j, k, l, 0x50, flags, 0, 0, 0, 0, 0, 0]
}

/// The header of an ICMP error; `quoted` is the sum of the packet that follows it.
#[inline(always)]
pub fn error<A: Answer>(
    source: A,
    destination: A,
    why: Unreachable,
    quoted: Difference,
    quoted_length: u16,
) -> IcmpHeader {
    let [kind, code] = A::unreachable(why);
    let mut sum = quoted.adds(u16::from_be_bytes([kind, code]));
    if A::ICMP == number::ICMPV6 {
        let length = icmp::HEADER as u32 + u32::from(quoted_length);
        sum = sum.adds_pseudo_header(source, destination, number::ICMPV6, length);
    }
    let [a, b] = sum.checksum().to_be_bytes();
    [kind, code, a, b, 0, 0, 0, 0]
}

/// What a header adds to the sum over itself.
#[inline(always)]
pub fn tcp_sum(header: &TcpHeader) -> Difference {
    let mut sum = Difference::default();
    for word in 0..TcpHdr::LEN / 2 {
        sum = sum.adds(u16::from_be_bytes([header[word * 2], header[word * 2 + 1]]));
    }
    sum
}
