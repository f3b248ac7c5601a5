//! A watch's stream: changes of the store as the events that one client asked for.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use futures::{Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::kinds::Kind;
use super::request::{Form, Parameters};
use super::selector::Selector;
use super::status::ApiError;
use super::store::{Change, ChangeKind, Compacted, Key, Store, Stored, Subscription};
use super::table;
use super::versions::in_version;

/// How often a client that wants bookmarks gets one.
const BOOKMARK_PERIOD: Duration = Duration::from_mins(1);
/// A watch without a timeout of its own ends after a time between this and twice this, so that clients spread.
const SHORTEST_DEFAULT: Duration = Duration::from_mins(30);

/// Which objects a watch is about; an empty string is any.
pub struct Scope {
    pub namespace: String,
    pub name: String,
    pub selector: Selector,
}

/// Writes events in the form that the client asked for.
pub struct Encoder {
    kind: &'static Kind,
    version: &'static str,
    form: Form,
    include_object: String,
    has_columns: bool,
}

struct Watch {
    scope: Scope,
    encoder: Encoder,
    subscription: Subscription,
    pending: VecDeque<Bytes>,
    bookmarks: Option<Interval>,
    deadline: Instant,
    is_over: bool,
}

/// The events after `asked`; without one, first an event for each object that there is.
pub fn stream(
    store: &Store,
    kind: &'static Kind,
    scope: Scope,
    mut encoder: Encoder,
    asked: Option<u64>,
    parameters: &Parameters,
) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + use<>, ApiError> {
    let mut pending = VecDeque::new();
    // Whoever names no revision gets what there is, unless told not to; whoever asks for that gets it in any case.
    let wants_initial = parameters.send_initial_events.unwrap_or(asked.is_none());
    let start = match asked {
        Some(asked) if !wants_initial => asked,
        _ => {
            let current = store.revision();
            if let Some(asked) = asked.filter(|asked| *asked > current) {
                return Err(ApiError::revision_too_large(asked, current));
            }
            let namespace = (!scope.namespace.is_empty()).then_some(scope.namespace.as_str());
            let snapshot = store.list(kind, namespace);
            let first = snapshot.objects.iter();
            let first =
                first.filter(|(key, stored)| wants_initial && scope.is_at(key) && scope.covers(stored));
            pending.extend(first.map(|(_, stored)| encoder.event("ADDED", stored)));
            if parameters.send_initial_events == Some(true) && parameters.allow_watch_bookmarks {
                pending.push_back(encoder.bookmark(snapshot.revision, true));
            }
            snapshot.revision
        }
    };
    let subscription = match store.subscribe(kind, start) {
        Ok(subscription) => subscription,
        // As an event, like kube-apiserver's: clients list again after it, and only repeat a request that is refused.
        Err(compacted) => return Ok(stream::iter([Ok(ended_by(compacted))]).left_stream()),
    };
    let timeout = match parameters.timeout_seconds {
        0 => SHORTEST_DEFAULT.mul_f64(1.0 + rand::random::<f64>()),
        seconds => Duration::from_secs(seconds),
    };
    let bookmarks = parameters.allow_watch_bookmarks.then(|| {
        let mut ticks = interval_at(Instant::now() + BOOKMARK_PERIOD, BOOKMARK_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    });
    let deadline = Instant::now() + timeout;
    let watch = Watch { scope, encoder, subscription, pending, bookmarks, deadline, is_over: false };
    let events =
        stream::unfold(watch, |mut watch| async move { watch.next().await.map(|event| (Ok(event), watch)) });
    Ok(events.right_stream())
}

pub fn expired(compacted: Compacted) -> ApiError {
    ApiError::expired(format!("too old resource version: {} ({})", compacted.asked, compacted.oldest))
}

// === impl Scope ===

impl Scope {
    fn is_at(&self, key: &Key) -> bool {
        let is = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        is(&self.namespace, &key.namespace) && is(&self.name, &key.name)
    }

    fn covers(&self, stored: &Stored) -> bool {
        self.selector.matches(&stored.object)
    }

    /// What a change is to this client: objects come and go as they begin and cease to match.
    fn event(&self, change: &Change) -> Option<&'static str> {
        if !self.is_at(&change.key) {
            return None;
        }
        let before = change.before.as_deref().is_some_and(|before| self.covers(before));
        let now = change.kind != ChangeKind::Deleted && self.covers(&change.now);
        match (before, now) {
            (false, true) => Some("ADDED"),
            (true, true) => Some("MODIFIED"),
            (true, false) => Some("DELETED"),
            (false, false) => None,
        }
    }
}

