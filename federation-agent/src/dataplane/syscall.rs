//! The system call of eBPF, for commands that aya does not offer.

use std::{io, ptr};

use libc::{c_int, c_long};

/// Makes the call with `attr`, the beginning of `union bpf_attr` of `linux/bpf.h`; gives what it returns.
///
/// # Safety
/// The addresses in `attr` must be good for what `command` reads and writes there.
pub(super) unsafe fn bpf<A>(command: c_int, attr: &mut A) -> io::Result<c_int> {
    // SAFETY: `attr` is as long as said; the rest is promised by the caller.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, c_long::from(command), ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        c_int::try_from(result).map_err(io::Error::other)
    }
}

/// A pointer as it stands in the attributes.
pub(super) fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}
