//! The maps themselves, typed: written one `Write` at a time, read for adoption.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError},
};
use federation_ebpf::{
    maps::{Backend, Flow, FlowKey, Frontend, FrontendKey, TICK_NANOSECONDS},
    tcp::TcpState,
};

use super::{now, tables::Write};

type V4 = [u8; 4];

/// A connection that was silent for longer than this holds its backend's id no more (RFC 5382, REQ-5: at least two
/// hours and four minutes).
const IDLE: Duration = Duration::from_mins(124);

pub(super) struct Maps {
    frontends: HashMap<MapData, FrontendKey<V4>, Frontend>,
    slots: Array<MapData, u32>,
    backends: Array<MapData, Backend<V4>>,
    flows: HashMap<MapData, FlowKey<V4>, Flow<V4>>,
    filter: Array<MapData, u64>,
}

impl Maps {
    /// # Errors
    /// The object lacks a map.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            frontends: take(ebpf, "FRONTENDS_V4")?.try_into()?,
            slots: take(ebpf, "SLOTS")?.try_into()?,
            backends: take(ebpf, "BACKENDS_V4")?.try_into()?,
            flows: take(ebpf, "FLOWS_V4")?.try_into()?,
            filter: take(ebpf, "RETURN_FILTER")?.try_into()?,
        })
    }

    pub(super) fn write(&mut self, write: &Write) -> Result<()> {
        match write {
            Write::Backend { id, value } => self.backends.set(*id, *value, 0),
            Write::Filter { word, bits } => self.filter.set(*word, *bits, 0),
            Write::Slots { offset, ids } => {
                (*offset..).zip(ids).try_for_each(|(slot, id)| self.slots.set(slot, *id, 0))
            }
            Write::Frontend { key, value } => self.frontends.insert(*key, *value, 0),
            Write::RemoveFrontend { key } => match self.frontends.remove(key) {
                Err(MapError::KeyNotFound) => Ok(()),
                result => result,
            },
        }
        .with_context(|| format!("write {write:?}"))
    }

    /// Ids and values that were ever used.
    pub(super) fn backends(&self) -> Result<Vec<(u32, Backend<V4>)>> {
        let mut used = Vec::new();
        for id in 1..self.backends.len() {
            let backend = self.backends.get(&id, 0).context("read BACKENDS_V4")?;
            // Ids are given out in order: the first that was never used ends them.
            if backend.generation == 0 {
                break;
            }
            used.push((id, backend));
        }
        Ok(used)
    }

    pub(super) fn frontends(&self) -> Result<Vec<(FrontendKey<V4>, Frontend)>> {
        self.frontends.iter().collect::<Result<_, _>>().context("read FRONTENDS_V4")
    }

    /// Words of the return filter with a bit set.
    pub(super) fn filter(&self) -> Result<Vec<(u32, u64)>> {
        let words: Vec<u64> = self.filter.iter().collect::<Result<_, _>>().context("read RETURN_FILTER")?;
        Ok((0..).zip(words).filter(|(_, bits)| *bits != 0).collect())
    }

    /// Backends with flows that may still see packets.
    pub(super) fn backends_in_use(&self) -> Result<BTreeSet<u32>> {
        let now = now()?;
        let live = |flow: &Flow<V4>| {
            let silent =
                now.saturating_sub(Duration::from_nanos(u64::from(flow.last_seen) * TICK_NANOSECONDS));
            flow.state != TcpState::Closing && silent < IDLE
        };
        let mut in_use = BTreeSet::new();
        for entry in &self.flows {
            let (_, flow) = entry.context("read FLOWS_V4")?;
            if live(&flow) {
                in_use.insert(flow.backend);
            }
        }
        Ok(in_use)
    }
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name).with_context(|| format!("the eBPF object has no map {name}"))
}
