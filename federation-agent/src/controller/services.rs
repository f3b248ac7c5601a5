//! Federated services: VIPs, shards and what is to be said of them.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, future::join_all};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Service},
        discovery::v1::EndpointSlice,
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
    core::{Selector, SelectorExt as _},
    runtime::{Controller, controller::Action, reflector::ObjectRef, watcher},
};
use serde_json::json;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{
    Context, Failure, REQUEST_TIMEOUT,
    conditions::{self, Finding},
    gone_is_fine,
    mirror::{SERVICE_LABEL, service_ref},
    names::dns_name,
    shard,
    summary::{self, Propagation, ShardReport, ShardReports},
    vips::scope_of,
};
use crate::{
    api::{
        Cluster, FederatedService, FederatedServiceSpec, FederatedServiceStatus, SYSTEM_NAMESPACE, ScopeKind,
        VipStatus,
        marks::{
            CLUSTER_LABEL, FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL, ORPHAN_ANNOTATION, SHARDS_FINALIZER,
        },
    },
    model::{ClusterName, Scope, ServiceKey},
};

/// Drift in a cluster is repaired at least this often.
const RECHECK: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(2);

pub(super) async fn run(context: Arc<Context>) {
    let client = context.client.clone();
    let controller = Controller::new(Api::<Service>::all(client.clone()), watcher::Config::default());
    let services = controller.store();
    let mirrored = watcher::Config::default().labels(CLUSTER_LABEL);
    controller
        .watches(Api::<FederatedService>::all(client.clone()), watcher::Config::default(), |federated| {
            Some(ObjectRef::<Service>::new(&federated.name_any()).within(&federated.namespace()?))
        })
        .watches(Api::<EndpointSlice>::all(client.clone()), mirrored, |slice| service_ref(&slice))
        .watches(Api::<Cluster>::all(client), watcher::Config::default(), move |_| {
            services.state().into_iter().map(|service| ObjectRef::from_obj(&*service)).collect::<Vec<_>>()
        })
        .run(reconcile, |service, error, _| retry(&service, error), context)
        .for_each(|_| std::future::ready(()))
        .await;
}

fn retry(service: &Service, error: &Failure) -> Action {
    warn!("{} could not be reconciled and will be tried again: {error}", service.name_any());
    Action::requeue(RETRY)
}

/// Everything that a reconciliation of one service works on.
struct Work<'a> {
    context: &'a Context,
    key: ServiceKey,
    service: &'a Service,
    services: Api<Service>,
    federated: Api<FederatedService>,
}

async fn reconcile(service: Arc<Service>, context: Arc<Context>) -> Result<Action, Failure> {
    let namespace = service.namespace().unwrap_or_default();
    let key = ServiceKey::new(&namespace, service.name_any());
    let of_the_api_itself = &*key.namespace == "default" && &*key.name == "kubernetes";
    if namespace == SYSTEM_NAMESPACE || of_the_api_itself {
        return Ok(Action::await_change());
    }
    let work = Work {
        services: Api::namespaced(context.client.clone(), &namespace),
        federated: Api::namespaced(context.client.clone(), &namespace),
        context: &context,
        key,
        service: &service,
    };
    if service.metadata.deletion_timestamp.is_some() {
        Ok(work.end().await?)
    } else {
        Ok(work.keep().await?)
    }
}

