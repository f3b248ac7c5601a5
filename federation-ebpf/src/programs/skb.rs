//! Packets at tc: read in place, written through helpers.
//!
//! Not written in place: the kernel would then unclone every packet before the program starts, everyone's, and a pod's
//! TCP data is always cloned (kernel: `bpf_unclone_prologue`). The helpers also know about partial checksums and GSO.
//! Nor is more pulled into the linear part than is there: a TCP segment's payload is not, and pulling would copy it.

use core::{
    ffi::c_void,
    mem::{MaybeUninit, size_of},
};

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, bpf_flow_keys, bpf_sock},
    helpers::generated::{
        bpf_l4_csum_replace, bpf_redirect, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
};
use federation_ebpf::{
    bucket::Limit,
    checksum::Difference,
    frame::{Covered, Frame, turn_back},
    outcome::Outcome,
    packet::{Bytes, Plain},
};

use super::{
    hook::Hook,
    words::{self, Words},
};

#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Skb(pub *mut __sk_buff);

impl EbpfContext for Skb {
    #[inline(always)]
    fn as_ptr(&self) -> *mut c_void {
        self.0.cast()
    }
}

impl Bytes for Skb {
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
            let failed = bpf_skb_load_bytes(self.0.cast(), at as u32, to, size_of::<T>() as u32) != 0;
            if failed { None } else { Some(value.0.assume_init()) }
        }
    }

    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: the context that the kernel gave the program.
        unsafe { (*self.0).len as usize }
    }
}

impl Hook for Skb {
    /// Pods of this node are told, each through its own interface.
    const REFUSALS: Limit = Limit::per_second(10_000);
}

impl Frame for Skb {
    #[inline(always)]
    fn store<T: Plain>(self, at: usize, value: &T) -> Result<(), Outcome> {
        // SAFETY: a whole T is read.
        done(unsafe {
            bpf_skb_store_bytes(
                self.0.cast(),
                at as u32,
                (&raw const *value).cast(),
                size_of::<T>() as u32,
                0,
            )
        })
    }

    #[inline(always)]
    fn correct(
        self,
        at: usize,
        change: Difference,
        covered: Covered,
        zero_is_none: bool,
    ) -> Result<(), Outcome> {
        let mut flags = 0;
        if covered == Covered::Addresses {
            flags |= u64::from(BPF_F_PSEUDO_HDR);
        }
        if zero_is_none {
            flags |= u64::from(BPF_F_MARK_MANGLED_0);
        }
        // SAFETY: the helper checks the offset.
        done(unsafe { bpf_l4_csum_replace(self.0.cast(), at as u32, 0, change.for_helper(), flags) })
    }

    /// Where it will be segmented, senders differ in whether the length is summed up.
    #[inline(always)]
    fn may_be_partial(self, looks: bool) -> bool {
        // SAFETY: the context that the kernel gave the program.
        looks || unsafe { (*self.0).gso_size } > 0
    }

    #[inline(always)]
    fn reshape(self, length: usize, front: usize) -> Result<(), Outcome> {
        // SAFETY: the helper checks the length.
        done(unsafe { bpf_skb_change_tail(self.0.cast(), length as u32, 0) })?;
        if front > 0 {
            // SAFETY: as above.
            done(unsafe { bpf_skb_change_head(self.0.cast(), front as u32, 0) })?;
        }
        Ok(())
    }
}

/// Sends the packet out where it came in.
#[inline(always)]
pub fn back(skb: Skb) -> i32 {
    if turn_back(skb).is_err() {
        return TC_ACT_SHOT as i32;
    }
    // SAFETY: the context that the kernel gave the program; a helper with scalar arguments.
    unsafe { bpf_redirect((*skb.0).ifindex, 0) as i32 }
}

#[inline(always)]
fn done(code: i64) -> Result<(), Outcome> {
    if code == 0 { Ok(()) } else { Err(Outcome::NotWritable) }
}

/// Never called: the signature has the types that `__sk_buff` points to described in full.
///
/// A type that is merely pointed to becomes a forward declaration, and LLVM writes those in the order of addresses in its
/// memory (`BTFDebug::endModule`), another one at each link. Where there is none, the same sources give the same object.
#[unsafe(no_mangle)]
extern "C" fn describe(_keys: &bpf_flow_keys, _socket: &bpf_sock) {}
