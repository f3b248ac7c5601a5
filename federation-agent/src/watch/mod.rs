//! The federation as the Federation API tells it, kept up to date for the roles that act on it (`node`, `dns`).
//!
//! Here are the watches alone. What an object means is in [`translate`], how the kinds come together in [`view`];
//! both are pure, so that tests feed them objects instead of a server.

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, future, stream};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, Resource,
    runtime::{WatchStreamExt as _, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task, time::sleep};
use tracing::{info, warn};

use crate::{
    api::{Cluster, FederatedService, marks::CLUSTER_LABEL},
    client,
    model::Federation,
};

pub mod mirror;
mod saved;
mod translate;
mod view;

pub use saved::{FILE as SAVED_FILE, Saved};
use view::{Observed, View};

/// Changes that are ready at the same moment become one snapshot, at most this many of them.
const CHANGES_AT_ONCE: usize = 1024;

/// How long the Federation API may take to list everything, before what was known last stands in for it.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often a federation that changes all the time is saved.
const SAVE_PERIOD: Duration = Duration::from_secs(5);

/// What a watch tells.
pub struct Watched {
    pub federation: watch::Receiver<Option<Arc<Federation>>>,
    /// Why the Federation API cannot be watched, while it cannot.
    pub trouble: watch::Receiver<Option<String>>,
}

/// The federation from now on, until nobody listens any more.
///
/// The first value comes when all kinds have been listed once, the next ones as they change. Where the API does not
/// answer, the last known federation stands while the watches try again, ever more slowly: at the start of a process, that
/// is the one in `saved`.
pub fn watch(client: Client, saved: Option<Saved>) -> Watched {
    let (federation, receiver) = watch::channel(None);
    let (told, trouble) = watch::channel(None);
    if let Some(saved) = &saved {
        tokio::spawn(keep(saved.clone(), federation.subscribe()));
    }
    tokio::spawn(follow(client, saved, federation, told));
    Watched { federation: receiver, trouble }
}

async fn follow(
    client: Client,
    saved: Option<Saved>,
    federation: watch::Sender<Option<Arc<Federation>>>,
    trouble: watch::Sender<Option<String>>,
) {
    let mut changes = observe(&client, &trouble).ready_chunks(CHANGES_AT_ONCE);
    let mut view = View::default();
    let mut stand_in = saved;
    let patience = sleep(PATIENCE);
    tokio::pin!(patience);
    loop {
        let observed = tokio::select! {
            observed = changes.next() => observed,
            () = &mut patience, if stand_in.is_some() => {
                if let Some(last) = stand_in.take().and_then(|saved| saved.load()) {
                    warn!(
                        services = last.services.len(),
                        "the Federation API has not told its state within {} s: until it does, what was known last stands",
                        PATIENCE.as_secs()
                    );
                    federation.send_replace(Some(Arc::new(last)));
                }
                continue;
            }
            () = federation.closed() => return,
        };
        // Watchers never end: they start again after each error.
        let Some(observed) = observed else { return };
        for change in observed {
            view.apply(change);
        }
        if let Some(snapshot) = view.take_changed() {
            stand_in = None;
            federation.send_replace(Some(snapshot));
        }
    }
}

/// Saves the federation as it changes, until nobody follows it any more.
async fn keep(saved: Saved, mut federation: watch::Receiver<Option<Arc<Federation>>>) {
    let mut failed = false;
    while federation.changed().await.is_ok() {
        let Some(now) = federation.borrow_and_update().clone() else { continue };
        let to = saved.clone();
        let outcome = task::spawn_blocking(move || to.save(&now)).await;
        let outcome = outcome.map_err(anyhow::Error::from).flatten();
        if let Err(error) = &outcome
            && !failed
        {
            warn!("a restart without the Federation API would find an older state, or none: {error:#}");
        }
        failed = outcome.is_err();
        sleep(SAVE_PERIOD).await;
    }
}

/// Everything that happens to the four kinds, merged.
fn observe(
    client: &Client,
    trouble: &watch::Sender<Option<String>>,
) -> impl Stream<Item = Observed> + Send + use<> {
    let everything = watcher::Config::default;
    // Slices without the label belong to the API server's own cluster, not to a member.
    let mirrored = everything().labels(CLUSTER_LABEL);
    stream::select_all([
        watched::<Cluster>(client, everything(), trouble.clone()).map(Observed::Cluster).boxed(),
        watched::<Service>(client, everything(), trouble.clone()).map(Observed::Service).boxed(),
        watched::<FederatedService>(client, everything(), trouble.clone())
            .map(Observed::FederatedService)
            .boxed(),
        watched::<EndpointSlice>(client, mirrored, trouble.clone()).map(Observed::EndpointSlice).boxed(),
    ])
}

/// All objects of one kind in every namespace. Errors are retried with back-off, and told once while they stay the same.
fn watched<K>(
    client: &Client,
    config: watcher::Config,
    trouble: watch::Sender<Option<String>>,
) -> impl Stream<Item = watcher::Event<K>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let kind = K::kind(&());
    let mut told: Option<String> = None;
    watcher(Api::<K>::all(client.clone()), config).default_backoff().filter_map(move |event| {
        match &event {
            // Comes before each try, so it says nothing about the server.
            Ok(watcher::Event::Init) => {}
            Ok(_) => {
                if told.take().is_some() {
                    trouble.send_replace(None);
                    info!(%kind, "the Federation API answers again");
                }
            }
            Err(error) => {
                let reason = reason(error);
                if told.as_ref() != Some(&reason) {
                    warn!(%kind, %reason, "cannot watch the Federation API: what is known stands, and it is tried again");
                    trouble.send_replace(Some(reason.clone()));
                    told = Some(reason);
                }
            }
        }
        future::ready(event.ok())
    })
}

/// What a person can do something about.
fn reason(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => match status.code {
            401 => "it refuses the credentials of the kubeconfig; get a new one from it".to_owned(),
            403 => format!("{}; let the kubeconfig's user read this kind", status.message),
            404 => "it does not know this kind; install the custom resources there".to_owned(),
            _ => status.message.clone(),
        },
        watcher::Error::WatchError(status) => status.message.clone(),
        other => client::chain(other),
    }
}
