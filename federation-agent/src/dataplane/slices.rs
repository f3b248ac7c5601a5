//! Which parts of `SLOTS` are taken: contiguous slices, one a table.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use federation_ebpf::maps;

/// How many words of slots there shall be on a machine with this much memory, in bytes.
///
/// A word takes eight bytes, and the table of up to 16 backends a thousand of them, so that 10 000 services of 10 endpoints
/// need 80 MB, which is little for the machines that such federations have, and much for a small one. The 128th part of
/// the memory is 128 MB of 16 GB. A map keeps the size that it was made with.
pub(super) fn affordable(memory: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "about two million")]
    const LEAST: u32 = maps::SLOTS as u32;
    const MOST: u32 = 1 << 26;
    const WORD_BYTES: u64 = 8;
    let words = memory / 128 / WORD_BYTES;
    u32::try_from(words).unwrap_or(MOST).clamp(LEAST, MOST)
}

/// First fit over what is free. Sizes are few (powers of two, and a little), so that holes fit again.
#[derive(Debug, Default)]
pub(super) struct Slices {
    /// Offset to length, never two that touch.
    free: BTreeMap<u32, u32>,
    taken: BTreeMap<u32, u32>,
    /// Words that are free.
    words: u32,
}

impl Slices {
    pub(super) fn new(size: u32) -> Self {
        Self { free: BTreeMap::from([(0, size)]), taken: BTreeMap::new(), words: size }
    }

    /// The offset of a slice of `size` words; nothing where no hole is large enough, or fewer than `spare` words would be
    /// free afterwards.
    pub(super) fn take(&mut self, size: u32, spare: u32) -> Option<u32> {
        if self.words < size.saturating_add(spare) {
            return None;
        }
        let offset = self.free.iter().find(|(_, length)| **length >= size).map(|(offset, _)| *offset)?;
        self.claim(offset, size).ok()?;
        Some(offset)
    }

    /// How many words are free.
    pub(super) fn free(&self) -> u32 {
        self.words
    }

    /// How many words the slice at `offset` has.
    pub(super) fn length(&self, offset: u32) -> u32 {
        self.taken.get(&offset).copied().unwrap_or(0)
    }

    /// Takes exactly these words.
    ///
    /// # Errors
    /// Some of them are taken.
    pub(super) fn claim(&mut self, offset: u32, size: u32) -> Result<()> {
        let hole = self.free.range(..=offset).next_back().map(|(start, length)| (*start, *length));
        let (start, length) = hole.with_context(|| format!("word {offset} is taken"))?;
        ensure!(start + length >= offset + size, "some of the words {offset} to {} are taken", offset + size);
        self.free.remove(&start);
        if start < offset {
            self.free.insert(start, offset - start);
        }
        if offset + size < start + length {
            self.free.insert(offset + size, start + length - offset - size);
        }
        self.taken.insert(offset, size);
        self.words -= size;
        Ok(())
    }

    /// Frees the slice at `offset`.
    pub(super) fn give_back(&mut self, offset: u32) {
        let Some(size) = self.taken.remove(&offset) else { return };
        self.words += size;
        let (mut start, mut end) = (offset, offset + size);
        if let Some(length) = self.free.remove(&end) {
            end += length;
        }
        if let Some((before, length)) =
            self.free.range(..offset).next_back().map(|(start, length)| (*start, *length))
            && before + length == offset
        {
            self.free.remove(&before);
            start = before;
        }
        self.free.insert(start, end - start);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_follow_the_machines_memory_within_bounds() {
        const GB: u64 = 1 << 30;
        for (memory, words) in [
            (GB / 2, 1 << 21),
            (2 * GB, 1 << 21),
            (16 * GB, 1 << 24),
            (64 * GB, 1 << 26),
            (1024 * GB, 1 << 26),
        ] {
            assert_eq!(affordable(memory), words, "{memory}");
        }
    }

    #[test]
    fn what_is_taken_cannot_be_claimed() {
        let mut slices = Slices::new(100);
        slices.claim(10, 20).unwrap();
        assert!(slices.claim(29, 1).is_err());
        assert!(slices.claim(5, 10).is_err());
        slices.claim(30, 70).unwrap();
        assert_eq!(slices.take(11, 0), None);
        assert_eq!(slices.take(10, 1), None, "one is to be left");
        assert_eq!(slices.take(10, 0), Some(0));
    }

    proptest! {
        #[test]
        fn slices_never_overlap_and_all_room_comes_back(steps in prop::collection::vec((1_u32..50, any::<bool>()), 1..80)) {
            let mut slices = Slices::new(1000);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (size, give) in steps {
                if give && !held.is_empty() {
                    slices.give_back(held.remove(size as usize % held.len()).0);
                } else if let Some(offset) = slices.take(size, 0) {
                    prop_assert!(held.iter().all(|(o, s)| offset + size <= *o || o + s <= offset));
                    held.push((offset, size));
                }
            }
            for (offset, _) in held {
                slices.give_back(offset);
            }
            prop_assert_eq!(slices.take(1000, 0), Some(0));
        }
    }
}
