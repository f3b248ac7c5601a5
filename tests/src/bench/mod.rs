//! The benchmark's cases.

pub mod packet;
