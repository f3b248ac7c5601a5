//! What all reconcilers share, and how they wake each other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Service;
use kube::{
    Client, Resource,
    core::Selector,
    runtime::reflector::{ObjectRef, Store},
};
use tokio::sync::Notify;

use super::{
    book::{Book, Outcome},
    fence::Fence,
    mcs,
    member::{Member, Members},
    registration,
    status::stored_vips,
    vips::Pool,
    work::Queue,
    world::{Change, World, key, key_of, reference},
};
use crate::{
    api::{Cluster, FederatedService},
    events::Events,
    model::ServiceKey,
    settings::FederationSettings,
};

pub struct Context {
    /// Of the Federation API.
    pub client: Client,
    /// What all clients are behind.
    pub fence: Fence,
    pub settings: FederationSettings,
    /// Which Services are federated.
    pub selector: Selector,
    pub world: World,
    pub members: Members,
    pub book: Book,
    pub events: Events,
    pub exports: mcs::Exported,
    pub queues: Queues,
    pub vips: Vips,
}

pub struct Queues {
    pub clusters: Queue<Cluster>,
    pub services: Queue<Service>,
    pub reports: Queue<FederatedService>,
    pub sweep: Notify,
}

/// The pool of VIPs behind its lock.
pub struct Vips(Mutex<Pool>);

// === impl Vips ===

impl Vips {
    pub fn new(pool: Pool) -> Self {
        Self(Mutex::new(pool))
    }

    pub fn lock(&self) -> MutexGuard<'_, Pool> {
        // A panic while it was held can at worst have kept an address too long.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Context ===

impl Context {
    /// Wakes whom a change concerns.
    pub fn dispatch(&self, change: Change) {
        match change {
            Change::Cluster(cluster) => wake(&self.queues.clusters, cluster),
            Change::ClusterGone(cluster) => {
                self.members.remove(&cluster.name);
                self.book.forget_cluster(&cluster.name);
                // Networks may be free now, deletions may wait for nobody any more.
                wake_all(&self.queues.clusters, &self.world.clusters);
                wake_all(&self.queues.services, &self.world.services);
                wake_all(&self.queues.reports, &self.world.federated);
                self.queues.sweep.notify_one();
                self.touch_exports();
            }
            Change::Secret(secret) => {
                for cluster in self.world.clusters.state() {
                    if cluster.spec.credentials_ref.name == secret.name {
                        wake(&self.queues.clusters, ObjectRef::from_obj(&*cluster));
                    }
                }
            }
            Change::Service(service) => self.wake_service(&key_of(&service)),
            Change::ServiceGone(service) => {
                let service = key_of(&service);
                self.book.forget_service(&service);
                if self.world.federated(&service).is_none() {
                    self.vips.lock().release(&service);
                }
                self.wake_service(&service);
                self.queues.sweep.notify_one();
            }
            Change::FederatedService(federated) => self.wake_service(&key_of(&federated)),
            Change::FederatedServiceStatus(federated) => {
                self.touch_if_exported(&key_of(&federated));
                wake(&self.queues.reports, federated);
            }
            Change::FederatedServiceGone(federated) => {
                let service = key_of(&federated);
                if self.world.service(&service).is_none() {
                    self.vips.lock().release(&service);
                }
                self.wake_service(&service);
            }
            Change::Slice(service, cluster) => {
                wake(&self.queues.reports, reference(&service));
                self.touch_if_exported(&service);
                if let Some(member) = self.members.get(&cluster) {
                    wake(&member.mirror, reference(&service));
                }
                self.wake_leaving(&cluster);
                if self.world.service(&service).is_none() {
                    self.queues.sweep.notify_one();
                }
            }
            Change::Listed => self.wake_everybody(),
        }
    }

