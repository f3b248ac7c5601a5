//! What one member cluster says and holds of the Multi-Cluster Services API, kept at hand by watches.
//!
//! A cluster without the API's definitions takes no part: it exports nothing and nothing is imported there.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::Notify, time::timeout};
use tracing::{info, warn};

use super::{
    export::{Export, Invalid, Policy},
    work::Names,
};
use crate::{
    api::mcs::{self, ServiceExport, ServiceImport},
    client::chain,
    controller::{context::Post, credentials::WATCH_SECONDS, slices::Slices},
    model::ServiceKey,
    watch::mirror::{Change, Mirror},
};

/// How often a cluster that takes no part is asked whether it does now.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);
/// How long the question may take.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// One member cluster's part in the clusterset.
#[derive(Default)]
pub struct Site {
    known: RwLock<Known>,
    /// Names whose exports and imports here want a look.
    pub names: Names,
    /// Tells the watches to begin anew.
    pub relist: Notify,
}

/// Whether the cluster takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// It was not asked yet, or has not answered everything.
    #[default]
    Unknown,
    /// It has not the definitions.
    None,
    /// It serves this version.
    Takes(&'static str),
}

#[derive(Default)]
pub struct Known {
    part: Part,
    exports: Mirror<Arc<ServiceExport>>,
    services: Mirror<Arc<Service>>,
    namespaces: Mirror<()>,
    imports: Mirror<Arc<ServiceImport>>,
    slices: Slices,
}

/// Something that happened in the cluster.
#[expect(
    clippy::large_enum_variant,
    reason = "each lives from one poll to the next, and most are the large one"
)]
enum Seen {
    Export(Event<DynamicObject>),
    Service(Event<Service>),
    Namespace(Event<Namespace>),
    Import(Event<DynamicObject>),
    Slice(Event<EndpointSlice>),
}

/// The kinds of the API in one of its versions.
pub fn resource(kind: &str, version: &str) -> ApiResource {
    let plural = format!("{}s", kind.to_lowercase());
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(mcs::GROUP, version, kind), &plural)
}

// === impl Site ===

impl Site {
    pub fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Known ===

impl Known {
    fn starting_with(part: Part) -> Self {
        Self { part, slices: Slices::by(mcs::SERVICE_LABEL), ..Self::default() }
    }

    /// What it takes part in, once everything has been listed.
    pub fn part(&self) -> Part {
        let synced = self.exports.synced()
            && self.services.synced()
            && self.namespaces.synced()
            && self.imports.synced()
            && self.slices.synced();
        match self.part {
            Part::Takes(_) if !synced => Part::Unknown,
            part => part,
        }
    }

    pub fn export(&self, key: &ServiceKey) -> Option<&Arc<ServiceExport>> {
        // One that is being deleted exports nothing any more.
        let export = self.exports.get(&pair(key))?;
        export.metadata.deletion_timestamp.is_none().then_some(export)
    }

    /// What is exported under a name; nothing without a `ServiceExport`.
    pub fn judge(&self, key: &ServiceKey, policy: &Policy) -> Option<Result<Export, Invalid>> {
        let export = self.export(key)?;
        Some(Export::judge(export, self.service(key).map(Arc::as_ref), policy))
    }

    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(&pair(key))
    }

    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.get(&("".into(), namespace.into())).is_some()
    }

    pub fn import(&self, key: &ServiceKey) -> Option<&Arc<ServiceImport>> {
        self.imports.get(&pair(key))
    }

    pub fn slices(&self, key: &ServiceKey) -> Vec<Arc<EndpointSlice>> {
        self.slices.of(key)
    }

    /// Everything that has a name here.
    pub fn names(&self) -> BTreeSet<ServiceKey> {
        let exports = self.exports.iter().map(|(key, _)| key);
        let imports = self.imports.iter().map(|(key, _)| key);
        let mut names: BTreeSet<_> =
            exports.chain(imports).map(|(namespace, name)| ServiceKey::new(&**namespace, &**name)).collect();
        names.extend(self.slices.iter().filter_map(|slice| self.slices.service_of(slice)));
        names
    }

    fn apply(&mut self, seen: Seen) -> Touched {
        fn keys<V>(changes: Vec<Change<V>>) -> Touched {
            let key = |change: Change<V>| ServiceKey::new(&*change.key.0, &*change.key.1);
            Touched::Names(changes.into_iter().map(key).collect())
        }
        match seen {
            Seen::Export(event) => keys(self.exports.apply(event, typed)),
            Seen::Import(event) => keys(self.imports.apply(event, typed)),
            Seen::Service(event) => {
                keys(self.services.apply(event, |service| Some(Arc::new(service.clone()))))
            }
            Seen::Namespace(event) => {
                let lives =
                    |namespace: &Namespace| namespace.metadata.deletion_timestamp.is_none().then_some(());
                let changes = self.namespaces.apply(event, lives);
                Touched::Namespaces(changes.into_iter().map(|change| change.key.1.to_string()).collect())
            }
            Seen::Slice(event) => {
                let touched = self.slices.apply(event);
                Touched::Names(touched.iter().filter_map(|slice| self.slices.service_of(slice)).collect())
            }
        }
    }
}

enum Touched {
    Names(Vec<ServiceKey>),
    Namespaces(Vec<String>),
}

