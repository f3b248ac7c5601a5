//! What the pinned maps hold at this moment, both families together where it makes no difference. Packets go on
//! meanwhile; nothing here writes.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::{Pod, maps::MapData};
use federation_ebpf::maps::{Backend, Flow, FlowKey, Frontend, FrontendKey};

use super::{
    batch,
    family::{Family, V4, V6, backend_at, key_at},
    pins::Pins,
};

/// Ids and values that were ever used. An id that had tenants of both families comes twice.
pub(super) fn backends(pins: &Pins) -> Result<Vec<(u32, Backend<IpAddr>)>> {
    let mut backends = backends_of::<V4>(pins)?;
    backends.extend(backends_of::<V6>(pins)?);
    Ok(backends)
}

fn backends_of<A: Family>(pins: &Pins) -> Result<Vec<(u32, Backend<IpAddr>)>> {
    let elements = elements::<u32, Backend<A>>(pins, A::BACKENDS)?;
    let used = elements.into_iter().filter(|(_, backend)| backend.generation != 0);
    Ok(used.map(|(id, backend)| (id, backend_at(&backend, backend.address.ip()))).collect())
}

pub(super) fn frontends(pins: &Pins) -> Result<Vec<(FrontendKey<IpAddr>, Frontend)>> {
    let mut frontends = frontends_of::<V4>(pins)?;
    frontends.extend(frontends_of::<V6>(pins)?);
    Ok(frontends)
}

fn frontends_of<A: Family>(pins: &Pins) -> Result<Vec<(FrontendKey<IpAddr>, Frontend)>> {
    let elements = elements::<FrontendKey<A>, Frontend>(pins, A::FRONTENDS)?;
    Ok(elements.into_iter().map(|(key, value)| (key_at(&key, key.address.ip()), value)).collect())
}

/// The entries of both directions.
pub(super) fn flows<A: Family>(pins: &Pins) -> Result<Vec<(FlowKey<A>, Flow<A>)>> {
    elements(pins, A::FLOWS)
}

/// Words of the return filter with a bit set.
pub(super) fn filter(pins: &Pins) -> Result<Vec<(u32, u64)>> {
    let words = elements::<u32, u64>(pins, "RETURN_FILTER")?;
    Ok(words.into_iter().filter(|(_, bits)| *bits != 0).collect())
}

pub(super) fn elements<K: Pod, V: Pod>(pins: &Pins, map: &str) -> Result<Vec<(K, V)>> {
    batch::read(&open(pins, map)?).with_context(|| format!("read {map}"))
}

pub(super) fn open(pins: &Pins, map: &str) -> Result<MapData> {
    let path = pins.map(map);
    MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))
}