// === impl Encoder ===

impl Encoder {
    pub fn new(kind: &'static Kind, version: &'static str, form: Form, include_object: String) -> Self {
        Self { kind, version, form, include_object, has_columns: false }
    }

    fn event(&mut self, what: &str, stored: &Arc<Stored>) -> Bytes {
        let stored = &in_version(self.kind, self.version, stored);
        let object = match self.form {
            Form::Json => {
                // The stored text as it is: one encoding serves every watcher.
                let mut line = format!("{{\"type\":\"{what}\",\"object\":").into_bytes();
                line.extend_from_slice(&stored.text);
                line.extend_from_slice(b"}\n");
                return line.into();
            }
            Form::Metadata(version) => table::partial(&stored.object, version),
            Form::Table(version) => {
                let meta = json!({ "resourceVersion": stored.revision.to_string() });
                let objects = std::slice::from_ref(stored);
                let mut table = table::render(self.kind, objects, version, &self.include_object, &meta);
                if std::mem::replace(&mut self.has_columns, true) {
                    table["columnDefinitions"] = Value::Null;
                }
                table
            }
        };
        line(&json!({ "type": what, "object": object }))
    }

    fn bookmark(&self, revision: u64, ends_initial_events: bool) -> Bytes {
        let mut object = json!({ "metadata": { "resourceVersion": revision.to_string() } });
        if ends_initial_events {
            object["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let (api_version, kind) = match self.form {
            Form::Json => (self.kind.api_version_of(self.version), self.kind.name),
            Form::Metadata(version) => (format!("meta.k8s.io/{version}"), "PartialObjectMetadata"),
            Form::Table(version) => {
                let meta = object["metadata"].take();
                object = table::render(self.kind, &[], version, &self.include_object, &meta);
                object["rows"] = json!([{ "cells": [], "object": {
                    "apiVersion": format!("meta.k8s.io/{version}"), "kind": "PartialObjectMetadata", "metadata": meta,
                } }]);
                (format!("meta.k8s.io/{version}"), "Table")
            }
        };
        object["apiVersion"] = api_version.into();
        object["kind"] = kind.into();
        line(&json!({ "type": "BOOKMARK", "object": object }))
    }
}

fn ended_by(compacted: Compacted) -> Bytes {
    line(&json!({ "type": "ERROR", "object": expired(compacted).status() }))
}

fn line(event: &Value) -> Bytes {
    let mut text = event.to_string();
    text.push('\n');
    text.into()
}

// === impl Watch ===

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            if self.is_over {
                return None;
            }
            tokio::select! {
                changes = self.subscription.next() => self.take(changes),
                () = tick(self.bookmarks.as_mut()) => self.bookmark(),
                () = tokio::time::sleep_until(self.deadline) => {
                    if self.bookmarks.is_some() {
                        self.bookmark();
                    }
                    self.is_over = true;
                }
            }
        }
    }

    fn take(&mut self, changes: Result<Vec<Arc<Change>>, Compacted>) {
        match changes {
            Ok(changes) => {
                for change in changes {
                    if let Some(what) = self.scope.event(&change) {
                        self.pending.push_back(self.encoder.event(what, &change.now));
                    }
                }
            }
            Err(compacted) => {
                self.pending.push_back(ended_by(compacted));
                self.is_over = true;
            }
        }
    }

    fn bookmark(&mut self) {
        let revision = self.subscription.progress();
        self.pending.push_back(self.encoder.bookmark(revision, false));
    }
}

