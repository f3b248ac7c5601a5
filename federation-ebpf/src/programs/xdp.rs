//! Packets at XDP: read in place, written through helpers, checksums updated by our own arithmetic.
//!
//! A sender on the same machine may have left a partial checksum, which XDP cannot know; such senders must compute
//! theirs (`ethtool -K … tx off`). Frames from a real wire are complete.

use core::{
    ffi::c_void,
    mem::{MaybeUninit, size_of},
};

use aya_ebpf::{
    EbpfContext,
    bindings::xdp_md,
    helpers::generated::{
        bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
        bpf_xdp_store_bytes,
    },
};
use federation_ebpf::{
    bucket::Limit,
    checksum::Difference,
    frame::{Covered, Frame},
    outcome::Outcome,
    packet::{Bytes, Plain},
};

use super::{
    hook::Hook,
    words::{self, Words},
};

#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct XdpFrame(pub *mut xdp_md);

impl EbpfContext for XdpFrame {
    #[inline(always)]
    fn as_ptr(&self) -> *mut c_void {
        self.0.cast()
    }
}

impl Bytes for XdpFrame {
    #[inline(always)]
    fn read<T: Plain>(&self, at: usize) -> Option<T> {
        // SAFETY: the context that the kernel gave the program.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        let start = data + at;
        if start + size_of::<T>() > end {
            return None;
        }
        // SAFETY: the whole of T lies within the packet, as just checked.
        Some(unsafe { words::read(start as *const T) })
    }

    #[inline(always)]
    fn load<T: Plain>(&self, at: usize) -> Option<T> {
        let mut value = Words(MaybeUninit::<T>::uninit());
        // SAFETY: the helper writes the whole of T or fails, and any bytes make a plain value.
        unsafe {
            let to = value.0.as_mut_ptr().cast();
            let failed = bpf_xdp_load_bytes(self.0, at as u32, to, size_of::<T>() as u32) != 0;
            if failed { None } else { Some(value.0.assume_init()) }
        }
    }

    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: the context that the kernel gave the program.
        unsafe { (*self.0).data_end as usize - (*self.0).data as usize }
    }
}

impl Hook for XdpFrame {
    /// Strangers are told, who may have forged where their packets come from.
    const REFUSALS: Limit = Limit::per_second(1000);
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn store<T: Plain>(self, at: usize, value: &T) -> Result<(), Outcome> {
        // The helper's parameter is not const, but it only reads.
        let from = (&raw const *value).cast_mut().cast();
        // SAFETY: a whole T is read.
        done(unsafe { bpf_xdp_store_bytes(self.0, at as u32, from, size_of::<T>() as u32) })
    }

    #[inline(always)]
    fn correct(self, at: usize, change: Difference, _: Covered, zero_is_none: bool) -> Result<(), Outcome> {
        let old = u16::from_be(self.load(at).ok_or(Outcome::NotWritable)?);
        let new = if zero_is_none { change.apply_udp(old) } else { change.apply(old) };
        self.store(at, &new.to_be())
    }

    #[inline(always)]
    fn may_be_partial(self, _: bool) -> bool {
        false
    }

    #[inline(always)]
    fn reshape(self, length: usize, front: usize) -> Result<(), Outcome> {
        // SAFETY: the helpers check the lengths.
        unsafe {
            let tail = length as i32 - bpf_xdp_get_buff_len(self.0) as i32;
            done(bpf_xdp_adjust_tail(self.0, tail))?;
            done(bpf_xdp_adjust_head(self.0, -(front as i32)))
        }
    }
}

#[inline(always)]
fn done(code: i64) -> Result<(), Outcome> {
    if code == 0 { Ok(()) } else { Err(Outcome::NotWritable) }
}
