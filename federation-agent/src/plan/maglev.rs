//! Weighted Maglev hashing: a lookup table that gives each backend its weight's part of the slots, moves little
//! when the set changes, and is the same on every node.
//!
//! Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4;
//! weights by letting a backend take its turn in proportion to its weight.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

/// Slots for each backend, at least: a share is then exact to 1 per cent of it.
const SLOTS_PER_BACKEND: usize = 100;

/// Primes just below powers of two, so that the size changes seldom: at a new size most slots move.
const SIZES: [u32; 12] =
    [251, 509, 1_021, 2_039, 4_093, 8_191, 16_381, 32_749, 65_521, 131_071, 262_139, 524_287];

/// The number of slots for a set of `backends` many.
pub fn size(backends: usize) -> u32 {
    let wanted = backends.saturating_mul(SLOTS_PER_BACKEND);
    let largest = SIZES[SIZES.len() - 1];
    SIZES.into_iter().find(|size| *size as usize >= wanted).unwrap_or(largest)
}

/// Fills a table from backends' stable names and weights; each slot holds an index into `backends`.
///
/// Backends of weight 0 get no slot; without any other the table is empty. The order of `backends` does not matter
/// to who gets which slot, as long as the names differ.
pub fn table(backends: &[(&str, u32)], seed: u64) -> Vec<u32> {
    let mut turns: Vec<Turn> = backends
        .iter()
        .zip(0..)
        .filter(|((_, weight), _)| *weight > 0)
        .map(|((name, weight), index)| Turn {
            name,
            index,
            weight: u64::from(*weight),
            due: 0,
            next: 0,
            step: 0,
        })
        .collect();
    let Some(heaviest) = turns.iter().map(|turn| turn.weight).max() else { return Vec::new() };
    let size = size(turns.len());
    for turn in &mut turns {
        turn.next = hash(turn.name, seed, Purpose::Offset) % size;
        turn.step = hash(turn.name, seed, Purpose::Skip) % (size - 1) + 1;
    }
    turns.sort_by(|a, b| a.name.cmp(b.name));

    let mut slots: Vec<Option<u32>> = vec![None; size as usize];
    let mut empty = slots.len();
    for round in 1_u64.. {
        for turn in &mut turns {
            // The heaviest takes a slot every round, another one whenever its weight has added up to one.
            if round * turn.weight < turn.due {
                continue;
            }
            turn.due += heaviest;
            // The size is a prime, so that the steps visit every slot before they come back.
            while slots[turn.next as usize].is_some() {
                turn.next = (turn.next + turn.step) % size;
            }
            slots[turn.next as usize] = Some(turn.index);
            empty -= 1;
            if empty == 0 {
                return slots.into_iter().flatten().collect();
            }
        }
    }
    unreachable!("the heaviest backend takes a slot every round")
}

/// One backend's walk through the table.
struct Turn<'a> {
    name: &'a str,
    index: u32,
    weight: u64,
    /// What `round * weight` must reach for the next slot.
    due: u64,
    next: u32,
    step: u32,
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

    /// Who holds each slot, by name, for equal weights.
    fn holders(names: &[String], seed: u64) -> Vec<&str> {
        let backends: Vec<_> = names.iter().map(|name| (name.as_str(), 100)).collect();
        table(&backends, seed).into_iter().map(|index| backends[index as usize].0).collect()
    }

    #[test]
    fn sizes_are_primes_and_rise() {
        for size in SIZES {
            assert!((2..=size.isqrt()).all(|divisor| size % divisor != 0), "{size} is no prime");
        }
        assert!(SIZES.is_sorted());
    }

    #[test]
    fn no_backend_gives_no_slot() {
        assert!(table(&[], 1).is_empty());
        assert!(table(&[("a", 0)], 1).is_empty());
    }

    #[test]
    fn one_backend_holds_every_slot() {
        assert!(table(&[("zero", 0), ("only", 7)], 1).iter().all(|index| *index == 1));
    }

    #[test]
    fn a_departure_moves_little_beyond_its_own_share() {
        for count in [3, 8, 20, 100] {
            let all = names(count);
            for gone in [0, count / 2, count - 1] {
                let mut rest = all.clone();
                let gone = rest.remove(gone);
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
        fn shares_follow_weights(weights in prop::collection::vec(0_u32..=1000, 1..40), seed: u64) {
            let names = names(weights.len());
            let backends: Vec<_> = names.iter().map(String::as_str).zip(weights.iter().copied()).collect();
            let slots = table(&backends, seed);
            let sum: u32 = weights.iter().sum();
            let mut held: BTreeMap<u32, usize> = BTreeMap::new();
            for index in &slots {
                *held.entry(*index).or_default() += 1;
            }
            for (index, weight) in (0_u32..).zip(&weights) {
                let has = held.get(&index).copied().unwrap_or(0) as f64;
                if sum > 0 {
                    let wanted = slots.len() as f64 * f64::from(*weight) / f64::from(sum);
                    prop_assert!((has - wanted).abs() <= 1.0 + wanted * 0.01, "{has} slots instead of {wanted}");
                } else {
                    prop_assert!(slots.is_empty());
                }
            }
        }

        #[test]
        fn the_order_of_backends_does_not_matter(count in 1_usize..30, seed: u64) {
            let mut all = names(count);
            let before: Vec<String> = holders(&all, seed).into_iter().map(str::to_owned).collect();
            all.reverse();
            prop_assert_eq!(before, holders(&all, seed));
        }
    }
}
