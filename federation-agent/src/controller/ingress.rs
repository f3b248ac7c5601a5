//! Where one cluster's shards are met from outside: the load balancers that it reports on its Services.
//!
//! As with endpoints, only what that cluster's API says changes anything: while it does not answer, what was known stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, PoisonError, RwLock},
};

use futures::{StreamExt as _, stream::BoxStream};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tracing::warn;

use super::{context::Post, credentials::WATCH_SECONDS, world::key};
use crate::{
    api::{IngressStatus, marks::FEDERATION_LABEL},
    client::chain,
    model::ServiceKey,
};

/// What is known of one cluster.
#[derive(Debug, Default)]
pub struct Ingresses(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Of shards that have any.
    held: BTreeMap<ServiceKey, Vec<IngressStatus>>,
    /// Shards seen in the listing that runs; what is held and not among these when it ends is gone.
    listed: BTreeSet<ServiceKey>,
    synced: bool,
}

/// Follows the cluster's shards, and wakes who reports of those whose load balancers changed.
pub async fn watch(post: Arc<Post>) {
    let Post { context, member } = &*post;
    let mut events = begin(&post);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                for service in member.ingress.apply(event) {
                    context.wake_report(&service);
                }
            }
            Err(error) => warn!(
                cluster = member.name,
                "the load balancers of its shards cannot be watched and stay as last known: {}",
                chain(&error)
            ),
        }
    }
}

fn begin(post: &Post) -> BoxStream<'static, Result<Event<Service>, watcher::Error>> {
    let shards: Api<Service> = Api::all(post.member.client.clone());
    let label = format!("{FEDERATION_LABEL}={}", post.context.settings.federation);
    let config = watcher::Config::default().labels(&label).timeout(WATCH_SECONDS);
    watcher(shards, config).default_backoff().modify(|shard| shard.metadata.managed_fields = None).boxed()
}

impl Ingresses {
    /// Of one shard; `None` before the first listing.
    pub fn of(&self, service: &ServiceKey) -> Option<Vec<IngressStatus>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.synced.then(|| known.held.get(service).cloned().unwrap_or_default())
    }

    /// Takes in what happened and gives the services of which something else is known now.
    fn apply(&self, event: Event<Service>) -> Vec<ServiceKey> {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => {
                known.listed.clear();
                Vec::new()
            }
            Event::InitApply(shard) => {
                known.listed.insert(key(&shard));
                known.hold(key(&shard), ingress(&shard)).into_iter().collect()
            }
            Event::InitDone => {
                let listed = mem::take(&mut known.listed);
                // Until now nothing was told of those without any.
                let first = !mem::replace(&mut known.synced, true);
                let gone: Vec<_> = known.held.keys().filter(|key| !listed.contains(*key)).cloned().collect();
                let gone: Vec<_> = gone.into_iter().filter_map(|key| known.hold(key, Vec::new())).collect();
                if first { gone.into_iter().chain(listed).collect() } else { gone }
            }
            Event::Apply(shard) => known.hold(key(&shard), ingress(&shard)).into_iter().collect(),
            Event::Delete(shard) => known.hold(key(&shard), Vec::new()).into_iter().collect(),
        }
    }
}

impl Known {
    fn hold(&mut self, service: ServiceKey, ingress: Vec<IngressStatus>) -> Option<ServiceKey> {
        let before = self.held.get(&service).map(Vec::as_slice).unwrap_or_default();
        if before == ingress {
            return None;
        }
        if ingress.is_empty() {
            self.held.remove(&service);
        } else {
            self.held.insert(service.clone(), ingress);
        }
        Some(service)
    }
}

/// What a shard's status says, as it is reported of it.
fn ingress(shard: &Service) -> Vec<IngressStatus> {
    let balancer = shard.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let points = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let point = |point: &k8s_openapi::api::core::v1::LoadBalancerIngress| {
        let ip = point.ip.as_deref().and_then(|ip| ip.parse().ok());
        let hostname = point.hostname.clone().filter(|name| ip.is_none() && !name.is_empty());
        (ip.is_some() || hostname.is_some()).then_some(IngressStatus { ip, hostname })
    };
    points.iter().filter_map(point).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shard(name: &str, ingress: &Value) -> Service {
        serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "n" }, "status": { "loadBalancer": { "ingress": ingress } },
        }))
        .expect("a Service")
    }

    fn ip(ip: &str) -> Vec<IngressStatus> {
        vec![IngressStatus { ip: Some(ip.parse().expect("an address")), hostname: None }]
    }

    #[test]
    fn a_load_balancer_is_reported_by_its_address_or_else_by_its_name() {
        let shard = shard(
            "s",
            &json!([
                { "ip": "192.0.2.1", "hostname": "both.example.net" },
                { "hostname": "lb.example.net" },
                { "ip": "not an address" },
                { "ports": [] },
            ]),
        );
        let name = IngressStatus { ip: None, hostname: Some("lb.example.net".to_owned()) };
        assert_eq!(ingress(&shard), [ip("192.0.2.1"), vec![name]].concat());
    }

    #[test]
    fn nothing_is_known_before_the_first_listing_has_ended_and_what_changes_is_told() {
        let known = Ingresses::default();
        let key = |name: &str| ServiceKey::new("n", name);
        known.apply(Event::Init);
        known.apply(Event::InitApply(shard("a", &json!([{ "ip": "192.0.2.1" }]))));
        known.apply(Event::InitApply(shard("b", &json!([]))));
        assert_eq!(known.of(&key("a")), None);
        assert_eq!(known.apply(Event::InitDone), [key("a"), key("b")]);
        assert_eq!((known.of(&key("a")), known.of(&key("b"))), (Some(ip("192.0.2.1")), Some(vec![])));

        assert!(known.apply(Event::Apply(shard("a", &json!([{ "ip": "192.0.2.1" }])))).is_empty());
        assert_eq!(known.apply(Event::Apply(shard("a", &json!([{ "ip": "192.0.2.2" }])))), [key("a")]);
        known.apply(Event::Init);
        assert_eq!(
            known.of(&key("a")),
            Some(ip("192.0.2.2")),
            "nothing is gone before the listing has ended"
        );
        assert_eq!(known.apply(Event::InitDone), [key("a")]);
        assert_eq!(known.of(&key("a")), Some(vec![]));
    }
}
