//! What the maps shall hold, and in which order they get there. Pure: the maps themselves are elsewhere.
//!
//! Two rules make every single write safe while packets flow. A frontend's new table is complete before the one entry
//! that names it is replaced; and what a packet may still hold (a slice of slots, a backend's id) rests before it is
//! used again.

mod ahead;
mod backends;
mod slots;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Error, Result, ensure};
use federation_ebpf::{
    maps::{self, Affinity, Backend, Frontend, FrontendKey, Protocol},
    slots::Table,
};

use backends::{Backends, Identity, Shift};
use slots::{Draft, Entrant, Slots};

use super::{
    packed::Packed,
    protocol::{kernel_protocol, model_protocol},
};
use crate::{
    model,
    plan::{
        self, Plan, ServicePlan, Target,
        maglev::{Grain, MOST_HOLDERS},
    },
};

/// Frontends whose tables are made while those of as many others are written: all of a large federation's together would be as
/// large as the map of slots.
const BATCH: usize = 128;

pub(super) type BackendValue = Backend<IpAddr>;
pub(super) type FrontendName = FrontendKey<IpAddr>;

/// One write to one map, of the family that the address in it is of. Carried out in order, each leaves the maps fit for
/// packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    Backend { id: u32, value: BackendValue },
    Filter { word: u32, bits: u64 },
    Slots { offset: u32, words: Vec<u64> },
    Frontend { key: FrontendName, value: Frontend },
    RemoveFrontend { key: FrontendName },
}

/// Carries a write out.
pub(super) type Writer<'a> = dyn FnMut(Write) + 'a;

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend { id, value } => write!(f, "backend {id} ({}, {:?})", value.address, value.state),
            Self::Filter { word, .. } => write!(f, "word {word} of the return filter"),
            Self::Slots { offset, words } => write!(f, "{} words of slots from {offset} on", words.len()),
            Self::Frontend { key, .. } => write!(f, "the frontend {}", name(key)),
            Self::RemoveFrontend { key } => write!(f, "the removal of the frontend {}", name(key)),
        }
    }
}

fn name(key: &FrontendName) -> String {
    format!("{} {:?}", SocketAddr::new(key.address, key.port), key.protocol)
}

/// What the maps hold by now.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// What was followed last.
    plan: Plan,
    backends: Backends,
    slots: Slots,
    frontends: BTreeMap<plan::Frontend, Frontend>,
    /// The frontends of ICMP: one a VIP that has any other.
    vips: BTreeMap<IpAddr, Frontend>,
    free_frontends: Vec<u32>,
    next_frontend: u32,
    /// Whether nothing is left that no plan of ours has spoken of.
    settled: bool,
}

/// What is to be done to the frontends.
#[derive(Default)]
struct Turn<'a> {
    /// As the plan has them now.
    put: BTreeMap<plan::Frontend, &'a Target>,
    gone: BTreeSet<plan::Frontend>,
    shifts: BTreeMap<Identity, Shift>,
}

impl Tables {
    /// `seed` is the federation's: every node makes the same tables of the same set. `slots` is the size of `SLOTS`.
    pub(super) fn new(seed: u64, slots: u32) -> Self {
        Self { slots: Slots::new(seed, slots), ..Self::default() }
    }

    /// Takes over what the maps of an agent before this one hold, both families' alike. `read` reads a table.
    pub(super) fn adopt(
        &mut self,
        backends: impl IntoIterator<Item = (u32, BackendValue)>,
        frontends: impl IntoIterator<Item = (FrontendName, Frontend)>,
        filter: impl IntoIterator<Item = (u32, u64)>,
        read: impl Fn(Table) -> Result<Packed>,
        now: Duration,
    ) -> Result<()> {
        self.backends.adopt(backends, filter, now)?;
        for (key, value) in frontends {
            self.next_frontend = self.next_frontend.max(value.id + 1);
            if key.protocol == Protocol::Icmp {
                self.vips.insert(key.address, value);
                continue;
            }
            for table in tables(&value) {
                self.slots.adopt(table, &read)?;
            }
            let frontend =
                plan::Frontend { vip: key.address, protocol: model_protocol(key.protocol)?, port: key.port };
            self.frontends.insert(frontend, value);
        }
        let ports = self.frontends.values().map(|frontend| frontend.id);
        let held: BTreeSet<u32> = ports.chain(self.vips.values().map(|vip| vip.id)).collect();
        self.free_frontends = (0..self.next_frontend).filter(|id| !held.contains(id)).collect();
        Ok(())
    }

    /// The backends that are dead by the maps.
    pub(super) fn dead(&self) -> Vec<Identity> {
        self.backends.dead().collect()
    }

    /// How many tables are coarse for want of room.
    pub(super) fn makeshift(&self) -> usize {
        self.slots.makeshift()
    }

