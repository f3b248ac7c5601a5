//! Counting, each CPU for itself.

use federation_ebpf::{
    maps::{Counter, Flow},
    outcome::Outcome,
};

use super::maps::{BACKEND_COUNTERS, FRONTEND_COUNTERS, OUTCOMES};

/// A packet of `flow`, and whether it is the first.
#[inline(always)]
pub fn packet<A>(flow: &Flow<A>, bytes: usize, first: bool) {
    for counter in [FRONTEND_COUNTERS.get_ptr_mut(flow.frontend), BACKEND_COUNTERS.get_ptr_mut(flow.backend)]
    {
        if let Some(counter) = counter {
            // SAFETY: this CPU's own element of a per-CPU array.
            let counter: &mut Counter = unsafe { &mut *counter };
            counter.packets += 1;
            counter.bytes += bytes as u64;
            counter.flows += u64::from(first);
        }
    }
}

/// A socket was told of its backend. Its packets pass untouched, and are counted nowhere.
///
/// Packets of this CPU may be counted in between: one count in a great many may be lost by that.
#[inline(always)]
pub fn socket(frontend: u32, backend: u32) {
    for counter in [FRONTEND_COUNTERS.get_ptr_mut(frontend), BACKEND_COUNTERS.get_ptr_mut(backend)] {
        if let Some(counter) = counter {
            // SAFETY: this CPU's own element of a per-CPU array.
            unsafe { (*counter).flows += 1 };
        }
    }
}

/// What became of a packet, unless it was none of ours.
#[inline(always)]
pub fn outcome(outcome: Outcome) {
    if outcome == Outcome::NotOurs {
        return;
    }
    if let Some(count) = OUTCOMES.get_ptr_mut(outcome as u32) {
        // SAFETY: this CPU's own element of a per-CPU array.
        unsafe { *count += 1 };
    }
}
