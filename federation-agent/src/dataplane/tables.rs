//! What the maps shall hold, and in which order they get there. Pure: the maps themselves are elsewhere.
//!
//! Two rules make every single write safe while packets flow. A frontend's new table is complete before the one entry
//! that names it is replaced; and what a packet may still hold (a slice of slots, a backend's id) rests before it is
//! used again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    hash::Hasher as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use federation_ebpf::{
    filter::{self, Bit},
    maps::{self, Affinity, Backend, BackendPlace, BackendState, Frontend, FrontendKey, Protocol},
};
use siphasher::sip::SipHasher24;

use super::slices::Slices;
use crate::{
    model,
    plan::{self, Plan, maglev},
};

pub(super) type BackendValue = Backend<IpAddr>;
pub(super) type FrontendName = FrontendKey<IpAddr>;

/// How long a slice of slots rests: packets that still read it have left long before.
const SLICE_REST: Duration = Duration::from_secs(1);

/// How long a backend that no plan names rests before its id may name another.
pub(super) const BACKEND_REST: Duration = Duration::from_mins(10);

/// One write to one map, of the family that the address in it is of. Carried out in order, each leaves the maps fit for
/// packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    Backend { id: u32, value: BackendValue },
    Filter { word: u32, bits: u64 },
    Slots { offset: u32, ids: Vec<u32> },
    Frontend { key: FrontendName, value: Frontend },
    RemoveFrontend { key: FrontendName },
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend { id, value } => write!(f, "backend {id} ({}, {:?})", value.address, value.state),
            Self::Filter { word, .. } => write!(f, "word {word} of the return filter"),
            Self::Slots { offset, ids } => write!(f, "{} slots from {offset} on", ids.len()),
            Self::Frontend { key, .. } => write!(f, "the frontend {}", name(key)),
            Self::RemoveFrontend { key } => write!(f, "the removal of the frontend {}", name(key)),
        }
    }
}

fn name(key: &FrontendName) -> String {
    format!("{} {:?}", SocketAddr::new(key.address, key.port), key.protocol)
}

/// Identity of a backend: the data plane sends there.
type Identity = (SocketAddr, model::Protocol);

/// What the maps hold by now.
#[derive(Debug, Default)]
pub(super) struct Tables {
    seed: u64,
    backends: BTreeMap<Identity, Entry>,
    /// Backends that no plan names, longest first, with the time they were left.
    resting: VecDeque<(Duration, Identity)>,
    /// Ids that have rested, for a tenant of either family.
    free_backends: Vec<FreeId>,
    next_backend: u32,
    frontends: BTreeMap<plan::Frontend, Holding>,
    /// The frontends of ICMP: one a VIP that has any other.
    vips: BTreeMap<IpAddr, Frontend>,
    free_frontends: Vec<u32>,
    next_frontend: u32,
    slices: Slices,
    resting_slices: VecDeque<(Duration, u32)>,
    filter: BTreeMap<u32, u64>,
    clusters: BTreeMap<model::ClusterName, u16>,
}

#[derive(Debug)]
struct Entry {
    id: u32,
    value: BackendValue,
}

/// A backend's id without a tenant, and the generation of the next.
#[derive(Debug)]
struct FreeId {
    id: u32,
    generation: u32,
}

#[derive(Debug)]
struct Holding {
    value: Frontend,
    table: Table,
}

/// How the table that a frontend names came about.
#[derive(Debug)]
enum Table {
    MadeOf(BTreeMap<Identity, u32>),
    /// By another agent, of whom knows whom; what is in its slots, as a digest.
    Found(u64),
}

impl Tables {
    /// `seed` is the federation's: every node makes the same tables of the same set. `slots` is the size of `SLOTS`.
    pub(super) fn new(seed: u64, slots: u32) -> Self {
        Self { seed, next_backend: 1, slices: Slices::new(slots), ..Self::default() }
    }

