//! News of health as Kubernetes Events on the service that they are about.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Api, Client, Resource as _};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tracing::warn;

use crate::{
    api::FederatedService,
    client::chain,
    events::{Events, Kind},
    health::News,
    model::ServiceKey,
};

/// Events that may be told at once; then one a second. What is beyond is in the log alone: a cluster that dies takes
/// hundreds of endpoints with it, and every node sees it.
const AT_ONCE: u32 = 25;
const PACE: Duration = Duration::from_secs(1);

/// News that wait to be told.
pub(super) const WAITING: usize = 256;

/// Tells them until nobody has any more.
pub(super) async fn publish(mut news: mpsc::Receiver<News>, client: Client, node: &str) {
    let events = Events::of_node(client.clone(), node);
    // When the whole allowance is there again.
    let mut full = Instant::now();
    while let Some(item) = news.recv().await {
        let now = Instant::now();
        full = full.max(now) + PACE;
        if full > now + PACE * AT_ONCE {
            sleep_until(full - PACE * AT_ONCE).await;
        }
        match reference(&client, item.service()).await {
            Ok(about) => {
                let kind = if item.is_good() { Kind::Normal } else { Kind::Warning };
                events.tell(kind, about, item.reason(), &item.to_string()).await;
            }
            Err(error) => warn!("an Event on {} cannot be written: {}", item.service(), chain(&error)),
        }
    }
}

/// With its uid, by which `kubectl describe` finds the Events of an object.
async fn reference(client: &Client, service: &ServiceKey) -> Result<ObjectReference, kube::Error> {
    let api = Api::<FederatedService>::namespaced(client.clone(), &service.namespace);
    Ok(api.get(&service.name).await?.object_ref(&()))
}
