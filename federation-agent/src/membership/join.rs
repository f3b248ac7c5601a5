//! `federation-agent join`: makes a cluster that a kubeconfig can reach a member, in one command that may be repeated.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Args as ClapArgs;
use ipnet::IpNet;
use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{Namespace, Node, Secret, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
    config::Kubeconfig,
    core::Duration,
    runtime::wait::await_condition,
};
use serde_json::json;
use tokio::time::timeout;

use super::{
    FIELD_MANAGER, FederationApi, in_time, login, say,
    survey::{Survey, survey},
};
use crate::{
    api::{
        Cluster, ClusterSpec, CredentialsRef, Reachability, SYSTEM_NAMESPACE,
        marks::{LEAVING_ANNOTATION, MANAGED_BY, MANAGED_BY_LABEL},
    },
    controller::{credentials, registration},
    settings::is_dns_label,
};

/// A name that the questions about rights use; nothing of it is ever stored.
const PROBE: &str = "federation-join-probe";

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Name of the cluster in the federation; that of the context unless told otherwise
    #[arg(value_name = "NAME")]
    name: Option<String>,

    #[command(flatten)]
    federation: FederationApi,

    /// Kubeconfig that has the cluster; unless told otherwise what kubectl reads (KUBECONFIG, ~/.kube/config)
    #[arg(long, value_name = "FILE")]
    cluster_kubeconfig: Option<PathBuf>,

    /// Context of the cluster in its kubeconfig; the current one unless told otherwise
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,

    /// The cluster's API endpoint as the controller reaches it, where the kubeconfig names another
    #[arg(long, value_name = "URL")]
    server: Option<String>,

    /// Region of the cluster, instead of what its Nodes say
    #[arg(long, value_name = "REGION")]
    region: Option<String>,

    /// Zones of the cluster, instead of what its Nodes say
    #[arg(long = "zone", value_name = "ZONE", value_delimiter = ',')]
    zones: Vec<String>,

    /// Who runs the cluster, instead of what its Nodes say
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,

    /// Ranges of the cluster's pods, instead of what its Nodes say
    #[arg(long = "network", value_name = "CIDR", value_delimiter = ',')]
    networks: Vec<IpNet>,

    /// How other clusters reach its endpoints: `Pod`, `NodePort` or `LoadBalancer`
    #[arg(long, value_name = "WAY", default_value = "Pod", value_parser = reachability)]
    reachability: Reachability,

    /// Labels of the Cluster, by which services select it
    #[arg(long = "label", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,

    /// The federation's VIP ranges, so that an overlap is found before anything is written
    #[arg(long = "vip-range", env = "FEDERATION_VIP_RANGES", value_name = "CIDR", value_delimiter = ',')]
    vip_ranges: Vec<IpNet>,

    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,

    /// How long to wait until the controller accepts the cluster; 0s: not at all
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    timeout: Duration,
}

fn reachability(text: &str) -> Result<Reachability, String> {
    serde_json::from_value(json!(text)).map_err(|_| "it is Pod, NodePort or LoadBalancer".to_owned())
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is no KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// What became, or would become, of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Create,
    Update,
    Nothing,
}

/// # Errors
/// The cluster cannot be a member as it is; nothing has been written then. Or it was written, and the controller
/// does not accept it.
pub async fn run(args: Args) -> Result<()> {
    let kubeconfig = match &args.cluster_kubeconfig {
        Some(file) => Kubeconfig::read_from(file),
        None => Kubeconfig::read(),
    };
    let kubeconfig = kubeconfig.context("read the kubeconfig that has the cluster")?;
    let context = login::context(&kubeconfig, args.context.as_deref())?;
    let name = args.name.clone().unwrap_or_else(|| context.clone());
    ensure!(
        is_dns_label(&name),
        "{name:?} cannot be the name of a cluster, which is part of DNS names: give one of at most 63 of a-z, 0-9 and \
         '-', with a letter or digit at both ends, as in `federation-agent join my-cluster --context {context}`"
    );
    let carried = login::carry(&kubeconfig, &context, &name, args.server.as_deref())?;
    let secret = secret(&name, carried.kubeconfig);

    let hub = args.federation.client().await?;
    let clusters: Api<Cluster> = Api::all(hub.clone());
    let listed = args.federation.ask("read the Clusters", clusters.list(&ListParams::default())).await?;
    let all: Vec<_> = listed.items.into_iter().map(Arc::new).collect();
    let registered = all.iter().find(|other| other.name_any() == name).map(Arc::clone);
    is_new_or_the_same(&name, &carried.server, &all)?;

    let member = enter(&carried.server, &name, &secret).await?;
    let answer = in_time(member.apiserver_version())
        .await
        .and_then(|version| say(&format!("{} answers, Kubernetes {}.", carried.server, version.git_version)));
    answer.with_context(|| format!("reach the cluster of context {context} at {}", carried.server))?;
    rights(&member).await.with_context(|| format!("use the cluster of context {context}"))?;
    let survey = look_around(&args, &member).await?;
    let cluster = cluster(&args, &name, &carried.server, &survey, registered.as_deref())?;
    registration::check(&cluster, &all, &args.vip_ranges)
        .map_err(|refusal| anyhow!("cluster {name} cannot be a member: {}", refusal.message))?;

    let registration = Registration { args: &args, hub, secret, cluster, registered };
    registration.write().await?;
    if args.dry_run || args.timeout <= std::time::Duration::ZERO {
        return Ok(());
    }
    accepted(&args, clusters, &name).await
}

