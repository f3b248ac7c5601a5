//! Memory for the long way: a stack of 512 bytes does not hold what an IPv6 packet takes there.

use core::mem::{MaybeUninit, size_of};

use federation_ebpf::{
    maps::{Flow, FlowKey},
    outcome::Outcome,
    packet::{self, Ip, Network, Packet},
};

use super::{health::Avoided, hook::Hook, maps::SCRATCH, open::Choice};

/// Bytes of it, as words.
pub type Room = [u64; 64];

/// What one packet needs. Nothing of it outlasts the program.
pub struct Scratch<A> {
    pub network: MaybeUninit<Network<A>>,
    pub packet: MaybeUninit<Packet<A>>,
    /// The tuple to send on.
    pub to: MaybeUninit<FlowKey<A>>,
    /// The packet inside an ICMP error, and the tuple of what answers it.
    pub inner: MaybeUninit<Network<A>>,
    pub key: MaybeUninit<FlowKey<A>>,
    /// The entries of a flow that is being made, and the key of the second.
    pub flow: MaybeUninit<Flow<A>>,
    pub answer: MaybeUninit<Flow<A>>,
    pub reply: MaybeUninit<FlowKey<A>>,
    pub choice: MaybeUninit<Choice>,
    /// Whom a flow that is yet to be made shall not go to.
    pub avoided: MaybeUninit<Avoided>,
    /// What becomes of the packet, as far as it is known. Here and not in a register, as the choice: the verifier would
    /// walk through all that follows for each value.
    pub outcome: MaybeUninit<Outcome>,
}

/// This CPU's scratch. No program is interrupted by another on its CPU: all run with softirqs disabled.
#[inline(always)]
pub fn take<A: 'static>() -> Option<&'static mut Scratch<A>> {
    const { assert!(size_of::<Scratch<A>>() <= size_of::<Room>()) };
    let room = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: as large as needed, aligned to words, uninitialised as far as the type says, and nobody else's.
    Some(unsafe { &mut *room.cast() })
}

/// Reads the network header at `at` into `to`; the outcome if it cannot be.
#[inline(never)]
pub fn read<A: Ip, P: Hook>(frame: P, at: usize, to: &mut MaybeUninit<Network<A>>) -> Option<Outcome> {
    packet::network(&frame, at, to).err()
}

/// Reads the transport header behind the network header in `scratch`, of a protocol that has ports; the outcome if it
/// cannot be.
#[inline(never)]
pub fn read_transport<A: Ip, P: Hook>(frame: P, scratch: &mut Scratch<A>) -> Option<Outcome> {
    // SAFETY: written by the callers.
    let network = unsafe { scratch.network.assume_init_ref() };
    let protocol = packet::protocol(network.protocol)?;
    match packet::transport(&frame, network, protocol) {
        Ok(packet) => {
            scratch.packet.write(packet);
            None
        }
        Err(outcome) => Some(outcome),
    }
}
