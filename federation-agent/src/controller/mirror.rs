//! One cluster's endpoints, mirrored into the Federation API for as long as it is a member.
//!
//! What its API says is mirrored; that it says nothing changes nothing. Only a list that it answers with can remove.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams},
    runtime::{
        WatchStreamExt as _, reflector,
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use siphasher::sip::SipHasher24;
use tokio::time::{Duration, sleep};
use tracing::{debug, warn};

use super::{Context, admit, gone_is_fine};
use crate::{
    api::{
        ClusterSpec,
        marks::{CLUSTER_LABEL, FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL},
    },
    model::{ClusterName, ServiceKey},
};

pub(super) const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Before a write to the Federation API that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Endpoint addresses of a cluster that were left out, and one of them in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusals {
    pub count: usize,
    pub example: String,
}

/// How much of a cluster is mirrored.
pub(super) struct Counts {
    pub services: u32,
    pub endpoints: u32,
}

/// Mirrors until aborted.
pub(super) async fn run(name: ClusterName, spec: ClusterSpec, member: Client, context: Arc<Context>) {
    let mirror = Mirror { name, spec, context };
    let (store, writer) = reflector::store();
    let slices = watcher(Api::<EndpointSlice>::all(member), watcher::Config::default().labels(SERVICE_LABEL));
    let mut events = std::pin::pin!(reflector(writer, slices.default_backoff()));
    let mut sharding = mirror.context.sharding.changes();
    let mut listed = false;
    loop {
        tokio::select! {
            event = events.next() => match event {
                None => return,
                Some(Err(error)) => debug!("{}: watch of EndpointSlices: {error}", mirror.name),
                // Between these two the store is not whole.
                Some(Ok(watcher::Event::Init | watcher::Event::InitApply(_))) => continue,
                Some(Ok(watcher::Event::InitDone)) => listed = true,
                Some(Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_))) => {}
            },
            changed = sharding.changed() => if changed.is_err() { return },
        }
        while listed && let Err(error) = mirror.make_true(&store).await {
            warn!("{}: endpoints could not be mirrored and will be tried again: {error:#}", mirror.name);
            sleep(RETRY).await;
        }
    }
}

struct Mirror {
    name: ClusterName,
    spec: ClusterSpec,
    context: Arc<Context>,
}

impl Mirror {
    /// Compares all that the cluster has with all that is mirrored of it, and writes the difference.
    async fn make_true(&self, store: &Store<EndpointSlice>) -> Result<()> {
        let mirrored = mirrored(&self.context, &self.name).await?;
        let mut wanted = BTreeSet::new();
        let mut refusals: Option<Refusals> = None;
        for slice in store.state() {
            let Some(service) = service_of(&slice) else { continue };
            let key = (slice.namespace().unwrap_or_default(), mirror_name(&self.name, &slice.name_any()));
            match self.context.sharding.is_sharded(&self.name, &service) {
                Some(true) => {}
                Some(false) => continue,
                // Not looked at yet since this controller started: what is mirrored stays.
                None => {
                    wanted.insert(key);
                    continue;
                }
            }
            let (copy, refused) = self.copy(&slice, &service);
            if let Some(first) = refused.first() {
                let before = refusals.as_ref().map_or(0, |refusals| refusals.count);
                refusals = Some(Refusals { count: before + refused.len(), example: first.clone() });
            }
            wanted.insert(key);
            if !mirrored.iter().any(|present| same(present, &copy)) {
                self.apply(&copy).await?;
            }
        }
        self.note(refusals);
        for present in mirrored {
            let key = (present.namespace().unwrap_or_default(), present.name_any());
            if !wanted.contains(&key) {
                self.delete(&key.0, &key.1).await?;
            }
        }
        Ok(())
    }

