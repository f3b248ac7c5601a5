//! How a table of slots lies in `SLOTS`: backends by short numbers of the table's own, many to a word, and behind them the
//! backends' ids in the order of these numbers, two to a word.
//!
//! The kernel keeps elements of an array eight bytes apart, however small they are: an id a slot would take eight times the
//! room.

/// Slots of the largest table in which a slot is a byte; in larger ones it is two.
const LARGEST_OF_BYTES: u32 = 1 << 14;

/// Backends that a byte tells apart.
const BYTES: usize = 1 << u8::BITS;

/// Slots of the smallest table that can tell so many backends apart.
pub fn least_for(backends: usize) -> u32 {
    if backends > BYTES { 2 * LARGEST_OF_BYTES } else { 1 }
}

/// Value of `SLOTS`: slots of a table, or ids of its backends.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// The first slot's come first, and of each number the least.
    pub bytes: [u8; 8],
}

impl From<Word> for u64 {
    #[inline(always)]
    fn from(word: Word) -> Self {
        Self::from_le_bytes(word.bytes)
    }
}

/// A table in `SLOTS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Its first word.
    pub offset: u32,
    /// Its slots, a power of two and at least eight; 0 of none.
    pub size: u32,
}

impl Table {
    /// The id in a slot, where `word` reads the array.
    #[inline(always)]
    pub fn id(self, slot: u32, word: impl Fn(u32) -> Option<u64>) -> Option<u32> {
        let cut = self.cut();
        let number = part(word(self.offset + (slot >> cut))?, slot, cut);
        let ids = self.offset + self.words();
        Some(part(word(ids + (number >> 1))?, number, 1))
    }

    /// Words that its slots take.
    #[inline(always)]
    pub fn words(self) -> u32 {
        self.size >> self.cut()
    }

    /// Slots of a word, as a power of two.
    #[inline(always)]
    pub fn cut(self) -> u32 {
        if self.size > LARGEST_OF_BYTES { 2 } else { 3 }
    }
}

/// One part of a word that is cut into 2^`cut` equal ones; `index` counts on through words.
#[inline(always)]
pub fn part(word: u64, index: u32, cut: u32) -> u32 {
    let bits = u64::BITS >> cut;
    let shift = (index & ((1 << cut) - 1)) * bits;
    (word >> shift & ((1 << bits) - 1)) as u32
}