/// One cluster has one registration, and one name is one cluster's.
fn is_new_or_the_same(name: &str, server: &str, all: &[Arc<Cluster>]) -> Result<()> {
    for other in all {
        let (other_name, other_server) = (other.name_any(), &other.spec.server);
        let is_same_server = other_server.trim_end_matches('/') == server.trim_end_matches('/');
        ensure!(
            is_same_server || other_name != name,
            "Cluster {name} is registered already, at {other_server} instead of {server}; choose another name for this \
             cluster, or where it is the same one that moved, change spec.server of the Cluster first"
        );
        ensure!(
            !is_same_server || other_name == name,
            "the cluster at {server} is registered already, as {other_name}; update that one with `federation-agent join \
             {other_name}`, or let it go first with `federation-agent leave {other_name}`"
        );
    }
    Ok(())
}

fn secret(name: &str, kubeconfig: String) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(SYSTEM_NAMESPACE.to_owned()),
            labels: Some(managed()),
            ..ObjectMeta::default()
        },
        data: Some([("kubeconfig".to_owned(), ByteString(kubeconfig.into_bytes()))].into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

fn managed() -> BTreeMap<String, String> {
    [(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())].into()
}

/// Logs in as the controller will: what works here works there.
async fn enter(server: &str, name: &str, secret: &Secret) -> Result<Client> {
    let login =
        credentials::login(server, name, Some(secret)).await.map_err(|refusal| anyhow!(refusal.message))?;
    Client::try_from(login.config).context("use the credentials")
}

/// Whether the credentials may do what the controller does. Asked by doing it without storing anything: an API server
/// decides on rights before it looks whether there is anything to do.
async fn rights(member: &Client) -> Result<()> {
    let slices: Api<EndpointSlice> = Api::all(member.clone());
    let namespaces: Api<Namespace> = Api::all(member.clone());
    let services: Api<Service> = Api::namespaced(member.clone(), "default");
    let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": PROBE } }))?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": PROBE }, "spec": { "ports": [{ "port": 80 }] },
    });
    let create = PostParams { dry_run: true, ..PostParams::default() };
    let apply = PatchParams { dry_run: true, ..PatchParams::apply(FIELD_MANAGER) };
    let delete = DeleteParams { dry_run: true, ..DeleteParams::default() };
    let asked = [
        ("list EndpointSlices", in_time(quiet(slices.list_metadata(&ListParams::default().limit(1)))).await?),
        ("create Namespaces", in_time(quiet(namespaces.create(&create, &namespace))).await?),
        (
            "create and patch Services",
            in_time(quiet(services.patch(PROBE, &apply, &Patch::Apply(&service)))).await?,
        ),
        ("delete Services", in_time(quiet(services.delete(PROBE, &delete))).await?),
    ];
    let missing: Vec<_> = asked.into_iter().filter(|(_, may)| !may).map(|(what, _)| what).collect();
    ensure!(
        missing.is_empty(),
        "its credentials may not {}; give them the rights of a member (docs/clusters.md has them)",
        missing.join(", ")
    );
    Ok(())
}

/// Whether it may be done; that there is nothing to do, or that it is done already, is no refusal.
async fn quiet<T>(answer: impl Future<Output = Result<T, kube::Error>>) -> Result<bool, kube::Error> {
    match answer.await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(false),
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(true),
        Err(error) => Err(error),
    }
}