    /// The slice as the Federation API shall have it, and why addresses were left out of it.
    fn copy(&self, slice: &EndpointSlice, service: &ServiceKey) -> (EndpointSlice, Vec<String>) {
        let mut refused = Vec::new();
        let mut endpoints = slice.endpoints.clone();
        for endpoint in &mut endpoints {
            endpoint.target_ref = None;
            endpoint.addresses.retain(|address| {
                let verdict =
                    address.parse().map_err(|_| format!("{address} is no IP address")).and_then(|address| {
                        admit::admit(address, &self.spec.networks, &self.context.settings.vip_ranges)
                    });
                verdict.map_err(|reason| refused.push(reason)).is_ok()
            });
        }
        endpoints.retain(|endpoint| !endpoint.addresses.is_empty());
        let labels = [
            (SERVICE_LABEL, service.name.to_string()),
            (CLUSTER_LABEL, self.name.to_string()),
            (MANAGED_BY_LABEL, MANAGED_BY.to_owned()),
        ];
        let copy = EndpointSlice {
            metadata: ObjectMeta {
                name: Some(mirror_name(&self.name, &slice.name_any())),
                namespace: slice.namespace(),
                labels: Some(labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
                ..ObjectMeta::default()
            },
            address_type: slice.address_type.clone(),
            endpoints,
            ports: slice.ports.clone(),
        };
        (copy, refused)
    }

    async fn apply(&self, slice: &EndpointSlice) -> Result<()> {
        let slices = self.slices(&slice.namespace().unwrap_or_default());
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        slices
            .patch(&slice.name_any(), &apply, &Patch::Apply(slice))
            .await
            .context("write an EndpointSlice")?;
        Ok(())
    }

    async fn delete(&self, namespace: &str, name: &str) -> Result<()> {
        let deleted = self.slices(namespace).delete(name, &DeleteParams::default()).await.map(drop);
        gone_is_fine(deleted).context("delete an EndpointSlice")
    }

    fn slices(&self, namespace: &str) -> Api<EndpointSlice> {
        Api::namespaced(self.context.client.clone(), namespace)
    }

    fn note(&self, refusals: Option<Refusals>) {
        let mut all = self.context.refusals.lock().expect("no holder panics");
        match refusals {
            Some(refusals) => all.insert(self.name.clone(), refusals),
            None => all.remove(&self.name),
        };
    }
}

/// What the Federation API has of a cluster.
async fn mirrored(context: &Context, name: &ClusterName) -> Result<Vec<EndpointSlice>> {
    let theirs = ListParams::default().labels(&format!("{CLUSTER_LABEL}={name}"));
    let slices = Api::<EndpointSlice>::all(context.client.clone()).list(&theirs).await;
    Ok(slices.context("list mirrored EndpointSlices")?.items)
}

pub(super) async fn counts(context: &Context, name: &ClusterName) -> Result<Counts> {
    let slices = mirrored(context, name).await?;
    let services: BTreeSet<_> = slices.iter().filter_map(service_of).collect();
    let endpoints: usize = slices.iter().map(|slice| slice.endpoints.len()).sum();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(Counts { services: count(services.len()), endpoints: count(endpoints) })
}

pub(super) fn service_of(slice: &EndpointSlice) -> Option<ServiceKey> {
    Some(ServiceKey::new(slice.namespace()?, slice.labels().get(SERVICE_LABEL)?))
}

/// The service whose mirrored slice this is, for its reconciler.
pub(super) fn service_ref(slice: &EndpointSlice) -> Option<ObjectRef<k8s_openapi::api::core::v1::Service>> {
    slice.labels().get(CLUSTER_LABEL)?;
    let key = service_of(slice)?;
    Some(ObjectRef::new(&key.name).within(&key.namespace))
}

/// Unique among clusters; names too long for Kubernetes end in a hash instead.
fn mirror_name(cluster: &ClusterName, slice: &str) -> String {
    use std::hash::Hasher as _;
    const LONGEST: usize = 253;
    let name = format!("{cluster}-{slice}");
    if name.len() <= LONGEST {
        return name;
    }
    let mut hasher = SipHasher24::new();
    hasher.write(name.as_bytes());
    format!("{}-{:016x}", name[..LONGEST - 17].trim_end_matches(['-', '.']), hasher.finish())
}

/// Whether what is there says what is wanted.
fn same(present: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    present.metadata.name == wanted.metadata.name
        && present.metadata.namespace == wanted.metadata.namespace
        && present.labels() == wanted.labels()
        && present.address_type == wanted.address_type
        && present.endpoints == wanted.endpoints
        && present.ports == wanted.ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_by_cluster_and_never_too_long() {
        let cluster = ClusterName::from("europe-west1-d");
        assert_eq!(mirror_name(&cluster, "web-x7k2p"), "europe-west1-d-web-x7k2p");
        let long = mirror_name(&cluster, &"a".repeat(250));
        assert_eq!(long.len(), 253);
        assert_ne!(long, mirror_name(&ClusterName::from("europe-west1-b"), &"a".repeat(250)));
    }
}
