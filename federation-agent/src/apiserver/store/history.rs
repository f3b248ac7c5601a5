//! The recent changes of each kind, for watchers: a bounded ring that each watcher reads at its own pace.
//!
//! A watcher that falls further behind than the ring is long is told so and lists again; it never slows a writer. How
//! long the ring is depends on how large the objects are, so that no kind can fill the memory with its past.

use std::collections::VecDeque;
use std::sync::{Arc, RwLock};

use tokio::sync::watch;

use super::{Key, State, Stored, read};

/// How much of the past of one kind is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub changes: usize,
    /// Of the changed objects' text; the newest change is kept whatever its size.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { changes: 10_000, bytes: 32 * 1024 * 1024 }
    }
}

#[derive(Debug)]
pub struct Change {
    pub key: Key,
    pub kind: ChangeKind,
    /// What it is now; for a deletion what it was last, at the deletion's revision.
    pub now: Arc<Stored>,
    pub before: Option<Arc<Stored>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// The changes after the asked revision are no longer all known; `oldest` is the first revision that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    pub asked: u64,
    pub oldest: u64,
}

pub(super) struct History {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    limits: Limits,
    /// Every change after this revision is in `changes`.
    floor: u64,
    /// Carries the revision of the newest change.
    wake: watch::Sender<u64>,
}

/// One watcher's place in the history of a kind.
pub struct Subscription {
    state: Arc<RwLock<State>>,
    resource: Arc<str>,
    position: u64,
    wake: watch::Receiver<u64>,
}

impl History {
    pub(super) fn starting_at(revision: u64, limits: Limits) -> Self {
        let (changes, wake) = (VecDeque::new(), watch::Sender::new(revision));
        Self { changes, bytes: 0, limits, floor: revision, wake }
    }

    pub(super) fn push(&mut self, change: Arc<Change>) {
        self.bytes += change.now.text.len();
        self.changes.push_back(change);
        let exceeds = |history: &Self| {
            history.changes.len() > history.limits.changes || history.bytes > history.limits.bytes
        };
        while self.changes.len() > 1
            && exceeds(self)
            && let Some(oldest) = self.changes.pop_front()
        {
            self.bytes -= oldest.now.text.len();
            self.floor = oldest.now.revision;
        }
    }

    /// Tells the watchers, once for any number of changes; those of other kinds sleep on.
    pub(super) fn announce(&self) {
        let Some(newest) = self.changes.back().map(|change| change.now.revision) else { return };
        self.wake.send_if_modified(|told| std::mem::replace(told, newest) != newest);
    }

    fn check(&self, revision: u64) -> Result<(), Compacted> {
        if revision < self.floor { Err(Compacted { asked: revision, oldest: self.floor }) } else { Ok(()) }
    }

    pub(super) fn after(
        &self,
        revision: u64,
    ) -> Result<impl DoubleEndedIterator<Item = &Arc<Change>>, Compacted> {
        self.check(revision)?;
        let start = self.changes.partition_point(|change| change.now.revision <= revision);
        Ok(self.changes.range(start..))
    }
}

impl Subscription {
    pub(super) fn new(
        state: Arc<RwLock<State>>,
        resource: Arc<str>,
        revision: u64,
    ) -> Result<Self, Compacted> {
        let wake = {
            let state = read(&state);
            let Some(history) = state.histories.get(&resource) else {
                return Err(Compacted { asked: revision, oldest: state.revision });
            };
            // A revision from the future was given out by a store that is gone: nothing here continues it.
            if revision > state.revision {
                return Err(Compacted { asked: revision, oldest: state.revision });
            }
            history.check(revision)?;
            history.wake.subscribe()
        };
        Ok(Self { state, resource, position: revision, wake })
    }

    /// The next changes, at least one, in order; waits for them.
    pub async fn next(&mut self) -> Result<Vec<Arc<Change>>, Compacted> {
        loop {
            self.wake.mark_unchanged();
            let changes: Vec<_> = {
                let state = read(&self.state);
                match state.histories.get(&self.resource) {
                    Some(history) => history.after(self.position)?.cloned().collect(),
                    None => Vec::new(),
                }
            };
            if let Some(last) = changes.last() {
                self.position = last.now.revision;
                return Ok(changes);
            }
            if self.wake.changed().await.is_err() {
                // The store is gone with the process; there is nothing to wait for.
                std::future::pending::<()>().await;
            }
        }
    }

    /// A revision up to which this watcher has seen everything: that of the store, when nothing of the kind is newer
    /// than what it has read.
    pub fn progress(&mut self) -> u64 {
        let state = read(&self.state);
        if let Some(history) = state.histories.get(&self.resource)
            && history.changes.back().is_none_or(|newest| newest.now.revision <= self.position)
        {
            self.position = self.position.max(state.revision);
        }
        self.position
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_reader_that_fell_behind_the_ring_is_told_so() {
        let cases = [
            ("by number", Limits { changes: 3, bytes: usize::MAX }),
            ("by size", Limits { changes: usize::MAX, bytes: 35 }),
            ("one more than fits", Limits { changes: usize::MAX, bytes: 39 }),
        ];
        for (case, limits) in cases {
            let mut history = History::starting_at(5, limits);
            for revision in 6..=10 {
                history.push(change(revision, 10));
            }
            assert_eq!(history.after(6).err(), Some(Compacted { asked: 6, oldest: 7 }), "{case}");
            let revisions: Vec<_> =
                history.after(7).expect("known").map(|change| change.now.revision).collect();
            assert_eq!(revisions, [8, 9, 10], "{case}");
        }
    }

    #[test]
    fn the_newest_change_is_kept_however_large_it_is() {
        let mut history = History::starting_at(5, Limits { changes: 10, bytes: 1 });
        history.push(change(6, 10));
        history.push(change(7, 10));
        let revisions: Vec<_> = history.after(6).expect("known").map(|change| change.now.revision).collect();
        assert_eq!(revisions, [7]);
    }

    fn change(revision: u64, bytes: usize) -> Arc<Change> {
        let now = Arc::new(Stored { revision, object: Value::Null, text: vec![b' '; bytes].into() });
        let key = Key { resource: "configmaps".into(), namespace: String::new(), name: String::new() };
        Arc::new(Change { key, kind: ChangeKind::Added, now, before: None })
    }
}
