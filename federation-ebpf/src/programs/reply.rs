//! A backend answers, to a pod of this node (`to_pod`) or past it (`to_wire`): the source becomes the VIP again.

use federation_ebpf::{
    address::Address,
    filter,
    outcome::Outcome,
    packet::{
        self, Fragment, Ip,
        icmp::{self, Message},
    },
};

use super::{
    error, flow, fragment,
    hook::Hook,
    maps::{Family, RETURN_FILTER, V4, V6},
    scratch, shortcut, to_vip,
};

#[inline(always)]
pub fn outcome<P: Hook>(frame: P) -> Outcome {
    let Some((ether_type, network)) = packet::link(&frame) else { return Outcome::NotOurs };
    if ether_type == <[u8; 4]>::ETHER_TYPE {
        of_family::<V4, P>(frame, network)
    } else if ether_type == <[u8; 16]>::ETHER_TYPE {
        of_family::<V6, P>(frame, network)
    } else {
        Outcome::NotOurs
    }
}

#[inline(always)]
fn of_family<F: Family, P: Hook>(frame: P, network: usize) -> Outcome {
    // Most packets end here, by what can be read of them in place.
    if let Some(packet) = packet::plain::<F::Address>(&frame, network)
        && !may_be_ours(packet.key.source, packet.key.source_port)
    {
        return Outcome::NotOurs;
    }
    shortcut::reply::<F, P>(frame, network).unwrap_or_else(|| long_way::<F, P>(frame, network))
}

/// Whether a backend may have sent from there.
#[inline(always)]
pub fn may_be_ours<A: Address>(address: A, port: u16) -> bool {
    let bit = filter::bit(address, port);
    RETURN_FILTER.get(bit.word).is_some_and(|word| word & bit.mask != 0)
}

#[inline(never)]
fn long_way<F: Family, P: Hook>(frame: P, at: usize) -> Outcome {
    let Some(scratch) = scratch::take::<F::Address>() else { return Outcome::NotOurs };
    // What cannot be read is not ours to judge here: it may be anybody's.
    if scratch::read(frame, at, &mut scratch.network).is_some() {
        return Outcome::NotOurs;
    }
    // SAFETY: just read.
    let network = unsafe { scratch.network.assume_init_ref() };
    if network.protocol == F::Address::ICMP {
        let is_error = icmp::message(&frame, network) == Ok(Message::Error);
        let whole = !matches!(network.fragment, Fragment::Later(_));
        return if is_error && whole { error::to_client::<F, P>(frame, scratch) } else { Outcome::NotOurs };
    }
    if packet::protocol(network.protocol).is_none() || scratch::read_transport(frame, scratch).is_some() {
        return Outcome::NotOurs;
    }
    // SAFETY: just read.
    let packet = unsafe { scratch.packet.assume_init_ref() };
    if let Fragment::Later(identification) = packet.fragment {
        return match fragment::follow::<F>(scratch, identification) {
            Some(outcome) => {
                scratch.outcome.write(outcome);
                to_vip::pass::<F, P>(frame, scratch)
            }
            None => Outcome::NotOurs,
        };
    }
    if !may_be_ours(packet.key.source, packet.key.source_port) {
        return Outcome::NotOurs;
    }
    match flow::reply::<F>(scratch, frame.length()) {
        Outcome::Replied => {
            scratch.outcome.write(Outcome::Replied);
            to_vip::pass::<F, P>(frame, scratch)
        }
        other => other,
    }
}
