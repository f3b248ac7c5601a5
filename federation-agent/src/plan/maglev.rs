//! Weighted Maglev hashing: a lookup table that gives each backend its weight's part of the slots, moves little
//! when the set changes, and is the same on every node.
//!
//! Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4;
//! weights by letting a backend take its turn in proportion to its weight.
//!
//! Maglev alone moves some slots between backends that stay, two to six in a hundred of a small table. Here a backend
//! that is missing for now keeps its place: the table is first filled as at full health, and then only the slots of who is
//! missing are given to the others, by the same walk.

use std::{cmp::Reverse, hash::Hasher as _};

use siphasher::sip::SipHasher24;

/// How exact shares are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// To 1 per cent of a share.
    Fine,
    /// To a tenth: for tables that few clients ever see.
    Coarse,
}

impl Grain {
    /// Slots for each backend, at least.
    fn slots_per_backend(self) -> usize {
        match self {
            Self::Fine => 100,
            Self::Coarse => 10,
        }
    }
}

/// Primes just below powers of two, so that the size changes seldom: at a new size most slots move.
const SIZES: [u32; 12] =
    [251, 509, 1_021, 2_039, 4_093, 8_191, 16_381, 32_749, 65_521, 131_071, 262_139, 524_287];

/// The number of slots for a set of `backends` many.
pub fn size(backends: usize, grain: Grain) -> u32 {
    let wanted = backends.saturating_mul(grain.slots_per_backend());
    let largest = SIZES[SIZES.len() - 1];
    SIZES.into_iter().find(|size| *size as usize >= wanted).unwrap_or(largest)
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

/// Fills a table; each slot holds an index into `holders`. Without any share it is empty.
///
/// The order of `holders` does not matter to who gets which slot.
pub fn table(holders: &[Holder<'_>], grain: Grain, seed: u64) -> Vec<u32> {
    let count = holders.iter().filter(|holder| holder.share > 0 || holder.full > 0).count();
    let sum: u64 = holders.iter().map(|holder| u64::from(holder.share)).sum();
    if sum == 0 {
        return Vec::new();
    }
    let mut walks = Walks::new(holders, size(count, grain), seed);
    let mut slots: Vec<Option<u32>> = vec![None; walks.size as usize];
    let weights =
        |weight: fn(&Holder<'_>) -> u32| holders.iter().map(|h| u64::from(weight(h))).collect::<Vec<_>>();
    walks.fill(&mut slots, &weights(|holder| holder.full), None);

    let quotas = walks.quotas(&weights(|holder| holder.share), sum, &slots);
    let mut missing = quotas.clone();
    for slot in &mut slots {
        *slot = slot.filter(|index| {
            let missing = &mut missing[*index as usize];
            let keeps = *missing > 0;
            *missing = missing.saturating_sub(1);
            keeps
        });
    }
    walks.restart();
    walks.fill(&mut slots, &missing, Some(&missing));
    slots.into_iter().flatten().collect()
}

/// Everyone's walk through the table, in the order of names.
struct Walks {
    size: u32,
    walks: Vec<Walk>,
}

/// One backend's: it visits every slot once, for the size is a prime.
struct Walk {
    index: u32,
    start: u32,
    step: u32,
    next: u32,
}

impl Walks {
    fn new(holders: &[Holder<'_>], size: u32, seed: u64) -> Self {
        let mut order: Vec<(&str, u32)> = holders.iter().map(|holder| holder.name).zip(0..).collect();
        order.sort_unstable();
        let walk = |(name, index): (&str, u32)| {
            let start = hash(name, seed, Purpose::Offset) % size;
            Walk { index, start, step: hash(name, seed, Purpose::Skip) % (size - 1) + 1, next: start }
        };
        Self { size, walks: order.into_iter().map(walk).collect() }
    }

    fn restart(&mut self) {
        for walk in &mut self.walks {
            walk.next = walk.start;
        }
    }

    /// How many slots are due to each: its share of them rounded down, and one more to some until all are given away, first to
    /// those who hold it already, then to the largest remainders. Shares are in parts of `sum`.
    fn quotas(&self, shares: &[u64], sum: u64, slots: &[Option<u32>]) -> Vec<u64> {
        let size = slots.len() as u64;
        let mut held = vec![0_u64; shares.len()];
        for index in slots.iter().flatten() {
            held[*index as usize] += 1;
        }
        let mut quotas: Vec<u64> = shares.iter().map(|share| share * size / sum).collect();
        let mut order: Vec<usize> =
            self.walks.iter().map(|walk| walk.index as usize).filter(|index| shares[*index] > 0).collect();
        let rest = |index: usize| shares[index] * size % sum;
        order.sort_by_key(|index| (held[*index] <= quotas[*index], Reverse(rest(*index))));
        let left = size - quotas.iter().sum::<u64>();
        for index in order.into_iter().cycle().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            quotas[index] += 1;
        }
        quotas
    }

    /// Gives the empty slots away in proportion to `weights`, those of the holders, and to nobody more than at `most`.
    /// Without any weights nothing happens.
    fn fill(&mut self, slots: &mut [Option<u32>], weights: &[u64], most: Option<&[u64]>) {
        let Some(heaviest) = weights.iter().copied().max().filter(|weight| *weight > 0) else { return };
        let mut empty = slots.iter().filter(|slot| slot.is_none()).count();
        // What `round * weight` must reach for each one's next slot.
        let mut due = vec![0_u128; weights.len()];
        let mut given = vec![0_u64; weights.len()];
        for round in 1_u128.. {
            for walk in &mut self.walks {
                if empty == 0 {
                    return;
                }
                // The heaviest takes a slot every round, another one whenever its weight has added up to one.
                let index = walk.index as usize;
                let (weight, due) = (u128::from(weights[index]), &mut due[index]);
                let full = most.is_some_and(|most| given[index] >= most[index]);
                if weight == 0 || full || round * weight < *due {
                    continue;
                }
                *due += u128::from(heaviest);
                while slots[walk.next as usize].is_some() {
                    walk.next = (walk.next + walk.step) % self.size;
                }
                slots[walk.next as usize] = Some(walk.index);
                given[index] += 1;
                empty -= 1;
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Purpose {
    Offset,
    Skip,
}

fn hash(name: &str, seed: u64, purpose: Purpose) -> u32 {
    let mut hasher = SipHasher24::new_with_keys(seed, purpose as u64);
    hasher.write(name.as_bytes());
    // 32 bits are plenty for tables of half a million slots.
    (hasher.finish() >> 32) as u32
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
        table(holders, Grain::Fine, seed).into_iter().map(|index| holders[index as usize].name).collect()
    }

    fn equal(names: &[String]) -> Vec<Holder<'_>> {
        names.iter().map(|name| Holder::well(name, 100)).collect()
    }

    #[test]
    fn sizes_are_primes_and_rise() {
        for size in SIZES {
            assert!((2..=size.isqrt()).all(|divisor| size % divisor != 0), "{size} is no prime");
        }
        assert!(SIZES.is_sorted());
    }

    #[test]
    fn no_share_gives_no_slot() {
        assert!(table(&[], Grain::Fine, 1).is_empty());
        assert!(table(&[Holder { name: "a", share: 0, full: 7 }], Grain::Fine, 1).is_empty());
    }

    #[test]
    fn one_backend_holds_every_slot() {
        let all = [Holder::well("zero", 0), Holder::well("only", 7)];
        assert!(table(&all, Grain::Fine, 1).iter().all(|index| *index == 1));
    }

    #[test]
    fn a_coarse_table_is_small_and_gives_everybody_something() {
        let names = names(20);
        let slots = table(&equal(&names), Grain::Coarse, 1);
        assert_eq!(slots.len(), 251);
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
                let moved =
                    before.iter().zip(&after).filter(|(was, is)| was != is && **was != names[gone]).count();
                assert_eq!(moved, 0, "{count} backends without {gone}");
                assert!(!after.contains(&names[gone].as_str()));
            }
        }
    }

    #[test]
    fn who_leaves_for_good_moves_little_beyond_its_own_share() {
        for count in [3, 8, 20, 100] {
            let names = names(count);
            let all = equal(&names);
            for gone in [0, count / 2, count - 1] {
                let mut rest = all.clone();
                let gone = rest.remove(gone).name;
                let (before, after) = (holders(&all, 42), holders(&rest, 42));
                if before.len() != after.len() {
                    continue;
                }
                let moved = before.iter().zip(&after).filter(|(was, is)| was != is && **was != gone).count();
                assert!(moved * 20 <= before.len(), "{moved} of {} slots moved without need", before.len());
            }
        }
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
            let slots = table(&all, Grain::Fine, seed);
            let sum: u32 = weights.iter().map(|(share, _)| share).sum();
            let mut held: BTreeMap<u32, usize> = BTreeMap::new();
            for index in &slots {
                *held.entry(*index).or_default() += 1;
            }
            for (index, (share, _)) in (0_u32..).zip(&weights) {
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
