//! The Multi-Cluster Services API (KEP-1645): a Service that a member cluster exports is a federated service.
//!
//! | room | what lives there |
//! | --- | --- |
//! | [`site`] | what one cluster exports and has imported, watched |
//! | [`export`] | what one export says, and whether it may; pure |
//! | [`merge`] | exports in, the service and its conflicts out; pure |
//! | [`record`] | that service at the Federation API, with the record of its exports; pure |
//! | [`hub`] | keeps it there |
//! | [`conditions`], [`import`] | what a cluster is told of its export, and what it imports; pure |
//! | [`deliver`] | brings both to one cluster |
//!
//! Between [`hub`] and everything else stands the Service at the Federation API alone: shards, endpoints, VIPs and reports
//! are made of it as of any other, but that its clusters are those which export it, and that nothing is written there.

mod conditions;
mod deliver;
mod export;
mod hub;
mod import;
mod merge;
mod record;
mod site;
mod work;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::core::v1::Service;

pub use record::is_exported;
pub use site::{Site, follow};

use super::context::{Context, Post};
use crate::model::ServiceKey;
use work::Names;

/// The names that are exported, as far as no single cluster is concerned.
#[derive(Default)]
pub struct Exported {
    /// Whose Service at the Federation API wants a look.
    names: Names,
    failures: Mutex<HashMap<ServiceKey, String>>,
}

/// Keeps the Services of all exports at the Federation API.
pub async fn run(context: Arc<Context>) {
    work::work("exports", &context.exports.names, async |key| hub::reconcile(&context, &key).await).await;
}

/// Keeps one member's imports, and tells its exports.
pub async fn deliver(post: Arc<Post>) {
    let name = format!("imports of {}", post.member.name);
    work::work(&name, &post.member.mcs.names, async |key| deliver::reconcile(&post, &key).await).await;
}

/// The clusters that export a Service; none where it is not made of exports.
pub fn is_exported_by(service: &Service, cluster: &str) -> bool {
    record::record(service).contains_key(cluster)
}

/// Whether it has no VIP since what is exported is headless.
pub fn is_headless(service: &Service) -> bool {
    is_exported(service) && service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// The IP families that the exports ask for; empty where they do not say.
pub fn families(service: &Service) -> Vec<String> {
    merge::merge(&record::record(service)).map(|merged| merged.service.ip_families).unwrap_or_default()
}

/// What a cluster's names of its ports are at the Federation API, where they differ.
pub fn port_names(service: &Service, cluster: &str) -> std::collections::BTreeMap<String, String> {
    let exports = record::record(service);
    let merged = merge::merge(&exports);
    let own = exports.get(cluster).zip(merged.as_ref());
    own.map(|(export, merged)| record::port_names(export, merged)).unwrap_or_default()
}

// === impl Exported ===

impl Exported {
    fn failure(&self, key: &ServiceKey) -> Option<String> {
        self.lock().get(key).cloned()
    }

    /// Why the Service cannot be kept, if it cannot. True when that is news.
    fn note_failure(&self, key: &ServiceKey, why: Option<&str>) -> bool {
        let mut failures = self.lock();
        let before = match why {
            Some(why) => failures.insert(key.clone(), why.to_owned()),
            None => failures.remove(key),
        };
        before.as_deref() != why
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServiceKey, String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Context ===

impl Context {
    /// Something that concerns this name changed: at the Federation API, or in a cluster.
    pub fn touch_export(&self, key: &ServiceKey) {
        self.exports.names.add(key.clone());
        self.touch_members(key);
    }

    /// As [`touch_export`](Self::touch_export), for changes that matter once a name is imported.
    pub fn touch_if_exported(&self, key: &ServiceKey) {
        if self.world.service(key).is_some_and(|service| record::has_record(&service)) {
            self.touch_export(key);
        }
    }

    /// Everything that a cluster exports or imports, or is recorded to, wants a look, wherever it is.
    pub fn touch_exports_of(&self, cluster: &str) {
        if let Some(member) = self.members.get(cluster) {
            member.mcs.known().names().iter().for_each(|key| self.touch_export(key));
        }
        self.touch_exports();
    }

    /// Everything that is exported wants a look.
    pub fn touch_exports(&self) {
        for service in self.world.services.state() {
            if record::has_record(&service) {
                self.touch_export(&super::world::key(&*service));
            }
        }
    }

    fn touch_members(&self, key: &ServiceKey) {
        for member in self.members.all() {
            member.mcs.names.add(key.clone());
        }
    }
}