impl Work<'_> {
    async fn keep(&self) -> Result<Action> {
        self.add_finalizer().await?;
        let federated = self.federated_service().await?;
        let before = federated.status.clone().unwrap_or_default();
        let mut status = before.clone();
        let mut refusal = self.refusal(&federated.spec).await?;
        let selected = self.selected(&federated.spec).await;
        if refusal.is_none() {
            refusal = self.give_vips(&mut status).await?;
            // Stored before anything can depend on them.
            if status.vips != before.vips {
                self.write_status(&status).await?;
            }
        }
        let reports =
            if refusal.is_none() { self.write_shards(&selected).await } else { ShardReports::new() };
        let failed = reports.values().any(|report| matches!(report.propagation, Propagation::Failed(_)));

        status.shards = summary::shards(&reports, &self.slices().await?);
        let (shard_summary, endpoint_summary) = summary::figures(&status.shards);
        (status.shard_summary, status.endpoint_summary) = (Some(shard_summary), Some(endpoint_summary));
        let accepted = refusal
            .unwrap_or_else(|| Finding::yes("Accepted", "Federated", "the service has its virtual IPs"));
        let findings = vec![accepted, summary::propagated(&reports), summary::ready(&status.shards)];
        status.conditions =
            conditions::update(&before.conditions, findings, federated.metadata.generation, Timestamp::now());
        if status != before {
            self.write_status(&status).await?;
        }
        Ok(Action::requeue(if failed { RETRY } else { RECHECK }))
    }

    /// The service is being deleted: its shards go, unless they shall stay, and then it may go itself.
    async fn end(&self) -> Result<Action> {
        if !self.service.finalizers().iter().any(|finalizer| finalizer == SHARDS_FINALIZER) {
            return Ok(Action::await_change());
        }
        let orphan = self.service.annotations().get(ORPHAN_ANNOTATION).is_some_and(|value| value == "true");
        let members = self.members().await;
        let mut left = Vec::new();
        for (name, client) in &members {
            self.context.sharding.note(name, &self.key, false);
            if !orphan && let Err(error) = self.delete_shard(client).await {
                left.push(format!("{name}: {error:#}"));
            }
        }
        if !left.is_empty() {
            anyhow::bail!("shards are left in clusters that cannot be reached: {}", left.join("; "));
        }
        let federated = self.federated.get_opt(&self.key.name).await.context("read the FederatedService")?;
        if federated.is_some_and(|f| f.labels().get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY)) {
            let deleted = self.federated.delete(&self.key.name, &DeleteParams::default()).await.map(drop);
            gone_is_fine(deleted).context("delete the FederatedService")?;
        }
        self.context.vips.lock().await.release(&self.key);
        let finalizers: Vec<_> =
            self.service.finalizers().iter().filter(|f| *f != SHARDS_FINALIZER).cloned().collect();
        self.set_finalizers(&finalizers).await?;
        info!("{} has ended", self.key);
        Ok(Action::await_change())
    }

    async fn add_finalizer(&self) -> Result<()> {
        let mut finalizers = self.service.finalizers().to_vec();
        if finalizers.iter().any(|finalizer| finalizer == SHARDS_FINALIZER) {
            return Ok(());
        }
        finalizers.push(SHARDS_FINALIZER.to_owned());
        self.set_finalizers(&finalizers).await
    }

    async fn set_finalizers(&self, finalizers: &[String]) -> Result<()> {
        // The version makes two writers notice each other.
        let version = self.service.resource_version();
        let patch = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
        let written =
            self.services.patch(&self.key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        gone_is_fine(written.map(drop)).context("write the Service's finalizers")
    }

    /// The user's `FederatedService`, or one that says nothing special.
    async fn federated_service(&self) -> Result<FederatedService> {
        if let Some(federated) =
            self.federated.get_opt(&self.key.name).await.context("read the FederatedService")?
        {
            return Ok(federated);
        }
        let mut federated = FederatedService::new(&self.key.name, FederatedServiceSpec::default());
        federated.metadata.namespace = Some(self.key.namespace.to_string());
        federated.labels_mut().insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
        self.federated.create(&PostParams::default(), &federated).await.context("create the FederatedService")
    }

    /// Why the service cannot be federated as it is asked.
    async fn refusal(&self, spec: &FederatedServiceSpec) -> Result<Option<Finding>> {
        let no = |reason, message: String| Ok(Some(Finding::no("Accepted", reason, message)));
        if *self.key.namespace == *self.context.settings.federation {
            let message = format!(
                "the namespace {} is named like the federation, whose names it would hide",
                self.key.namespace
            );
            return no("NamespaceShadowed", message);
        }
        if self.service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).is_none_or(Vec::is_empty) {
            return no(
                "NoPorts",
                "the Service has no ports, so there is nothing to federate: give it one".to_owned(),
            );
        }
        if spec.overprovisioning_percent.is_some_and(|percent| percent < 100) {
            return no(
                "InvalidOverprovisioning",
                "overprovisioningPercent is below 100: give 100 or more".to_owned(),
            );
        }
        let clusters = Api::<Cluster>::all(self.context.client.clone()).list(&ListParams::default()).await;
        let known: BTreeSet<String> =
            clusters.context("list clusters")?.iter().map(kube::ResourceExt::name_any).collect();
        if let Some(unknown) = spec.weights.iter().find(|weight| !known.contains(&weight.cluster)) {
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            let message = format!(
                "weights name the cluster {}, which the federation does not have: register it, or name one of {known}",
                unknown.cluster
            );
            return no("UnknownCluster", message);
        }
        Ok(None)
    }

    async fn members(&self) -> Vec<(ClusterName, Client)> {
        let members = self.context.members.read().await;
        members.iter().map(|(name, member)| (name.clone(), member.client.clone())).collect()
    }

    /// Members that shall have a shard.
    async fn selected(&self, spec: &FederatedServiceSpec) -> BTreeSet<ClusterName> {
        let selector = spec.cluster_selector.clone().map(Selector::try_from);
        let members = self.context.members.read().await;
        let chosen = members.iter().filter(|(_, member)| match &selector {
            None => true,
            Some(Ok(selector)) => selector.matches(&member.labels),
            // The API's schema lets no other operator in.
            Some(Err(_)) => false,
        });
        chosen.map(|(name, _)| name.clone()).collect()
    }

    /// A VIP for every scope that has none yet. Those that are stored stay, also where their region has left.
    async fn give_vips(&self, status: &mut FederatedServiceStatus) -> Result<Option<Finding>> {
        let mut scopes = BTreeSet::from([Scope::Nearest, Scope::Global]);
        for member in self.context.members.read().await.values() {
            scopes.insert(Scope::Region(member.spec.region.as_str().into()));
            scopes.extend(member.spec.zones.iter().map(|zone| Scope::Zone(zone.as_str().into())));
        }
        let held: BTreeSet<Scope> = status.vips.iter().filter_map(scope_of).collect();
        let mut vips = self.context.vips.lock().await;
        for scope in scopes.difference(&held) {
            let Some(address) = vips.give(&self.key, scope) else {
                let message = format!(
                    "no virtual IP is left in {} for the scope {scope}: give the controller a larger range, or delete a service",
                    vips.range()
                );
                return Ok(Some(Finding::no("Accepted", "RangeExhausted", message)));
            };
            status.vips.push(vip_status(&self.key, scope, address.into(), &self.context.settings));
        }
        status.vips.sort_by(|a, b| (a.scope, &a.location).cmp(&(b.scope, &b.location)));
        Ok(None)
    }

    /// All members at once: one that hangs delays no other.
    async fn write_shards(&self, selected: &BTreeSet<ClusterName>) -> ShardReports {
        let shard = shard::desired(self.service, &self.context.settings.federation);
        let members: Vec<_> = {
            let members = self.context.members.read().await;
            members.iter().map(|(name, m)| (name.clone(), m.client.clone(), m.spec.clone())).collect()
        };
        let shard = &shard;
        let writes = members.into_iter().map(|(name, client, spec)| async move {
            let wanted = selected.contains(&name);
            let work = async {
                if wanted { self.write_shard(&client, shard).await } else { self.drop_shard(&client).await }
            };
            let propagation = match timeout(REQUEST_TIMEOUT, work).await {
                Ok(Ok(propagation)) => propagation,
                Ok(Err(error)) => Propagation::Failed(format!("{error:#}")),
                Err(_) => Propagation::Failed(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
            };
            match propagation {
                Propagation::Done => self.context.sharding.note(&name, &self.key, wanted),
                Propagation::Conflict => self.context.sharding.note(&name, &self.key, false),
                // Nothing is concluded from silence.
                Propagation::Failed(_) => {}
            }
            let zone = spec.zones.first().cloned().unwrap_or_default();
            wanted.then_some((name, ShardReport { region: spec.region, zone, propagation }))
        });
        join_all(writes).await.into_iter().flatten().collect()
    }

    async fn write_shard(&self, client: &Client, shard: &Service) -> Result<Propagation> {
        let services = Api::<Service>::namespaced(client.clone(), &self.key.namespace);
        if let Some(present) = services.get_opt(&self.key.name).await?
            && !shard::is_ours(&present, &self.context.settings.federation)
        {
            return Ok(Propagation::Conflict);
        }
        self.ensure_namespace(client).await?;
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        services.patch(&self.key.name, &apply, &Patch::Apply(shard)).await?;
        Ok(Propagation::Done)
    }

    async fn ensure_namespace(&self, client: &Client) -> Result<()> {
        let namespaces = Api::<Namespace>::all(client.clone());
        if namespaces.get_opt(&self.key.namespace).await?.is_some() {
            return Ok(());
        }
        let metadata = ObjectMeta { name: Some(self.key.namespace.to_string()), ..ObjectMeta::default() };
        match namespaces.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await
        {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            result => Ok(result.map(drop)?),
        }
    }

    /// The cluster is not selected (any more).
    async fn drop_shard(&self, client: &Client) -> Result<Propagation> {
        self.delete_shard(client).await?;
        Ok(Propagation::Done)
    }

    /// Deletes the shard if the federation made it, and nothing else.
    async fn delete_shard(&self, client: &Client) -> Result<()> {
        let services = Api::<Service>::namespaced(client.clone(), &self.key.namespace);
        let work = async {
            let Some(present) = services.get_opt(&self.key.name).await? else { return Ok(()) };
            let made = present.labels().get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY)
                && shard::is_ours(&present, &self.context.settings.federation);
            if !made {
                return Ok(());
            }
            let unchanged =
                Preconditions { uid: present.uid(), resource_version: present.resource_version() };
            let params = DeleteParams { preconditions: Some(unchanged), ..DeleteParams::default() };
            gone_is_fine(services.delete(&self.key.name, &params).await.map(drop))
        };
        timeout(REQUEST_TIMEOUT, work).await.context("no answer in time")??;
        Ok(())
    }

    /// What the clusters announce of this service.
    async fn slices(&self) -> Result<Vec<EndpointSlice>> {
        let slices = Api::<EndpointSlice>::namespaced(self.context.client.clone(), &self.key.namespace);
        let ours =
            ListParams::default().labels(&format!("{SERVICE_LABEL}={},{CLUSTER_LABEL}", self.key.name));
        Ok(slices.list(&ours).await.context("list the service's EndpointSlices")?.items)
    }

    async fn write_status(&self, status: &FederatedServiceStatus) -> Result<()> {
        let patch = Patch::Merge(json!({ "status": status }));
        let written = self.federated.patch_status(&self.key.name, &PatchParams::default(), &patch).await;
        written.context("write the FederatedService's status")?;
        Ok(())
    }
}

fn vip_status(
    service: &ServiceKey,
    scope: &Scope,
    address: IpAddr,
    settings: &crate::settings::FederationSettings,
) -> VipStatus {
    let (kind, location) = match scope {
        Scope::Nearest => (ScopeKind::Nearest, None),
        Scope::Global => (ScopeKind::Global, None),
        Scope::Region(region) => (ScopeKind::Region, Some(region.to_string())),
        Scope::Zone(zone) => (ScopeKind::Zone, Some(zone.to_string())),
    };
    VipStatus { scope: kind, location, ips: vec![address], name: dns_name(service, scope, settings) }
}
