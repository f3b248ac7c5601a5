//! What differs between the families of IP: the size of an address.

use crate::hash::Mixer;

/// An IP address in network order, as packets and maps carry it.
pub trait Address: Copy + PartialEq + 'static {
    fn mix(self, mixer: &mut Mixer);

    /// All of it in one word, equal for equal addresses.
    fn word(self) -> u64;

    /// The ones' complement sum of its 16-bit words, not folded.
    fn sum(self) -> u32;
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
        let [a, b, c, d] = self;
        u32::from(u16::from_be_bytes([a, b])) + u32::from(u16::from_be_bytes([c, d]))
    }
}
