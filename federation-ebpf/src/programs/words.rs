//! Packet bytes, moved by words.
//!
//! To the compiler a header made of byte arrays is aligned to nothing, so it would move each byte by itself: a dozen
//! nanoseconds on packets that are none of ours.

use core::mem::{MaybeUninit, size_of};

use federation_ebpf::packet::Plain;

/// A value aligned to words, whatever its type is aligned to, so that its parts are read from the stack by words too.
#[repr(align(8))]
pub struct Words<T>(pub T);

/// # Safety
/// All of `T` lies within the packet. It need not be aligned: where the CPU minds that, so does the verifier, which then
/// refuses the program (kernel: `NET_IP_ALIGN`).
#[inline(always)]
pub unsafe fn read<T: Plain>(from: *const T) -> T {
    let mut value = Words(MaybeUninit::<T>::uninit());
    // SAFETY: as many bytes are read as `T` has, which the caller answers for, and any bytes make a plain value.
    unsafe {
        copy(from.cast(), value.0.as_mut_ptr().cast(), size_of::<T>());
        value.0.assume_init()
    }
}

/// `length` is known where this is inlined, so that nothing of the loops is left.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
    match length % 4 {
        // SAFETY: the parts make the whole.
        0 => unsafe { copy_parts::<u32>(from.cast(), to.cast(), length / 4) },
        // SAFETY: as above.
        2 => unsafe { copy_parts::<u16>(from.cast(), to.cast(), length / 2) },
        // SAFETY: as above.
        _ => unsafe { copy_parts::<u8>(from, to, length) },
    }
}

#[inline(always)]
unsafe fn copy_parts<T>(from: *const T, to: *mut T, parts: usize) {
    for part in 0..parts {
        // SAFETY: within as many parts of both.
        unsafe { to.add(part).write(from.add(part).read()) };
    }
}
