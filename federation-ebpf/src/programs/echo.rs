//! Echo requests to a VIP: answered on the spot while any of its ports has a backend.

use federation_ebpf::{
    address::Address as _,
    checksum::Difference,
    frame::{Covered, Frame},
    maps::{FrontendKey, Ports, Protocol},
    outcome::Outcome,
    packet::{Fragment, Ip, Network, icmp},
    translate,
};

use super::{hook::Hook, maps::Family, refuse, scratch::Scratch};

/// Makes an echo request its own answer, of the type `answer`.
#[inline(always)]
pub fn answer<F: Family, P: Hook>(frame: P, scratch: &mut Scratch<F::Address>, answer: u8) -> Outcome {
    // SAFETY: written by the caller.
    let network = unsafe { scratch.network.assume_init_ref() };
    let key = FrontendKey::new(network.destination, 0, Protocol::Icmp);
    // SAFETY: an entry that is replaced is kept while programs run that may read it.
    let refusal = match unsafe { F::frontends().get(&key) } {
        Some(frontend) if frontend.size > 0 => None,
        Some(_) => Some(Outcome::NoBackend),
        None => Some(Outcome::NoFrontend),
    };
    if let Some(refusal) = refusal {
        scratch.outcome.write(refusal);
        return refuse::answer::<F, P>(frame, scratch);
    }
    // RFC 1122, section 3.2.1.3: no host is there to be answered.
    if !network.source.is_one_host() {
        return Outcome::Unanswerable;
    }
    if let Fragment::First(identification) = network.fragment {
        let key = network.fragment_key(identification, Protocol::Icmp);
        // Without room, its other fragments are unknown and counted as such.
        let _ = F::fragments().insert(&key, Ports { source: 0, destination: 0 }, 0);
    }
    let Some(kind) = frame.load(network.transport).map(u16::from_be) else { return Outcome::Malformed };
    let change = Difference::default().word(kind, u16::from(answer) << 8 | kind & 0xff);
    let turned = frame
        .store(network.transport, &answer)
        .and_then(|()| frame.correct(network.transport + icmp::CHECKSUM, change, Covered::Body, false));
    match turned {
        Ok(()) => turn(frame, network),
        Err(refusal) => refusal,
    }
}

/// A later fragment of an echo request.
#[inline(always)]
pub fn follow<F: Family, P: Hook>(frame: P, network: &Network<F::Address>, identification: u32) -> Outcome {
    let key = network.fragment_key(identification, Protocol::Icmp);
    // SAFETY: entries are not freed while the program runs.
    match unsafe { F::fragments().get(&key) } {
        Some(_) => turn(frame, network),
        None => Outcome::FragmentUnknown,
    }
}

/// Exchanges the ends, which leaves the sums over both as they are.
#[inline(always)]
fn turn<A: Ip>(frame: impl Frame, network: &Network<A>) -> Outcome {
    match translate::ends(frame, network, network.destination, network.source) {
        Ok(_) => Outcome::EchoAnswered,
        Err(refusal) => refusal,
    }
}