    /// Notes what became of a shard, and wakes who waits for it.
    pub fn note(&self, service: &Service, member: &Member, wish: u64, heard: u64, outcome: Outcome) {
        let uid = service.metadata.uid.as_deref().unwrap_or_default();
        let key = key(service);
        if self.book.note(&key, uid, &member.name, wish, heard, outcome) {
            wake(&self.queues.reports, reference(&key));
            wake(&member.mirror, reference(&key));
            if service.metadata.deletion_timestamp.is_some() {
                wake(&self.queues.services, reference(&key));
            }
            self.wake_leaving(&member.name);
        }
    }

    /// Whether a cluster ever let us in. One that did not has nothing of ours.
    pub fn was_entered(&self, cluster: &str) -> bool {
        let contact = self.members.get(cluster).and_then(|member| member.contact().last);
        let reported = || self.world.cluster(cluster)?.status.as_ref()?.last_contact_time.clone();
        contact.is_some() || reported().is_some()
    }

    /// A shard is not as we left it: it is looked at again.
    pub fn doubt_shard(&self, service: &ServiceKey, member: &Member) {
        self.book.doubt(service, &member.name);
        wake(&member.shards, reference(service));
    }

    /// A cluster's standing changed: what it may have and what is reported of it changes too.
    pub fn wake_for_member(&self, name: &str) {
        if let Some(member) = self.members.get(name) {
            wake_all(&member.shards, &self.world.services);
            wake_all(&member.mirror, &self.world.services);
        }
        wake_all(&self.queues.reports, &self.world.federated);
        wake_all(&self.queues.services, &self.world.services);
        self.touch_exports_of(name);
    }

    /// What is left in a cluster that is leaving is reported on it.
    fn wake_leaving(&self, name: &str) {
        if self.world.cluster(name).is_some_and(|cluster| registration::is_leaving(&cluster)) {
            self.wake_cluster(name);
        }
    }

    /// What is reported of a service may be another thing now.
    pub fn wake_report(&self, service: &ServiceKey) {
        wake(&self.queues.reports, reference(service));
    }

    pub fn wake_cluster(&self, name: &str) {
        wake(&self.queues.clusters, ObjectRef::new(name));
    }

    /// Takes note of the VIPs that are stored. What was held by services that are gone is free again.
    pub fn claim_stored_vips(&self) {
        let mut vips = self.vips.lock();
        for federated in self.world.federated.state() {
            // A VIP that is held twice is reported with its service.
            vips.claim(&key(&*federated), &stored_vips(federated.status.as_ref()));
        }
        vips.retain(|service| {
            self.world.service(service).is_some() || self.world.federated(service).is_some()
        });
    }

    fn wake_service(&self, service: &ServiceKey) {
        self.touch_export(service);
        wake(&self.queues.services, reference(service));
        wake(&self.queues.reports, reference(service));
        for member in self.members.all() {
            wake(&member.shards, reference(service));
            wake(&member.mirror, reference(service));
        }
    }

    fn wake_everybody(&self) {
        for name in self.members.names() {
            if self.world.cluster(&name).is_none() {
                self.members.remove(&name);
                self.book.forget_cluster(&name);
            }
        }
        wake_all(&self.queues.clusters, &self.world.clusters);
        wake_all(&self.queues.services, &self.world.services);
        wake_all(&self.queues.reports, &self.world.federated);
        for member in self.members.all() {
            wake_all(&member.shards, &self.world.services);
            wake_all(&member.mirror, &self.world.services);
        }
        self.queues.sweep.notify_one();
        self.touch_exports();
    }
}

fn wake<K: Resource<DynamicType = ()>>(queue: &Queue<K>, object: ObjectRef<K>) {
    // Nobody works on the queue any more only when the process, or the member, is ending.
    let _ = queue.send(object);
}

fn wake_all<K: Resource<DynamicType = ()> + Clone + 'static>(queue: &Queue<K>, store: &Store<K>) {
    for object in store.state() {
        wake(queue, ObjectRef::from_obj(&*object));
    }
}

/// One member's work: the context, and the member.
pub struct Post {
    pub context: Arc<Context>,
    pub member: Arc<Member>,
}
