//! Fragments: only the first of a datagram has ports, so they are remembered for the others.
//!
//! A later fragment that overtakes the first has no ports to find its flow by. It is dropped and its datagram sent again
//! by whoever needs it, as any router does that would have to wait for it.

use federation_ebpf::{
    outcome::Outcome,
    packet::{Network, Packet},
};

use super::{flow, maps::Family, scratch::Scratch};

/// Remembers the ports of a datagram, of which `packet` is the first fragment.
#[inline(always)]
pub fn remember<F: Family>(network: &Network<F::Address>, packet: &Packet<F::Address>, identification: u32) {
    let key = network.fragment_key(identification, packet.key.protocol);
    // Without room, its other fragments are unknown and counted as such.
    let _ = F::fragments().insert(&key, packet.ports(), 0);
}

/// Finds where the later fragment in `scratch` goes, if the first one went anywhere.
#[inline(never)]
pub fn follow<F: Family>(scratch: &mut Scratch<F::Address>, identification: u32) -> Option<Outcome> {
    // SAFETY: written by the caller.
    let (network, packet) = unsafe { (scratch.network.assume_init_ref(), scratch.packet.assume_init_mut()) };
    let key = network.fragment_key(identification, packet.key.protocol);
    // SAFETY: entries are not freed while the program runs.
    packet.set_ports(*unsafe { F::fragments().get(&key) }?);
    let direction = flow::translation::<F>(&packet.key, &mut scratch.to)?;
    Some(if direction.is_hairpin() { Outcome::Hairpinned } else { Outcome::FragmentTranslated })
}