    /// Takes over what the maps of an agent before this one hold, both families' alike. `slots` reads a frontend's table.
    pub(super) fn adopt(
        &mut self,
        backends: impl IntoIterator<Item = (u32, BackendValue)>,
        frontends: impl IntoIterator<Item = (FrontendName, Frontend)>,
        filter: impl IntoIterator<Item = (u32, u64)>,
        slots: impl Fn(&Frontend) -> Result<Vec<u32>>,
        now: Duration,
    ) -> Result<()> {
        for (id, value) in tenants(backends)? {
            self.next_backend = self.next_backend.max(id + 1);
            if value.state == BackendState::Unused {
                self.free_backends.push(FreeId { id, generation: value.generation });
                continue;
            }
            let identity = (SocketAddr::new(value.address, value.port), model_protocol(value.protocol)?);
            self.resting.push_back((now, identity));
            self.backends.insert(identity, Entry { id, value });
        }
        for (key, value) in frontends {
            self.next_frontend = self.next_frontend.max(value.id + 1);
            if key.protocol == Protocol::Icmp {
                self.vips.insert(key.address, value);
                continue;
            }
            if value.size > 0 {
                self.slices
                    .claim(value.offset, value.size)
                    .context("adopt the tables of the agent before")?;
            }
            let frontend =
                plan::Frontend { vip: key.address, protocol: model_protocol(key.protocol)?, port: key.port };
            let table = Table::Found(digest(&slots(&value)?));
            self.frontends.insert(frontend, Holding { value, table });
        }
        let ports = self.frontends.values().map(|holding| holding.value.id);
        let held: BTreeSet<u32> = ports.chain(self.vips.values().map(|vip| vip.id)).collect();
        self.free_frontends = (0..self.next_frontend).filter(|id| !held.contains(id)).collect();
        self.filter.extend(filter);
        Ok(())
    }

    /// The writes that lead from what the maps hold to `plan`. `now` is of any clock that only rises; `in_use` tells
    /// which backend ids have live flows and is asked only when ids run out.
    ///
    /// # Errors
    /// A map is too small for the plan.
    pub(super) fn follow(
        &mut self,
        plan: &Plan,
        now: Duration,
        in_use: impl FnOnce() -> Result<BTreeSet<u32>>,
    ) -> Result<Vec<Write>> {
        self.release_slices(now);
        let mut writes = Vec::new();
        self.mark_dead(plan, &mut writes);
        self.reclaim_backends(plan, now, in_use, &mut writes)?;
        let named = self.admit_backends(plan, &mut writes)?;
        let serving = vips(plan);
        self.silence_vips(&serving, &mut writes);
        self.flip_frontends(plan, now, &mut writes)?;
        self.announce_vips(&serving, &mut writes)?;
        self.retire_backends(plan, &named, now, &mut writes);
        Ok(writes)
    }

    /// The writes that mark the dead of `plan`: the first of those that follow it, and worth making also where there is no
    /// room for the others.
    pub(super) fn bury(&mut self, plan: &Plan) -> Vec<Write> {
        let mut writes = Vec::new();
        self.mark_dead(plan, &mut writes);
        writes
    }

    /// First of all: from here on no program chooses them, whatever its table says.
    fn mark_dead(&mut self, plan: &Plan, writes: &mut Vec<Write>) {
        for identity in plan.dead.iter().map(identity) {
            if let Some(entry) = self.backends.get_mut(&identity) {
                entry.set_state(BackendState::Dead, writes);
            }
        }
    }

    /// Makes room for new backends among those that rest, if fresh ids do not suffice.
    fn reclaim_backends(
        &mut self,
        plan: &Plan,
        now: Duration,
        in_use: impl FnOnce() -> Result<BTreeSet<u32>>,
        writes: &mut Vec<Write>,
    ) -> Result<()> {
        let wanted: BTreeSet<Identity> = targets(plan).map(|(backend, _)| identity(backend)).collect();
        let new = wanted.iter().filter(|identity| !self.backends.contains_key(identity)).count();
        if self.next_backend as usize + new <= maps::BACKENDS {
            return Ok(());
        }
        let in_use = in_use()?;
        let backends = &self.backends;
        let (gone, kept) = self.resting.drain(..).partition::<VecDeque<_>, _>(|(since, identity)| {
            let live = backends.get(identity).is_none_or(|entry| in_use.contains(&entry.id));
            now.saturating_sub(*since) >= BACKEND_REST && !live && !wanted.contains(identity)
        });
        self.resting = kept;
        for (_, identity) in gone {
            if let Some(mut entry) = self.backends.remove(&identity) {
                entry.value.generation = entry.value.generation.wrapping_add(1);
                entry.set_state(BackendState::Unused, writes);
                self.free_backends.push(FreeId { id: entry.id, generation: entry.value.generation });
            }
        }
        self.rebuild_filter(writes);
        Ok(())
    }

