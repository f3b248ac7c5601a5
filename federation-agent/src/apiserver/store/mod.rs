//! The store: every object in memory for readers, in a file for ever, and the recent changes for watchers.
//!
//! One thread writes ([`writer`]); what it has made durable ([`disk`]) becomes visible here at once, in the order of
//! its revisions. Nobody reads what a crash could take back.

mod disk;
mod history;
mod owners;
mod transaction;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, RwLock};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

pub use history::{Change, ChangeKind, Compacted, Limits, Subscription};
pub use transaction::Transaction;

use super::kinds::{self, Kind};
use super::status::ApiError;
use history::History;
use owners::Owners;

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
    owners: Owners,
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
        Self::open_within(data_dir, Limits::default())
    }

    /// As [`Self::open`], with as much of the past as `limits` allow.
    pub fn open_within(data_dir: &Path, limits: Limits) -> Result<(Self, oneshot::Receiver<()>)> {
        let (disk, contents) = disk::Disk::open(&data_dir.join("store.redb"))?;
        let revision = contents.revision;
        let histories = kinds::KINDS
            .iter()
            .map(|kind| (kind.qualified().into(), History::starting_at(revision, limits)))
            .collect();
        let objects: BTreeMap<_, _> = contents.objects.into_iter().collect();
        let mut owners = Owners::default();
        for (key, stored) in &objects {
            owners.update(key, None, Some(&stored.object));
        }
        let state = Arc::new(RwLock::new(State { revision, objects, owners, histories }));
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

    /// As [`Self::list`] was at `revision`: what has changed since is taken back, as far as that is known.
    pub fn list_at(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<Snapshot, Compacted> {
        let state = self.read();
        let resource: Arc<str> = kind.qualified().into();
        let unknown = Compacted { asked: revision, oldest: state.revision };
        let history = state.histories.get(&resource).filter(|_| revision <= state.revision).ok_or(unknown)?;
        let found = state.range(&resource, namespace);
        let mut objects: BTreeMap<_, _> =
            found.map(|(key, stored)| (key.clone(), Arc::clone(stored))).collect();
        let is_wanted = |key: &Key| namespace.is_none_or(|namespace| key.namespace == namespace);
        for change in history.after(revision)?.rev().filter(|change| is_wanted(&change.key)) {
            match &change.before {
                Some(before) => drop(objects.insert(change.key.clone(), Arc::clone(before))),
                None => drop(objects.remove(&change.key)),
            }
        }
        Ok(Snapshot { revision, objects: objects.into_iter().collect() })
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::apiserver::kinds::CONFIG_MAP;

    fn key(name: &str) -> Key {
        Key::new(&CONFIG_MAP, "default", name)
    }

    fn object(name: &str, data: u8) -> Value {
        json!({ "metadata": { "name": name, "namespace": "default" }, "data": { "value": data.to_string() } })
    }

    /// What the store holds, as a client sees it.
    fn contents(store: &Store) -> BTreeMap<String, Value> {
        let listed = store.list(&CONFIG_MAP, Some("default")).objects;
        listed.into_iter().map(|(key, stored)| (key.name, stored.object.clone())).collect()
    }

    #[tokio::test]
    async fn a_job_that_fails_leaves_nothing_behind() {
        let directory = TempDir::new().expect("a directory");
        let (store, _end) = Store::open(directory.path()).expect("open");
        store.write(|transaction| Ok(transaction.put(key("kept"), object("kept", 1)))).await.expect("write");
        let revision = store.revision();
        let failed = store.write(|transaction| -> Result<(), _> {
            transaction.put(key("kept"), object("kept", 2));
            transaction.put(key("new"), object("new", 2));
            transaction.remove(key("kept"), object("kept", 2));
            Err(ApiError::internal("no"))
        });
        failed.await.expect_err("it fails");
        assert_eq!(store.revision(), revision);
        let names: Vec<_> = contents(&store)
            .into_iter()
            .map(|(name, object)| (name, object["data"]["value"].clone()))
            .collect();
        assert_eq!(names, [("kept".to_owned(), json!("1"))]);
    }

    #[tokio::test]
    async fn a_list_can_be_had_as_it_was() {
        let directory = TempDir::new().expect("a directory");
        let limits = Limits { changes: 4, ..Limits::default() };
        let (store, _end) = Store::open_within(directory.path(), limits).expect("open");
        let mut then = vec![(store.revision(), contents(&store))];
        for (name, data) in [("a", 1), ("b", 1), ("a", 2), ("c", 1)] {
            store
                .write(move |transaction| Ok(transaction.put(key(name), object(name, data))))
                .await
                .expect("write");
            then.push((store.revision(), contents(&store)));
        }
        store.write(|transaction| Ok(transaction.remove(key("b"), object("b", 1)))).await.expect("write");
        then.push((store.revision(), contents(&store)));
        for (revision, expected) in &then[1..] {
            let snapshot = store.list_at(&CONFIG_MAP, Some("default"), *revision).expect("it is known");
            let listed: BTreeMap<_, _> =
                snapshot.objects.into_iter().map(|(key, stored)| (key.name, stored.object.clone())).collect();
            assert_eq!((snapshot.revision, &listed), (*revision, expected));
        }
        let forgotten = store.list_at(&CONFIG_MAP, Some("default"), then[0].0).err();
        assert_eq!(forgotten, Some(Compacted { asked: 0, oldest: 1 }));
        let future = store.revision() + 1;
        assert!(store.list_at(&CONFIG_MAP, Some("default"), future).is_err(), "what is to come is not known");
    }

    #[tokio::test]
    async fn a_file_that_has_become_mostly_empty_shrinks_at_the_next_start() {
        let directory = TempDir::new().expect("a directory");
        let length = || std::fs::metadata(directory.path().join("store.redb")).expect("a file").len();
        let (store, end) = Store::open(directory.path()).expect("open");
        let large = |number: u32| {
            let mut object = object("large", 0);
            object["data"]["filler"] = number.to_string().repeat(20_000).into();
            object
        };
        let fill = store.write(move |transaction| {
            for number in 0..1_000 {
                transaction.put(key(&format!("map-{number}")), large(number));
            }
            Ok(())
        });
        fill.await.expect("write");
        let empty = store.write(|transaction| {
            for number in 1..1_000 {
                transaction.remove(key(&format!("map-{number}")), Value::Null);
            }
            Ok(())
        });
        empty.await.expect("write");
        let kept = contents(&store);
        drop(store);
        end.await.expect_err("the writing thread ends without a word");
        let before = length();
        let (store, _end) = Store::open(directory.path()).expect("open again");
        assert!(length() * 2 < before, "{before} bytes became {}", length());
        assert_eq!(contents(&store), kept);
        store.write(|transaction| Ok(transaction.put(key("new"), object("new", 1)))).await.expect("write");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, u8),
        Remove(u8),
        Fail(u8),
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..5_u8, any::<u8>()).prop_map(|(name, data)| Step::Put(name, data)),
            2 => (0..5_u8).prop_map(Step::Remove),
            1 => (0..5_u8).prop_map(Step::Fail),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn what_a_watcher_saw_added_to_its_list_is_what_is_stored(steps in prop::collection::vec(step(), 1..30)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            runtime.block_on(async {
                let directory = TempDir::new().expect("a directory");
                let (mut store, mut end) = Store::open(directory.path()).expect("open");
                let mut watched = contents(&store);
                let mut subscription = store.subscribe(&CONFIG_MAP, store.revision()).expect("the newest revision");
                for step in steps {
                    let name = |number: u8| format!("map-{number}");
                    match step {
                        Step::Put(number, data) => {
                            let name = name(number);
                            let put = store.write(move |transaction| Ok(transaction.put(key(&name), object(&name, data))));
                            put.await.expect("write");
                        }
                        Step::Remove(number) => {
                            let name = name(number);
                            let remove = store.write(move |transaction| Ok(transaction.remove(key(&name), object(&name, 0))));
                            remove.await.expect("write");
                        }
                        Step::Fail(number) => {
                            let name = name(number);
                            let fail = store.write(move |transaction| -> Result<(), _> {
                                transaction.put(key(&name), object(&name, 255));
                                Err(ApiError::internal("no"))
                            });
                            fail.await.expect_err("it fails");
                        }
                        Step::Restart => {
                            replay(&mut subscription, &store, &mut watched).await;
                            drop(subscription);
                            let before = (store.revision(), contents(&store));
                            drop(store);
                            end.await.expect_err("the writing thread ends without a word");
                            (store, end) = Store::open(directory.path()).expect("open again");
                            assert_eq!((store.revision(), contents(&store)), before);
                            subscription = store.subscribe(&CONFIG_MAP, store.revision()).expect("the newest revision");
                        }
                    }
                }
                replay(&mut subscription, &store, &mut watched).await;
                assert_eq!(watched, contents(&store));
            });
        }
    }

    /// Follows the subscription up to what is stored now.
    async fn replay(subscription: &mut Subscription, store: &Store, watched: &mut BTreeMap<String, Value>) {
        while subscription.progress() < store.revision() {
            for change in subscription.next().await.expect("nothing is compacted") {
                match change.kind {
                    ChangeKind::Deleted => drop(watched.remove(&change.key.name)),
                    ChangeKind::Added | ChangeKind::Modified => {
                        watched.insert(change.key.name.clone(), change.now.object.clone());
                    }
                }
            }
        }
    }
}
