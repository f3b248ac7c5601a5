//! The tables of slots: who holds which slice of `SLOTS`. Frontends with the same backends and weights share one.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hasher as _,
    time::Duration,
};

use anyhow::{Context as _, Result};
use federation_ebpf::slots::{self, Table};
use siphasher::{
    sip::SipHasher24,
    sip128::{Hasher128 as _, SipHasher24 as SipHasher128},
};

use super::{
    super::{packed::Packed, slices::Slices},
    Write, Writer,
};
use crate::plan::maglev::{self, Grain, Holder};

/// How long a slice of slots rests: packets that still read it have left long before.
const SLICE_REST: Duration = Duration::from_secs(1);

/// One word in so many is for coarse tables alone. Of up to 256 backends these are much smaller: when fine ones have filled
/// the rest, some thousand services more find room.
const COARSE_PART: u32 = 4;

/// One who may hold slots of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entrant {
    pub name: String,
    /// 0 for who is missing and may be unknown to the maps.
    pub id: u32,
    pub share: u32,
    pub full: u32,
}

/// What a table is made of, as a digest: equal for equal tables, and of different ones as good as never equal.
type Recipe = u128;

#[derive(Debug, Default)]
pub(super) struct Slots {
    seed: u64,
    room: Slices,
    /// Words that are for coarse tables alone.
    spare: u32,
    /// Tables that are coarse for want of room.
    makeshift: usize,
    /// By offset.
    tables: BTreeMap<u32, Kept>,
    made: HashMap<Recipe, u32>,
    /// By size and digest.
    found: HashMap<(u32, u64), u32>,
    resting: VecDeque<(Duration, u32)>,
    /// Words that rest.
    resting_words: u32,
}

/// A table that is wanted.
pub(super) struct Draft {
    recipe: Recipe,
    entrants: Vec<Entrant>,
    grain: Grain,
    /// In the map.
    is_there: bool,
    made: Option<Result<Packed>>,
}

impl Draft {
    /// Makes what will be taken, so that this need not be done then.
    pub(super) fn make(&mut self, seed: u64) {
        if !self.is_there {
            self.made = Some(make(&self.entrants, self.grain, seed));
        }
    }

    /// What is to be written. One that was there may be gone by now.
    fn packed(&mut self, seed: u64) -> Result<Packed> {
        self.made.take().unwrap_or_else(|| make(&self.entrants, self.grain, seed))
    }
}

/// A table in the map.
#[derive(Debug)]
struct Kept {
    size: u32,
    /// Frontends that name it.
    holders: u32,
    /// Coarse for want of room.
    is_makeshift: bool,
    origin: Origin,
}

/// How a table came about.
#[derive(Debug)]
enum Origin {
    Made(Recipe),
    /// By another agent, of whom knows whom; what its words are, as a digest.
    Found(u64),
}

impl Slots {
    pub(super) fn new(seed: u64, room: u32) -> Self {
        Self { seed, room: Slices::new(room), spare: room / COARSE_PART, ..Self::default() }
    }

    /// A frontend of an agent before this one holds this table; `read` reads it.
    ///
    /// # Errors
    /// It overlaps another, or cannot be read.
    pub(super) fn adopt(&mut self, table: Table, read: impl FnOnce(Table) -> Result<Packed>) -> Result<()> {
        let Table { offset, size } = table;
        if size == 0 {
            return Ok(());
        }
        if let Some(kept) = self.tables.get_mut(&offset).filter(|kept| kept.size == size) {
            kept.holders += 1;
            return Ok(());
        }
        let Packed { words, .. } = read(table)?;
        let length = u32::try_from(words.len()).context("length of a table")?;
        self.room.claim(offset, length).context("adopt the tables of the agent before")?;
        let digest = digest(&words);
        self.found.insert((size, digest), offset);
        self.tables
            .insert(offset, Kept { size, holders: 1, is_makeshift: false, origin: Origin::Found(digest) });
        Ok(())
    }

    /// The federation's.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// The table of these, by name in order.
    pub(super) fn draft(&self, entrants: Vec<Entrant>, grain: Grain) -> Draft {
        let recipe = recipe(&entrants, grain);
        Draft { recipe, entrants, grain, is_there: self.made.contains_key(&recipe), made: None }
    }

    /// The table that was drafted, or where there is no room for it a coarser one; written first if there is none yet.
    ///
    /// # Errors
    /// There is no room for either, or there are too many backends for one.
    pub(super) fn take(&mut self, mut draft: Draft, write: &mut Writer<'_>) -> Result<Table> {
        let kept = self.made.get(&draft.recipe).and_then(|offset| self.tables.get(offset));
        let may_be_finer = kept.is_some_and(|kept| kept.is_makeshift) && self.has_room_again();
        if !may_be_finer && let Some(table) = self.share(draft.recipe) {
            return Ok(table);
        }
        let wanted = draft.packed(self.seed)?;
        let size = wanted.size;
        let spare = match draft.grain {
            // What rests is free soon; until then something is left all the same.
            Grain::Fine => self.spare.saturating_sub(self.resting_words).max(self.spare / 4),
            Grain::Coarse => 0,
        };
        if let Some(table) = self.place(wanted, draft.recipe, spare, write)? {
            return Ok(table);
        }
        if let Some(table) = self.share(draft.recipe) {
            return Ok(table);
        }
        let makeshift = make(&draft.entrants, Grain::Coarse, self.seed)?;
        let words = makeshift.words.len();
        let table = self.place(makeshift, draft.recipe, 0, write)?;
        let table =
            table.with_context(|| format!("the data plane has no room for a table of {words} words"))?;
        if let Some(kept) = self.tables.get_mut(&table.offset)
            && kept.size < size
        {
            kept.is_makeshift = true;
            self.makeshift += 1;
        }
        Ok(table)
    }

