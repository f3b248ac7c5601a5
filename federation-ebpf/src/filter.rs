//! The return filter: could a packet come from a backend? One bit a hash of (address, port), asked before any map of
//! flows is.

use crate::address::Address;

/// Bits of the filter: 64 KiB, so that 10 000 backends make one stranger in 50 ask in vain.
pub const BITS: u32 = 1 << 19;

/// Words of the filter.
pub const WORDS: u32 = BITS / u64::BITS;

/// 2^64 divided by the golden ratio, whose multiples lie far from each other (Knuth, volume 3, section 6.4).
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Where an (address, port) has its bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bit {
    pub word: u32,
    pub mask: u64,
}

#[inline(always)]
pub fn bit<A: Address>(address: A, port: u16) -> Bit {
    // One multiplication: everybody's packets pay for this, and clusters of addresses spread well enough by it.
    let hash = (address.word() << 16 ^ u64::from(port)).wrapping_mul(FACTOR);
    let bit = (hash >> (u64::BITS - BITS.ilog2())) as u32;
    Bit { word: bit / u64::BITS, mask: 1 << (bit % u64::BITS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_lie_in_the_filter_and_spread() {
        let mut words = std::collections::BTreeSet::new();
        for n in 0..1000_u16 {
            let [high, low] = n.to_be_bytes();
            let bit = bit([10, 8, high, low], 8080);
            assert!(bit.word < WORDS);
            assert_eq!(bit.mask.count_ones(), 1);
            words.insert(bit.word);
        }
        assert!(words.len() > 900, "{}", words.len());
    }
}
