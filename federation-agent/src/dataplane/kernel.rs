//! The maps' writing side: carries out one `Write` at a time. What reads them is in `read`.

use std::{net::IpAddr, sync::atomic::Ordering};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, MapError},
};
use federation_ebpf::maps::{Frontend, FrontendKey};

use super::{
    batch,
    family::{Family, V4, V6, backend_at, key_at},
    mapped::{Mapped, Word},
    tables::{BackendValue, FrontendName, Write},
};

pub(super) struct Maps {
    v4: FamilyMaps,
    v6: FamilyMaps,
    slots: Map,
    filter: Map,
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
            slots: take(ebpf, "SLOTS")?,
            filter: take(ebpf, "RETURN_FILTER")?,
        })
    }

    pub(super) fn write(&mut self, write: &Write) -> Result<()> {
        match write {
            Write::Backend { id, value } => match value.address {
                IpAddr::V4(address) => self.v4.write_backend(*id, value, address.octets()),
                IpAddr::V6(address) => self.v6.write_backend(*id, value, address.octets()),
            },
            Write::Filter { word, bits } => batch::write_array(data(&self.filter)?, *word, &[*bits]),
            Write::Slots { offset, ids } => write_slots(data(&self.slots)?, *offset, ids),
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

/// In place: ten million of them would take seconds by system calls. Packets read a slice only when its frontend, which is
/// written later and by a call, says so.
fn write_slots(slots: &MapData, offset: u32, ids: &[u32]) -> Result<()> {
    let end = u32::try_from(ids.len()).ok().and_then(|length| offset.checked_add(length));
    let slice = Mapped::<Word>::of(slots, offset..end.context("more slots than there can be")?)?;
    for (Word(slot), id) in slice.iter().zip(ids) {
        slot.store(*id, Ordering::Release);
    }
    Ok(())
}

/// `size` slots, from `offset` on.
///
/// # Errors
/// There are not that many.
pub(super) fn read_slots(slots: &MapData, offset: u32, size: u32) -> Result<Vec<u32>> {
    let end = offset.checked_add(size).context("more slots than there can be")?;
    let slice = Mapped::<Word>::of(slots, offset..end)?;
    Ok(slice.iter().map(|Word(slot)| slot.load(Ordering::Acquire)).collect())
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