    /// The table that is there already, if there is one.
    fn share(&mut self, recipe: Recipe) -> Option<Table> {
        let offset = *self.made.get(&recipe)?;
        let kept = self.tables.get_mut(&offset)?;
        kept.holders += 1;
        Some(Table { offset, size: kept.size })
    }

    /// Where a table is from now on; nothing where it finds no room with so many words to spare.
    fn place(
        &mut self,
        Packed { size, words }: Packed,
        recipe: Recipe,
        spare: u32,
        write: &mut Writer<'_>,
    ) -> Result<Option<Table>> {
        if size == 0 {
            return Ok(Some(Table::default()));
        }
        // A new agent makes the same tables as the one before: there is no need for the room of two of each.
        if !self.found.is_empty()
            && let Some(offset) = self.found.remove(&(size, digest(&words)))
            && let Some(kept) = self.tables.get_mut(&offset)
        {
            kept.holders += 1;
            kept.origin = Origin::Made(recipe);
            self.made.insert(recipe, offset);
            return Ok(Some(Table { offset, size }));
        }
        let length = u32::try_from(words.len()).context("length of a table")?;
        let Some(offset) = self.room.take(length, spare) else { return Ok(None) };
        write(Write::Slots { offset, words });
        let origin = Origin::Made(recipe);
        self.tables.insert(offset, Kept { size, holders: 1, is_makeshift: false, origin });
        self.made.insert(recipe, offset);
        Ok(Some(Table { offset, size }))
    }

    /// How many tables are coarse for want of room.
    pub(super) fn makeshift(&self) -> usize {
        self.makeshift
    }

    /// Whether a table is coarse for want of room.
    pub(super) fn is_makeshift(&self, table: Table) -> bool {
        self.tables.get(&table.offset).is_some_and(|kept| kept.is_makeshift)
    }

    /// Whether there are coarse tables that may be made fine: not at the first word that is free, or they would change all the
    /// time.
    pub(super) fn has_room_again(&self) -> bool {
        self.makeshift > 0 && self.room.free() > self.spare + self.spare / 2
    }

    /// A frontend does not name this table any more.
    pub(super) fn give_back(&mut self, table: Table, now: Duration) {
        let Table { offset, size } = table;
        let Some(kept) = self.tables.get_mut(&offset).filter(|_| size > 0) else { return };
        kept.holders -= 1;
        if kept.holders > 0 {
            return;
        }
        self.makeshift -= usize::from(kept.is_makeshift);
        match kept.origin {
            Origin::Made(recipe) => {
                // A finer one may have taken its place.
                if self.made.get(&recipe) == Some(&offset) {
                    self.made.remove(&recipe);
                }
            }
            Origin::Found(digest) => drop(self.found.remove(&(kept.size, digest))),
        }
        self.tables.remove(&offset);
        self.resting.push_back((now, offset));
        self.resting_words += self.room.length(offset);
    }

    /// Frees the slices that have rested.
    pub(super) fn release(&mut self, now: Duration) {
        while let Some((since, offset)) = self.resting.front().copied()
            && now.saturating_sub(since) >= SLICE_REST
        {
            self.resting_words -= self.room.length(offset);
            self.room.give_back(offset);
            self.resting.pop_front();
        }
    }
}

/// The table of these.
///
/// # Errors
/// They are more than a table can tell apart.
fn make(entrants: &[Entrant], grain: Grain, seed: u64) -> Result<Packed> {
    let holders: Vec<_> = entrants
        .iter()
        .map(|entrant| Holder { name: &entrant.name, share: entrant.share, full: entrant.full })
        .collect();
    let ids: Vec<_> = entrants.iter().map(|entrant| entrant.id).collect();
    let well = entrants.iter().filter(|entrant| entrant.full > 0).count();
    let size = maglev::size(well, entrants.len(), grain).max(slots::least_for(entrants.len()));
    Packed::new(&maglev::table(&holders, size, seed), &ids)
}

fn recipe(entrants: &[Entrant], grain: Grain) -> Recipe {
    let mut hasher = SipHasher128::new();
    hasher.write_u8(grain as u8);
    for Entrant { name, id, share, full } in entrants {
        hasher.write(name.as_bytes());
        // Ends the name: no two lists read alike.
        hasher.write_u8(0xff);
        for number in [*id, *share, *full] {
            hasher.write_u32(number);
        }
    }
    hasher.finish128().into()
}

fn digest(words: &[u64]) -> u64 {
    let mut hasher = SipHasher24::new();
    for word in words {
        hasher.write_u64(*word);
    }
    hasher.finish()
}