    /// Makes the writes that lead from what the maps hold to `plan`; what did not change since the last one is not looked at.
    /// `now` is of any clock that only rises; `in_use` tells which backend ids have live flows and is asked only when
    /// ids run out.
    ///
    /// # Errors
    /// A map is too small for the plan. The writes that were made until then are worth carrying out: that backends are
    /// dead comes first.
    pub(super) fn follow(
        &mut self,
        plan: &Plan,
        now: Duration,
        in_use: impl FnOnce() -> Result<BTreeSet<u32>>,
        write: &mut Writer<'_>,
    ) -> Result<()> {
        self.slots.release(now);
        let before = self.plan.clone();
        let mut turn = Turn::between(&before, plan);
        if !self.settled {
            let named: BTreeSet<_> = turn.put.keys().copied().collect();
            turn.gone.extend(self.frontends.keys().filter(|frontend| !named.contains(frontend)));
        }
        turn.put.extend(self.can_be_finer(plan));
        self.backends.shift(&turn.shifts, now, in_use, write)?;
        self.plan = plan.clone();
        let serving = self.serving(&turn);
        self.silence_vips(&serving, write);
        self.flip_frontends(&turn, now, write)?;
        self.announce_vips(&serving, write)?;
        if mem::replace(&mut self.settled, true) {
            self.backends.retire(turn.shifts.into_keys(), now, write);
        } else {
            self.backends.retire(self.backends.identities().into_iter(), now, write);
        }
        Ok(())
    }

    /// Those whose table was made coarse for want of room, when there is room again.
    fn can_be_finer<'p>(&self, plan: &'p Plan) -> Vec<(plan::Frontend, &'p Target)> {
        if !self.slots.has_room_again() {
            return Vec::new();
        }
        let all = plan.services.values().flat_map(|service| &service.frontends);
        let coarse = all.filter(|(frontend, _)| {
            let [main, _] = self.frontends.get(frontend).map(tables).unwrap_or_default();
            self.slots.is_makeshift(main)
        });
        coarse.map(|(frontend, target)| (*frontend, &**target)).collect()
    }

    /// Every VIP that the turn touches, with whether any of its ports has a backend afterwards; none where it has no port.
    fn serving(&self, turn: &Turn<'_>) -> BTreeMap<IpAddr, Option<bool>> {
        let mut vips: BTreeSet<IpAddr> =
            turn.put.keys().chain(&turn.gone).map(|frontend| frontend.vip).collect();
        if !self.settled {
            vips.extend(self.vips.keys());
        }
        let serving = |vip| {
            let held = ports(vip, &self.frontends)
                .filter(|(frontend, _)| !turn.gone.contains(frontend) && !turn.put.contains_key(frontend))
                .map(|(_, frontend)| frontend.size > 0);
            let put = ports(vip, &turn.put).map(|(_, target)| !target.backends.is_empty());
            held.chain(put).reduce(|any, serves| any || serves)
        };
        vips.into_iter().map(|vip| (vip, serving(vip))).collect()
    }

    fn flip_frontends(&mut self, turn: &Turn<'_>, now: Duration, write: &mut Writer<'_>) -> Result<()> {
        let put: Vec<_> = turn.put.iter().collect();
        let seed = self.slots.seed();
        let make = |drafts: &mut [Draft; 2]| {
            for draft in drafts {
                draft.make(seed);
            }
        };
        thread::scope(|scope| {
            let mut under_way = None;
            for batch in put.chunks(BATCH).map(Some).chain([None]) {
                let next = batch.map(|batch| {
                    let drafts = batch.iter().map(|(_, target)| self.drafts(target)).collect();
                    (batch, ahead::start(scope, drafts, make))
                });
                let Some((batch, drafts)) = mem::replace(&mut under_way, next) else { continue };
                for ((frontend, target), drafts) in batch.iter().zip(drafts.finish()) {
                    self.put(frontend, target, drafts, now, write)?;
                }
            }
            Ok::<_, Error>(())
        })?;
        for frontend in &turn.gone {
            let Some(value) = self.frontends.remove(frontend) else { continue };
            write(Write::RemoveFrontend { key: key(frontend) });
            self.free_frontends.push(value.id);
            for table in tables(&value) {
                self.slots.give_back(table, now);
            }
        }
        Ok(())
    }

    /// A target's table and that of its fallback.
    fn drafts(&self, target: &Target) -> [Draft; 2] {
        [
            self.slots.draft(self.entrants(&target.backends, &target.full), Grain::Fine),
            self.slots.draft(self.entrants(&target.fallback, &BTreeMap::new()), Grain::Coarse),
        ]
    }

    fn put(
        &mut self,
        frontend: &plan::Frontend,
        target: &Target,
        [main, fallback]: [Draft; 2],
        now: Duration,
        write: &mut Writer<'_>,
    ) -> Result<()> {
        let key = key(frontend);
        let old = self.frontends.get(frontend).copied();
        // The new tables first: where nothing has changed they are the old ones, which nobody else may hold.
        let main = self.slots.take(main, write)?;
        let fallback = self.slots.take(fallback, write)?;
        let affinity = if target.client_ip_affinity { Affinity::ClientIp } else { Affinity::None };
        let value = Frontend {
            id: match old {
                Some(old) => old.id,
                None => self.new_frontend_id()?,
            },
            offset: main.offset,
            size: main.size,
            fallback_offset: fallback.offset,
            fallback_size: fallback.size,
            affinity,
            reserved: [0; 3],
        };
        if old != Some(value) {
            write(Write::Frontend { key, value });
            self.frontends.insert(*frontend, value);
        }
        for table in old.iter().flat_map(tables) {
            self.slots.give_back(table, now);
        }
        Ok(())
    }

    /// Who may hold slots of a table, by name in order. `full` says who would at full health; empty: those who do.
    fn entrants(
        &self,
        shares: &BTreeMap<Arc<plan::Backend>, u32>,
        full: &BTreeMap<Arc<plan::Backend>, u32>,
    ) -> Vec<Entrant> {
        let missing = full.keys().filter(|backend| !shares.contains_key(*backend));
        let mut entrants: Vec<_> = shares
            .keys()
            .chain(missing)
            .map(|backend| {
                let share = shares.get(backend).copied().unwrap_or(0);
                let full = if full.is_empty() { share } else { full.get(backend).copied().unwrap_or(0) };
                let name = format!("{}/{}", backend.cluster, backend.address);
                // Who is missing may have no id: it is in no slot.
                let id = if share > 0 { self.backends.id(&identity(backend)).unwrap_or(0) } else { 0 };
                Entrant { name, id, share, full }
            })
            .collect();
        entrants.sort_unstable();
        // More than a table can tell apart; every node leaves out the same ones.
        entrants.truncate(MOST_HOLDERS);
        entrants
    }

    /// Before their ports lose the last backend: no VIP answers pings that serves nobody.
    fn silence_vips(&mut self, serving: &BTreeMap<IpAddr, Option<bool>>, write: &mut Writer<'_>) {
        for (vip, serves) in serving {
            let Some(value) = self.vips.get_mut(vip) else { continue };
            match serves {
                Some(true) => {}
                Some(false) if value.size == 0 => {}
                Some(false) => {
                    value.size = 0;
                    write(Write::Frontend { key: icmp_key(*vip), value: *value });
                }
                None => {
                    write(Write::RemoveFrontend { key: icmp_key(*vip) });
                    self.free_frontends.push(value.id);
                    self.vips.remove(vip);
                }
            }
        }
    }

    /// After their ports have gained a backend.
    fn announce_vips(
        &mut self,
        serving: &BTreeMap<IpAddr, Option<bool>>,
        write: &mut Writer<'_>,
    ) -> Result<()> {
        for (vip, serves) in serving {
            let Some(serves) = serves else { continue };
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
            write(Write::Frontend { key: icmp_key(*vip), value });
        }
        Ok(())
    }

    fn new_frontend_id(&mut self) -> Result<u32> {
        if let Some(id) = self.free_frontends.pop() {
            return Ok(id);
        }
        let id = self.next_frontend;
        ensure!(
            (id as usize) < maps::FRONTENDS,
            "the federation has more than {} VIPs and ports, for which the data plane has no room",
            maps::FRONTENDS
        );
        self.next_frontend += 1;
        Ok(id)
    }
}

