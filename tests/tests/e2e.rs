//! The whole system in a lab: real processes, real packets, and the promises that a user is given.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use federation_agent::api::{FederatedService, ScopeKind};
use federation_tests::{
    client::{self, Answer},
    federation::{
        DOMAIN, FEDERATION, Federation, HTTP_PORT, NAMESPACE, PATIENCE, SERVICE, SERVICE_ECHO_PORT,
        SERVICE_HTTP_PORT, VIP_RANGE, VIP_RANGE_V6, my_dual_stack_service,
    },
    lab::{Namespace, Node, Pod, program},
};
use ipnet::{Ipv4Net, Ipv6Net};
use k8s_openapi::api::{core::v1::Event, discovery::v1::EndpointSlice};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::json;

/// How long one request may take before it counts as failed.
const REQUEST: Duration = Duration::from_millis(500);

/// Requests in a row that must agree.
const ENOUGH: usize = 30;

const NEAR: &str = "europe-west1-d";
const SAME_REGION: &str = "europe-west1-b";
const FAR: &str = "us-east1-b";

/// A client pod in the first cluster, on its node.
struct Client {
    node: Node,
    pod: Pod,
}

impl Client {
    fn new(federation: &Federation) -> Result<Self> {
        let node = federation.member(NEAR)?.cluster().nodes().pop().context("the cluster has a node")?;
        let pod = node.add_pod("client")?;
        Ok(Self { node, pod })
    }

    fn namespace(&self) -> &Namespace {
        self.pod.namespace()
    }

    /// The one address of a name, by the DNS of the client's node.
    async fn resolve(&self, federation: &Federation, name: &str) -> Result<Ipv4Addr> {
        let resolved = async || {
            let addresses = client::resolve(self.namespace(), self.node.dns(), name, REQUEST).await?;
            ensure!(addresses.len() == 1, "{addresses:?} is not one address");
            Ok(addresses[0])
        };
        federation.lab().wait_for(format!("{name} resolves"), PATIENCE, resolved).await
    }
}

fn nearest_name() -> String {
    format!("{SERVICE}.{NAMESPACE}.{FEDERATION}")
}

fn http(vip: Ipv4Addr) -> SocketAddr {
    (vip, SERVICE_HTTP_PORT).into()
}

/// Waits until requests are answered by `cluster`, and sees that nobody else answers from then on.
async fn moves_to(
    federation: &Federation,
    from: &Namespace,
    server: SocketAddr,
    cluster: &str,
) -> Result<()> {
    let moved = async || {
        let answer = client::get(from, server, REQUEST).await?;
        ensure!(answer.cluster == cluster, "{answer:?} answers");
        Ok(())
    };
    federation.lab().wait_for(format!("{cluster} answers at {server}"), PATIENCE, moved).await?;
    for answer in ask(from, server).await? {
        assert_eq!(answer.cluster, cluster);
    }
    Ok(())
}

/// The answers to a number of requests, each over a connection of its own.
async fn ask(from: &Namespace, server: SocketAddr) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    for _ in 0..ENOUGH {
        answers.push(client::get(from, server, PATIENCE).await?);
    }
    Ok(answers)
}

#[tokio::test]
async fn connections_follow_health_to_the_nearest_shard_and_come_home() -> Result<()> {
    let federation = Federation::running().await?;
    let client = Client::new(&federation)?;
    let vip = client.resolve(&federation, &nearest_name()).await?;
    assert_eq!(vip, federation.vip(ScopeKind::Nearest, None).await?);
    let (from, server) = (client.namespace(), http(vip));

    moves_to(&federation, from, server, NEAR).await?;
    let pods: BTreeSet<_> = ask(from, server).await?.into_iter().map(|answer| answer.pod).collect();
    assert_eq!(pods.len(), 2, "both pods of the shard share the load");

    federation.member(NEAR)?.set_all_ready(false).await?;
    moves_to(&federation, from, server, SAME_REGION).await?;

    federation.member(SAME_REGION)?.cluster().power_off()?;
    moves_to(&federation, from, server, FAR).await?;
    assert_eq!(client.resolve(&federation, &nearest_name()).await?, vip, "names do not follow health");

    federation.member(SAME_REGION)?.cluster().power_on()?;
    moves_to(&federation, from, server, SAME_REGION).await?;
    federation.member(NEAR)?.set_all_ready(true).await?;
    moves_to(&federation, from, server, NEAR).await
}

