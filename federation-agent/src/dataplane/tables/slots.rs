//! The tables of slots: who holds which slice of `SLOTS`. Frontends with the same backends and weights share one.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hasher as _,
    time::Duration,
};

use anyhow::{Context as _, Result};
use siphasher::{
    sip::SipHasher24,
    sip128::{Hasher128 as _, SipHasher24 as SipHasher128},
};

use super::{super::slices::Slices, Write, Writer};
use crate::plan::maglev::{self, Grain, Holder};

/// How long a slice of slots rests: packets that still read it have left long before.
const SLICE_REST: Duration = Duration::from_secs(1);

/// A slice of `SLOTS`; nothing of it when no backend is usable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::dataplane) struct Slice {
    pub offset: u32,
    pub size: u32,
}

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
    /// By offset.
    tables: BTreeMap<u32, Table>,
    made: HashMap<Recipe, u32>,
    /// By size and digest.
    found: HashMap<(u32, u64), u32>,
    resting: VecDeque<(Duration, u32)>,
}

#[derive(Debug)]
struct Table {
    size: u32,
    /// Frontends that name it.
    holders: u32,
    origin: Origin,
}

/// How a table came about.
#[derive(Debug)]
enum Origin {
    Made(Recipe),
    /// By another agent, of whom knows whom; what is in its slots, as a digest.
    Found(u64),
}

impl Slots {
    pub(super) fn new(seed: u64, room: u32) -> Self {
        Self { seed, room: Slices::new(room), ..Self::default() }
    }

    /// A frontend of an agent before this one holds this slice; `slots` reads it.
    ///
    /// # Errors
    /// It overlaps another, or cannot be read.
    pub(super) fn adopt(
        &mut self,
        slice: Slice,
        slots: impl FnOnce(Slice) -> Result<Vec<u32>>,
    ) -> Result<()> {
        if slice.size == 0 {
            return Ok(());
        }
        if let Some(table) = self.tables.get_mut(&slice.offset).filter(|table| table.size == slice.size) {
            table.holders += 1;
            return Ok(());
        }
        self.room.claim(slice.offset, slice.size).context("adopt the tables of the agent before")?;
        let digest = digest(&slots(slice)?);
        self.found.insert((slice.size, digest), slice.offset);
        let origin = Origin::Found(digest);
        self.tables.insert(slice.offset, Table { size: slice.size, holders: 1, origin });
        Ok(())
    }

    /// The slice with the table of these, by name in order; written first if there is none yet.
    ///
    /// # Errors
    /// There is no room for it.
    pub(super) fn take(
        &mut self,
        entrants: &[Entrant],
        grain: Grain,
        write: &mut Writer<'_>,
    ) -> Result<Slice> {
        let recipe = recipe(entrants, grain);
        if let Some(offset) = self.made.get(&recipe).copied()
            && let Some(table) = self.tables.get_mut(&offset)
        {
            table.holders += 1;
            return Ok(Slice { offset, size: table.size });
        }
        let holders: Vec<_> = entrants
            .iter()
            .map(|entrant| Holder { name: &entrant.name, share: entrant.share, full: entrant.full })
            .collect();
        let ids: Vec<u32> = maglev::table(&holders, grain, self.seed)
            .into_iter()
            .map(|index| entrants[index as usize].id)
            .collect();
        if ids.is_empty() {
            return Ok(Slice::default());
        }
        let size = u32::try_from(ids.len()).context("size of a table")?;
        // A new agent makes the same tables as the one before: there is no need for the room of two of each.
        if let Some(offset) = self.found.remove(&(size, digest(&ids)))
            && let Some(table) = self.tables.get_mut(&offset)
        {
            table.holders += 1;
            table.origin = Origin::Made(recipe);
            self.made.insert(recipe, offset);
            return Ok(Slice { offset, size });
        }
        let offset = self.room.take(size)?;
        write(Write::Slots { offset, ids });
        self.tables.insert(offset, Table { size, holders: 1, origin: Origin::Made(recipe) });
        self.made.insert(recipe, offset);
        Ok(Slice { offset, size })
    }

    /// A frontend does not name this slice any more.
    pub(super) fn give_back(&mut self, slice: Slice, now: Duration) {
        let Some(table) = self.tables.get_mut(&slice.offset).filter(|_| slice.size > 0) else { return };
        table.holders -= 1;
        if table.holders > 0 {
            return;
        }
        match table.origin {
            Origin::Made(recipe) => drop(self.made.remove(&recipe)),
            Origin::Found(digest) => drop(self.found.remove(&(table.size, digest))),
        }
        self.tables.remove(&slice.offset);
        self.resting.push_back((now, slice.offset));
    }

    /// Frees the slices that have rested.
    pub(super) fn release(&mut self, now: Duration) {
        while let Some((since, offset)) = self.resting.front().copied()
            && now.saturating_sub(since) >= SLICE_REST
        {
            self.room.give_back(offset);
            self.resting.pop_front();
        }
    }
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

fn digest(ids: &[u32]) -> u64 {
    let mut hasher = SipHasher24::new();
    for id in ids {
        hasher.write_u32(*id);
    }
    hasher.finish()
}
