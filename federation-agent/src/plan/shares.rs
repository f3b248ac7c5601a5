//! How much each backend gets: tiers filled from the nearest, spilling over as they lose health.

use std::{collections::BTreeMap, sync::Arc};

use super::{Backend, Candidate, Standing, tiers::Tier};
use crate::model::Overprovisioning;

/// The load of a frontend is cut into this many parts.
const WHOLE: u64 = 1_000_000;

pub(super) type Parts = BTreeMap<Arc<Backend>, u32>;

/// The candidates at one distance.
#[derive(Default)]
pub(super) struct Members<'a> {
    /// May be chosen, with those of the ejected that exceed half of the tier.
    pub usable: Vec<&'a Candidate>,
    /// Out for what their traffic showed.
    pub ejected: Vec<&'a Candidate>,
    /// When nobody else is left.
    pub doubted: Vec<&'a Candidate>,
    /// Out for anything else, and expected back.
    absent: Vec<&'a Candidate>,
}

/// Who is asked, in which order.
pub(super) type Tiers<'a> = BTreeMap<Tier, Members<'a>>;

/// What came out for one frontend.
#[derive(Default)]
pub(super) struct Split {
    /// Parts of the load by backend. Empty when nobody can serve.
    pub backends: Parts,
    /// Weights of the first tier at full health, where somebody of it is missing: who is well keeps what is his.
    pub full: Parts,
    /// The same without the first tier that serves: for clients that it does not answer.
    pub fallback: Parts,
    /// What each tier takes, in parts of [`WHOLE`].
    pub taken: BTreeMap<Tier, u64>,
}

pub(super) fn tiers<'a>(
    candidates: impl Iterator<Item = &'a Candidate>,
    distance: impl Fn(&Candidate) -> Tier,
) -> Tiers<'a> {
    let mut tiers: Tiers<'_> = BTreeMap::new();
    for candidate in candidates {
        let members = tiers.entry(distance(candidate)).or_default();
        match candidate.standing {
            Standing::Usable => members.usable.push(candidate),
            Standing::Ejected { .. } => members.ejected.push(candidate),
            Standing::Doubted => members.doubted.push(candidate),
            Standing::NotReady | Standing::Unreachable | Standing::Failed => members.absent.push(candidate),
            Standing::Leaving | Standing::OffNode => {}
        }
    }
    for members in tiers.values_mut() {
        members.limit_ejections();
    }
    tiers
}

/// Who takes part in the division, and by which weight.
#[derive(Clone, Copy)]
enum Turnout {
    Weighted,
    /// Weight 0 is for the day when nothing else is left.
    Weightless,
    DoubtedWeighted,
    DoubtedWeightless,
}

pub(super) fn split(tiers: &Tiers<'_>, overprovisioning: Overprovisioning) -> Split {
    use Turnout::{DoubtedWeighted, DoubtedWeightless, Weighted, Weightless};
    for turnout in [Weighted, Weightless, DoubtedWeighted, DoubtedWeightless] {
        let (backends, taken) = divide(tiers.iter(), overprovisioning, turnout);
        let Some(first) = taken.keys().next().copied() else { continue };
        let full = tiers[&first].full(turnout);
        let beyond = tiers.iter().filter(|(tier, _)| **tier > first);
        let (fallback, _) = divide(beyond, overprovisioning, turnout);
        return Split { backends, full, fallback, taken };
    }
    Split::default()
}

/// Parts by backend, and by tier.
fn divide<'a>(
    tiers: impl Iterator<Item = (&'a Tier, &'a Members<'a>)>,
    overprovisioning: Overprovisioning,
    turnout: Turnout,
) -> (Parts, BTreeMap<Tier, u64>) {
    let mut remaining = WHOLE;
    let (mut shares, mut taken) = (Parts::new(), BTreeMap::new());
    for (tier, members) in tiers {
        let present = members.present(turnout);
        let sum: u64 = present.iter().map(|candidate| turnout.weight(candidate)).sum();
        if sum == 0 {
            continue;
        }
        let able =
            WHOLE * u64::from(overprovisioning.percent()) * present.len() as u64 / (100 * members.total());
        let takes = remaining.min(able);
        remaining -= takes;
        taken.insert(*tier, takes);
        for candidate in present {
            let part = takes * turnout.weight(candidate) / sum;
            if part > 0 {
                shares.insert(candidate.backend.clone(), u32::try_from(part).expect("a part of a million"));
            }
        }
        if remaining == 0 {
            break;
        }
    }
    // What no tier could take is borne by all in proportion: shares are parts of their sum.
    (shares, taken)
}

impl Turnout {
    fn weight(self, candidate: &Candidate) -> u64 {
        match self {
            Self::Weighted | Self::DoubtedWeighted => candidate.weight.into(),
            Self::Weightless | Self::DoubtedWeightless => u64::from(candidate.weight == 0),
        }
    }
}

impl<'a> Members<'a> {
    /// Passive evidence alone never takes out more than half of a tier: the first to be ejected stay out.
    fn limit_ejections(&mut self) {
        let rank = |candidate: &&Candidate| match candidate.standing {
            Standing::Ejected { rank } => rank,
            _ => u64::MAX,
        };
        self.ejected.sort_by_key(rank);
        let most = usize::midpoint(self.usable.len(), self.ejected.len());
        let excess = self.ejected.split_off(most.min(self.ejected.len()));
        self.usable.extend(excess);
    }

    fn present(&self, turnout: Turnout) -> &[&'a Candidate] {
        match turnout {
            Turnout::Weighted | Turnout::Weightless => &self.usable,
            Turnout::DoubtedWeighted | Turnout::DoubtedWeightless => &self.doubted,
        }
    }

    /// How many would be usable at full health.
    pub fn total(&self) -> u64 {
        (self.usable.len() + self.ejected.len() + self.doubted.len() + self.absent.len()) as u64
    }

    fn full(&self, turnout: Turnout) -> Parts {
        let present = self.present(turnout);
        if present.len() as u64 == self.total() {
            return Parts::new();
        }
        let all = [&self.usable, &self.ejected, &self.doubted, &self.absent];
        let weighed = all.into_iter().flatten().filter_map(|candidate| {
            let weight = u32::try_from(turnout.weight(candidate)).ok().filter(|weight| *weight > 0)?;
            Some((candidate.backend.clone(), weight))
        });
        weighed.collect()
    }
}