    /// Every backend that a target names becomes known and active; their identities.
    fn admit_backends(&mut self, plan: &Plan, writes: &mut Vec<Write>) -> Result<BTreeSet<Identity>> {
        let mut named = BTreeSet::new();
        for (backend, _) in targets(plan) {
            let identity = identity(backend);
            if !named.insert(identity) {
                continue;
            }
            let cluster = self.cluster_number(&backend.cluster);
            let place = if backend.local { BackendPlace::Local } else { BackendPlace::Remote };
            if !self.backends.contains_key(&identity) {
                let entry = self.new_backend(identity)?;
                self.set_filter(bit(&entry.value), writes);
                self.backends.insert(identity, entry);
            }
            let entry = self.backends.get_mut(&identity).expect("just made sure of");
            let value = BackendValue { cluster, place, state: BackendState::Active, ..entry.value };
            if entry.value != value {
                entry.value = value;
                writes.push(Write::Backend { id: entry.id, value });
            }
        }
        self.resting.retain(|(_, identity)| !named.contains(identity));
        Ok(named)
    }

    fn new_backend(&mut self, (address, protocol): Identity) -> Result<Entry> {
        let (id, generation) = match self.free_backends.pop() {
            Some(FreeId { id, generation }) => (id, generation),
            None => (self.next_backend, 1),
        };
        if id == self.next_backend {
            anyhow::ensure!(
                (id as usize) < maps::BACKENDS,
                "the federation has more than {} backends, for which the data plane has no room",
                maps::BACKENDS - 1
            );
            self.next_backend += 1;
        }
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
        Ok(Entry { id, value })
    }

    fn flip_frontends(&mut self, plan: &Plan, now: Duration, writes: &mut Vec<Write>) -> Result<()> {
        for (frontend, target) in &plan.frontends {
            let key = key(frontend);
            let made_of: BTreeMap<Identity, u32> =
                target.backends.iter().map(|(backend, weight)| (identity(backend), *weight)).collect();
            let affinity = if target.client_ip_affinity { Affinity::ClientIp } else { Affinity::None };
            let before = self.frontends.get(frontend);
            if let Some(Holding { value, table: Table::MadeOf(before) }) = before
                && *before == made_of
                && value.affinity == affinity
            {
                continue;
            }
            let old = before.map(|before| before.value);
            let found = before.and_then(|before| match before.table {
                Table::Found(digest) => Some(digest),
                Table::MadeOf(_) => None,
            });
            let id = match old {
                Some(old) => old.id,
                None => self.new_frontend_id()?,
            };
            let ids = self.table(target);
            let size = u32::try_from(ids.len()).context("size of a table")?;
            let table = Table::MadeOf(made_of);
            // A new agent makes the same tables as the one before: there is no need for the room of two of each.
            if let Some(value) = old
                && found == Some(digest(&ids))
                && (value.size, value.affinity) == (size, affinity)
            {
                self.frontends.insert(*frontend, Holding { value, table });
                continue;
            }
            let offset = if size == 0 { 0 } else { self.slices.take(size)? };
            let value = Frontend {
                id,
                offset,
                size,
                fallback_offset: 0,
                fallback_size: 0,
                affinity,
                reserved: [0; 3],
            };
            if size > 0 {
                writes.push(Write::Slots { offset, ids });
            }
            writes.push(Write::Frontend { key, value });
            self.frontends.insert(*frontend, Holding { value, table });
            self.rest_slice(old, now);
        }
        let gone: Vec<_> =
            self.frontends.keys().filter(|f| !plan.frontends.contains_key(f)).copied().collect();
        for frontend in gone {
            let Some(holding) = self.frontends.remove(&frontend) else { continue };
            writes.push(Write::RemoveFrontend { key: key(&frontend) });
            self.free_frontends.push(holding.value.id);
            self.rest_slice(Some(holding.value), now);
        }
        Ok(())
    }