#[tokio::test]
async fn every_scope_has_its_name_and_leads_to_its_shards() -> Result<()> {
    let federation = Federation::running().await?;
    let client = Client::new(&federation)?;
    for (name, scope, location, expected) in [
        (nearest_name(), ScopeKind::Nearest, None, &[NEAR][..]),
        (format!("{}.svc.cluster.local", nearest_name()), ScopeKind::Nearest, None, &[NEAR]),
        (format!("{}.svc.{DOMAIN}", nearest_name()), ScopeKind::Global, None, &[NEAR, SAME_REGION, FAR]),
        (format!("{}.svc.us-east1.{DOMAIN}", nearest_name()), ScopeKind::Region, Some("us-east1"), &[FAR]),
        (
            format!("{}.svc.europe-west1.{DOMAIN}", nearest_name()),
            ScopeKind::Region,
            Some("europe-west1"),
            &[NEAR, SAME_REGION],
        ),
        (
            format!("{}.svc.europe-west1-b.{DOMAIN}", nearest_name()),
            ScopeKind::Zone,
            Some("europe-west1-b"),
            &[SAME_REGION],
        ),
    ] {
        let vip = client.resolve(&federation, &name).await?;
        assert_eq!(vip, federation.vip(scope, location).await?, "{name}");
        let expected: BTreeSet<_> = expected.iter().map(|&cluster| cluster.to_owned()).collect();
        let reached = async || {
            let answers = ask(client.namespace(), http(vip)).await?;
            let clusters: BTreeSet<_> = answers.into_iter().map(|answer| answer.cluster).collect();
            ensure!(clusters == expected, "{clusters:?} answer, not {expected:?}");
            Ok(())
        };
        federation.lab().wait_for(format!("{name} reaches its shards"), PATIENCE, reached).await?;
    }
    Ok(())
}

#[tokio::test]
async fn datagrams_through_a_vip_are_echoed_from_the_vip() -> Result<()> {
    let federation = Federation::running().await?;
    let client = Client::new(&federation)?;
    let vip = federation.vip(ScopeKind::Nearest, None).await?;
    // The client's socket is connected, so it takes datagrams from the VIP only.
    let echoed = async || client::echo(client.namespace(), (vip, SERVICE_ECHO_PORT).into(), REQUEST).await;
    let answer = federation.lab().wait_for("a datagram is echoed", PATIENCE, echoed).await?;
    assert_eq!(answer.cluster, NEAR);

    federation.member(NEAR)?.set_all_ready(false).await?;
    let moved = async || {
        let answer = echoed().await?;
        ensure!(answer.cluster == SAME_REGION, "{answer:?} answers");
        Ok(())
    };
    federation.lab().wait_for("datagrams go to the next shard", PATIENCE, moved).await
}

#[tokio::test]
async fn a_client_outside_of_all_nodes_is_served_by_the_node_that_it_enters_through() -> Result<()> {
    let federation = Federation::running().await?;
    let outside = federation.lab().host("outside")?;
    outside.complete_checksums()?;
    let node = federation.member(SAME_REGION)?.cluster().nodes().pop().context("the cluster has a node")?;
    federation.lab().route_via(VIP_RANGE.parse()?, &node)?;

    let vip = federation.vip(ScopeKind::Nearest, None).await?;
    moves_to(&federation, outside.namespace(), http(vip), SAME_REGION).await?;
    let answer = client::echo(outside.namespace(), (vip, SERVICE_ECHO_PORT).into(), PATIENCE).await?;
    assert_eq!(answer.cluster, SAME_REGION);
    Ok(())
}

