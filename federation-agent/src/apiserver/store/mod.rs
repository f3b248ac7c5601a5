//! The store: every object in memory for readers, in a file for ever, and the recent changes for watchers.
//!
//! One thread writes ([`writer`]); what it has made durable ([`disk`]) becomes visible here at once, in the order of
//! its revisions. Nobody reads what a crash could take back.

mod disk;
mod history;
mod transaction;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, RwLock};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

pub use history::{Change, ChangeKind, Compacted, Subscription};
pub use transaction::Transaction;

use super::kinds::{self, Kind};
use super::status::ApiError;
use history::History;

/// Where an object lives. Orders as lists do: by namespace, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The kind's qualified plural.
    pub resource: Arc<str>,
    /// Empty for kinds without namespaces.
    pub namespace: String,
    pub name: String,
}

/// One version of an object; never changes.
#[derive(Debug)]
pub struct Stored {
    pub revision: u64,
    pub object: Value,
    /// `object` as JSON text, made once for the file and all readers.
    pub text: Bytes,
}

#[derive(Default)]
struct State {
    /// The revision of the last change that is durable.
    revision: u64,
    objects: BTreeMap<Key, Arc<Stored>>,
    histories: BTreeMap<Arc<str>, History>,
}

/// A handle on the store; clones share it.
#[derive(Clone)]
pub struct Store {
    state: Arc<RwLock<State>>,
    jobs: mpsc::Sender<writer::Job>,
}

/// What a list saw: the objects, and the revision from which a watch continues.
pub struct Snapshot {
    pub revision: u64,
    pub objects: Vec<(Key, Arc<Stored>)>,
}

// === impl Key ===

impl Key {
    pub fn new(kind: &Kind, namespace: &str, name: &str) -> Self {
        Self { resource: kind.qualified().into(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

// === impl Store ===

impl Store {
    /// Opens the file below `data_dir`, or makes it. The receiver resolves when the writing thread has ended.
    pub fn open(data_dir: &Path) -> Result<(Self, oneshot::Receiver<()>)> {
        let (disk, contents) = disk::Disk::open(&data_dir.join("store.redb"))?;
        let revision = contents.revision;
        let histories = kinds::KINDS
            .iter()
            .map(|kind| (kind.qualified().into(), History::starting_at(revision)))
            .collect();
        let objects = contents.objects.into_iter().collect();
        let state = Arc::new(RwLock::new(State { revision, objects, histories }));
        let (jobs, queue) = mpsc::channel(writer::QUEUE);
        let (ended, end) = oneshot::channel();
        let writer = writer::Writer::new(disk, Arc::clone(&state));
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                writer.run(queue);
                drop(ended);
            })
            .context("start the store's writing thread")?;
        Ok((Self { state, jobs }, end))
    }

    /// Runs `job` against the newest state, alone, and answers when what it did is durable. A job that fails leaves
    /// nothing behind.
    pub async fn write<T, F>(&self, job: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<T, ApiError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: writer::Job = Box::new(move |transaction| {
            let result = job(transaction);
            if result.is_err() {
                transaction.roll_back();
            }
            Box::new(move |durable| {
                // A client that has gone away no longer wants to know.
                drop(reply.send(durable.and(result)));
            })
        });
        let stopped = || ApiError::internal("the store has stopped");
        self.jobs.send(job).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    pub fn revision(&self) -> u64 {
        self.read().revision
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Stored>> {
        self.read().objects.get(key).cloned()
    }

    /// Objects of a kind in order, in one namespace or in all.
    pub fn list(&self, kind: &Kind, namespace: Option<&str>) -> Snapshot {
        let state = self.read();
        let resource = kind.qualified().into();
        let found = state.range(&resource, namespace);
        let objects = found.map(|(key, stored)| (key.clone(), Arc::clone(stored))).collect();
        Snapshot { revision: state.revision, objects }
    }

    /// The changes of a kind after `revision`.
    pub fn subscribe(&self, kind: &Kind, revision: u64) -> Result<Subscription, Compacted> {
        let resource: Arc<str> = kind.qualified().into();
        Subscription::new(Arc::clone(&self.state), resource, revision)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        read(&self.state)
    }
}

/// The lock is only ever held for moves of pointers, so a poisoned one still guards a whole state.
fn read(state: &RwLock<State>) -> std::sync::RwLockReadGuard<'_, State> {
    state.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

// === impl State ===

impl State {
    fn range(
        &self,
        resource: &Arc<str>,
        namespace: Option<&str>,
    ) -> impl Iterator<Item = (&Key, &Arc<Stored>)> {
        let start = Key {
            resource: Arc::clone(resource),
            namespace: namespace.unwrap_or_default().to_owned(),
            name: String::new(),
        };
        let (resource, namespace) = (Arc::clone(resource), namespace.map(str::to_owned));
        self.objects.range(start..).take_while(move |(key, _)| {
            key.resource == resource && namespace.as_ref().is_none_or(|namespace| key.namespace == *namespace)
        })
    }
}