/// What its Nodes say; nothing where the person has said it all.
async fn look_around(args: &Args, member: &Client) -> Result<Survey> {
    let is_all_said = args.region.is_some()
        && args.provider.is_some()
        && !args.zones.is_empty()
        && !args.networks.is_empty();
    if is_all_said {
        return Ok(Survey::default());
    }
    let nodes: Api<Node> = Api::all(member.clone());
    let nodes = in_time(nodes.list(&ListParams::default()))
        .await
        .context("read the cluster's Nodes (not needed with --region, --zone, --provider and --network)")?;
    let survey = survey(&nodes.items);
    let or_none = |values: &[String]| if values.is_empty() { "none".to_owned() } else { values.join(", ") };
    let networks: Vec<_> = survey.networks.iter().map(IpNet::to_string).collect();
    say(&format!(
        "Its Nodes ({}) tell of region {}, zones {}, provider {}, pod ranges {}.",
        survey.nodes,
        or_none(&survey.regions),
        or_none(&survey.zones),
        or_none(&survey.providers),
        or_none(&networks),
    ))?;
    if args.networks.is_empty() && survey.without_range > 0 && !survey.networks.is_empty() {
        say(&format!(
            "{} of them name no pod range: endpoints there would be refused, give the ranges of all with --network.",
            survey.without_range
        ))?;
    }
    Ok(survey)
}

/// The registration: what the person says, else what the Nodes say, else what was registered before.
fn cluster(
    args: &Args,
    name: &str,
    server: &str,
    survey: &Survey,
    registered: Option<&Cluster>,
) -> Result<Cluster> {
    let before = registered.map(|cluster| &cluster.spec);
    let one = |found: &[String], what: &str, flag: &str| match found {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => {
            Err(anyhow!("its Nodes are in several {what}: {}; choose with {flag}", several.join(", ")))
        }
    };
    let region = match &args.region {
        Some(region) => Some(region.clone()),
        None => one(&survey.regions, "regions", "--region")?,
    };
    let provider = match &args.provider {
        Some(provider) => Some(provider.clone()),
        None => one(&survey.providers, "providers", "--provider")?,
    };
    let several =
        |said: &[String], found: &[String]| if said.is_empty() { found.to_vec() } else { said.to_vec() };
    let mut zones = several(&args.zones, &survey.zones);
    let mut networks = if args.networks.is_empty() { survey.networks.clone() } else { args.networks.clone() };
    if let Some(before) = before {
        if zones.is_empty() {
            zones.clone_from(&before.zones);
        }
        if networks.is_empty() {
            networks.clone_from(&before.networks);
        }
    }
    let label = "none of its Nodes has the label topology.kubernetes.io";
    let region = region.or_else(|| before.map(|before| before.region.clone()));
    let region = region.with_context(|| format!("{label}/region; say where it is with --region"))?;
    ensure!(!zones.is_empty(), "{label}/zone; say where it is with --zone");
    ensure!(
        !networks.is_empty(),
        "none of its Nodes has a podCIDR; give the ranges that its pods' addresses are from with --network"
    );
    for network in &networks {
        let trunc = network.trunc();
        ensure!(
            trunc == *network,
            "--network {network} has bits set behind its prefix, did you mean {trunc}?"
        );
    }
    let spec = ClusterSpec {
        server: server.to_owned(),
        credentials_ref: CredentialsRef { name: name.to_owned() },
        provider: provider.or_else(|| before.map(|before| before.provider.clone())).unwrap_or_default(),
        region,
        zones,
        reachability: args.reachability,
        networks,
    };
    let mut cluster = Cluster::new(name, spec);
    let mut labels = managed();
    labels.extend(args.labels.iter().cloned());
    cluster.metadata.labels = Some(labels);
    // Of two that overlap the older one stands. What is about to be written is the youngest, also where the Cluster is
    // not: it must not push out one that was there before.
    cluster.metadata.creation_timestamp = Some(Time(Timestamp::now()));
    Ok(cluster)
}

struct Registration<'a> {
    args: &'a Args,
    hub: Client,
    secret: Secret,
    cluster: Cluster,
    registered: Option<Arc<Cluster>>,
}

