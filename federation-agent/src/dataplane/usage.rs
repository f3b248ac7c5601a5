//! Which backends this node's traffic goes to: what the programs note when a connection begins and once a second while it
//! goes on.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use federation_ebpf::maps::{Backend, BackendState, TICKS_PER_SECOND, Use, elapsed, tick};

use super::{
    batch,
    family::{Family, V4, V6},
    now,
    pins::Pins,
    read,
    tables::model_protocol,
};
use crate::model::Protocol;

/// The maps that tell.
pub struct Usage {
    /// Ids that were ever given to a backend, which is less than the map has room for.
    ids: Arc<AtomicU32>,
    uses: MapData,
    backends_v4: MapData,
    backends_v6: MapData,
}

impl Usage {
    pub(super) fn new(pins: &Pins, ids: Arc<AtomicU32>) -> Result<Self> {
        Ok(Self {
            ids,
            uses: read::open(pins, "BACKEND_USE")?,
            backends_v4: read::open(pins, V4::BACKENDS)?,
            backends_v6: read::open(pins, V6::BACKENDS)?,
        })
    }

    /// Backends that were used within `time`, to about a second.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn used_since(&self, time: Duration) -> Result<Vec<(SocketAddr, Protocol)>> {
        let now = tick(u64::try_from(now()?.as_nanos()).context("read the clock")?);
        let recent = u32::try_from(time.as_secs()).unwrap_or(u32::MAX).saturating_mul(TICKS_PER_SECOND);
        let uses = batch::read_array::<Use>(&self.uses, 0, self.ids.load(Ordering::Relaxed))
            .context("read BACKEND_USE")?;
        let mut used = Vec::new();
        for (id, entry) in (0..).zip(uses) {
            if entry.last_used == 0 || elapsed(entry.last_used, now) > recent {
                continue;
            }
            used.extend(backend::<V4>(&self.backends_v4, id)?);
            used.extend(backend::<V6>(&self.backends_v6, id)?);
        }
        Ok(used)
    }
}

/// The tenant of an id in one family, if it has one there.
fn backend<A: Family>(map: &MapData, id: u32) -> Result<Option<(SocketAddr, Protocol)>> {
    let [backend] = batch::read_array::<Backend<A>>(map, id, 1)?[..] else { return Ok(None) };
    if matches!(backend.state, BackendState::Unused) {
        return Ok(None);
    }
    let protocol = model_protocol(backend.protocol)?;
    Ok(Some((SocketAddr::new(backend.address.ip(), backend.port), protocol)))
}