async fn tick(ticks: Option<&mut Interval>) {
    match ticks {
        Some(ticks) => drop(ticks.tick().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::pin::Pin;

    use futures::{FutureExt as _, StreamExt as _};
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::apiserver::kinds::CONFIG_MAP;
    use crate::apiserver::object::Object as _;
    use crate::apiserver::store::Limits;

    /// What a client does that follows one kind through one selector.
    #[derive(Clone, Debug)]
    enum Step {
        Put {
            name: u8,
            matches: bool,
            data: u8,
        },
        Remove(u8),
        /// Reads some of the events that wait for it.
        Read(usize),
        /// Loses its connection, and watches again from the last version that it saw.
        Reconnect,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..4_u8, any::<bool>(), any::<u8>()).prop_map(|(name, matches, data)| Step::Put { name, matches, data }),
            2 => (0..4_u8).prop_map(Step::Remove),
            2 => (1..4_usize).prop_map(Step::Read),
            1 => Just(Step::Reconnect),
        ]
    }

    type Events = Pin<Box<dyn Stream<Item = Result<Bytes, Infallible>>>>;

    /// A client with what it believes is there.
    struct Client {
        seen: BTreeMap<String, Value>,
        version: u64,
        events: Option<Events>,
        /// How often it had to begin anew.
        lists: usize,
    }

    fn selector() -> Selector {
        Selector::parse(&CONFIG_MAP, "wanted=yes", "").expect("a selector")
    }

    /// What the server says is there.
    fn listed(store: &Store) -> (u64, BTreeMap<String, Value>) {
        let snapshot = store.list(&CONFIG_MAP, Some("default"));
        let selected = snapshot.objects.into_iter().filter(|(_, stored)| selector().matches(&stored.object));
        (snapshot.revision, selected.map(|(key, stored)| (key.name, stored.object.clone())).collect())
    }

    impl Client {
        fn connect(&mut self, store: &Store) {
            let scope = Scope { namespace: "default".to_owned(), name: String::new(), selector: selector() };
            let encoder = Encoder::new(&CONFIG_MAP, CONFIG_MAP.version, Form::Json, String::new());
            let parameters = Parameters { allow_watch_bookmarks: true, ..Parameters::default() };
            match stream(store, &CONFIG_MAP, scope, encoder, Some(self.version), &parameters) {
                Ok(events) => self.events = Some(Box::pin(events)),
                Err(_) => self.begin(store),
            }
        }

        fn begin(&mut self, store: &Store) {
            (self.version, self.seen) = listed(store);
            self.lists += 1;
            self.connect(store);
        }

        /// Takes in one event, if one waits.
        fn read(&mut self, store: &Store) -> bool {
            let Some(line) = self.events.as_mut().and_then(|events| events.next().now_or_never().flatten())
            else {
                return false;
            };
            let event: Value = serde_json::from_slice(&line.expect("it cannot fail")).expect("JSON");
            let object = event["object"].clone();
            let (name, known) = (object.name().to_owned(), self.seen.get(object.name()));
            match event["type"].as_str().expect("a type") {
                "ADDED" => assert_eq!(known, None, "{name} comes once"),
                "MODIFIED" | "DELETED" => assert!(known.is_some(), "{name} is known"),
                "ERROR" => {
                    assert_eq!(object["code"], 410, "{object}");
                    self.begin(store);
                    return true;
                }
                other => panic!("{other}"),
            }
            let version = object.resource_version().parse().expect("a number");
            assert!(version > self.version, "versions grow");
            self.version = version;
            if event["type"] == "DELETED" {
                self.seen.remove(&name);
            } else {
                self.seen.insert(name, object);
            }
            true
        }
    }

    async fn carry_out(store: &Store, step: &Step) {
        let key = |name: u8| Key::new(&CONFIG_MAP, "default", &format!("map-{name}"));
        match *step {
            Step::Put { name, matches, data } => {
                let wanted = if matches { "yes" } else { "no" };
                let object = json!({
                    "metadata": { "name": format!("map-{name}"), "namespace": "default", "labels": { "wanted": wanted } },
                    "data": { "value": data.to_string() },
                });
                let put = store.write(move |transaction| Ok(transaction.put(key(name), object)));
                drop(put.await.expect("write"));
            }
            Step::Remove(name) => {
                let remove = store.write(move |transaction| {
                    let last = transaction.get(&key(name)).map(|stored| stored.object.clone());
                    Ok(last.map(|last| transaction.remove(key(name), last)))
                });
                drop(remove.await.expect("write"));
            }
            Step::Read(_) | Step::Reconnect => {}
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn what_a_client_saw_is_what_it_would_list_whatever_it_missed(
            steps in prop::collection::vec(step(), 1..60),
            kept in 1..12_usize,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            runtime.block_on(async {
                let directory = TempDir::new().expect("a directory");
                // Shorter than what a client may miss, so that it is told to begin anew at times.
                let limits = Limits { changes: kept, ..Limits::default() };
                let (store, _end) = Store::open_within(directory.path(), limits).expect("open");
                let mut client = Client { seen: BTreeMap::new(), version: 0, events: None, lists: 0 };
                client.connect(&store);
                for step in &steps {
                    carry_out(&store, step).await;
                    match step {
                        Step::Read(most) => for _ in 0..*most {
                            client.read(&store);
                        },
                        Step::Reconnect => client.connect(&store),
                        Step::Put { .. } | Step::Remove(_) => {}
                    }
                }
                while client.read(&store) {}
                assert_eq!(client.seen, listed(&store).1, "after {} lists", client.lists);
            });
        }
    }
}
