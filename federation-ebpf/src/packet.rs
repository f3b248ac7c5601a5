//! Reading a packet: from bytes to what the programs decide by.

use network_types::{
    eth::{EthHdr, EtherType},
    ip::Ipv4Hdr,
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::{
    maps::{FlowKey, Protocol},
    outcome::Outcome,
    tcp::Flags,
};

/// Bytes of a frame that may be read at any offset; what lies beyond its end is not there.
pub trait Frame {
    /// `T` has no invalid bit patterns and no alignment: a header of byte arrays.
    fn read<T: Plain>(&self, offset: usize) -> Option<T>;
}

/// Types that any bytes make a value of, at any address.
///
/// # Safety
/// Every bit pattern is valid, there is no padding, and the alignment is 1.
pub unsafe trait Plain: Copy {}

// SAFETY: byte arrays, and network-types' headers made of nothing else.
unsafe impl<const N: usize> Plain for [u8; N] {}
// SAFETY: see above.
unsafe impl Plain for Ipv4Hdr {}
// SAFETY: see above.
unsafe impl Plain for UdpHdr {}

/// Offset of the network header: frames are untagged Ethernet.
pub const NETWORK: usize = EthHdr::LEN;

/// Headers up to here must be in the linear part: the longest IPv4 header and a TCP header without options.
pub const HEADERS: usize = NETWORK + 60 + TcpHdr::LEN;

const ETHER_TYPE: usize = 12;
const TCP_FLAGS: usize = 13;

/// A TCP or UDP packet over IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<A> {
    pub key: FlowKey<A>,
    /// Offset of the TCP or UDP header.
    pub transport: usize,
    /// None set for UDP.
    pub flags: Flags,
    /// The IPv4 header's.
    pub checksum: u16,
}

impl<A> Packet<A> {
    /// Offset of the transport header's checksum.
    #[inline(always)]
    pub fn transport_checksum(&self) -> usize {
        self.transport + if self.key.protocol == Protocol::Tcp { 16 } else { 6 }
    }
}

/// The IPv4 header, if the frame has one.
#[inline(always)]
pub fn ipv4(frame: &impl Frame) -> Option<Ipv4Hdr> {
    let ether_type = u16::from_ne_bytes(frame.read(ETHER_TYPE)?);
    if ether_type != EtherType::Ipv4 as u16 {
        return None;
    }
    frame.read(NETWORK)
}

