//! The eBPF programs and maps of this node: loaded, attached, filled and read.
