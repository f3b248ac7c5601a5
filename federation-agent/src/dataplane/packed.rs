//! A table of slots in the words that lie in `SLOTS`, and what they say.

use std::ops::Range;

use anyhow::{Context as _, Result};
use federation_ebpf::slots::{Table, part};

/// A table, as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Packed {
    /// Its slots.
    pub size: u32,
    pub words: Vec<u64>,
}

impl Packed {
    /// Slots that hold indexes into `ids`; as many slots as such a table can have.
    pub(super) fn new(slots: &[u16], ids: &[u32]) -> Result<Self> {
        let table = Table { offset: 0, size: u32::try_from(slots.len()).context("size of a table")? };
        let (mut words, Some(last)) = joined(slots, table.cut()) else { return Ok(Self::default()) };
        let held = ids.get(..=usize::from(last)).context("a slot names somebody who has no id")?;
        words.extend(joined(held, 1).0);
        Ok(Self { size: table.size, words })
    }

    /// The one that a frontend names; `read` reads words of the map.
    pub(super) fn read(table: Table, read: impl Fn(Range<u32>) -> Result<Vec<u64>>) -> Result<Self> {
        if table.size == 0 {
            return Ok(Self::default());
        }
        let end = table.offset + table.words();
        let mut words = read(table.offset..end)?;
        let last = numbers(&words, table.cut()).max().unwrap_or(0);
        words.extend(read(end..end + last / 2 + 1)?);
        Ok(Self { size: table.size, words })
    }

    /// The id in each slot.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        let table = Table { offset: 0, size: self.size };
        let word = |index: u32| self.words.get(index as usize).copied();
        (0..self.size).filter_map(move |slot| table.id(slot, word))
    }
}

/// Numbers put together, 2^`cut` to a word, and the largest of them.
fn joined<T: Copy + Into<u64> + Ord>(numbers: &[T], cut: u32) -> (Vec<u64>, Option<T>) {
    let bits = u64::BITS >> cut;
    let mut largest = numbers.first().copied();
    let join = |chunk: &[T]| {
        chunk.iter().rev().fold(0, |word, number| {
            largest = largest.max(Some(*number));
            word << bits | (*number).into()
        })
    };
    (numbers.chunks(1 << cut).map(join).collect(), largest)
}

fn numbers(words: &[u64], cut: u32) -> impl Iterator<Item = u32> {
    words.iter().flat_map(move |word| (0..1 << cut).map(move |index| part(*word, index, cut)))
}

#[cfg(test)]
mod tests {
    use federation_ebpf::slots;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_packed_is_read(
            backends in 1_u16..600,
            bits in 3_u32..15,
            picks in prop::collection::vec(any::<u16>(), 1..50),
            offset in 0_u32..1000,
        ) {
            let size = slots::least_for(backends.into()).max(1 << bits);
            let slots: Vec<u16> = picks.iter().map(|pick| pick % backends).cycle().take(size as usize).collect();
            let ids: Vec<u32> = (0..backends).map(|index| 100_000 + u32::from(index)).collect();
            let packed = Packed::new(&slots, &ids).unwrap();
            prop_assert!(packed.ids().eq(slots.iter().map(|index| ids[usize::from(*index)])));

            let read = |words: Range<u32>| {
                let place = |word: u32| (word - offset) as usize;
                Ok(packed.words[place(words.start)..place(words.end)].to_vec())
            };
            prop_assert_eq!(Packed::read(Table { offset, size }, read).unwrap(), packed);
        }
    }
}
