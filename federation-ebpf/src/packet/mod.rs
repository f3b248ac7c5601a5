//! Reading a packet: from bytes to what the programs decide by.
//!
//! Two ways lead there. [`plain`] reads what nearly every packet is, in place and at fixed offsets; [`network`] and what
//! follows it read anything: options, extension headers, fragments, whatever the driver has left out of the linear
//! part.

mod bytes;
pub mod icmp;
mod v4;
mod v6;

use core::mem::MaybeUninit;

use network_types::{eth::EthHdr, tcp::TcpHdr};

use crate::{
    address::Address,
    checksum::Difference,
    frame::Frame,
    maps::{FlowKey, FragmentKey, Ports, Protocol},
    outcome::Outcome,
    tcp::Flags,
};

pub use bytes::{Bytes, Plain};

/// Numbers of what follows a network header (IANA, "Assigned Internet Protocol Numbers").
pub mod number {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

/// The word of TCP's header that is its sequence number.
const TCP_SEQUENCE_WORD: usize = 1;

/// The word of TCP's header with its flags, and where they are in it.
const TCP_FLAGS_WORD: usize = 3;
const TCP_FLAGS_SHIFT: u32 = 16;
/// Where TCP's header has its checksum.
pub const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const UDP_LENGTH: usize = 8;
/// SCTP's common header (RFC 9260, section 3.1).
const SCTP_LENGTH: usize = 12;

/// A family's network header.
pub trait Ip: Address + Plain {
    /// What a frame's type field says, in network order.
    const ETHER_TYPE: u16;
    /// Length of the header without options.
    const HEADER: usize;
    /// Where the source address is in the header; the destination follows it at once.
    const SOURCE: usize;
    /// The family's ICMP.
    const ICMP: u8;

    /// The header at `network`, if it has no options, is no fragment and a plain TCP or UDP header follows.
    fn plain(frame: &impl Bytes, network: usize) -> Option<Network<Self>>;

    /// The header at `network`, without what may stand between it and the transport header.
    fn header(frame: &impl Bytes, network: usize) -> Result<Network<Self>, Outcome>;

    /// Walks past one extension header; whether there was one.
    fn walk(frame: &impl Bytes, network: &mut Network<Self>) -> Result<bool, Outcome>;

    /// A header from its eighth byte on, with all of a plain TCP or UDP header behind it, by words in network order: what
    /// translation changes, and no more than that between.
    type TcpWindow: Plain + AsMut<[u32]>;
    type UdpWindow: Plain + AsMut<[u32]>;

    /// Words in front of the transport header in such a window.
    const LEAD: usize;

    /// Puts these ends and the header's `checksum`, if it has one, into such a window.
    fn put_ends(window: &mut [u32], checksum: u16, source: Self, destination: Self);

    /// Puts source and destination `new` where `old` are, and the header's `checksum`, if it has one.
    fn store_ends(
        frame: impl Frame,
        network: usize,
        checksum: u16,
        old: [Self; 2],
        new: [Self; 2],
    ) -> Result<(), Outcome>;

    /// The header's checksum after a change of its addresses.
    fn header_checksum(checksum: u16, change: Difference) -> u16;
}

/// What a network header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network<A> {
    pub source: A,
    pub destination: A,
    /// What follows, by IANA's number.
    pub protocol: u8,
    /// Offset of the header.
    pub offset: usize,
    /// Offset of what follows.
    pub transport: usize,
    /// Bytes that follow. As the header says, or, in what will yet be segmented, as many as there are.
    pub length: u32,
    /// IPv4's checksum.
    pub checksum: u16,
    pub fragment: Fragment,
}

/// Which part of a datagram a packet is. With the identification that its parts have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    Whole,
    First(u32),
    Later(u32),
}

