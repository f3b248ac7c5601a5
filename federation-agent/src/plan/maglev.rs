//! Maglev tables: each gives every backend its weight's part of the slots, moves little when the set changes, and is the same
//! on every node.
//!
//! Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4: every
//! backend walks through the table in an order of its own. There, whoever comes to a slot that is taken goes on to the next
//! free one, so that when one backend leaves, slots change hands among the others too: two to six in a hundred of a small
//! table. Here a slot is of whoever comes to it first, whatever the others do, until somebody has his share; with as many
//! slots as below, less than one in a hundred changes hands without need, while the size stays.
//!
//! A backend that is missing only for now keeps its place: the table is first filled as at full health, and then the slots
//! of who is missing alone are given to the others.

use std::hash::Hasher as _;

use siphasher::sip128::{Hash128, Hasher128 as _, SipHasher24};

/// How exact shares are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// To 1 per cent of a share.
    Fine,
    /// To a tenth, and a small weight may have no slot at all: for tables that few clients ever see, and where room is short.
    Coarse,
}

impl Grain {
    /// Slots for each backend, where there are many.
    fn slots_each(self) -> usize {
        match self {
            Self::Fine => 128,
            Self::Coarse => 10,
        }
    }
}

/// Backends that a table can tell apart.
pub const MOST_HOLDERS: usize = NOBODY as usize;

/// In a slot that is empty.
const NOBODY: u16 = u16::MAX;

/// The number of slots, a power of two, for a set of which `well` many have a weight at full health, and `all` hold slots or
/// would.
///
/// At a new size most slots change hands: those who help out while others are missing change it only if they are many.
pub fn size(well: usize, all: usize, grain: Grain) -> u32 {
    let usual = size_for(well, grain);
    if all.saturating_mul(grain.slots_each()) <= usual as usize { usual } else { size_for(all, grain) }
}

/// What changes hands without need falls with the root of the size, whatever the number of backends: hence the many slots
/// for few.
fn size_for(backends: usize, grain: Grain) -> u32 {
    const LARGEST: u32 = 1 << 19;
    let slots = u32::try_from(backends.saturating_mul(grain.slots_each())).unwrap_or(LARGEST);
    let slots = slots.min(LARGEST).next_power_of_two();
    match (grain, backends) {
        (_, ..=1) => 1 << 3,
        (Grain::Fine, ..=16) => 1 << 13,
        (Grain::Fine, _) => slots.max(1 << 14),
        (Grain::Coarse, _) => slots.max(1 << 8),
    }
}

/// One who may hold slots.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// Stable, and different from all others'.
    pub name: &'a str,
    /// Its part of the slots, in parts of all shares' sum; 0 for who is missing.
    pub share: u32,
    /// Its weight at full health; 0 for who is asked only because others are missing.
    pub full: u32,
}

impl<'a> Holder<'a> {
    /// One whose share is what it is at full health.
    pub fn well(name: &'a str, weight: u32) -> Self {
        Self { name, share: weight, full: weight }
    }
}