    /// Before their ports lose the last backend: no VIP answers pings that serves nobody.
    fn silence_vips(&mut self, serving: &BTreeMap<IpAddr, bool>, writes: &mut Vec<Write>) {
        self.vips.retain(|vip, value| match serving.get(vip) {
            Some(true) => true,
            Some(false) => {
                if value.size > 0 {
                    value.size = 0;
                    writes.push(Write::Frontend { key: icmp_key(*vip), value: *value });
                }
                true
            }
            None => {
                writes.push(Write::RemoveFrontend { key: icmp_key(*vip) });
                self.free_frontends.push(value.id);
                false
            }
        });
    }

    /// After their ports have gained a backend.
    fn announce_vips(&mut self, serving: &BTreeMap<IpAddr, bool>, writes: &mut Vec<Write>) -> Result<()> {
        for (vip, serves) in serving {
            let size = u32::from(*serves);
            let id = match self.vips.get(vip) {
                Some(value) if value.size == size => continue,
                Some(value) => value.id,
                None => self.new_frontend_id()?,
            };
            let value = Frontend {
                id,
                offset: 0,
                size,
                fallback_offset: 0,
                fallback_size: 0,
                affinity: Affinity::None,
                reserved: [0; 3],
            };
            self.vips.insert(*vip, value);
            writes.push(Write::Frontend { key: icmp_key(*vip), value });
        }
        Ok(())
    }

    fn new_frontend_id(&mut self) -> Result<u32> {
        if let Some(id) = self.free_frontends.pop() {
            return Ok(id);
        }
        let id = self.next_frontend;
        anyhow::ensure!(
            (id as usize) < maps::FRONTENDS,
            "the federation has more than {} VIPs and ports, for which the data plane has no room",
            maps::FRONTENDS
        );
        self.next_frontend += 1;
        Ok(id)
    }

    /// The ids in the slots of a target's table.
    fn table(&self, target: &plan::Target) -> Vec<u32> {
        let named: Vec<(String, u32, u32)> = target
            .backends
            .iter()
            .filter_map(|(backend, weight)| {
                let entry = self.backends.get(&identity(backend))?;
                Some((format!("{}/{}", backend.cluster, backend.address), *weight, entry.id))
            })
            .collect();
        let weighted: Vec<_> = named.iter().map(|(name, weight, _)| (name.as_str(), *weight)).collect();
        maglev::table(&weighted, self.seed).into_iter().map(|index| named[index as usize].2).collect()
    }

    /// Backends that no target names any more drain, unless they are dead, and rest.
    fn retire_backends(
        &mut self,
        plan: &Plan,
        named: &BTreeSet<Identity>,
        now: Duration,
        writes: &mut Vec<Write>,
    ) {
        let dead: BTreeSet<Identity> = plan.dead.iter().map(identity).collect();
        let resting: BTreeSet<Identity> = self.resting.iter().map(|(_, identity)| *identity).collect();
        for (identity, entry) in &mut self.backends {
            if named.contains(identity) {
                continue;
            }
            // The dead stay dead when they are forgotten too: nobody would answer what goes to them.
            if !dead.contains(identity) && entry.value.state != BackendState::Dead {
                entry.set_state(BackendState::Draining, writes);
            }
            if !resting.contains(identity) {
                self.resting.push_back((now, *identity));
            }
        }
    }

    fn rest_slice(&mut self, frontend: Option<Frontend>, now: Duration) {
        if let Some(Frontend { offset, size: 1.., .. }) = frontend {
            self.resting_slices.push_back((now, offset));
        }
    }

    fn release_slices(&mut self, now: Duration) {
        while let Some((since, offset)) = self.resting_slices.front().copied()
            && now.saturating_sub(since) >= SLICE_REST
        {
            self.slices.give_back(offset);
            self.resting_slices.pop_front();
        }
    }

