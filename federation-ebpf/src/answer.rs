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

/// Headers as words in network order.
pub type TcpHeader = [u32; TcpHdr::LEN / 4];
pub type IcmpHeader = [u32; icmp::HEADER / 4];

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
    fn new_header(source: Self, destination: Self, protocol: u8, length: u16) -> Self::Header;

    /// Type and code of an ICMP message, as one number.
    fn unreachable(why: Unreachable) -> u16;
}

impl Answer for [u8; 4] {
    type Header = [u32; Ipv4Hdr::LEN / 4];

    #[inline(always)]
    fn new_header(source: Self, destination: Self, protocol: u8, length: u16) -> Self::Header {
        let total = Ipv4Hdr::LEN as u16 + length;
        let hops = u16::from(HOP_LIMIT) << 8 | u16::from(protocol);
        // Don't fragment; then an identification means nothing (RFC 6864).
        let sum = Difference::default()
            .adds(0x4500)
            .adds(total)
            .adds(0x4000)
            .adds(hops)
            .adds_address(source)
            .adds_address(destination);
        [
            word(0x4500, total),
            word(0, 0x4000),
            word(hops, sum.checksum()),
            u32::from_ne_bytes(source),
            u32::from_ne_bytes(destination),
        ]
    }

    #[inline(always)]
    fn unreachable(why: Unreachable) -> u16 {
        // RFC 792, RFC 1122 section 3.2.2.1.
        match why {
            Unreachable::Port => 0x0303,
            Unreachable::Protocol => 0x0302,
            Unreachable::Host => 0x0301,
        }
    }
}

impl Answer for [u8; 16] {
    type Header = [u64; Ipv6Hdr::LEN / 8];

    #[inline(always)]
    fn new_header(source: Self, destination: Self, protocol: u8, length: u16) -> Self::Header {
        let start =
            0x6000_0000 << 32 | u64::from(length) << 16 | u64::from(protocol) << 8 | u64::from(HOP_LIMIT);
        let (source, destination) = (u128::from_ne_bytes(source), u128::from_ne_bytes(destination));
        let halves = |address: u128| {
            let (high, low) = if cfg!(target_endian = "little") {
                (address, address >> 64)
            } else {
                (address >> 64, address)
            };
            (high as u64, low as u64)
        };
        let ((a, b), (c, d)) = (halves(source), halves(destination));
        [start.to_be(), a, b, c, d]
    }

    #[inline(always)]
    fn unreachable(why: Unreachable) -> u16 {
        // RFC 4443, section 3.1. A protocol that is not there has a message of another kind, which says where its
        // number stands; to a client it comes to the same.
        match why {
            Unreachable::Port | Unreachable::Protocol => 0x0104,
            Unreachable::Host => 0x0103,
        }
    }
}

/// The header that ends the connection of `packet`, whose own is `header`; its checksum is 0.
///
/// RFC 9293, section 3.10.7.1: acceptable to the sender whatever the state of the connection is.
#[inline(always)]
pub fn reset<A: Ip>(packet: &Packet<A>, header: &TcpHeader) -> TcpHeader {
    let [_, sequence, acknowledged, fourth, _] = header.map(u32::from_be);
    let (sequence, acknowledged, flags) = if packet.flags.has(Flags::ACK) {
        (acknowledged, 0, Flags::RST)
    } else {
        let data = packet.length.saturating_sub((fourth >> 28) * 4);
        let controls = u32::from(packet.flags.has(Flags::SYN)) + u32::from(packet.flags.has(Flags::FIN));
        (0, sequence.wrapping_add(data).wrapping_add(controls), Flags::RST | Flags::ACK)
    };
    [
        word(packet.key.destination_port, packet.key.source_port),
        sequence.to_be(),
        acknowledged.to_be(),
        word(0x5000 | u16::from(flags), 0),
        0,
    ]
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
    let kind = A::unreachable(why);
    let mut sum = quoted.adds(kind);
    if A::ICMP == number::ICMPV6 {
        let length = icmp::HEADER as u32 + u32::from(quoted_length);
        sum = sum.adds_pseudo_header(source, destination, number::ICMPV6, length);
    }
    [word(kind, sum.checksum()), 0]
}

/// What a header adds to the sum over itself.
#[inline(always)]
pub fn tcp_sum(header: &TcpHeader) -> Difference {
    let mut sum = Difference::default();
    for word in header.map(u32::from_be) {
        sum = sum.adds((word >> 16) as u16).adds(word as u16);
    }
    sum
}

/// Two halves of a word in network order.
#[inline(always)]
fn word(high: u16, low: u16) -> u32 {
    (u32::from(high) << 16 | u32::from(low)).to_be()
}
