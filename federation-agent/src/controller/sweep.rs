//! Removes mirrored endpoints whose cluster is registered no more, or whose service is federated no more.
//!
//! Looks at what there is instead of what happened: it does not matter when, or before which restart, something went.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, ResourceExt as _};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::{
    context::Context,
    mirror, selection,
    slices::{cluster_of, service_of},
};
use crate::client::chain;

const PERIOD: Duration = Duration::from_mins(1);
const RETRY: Duration = Duration::from_secs(2);

/// Sweeps whenever something went, and now and then.
pub async fn run(context: Arc<Context>) {
    loop {
        if let Err(error) = sweep(&context).await {
            warn!("endpoints that nobody owns cannot be removed: {}", chain(&error));
            sleep(RETRY).await;
            continue;
        }
        // Woken or not, it is time.
        let _ = timeout(PERIOD, context.queues.sweep.notified()).await;
    }
}

async fn sweep(context: &Context) -> Result<(), kube::Error> {
    let orphans: Vec<_> =
        context.world.mirrored().iter().filter(|slice| is_orphan(context, slice)).map(Arc::clone).collect();
    for slice in orphans {
        let api = Api::namespaced(context.client.clone(), &slice.namespace().unwrap_or_default());
        mirror::delete(&api, &slice.name_any()).await?;
    }
    Ok(())
}

fn is_orphan(context: &Context, slice: &EndpointSlice) -> bool {
    let Some(cluster) = cluster_of(slice) else { return false };
    let service = service_of(slice).and_then(|key| context.world.service(&key));
    let is_federated = service.is_some_and(|service| selection::is_federated(&service, &context.selector));
    context.world.cluster(cluster).is_none() || !is_federated
}
