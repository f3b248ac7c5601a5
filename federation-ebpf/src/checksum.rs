//! The Internet checksum, updated for what changes instead of summed anew.
//!
//! Sources: RFC 1071 for the sum, RFC 1624 equation 3 for the update: `HC' = ~(~HC + ~m + m')`.

use crate::address::Address;

/// What a replacement adds to a ones' complement sum. Unfolded: 32 bits hold the sum of thousands of words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference(u32);

impl Difference {
    #[inline(always)]
    #[must_use]
    pub fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + u32::from(!old) + u32::from(new))
    }

    #[inline(always)]
    #[must_use]
    pub fn address<A: Address>(self, old: A, new: A) -> Self {
        // ~a + ~b = ~(a + b) in ones' complement, word by word.
        Self(self.0 + u32::from(!fold(old.sum())) + new.sum())
    }

    /// A word where there was none.
    #[inline(always)]
    #[must_use]
    pub fn adds(self, word: u16) -> Self {
        Self(self.0 + u32::from(word))
    }

    #[inline(always)]
    #[must_use]
    pub fn adds_address<A: Address>(self, address: A) -> Self {
        Self(self.0 + address.sum())
    }

    /// What TCP, UDP and ICMPv6 sum up beside themselves (RFC 9293, section 3.1; RFC 8200, section 8.1).
    #[inline(always)]
    #[must_use]
    pub fn adds_pseudo_header<A: Address>(
        self,
        source: A,
        destination: A,
        protocol: u8,
        length: u32,
    ) -> Self {
        self.adds_address(source)
            .adds_address(destination)
            .adds(u16::from(protocol))
            .adds((length >> 16) as u16)
            .adds(length as u16)
    }

    /// Both changes.
    #[inline(always)]
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(u32::from(fold(self.0)) + u32::from(fold(other.0)))
    }

    /// The checksum of what was added to nothing.
    #[inline(always)]
    pub fn checksum(self) -> u16 {
        !fold(self.0)
    }

    /// The checksum field after the change.
    #[inline(always)]
    pub fn apply(self, checksum: u16) -> u16 {
        !fold(u32::from(!checksum) + u32::from(fold(self.0)))
    }

    /// The same for a sum that holds no more than the pseudo-header yet, and is not inverted (kernel:
    /// `inet_proto_csum_replace4`).
    #[inline(always)]
    pub fn apply_partial(self, sum: u16) -> u16 {
        fold(u32::from(fold(self.0)) + u32::from(sum))
    }

    /// The same for UDP, where 0 means that there is none and stays (RFC 768).
    #[inline(always)]
    pub fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => u16::MAX,
            sum => sum,
        }
    }

    /// As `bpf_l4_csum_replace` takes it with a size of 0: a sum over words in network order.
    #[inline(always)]
    pub fn for_helper(self) -> u64 {
        u64::from(fold(self.0).to_be())
    }
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    // One addition can carry once more; the second cannot.
    ((sum >> 16) + sum) as u16
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// RFC 1071, the long way.
    fn recompute(words: &[u16]) -> u16 {
        let mut sum: u64 = words.iter().map(|word| u64::from(*word)).sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !u16::try_from(sum).unwrap()
    }

    /// 0 and 0xffff are the same number in ones' complement.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a.is_multiple_of(0xffff) && b.is_multiple_of(0xffff))
    }

    proptest! {
        #[test]
        fn an_update_equals_a_full_sum(words in prop::collection::vec(any::<u16>(), 4..40), new: [u8; 4], port: u16) {
            let before = recompute(&words);
            let mut after: Vec<u16> = words.clone();
            let old = [words[0].to_be_bytes(), words[1].to_be_bytes()].concat();
            after[0] = u16::from_be_bytes([new[0], new[1]]);
            after[1] = u16::from_be_bytes([new[2], new[3]]);
            after[2] = port;
            let difference = Difference::default()
                .address([old[0], old[1], old[2], old[3]], new)
                .word(words[2], port);
            prop_assert!(same(difference.apply(before), recompute(&after)));
        }

        #[test]
        fn a_change_and_its_reverse_cancel(checksum: u16, old: [u8; 4], new: [u8; 4]) {
            let there = Difference::default().address(old, new).apply(checksum);
            prop_assert!(same(Difference::default().address(new, old).apply(there), checksum));
        }

        #[test]
        fn udp_keeps_none_and_never_becomes_none(checksum: u16, old: u16, new: u16) {
            let updated = Difference::default().word(old, new).apply_udp(checksum);
            prop_assert_eq!(updated == 0, checksum == 0);
        }
    }
}