impl Registration<'_> {
    /// Writes what differs, the credentials first: a Cluster without them would be refused for a moment.
    async fn write(mut self) -> Result<()> {
        self.cluster.metadata.creation_timestamp = None;
        let secret_change = self.secret_change().await?;
        let cluster_change = self.cluster_change();
        self.tell("Secret", &format!("{SYSTEM_NAMESPACE}/{}", self.secret.name_any()), secret_change)?;
        if secret_change != Change::Nothing && !self.args.dry_run {
            self.write_secret().await?;
        }
        self.tell("Cluster", &self.cluster.name_any(), cluster_change)?;
        if self.args.dry_run {
            // The Cluster alone: the Secret is nobody's to read.
            let shown = serde_yaml_ng::to_string(&self.cluster).context("show the Cluster")?;
            return say(&format!("---\n{}", shown.trim_end()));
        }
        if cluster_change != Change::Nothing {
            self.write_cluster().await?;
        }
        Ok(())
    }

    fn tell(&self, kind: &str, name: &str, change: Change) -> Result<()> {
        let done = match (change, self.args.dry_run) {
            (Change::Nothing, _) => "unchanged",
            (Change::Create, false) => "created",
            (Change::Update, false) => "updated",
            (Change::Create, true) => "would be created",
            (Change::Update, true) => "would be updated",
        };
        say(&format!("{kind} {name}: {done}."))
    }

    async fn secret_change(&self) -> Result<Change> {
        let name = self.secret.name_any();
        let found =
            self.args.federation.ask(&format!("read Secret {name}"), self.secrets().get_opt(&name)).await?;
        let Some(found) = found else { return Ok(Change::Create) };
        ensure!(
            found.labels().get(MANAGED_BY_LABEL).is_some_and(|manager| manager == MANAGED_BY),
            "there is a Secret {SYSTEM_NAMESPACE}/{name} that was not made by `join`, and it is not overwritten; delete \
             it, or choose another name for the cluster"
        );
        Ok(if found.data == self.secret.data { Change::Nothing } else { Change::Update })
    }

    fn cluster_change(&self) -> Change {
        let Some(found) = &self.registered else { return Change::Create };
        let has_label = |(key, value): (&String, &String)| found.labels().get(key) == Some(value);
        let is_same = found.spec == self.cluster.spec && self.cluster.labels().iter().all(has_label);
        if is_same && !registration::is_leaving(found) { Change::Nothing } else { Change::Update }
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.hub.clone(), SYSTEM_NAMESPACE)
    }

    async fn write_secret(&self) -> Result<()> {
        let name = self.secret.name_any();
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let secrets = self.secrets();
        let secret = Patch::Apply(&self.secret);
        let apply = || secrets.patch(&name, &parameters, &secret);
        let what = format!("write Secret {SYSTEM_NAMESPACE}/{name}");
        match apply().await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let namespace: Namespace =
                    serde_json::from_value(json!({ "metadata": { "name": SYSTEM_NAMESPACE } }))?;
                let namespaces: Api<Namespace> = Api::all(self.hub.clone());
                let parameters = PostParams::default();
                let created = namespaces.create(&parameters, &namespace);
                self.args.federation.ask(&format!("create namespace {SYSTEM_NAMESPACE}"), created).await?;
                say(&format!("Namespace {SYSTEM_NAMESPACE}: created."))?;
                self.args.federation.ask(&what, apply()).await?;
            }
            result => drop(self.args.federation.ask(&what, std::future::ready(result)).await?),
        }
        Ok(())
    }

    async fn write_cluster(&self) -> Result<()> {
        let name = self.cluster.name_any();
        let clusters: Api<Cluster> = Api::all(self.hub.clone());
        if self.registered.as_deref().is_some_and(registration::is_leaving) {
            let parameters =
                PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            let stays = Patch::Merge(json!({ "metadata": { "annotations": { LEAVING_ANNOTATION: null } } }));
            let what = format!("keep Cluster {name}");
            let patched = clusters.patch(&name, &parameters, &stays);
            self.args.federation.ask(&what, patched).await?;
        }
        let (parameters, applied) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(&self.cluster));
        let applied = clusters.patch(&name, &parameters, &applied);
        self.args.federation.ask(&format!("write Cluster {name}"), applied).await?;
        Ok(())
    }
}

