//! Registration: from a `Cluster` and its Secret to a member, and what is to be said of it.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::{
    api::{core::v1::Secret, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    runtime::{Controller, controller::Action, reflector::ObjectRef, watcher},
};
use serde_json::json;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{
    Context, Failure, REQUEST_TIMEOUT,
    conditions::{self, Finding},
    gone_is_fine,
    member::{self, Member},
    mirror::{self, Refusals},
};
use crate::{
    api::{
        Cluster, ClusterSpec, SYSTEM_NAMESPACE,
        marks::{CLUSTER_LABEL, MEMBER_FINALIZER},
    },
    model::ClusterName,
};

/// From one look at a cluster's control plane to the next.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
const CHECK_INTERVAL_JIFF: SignedDuration = SignedDuration::from_secs(5);

pub(super) async fn run(context: Arc<Context>) {
    let clusters = Api::<Cluster>::all(context.client.clone());
    let secrets = Api::<Secret>::namespaced(context.client.clone(), SYSTEM_NAMESPACE);
    let controller = Controller::new(clusters, watcher::Config::default());
    let store = controller.store();
    controller
        .watches(secrets, watcher::Config::default(), move |secret| {
            let name = secret.name_any();
            let uses = move |cluster: &Arc<Cluster>| cluster.spec.credentials_ref.name == name;
            store
                .state()
                .into_iter()
                .filter(uses)
                .map(|cluster| ObjectRef::from_obj(&*cluster))
                .collect::<Vec<_>>()
        })
        .run(reconcile, |_, error, _| retry(error), context)
        .for_each(|_| std::future::ready(()))
        .await;
}

fn retry(error: &Failure) -> Action {
    warn!("a cluster could not be reconciled and will be tried again: {error}");
    Action::requeue(CHECK_INTERVAL)
}

async fn reconcile(cluster: Arc<Cluster>, context: Arc<Context>) -> Result<Action, Failure> {
    let name = ClusterName::from(cluster.name_any());
    if cluster.metadata.deletion_timestamp.is_some() {
        leave(&cluster, &name, &context).await?;
        return Ok(Action::await_change());
    }
    let api = Api::<Cluster>::all(context.client.clone());
    if !cluster.finalizers().iter().any(|finalizer| finalizer == MEMBER_FINALIZER) {
        add_finalizer(&api, &cluster).await?;
    }
    let look = look(&cluster, &name, &context).await?;
    report(&api, &cluster, &name, look, &context).await?;
    Ok(Action::requeue(CHECK_INTERVAL))
}

/// What a look at a cluster found.
struct Look {
    findings: Vec<Finding>,
    version: Option<String>,
}

