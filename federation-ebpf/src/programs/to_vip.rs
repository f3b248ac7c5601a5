//! Somebody speaks to a VIP: a pod of this node (`from_pod`), or anybody outside (`edge`).

use federation_ebpf::{
    outcome::Outcome,
    packet::{
        self, Fragment, Ip,
        icmp::{self, Message},
    },
    translate,
};

use super::{
    echo, error, flow, fragment,
    hook::Hook,
    maps::{Family, V4, V6},
    open::{self, Reach},
    refuse,
    scratch::{self, Scratch},
    shortcut,
};

#[inline(always)]
pub fn outcome<P: Hook>(frame: P, reach: Reach) -> Outcome {
    let Some((ether_type, network)) = packet::link(&frame) else { return Outcome::NotOurs };
    if ether_type == <[u8; 4]>::ETHER_TYPE {
        to_family::<V4, P>(frame, network, reach)
    } else if ether_type == <[u8; 16]>::ETHER_TYPE {
        to_family::<V6, P>(frame, network, reach)
    } else {
        Outcome::NotOurs
    }
}

#[inline(always)]
fn to_family<F: Family, P: Hook>(frame: P, network: usize, reach: Reach) -> Outcome {
    let Some(destination) = packet::destination(&frame, network) else { return Outcome::NotOurs };
    if !F::is_vip(destination) {
        return Outcome::NotOurs;
    }
    shortcut::forward::<F, P>(frame, network).unwrap_or_else(|| long_way::<F, P>(frame, network, reach))
}

#[inline(never)]
fn long_way<F: Family, P: Hook>(frame: P, at: usize, reach: Reach) -> Outcome {
    let Some(scratch) = scratch::take::<F::Address>() else { return Outcome::NotWritable };
    if let Some(outcome) = scratch::read(frame, at, &mut scratch.network) {
        return outcome;
    }
    // SAFETY: just read.
    let network = unsafe { scratch.network.assume_init_ref() };
    if network.protocol == F::Address::ICMP {
        return about::<F, P>(frame, scratch);
    }
    if packet::protocol(network.protocol).is_none() {
        scratch.outcome.write(Outcome::UnknownProtocol);
        return refuse::answer::<F, P>(frame, scratch);
    }
    if let Some(outcome) = scratch::read_transport(frame, scratch) {
        return outcome;
    }
    // SAFETY: just read.
    if let Fragment::Later(identification) = unsafe { scratch.packet.assume_init_ref() }.fragment {
        return match fragment::follow::<F>(scratch, identification) {
            Some(outcome) => {
                scratch.outcome.write(outcome);
                pass::<F, P>(frame, scratch)
            }
            None => Outcome::FragmentUnknown,
        };
    }
    let bytes = frame.length();
    let outcome = match flow::forward::<F>(scratch, bytes) {
        Some(outcome) => outcome,
        None => open::open::<F>(scratch, bytes, reach),
    };
    scratch.outcome.write(outcome);
    match outcome {
        Outcome::Forwarded | Outcome::Opened | Outcome::Adopted | Outcome::Hairpinned => {
            pass::<F, P>(frame, scratch)
        }
        // All that a flow can end in besides.
        _ => refuse::answer::<F, P>(frame, scratch),
    }
}

/// Sends the packet in `scratch` on to where its flow leads; its outcome, if that succeeds.
#[inline(never)]
pub fn pass<F: Family, P: Hook>(frame: P, scratch: &Scratch<F::Address>) -> Outcome {
    // SAFETY: written by the callers, `to` by the flow.
    let (network, packet, to) = unsafe {
        (scratch.network.assume_init_ref(), scratch.packet.assume_init_ref(), scratch.to.assume_init_ref())
    };
    if let Fragment::First(identification) = network.fragment {
        fragment::remember::<F>(network, packet, identification);
    }
    match translate::packet(frame, packet, to) {
        // SAFETY: as above.
        Ok(()) => unsafe { scratch.outcome.assume_init() },
        Err(refusal) => refusal,
    }
}

/// What is about other packets, or about the VIP itself.
#[inline(never)]
fn about<F: Family, P: Hook>(frame: P, scratch: &mut Scratch<F::Address>) -> Outcome {
    // SAFETY: written by the caller.
    let network = unsafe { scratch.network.assume_init_ref() };
    if let Fragment::Later(identification) = network.fragment {
        return echo::follow::<F, P>(frame, network, identification);
    }
    match icmp::message(&frame, network) {
        Ok(Message::EchoRequest { answer }) => echo::answer::<F, P>(frame, scratch, answer),
        Ok(Message::Error) => error::to_vip::<F, P>(frame, scratch),
        Ok(Message::Other) => Outcome::Unanswerable,
        Err(outcome) => outcome,
    }
}
