//! What differs between the families of IP: the size of an address.

use crate::{hash::Mixer, maps::Range};

/// An IP address in network order, as packets and maps carry it.
pub trait Address: Copy + PartialEq + 'static {
    fn mix(self, mixer: &mut Mixer);

    /// A word for tables of bits: equal for equal addresses, and of different ones seldom equal.
    fn word(self) -> u64;

    /// The ones' complement sum of its 16-bit words, not folded: of at most 20 bits.
    fn sum(self) -> u32;

    fn is_in(self, range: &Range<Self>) -> bool;

    /// The same as an IPv6 address (RFC 4291, section 2.5.5.2).
    fn mapped(self) -> [u8; 16];

    /// Of one that is [`mapped`](Self::mapped).
    fn unmapped(mapped: [u8; 16]) -> Self;

    /// Of one host, as a source must be to be answered: neither unspecified nor multicast nor broadcast.
    fn is_one_host(self) -> bool;
}

impl Address for [u8; 4] {
    #[inline(always)]
    fn mix(self, mixer: &mut Mixer) {
        mixer.add(self.word());
    }

    #[inline(always)]
    fn word(self) -> u64 {
        u64::from(u32::from_be_bytes(self))
    }

    #[inline(always)]
    fn sum(self) -> u32 {
        let word = u32::from_be_bytes(self);
        (word >> 16) + (word & 0xffff)
    }

    #[inline(always)]
    fn is_in(self, range: &Range<Self>) -> bool {
        u32::from_ne_bytes(self) & u32::from_ne_bytes(range.mask) == u32::from_ne_bytes(range.network)
    }

    #[inline(always)]
    fn mapped(self) -> [u8; 16] {
        (0xffff << 32 | u128::from(u32::from_be_bytes(self))).to_be_bytes()
    }

    #[inline(always)]
    fn unmapped(mapped: [u8; 16]) -> Self {
        (u128::from_be_bytes(mapped) as u32).to_be_bytes()
    }

    #[inline(always)]
    fn is_one_host(self) -> bool {
        // 0.0.0.0/8 is "this network" (RFC 1122); from 224.0.0.0 on there are groups, and what is reserved.
        (1..224).contains(&(u32::from_be_bytes(self) >> 24))
    }
}

impl Address for [u8; 16] {
    #[inline(always)]
    fn mix(self, mixer: &mut Mixer) {
        let [high, low] = halves(self);
        mixer.add(high);
        mixer.add(low);
    }

    #[inline(always)]
    fn word(self) -> u64 {
        let [high, low] = halves(self);
        // Neighbours differ in their last bits, which must not be undone by the first ones.
        high.rotate_left(23) ^ low
    }

    #[inline(always)]
    fn sum(self) -> u32 {
        // Halves of a word may be added up instead of its parts: 2^16 is 1 in ones' complement of 16 bits.
        let [high, low] = halves(self);
        let sum = (high >> 32) + (high & 0xffff_ffff) + (low >> 32) + (low & 0xffff_ffff);
        (sum >> 16) as u32 + (sum & 0xffff) as u32
    }

    #[inline(always)]
    fn is_in(self, range: &Range<Self>) -> bool {
        let (whole, mask) = (u128::from_be_bytes(self), u128::from_be_bytes(range.mask));
        whole & mask == u128::from_be_bytes(range.network)
    }

    #[inline(always)]
    fn mapped(self) -> [u8; 16] {
        self
    }

    #[inline(always)]
    fn unmapped(mapped: [u8; 16]) -> Self {
        mapped
    }

    #[inline(always)]
    fn is_one_host(self) -> bool {
        // ff00::/8 are groups (RFC 4291, section 2.7).
        {
            let [high, low] = halves(self);
            high >> 56 != 0xff && high | low != 0
        }
    }
}

/// As words, not as bytes: taken apart into bytes, an address would never be whole again in the compiled program.
#[inline(always)]
fn halves(address: [u8; 16]) -> [u64; 2] {
    let whole = u128::from_be_bytes(address);
    [(whole >> 64) as u64, whole as u64]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_end_where_their_mask_says() {
        let range = Range { network: [198, 18, 0, 0], mask: [255, 255, 0, 0] };
        for (address, inside) in [
            ([198, 18, 0, 0], true),
            ([198, 18, 255, 255], true),
            ([198, 17, 255, 255], false),
            ([198, 19, 0, 0], false),
        ] {
            assert_eq!(address.is_in(&range), inside, "{address:?}");
        }
        let v6 = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let range = Range { network: v6("fd98::"), mask: v6("ffff:ffff:ffff:ffff:ffff:ffff:ffff:0") };
        for (address, inside) in
            [("fd98::", true), ("fd98::ffff", true), ("fd98::1:0", false), ("fd99::", false)]
        {
            assert_eq!(v6(address).is_in(&range), inside, "{address}");
        }
    }

    proptest! {
        #[test]
        fn what_is_mapped_comes_back(v4: [u8; 4], v6: [u8; 16]) {
            prop_assert_eq!(std::net::Ipv6Addr::from(v4.mapped()), std::net::Ipv4Addr::from(v4).to_ipv6_mapped());
            prop_assert_eq!(<[u8; 4]>::unmapped(v4.mapped()), v4);
            prop_assert_eq!(<[u8; 16]>::unmapped(v6.mapped()), v6);
        }

        #[test]
        fn sums_are_those_of_the_words(address: [u8; 16]) {
            let words = address.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
            prop_assert_eq!(address.sum() % 0xffff, words.sum::<u32>() % 0xffff);
        }
    }
}