/// A TCP, UDP or SCTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<A> {
    pub key: FlowKey<A>,
    /// Offset of the network header.
    pub network: usize,
    /// Offset of the transport header, or of where a later fragment goes on.
    pub transport: usize,
    /// Bytes from there on.
    pub length: u32,
    /// Of TCP; else none is set.
    pub flags: Flags,
    /// The lower half of TCP's sequence number, enough to tell a SYN that is sent again from another's; else 0.
    pub sequence: u16,
    /// The IPv4 header's.
    pub checksum: u16,
    pub fragment: Fragment,
}

/// What is heeded of a TCP header beside its ports.
struct Tcp {
    flags: Flags,
    sequence: u16,
}

impl Tcp {
    /// Of another protocol, or a later fragment.
    const NONE: Self = Self { flags: Flags(0), sequence: 0 };

    /// From the words of the header, as they lie in the packet.
    #[inline(always)]
    fn of(sequence: u32, flags: u32) -> Self {
        Self {
            flags: Flags((u32::from_be(flags) >> TCP_FLAGS_SHIFT) as u8),
            sequence: u32::from_be(sequence) as u16,
        }
    }
}

/// Where the network header is and what it is, behind at most two VLAN tags (IEEE 802.1Q, 802.1ad).
#[inline(always)]
pub fn link(frame: &impl Bytes) -> Option<(u16, usize)> {
    const ETHER_TYPE: usize = 12;
    const TAG: usize = 4;
    let mut at = ETHER_TYPE;
    let mut ether_type: u16 = frame.read(at)?;
    for _ in 0..2 {
        if !is_tag(ether_type) {
            break;
        }
        at += TAG;
        ether_type = frame.read(at)?;
    }
    Some((ether_type, at + EthHdr::LEN - ETHER_TYPE))
}

#[inline(always)]
fn is_tag(ether_type: u16) -> bool {
    ether_type == 0x8100_u16.to_be() || ether_type == 0x88a8_u16.to_be()
}

/// The destination of the packet at `network`: all that most packets are asked for.
#[inline(always)]
pub fn destination<A: Ip>(frame: &impl Bytes, network: usize) -> Option<A> {
    let at = network + A::SOURCE + size_of::<A>();
    // Hardly ever is it elsewhere.
    frame.read(at).or_else(|| frame.load(at))
}

/// What nearly every packet is: TCP or UDP, whole, without options, its headers in the linear part.
#[inline(always)]
pub fn plain<A: Ip>(frame: &impl Bytes, network: usize) -> Option<Packet<A>> {
    let network = A::plain(frame, network)?;
    let (protocol, ports, tcp) = match network.protocol {
        number::TCP => {
            let tcp: [u32; TcpHdr::LEN / 4] = frame.read(network.transport)?;
            (Protocol::Tcp, tcp[0], Tcp::of(tcp[TCP_SEQUENCE_WORD], tcp[TCP_FLAGS_WORD]))
        }
        number::UDP => {
            let udp: [u32; UDP_LENGTH / 4] = frame.read(network.transport)?;
            (Protocol::Udp, udp[0], Tcp::NONE)
        }
        _ => return None,
    };
    if (network.length as usize) < header_length(protocol) {
        return None;
    }
    Some(network.carrying(protocol, ports, tcp))
}

/// Extension headers that are walked past, at most: each kind comes once, but for destination options (RFC 8200,
/// section 4.1).
const EXTENSIONS: usize = 6;

/// Reads the network header at `network` with all that it may have into `to`: in its place, for the stack of a program
/// has no room for copies of it.
///
/// # Errors
/// The header is cut off or contradicts itself, or has more extensions than anyone sends.
#[inline(always)]
pub fn network<A: Ip>(
    frame: &impl Bytes,
    network: usize,
    to: &mut MaybeUninit<Network<A>>,
) -> Result<(), Outcome> {
    let network = to.write(A::header(frame, network)?);
    for _ in 0..EXTENSIONS {
        if !A::walk(frame, network)? {
            return Ok(());
        }
    }
    Err(Outcome::Malformed)
}

