//! A frame that can be written: what tc, XDP and a test's buffer have in common.

use crate::{
    checksum::Difference,
    outcome::Outcome,
    packet::{Bytes, Plain},
};

/// What a change of a transport checksum comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covered {
    /// The pseudo-header, which a checksum that is still to be completed already holds.
    Addresses,
    /// What is between checksum and payload, which it does not hold yet.
    Body,
}

/// All that is done to packets is done through this. Every method fails with the outcome for a packet that cannot be
/// written.
pub trait Frame: Bytes + Copy {
    fn store<T: Plain>(self, at: usize, value: &T) -> Result<(), Outcome>;

    /// Changes the checksum at `at`. `zero_is_none`: 0 means that there is none, and stays (UDP).
    fn correct(
        self,
        at: usize,
        change: Difference,
        covered: Covered,
        zero_is_none: bool,
    ) -> Result<(), Outcome>;

    /// Whether the transport checksum may hold no more than the pseudo-header yet, given whether it `looks` like that.
    fn may_be_partial(self, looks: bool) -> bool;

    /// Ends the packet after `length` bytes and makes room for `front` more before it.
    fn reshape(self, length: usize, front: usize) -> Result<(), Outcome>;
}

/// Exchanges the ends of the Ethernet header.
#[inline(always)]
pub fn turn_back(frame: impl Frame) -> Result<(), Outcome> {
    let [to, from]: [[u16; 3]; 2] = frame.load(0).ok_or(Outcome::NotWritable)?;
    frame.store(0, &[from, to])
}
