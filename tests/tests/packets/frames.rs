//! Frames as tests speak of them: who sends what to whom, in which dress. Their bytes are made in `wire`.

use std::net::SocketAddr;

use etherparse::{EtherType, IpNumber, TcpHeader};

/// Length of an Ethernet header without tags.
pub const ETHERNET: usize = 14;

pub const PAYLOAD: &[u8] = b"a payload of an odd length that is enough for two fragments";

/// What of TCP's flags a test sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    Syn,
    SynAck,
    Ack,
    Fin,
    Rst,
    RstAck,
}

/// A frame to be: what varies between tests.
#[derive(Clone, Debug)]
pub struct Frame {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub body: Body,
    pub tags: Vec<EtherType>,
    pub hops: u8,
    pub identification: u16,
    /// Of IPv4.
    pub options: Vec<u8>,
    /// Of IPv6: what each is, and its bytes after the first two.
    pub extensions: Vec<(IpNumber, Vec<u8>)>,
    pub fragment: Fragment,
    /// The IP header says 0, as of what is yet to be segmented.
    pub says_no_length: bool,
    /// Goes back to the one that it came from: Ethernet's ends are exchanged.
    pub is_back: bool,
}

#[derive(Clone, Debug)]
pub enum Body {
    /// The ports are the frame's.
    Tcp(TcpHeader, Vec<u8>),
    Udp {
        is_checked: bool,
        payload: Vec<u8>,
    },
    /// A checksum that nobody computes in passing.
    Sctp,
    Icmp {
        kind: u8,
        code: u8,
        rest: [u8; 4],
        payload: Vec<u8>,
    },
    /// An ICMP error with the packet it is about, of which only so many bytes are quoted behind its IP header.
    Error {
        trouble: Trouble,
        about: Box<Frame>,
        quoted: usize,
    },
    Other(IpNumber),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    Whole,
    /// A fragment header that fragments nothing (RFC 6946); of IPv4 as `Whole`.
    Atomic,
    First,
    Later,
}

/// What ICMP errors tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    TooBig(u16),
    Port,
    Protocol,
    Host,
    Time,
}

impl Trouble {
    /// RFC 792, RFC 1191, RFC 4443.
    pub fn kind(self, is_v4: bool) -> (u8, u8, [u8; 4]) {
        match (self, is_v4) {
            (Self::TooBig(mtu), true) => (3, 4, u32::from(mtu).to_be_bytes()),
            (Self::TooBig(mtu), false) => (2, 0, u32::from(mtu).to_be_bytes()),
            (Self::Port, true) => (3, 3, [0; 4]),
            (Self::Protocol, true) => (3, 2, [0; 4]),
            (Self::Host, true) => (3, 1, [0; 4]),
            (Self::Port | Self::Protocol, false) => (1, 4, [0; 4]),
            (Self::Host, false) => (1, 3, [0; 4]),
            (Self::Time, true) => (11, 0, [0; 4]),
            (Self::Time, false) => (3, 0, [0; 4]),
        }
    }
}

fn frame(from: SocketAddr, to: SocketAddr, body: Body) -> Frame {
    Frame {
        from,
        to,
        body,
        tags: Vec::new(),
        hops: 63,
        identification: 0x1234,
        options: Vec::new(),
        extensions: Vec::new(),
        fragment: Fragment::Whole,
        says_no_length: false,
        is_back: false,
    }
}

pub fn tcp(from: SocketAddr, to: SocketAddr, segment: Segment) -> Frame {
    let mut header = TcpHeader::new(0, 0, 0x0102_0304, 29_200);
    match segment {
        Segment::Syn => header.syn = true,
        Segment::SynAck => (header.syn, header.ack) = (true, true),
        Segment::Ack => header.ack = true,
        Segment::Fin => (header.fin, header.ack) = (true, true),
        Segment::Rst => header.rst = true,
        Segment::RstAck => (header.rst, header.ack) = (true, true),
    }
    if header.ack {
        header.acknowledgment_number = 0x0a0b_0c0d;
    }
    frame(from, to, Body::Tcp(header, PAYLOAD.to_vec()))
}

pub fn udp(from: SocketAddr, to: SocketAddr) -> Frame {
    frame(from, to, Body::Udp { is_checked: true, payload: PAYLOAD.to_vec() })
}

pub fn udp_unchecked(from: SocketAddr, to: SocketAddr) -> Frame {
    frame(from, to, Body::Udp { is_checked: false, payload: PAYLOAD.to_vec() })
}

pub fn sctp(from: SocketAddr, to: SocketAddr) -> Frame {
    frame(from, to, Body::Sctp)
}

pub fn echo_request(from: SocketAddr, to: SocketAddr) -> Frame {
    let kind = if from.is_ipv4() { 8 } else { 128 };
    frame(from, to, Body::Icmp { kind, code: 0, rest: [0x12, 0x34, 0, 1], payload: PAYLOAD.to_vec() })
}

pub fn other(from: SocketAddr, to: SocketAddr, number: IpNumber) -> Frame {
    frame(from, to, Body::Other(number))
}

/// An error that quotes the whole packet.
pub fn error(from: SocketAddr, to: SocketAddr, trouble: Trouble, about: &Frame) -> Frame {
    frame(from, to, Body::Error { trouble, about: Box::new(about.clone()), quoted: usize::MAX })
}

impl Frame {
    /// The same from somewhere else.
    #[must_use]
    pub fn from(&self, from: SocketAddr) -> Self {
        Self { from, ..self.clone() }
    }

    /// The same to somewhere else.
    #[must_use]
    pub fn to(&self, to: SocketAddr) -> Self {
        Self { to, ..self.clone() }
    }

    /// The same on the way back to the one who sent it.
    #[must_use]
    pub fn back(&self) -> Self {
        Self { is_back: !self.is_back, ..self.clone() }
    }

    #[must_use]
    pub fn fragment(&self, fragment: Fragment) -> Self {
        Self { fragment, ..self.clone() }
    }

    /// The same error about another packet.
    #[must_use]
    pub fn about(&self, packet: &Self) -> Self {
        let Body::Error { trouble, quoted, .. } = self.body else { panic!("{self:?} is no error") };
        Self { body: Body::Error { trouble, quoted, about: Box::new(packet.clone()) }, ..self.clone() }
    }

    /// The same error with so many bytes of what it is about behind its IP header.
    #[must_use]
    pub fn quoting(&self, bytes: usize) -> Self {
        let mut short = self.clone();
        let Body::Error { quoted, .. } = &mut short.body else { panic!("{self:?} is no error") };
        *quoted = bytes;
        short
    }

    /// The same with other data.
    #[must_use]
    /// With this sequence number.
    pub fn numbered(&self, sequence_number: u32) -> Self {
        let mut frame = self.clone();
        let Body::Tcp(header, _) = &mut frame.body else { panic!("{self:?} has no sequence number") };
        header.sequence_number = sequence_number;
        frame
    }

    pub fn with_payload(&self, bytes: &[u8]) -> Self {
        let mut other = self.clone();
        match &mut other.body {
            Body::Tcp(_, payload) | Body::Udp { payload, .. } | Body::Icmp { payload, .. } => {
                *payload = bytes.to_vec();
            }
            _ => panic!("{self:?} has no payload"),
        }
        other
    }
}
