//! ICMP errors about flows: the packet inside is one that we have translated, and its sender must know it again.
//!
//! An error goes the way of the packets that answer the one inside. So the flow's entry is found under the tuple of the
//! one inside turned round, the error's own ends follow the entry as those packets' do, and the inside becomes the tuple
//! that the entry leads to, turned round again.

use federation_ebpf::{
    frame::Covered,
    maps::{Direction, FlowKey},
    outcome::Outcome,
    packet::{self, Fragment, Ip, icmp, number},
    translate,
};

use super::{
    flow,
    hook::Hook,
    maps::Family,
    reply,
    scratch::{self, Scratch},
};

/// A client, or somebody on the way to it, about a packet that came from a VIP.
#[inline(always)]
pub fn to_vip<F: Family, P: Hook>(frame: P, scratch: &mut Scratch<F::Address>) -> Outcome {
    if find::<F, P>(frame, scratch).is_none() {
        return Outcome::ErrorUnknown;
    }
    // SAFETY: just written.
    let key = unsafe { scratch.key.assume_init_ref() };
    let Some(direction) = flow::translation::<F>(key, &mut scratch.to) else { return Outcome::ErrorUnknown };
    match rewrite::<F::Address, P>(frame, scratch) {
        Ok(()) if direction.is_hairpin() => Outcome::Hairpinned,
        Ok(()) => Outcome::ErrorTranslated,
        Err(refusal) => refusal,
    }
}

/// A backend, or somebody on the way to it, about a packet that was for a VIP. What is about no flow is everyone
/// else's.
#[inline(always)]
pub fn to_client<F: Family, P: Hook>(frame: P, scratch: &mut Scratch<F::Address>) -> Outcome {
    if find::<F, P>(frame, scratch).is_none() {
        return Outcome::NotOurs;
    }
    // SAFETY: just written.
    let key = unsafe { scratch.key.assume_init_ref() };
    if !reply::may_be_ours(key.source, key.source_port) {
        return Outcome::NotOurs;
    }
    if flow::translation::<F>(key, &mut scratch.to) != Some(Direction::Reply) {
        return Outcome::NoFlow;
    }
    // SAFETY: written by the caller.
    if icmp::is_unreachable(&frame, unsafe { scratch.network.assume_init_ref() }) {
        flow::unreachable::<F>(key);
    }
    match rewrite::<F::Address, P>(frame, scratch) {
        Ok(()) => Outcome::ErrorTranslated,
        Err(refusal) => refusal,
    }
}

/// Reads the packet inside and the tuple of what answers it into `scratch`.
#[inline(never)]
fn find<F: Family, P: Hook>(frame: P, scratch: &mut Scratch<F::Address>) -> Option<()> {
    // SAFETY: written by the callers.
    let network = unsafe { scratch.network.assume_init_ref() };
    if scratch::read(frame, network.transport + icmp::HEADER, &mut scratch.inner).is_some() {
        return None;
    }
    // SAFETY: just read.
    let inner = unsafe { scratch.inner.assume_init_ref() };
    let protocol = packet::protocol(inner.protocol)?;
    if matches!(inner.fragment, Fragment::Later(_)) {
        return None;
    }
    let (from, to) = packet::ports(frame.load(inner.transport)?);
    scratch.key.write(FlowKey::new(inner.destination, to, inner.source, from, protocol));
    Some(())
}

/// Translates the error in `scratch` and what is inside, now that it is known where to.
#[inline(never)]
fn rewrite<A: Ip, P: Hook>(frame: P, scratch: &Scratch<A>) -> Result<(), Outcome> {
    // SAFETY: written by the callers.
    let (network, inner, key, to) = unsafe {
        (
            scratch.network.assume_init_ref(),
            scratch.inner.assume_init_ref(),
            scratch.key.assume_init_ref(),
            scratch.to.assume_init_ref(),
        )
    };
    let end = network.transport + network.length as usize;
    let change = translate::quoted(frame, inner, end, key, to)?;
    let checksum = network.transport + icmp::CHECKSUM;
    frame.correct(checksum, change, Covered::Body, false)?;
    // A router on the way speaks for itself: only the flow's ends are translated.
    let source = if network.source == key.source { to.source } else { network.source };
    let destination =
        if network.destination == key.destination { to.destination } else { network.destination };
    let change = translate::ends(frame, network, source, destination)?;
    if A::ICMP == number::ICMPV6 {
        frame.correct(checksum, change, Covered::Addresses, false)?;
    }
    Ok(())
}
