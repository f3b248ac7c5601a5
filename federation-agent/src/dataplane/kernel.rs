//! The maps' writing side: carries out one `Write` at a time. What reads them is in `read`.

use std::{net::IpAddr, ops::Range, sync::atomic::Ordering};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, MapError},
};
use federation_ebpf::{
    filter,
    maps::{Frontend, FrontendKey},
};

use super::{
    batch,
    family::{Family, V4, V6, backend_at, key_at},
    mapped::{Mapped, Word},
    tables::{BackendValue, FrontendName, Write},
};

pub(super) struct Maps {
    v4: FamilyMaps,
    v6: FamilyMaps,
    slots: Slots,
    filter: Mapped<Word>,
}

/// Those that there is one of for each family.
struct FamilyMaps {
    frontends: Map,
    backends: Map,
}

impl Maps {
    /// # Errors
    /// The object lacks a map.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            v4: FamilyMaps::take::<V4>(ebpf)?,
            v6: FamilyMaps::take::<V6>(ebpf)?,
            slots: Slots { map: take(ebpf, "SLOTS")?, window: None },
            filter: Mapped::of(data(&take(ebpf, "RETURN_FILTER")?)?, 0..filter::WORDS)?,
        })
    }

    pub(super) fn write(&mut self, write: &Write) -> Result<()> {
        match write {
            Write::Backend { id, value } => match value.address {
                IpAddr::V4(address) => self.v4.write_backend(*id, value, address.octets()),
                IpAddr::V6(address) => self.v6.write_backend(*id, value, address.octets()),
            },
            Write::Filter { word, bits } => {
                let Word(written) = self.filter.get(*word as usize).context("no such word")?;
                written.store(*bits, Ordering::Release);
                Ok(())
            }
            Write::Slots { offset, words } => self.slots.write(*offset, words),
            Write::Frontend { key, value } => match key.address {
                IpAddr::V4(address) => self.v4.write_frontend(key, value, address.octets()),
                IpAddr::V6(address) => self.v6.write_frontend(key, value, address.octets()),
            },
            Write::RemoveFrontend { key } => match key.address {
                IpAddr::V4(address) => self.v4.remove_frontend(key, address.octets()),
                IpAddr::V6(address) => self.v6.remove_frontend(key, address.octets()),
            },
        }
        .with_context(|| format!("write {write}"))
    }
}

impl FamilyMaps {
    fn take<A: Family>(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self { frontends: take(ebpf, A::FRONTENDS)?, backends: take(ebpf, A::BACKENDS)? })
    }

    fn write_backend<A: Family>(&self, id: u32, value: &BackendValue, address: A) -> Result<()> {
        batch::write_array(data(&self.backends)?, id, &[backend_at(value, address)])
    }

    fn write_frontend<A: Family>(&mut self, key: &FrontendName, value: &Frontend, address: A) -> Result<()> {
        Ok(self.frontends::<A>()?.insert(key_at(key, address), value, 0)?)
    }

    fn remove_frontend<A: Family>(&mut self, key: &FrontendName, address: A) -> Result<()> {
        match self.frontends::<A>()?.remove(&key_at(key, address)) {
            Err(MapError::KeyNotFound) => Ok(()),
            result => Ok(result?),
        }
    }

    fn frontends<A: Family>(&mut self) -> Result<HashMap<&mut MapData, FrontendKey<A>, Frontend>> {
        Ok(HashMap::try_from(&mut self.frontends)?)
    }
}

/// The map of slots, written in place: ten million words would take seconds by system calls.
struct Slots {
    map: Map,
    /// What was written last, and some of what lies behind: tables that are made together mostly lie there.
    window: Option<(Range<u32>, Mapped<Word>)>,
}

impl Slots {
    /// Words of the window: a megabyte.
    const WINDOW: u32 = 1 << 17;

    /// Packets read a slice only when its frontend, which is written later and by a call, says so.
    fn write(&mut self, offset: u32, words: &[u64]) -> Result<()> {
        let end = u32::try_from(words.len()).ok().and_then(|length| offset.checked_add(length));
        let wanted = offset..end.context("more slots than there can be")?;
        let (open, window) = match self.window.take() {
            Some((open, window)) if open.start <= wanted.start && wanted.end <= open.end => (open, window),
            _ => self.open(&wanted)?,
        };
        for (Word(written), word) in window[(wanted.start - open.start) as usize..].iter().zip(words) {
            written.store(word.to_le(), Ordering::Release);
        }
        self.window = Some((open, window));
        Ok(())
    }

    fn open(&self, wanted: &Range<u32>) -> Result<(Range<u32>, Mapped<Word>)> {
        let map = data(&self.map)?;
        let room = map.info().context("ask for the map's size")?.max_entries();
        let end = wanted.start.saturating_add(Self::WINDOW).min(room).max(wanted.end);
        Ok((wanted.start..end, Mapped::of(map, wanted.start..end)?))
    }
}

/// Words of the map of slots.
///
/// # Errors
/// There are not that many.
pub(super) fn read_slots(slots: &MapData, words: Range<u32>) -> Result<Vec<u64>> {
    let slice = Mapped::<Word>::of(slots, words)?;
    Ok(slice.iter().map(|Word(word)| u64::from_le(word.load(Ordering::Acquire))).collect())
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name).with_context(|| format!("the eBPF object has no map {name}"))
}

fn data(map: &Map) -> Result<&MapData> {
    match map {
        Map::Array(data) => Ok(data),
        other => bail!("{other:?} is no array"),
    }
}