#[tokio::test]
async fn a_dual_stack_service_has_vips_and_endpoints_of_both_families() -> Result<()> {
    let federation = Federation::running_with(&my_dual_stack_service()?).await?;
    let v4: Ipv4Net = VIP_RANGE.parse()?;
    let v6: Ipv6Net = VIP_RANGE_V6.parse()?;
    for (scope, location) in [
        (ScopeKind::Nearest, None),
        (ScopeKind::Global, None),
        (ScopeKind::Region, Some("us-east1")),
        (ScopeKind::Zone, Some(FAR)),
    ] {
        assert!(v4.contains(&federation.vip(scope, location).await?), "{scope:?}");
        assert!(v6.contains(&federation.vip_v6(scope, location).await?), "{scope:?}");
    }

    let mut expected = BTreeSet::new();
    for cluster in [NEAR, SAME_REGION, FAR] {
        for pod in federation.member(cluster)?.servers() {
            let addresses = [pod.address().to_string(), pod.address_v6().to_string()];
            expected.extend(addresses.map(|address| (cluster.to_owned(), address)));
        }
    }
    let slices = Api::<EndpointSlice>::namespaced(federation.api().clone(), NAMESPACE);
    let mirrored = async || {
        let mut found = BTreeSet::new();
        for slice in slices.list(&ListParams::default()).await? {
            let cluster = slice.labels().get("federation.dev/cluster").context("a slice of nobody")?;
            let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
            found.extend(addresses.map(|address| (cluster.clone(), address.clone())));
        }
        ensure!(found == expected, "{found:?} are mirrored, not {expected:?}");
        Ok(())
    };
    federation.lab().wait_for("the endpoints of both families are mirrored", PATIENCE, mirrored).await?;

    // One family does not hinder the other.
    let client = Client::new(&federation)?;
    let vip = federation.vip(ScopeKind::Nearest, None).await?;
    moves_to(&federation, client.namespace(), http(vip), NEAR).await?;
    // Pods of all clusters are there in the other family, too.
    for cluster in [NEAR, SAME_REGION, FAR] {
        for pod in federation.member(cluster)?.servers() {
            let server = SocketAddr::from((pod.address_v6(), HTTP_PORT));
            let expected = Answer { cluster: cluster.to_owned(), pod: pod.name().to_owned() };
            assert_eq!(client::get(client.namespace(), server, PATIENCE).await?, expected);
            assert_eq!(client::echo(client.namespace(), server, PATIENCE).await?, expected);
        }
    }
    Ok(())
}

#[tokio::test]
async fn no_request_fails_while_the_agent_is_killed_and_comes_back() -> Result<()> {
    let federation = Federation::running().await?;
    let client = Client::new(&federation)?;
    let vip = federation.vip(ScopeKind::Nearest, None).await?;
    moves_to(&federation, client.namespace(), http(vip), NEAR).await?;

    let enough = Arc::new(AtomicBool::new(false));
    let requests = tokio::spawn({
        let (from, enough) = (client.namespace().clone(), Arc::clone(&enough));
        async move {
            let mut count = 0;
            while !enough.load(Ordering::Relaxed) {
                client::get(&from, http(vip), PATIENCE).await?;
                count += 1;
            }
            anyhow::Ok(count)
        }
    });

    let member = federation.member(NEAR)?;
    for _ in 0..2 {
        federation.agent(member, &client.node)?.kill();
        ask(client.namespace(), http(vip)).await?;
        federation.start_agent(member, &client.node)?;
        member.agent_ready(federation.lab(), &client.node).await?;
    }
    // The new agent is as able as the old one.
    member.set_all_ready(false).await?;
    moves_to(&federation, client.namespace(), http(vip), SAME_REGION).await?;
    enough.store(true, Ordering::Relaxed);
    let count: usize = requests.await?.context("a request failed")?;
    assert!(count >= ENOUGH, "only {count} requests were made");
    Ok(())
}

