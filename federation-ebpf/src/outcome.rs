//! Every way out of every program.

macro_rules! outcomes {
    ($($(#[$doc:meta])* $name:ident => $verdict:ident,)*) => {
        /// What became of a packet. All but [`Outcome::NotOurs`] are counted, in `OUTCOMES` by their number.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Outcome {
            $($(#[$doc])* $name,)*
        }

        impl Outcome {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            #[inline(always)]
            pub fn verdict(self) -> Verdict {
                match self {
                    $(Self::$name => Verdict::$verdict,)*
                }
            }
        }
    };
}

/// What the kernel shall do with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Goes on, to other programs on the hook and to the stack.
    Pass,
    Drop,
    /// Leaves through the interface that it came from.
    Back,
}

outcomes! {
    /// Neither to a VIP nor from a backend. Not counted: this is everyone else's traffic.
    NotOurs => Pass,
    /// Of a known flow, to its backend.
    Forwarded => Pass,
    /// First packet of a new flow.
    Opened => Pass,
    /// In the middle of a TCP connection whose flow was lost: opened as the tables say.
    Adopted => Pass,
    /// From a backend, source back to the VIP.
    Replied => Pass,
    /// Between a pod and itself, through a VIP.
    Hairpinned => Back,
    /// An ICMP error about a flow, translated with the packet in it.
    ErrorTranslated => Pass,
    /// Of a fragmented datagram, but not its first fragment.
    FragmentTranslated => Pass,
    /// From a backend's address, but of no flow: somebody talks to the pod directly.
    NoFlow => Pass,
    /// An echo request to a VIP, answered.
    EchoAnswered => Back,
    /// To a port that its VIP does not serve, or to no VIP at all: refused with RST or ICMP.
    NoFrontend => Back,
    /// No backend is usable: refused with RST or ICMP.
    NoBackend => Back,
    /// The flow's backend is dead or gone: its TCP connection was ended with RST.
    BackendGone => Back,
    /// To a VIP with a transport protocol that no VIP serves: refused with ICMP.
    UnknownProtocol => Back,
    /// Would have been refused, but what it is must not be answered: a RST, an ICMP message, a fragment, a packet from
    /// no single host. Or cannot be: its headers have no room for an answer.
    Unanswerable => Drop,
    /// Would have been refused, but too many were just before.
    RefusalLimited => Drop,
    /// The headers are cut off or contradict themselves.
    Malformed => Drop,
    /// A fragment whose first one has not been here.
    FragmentUnknown => Drop,
    /// An ICMP error to a VIP about no flow.
    ErrorUnknown => Drop,
    /// From outside, and every slot tried names a backend of another node: refused likewise.
    NotLocal => Back,
    /// Every slot and client port tried collides with another flow between the client and the backend: refused likewise.
    NoFreeReply => Back,
    /// SCTP to a backend at another port than the VIP's, whose checksum cannot be corrected: refused likewise.
    PortMustStay => Back,
    /// The flow could not be remembered: refused likewise.
    FlowsFull => Back,
    /// The packet could not be rewritten.
    NotWritable => Drop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_order_of_the_list() {
        for (number, outcome) in (0_u8..).zip(Outcome::ALL) {
            assert_eq!(*outcome as u8, number);
        }
    }
}