/// What follows the IPv4 header.
///
/// # Errors
/// The outcome for a packet that is to a VIP but cannot be translated.
#[inline(always)]
pub fn transport(frame: &impl Frame, ip: &Ipv4Hdr) -> Result<Packet<[u8; 4]>, Outcome> {
    let header = usize::from(ip.vihl & 0x0f) * 4;
    if ip.vihl >> 4 != 4 || header < Ipv4Hdr::LEN {
        return Err(Outcome::Malformed);
    }
    // All but "don't fragment": an offset, or more to come.
    if u16::from_be_bytes(ip.frags) & 0x3fff != 0 {
        return Err(Outcome::Fragment);
    }
    let transport = NETWORK + header;
    let (protocol, length, ports, flags) = match ip.proto {
        6 => {
            let tcp: [u8; TcpHdr::LEN] = frame.read(transport).ok_or(Outcome::Malformed)?;
            (Protocol::Tcp, TcpHdr::LEN, [tcp[0], tcp[1], tcp[2], tcp[3]], Flags(tcp[TCP_FLAGS]))
        }
        17 => {
            let udp: UdpHdr = frame.read(transport).ok_or(Outcome::Malformed)?;
            (Protocol::Udp, UdpHdr::LEN, [udp.src[0], udp.src[1], udp.dst[0], udp.dst[1]], Flags(0))
        }
        _ => return Err(Outcome::UnknownProtocol),
    };
    if usize::from(u16::from_be_bytes(ip.tot_len)) < header + length {
        return Err(Outcome::Malformed);
    }
    let source_port = u16::from_be_bytes([ports[0], ports[1]]);
    let destination_port = u16::from_be_bytes([ports[2], ports[3]]);
    Ok(Packet {
        key: FlowKey::new(ip.src_addr, source_port, ip.dst_addr, destination_port, protocol),
        transport,
        flags,
        checksum: u16::from_be_bytes(ip.check),
    })
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    struct Bytes(Vec<u8>);

    impl Frame for Bytes {
        fn read<T: Plain>(&self, offset: usize) -> Option<T> {
            let bytes = self.0.get(offset..offset + size_of::<T>())?;
            // SAFETY: the slice holds a whole T, and a plain T may be read from any bytes anywhere.
            Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
        }
    }

    /// 10.8.1.2:40000 to 198.18.0.1:80, with `options` words of IP options.
    fn frame(protocol: u8, options: u8) -> Bytes {
        let mut bytes = std::vec![0; NETWORK];
        bytes[ETHER_TYPE..].copy_from_slice(&[0x08, 0x00]);
        let total = 20 + options * 4 + if protocol == 6 { 20 } else { 8 };
        bytes.extend([0x45 + options, 0, 0, total, 0, 1, 0x40, 0, 64, protocol, 0xab, 0xcd]);
        bytes.extend([10, 8, 1, 2, 198, 18, 0, 1]);
        bytes.extend(std::vec![1; usize::from(options) * 4]);
        bytes.extend([0x9c, 0x40, 0, 80]);
        bytes.resize(NETWORK + usize::from(total), 0);
        if protocol == 6 {
            let flags = NETWORK + 20 + usize::from(options) * 4 + TCP_FLAGS;
            bytes[flags] = Flags::SYN;
        }
        Bytes(bytes)
    }

    fn parse(frame: &Bytes) -> Option<Result<Packet<[u8; 4]>, Outcome>> {
        ipv4(frame).map(|ip| transport(frame, &ip))
    }

    #[test]
    fn tcp_and_udp_are_read_with_and_without_options() {
        for (number, protocol, flags) in
            [(6, Protocol::Tcp, Flags(Flags::SYN)), (17, Protocol::Udp, Flags(0))]
        {
            for options in [0, 1, 10] {
                let packet = parse(&frame(number, options)).unwrap().unwrap();
                assert_eq!(packet.key, FlowKey::new([10, 8, 1, 2], 40000, [198, 18, 0, 1], 80, protocol));
                assert_eq!(packet.transport, NETWORK + 20 + usize::from(options) * 4);
                assert_eq!(packet.flags, flags);
                assert_eq!(packet.checksum, 0xabcd);
            }
        }
    }

    #[test]
    fn a_cut_at_any_length_is_no_packet() {
        for number in [6, 17] {
            let whole = frame(number, 1).0;
            for length in 0..whole.len() {
                let cut = Bytes(whole[..length].to_vec());
                match parse(&cut) {
                    None => assert!(length < NETWORK + 20),
                    Some(result) => assert_eq!(result, Err(Outcome::Malformed), "cut at {length}"),
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_translated_is_named() {
        let change = |at: usize, byte: u8| {
            let mut frame = frame(6, 0);
            frame.0[NETWORK + at] = byte;
            parse(&frame)
        };
        assert_eq!(change(0, 0x44), Some(Err(Outcome::Malformed)), "header shorter than the least");
        assert_eq!(change(0, 0x65), Some(Err(Outcome::Malformed)), "version 6");
        assert_eq!(change(3, 39), Some(Err(Outcome::Malformed)), "total length short of the headers");
        assert_eq!(change(6, 0x20), Some(Err(Outcome::Fragment)), "more fragments");
        assert_eq!(change(7, 1), Some(Err(Outcome::Fragment)), "fragment offset");
        assert_eq!(change(9, 1), Some(Err(Outcome::UnknownProtocol)), "ICMP");
    }

    #[test]
    fn other_ether_types_are_nobodys_business() {
        let mut arp = frame(6, 0);
        arp.0[ETHER_TYPE + 1] = 0x06;
        assert!(parse(&arp).is_none());
    }
}