#[tokio::test]
async fn a_control_plane_that_is_down_moves_nothing() -> Result<()> {
    let federation = Federation::running().await?;
    let client = Client::new(&federation)?;
    let vip = federation.vip(ScopeKind::Nearest, None).await?;
    moves_to(&federation, client.namespace(), http(vip), NEAR).await?;

    let member = federation.member(NEAR)?;
    member.cluster().control_plane().power_off()?;
    federation.control_plane_unhealthy(member).await?;
    for answer in ask(client.namespace(), http(vip)).await? {
        assert_eq!(answer.cluster, NEAR);
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_explains_where_connections_go_and_asks_its_program() -> Result<()> {
    let federation = Federation::running().await?;
    let client = Client::new(&federation)?;
    let vip = federation.vip(ScopeKind::Nearest, None).await?;
    moves_to(&federation, client.namespace(), http(vip), NEAR).await?;
    let member = federation.member(NEAR)?;
    member.set_ready(&member.servers()[0], false).await?;

    let agent = |arguments: &[&str]| -> Result<(bool, String)> {
        let mut command = Command::new(program("federation-agent")?);
        let output = command.args(arguments).output().context("run federation-agent")?;
        Ok((output.status.success(), String::from_utf8([output.stdout, output.stderr].concat())?))
    };
    let state = federation.lab().folder().join(format!("{NEAR}-{}", client.node.name()));
    let state = state.to_str().context("a folder's name")?;
    let explain = |arguments: &[&str]| agent(&[&["explain", "--state-dir", state], arguments].concat());

    let spilled = async || {
        let (_, text) = explain(&[SERVICE])?;
        // However wide the columns are.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for words in [
            "same cluster 1/2 70.0%",
            "same region 2/2 30.0%",
            "not ready, by its cluster's word",
            "well, but nearer tiers take everything",
        ] {
            ensure!(text.contains(words), "{words:?} is not in: {text}");
        }
        Ok(())
    };
    federation.lab().wait_for("half of the near pods are explained", PATIENCE, spilled).await?;

    // As clients elsewhere would meet it.
    let (_, abroad) = explain(&[&format!("{vip}:{SERVICE_HTTP_PORT}"), "--from", FAR])?;
    assert!(abroad.contains(&format!("for clients at {FAR}")) && abroad.contains("100.0%"), "{abroad}");

    // The program is asked, and forgets.
    let tuple = "10.99.0.1:43210";
    let (ok, text) = explain(&[&vip.to_string(), "--tuple", tuple])?;
    assert!(ok && text.contains(&format!("{vip}:{SERVICE_HTTP_PORT} TCP would go to")), "{text}");
    let pins = member.bpf_folder(federation.lab(), &client.node);
    let (_, flows) = agent(&["flows", "--bpf-dir", pins.to_str().context("a folder's name")?])?;
    assert!(!flows.contains("43210"), "{flows}");

    for (arguments, words) in [
        (&["nobody"][..], "no service nobody"),
        (&["198.18.255.255"], "no service's VIP"),
        (&[SERVICE, "--from", "mars"], "mars is neither"),
    ] {
        let (ok, text) = explain(arguments)?;
        assert!(!ok && text.contains(words), "{text}");
    }
    let (ok, text) = agent(&["explain", SERVICE, "--state-dir", "/nowhere"])?;
    assert!(!ok && text.contains("/nowhere/agent.sock"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_health_check_over_http_sees_what_an_open_port_hides_and_tells_events() -> Result<()> {
    let federation = Federation::running().await?;
    let client = Client::new(&federation)?;
    let vip = federation.vip(ScopeKind::Nearest, None).await?;
    moves_to(&federation, client.namespace(), http(vip), NEAR).await?;

    // The server knows no such page: its port is open, and it says no.
    let services = Api::<FederatedService>::namespaced(federation.api().clone(), NAMESPACE);
    let ask_for = async |path: &str| {
        let check = json!({ "spec": { "healthCheck": { "protocol": "HTTP", "path": path } } });
        services.patch(SERVICE, &PatchParams::default(), &Patch::Merge(&check)).await.map(drop)
    };
    ask_for("/no-such-page").await?;
    let told = async || {
        let events = Api::<Event>::namespaced(federation.api().clone(), NAMESPACE);
        let events = events.list(&ListParams::default()).await?;
        let found = events.iter().any(|event| {
            event.reason.as_deref() == Some("ShardFailed")
                && event.involved_object.kind.as_deref() == Some("FederatedService")
                && event
                    .message
                    .as_deref()
                    .is_some_and(|message| message.contains("HTTP GET /no-such-page: status 404"))
        });
        ensure!(found, "no Event tells that the shard has failed");
        Ok(())
    };
    federation.lab().wait_for("an Event tells of the failure with its evidence", PATIENCE, told).await?;
    ask_for("/").await?;
    moves_to(&federation, client.namespace(), http(vip), NEAR).await
}

#[tokio::test]
async fn an_agent_says_what_is_wrong_and_leaves_nothing_half_made() -> Result<()> {
    let federation = Federation::running().await?;
    let member = federation.member(FAR)?;
    let node = member.cluster().nodes().pop().context("the cluster has a node")?;
    // On another host, where no agent runs yet.
    let spare = federation.lab().host("spare")?;
    let pins = federation.lab().id().bpf_folder().join("spare");
    let state = federation.lab().folder().join("spare");

    for (problem, host, flags, words) in [
        ("unknown zone", &spare, &[("--zone", "mars-1")][..], &["mars-1", FAR][..]),
        ("no such interface", &spare, &[("--uplink", "eth7")], &["eth7"]),
        ("port taken", node.host(), &[("--dns-listen", "10.10.1.1:53")], &["10.10.1.1:53"]),
    ] {
        let mut options = vec![
            ("--cluster", FAR),
            ("--node-name", "spare"),
            ("--uplink", "eth0"),
            ("--dns-listen", "127.0.0.1:53"),
        ];
        options.retain(|(name, _)| flags.iter().all(|(changed, _)| changed != name));
        options.extend_from_slice(flags);
        let process = host.spawn("trial", federation.agent_command(host, &options, &pins, &state)?)?;
        let status = process.end(PATIENCE).await?;
        let said = process.tail(3)?.join("\n");
        assert_eq!(status.code(), Some(1), "{problem}: {said}");
        for word in words {
            assert!(said.contains(word), "{problem}: {word:?} is not in: {said}");
        }
        assert!(is_empty(&pins)?, "{problem}: something is pinned");
    }

    // A second agent for a node that has one.
    let taken = federation.lab().folder().join(format!("{FAR}-{}", node.name()));
    let options = [("--cluster", FAR), ("--node-name", node.name()), ("--uplink", "eth0")];
    let process =
        node.host().spawn("trial", federation.agent_command(node.host(), &options, &pins, &taken)?)?;
    let status = process.end(PATIENCE).await?;
    assert_eq!(status.code(), Some(1), "{:?}", process.tail(3)?);
    assert!(is_empty(&pins)?);

    // A kernel that does not describe its types.
    let options = [("--cluster", FAR), ("--node-name", "spare"), ("--uplink", "eth0")];
    let mut command = federation.agent_command(&spare, &options, &pins, &state)?;
    hide(&mut command, Path::new("/sys/kernel/btf"));
    let process = spare.spawn("trial", command)?;
    let status = process.end(PATIENCE).await?;
    let said = process.tail(3)?.join("\n");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("CONFIG_DEBUG_INFO_BTF"), "{said}");
    assert!(is_empty(&pins)?);
    Ok(())
}

/// Lets the command see an empty folder there.
fn hide(command: &mut Command, folder: &'static Path) {
    let hide = move || -> std::io::Result<()> {
        let nothing = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
        mount(nothing, folder, Some("tmpfs"), MsFlags::empty(), nothing)?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls may happen; these are plain system calls, whose short
    // paths are copied to the stack.
    unsafe { command.pre_exec(hide) };
}

fn is_empty(folder: &Path) -> Result<bool> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error.into()),
    }
}