async fn look(cluster: &Cluster, name: &ClusterName, context: &Arc<Context>) -> Result<Look> {
    let refused = |reason: &'static str, message: String| {
        let unknown = Finding {
            kind: "ControlPlaneHealthy",
            holds: None,
            reason: "NotAccepted",
            message: String::new(),
        };
        Look { findings: vec![Finding::no("Accepted", reason, message), unknown], version: None }
    };
    if let Err(message) = check_networks(cluster, name, context).await? {
        context.members.write().await.remove(name);
        return Ok(refused("NetworksOverlap", message));
    }
    let secret_name = &cluster.spec.credentials_ref.name;
    let secrets = Api::<Secret>::namespaced(context.client.clone(), SYSTEM_NAMESPACE);
    let Some(secret) = secrets.get_opt(secret_name).await.context("read the Secret of a cluster")? else {
        context.members.write().await.remove(name);
        let message = format!("there is no Secret {secret_name} in {SYSTEM_NAMESPACE}: create it");
        return Ok(refused("CredentialsMissing", message));
    };
    let made_of = (secret.metadata.resource_version.clone(), cluster.metadata.generation);
    let known =
        context.members.read().await.get(name).filter(|m| m.made_of == made_of).map(|m| m.client.clone());
    let client = match known {
        Some(client) => client,
        None => match member::client(&cluster.spec, &secret).await {
            Ok(client) => client,
            Err(error) => {
                context.members.write().await.remove(name);
                let message = format!("the Secret {secret_name} cannot be used: {error:#}");
                return Ok(refused("CredentialsInvalid", message));
            }
        },
    };
    match timeout(REQUEST_TIMEOUT, probe(&client)).await {
        Ok(Ok(version)) => {
            admit(cluster, name, client, made_of, context).await;
            let message = format!("{} answers with version {version}", cluster.spec.server);
            let findings = vec![
                Finding::yes("Accepted", "CredentialsValid", "the credentials are accepted"),
                Finding::yes("ControlPlaneHealthy", "Answering", message),
            ];
            Ok(Look { findings, version: Some(version) })
        }
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => {
            context.members.write().await.remove(name);
            let message = format!(
                "{} refuses the credentials in the Secret {secret_name} ({} {}): replace them",
                cluster.spec.server, status.code, status.message
            );
            Ok(refused("CredentialsRefused", message))
        }
        silent => {
            // Nothing is concluded from silence: the endpoints stay, and a member stays a member.
            let why = match silent {
                Ok(Err(error)) => error.to_string(),
                _ => format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()),
            };
            let accepted = if context.members.read().await.contains_key(name) {
                Finding::yes("Accepted", "CredentialsValid", "the credentials were accepted")
            } else {
                Finding {
                    kind: "Accepted",
                    holds: None,
                    reason: "NotAnswering",
                    message: "not tried yet".to_owned(),
                }
            };
            let message = format!("{} does not answer: {why}", cluster.spec.server);
            Ok(Look {
                findings: vec![accepted, Finding::no("ControlPlaneHealthy", "NotAnswering", message)],
                version: None,
            })
        }
    }
}

/// Asks for something that takes valid credentials; `/version` alone often does not.
async fn probe(client: &Client) -> Result<String, kube::Error> {
    let version = client.apiserver_version().await?.git_version;
    let namespaces = Api::<k8s_openapi::api::core::v1::Namespace>::all(client.clone());
    namespaces.list_metadata(&ListParams::default().limit(1)).await?;
    Ok(version)
}

/// Ranges must belong to one cluster: whoever announces them says where traffic goes.
async fn check_networks(
    cluster: &Cluster,
    name: &ClusterName,
    context: &Context,
) -> Result<Result<(), String>> {
    let overlap = |a: &ipnet::IpNet, b: &ipnet::IpNet| a.contains(b) || b.contains(a);
    for network in &cluster.spec.networks {
        if let Some(range) = context.settings.vip_ranges.iter().find(|range| overlap(network, range)) {
            return Ok(Err(format!("its network {network} overlaps the range of virtual IPs {range}")));
        }
    }
    let all = Api::<Cluster>::all(context.client.clone())
        .list(&ListParams::default())
        .await
        .context("list clusters")?;
    for other in all.iter().filter(|other| other.name_any() != name.as_str()) {
        // Of two that overlap the older one stays.
        let older = (&other.metadata.creation_timestamp, other.name_any())
            < (&cluster.metadata.creation_timestamp, cluster.name_any());
        for network in cluster.spec.networks.iter().filter(|_| older) {
            if let Some(theirs) = other.spec.networks.iter().find(|theirs| overlap(network, theirs)) {
                return Ok(Err(format!(
                    "its network {network} overlaps {theirs} of cluster {}",
                    other.name_any()
                )));
            }
        }
    }
    Ok(Ok(()))
}

