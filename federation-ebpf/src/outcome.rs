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
    /// From a backend's address, but of no flow: somebody talks to the pod directly.
    NoFlow => Pass,
    /// The headers are cut off or contradict themselves.
    Malformed => Drop,
    /// A fragment to a VIP.
    Fragment => Drop,
    /// To a VIP, but neither TCP nor UDP.
    UnknownProtocol => Drop,
    /// To a VIP, but to a port that it does not serve.
    NoFrontend => Drop,
    /// No backend is usable.
    NoBackend => Drop,
    /// The flow's backend is dead or gone and its connection with it.
    BackendGone => Drop,
    /// From outside, and every slot tried names a backend of another node.
    NotLocal => Drop,
    /// Every slot tried collides with another flow between the client's port and the backend.
    NoFreeReply => Drop,
    /// The flow could not be remembered.
    FlowsFull => Drop,
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
