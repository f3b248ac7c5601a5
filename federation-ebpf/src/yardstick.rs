//! Programs that the benchmark holds the data plane's against. Never shipped: the agent does not embed this object.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

/// There is nothing to run on a host.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};

    /// What it costs to run any program at all.
    #[classifier]
    pub fn empty(_: TcContext) -> i32 {
        TC_ACT_UNSPEC
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        // SAFETY: the verifier rejects a program from which this can be reached.
        unsafe { core::hint::unreachable_unchecked() }
    }
}
