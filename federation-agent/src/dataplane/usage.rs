//! Which backends this node's traffic uses: what the programs note of it, read in place.
//!
//! `BACKEND_USE` is mapped into the agent's memory: a release build looks through all of it in less than a tenth of a
//! millisecond, where reading a hundred thousand elements by the batch takes twenty-seven. It is asked for twice a second.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use federation_ebpf::maps::{self, Backend, BackendState, Use};

use super::{
    batch,
    family::{Family, V4, V6, backend_at},
    flows::Moment,
    mapped::{Element, Mapped},
    now,
    pins::Pins,
    protocol::transport,
    read,
};
use crate::model::Protocol;

/// Ids between two that are used, at most, that are read along with them: a system call costs as much.
const GAP: u32 = 16;

#[expect(clippy::cast_possible_truncation, reason = "a hundred thousand or so")]
const BACKENDS: u32 = maps::BACKENDS as u32;

/// How this node's traffic uses backends.
pub struct Usage {
    uses: Mapped<SharedUse>,
    backends_v4: MapData,
    backends_v6: MapData,
}

impl Usage {
    pub(super) fn open(pins: &Pins) -> Result<Self> {
        Ok(Self {
            uses: Mapped::of(&read::open(pins, "BACKEND_USE")?, 0..BACKENDS).context("read BACKEND_USE")?,
            backends_v4: read::open(pins, V4::BACKENDS)?,
            backends_v6: read::open(pins, V6::BACKENDS)?,
        })
    }

    /// Backends that had a packet of a connection `within` this time, in no order. Of a connection that goes on it is
    /// noted once a second: what is asked for should be longer than that.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn used_since(&mut self, within: Duration) -> Result<Vec<(SocketAddr, Protocol)>> {
        let now = Moment::at(now()?);
        let last_used = self.uses.iter().map(|entry| entry.last_used.load(Ordering::Relaxed));
        let mut used = Vec::new();
        for ids in runs(recent(last_used, now, within)) {
            self.name(&ids, &mut used)?;
        }
        Ok(used)
    }

    /// Adds the backends of a run of ids that are used.
    fn name(&self, run: &Run, used: &mut Vec<(SocketAddr, Protocol)>) -> Result<()> {
        let v4 = tenants::<V4>(&self.backends_v4, &run.range)?;
        let v6 = tenants::<V6>(&self.backends_v6, &run.range)?;
        for id in &run.ids {
            let index = (id - run.range.start()) as usize;
            // An id has a tenant of one family at most.
            used.extend([&v4[index], &v6[index]].into_iter().filter_map(identity));
        }
        Ok(())
    }
}

fn tenants<A: Family>(map: &MapData, ids: &RangeInclusive<u32>) -> Result<Vec<Backend<IpAddr>>> {
    let backends = batch::read_array::<Backend<A>>(map, *ids.start(), ids.end() - ids.start() + 1)
        .with_context(|| format!("read {}", A::BACKENDS))?;
    Ok(backends.iter().map(|backend| backend_at(backend, backend.address.ip())).collect())
}

fn identity(backend: &Backend<IpAddr>) -> Option<(SocketAddr, Protocol)> {
    let protocol = transport(backend.protocol)?;
    let is_tenant = backend.state != BackendState::Unused;
    is_tenant.then(|| (SocketAddr::new(backend.address, backend.port), protocol))
}

/// The ids, in their order, of those that were used `within` the time before `now`.
fn recent(last_used: impl Iterator<Item = u32>, now: Moment, within: Duration) -> impl Iterator<Item = u32> {
    let used = (0..).zip(last_used).filter(move |(_, tick)| *tick != 0 && now.after(*tick) <= within);
    used.map(|(id, _)| id)
}

/// Ids that are read at once.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    range: RangeInclusive<u32>,
    ids: Vec<u32>,
}

/// `ids` come in their order.
fn runs(ids: impl Iterator<Item = u32>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for id in ids {
        match runs.last_mut() {
            Some(run) if id - run.range.end() <= GAP => {
                run.range = *run.range.start()..=id;
                run.ids.push(id);
            }
            _ => runs.push(Run { range: id..=id, ids: vec![id] }),
        }
    }
    runs
}

/// A [`Use`] that programs write meanwhile, each field whole.
#[repr(C)]
struct SharedUse {
    last_used: AtomicU32,
    failures: AtomicU32,
}

const _: () = assert!(size_of::<SharedUse>() == size_of::<Use>());

// SAFETY: as it stands there.
unsafe impl Element for SharedUse {}

#[cfg(test)]
mod tests {
    use federation_ebpf::maps::{TICKS_PER_SECOND, tick};

    use super::*;

    #[test]
    fn only_what_was_used_of_late_is_told() {
        const NOW: Duration = Duration::from_hours(1);
        let now = tick(NOW.as_secs() * 1_000_000_000);
        // Never, just now, by a CPU that is ahead, a second ago, and ten seconds ago.
        let last_used = [0, now, now + 1, now - TICKS_PER_SECOND, now - 10 * TICKS_PER_SECOND];
        for (within, expected) in [(0, vec![1, 2]), (5, vec![1, 2, 3]), (20, vec![1, 2, 3, 4])] {
            let within = Duration::from_secs(within);
            let ids: Vec<_> = recent(last_used.into_iter(), Moment::at(NOW), within).collect();
            assert_eq!(ids, expected, "{within:?}");
        }
    }

    #[test]
    fn neighbours_are_read_at_once() {
        let ids = [1, 2, 2 + GAP, 3 + 2 * GAP];
        let expected = [
            Run { range: 1..=2 + GAP, ids: vec![1, 2, 2 + GAP] },
            Run { range: 3 + 2 * GAP..=3 + 2 * GAP, ids: vec![3 + 2 * GAP] },
        ];
        assert_eq!(runs(ids.into_iter()), expected);
    }
}