/// Waits for the controller's verdict.
async fn accepted(args: &Args, clusters: Api<Cluster>, name: &str) -> Result<()> {
    let current = |cluster: &Cluster| -> Option<Condition> {
        let conditions = &cluster.status.as_ref()?.conditions;
        let accepted = conditions.iter().find(|condition| condition.type_ == "Accepted")?;
        (accepted.observed_generation == cluster.metadata.generation).then(|| accepted.clone())
    };
    let is_decided = |cluster: Option<&Cluster>| {
        // The Secret was written just before: the controller may be told of it after the Cluster.
        let is_early = |condition: &Condition| condition.reason == credentials::MISSING;
        let verdict = cluster.and_then(current);
        verdict.is_some_and(|condition| condition.status != "Unknown" && !is_early(&condition))
    };
    let decided = timeout(args.timeout.into(), await_condition(clusters.clone(), name, is_decided)).await;
    let cluster = match decided {
        Ok(cluster) => cluster.with_context(|| format!("watch Cluster {name}"))?,
        Err(_) => args.federation.ask(&format!("read Cluster {name}"), clusters.get_opt(name)).await?,
    };
    let undo = format!("put it right and run this again, or undo it with `federation-agent leave {name}`");
    match cluster.as_ref().and_then(current) {
        Some(condition) if condition.status == "True" => {
            say(&format!("The controller accepts it: {}.", condition.message))
        }
        Some(condition) if condition.status == "False" => {
            bail!(
                "{name} is registered, but the controller does not accept it: {}; {undo}",
                condition.message
            )
        }
        Some(condition) => bail!(
            "{name} is registered, but has not been accepted within {:?}: {}; {undo}",
            args.timeout,
            condition.message
        ),
        None => bail!(
            "{name} is registered, but no controller has looked at it within {:?}; is one running?",
            args.timeout
        ),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(flags: &[&str]) -> Args {
        Line::parse_from(["join", "--kubeconfig", "f"].iter().chain(flags)).args
    }

    fn survey() -> Survey {
        Survey {
            nodes: 2,
            regions: vec!["r1".to_owned()],
            zones: vec!["z1".to_owned(), "z2".to_owned()],
            providers: vec!["gcp".to_owned()],
            networks: vec!["10.8.0.0/23".parse().expect("a network")],
            without_range: 0,
        }
    }

    fn made(flags: &[&str], survey: &Survey, before: Option<&Cluster>) -> Result<ClusterSpec> {
        cluster(&args(flags), "one", "https://one", survey, before).map(|cluster| cluster.spec)
    }

    #[test]
    fn what_is_said_goes_before_what_nodes_say_and_that_before_what_was_registered() {
        let found = made(&[], &survey(), None).expect("a Cluster");
        assert_eq!((found.region.as_str(), found.provider.as_str()), ("r1", "gcp"));
        assert_eq!(found.zones, ["z1", "z2"]);
        let said = made(
            &["--region", "r2", "--zone", "z3", "--provider", "me", "--network", "10.0.0.0/16"],
            &survey(),
            None,
        );
        let said = said.expect("a Cluster");
        assert_eq!((said.region.as_str(), said.provider.as_str()), ("r2", "me"));
        assert_eq!(
            (said.zones.clone(), said.networks[0].to_string()),
            (vec!["z3".to_owned()], "10.0.0.0/16".to_owned())
        );
        let registered = Cluster::new("one", said.clone());
        assert_eq!(made(&[], &Survey::default(), Some(&registered)).expect("a Cluster"), said);
    }

    #[test]
    fn what_nobody_says_is_asked_for_by_its_flag() {
        let several = Survey { regions: vec!["a".to_owned(), "b".to_owned()], ..survey() };
        let cases = [
            (&[][..], several, "its Nodes are in several regions: a, b; choose with --region"),
            (
                &[],
                Survey { regions: vec![], ..survey() },
                "topology.kubernetes.io/region; say where it is with --region",
            ),
            (
                &[],
                Survey { zones: vec![], ..survey() },
                "topology.kubernetes.io/zone; say where it is with --zone",
            ),
            (
                &[],
                Survey { networks: vec![], ..survey() },
                "give the ranges that its pods' addresses are from with --network",
            ),
            (
                &["--network", "10.8.0.1/16"],
                survey(),
                "has bits set behind its prefix, did you mean 10.8.0.0/16?",
            ),
        ];
        for (flags, survey, part) in cases {
            let error = made(flags, &survey, None).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn one_cluster_has_one_name_and_one_name_is_one_clusters() {
        let registered = made(&[], &survey(), None).expect("a Cluster");
        let all = [Arc::new(Cluster::new("one", registered))];
        assert!(is_new_or_the_same("one", "https://one/", &all).is_ok());
        assert!(is_new_or_the_same("two", "https://two", &all).is_ok());
        let error = is_new_or_the_same("one", "https://two", &all).expect_err("another cluster").to_string();
        assert!(error.contains("is registered already, at https://one instead of https://two"), "{error}");
        let error = is_new_or_the_same("two", "https://one", &all).expect_err("another name").to_string();
        assert!(error.contains("registered already, as one; update that one with"), "{error}");
    }
}
