//! A watch's stream: changes of the store as the events that one client asked for.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::stream;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::kinds::Kind;
use super::request::{Form, Parameters};
use super::selector::Selector;
use super::status::ApiError;
use super::store::{Change, ChangeKind, Compacted, Store, Stored, Subscription};
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
    let wants_initial = asked.is_none() || parameters.send_initial_events;
    let start = match asked {
        Some(asked) if !parameters.send_initial_events => asked,
        _ => {
            let current = store.revision();
            if let Some(asked) = asked.filter(|asked| *asked > current) {
                return Err(ApiError::revision_too_large(asked, current));
            }
            let namespace = (!scope.namespace.is_empty()).then_some(scope.namespace.as_str());
            let snapshot = store.list(kind, namespace);
            let first = snapshot.objects.iter().filter(|(_, stored)| wants_initial && scope.covers(stored));
            pending.extend(first.map(|(_, stored)| encoder.event("ADDED", stored)));
            if parameters.send_initial_events && parameters.allow_watch_bookmarks {
                pending.push_back(encoder.bookmark(snapshot.revision, true));
            }
            snapshot.revision
        }
    };
    let subscription = store.subscribe(kind, start).map_err(expired)?;
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
    Ok(stream::unfold(watch, |mut watch| async move { watch.next().await.map(|event| (Ok(event), watch)) }))
}

fn expired(compacted: Compacted) -> ApiError {
    ApiError::expired(format!("too old resource version: {} ({})", compacted.asked, compacted.oldest))
}

// === impl Scope ===

impl Scope {
    fn covers(&self, stored: &Stored) -> bool {
        self.selector.matches(&stored.object)
    }

    /// What a change is to this client: objects come and go as they begin and cease to match.
    fn event(&self, change: &Change) -> Option<&'static str> {
        let elsewhere = |wanted: &str, found: &str| !wanted.is_empty() && wanted != found;
        if elsewhere(&self.namespace, &change.key.namespace) || elsewhere(&self.name, &change.key.name) {
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
                let error = json!({ "type": "ERROR", "object": expired(compacted).status() });
                self.pending.push_back(line(&error));
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
