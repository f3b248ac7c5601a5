//! ICMP (RFC 792) and ICMPv6 (RFC 4443): what a message is for.

use super::{Bytes, Ip, Network, number};
use crate::outcome::Outcome;

/// Length of the header; in an error, the packet that caused it follows.
pub const HEADER: usize = 8;
/// Where the header has its checksum.
pub const CHECKSUM: usize = 2;

/// What a message to a VIP or past a backend may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Asks to be answered by a message of the type `answer`.
    EchoRequest {
        answer: u8,
    },
    /// Tells of a packet, which it holds.
    Error,
    Other,
}

/// Reads the type of the message that follows `network`.
///
/// # Errors
/// The header is cut off.
#[inline(always)]
pub fn message<A: Ip>(frame: &impl Bytes, network: &Network<A>) -> Result<Message, Outcome> {
    if (network.length as usize) < HEADER || !frame.has(network.transport + HEADER) {
        return Err(Outcome::Malformed);
    }
    let kind: u8 = frame.load(network.transport).ok_or(Outcome::Malformed)?;
    Ok(match (A::ICMP, kind) {
        (number::ICMP, 8) => Message::EchoRequest { answer: 0 },
        (number::ICMPV6, 128) => Message::EchoRequest { answer: 129 },
        // Destination unreachable, source quench, time exceeded, parameter problem; of ICMPv6 all up to 127 (RFC 4443,
        // section 2.1).
        (number::ICMP, 3 | 4 | 11 | 12) | (number::ICMPV6, 1..=127) => Message::Error,
        _ => Message::Other,
    })
}

/// Whether the message that follows `network` says that its destination cannot be reached at all, as a packet that is only
/// too long can be.
#[inline(always)]
pub fn is_unreachable<A: Ip>(frame: &impl Bytes, network: &Network<A>) -> bool {
    let Some([kind, code]) = frame.load::<[u8; 2]>(network.transport) else { return false };
    match (A::ICMP, kind) {
        // RFC 1191: code 4 asks for fragments.
        (number::ICMP, 3) => code != 4,
        (number::ICMPV6, 1) => true,
        _ => false,
    }
}