    fn set_filter(&mut self, Bit { word, mask }: Bit, writes: &mut Vec<Write>) {
        let bits = self.filter.entry(word).or_default();
        if *bits & mask == 0 {
            *bits |= mask;
            writes.push(Write::Filter { word, bits: *bits });
        }
    }

    /// Clears the bits of backends that are gone.
    fn rebuild_filter(&mut self, writes: &mut Vec<Write>) {
        let mut filter: BTreeMap<u32, u64> = self.filter.keys().map(|word| (*word, 0)).collect();
        for entry in self.backends.values() {
            let Bit { word, mask } = bit(&entry.value);
            *filter.entry(word).or_default() |= mask;
        }
        for (word, bits) in &filter {
            if self.filter.get(word) != Some(bits) {
                writes.push(Write::Filter { word: *word, bits: *bits });
            }
        }
        self.filter = filter;
    }

    /// Numbers of clusters are for people who read the maps; they live as long as the agent.
    fn cluster_number(&mut self, name: &model::ClusterName) -> u16 {
        let next = u16::try_from(self.clusters.len() + 1).unwrap_or(u16::MAX);
        *self.clusters.entry(name.clone()).or_insert(next)
    }
}

impl Entry {
    fn set_state(&mut self, state: BackendState, writes: &mut Vec<Write>) {
        if self.value.state != state {
            self.value.state = state;
            writes.push(Write::Backend { id: self.id, value: self.value });
        }
    }
}

/// Equal for equal tables, and of different ones as good as never equal.
fn digest(ids: &[u32]) -> u64 {
    let mut hasher = SipHasher24::new();
    for id in ids {
        hasher.write_u32(*id);
    }
    hasher.finish()
}

fn targets(plan: &Plan) -> impl Iterator<Item = (&plan::Backend, &u32)> {
    plan.frontends.values().flat_map(|target| &target.backends)
}

/// Every VIP with whether any of its ports has a backend.
fn vips(plan: &Plan) -> BTreeMap<IpAddr, bool> {
    let mut vips = BTreeMap::new();
    for (frontend, target) in &plan.frontends {
        *vips.entry(frontend.vip).or_default() |= !target.backends.is_empty();
    }
    vips
}

/// What each id stands for. One that had tenants of both families is in both arrays: free in one of them at least.
fn tenants(backends: impl IntoIterator<Item = (u32, BackendValue)>) -> Result<BTreeMap<u32, BackendValue>> {
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

fn identity(backend: &plan::Backend) -> Identity {
    (backend.address, backend.protocol)
}

fn key(frontend: &plan::Frontend) -> FrontendName {
    FrontendKey::new(frontend.vip, frontend.port, kernel_protocol(frontend.protocol))
}

fn icmp_key(vip: IpAddr) -> FrontendName {
    FrontendKey::new(vip, 0, Protocol::Icmp)
}

/// Of the packets that come from a backend.
fn bit(backend: &BackendValue) -> Bit {
    match backend.address {
        IpAddr::V4(address) => filter::bit(address.octets(), backend.port),
        IpAddr::V6(address) => filter::bit(address.octets(), backend.port),
    }
}

fn kernel_protocol(protocol: model::Protocol) -> Protocol {
    match protocol {
        model::Protocol::Tcp => Protocol::Tcp,
        model::Protocol::Udp => Protocol::Udp,
        model::Protocol::Sctp => Protocol::Sctp,
    }
}

fn model_protocol(protocol: Protocol) -> Result<model::Protocol> {
    match protocol {
        Protocol::Tcp => Ok(model::Protocol::Tcp),
        Protocol::Udp => Ok(model::Protocol::Udp),
        Protocol::Sctp => Ok(model::Protocol::Sctp),
        Protocol::None | Protocol::Icmp => bail!(
            "a pinned map holds the protocol {protocol:?} where none can be: it is damaged, remove it with \
             `federation-agent detach`"
        ),
    }
}

#[cfg(test)]
mod tests;
