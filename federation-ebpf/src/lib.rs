//! What the kernel programs and the agent share: the shapes of maps, and packet code that knows nothing of aya.
//!
//! Everything here is `no_std` and compiled twice, for the kernel and for the host, where tests run it. The programs,
//! in `main.rs` and beside it, only glue it to contexts and maps.
#![no_std]
#![expect(
    clippy::inline_always,
    reason = "a call costs a frame of the 512 bytes of stack; all dissolves into the program"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "hashes and checksums take halves of wider numbers on purpose"
)]

pub mod address;
pub mod answer;
pub mod bucket;
pub mod checksum;
pub mod filter;
pub mod frame;
pub mod hash;
pub mod maps;
pub mod outcome;
pub mod packet;
pub mod slots;
pub mod tcp;
pub mod translate;

#[cfg(test)]
extern crate std;
