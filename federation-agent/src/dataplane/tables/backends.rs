//! The backends in the maps: their ids, their states, and the filter of what may come from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use federation_ebpf::{
    filter::{self, Bit},
    maps::{self, BackendPlace, BackendState},
};

use super::{
    super::protocol::{kernel_protocol, model_protocol},
    BackendValue, Write, Writer,
};
use crate::{model, plan};

/// How long a backend that no plan names rests before its id may name another.
pub(super) const REST: Duration = Duration::from_mins(10);

/// Identity of a backend: the data plane sends there.
pub(super) type Identity = (SocketAddr, model::Protocol);

#[derive(Debug)]
pub(super) struct Backends {
    entries: BTreeMap<Identity, Entry>,
    /// Those that no plan names, longest first, by the time they were left.
    resting: BTreeSet<(Duration, Identity)>,
    /// Ids that have rested, for a tenant of either family.
    free: Vec<FreeId>,
    next: u32,
    filter: BTreeMap<u32, u64>,
    clusters: BTreeMap<model::ClusterName, u16>,
}

#[derive(Debug)]
struct Entry {
    id: u32,
    value: BackendValue,
    /// Targets that name it.
    named: u32,
    /// Services whose health has given it up.
    given_up: u32,
    resting: Option<Duration>,
}

/// A backend's id without a tenant, and the generation of the next.
#[derive(Debug)]
struct FreeId {
    id: u32,
    generation: u32,
}

/// How often plans speak of a backend more, or less, than before.
#[derive(Clone, Debug, Default)]
pub(super) struct Shift {
    pub named: i64,
    pub given_up: i64,
    /// As the newest of them knows it.
    pub backend: Option<std::sync::Arc<plan::Backend>>,
}

impl Default for Backends {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            resting: BTreeSet::new(),
            free: Vec::new(),
            // Id 0 names nobody.
            next: 1,
            filter: BTreeMap::new(),
            clusters: BTreeMap::new(),
        }
    }
}

impl Backends {
    /// Takes over what the maps of an agent before this one hold, both families' alike.
    pub(super) fn adopt(
        &mut self,
        backends: impl IntoIterator<Item = (u32, BackendValue)>,
        filter: impl IntoIterator<Item = (u32, u64)>,
        now: Duration,
    ) -> Result<()> {
        for (id, value) in tenants(backends)? {
            self.next = self.next.max(id + 1);
            if value.state == BackendState::Unused {
                self.free.push(FreeId { id, generation: value.generation });
                continue;
            }
            let identity = (SocketAddr::new(value.address, value.port), model_protocol(value.protocol)?);
            self.resting.insert((now, identity));
            self.entries.insert(identity, Entry { id, value, named: 0, given_up: 0, resting: Some(now) });
        }
        self.filter.extend(filter);
        Ok(())
    }

    pub(super) fn id(&self, identity: &Identity) -> Option<u32> {
        self.entries.get(identity).map(|entry| entry.id)
    }

    /// Those that are dead.
    pub(super) fn dead(&self) -> impl Iterator<Item = Identity> {
        let dead = self.entries.iter().filter(|(_, entry)| entry.value.state == BackendState::Dead);
        dead.map(|(identity, _)| *identity)
    }

    /// First of all that follows a plan: who has died is chosen by no program any more, whatever its table says. Then
    /// whoever is named becomes known and active.
    ///
    /// # Errors
    /// There is no room: nothing has changed but that the dead are marked.
    pub(super) fn shift(
        &mut self,
        shifts: &BTreeMap<Identity, Shift>,
        now: Duration,
        in_use: impl FnOnce() -> Result<BTreeSet<u32>>,
        write: &mut Writer<'_>,
    ) -> Result<()> {
        for (identity, shift) in shifts {
            let Some(entry) = self.entries.get_mut(identity) else { continue };
            if shifted(entry.named, shift.named) == 0 && shifted(entry.given_up, shift.given_up) > 0 {
                entry.set_state(BackendState::Dead, write);
            }
        }
        let new =
            |(identity, shift): &(&Identity, &Shift)| shift.named > 0 && !self.entries.contains_key(identity);
        let new = shifts.iter().filter(new).count();
        if self.next as usize + new > maps::BACKENDS {
            self.reclaim(now, &in_use()?, write);
        }
        let fresh = maps::BACKENDS - self.next as usize;
        ensure!(
            new <= fresh + self.free.len(),
            "the federation has more than {} backends, for which the data plane has no room",
            maps::BACKENDS - 1
        );
        for (identity, shift) in shifts {
            if !self.entries.contains_key(identity) && shift.named > 0 {
                let entry = self.new_entry(*identity);
                self.set_filter(bit(&entry.value), write);
                self.entries.insert(*identity, entry);
            }
            if let Some(entry) = self.entries.get_mut(identity) {
                entry.named = shifted(entry.named, shift.named);
                entry.given_up = shifted(entry.given_up, shift.given_up);
            }
            self.activate(identity, shift, write);
        }
        Ok(())
    }

