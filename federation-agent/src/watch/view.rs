//! The four kinds brought together to one federation. Pure: what happened goes in, a snapshot comes out.
//!
//! Only services that a change touches are put together again; all others keep their `Arc`.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    mem,
    sync::Arc,
};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::{Resource, ResourceExt as _, runtime::watcher::Event};
use tracing::warn;

use super::{
    mirror::{Change, Mirror, ObjectKey},
    translate::{self, Offer, Slice, Steering, Translated, Untranslatable},
};
use crate::{
    api,
    model::{Cluster, ClusterName, Endpoint, Federation, Service, ServiceKey, Shard},
};

/// Something that happened to an object of one of the kinds.
#[derive(Debug)]
pub enum Observed {
    Cluster(Event<api::Cluster>),
    Service(Event<core::Service>),
    FederatedService(Event<api::FederatedService>),
    EndpointSlice(Event<discovery::EndpointSlice>),
}

/// What is known so far.
#[derive(Debug, Default)]
pub struct View {
    clusters: Mirror<Cluster>,
    offers: Mirror<Offer>,
    steerings: Mirror<Steering>,
    slices: Mirror<Slice>,
    slices_of: BTreeMap<ServiceKey, BTreeSet<ObjectKey>>,
    federation: Federation,
    /// Services that something touched since the last snapshot.
    touched: BTreeSet<ServiceKey>,
    clusters_touched: bool,
    told: bool,
}

impl View {
    pub fn apply(&mut self, observed: Observed) {
        match observed {
            Observed::Cluster(event) => {
                let changes = self.clusters.apply(event, |object| usable(object, translate::cluster(object)));
                self.clusters_touched |= !changes.is_empty();
            }
            Observed::Service(event) => {
                let changes =
                    self.offers.apply(event, |object| usable(object, Ok(translate::service(object))));
                self.touched.extend(changes.into_iter().map(|change| service_key(change.key)));
            }
            Observed::FederatedService(event) => {
                let changes = self
                    .steerings
                    .apply(event, |object| usable(object, Ok(translate::federated_service(object))));
                self.touched.extend(changes.into_iter().map(|change| service_key(change.key)));
            }
            Observed::EndpointSlice(event) => {
                let changes =
                    self.slices.apply(event, |object| usable(object, translate::endpoint_slice(object)));
                for change in changes {
                    self.slice_changed(change);
                }
            }
        }
    }

    /// The federation, if all kinds are listed and it is not what was taken the last time.
    pub fn take_changed(&mut self) -> Option<Arc<Federation>> {
        let synced =
            self.clusters.synced() && self.offers.synced() && self.steerings.synced() && self.slices.synced();
        if !synced {
            return None;
        }
        let first = !mem::replace(&mut self.told, true);
        (self.put_together() || first).then(|| Arc::new(self.federation.clone()))
    }

    fn slice_changed(&mut self, Change { key, before }: Change<Slice>) {
        if let Some(before) = before {
            if let Entry::Occupied(mut slices) = self.slices_of.entry(before.service.clone()) {
                slices.get_mut().remove(&key);
                if slices.get().is_empty() {
                    slices.remove();
                }
            }
            self.touched.insert(before.service);
        }
        if let Some(now) = self.slices.get(&key) {
            self.touched.insert(now.service.clone());
            self.slices_of.entry(now.service.clone()).or_default().insert(key);
        }
    }

    /// Brings `federation` up to date; whether it is another one now.
    fn put_together(&mut self) -> bool {
        let mut changed = false;
        if mem::take(&mut self.clusters_touched) {
            let clusters = self.clusters.iter().map(|((_, name), it)| (ClusterName::from(name), it.clone()));
            self.federation.clusters = clusters.collect();
            changed = true;
            // A cluster that joins brings shards with it that were seen before it was.
            self.touched.extend(self.slices_of.keys().cloned());
        }
        for key in mem::take(&mut self.touched) {
            let service = self.service(&key);
            let before = self.federation.services.get(&key);
            if service.as_ref() == before.map(Arc::as_ref) {
                continue;
            }
            changed = true;
            match service {
                Some(service) => self.federation.services.insert(key, Arc::new(service)),
                None => self.federation.services.remove(&key),
            };
        }
        changed
    }

    /// A service is there once it has both objects and a VIP.
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        let object = (key.namespace.clone(), key.name.clone());
        let offer = self.offers.get(&object)?;
        let steering = self.steerings.get(&object).filter(|steering| !steering.vips.is_empty())?;
        Some(Service {
            ports: offer.ports.clone(),
            vips: Arc::clone(&steering.vips),
            shards: self.shards(key, steering),
            ingress: steering.ingress.clone(),
            client_ip_affinity: offer.client_ip_affinity,
            overprovisioning: steering.overprovisioning,
            distribution: offer.distribution,
            health_check: steering.health_check.clone(),
        })
    }

    fn shards(&self, key: &ServiceKey, steering: &Steering) -> BTreeMap<ClusterName, Shard> {
        let slices = self.slices_of.get(key).into_iter().flatten().filter_map(|slice| self.slices.get(slice));
        let mut slices_of: BTreeMap<&ClusterName, Vec<&Slice>> = BTreeMap::new();
        for slice in slices.filter(|slice| self.federation.clusters.contains_key(&slice.cluster)) {
            slices_of.entry(&slice.cluster).or_default().push(slice);
        }
        slices_of
            .into_iter()
            .map(|(cluster, slices)| {
                let weight = steering.weights.get(cluster).copied().unwrap_or(Shard::DEFAULT_WEIGHT);
                (cluster.clone(), Shard { weight, endpoints: merge(&slices) })
            })
            .collect()
    }
}

/// An address may be in several slices: for good where its ports differ, and for a moment while it moves from one
/// to another. It serves the ports of all of them, and the slice that says the best of it is the newest truth.
fn merge(slices: &[&Slice]) -> Arc<[Endpoint]> {
    if let [only] = slices {
        return Arc::clone(&only.endpoints);
    }
    let mut merged: BTreeMap<_, Endpoint> = BTreeMap::new();
    for endpoint in slices.iter().flat_map(|slice| slice.endpoints.iter()) {
        match merged.entry(endpoint.address) {
            Entry::Vacant(entry) => {
                entry.insert(endpoint.clone());
            }
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                Arc::make_mut(&mut known.ports)
                    .extend(endpoint.ports.iter().map(|(name, number)| (name.clone(), *number)));
                known.readiness = known.readiness.min(endpoint.readiness);
            }
        }
    }
    merged.into_values().collect()
}

/// The value of an object, with a word about all that could not be used.
fn usable<K: Resource<DynamicType = ()>, V>(
    object: &K,
    translated: Result<Translated<V>, Untranslatable>,
) -> Option<V> {
    let kind = K::kind(&());
    let namespace = object.namespace().unwrap_or_default();
    let name = object.name_any();
    match translated {
        Ok(Translated { value, left_out }) => {
            for reason in left_out {
                warn!(%kind, namespace, name, %reason, "part of an object is left out");
            }
            Some(value)
        }
        Err(reason) => {
            warn!(%kind, namespace, name, %reason, "an object is left out");
            None
        }
    }
}

fn service_key((namespace, name): ObjectKey) -> ServiceKey {
    ServiceKey { namespace, name }
}

#[cfg(test)]
mod tests;
