//! What the Federation API holds, kept at hand by one watch for each kind, and what changes in it.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Debug,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use futures::{
    Stream, StreamExt as _, future,
    stream::{self, BoxStream},
};
use k8s_openapi::api::{
    core::v1::{Secret, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    runtime::{
        WatchStreamExt as _, reflector,
        reflector::{ObjectRef, Store, store::Writer},
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tracing::warn;

use super::slices::{Slices, cluster_of, service_of};
use crate::{
    api::{Cluster, FederatedService, SYSTEM_NAMESPACE, marks::CLUSTER_LABEL},
    client::chain,
    model::ServiceKey,
};

pub struct World {
    pub clusters: Store<Cluster>,
    /// Of the system namespace only.
    pub secrets: Store<Secret>,
    pub services: Store<Service>,
    pub federated: Store<FederatedService>,
    mirrored: Arc<RwLock<Slices>>,
    mirrored_synced: watch::Receiver<bool>,
}

/// One object of a watch.
enum Told<T> {
    Touched(T),
    Gone(T),
}

/// What changed.
#[derive(Debug)]
pub enum Change {
    Cluster(ObjectRef<Cluster>),
    ClusterGone(ObjectRef<Cluster>),
    Secret(ObjectRef<Secret>),
    Service(ObjectRef<Service>),
    ServiceGone(ObjectRef<Service>),
    /// Something other than its status.
    FederatedService(ObjectRef<FederatedService>),
    FederatedServiceStatus(ObjectRef<FederatedService>),
    FederatedServiceGone(ObjectRef<FederatedService>),
    /// A mirrored slice of a service and a cluster.
    Slice(ServiceKey, String),
    /// One kind was listed anew: what went meanwhile is told nowhere.
    Listed,
}

impl World {
    /// The stream has to be polled for anything to be known.
    pub fn watch(client: &Client) -> (Self, impl Stream<Item = Change> + Send + use<>) {
        let (clusters, cluster_writer) = reflector::store();
        let (secrets, secret_writer) = reflector::store();
        let (services, service_writer) = reflector::store();
        let (federated, federated_writer) = reflector::store();
        let mirrored = Arc::new(RwLock::new(Slices::default()));
        let (synced, mirrored_synced) = watch::channel(false);
        let system = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
        let changes = stream::select_all([
            reflected(all(client), cluster_writer, |told| match told {
                Told::Touched(cluster) => Change::Cluster(ObjectRef::from_obj(cluster)),
                Told::Gone(cluster) => Change::ClusterGone(ObjectRef::from_obj(cluster)),
            }),
            reflected(system, secret_writer, |told| match told {
                Told::Touched(secret) | Told::Gone(secret) => Change::Secret(ObjectRef::from_obj(secret)),
            }),
            reflected(all(client), service_writer, |told| match told {
                Told::Touched(service) => Change::Service(ObjectRef::from_obj(service)),
                Told::Gone(service) => Change::ServiceGone(ObjectRef::from_obj(service)),
            }),
            reflected(all(client), federated_writer, federated_service()),
            slices(all(client), Arc::clone(&mirrored), synced),
        ]);
        (Self { clusters, secrets, services, federated, mirrored, mirrored_synced }, changes)
    }

    /// Waits until every kind has been listed once.
    pub async fn ready(&self) {
        let mut synced = self.mirrored_synced.clone();
        // They fail only when the watches have been dropped, and then nobody waits any more.
        let _ = futures::join!(
            self.clusters.wait_until_ready(),
            self.secrets.wait_until_ready(),
            self.services.wait_until_ready(),
            self.federated.wait_until_ready(),
            async { synced.wait_for(|synced| *synced).await.is_ok() },
        );
    }

    pub fn mirrored(&self) -> RwLockReadGuard<'_, Slices> {
        self.mirrored.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn service(&self, key: &ServiceKey) -> Option<Arc<Service>> {
        self.services.get(&reference(key))
    }

    pub fn federated(&self, key: &ServiceKey) -> Option<Arc<FederatedService>> {
        self.federated.get(&reference(key))
    }

    pub fn cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        self.clusters.get(&ObjectRef::new(name))
    }

    pub fn cluster_names(&self) -> BTreeSet<String> {
        self.clusters.state().iter().map(|cluster| cluster.name_any()).collect()
    }
}

pub fn key<K: Resource>(object: &K) -> ServiceKey {
    ServiceKey::new(object.namespace().unwrap_or_default(), object.name_any())
}

pub fn key_of<K: Resource>(reference: &ObjectRef<K>) -> ServiceKey {
    ServiceKey::new(reference.namespace.as_deref().unwrap_or_default(), &reference.name)
}

pub fn reference<K: Resource<DynamicType = ()>>(key: &ServiceKey) -> ObjectRef<K> {
    ObjectRef::new(&key.name).within(&key.namespace)
}

fn all<K: Resource<DynamicType = ()>>(client: &Client) -> Api<K> {
    Api::all(client.clone())
}

/// Everything that happens to a kind. Errors are told and retried with back-off.
fn watched<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let strip = |object: &mut K| object.meta_mut().managed_fields = None;
    watcher(api, config).default_backoff().modify(strip).filter_map(|event| {
        let kind = K::kind(&());
        let tell = |error| warn!(%kind, "the Federation API fails: {}", chain(&error));
        future::ready(event.map_err(tell).ok())
    })
}

/// Keeps a store and tells changes. A kind that was listed anew is told as a whole.
fn reflected<K>(
    api: Api<K>,
    mut writer: Writer<K>,
    mut tell: impl FnMut(Told<&K>) -> Change + Send + 'static,
) -> BoxStream<'static, Change>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let change = move |event: Event<K>| {
        writer.apply_watcher_event(&event);
        future::ready(match &event {
            Event::Apply(object) => Some(tell(Told::Touched(object))),
            Event::Delete(object) => Some(tell(Told::Gone(object))),
            Event::InitDone => Some(Change::Listed),
            Event::Init | Event::InitApply(_) => None,
        })
    };
    watched(api, watcher::Config::default()).filter_map(change).boxed()
}