    fn activate(&mut self, identity: &Identity, shift: &Shift, write: &mut Writer<'_>) {
        let Some(entry) = self.entries.get_mut(identity).filter(|entry| entry.named > 0) else { return };
        if let Some(since) = entry.resting.take() {
            self.resting.remove(&(since, *identity));
        }
        let mut value = BackendValue { state: BackendState::Active, ..entry.value };
        if let Some(backend) = &shift.backend {
            // Numbers of clusters are for people who read the maps, and for programs that see one fall silent; they live
            // as long as the agent.
            let next = u16::try_from(self.clusters.len() + 1).unwrap_or(u16::MAX);
            value.cluster = *self.clusters.entry(backend.cluster.clone()).or_insert(next);
            value.place = if backend.local { BackendPlace::Local } else { BackendPlace::Remote };
        }
        if entry.value != value {
            entry.value = value;
            write(Write::Backend { id: entry.id, value });
        }
    }

    /// Last of all: who is named no more drains, unless it is dead, and rests. The dead stay dead when they are forgotten
    /// too: nobody would answer what goes to them.
    pub(super) fn retire(
        &mut self,
        left: impl Iterator<Item = Identity>,
        now: Duration,
        write: &mut Writer<'_>,
    ) {
        for identity in left {
            let Some(entry) = self.entries.get_mut(&identity).filter(|entry| entry.named == 0) else {
                continue;
            };
            if entry.value.state != BackendState::Dead {
                entry.set_state(BackendState::Draining, write);
            }
            if entry.resting.is_none() {
                entry.resting = Some(now);
                self.resting.insert((now, identity));
            }
        }
    }

    pub(super) fn identities(&self) -> Vec<Identity> {
        self.entries.keys().copied().collect()
    }

    /// Makes room among those that have rested and have no live flow.
    fn reclaim(&mut self, now: Duration, in_use: &BTreeSet<u32>, write: &mut Writer<'_>) {
        let entries = &self.entries;
        let rested = |(since, identity): &&(Duration, Identity)| {
            let idle = entries.get(identity).is_some_and(|entry| !in_use.contains(&entry.id));
            now.saturating_sub(*since) >= REST && idle
        };
        let gone: Vec<_> = self.resting.iter().filter(rested).copied().collect();
        for rest in gone {
            self.resting.remove(&rest);
            if let Some(mut entry) = self.entries.remove(&rest.1) {
                entry.value.generation = entry.value.generation.wrapping_add(1);
                entry.set_state(BackendState::Unused, write);
                self.free.push(FreeId { id: entry.id, generation: entry.value.generation });
            }
        }
        self.rebuild_filter(write);
    }

    /// There must be room.
    fn new_entry(&mut self, (address, protocol): Identity) -> Entry {
        let FreeId { id, generation } = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            FreeId { id: self.next - 1, generation: 1 }
        });
        let value = BackendValue {
            address: address.ip(),
            generation,
            port: address.port(),
            cluster: 0,
            state: BackendState::Unused,
            place: BackendPlace::Remote,
            protocol: kernel_protocol(protocol),
            reserved: 0,
        };
        Entry { id, value, named: 0, given_up: 0, resting: None }
    }

    fn set_filter(&mut self, Bit { word, mask }: Bit, write: &mut Writer<'_>) {
        let bits = self.filter.entry(word).or_default();
        if *bits & mask == 0 {
            *bits |= mask;
            write(Write::Filter { word, bits: *bits });
        }
    }

    /// Clears the bits of backends that are gone.
    fn rebuild_filter(&mut self, write: &mut Writer<'_>) {
        let mut filter: BTreeMap<u32, u64> = self.filter.keys().map(|word| (*word, 0)).collect();
        for entry in self.entries.values() {
            let Bit { word, mask } = bit(&entry.value);
            *filter.entry(word).or_default() |= mask;
        }
        for (word, bits) in &filter {
            if self.filter.get(word) != Some(bits) {
                write(Write::Filter { word: *word, bits: *bits });
            }
        }
        self.filter = filter;
    }
}

impl Entry {
    fn set_state(&mut self, state: BackendState, write: &mut Writer<'_>) {
        if self.value.state != state {
            self.value.state = state;
            write(Write::Backend { id: self.id, value: self.value });
        }
    }
}

fn shifted(count: u32, by: i64) -> u32 {
    u32::try_from(i64::from(count) + by).unwrap_or(0)
}

/// Of the packets that come from a backend.
pub(super) fn bit(backend: &BackendValue) -> Bit {
    match backend.address {
        IpAddr::V4(address) => filter::bit(address.octets(), backend.port),
        IpAddr::V6(address) => filter::bit(address.octets(), backend.port),
    }
}

/// What each id stands for. One that had tenants of both families is in both arrays: free in one of them at least.
pub(super) fn tenants(
    backends: impl IntoIterator<Item = (u32, BackendValue)>,
) -> Result<BTreeMap<u32, BackendValue>> {
    let mut tenants: BTreeMap<u32, BackendValue> = BTreeMap::new();
    for (id, value) in backends {
        let is_free = |value: &BackendValue| value.state == BackendState::Unused;
        match tenants.get(&id) {
            Some(other) if !is_free(other) && !is_free(&value) => {
                bail!(
                    "backend {id} is both {} and {}: the pinned maps are damaged, remove them with \
                     `federation-agent detach`",
                    other.address,
                    value.address
                );
            }
            Some(other) if !is_free(other) || other.generation > value.generation && is_free(&value) => {}
            _ => drop(tenants.insert(id, value)),
        }
    }
    Ok(tenants)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Backends {
        /// As if all fresh ids were taken.
        pub(in crate::dataplane::tables) fn exhaust(&mut self) {
            self.next = u32::try_from(maps::BACKENDS).unwrap();
        }
    }
}
