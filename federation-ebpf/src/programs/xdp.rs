//! Packets at XDP: read and written in place, checksums updated by our own arithmetic.
//!
//! A sender on the same machine may have left a partial checksum, which XDP cannot know; such senders must compute
//! theirs (`ethtool -K … tx off`). Frames from a real wire are complete.

use core::mem::size_of;

use aya_ebpf::programs::XdpContext;
use federation_ebpf::{
    checksum::Difference,
    maps::Protocol,
    outcome::Outcome,
    packet::{Frame, NETWORK, Packet, Plain},
};

use super::{flow::Translation, words};

pub struct XdpFrame<'a>(pub &'a XdpContext);

impl Frame for XdpFrame<'_> {
    #[inline(always)]
    fn read<T: Plain>(&self, offset: usize) -> Option<T> {
        // SAFETY: the whole of T lies within the packet.
        Some(unsafe { words::read(self.at::<T>(offset)?) })
    }
}

impl XdpFrame<'_> {
    #[inline(always)]
    pub fn len(&self) -> u32 {
        (self.0.data_end() - self.0.data()) as u32
    }

    #[inline(always)]
    fn write<T: Plain>(&self, offset: usize, value: T) -> Result<(), Outcome> {
        let place = self.at::<T>(offset).ok_or(Outcome::NotWritable)?;
        // SAFETY: the whole of T lies within the packet, which is this program's alone.
        unsafe { words::write(place, value) };
        Ok(())
    }

    /// The place of a whole `T` within the packet.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.0.data() + offset;
        (start + size_of::<T>() <= self.0.data_end()).then_some(start as *mut T)
    }
}

const CHECKSUM: usize = NETWORK + 10;
const DESTINATION: usize = NETWORK + 16;

/// Puts another destination address and port, and both checksums right.
#[inline(always)]
pub fn rewrite_destination(
    frame: &XdpFrame<'_>,
    packet: &Packet<[u8; 4]>,
    to: &Translation<[u8; 4]>,
) -> Result<(), Outcome> {
    let key = &packet.key;
    let address = Difference::default().address(key.destination, to.address);
    let both = address.word(key.destination_port, to.port);
    let checksum_at = packet.transport_checksum();
    let old = u16::from_be_bytes(frame.read(checksum_at).ok_or(Outcome::Malformed)?);
    let checksum = if key.protocol == Protocol::Udp { both.apply_udp(old) } else { both.apply(old) };
    frame.write(checksum_at, checksum.to_be_bytes())?;
    frame.write(packet.transport + 2, to.port.to_be_bytes())?;
    frame.write(CHECKSUM, address.apply(packet.checksum).to_be_bytes())?;
    frame.write(DESTINATION, to.address)
}
