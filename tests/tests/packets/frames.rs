//! Ethernet frames as they should be on the wire: every length and checksum is computed by etherparse.

use std::net::SocketAddrV4;

use etherparse::{
    IpFragOffset, IpHeaders, Ipv4Extensions, Ipv4Header, Ipv4Options, PacketBuilder, PacketBuilderStep,
    TcpHeader, ip_number,
};

/// What of TCP's flags a test sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    Syn,
    SynAck,
    Ack,
    Fin,
    Rst,
}

/// A frame to be: what varies between tests.
#[derive(Clone, Debug)]
pub struct Frame {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub kind: Kind,
    /// Bytes of IP options, a multiple of 4.
    pub options: usize,
    pub fragment: Fragment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp(Segment),
    Udp,
    /// UDP whose sender did not compute a checksum.
    UdpUnchecked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    Whole,
    First,
    Later,
}

const PAYLOAD: &[u8] = b"a payload of odd length";

pub fn tcp(from: &str, to: &str, segment: Segment) -> Frame {
    Frame {
        from: parse(from),
        to: parse(to),
        kind: Kind::Tcp(segment),
        options: 0,
        fragment: Fragment::Whole,
    }
}

pub fn udp(from: &str, to: &str) -> Frame {
    Frame { from: parse(from), to: parse(to), kind: Kind::Udp, options: 0, fragment: Fragment::Whole }
}

fn parse(address: &str) -> SocketAddrV4 {
    address.parse().expect("an address and a port")
}

impl Frame {
    /// The same from somewhere else.
    pub fn from(mut self, from: &str) -> Self {
        self.from = parse(from);
        self
    }

    /// The same to somewhere else.
    pub fn to(mut self, to: &str) -> Self {
        self.to = parse(to);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut header =
            Ipv4Header::new(0, 63, ip_number::TCP, self.from.ip().octets(), self.to.ip().octets())
                .expect("an empty payload fits");
        header.identification = 0x1234;
        header.options =
            Ipv4Options::try_from(&vec![1_u8; self.options][..]).expect("at most 40 bytes of options");
        match self.fragment {
            Fragment::Whole => header.dont_fragment = true,
            Fragment::First => header.more_fragments = true,
            Fragment::Later => header.fragment_offset = IpFragOffset::try_new(185).expect("13 bits"),
        }
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ip(IpHeaders::Ipv4(header, Ipv4Extensions::default()));
        let mut bytes = Vec::new();
        match self.kind {
            Kind::Tcp(segment) => write(builder.tcp_header(self.tcp_header(segment)), &mut bytes),
            Kind::Udp => write(builder.udp(self.from.port(), self.to.port()), &mut bytes),
            Kind::UdpUnchecked => {
                write(builder.udp(self.from.port(), self.to.port()), &mut bytes);
                let checksum = 14 + 20 + self.options + 6;
                bytes[checksum..checksum + 2].fill(0);
            }
        }
        bytes
    }

    fn tcp_header(&self, segment: Segment) -> TcpHeader {
        let mut header = TcpHeader::new(self.from.port(), self.to.port(), 0x0102_0304, 29_200);
        match segment {
            Segment::Syn => header.syn = true,
            Segment::SynAck => (header.syn, header.ack) = (true, true),
            Segment::Ack => header.ack = true,
            Segment::Fin => (header.fin, header.ack) = (true, true),
            Segment::Rst => header.rst = true,
        }
        header
    }
}

/// Both of etherparse's transport steps, which share no trait.
trait Finish {
    fn finish(self, bytes: &mut Vec<u8>);
}

impl Finish for PacketBuilderStep<TcpHeader> {
    fn finish(self, bytes: &mut Vec<u8>) {
        self.write(bytes, PAYLOAD).expect("a small payload");
    }
}

impl Finish for PacketBuilderStep<etherparse::UdpHeader> {
    fn finish(self, bytes: &mut Vec<u8>) {
        self.write(bytes, PAYLOAD).expect("a small payload");
    }
}

fn write(step: impl Finish, bytes: &mut Vec<u8>) {
    step.finish(bytes);
}
