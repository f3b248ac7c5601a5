//! The life of a connection as a bystander sees it: from flags alone, and from how long it was silent.

use crate::maps::{Protocol, TICKS_PER_SECOND};

/// The flags of a TCP header's fourteenth byte that matter here (RFC 9293, section 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;

    #[inline(always)]
    pub fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    /// Asks for a connection: SYN without ACK.
    #[inline(always)]
    pub fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN
    }

    /// Grants one: SYN with ACK.
    #[inline(always)]
    pub fn grants(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN | Self::ACK
    }

    /// Ends a connection, politely or not.
    #[inline(always)]
    pub fn ends(self) -> bool {
        self.0 & (Self::FIN | Self::RST) != 0
    }

    /// Ends one at once.
    #[inline(always)]
    pub fn is_reset(self) -> bool {
        self.has(Self::RST)
    }

    /// Neither begins nor ends anything.
    #[inline(always)]
    pub fn is_midway(self) -> bool {
        self.0 & (Self::FIN | Self::SYN | Self::RST) == 0
    }
}

/// Who sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Backend,
}

/// Where a flow stands.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// UDP and SCTP, of which nothing is followed.
    None = 0,
    /// The client has sent SYN and not yet acknowledged an answer.
    Opening = 1,
    Established = 2,
    /// FIN or RST was seen in either direction; a new SYN makes a new flow.
    Closing = 3,
}

impl TcpState {
    /// The state after a packet.
    #[inline(always)]
    #[must_use]
    pub fn after(self, side: Side, flags: Flags) -> Self {
        match (self, side) {
            (Self::None, _) => Self::None,
            (Self::Closing, _) => Self::Closing,
            (Self::Opening | Self::Established, _) if flags.ends() => Self::Closing,
            // What the backend grants may be lost on the way: only the client's acknowledgement tells.
            (Self::Opening, Side::Backend) => Self::Opening,
            (Self::Opening, Side::Client) if flags.opens() => Self::Opening,
            (Self::Opening, Side::Client) | (Self::Established, _) => Self::Established,
        }
    }

    /// Ticks of silence after which a flow is held to be over.
    ///
    /// RFC 5382, REQ-5: two hours and four minutes for established connections, four minutes for others. RFC 4787,
    /// REQ-5: five minutes for UDP. SCTP's associations are alive like TCP's connections.
    #[inline(always)]
    pub fn timeout(self, protocol: Protocol) -> u32 {
        let seconds = match (self, protocol) {
            (Self::Opening | Self::Closing, _) => 240,
            (Self::Established, _) | (Self::None, Protocol::Sctp) => 7440,
            (Self::None, _) => 300,
        };
        seconds * TICKS_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::{Side::*, TcpState::*, *};

    #[test]
    fn every_transition() {
        let (syn, ack, fin, rst) = (Flags::SYN, Flags::ACK, Flags::FIN, Flags::RST);
        for (state, side, flags, next) in [
            (None, Client, syn, None),
            (None, Client, rst, None),
            (None, Backend, rst, None),
            (Opening, Client, syn, Opening),
            (Opening, Client, ack, Established),
            (Opening, Client, fin | ack, Closing),
            (Opening, Client, rst, Closing),
            (Opening, Backend, syn | ack, Opening),
            (Opening, Backend, rst | ack, Closing),
            (Established, Client, ack, Established),
            (Established, Client, syn, Established),
            (Established, Client, fin | ack, Closing),
            (Established, Client, rst | ack, Closing),
            (Established, Backend, ack, Established),
            (Established, Backend, syn | ack, Established),
            (Established, Backend, fin | ack, Closing),
            (Established, Backend, rst, Closing),
            (Closing, Client, ack, Closing),
            (Closing, Client, syn, Closing),
            (Closing, Backend, ack, Closing),
        ] {
            assert_eq!(state.after(side, Flags(flags)), next, "{state:?} {side:?} {flags:#x}");
        }
    }

    #[test]
    fn only_a_bare_syn_opens() {
        for (flags, opens, grants) in [
            (Flags::SYN, true, false),
            (Flags::SYN | Flags::ACK, false, true),
            (Flags::SYN | Flags::RST, false, false),
            (Flags::ACK, false, false),
            (0, false, false),
        ] {
            assert_eq!((Flags(flags).opens(), Flags(flags).grants()), (opens, grants), "{flags:#x}");
        }
    }
}