impl<'a> Turn<'a> {
    fn between(before: &'a Plan, after: &'a Plan) -> Self {
        let mut turn = Self::default();
        for change in model::changes(&before.services, &after.services) {
            turn.service(change.before.map(|plan| &**plan), change.after.map(|plan| &**plan));
        }
        // A VIP may have gone from one service to another.
        let put = &turn.put;
        turn.gone.retain(|frontend| !put.contains_key(frontend));
        turn
    }

    fn service(&mut self, old: Option<&'a ServicePlan>, new: Option<&'a ServicePlan>) {
        if let Some(new) = new {
            for (frontend, target) in &new.frontends {
                if old.is_none_or(|old| old.frontends.get(frontend) != Some(target)) {
                    self.put.insert(*frontend, target);
                }
            }
            self.count(new, 1);
        }
        if let Some(old) = old {
            self.gone.extend(
                old.frontends
                    .keys()
                    .filter(|frontend| new.is_none_or(|new| !new.frontends.contains_key(frontend))),
            );
            self.count(old, -1);
        }
    }

    fn count(&mut self, plan: &ServicePlan, by: i64) {
        for target in plan.frontends.values() {
            for backend in target.backends.keys().chain(target.fallback.keys()) {
                let shift = self.shifts.entry(identity(backend)).or_default();
                shift.named += by;
                if by > 0 {
                    shift.backend = Some(backend.clone());
                }
            }
        }
        for backend in &plan.dead {
            self.shifts.entry(identity(backend)).or_default().given_up += by;
        }
    }
}

/// The ports of a VIP in a map.
fn ports<V>(vip: IpAddr, of: &BTreeMap<plan::Frontend, V>) -> impl Iterator<Item = (&plan::Frontend, &V)> {
    let first = plan::Frontend { vip, protocol: model::Protocol::Tcp, port: 0 };
    of.range(first..).take_while(move |(frontend, _)| frontend.vip == vip)
}

/// The tables that a frontend names.
pub(super) fn tables(frontend: &Frontend) -> [Table; 2] {
    [
        Table { offset: frontend.offset, size: frontend.size },
        Table { offset: frontend.fallback_offset, size: frontend.fallback_size },
    ]
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

#[cfg(test)]
mod tests;
