//! The bytes of a frame, and the types that any bytes make a value of.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

/// Bytes of a frame that may be read at any offset; what lies beyond its end is not there.
pub trait Bytes {
    /// In place: only the linear part is there.
    fn read<T: Plain>(&self, at: usize) -> Option<T>;

    /// A copy, wherever the frame's bytes are.
    fn load<T: Plain>(&self, at: usize) -> Option<T>;

    /// Bytes in all.
    fn length(&self) -> usize;

    /// Whether there are so many bytes.
    #[inline(always)]
    fn has(&self, length: usize) -> bool {
        self.length() >= length
    }
}

/// Types that any bytes make a value of.
///
/// # Safety
/// Every bit pattern is valid, and there is no padding.
pub unsafe trait Plain: Copy {}

// SAFETY: numbers.
unsafe impl Plain for u8 {}
// SAFETY: see above.
unsafe impl Plain for u16 {}
// SAFETY: see above.
unsafe impl Plain for u32 {}
// SAFETY: see above.
unsafe impl Plain for u64 {}
// SAFETY: an array adds no padding.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}
// SAFETY: network-types' headers are made of byte arrays.
unsafe impl Plain for Ipv4Hdr {}
// SAFETY: see above.
unsafe impl Plain for Ipv6Hdr {}
