//! What differs between the hooks, beside how a packet is written.

use federation_ebpf::{bucket::Limit, frame::Frame};

pub trait Hook: Frame {
    /// How many refusals a second may leave, on each CPU.
    const REFUSALS: Limit;
}
