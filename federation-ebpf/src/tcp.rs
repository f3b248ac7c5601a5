//! The life of a TCP connection as a bystander sees it: from flags alone.

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

    /// Ends a connection, politely or not.
    #[inline(always)]
    pub fn ends(self) -> bool {
        self.0 & (Self::FIN | Self::RST) != 0
    }
}

/// Where a flow stands.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// UDP, which has no states.
    None = 0,
    /// The client has sent SYN and not yet acknowledged an answer.
    Opening = 1,
    Established = 2,
    /// FIN or RST was seen in either direction; a new SYN makes a new flow.
    Closing = 3,
}

impl TcpState {
    /// The state after a packet of the client.
    #[inline(always)]
    #[must_use]
    pub fn after(self, flags: Flags) -> Self {
        match self {
            Self::None => Self::None,
            Self::Closing => Self::Closing,
            Self::Opening | Self::Established if flags.ends() => Self::Closing,
            Self::Opening if flags.opens() => Self::Opening,
            Self::Opening | Self::Established => Self::Established,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{TcpState::*, *};

    #[test]
    fn every_transition() {
        let (syn, ack, fin, rst) = (Flags::SYN, Flags::ACK, Flags::FIN, Flags::RST);
        for (state, flags, next) in [
            (None, syn, None),
            (None, rst, None),
            (Opening, syn, Opening),
            (Opening, ack, Established),
            (Opening, fin | ack, Closing),
            (Opening, rst, Closing),
            (Established, ack, Established),
            (Established, syn, Established),
            (Established, fin | ack, Closing),
            (Established, rst | ack, Closing),
            (Closing, ack, Closing),
            (Closing, syn, Closing),
        ] {
            assert_eq!(state.after(Flags(flags)), next, "{state:?} {flags:#x}");
        }
    }

    #[test]
    fn only_a_bare_syn_opens() {
        for (flags, opens) in [
            (Flags::SYN, true),
            (Flags::SYN | Flags::ACK, false),
            (Flags::SYN | Flags::RST, false),
            (Flags::ACK, false),
            (0, false),
        ] {
            assert_eq!(Flags(flags).opens(), opens, "{flags:#x}");
        }
    }
}