fn pair(key: &ServiceKey) -> (Arc<str>, Arc<str>) {
    (Arc::clone(&key.namespace), Arc::clone(&key.name))
}

/// An object of either version; they have the same fields.
fn typed<K: Resource + DeserializeOwned>(object: &DynamicObject) -> Option<Arc<K>> {
    match object.clone().try_parse() {
        Ok(object) => Some(Arc::new(object)),
        Err(error) => {
            warn!(object = object.name_any(), "an object cannot be understood and is left alone: {error}");
            None
        }
    }
}

/// Follows a cluster for as long as it is a member.
pub async fn follow(post: Arc<Post>) {
    let (context, member) = (&post.context, &post.member);
    let site = &member.mcs;
    let mut told: Option<String> = None;
    loop {
        let found = timeout(DISCOVERY_TIMEOUT, discover(&member.client)).await;
        // A cluster that does not answer says so on its Cluster; what it exported stands.
        let Ok(Ok(version)) = found else {
            wait(site).await;
            continue;
        };
        let Some(version) = version else {
            let missing =
                "it has not the definitions of multicluster.x-k8s.io and takes no part in multi-cluster \
                           services; install what `federation-agent crds` prints if it shall"
                    .to_owned();
            if told.as_ref() != Some(&missing) {
                info!(cluster = member.name, "{missing}");
                told = Some(missing);
            }
            *site.known_mut() = Known::starting_with(Part::None);
            context.touch_exports_of(&member.name);
            wait(site).await;
            continue;
        };
        *site.known_mut() = Known { part: Part::Takes(version), ..Known::starting_with(Part::Unknown) };
        let mut seen = watch(&member.client, version);
        loop {
            let event = tokio::select! {
                event = seen.next() => event,
                () = site.relist.notified() => {
                    seen = watch(&member.client, version);
                    continue;
                }
            };
            match event {
                Some(Ok(event)) => {
                    let was_known = site.known().part() != Part::Unknown;
                    let touched = site.known_mut().apply(event);
                    if site.known().part() == Part::Unknown {
                        continue;
                    }
                    told = None;
                    if was_known {
                        touch(&post, touched);
                    } else {
                        context.touch_exports_of(&member.name);
                    }
                }
                Some(Err(error)) => {
                    let reason = chain(&error);
                    if is_missing(&error) {
                        // The definitions went, or others came; neither is worth a hurry.
                        wait(site).await;
                        break;
                    }
                    if told.as_ref() != Some(&reason) {
                        warn!(
                            cluster = member.name,
                            "its exports cannot be watched and stay as last known: {reason}"
                        );
                        told = Some(reason);
                    }
                }
                None => return,
            }
        }
    }
}

fn touch(post: &Post, touched: Touched) {
    match touched {
        Touched::Names(names) => names.iter().for_each(|name| post.context.touch_export(name)),
        Touched::Namespaces(namespaces) => {
            for service in post.context.world.services.state() {
                let key = crate::controller::world::key(&*service);
                if namespaces.iter().any(|namespace| *namespace == *key.namespace) {
                    post.member.mcs.names.add(key);
                }
            }
        }
    }
}

async fn wait(site: &Site) {
    // Sooner when the cluster came back.
    let _ = timeout(DISCOVERY_PERIOD, site.relist.notified()).await;
}

fn is_missing(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.code == 404,
        _ => false,
    }
}

/// The version of the API that the cluster serves, the newest that we know.
async fn discover(client: &Client) -> Result<Option<&'static str>, kube::Error> {
    let groups = client.list_api_groups().await?;
    let group = groups.groups.into_iter().find(|group| group.name == mcs::GROUP);
    let served: Vec<_> =
        group.into_iter().flat_map(|group| group.versions).map(|known| known.version).collect();
    for version in [mcs::VERSION, mcs::OLDER_VERSION] {
        if !served.iter().any(|served| served == version) {
            continue;
        }
        let resources = client.list_api_group_resources(&format!("{}/{version}", mcs::GROUP)).await?;
        let has = |plural: &str| resources.resources.iter().any(|resource| resource.name == plural);
        if has("serviceexports") && has("serviceimports") {
            return Ok(Some(version));
        }
    }
    Ok(None)
}

/// Everything that happens in the cluster. Errors are tried again with back-off.
fn watch(client: &Client, version: &str) -> BoxStream<'static, Result<Seen, watcher::Error>> {
    let everything = || watcher::Config::default().timeout(WATCH_SECONDS);
    let dynamic = |kind: &str| Api::all_with(client.clone(), &resource(kind, version));
    stream::select_all([
        watched(dynamic("ServiceExport"), everything(), Seen::Export),
        watched(dynamic("ServiceImport"), everything(), Seen::Import),
        watched(Api::all(client.clone()), everything(), Seen::Service),
        watched(Api::all(client.clone()), everything(), Seen::Namespace),
        watched(Api::all(client.clone()), everything().labels(mcs::SERVICE_LABEL), Seen::Slice),
    ])
    .boxed()
}

fn watched<K>(
    api: Api<K>,
    config: watcher::Config,
    seen: fn(Event<K>) -> Seen,
) -> BoxStream<'static, Result<Seen, watcher::Error>>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let strip = |object: &mut K| object.meta_mut().managed_fields = None;
    watcher(api, config).default_backoff().modify(strip).map(move |event| event.map(seen)).boxed()
}
