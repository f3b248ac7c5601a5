//! How much each backend gets: tiers filled from the nearest, spilling over as they lose health.

use std::collections::BTreeMap;

use super::{Backend, Candidate, Standing, tiers::Tier};
use crate::model::Overprovisioning;

/// The load of a frontend is cut into this many parts.
const WHOLE: u64 = 1_000_000;

/// The candidates at one distance.
#[derive(Default)]
pub(super) struct Members<'a> {
    usable: Vec<&'a Candidate>,
    /// How many would be usable at full health.
    total: u64,
}

pub(super) fn tiers<'a>(
    candidates: impl Iterator<Item = &'a Candidate>,
    distance: impl Fn(&Candidate) -> Tier,
) -> BTreeMap<Tier, Members<'a>> {
    let mut tiers: BTreeMap<Tier, Members<'a>> = BTreeMap::new();
    for candidate in candidates {
        let members = tiers.entry(distance(candidate)).or_default();
        match candidate.standing {
            Standing::Usable => {
                members.usable.push(candidate);
                members.total += 1;
            }
            Standing::NotReady | Standing::Failed => members.total += 1,
            Standing::Leaving => {}
        }
    }
    tiers
}

/// Parts of the load by backend. Empty when no candidate is usable.
pub(super) fn share(
    tiers: &BTreeMap<Tier, Members<'_>>,
    overprovisioning: Overprovisioning,
) -> BTreeMap<Backend, u32> {
    // Weight 0 is for the day when nothing else is left.
    let weighted = share_by(tiers, overprovisioning, |candidate| u64::from(candidate.weight));
    if weighted.is_empty() {
        share_by(tiers, overprovisioning, |candidate| u64::from(candidate.weight == 0))
    } else {
        weighted
    }
}

fn share_by(
    tiers: &BTreeMap<Tier, Members<'_>>,
    overprovisioning: Overprovisioning,
    weight: impl Fn(&Candidate) -> u64,
) -> BTreeMap<Backend, u32> {
    let mut remaining = WHOLE;
    let mut shares = BTreeMap::new();
    for members in tiers.values() {
        let sum: u64 = members.usable.iter().map(|candidate| weight(candidate)).sum();
        if sum == 0 {
            continue;
        }
        let able = WHOLE * u64::from(overprovisioning.percent()) * members.usable.len() as u64
            / (100 * members.total);
        let takes = remaining.min(able);
        remaining -= takes;
        for candidate in &members.usable {
            let part = takes * weight(candidate) / sum;
            if part > 0 {
                shares.insert(candidate.backend.clone(), u32::try_from(part).expect("a part of a million"));
            }
        }
        if remaining == 0 {
            break;
        }
    }
    // What no tier could take is borne by all in proportion: shares are parts of their sum.
    shares
}
