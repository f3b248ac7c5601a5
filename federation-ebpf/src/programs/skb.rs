//! Packets at tc: read in place, written through helpers.
//!
//! Not written in place: the kernel would then unclone every packet before the program starts, everyone's, and a pod's
//! TCP data is always cloned (kernel: `bpf_unclone_prologue`). The helpers also know about partial checksums and GSO.

use core::mem::size_of;

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    programs::TcContext,
};
use federation_ebpf::{
    checksum::Difference,
    maps::Protocol,
    outcome::Outcome,
    packet::{Frame, HEADERS, NETWORK, Packet, Plain},
};

use super::{flow::Translation, words};

pub struct Skb<'a>(&'a TcContext);

impl Frame for Skb<'_> {
    #[inline(always)]
    fn read<T: Plain>(&self, offset: usize) -> Option<T> {
        let start = self.0.data() + offset;
        if start + size_of::<T>() > self.0.data_end() {
            return None;
        }
        // SAFETY: the whole of T lies within the packet, as just checked.
        Some(unsafe { words::read(start as *const T) })
    }
}

impl<'a> Skb<'a> {
    /// Sees to it that the headers can be read: a driver may have left them outside the linear part.
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        let linear = ctx.data_end() - ctx.data();
        if linear < HEADERS && linear < ctx.len() as usize {
            // Without memory for it the packet ends where its linear part does, which reads as malformed.
            let _ = ctx.pull_data((HEADERS as u32).min(ctx.len()));
        }
        Self(ctx)
    }

    #[inline(always)]
    pub fn len(&self) -> u32 {
        self.0.len()
    }
}

/// Which end of the packet is translated.
#[derive(Clone, Copy, PartialEq)]
pub enum End {
    Source,
    Destination,
}

/// Offset of the checksum in the IPv4 header; source and destination follow it at once.
const CHECKSUM: usize = NETWORK + 10;

/// Puts another address and port at one end, and all checksums right.
#[inline(always)]
pub fn rewrite(
    skb: &Skb<'_>,
    packet: &Packet<[u8; 4]>,
    end: End,
    to: &Translation<[u8; 4]>,
) -> Result<(), Outcome> {
    let key = &packet.key;
    let (old, old_port, port_at) = match end {
        End::Source => (key.source, key.source_port, packet.transport),
        End::Destination => (key.destination, key.destination_port, packet.transport + 2),
    };
    let (source, destination) = match end {
        End::Source => (to.address, key.destination),
        End::Destination => (key.source, to.address),
    };
    let address = Difference::default().address(old, to.address);
    let [a, b] = address.apply(packet.checksum).to_be_bytes();
    let [c, d, e, f] = source;
    let [g, h, i, j] = destination;
    store(skb, CHECKSUM, &[a, b, c, d, e, f, g, h, i, j])?;
    // A UDP checksum of 0 means that there is none, and stays.
    let flags = if key.protocol == Protocol::Udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
    let checksum = packet.transport_checksum();
    // The address is part of the pseudo-header, which a partial checksum already holds; the port is not.
    replace(skb, checksum, address, flags | u64::from(BPF_F_PSEUDO_HDR))?;
    if old_port != to.port {
        replace(skb, checksum, Difference::default().word(old_port, to.port), flags)?;
        store(skb, port_at, &to.port.to_be_bytes())?;
    }
    Ok(())
}

#[inline(always)]
fn store<T>(skb: &Skb<'_>, offset: usize, value: &T) -> Result<(), Outcome> {
    skb.0.store(offset, value, 0).map_err(|_| Outcome::NotWritable)
}

#[inline(always)]
fn replace(skb: &Skb<'_>, offset: usize, difference: Difference, flags: u64) -> Result<(), Outcome> {
    skb.0.l4_csum_replace(offset, 0, difference.for_helper(), flags).map_err(|_| Outcome::NotWritable)
}