/// Makes the cluster a member, or renews what is known of it.
async fn admit(
    cluster: &Cluster,
    name: &ClusterName,
    client: Client,
    made_of: (Option<String>, Option<i64>),
    context: &Arc<Context>,
) {
    let mut members = context.members.write().await;
    if let Some(member) = members.get_mut(name)
        && member.made_of == made_of
    {
        member.labels = cluster.labels().clone();
        return;
    }
    let spec: ClusterSpec = cluster.spec.clone();
    info!("cluster {name} is a member");
    let mirror =
        tokio::spawn(mirror::run(name.clone(), spec.clone(), client.clone(), context.clone())).abort_handle();
    let labels = cluster.labels().clone();
    members.insert(name.clone(), Member { client, spec, labels, made_of, mirror });
}

async fn report(
    api: &Api<Cluster>,
    cluster: &Cluster,
    name: &ClusterName,
    look: Look,
    context: &Context,
) -> Result<()> {
    let before = cluster.status.clone().unwrap_or_default();
    let Look { mut findings, version } = look;
    let answered = version.is_some();
    let counts = mirror::counts(context, name).await?;
    let refused = context.refusals.lock().expect("no holder panics").get(name).cloned();
    findings.push(match &refused {
        None => Finding::yes("EndpointsAdmitted", "AllAdmitted", "every endpoint's address is admitted"),
        Some(Refusals { count, example }) => {
            let message = format!("{count} endpoint addresses are left out, such as: {example}");
            Finding::no("EndpointsAdmitted", "AddressesRefused", message)
        }
    });
    let now = Timestamp::now();
    let mut status = before.clone();
    status.conditions = conditions::update(&before.conditions, findings, cluster.metadata.generation, now);
    status.version = version.or(before.version.clone());
    (status.services, status.endpoints) = (Some(counts.services), Some(counts.endpoints));
    // Writing the status wakes this reconciler: what says no more than "a moment later" is not written.
    let due = before
        .last_contact_time
        .as_ref()
        .is_none_or(|last| now.duration_since(last.0) >= CHECK_INTERVAL_JIFF);
    if answered && due {
        status.last_contact_time = Some(Time(now));
    }
    if status == before {
        return Ok(());
    }
    let patch = Patch::Merge(json!({ "status": status }));
    api.patch_status(name.as_str(), &PatchParams::default(), &patch)
        .await
        .context("write a Cluster's status")?;
    Ok(())
}

async fn add_finalizer(api: &Api<Cluster>, cluster: &Cluster) -> Result<()> {
    let mut finalizers = cluster.finalizers().to_vec();
    finalizers.push(MEMBER_FINALIZER.to_owned());
    set_finalizers(api, cluster, &finalizers).await
}

async fn set_finalizers(api: &Api<Cluster>, cluster: &Cluster, finalizers: &[String]) -> Result<()> {
    // The version makes two writers notice each other.
    let patch =
        json!({"metadata": {"resourceVersion": cluster.resource_version(), "finalizers": finalizers}});
    api.patch(&cluster.name_any(), &PatchParams::default(), &Patch::Merge(patch))
        .await
        .context("write a Cluster's finalizers")?;
    Ok(())
}

/// The cluster leaves the federation: its endpoints go with it.
async fn leave(cluster: &Cluster, name: &ClusterName, context: &Context) -> Result<()> {
    context.members.write().await.remove(name);
    let slices = Api::<EndpointSlice>::all(context.client.clone());
    let theirs = ListParams::default().labels(&format!("{CLUSTER_LABEL}={name}"));
    for slice in slices.list(&theirs).await.context("list mirrored EndpointSlices")? {
        let namespace = slice.namespace().unwrap_or_default();
        let slices = Api::<EndpointSlice>::namespaced(context.client.clone(), &namespace);
        gone_is_fine(slices.delete(&slice.name_any(), &DeleteParams::default()).await.map(drop))
            .context("delete a mirrored EndpointSlice")?;
    }
    let finalizers: Vec<_> =
        cluster.finalizers().iter().filter(|f| *f != MEMBER_FINALIZER).cloned().collect();
    if finalizers.len() < cluster.finalizers().len() {
        set_finalizers(&Api::all(context.client.clone()), cluster, &finalizers).await?;
    }
    info!("cluster {name} has left");
    Ok(())
}