/// Status is written much more often than the rest: who acts on the rest alone shall not wake for it.
fn federated_service() -> impl FnMut(Told<&FederatedService>) -> Change + Send {
    let mut generations = HashMap::new();
    move |told| match told {
        Told::Gone(object) => {
            generations.remove(&key(object));
            Change::FederatedServiceGone(ObjectRef::from_obj(object))
        }
        Told::Touched(object) => {
            let before = generations.insert(key(object), object.metadata.generation);
            let reference = ObjectRef::from_obj(object);
            if before == Some(object.metadata.generation) {
                Change::FederatedServiceStatus(reference)
            } else {
                Change::FederatedService(reference)
            }
        }
    }
}

fn slices(
    api: Api<EndpointSlice>,
    mirrored: Arc<RwLock<Slices>>,
    synced: watch::Sender<bool>,
) -> BoxStream<'static, Change> {
    let changes = move |event: Event<EndpointSlice>| {
        let is_listed = matches!(event, Event::InitDone);
        let touched = mirrored.write().unwrap_or_else(PoisonError::into_inner).apply(event);
        let changes = touched
            .iter()
            .filter_map(|slice| Some(Change::Slice(service_of(slice)?, cluster_of(slice)?.to_owned())));
        let mut changes: Vec<_> = changes.collect();
        if is_listed {
            synced.send_replace(true);
            changes.push(Change::Listed);
        }
        stream::iter(changes)
    };
    // Slices without the label belong to the API server's own cluster, not to a member.
    watched(api, watcher::Config::default().labels(CLUSTER_LABEL)).flat_map(changes).boxed()
}
