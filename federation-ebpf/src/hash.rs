//! From a connection's addresses and ports to 32 evenly spread bits, and from these to a slot.

use crate::{
    address::Address,
    maps::{FlowKey, SocketKey},
};

/// Folds words into 64 bits by multiplication, the high half into the low.
#[derive(Clone, Copy)]
pub struct Mixer(u64);

impl Mixer {
    /// Fractions of the golden ratio and of the square root of 3: odd numbers with no pattern in their bits.
    const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
    const FACTOR: u64 = 0xbb67_ae85_84ca_a73b;

    #[inline(always)]
    pub fn new() -> Self {
        Self(Self::SEED)
    }

    #[inline(always)]
    pub fn add(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(Self::FACTOR);
        self.0 = mixed ^ (mixed >> 32);
    }

    #[inline(always)]
    pub fn finish(mut self) -> u32 {
        self.add(0);
        (self.0 >> 32) as u32
    }
}

impl Default for Mixer {
    fn default() -> Self {
        Self::new()
    }
}

/// Spreads connections: all five parts of the tuple count.
#[inline(always)]
pub fn connection<A: Address>(key: &FlowKey<A>) -> u32 {
    let mut mixer = Mixer::new();
    key.source.mix(&mut mixer);
    key.destination.mix(&mut mixer);
    mixer.add(
        u64::from(key.source_port) << 48
            | u64::from(key.destination_port) << 32
            | u64::from(key.protocol as u32),
    );
    mixer.finish()
}

/// Spreads clients: connections of one address stay together (session affinity `ClientIP`).
#[inline(always)]
pub fn client<A: Address>(address: A) -> u32 {
    let mut mixer = Mixer::new();
    address.mix(&mut mixer);
    mixer.finish()
}

/// Spreads the node's own sockets, of which nothing but their number is known when they are told whom to talk to.
#[inline(always)]
pub fn socket(asked: &SocketKey) -> u32 {
    let mut mixer = Mixer::new();
    mixer.add(asked.cookie);
    asked.address.mix(&mut mixer);
    mixer.add(u64::from(asked.port) << 32 | u64::from(asked.protocol as u32));
    mixer.finish()
}

/// The slot for a hash in a table of `size`; later attempts give other slots.
#[inline(always)]
pub fn slot(hash: u32, attempt: u32, size: u32) -> u32 {
    let hash = hash.wrapping_add(attempt.wrapping_mul(0x9e37_79b9));
    ((u64::from(hash) * u64::from(size)) >> 32) as u32
}

/// A port for a client whose own is taken: none of the well-known ones (RFC 6335, section 6).
#[inline(always)]
pub fn port(hash: u32, attempt: u32) -> u16 {
    const FIRST: u32 = 1024;
    // Halves are swapped, so that clients whose slots are neighbours do not meet at ports again.
    let mixed = hash.rotate_left(16).wrapping_add(attempt.wrapping_mul(0x9e37_79b9));
    let ports = u64::from(u32::from(u16::MAX) + 1 - FIRST);
    (FIRST + ((u64::from(mixed) * ports) >> 32) as u32) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::maps::Protocol;

    fn key(source_port: u16) -> FlowKey<[u8; 4]> {
        FlowKey::new([10, 8, 1, 2], source_port, [198, 18, 0, 1], 80, Protocol::Tcp)
    }

    #[test]
    fn connections_of_one_client_spread_evenly() {
        let mut counts = [0_u32; 251];
        for port in 0..u16::MAX {
            counts[slot(connection(&key(port)), 0, 251) as usize] += 1;
        }
        // 261 each on average; a fair draw stays within five standard deviations (81).
        assert!(counts.iter().all(|count| (180..=342).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn slots_lie_in_their_table(hash: u32, attempt in 0_u32..16, size in 1_u32..600_000) {
            prop_assert!(slot(hash, attempt, size) < size);
        }

        #[test]
        fn ports_are_not_well_known(hash: u32, attempt in 0_u32..16) {
            prop_assert!(port(hash, attempt) >= 1024);
        }
    }
}