/// What follows `network` of the protocols that have ports; the ports of a later fragment are 0.
///
/// # Errors
/// Its header is cut off.
#[inline(always)]
pub fn transport<A: Ip>(
    frame: &impl Bytes,
    network: &Network<A>,
    protocol: Protocol,
) -> Result<Packet<A>, Outcome> {
    if matches!(network.fragment, Fragment::Later(_)) {
        return Ok(network.carrying(protocol, 0, Tcp::NONE));
    }
    // The last byte of the header must be there too, whatever is read of it.
    let length = header_length(protocol);
    let whole = network.length as usize >= length && frame.has(network.transport + length);
    if !whole {
        return Err(Outcome::Malformed);
    }
    let ports = frame.load(network.transport).ok_or(Outcome::Malformed)?;
    let tcp = match protocol {
        Protocol::Tcp => {
            let word = |number| frame.load(network.transport + number * 4).ok_or(Outcome::Malformed);
            Tcp::of(word(TCP_SEQUENCE_WORD)?, word(TCP_FLAGS_WORD)?)
        }
        _ => Tcp::NONE,
    };
    Ok(network.carrying(protocol, ports, tcp))
}

/// The source and the destination port of a transport header that begins with this word.
#[inline(always)]
pub fn ports(word: u32) -> (u16, u16) {
    let word = u32::from_be(word);
    ((word >> 16) as u16, word as u16)
}

/// The word that a transport header with these ports begins with.
#[inline(always)]
pub fn ports_word(source: u16, destination: u16) -> u32 {
    (u32::from(source) << 16 | u32::from(destination)).to_be()
}

/// The protocol with ports that IANA gave this number.
#[inline(always)]
pub fn protocol(number: u8) -> Option<Protocol> {
    match number {
        number::TCP => Some(Protocol::Tcp),
        number::UDP => Some(Protocol::Udp),
        number::SCTP => Some(Protocol::Sctp),
        _ => None,
    }
}

#[inline(always)]
fn header_length(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => TcpHdr::LEN,
        Protocol::Udp => UDP_LENGTH,
        _ => SCTP_LENGTH,
    }
}

/// Where a window on a family's and a transport's header begins.
pub const WINDOW: usize = 8;

/// Where a protocol's header has its checksum; `None` for SCTP, whose sum over everything nobody corrects in passing.
#[inline(always)]
pub fn checksum_offset(protocol: Protocol) -> Option<usize> {
    match protocol {
        Protocol::Tcp => Some(TCP_CHECKSUM),
        Protocol::Udp => Some(UDP_CHECKSUM),
        _ => None,
    }
}

impl<A: Ip> Network<A> {
    #[inline(always)]
    fn carrying(&self, protocol: Protocol, ports: u32, Tcp { flags, sequence }: Tcp) -> Packet<A> {
        let (source_port, destination_port) = self::ports(ports);
        Packet {
            key: FlowKey::new(self.source, source_port, self.destination, destination_port, protocol),
            network: self.offset,
            transport: self.transport,
            length: self.length,
            flags,
            sequence,
            checksum: self.checksum,
            fragment: self.fragment,
        }
    }

    /// What the fragments of this packet's datagram have in common.
    #[inline(always)]
    pub fn fragment_key(&self, identification: u32, protocol: Protocol) -> FragmentKey<A> {
        FragmentKey { source: self.source, destination: self.destination, identification, protocol }
    }
}

impl<A: Ip> Packet<A> {
    #[inline(always)]
    pub fn ports(&self) -> Ports {
        Ports { source: self.key.source_port, destination: self.key.destination_port }
    }

    /// Fills in the ports that another fragment told.
    #[inline(always)]
    pub fn set_ports(&mut self, ports: Ports) {
        (self.key.source_port, self.key.destination_port) = (ports.source, ports.destination);
    }
}

#[cfg(test)]
mod tests;