/// Fills a table of `size`, a power of two; each slot holds an index into `holders`, of whom there are at most
/// [`MOST_HOLDERS`]. Without any share it is empty.
///
/// The order of `holders` does not matter to who gets which slot.
pub fn table(holders: &[Holder<'_>], size: u32, seed: u64) -> Vec<u16> {
    if holders.iter().all(|holder| holder.share == 0) {
        return Vec::new();
    }
    let mut order: Vec<_> = holders.iter().zip(0_u16..).collect();
    order.retain(|(holder, _)| holder.share > 0 || holder.full > 0);
    order.sort_unstable_by_key(|(holder, _)| holder.name);
    let walks: Vec<_> = order.iter().map(|(holder, _)| Walk::new(holder.name, seed, size)).collect();
    let (full, shares): (Vec<_>, Vec<_>) =
        order.iter().map(|(holder, _)| (holder.full, holder.share)).unzip();

    let mut slots = vec![NOBODY; size as usize];
    settle(&mut slots, &walks, &full);
    if shares != full {
        settle(&mut slots, &walks, &shares);
    }
    for slot in &mut slots {
        *slot = order[usize::from(*slot)].1;
    }
    slots
}

/// Gives each walk its weight's part of the slots. Who has more than that loses some, and the empty ones go to whoever comes
/// first of those who may have more. Without any weights nothing happens.
fn settle(slots: &mut [u16], walks: &[Walk], weights: &[u32]) {
    let sum: u64 = weights.iter().copied().map(u64::from).sum();
    if sum == 0 {
        return;
    }
    let size = slots.len() as u64;
    let mut takers: Vec<_> = walks
        .iter()
        .zip(weights)
        .map(|(walk, weight)| Taker::new(*walk, (*weight).into(), sum, size, laps(walks.len())))
        .collect();
    let (mut empty, mut owed) = release(slots, &mut takers);
    // To ask everyone about a slot takes twice as long as a step.
    let few = empty * takers.len() as u64 * 2 < laps(takers.len()) * size;
    let first_comers = if few { Vec::new() } else { first_comers(&takers, slots.len()) };
    // Who may take no more will not later.
    let mut able: Vec<u16> = (0..).take(takers.len()).collect();
    for (number, slot) in (0_u32..).zip(slots) {
        if *slot != NOBODY {
            continue;
        }
        let may_take = |taker: &Taker| taker.held < if empty > owed { taker.most } else { taker.least };
        let first = first_comers.get(number as usize).map(|first| taker_in(*first));
        let first = first.filter(|first| takers.get(usize::from(*first)).is_some_and(may_take));
        let next = || {
            able.retain(|index| may_take(&takers[usize::from(*index)]));
            able.iter().copied().min_by_key(|index| takers[usize::from(*index)].arrival(number))
        };
        let index = first.or_else(next).expect("as many slots are due to takers as there are");
        let taker = &mut takers[usize::from(index)];
        owed -= u64::from(taker.held < taker.least);
        taker.held += 1;
        empty -= 1;
        *slot = index;
    }
}

/// Counts what the takers hold, and empties what is beyond. How many slots are empty then, and how many of them are owed to those
/// who have too few.
fn release(slots: &mut [u16], takers: &mut [Taker]) -> (u64, u64) {
    let mut held = vec![0_u32; takers.len()];
    for slot in slots.iter() {
        if let Some(held) = held.get_mut(usize::from(*slot)) {
            *held += 1;
        }
    }
    let sum = |count: fn(&Taker, u32) -> u32| -> u64 {
        takers.iter().zip(&held).map(|(taker, held)| u64::from(count(taker, *held))).sum()
    };
    let owed = sum(|taker, held| taker.least.saturating_sub(held));
    let is_enough = slots.len() as u64 - sum(|taker, held| held.min(taker.most)) >= owed;
    let mut empty = 0;
    for slot in slots {
        let keeps = takers.get_mut(usize::from(*slot)).is_some_and(|taker| {
            let keeps = taker.held < if is_enough { taker.most } else { taker.exact };
            taker.held += u32::from(keeps);
            keeps
        });
        if !keeps {
            *slot = NOBODY;
            empty += 1;
        }
    }
    (empty, owed)
}

/// Who comes to each slot first, and when, if anybody does in the time that is reckoned with: the tick above and the taker
/// below, of which the least number is the first to come, and the same one on every node.
fn first_comers(takers: &[Taker], size: usize) -> Vec<u32> {
    let mut first = vec![u32::MAX; size];
    for (taker, index) in takers.iter().zip(0_u32..) {
        let mut time = 0;
        for step in 0..taker.steps {
            let first = &mut first[taker.walk.slot(step) as usize];
            *first = (*first).min(((tick(time) & 0xffff) as u32) << 16 | index);
            time += taker.interval;
        }
    }
    first
}

fn taker_in(first: u32) -> u16 {
    (first & 0xffff) as u16
}

/// One who takes slots: the heavier, the faster.
struct Taker {
    walk: Walk,
    /// From one step of its walk to the next, in parts of 2^16 of a tick.
    interval: u64,
    /// Steps in the time that is reckoned with.
    steps: u32,
    /// Slots that it shall hold: as many as 1 per cent less or more, or as whole slots allow.
    least: u32,
    exact: u32,
    most: u32,
    held: u32,
}

/// Slots that so many takers come to in the time that is reckoned with, as a multiple of the table: the more there are, the
/// longer it takes to ask all of them about each slot that nobody has come to, of which there is one in e to this power.
fn laps(takers: usize) -> u64 {
    u64::from(takers.max(1).ilog2()).max(3)
}

impl Taker {
    /// Of the time that is reckoned with. A tick and a taker together are one number of 32 bits.
    const TICKS: u64 = u16::MAX as u64;

    /// One who is due this weight's part of `sum`.
    fn new(walk: Walk, weight: u64, sum: u64, size: u64, laps: u64) -> Self {
        let slots = |number: u64| u32::try_from(number.min(size)).unwrap_or(u32::MAX);
        let part = weight * size;
        Self {
            walk,
            interval: (Self::TICKS << 16) * sum / (laps * part).max(1),
            steps: slots(laps * part / sum),
            least: slots((part * 99).div_ceil(sum * 100).min(part / sum)),
            exact: slots(part / sum),
            most: slots((part * 101 / (sum * 100)).max(part.div_ceil(sum))),
            held: 0,
        }
    }

    /// When it comes to a slot.
    fn arrival(&self, slot: u32) -> u64 {
        tick(u64::from(self.walk.step(slot)) * self.interval)
    }
}

fn tick(time: u64) -> u64 {
    time >> 16
}

/// One backend's way through a table: it comes to every slot once.
///
/// By what mixes bits and loses none: multiplication by odd numbers, and folding the upper half onto the lower.
#[derive(Clone, Copy)]
struct Walk {
    start: u32,
    factors: [u32; 2],
    /// Theirs, which lead from a slot back to the step.
    inverses: [u32; 2],
    mask: u32,
    half: u32,
}

impl Walk {
    /// Through a table of `size`, a power of two.
    fn new(name: &str, seed: u64, size: u32) -> Self {
        let mut hasher = SipHasher24::new_with_keys(seed, 0);
        hasher.write(name.as_bytes());
        let Hash128 { h1, h2 } = hasher.finish128();
        // 32 bits are plenty for tables of half a million slots.
        let factors = [(h1 >> 32) as u32 | 1, (h2 >> 32) as u32 | 1];
        Self {
            start: (h2 & 0xffff_ffff) as u32,
            factors,
            inverses: factors.map(inverse),
            mask: size - 1,
            half: size.ilog2().div_ceil(2),
        }
    }

    /// Where it is at a step, from 0 on.
    fn slot(&self, step: u32) -> u32 {
        let [first, second] = self.factors;
        let mixed = self.fold(step.wrapping_add(self.start).wrapping_mul(first));
        self.fold(mixed.wrapping_mul(second))
    }

    /// The step at which it comes to a slot.
    fn step(&self, slot: u32) -> u32 {
        let [first, second] = self.inverses;
        let mixed = self.fold(slot).wrapping_mul(second);
        self.fold(mixed).wrapping_mul(first).wrapping_sub(self.start) & self.mask
    }

    /// Its own inverse: what is folded onto stays out of what is folded.
    fn fold(&self, number: u32) -> u32 {
        let number = number & self.mask;
        number ^ number >> self.half
    }
}

/// Modulo 2^32, by Newton's method: each turn doubles the bits that are right, which are three to begin with.
fn inverse(odd: u32) -> u32 {
    (0..4).fold(odd, |inverse, _| inverse.wrapping_mul(2_u32.wrapping_sub(odd.wrapping_mul(inverse))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("cluster-{}/10.0.{}.{}:8080", n % 3, n / 250, n % 250)).collect()
    }

    /// Who holds each slot, by name.
    fn holders<'a>(holders: &[Holder<'a>], seed: u64) -> Vec<&'a str> {
        fine(holders, seed).into_iter().map(|index| holders[usize::from(index)].name).collect()
    }

    fn equal(names: &[String]) -> Vec<Holder<'_>> {
        names.iter().map(|name| Holder::well(name, 100)).collect()
    }

    fn fine(holders: &[Holder<'_>], seed: u64) -> Vec<u16> {
        table(holders, size(holders.len(), holders.len(), Grain::Fine), seed)
    }

    #[test]
    fn sizes_are_powers_of_two_and_rise() {
        for grain in [Grain::Fine, Grain::Coarse] {
            let sizes: Vec<_> = (0..100_000).step_by(7).map(|count| size(count, count, grain)).collect();
            assert!(sizes.is_sorted());
            assert!(sizes.iter().all(|size| size.is_power_of_two()));
        }
    }

    #[test]
    fn who_helps_out_changes_the_size_only_in_great_number() {
        for (well, all, slots) in
            [(10, 10, 1 << 13), (10, 60, 1 << 13), (10, 100, 1 << 14), (1, 4, 1 << 13), (40, 100, 1 << 14)]
        {
            assert_eq!(size(well, all, Grain::Fine), slots, "{well} of {all}");
        }
    }

    #[test]
    fn no_share_gives_no_slot() {
        assert!(fine(&[], 1).is_empty());
        assert!(fine(&[Holder { name: "a", share: 0, full: 7 }], 1).is_empty());
    }

    #[test]
    fn one_backend_holds_every_slot() {
        let all = [Holder::well("zero", 0), Holder::well("only", 7)];
        assert!(fine(&all, 1).iter().all(|index| *index == 1));
    }

    #[test]
    fn a_coarse_table_is_small_and_gives_everybody_something() {
        let names = names(20);
        let slots = table(&equal(&names), size(20, 20, Grain::Coarse), 1);
        assert_eq!(slots.len(), 256);
        assert!((0..20).all(|index| slots.contains(&index)));
    }

    #[test]
    fn who_is_missing_for_a_while_moves_no_slot_of_others_and_gets_all_of_its_own_back() {
        for count in [2, 3, 8, 20, 100] {
            let names = names(count);
            let all = equal(&names);
            for gone in [0, count / 2, count - 1] {
                let mut rest = all.clone();
                rest[gone].share = 0;
                let (before, after) = (holders(&all, 42), holders(&rest, 42));
                assert_eq!(before.len(), after.len());
                assert_eq!(moved(&before, &after, &names[gone]), 0, "{count} backends without {gone}");
                assert!(!after.contains(&names[gone].as_str()));
            }
        }
    }

    #[test]
    fn who_leaves_for_good_moves_its_own_share_and_less_than_a_hundredth_of_the_table_beyond() {
        for count in [3, 5, 8, 10, 13, 16, 18, 40, 90, 128, 130, 256] {
            for seed in 0..if count > 40 { 3 } else { 20 } {
                let names = names(count);
                let all = equal(&names);
                for gone in [0, count / 2, count - 1] {
                    let mut rest = all.clone();
                    let gone = rest.remove(gone).name;
                    let (before, after) = (holders(&all, seed), holders(&rest, seed));
                    assert_eq!(before.len(), after.len(), "of {count} backends and of one less");
                    let moved = moved(&before, &after, gone);
                    assert!(moved * 100 < before.len(), "{moved} of {} slots of {count}", before.len());
                }
            }
        }
    }

    /// Slots that changed hands though they were not of who is `gone`.
    fn moved(before: &[&str], after: &[&str], gone: &str) -> usize {
        before.iter().zip(after).filter(|(was, is)| was != is && **was != gone).count()
    }

    proptest! {
        #[test]
        fn shares_are_kept_whoever_is_missing(
            weights in prop::collection::vec((0_u32..=1000, 0_u32..=1000), 1..40),
            seed: u64,
        ) {
            let names = names(weights.len());
            let all: Vec<_> =
                names.iter().zip(&weights).map(|(name, (share, full))| Holder { name, share: *share, full: *full }).collect();
            let slots = fine(&all, seed);
            let sum: u32 = weights.iter().map(|(share, _)| share).sum();
            let mut held: BTreeMap<u16, usize> = BTreeMap::new();
            for index in &slots {
                *held.entry(*index).or_default() += 1;
            }
            for (index, (share, _)) in (0_u16..).zip(&weights) {
                let has = held.get(&index).copied().unwrap_or(0) as f64;
                if sum > 0 {
                    let wanted = slots.len() as f64 * f64::from(*share) / f64::from(sum);
                    prop_assert!((has - wanted).abs() <= 1.0 + wanted * 0.01, "{has} slots instead of {wanted}");
                } else {
                    prop_assert!(slots.is_empty());
                }
            }
        }

        #[test]
        fn a_walk_comes_to_every_slot_once(bits in 3_u32..14, seed: u64) {
            let walk = Walk::new("cluster/10.8.0.1:80", seed, 1 << bits);
            let mut slots: Vec<u32> = (0..1 << bits).map(|step| walk.slot(step)).collect();
            prop_assert!((0..).zip(&slots).all(|(step, slot)| walk.step(*slot) == step));
            slots.sort_unstable();
            prop_assert!(slots.into_iter().eq(0..1 << bits));
        }

        #[test]
        fn the_order_of_backends_does_not_matter(count in 1_usize..30, missing in 0_usize..30, seed: u64) {
            let names = names(count);
            let mut all = equal(&names);
            if let Some(missing) = all.get_mut(missing).filter(|_| count > 1) {
                missing.share = 0;
            }
            let before = holders(&all, seed);
            all.reverse();
            // Not printed: tables are long.
            prop_assert!(before == holders(&all, seed));
        }
    }
}
