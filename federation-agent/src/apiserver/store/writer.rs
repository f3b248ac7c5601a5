//! The one thread that writes. Jobs that wait while the disk is busy share its next fsync.

use std::sync::{Arc, RwLock};

use tokio::sync::mpsc;
use tracing::error;

use super::disk::Disk;
use super::transaction::{Batch, Transaction};
use super::{ChangeKind, State, read};
use crate::apiserver::status::ApiError;

/// Jobs that may wait for the thread before their senders have to.
pub(super) const QUEUE: usize = 1_024;
/// Jobs that one fsync may make durable: bounds the wait of the first.
const MOST_JOBS_A_BATCH: usize = 256;

/// Does its work in the transaction, and gives what to do once that is durable, or is not.
pub(super) type Job = Box<dyn FnOnce(&mut Transaction<'_>) -> Finish + Send>;
pub(super) type Finish = Box<dyn FnOnce(Result<(), ApiError>) + Send>;

pub(super) struct Writer {
    disk: Disk,
    state: Arc<RwLock<State>>,
}

impl Writer {
    pub(super) fn new(disk: Disk, state: Arc<RwLock<State>>) -> Self {
        Self { disk, state }
    }

    /// Until every sender of jobs is gone.
    pub(super) fn run(self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let mut batch = Batch::starting_at(read(&self.state).revision);
            let mut finishes = Vec::new();
            let mut next = Some(first);
            while let Some(job) = next {
                finishes.push(job(&mut batch.begin(&self.state)));
                next = if finishes.len() < MOST_JOBS_A_BATCH { queue.try_recv().ok() } else { None };
            }
            let durable = self.commit(batch);
            for finish in finishes {
                finish(durable.clone());
            }
        }
    }

    fn commit(&self, batch: Batch) -> Result<(), ApiError> {
        if batch.changes.is_empty() {
            return Ok(());
        }
        self.disk.commit(batch.revision, &batch.changes).map_err(|failure| {
            error!("cannot write to the store: {failure:#}");
            ApiError::internal(format!("cannot write to the store: {failure:#}"))
        })?;
        publish(&self.state, batch);
        Ok(())
    }
}

fn publish(state: &RwLock<State>, batch: Batch) {
    let mut state = state.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    state.revision = batch.revision;
    for change in batch.changes {
        let is_deleted = change.kind == ChangeKind::Deleted;
        let before = change.before.as_ref().map(|before| &before.object);
        state.owners.update(&change.key, before, (!is_deleted).then_some(&change.now.object));
        if is_deleted {
            state.objects.remove(&change.key);
        } else {
            state.objects.insert(change.key.clone(), Arc::clone(&change.now));
        }
        if let Some(history) = state.histories.get_mut(&change.key.resource) {
            history.push(change);
        }
    }
    for history in state.histories.values() {
        history.announce();
    }
}
