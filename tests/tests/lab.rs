//! The lab itself: its network carries both families, its power cuts are silent, and it leaves nothing behind.

#[path = "lab/losses.rs"]
mod losses;
#[path = "lab/mtu.rs"]
mod mtu;
#[path = "lab/pods.rs"]
mod pods;
#[path = "lab/reflect.rs"]
mod reflect;

use std::{
    io::{BufRead as _, BufReader},
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use federation_tests::{
    client::{Answer, echo, get},
    lab::{ClusterSpec, Lab, LabId, Owner, Pod, Process, eventually, labs, program, remove},
};

const PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

/// A pod with a server in it, on a new node of a new cluster.
fn serving_pod(lab: &Lab, spec: ClusterSpec) -> Result<Pod> {
    let pod = lab.cluster(spec)?.add_node()?.add_pod("pod1")?;
    serve(&pod)?;
    Ok(pod)
}

fn serve(pod: &Pod) -> Result<Arc<Process>> {
    let mut command = pod.namespace().command(program("echo")?);
    command.args([pod.cluster(), pod.name(), &PORT.to_string()]);
    pod.spawn(command)
}

fn near() -> ClusterSpec {
    ClusterSpec::new("near", "region-a", "zone-a", 8)
}

fn far() -> ClusterSpec {
    ClusterSpec::new("far", "region-b", "zone-b", 9)
}

fn server(pod: &Pod) -> SocketAddr {
    (pod.address(), PORT).into()
}

/// The same server in both families.
fn servers(pod: &Pod) -> [SocketAddr; 2] {
    [server(pod), (pod.address_v6(), PORT).into()]
}

async fn answers(lab: &Lab, from: &Pod, to: SocketAddr) -> Result<Answer> {
    lab.wait_for("a pod answers over HTTP", PATIENCE, async || get(from.namespace(), to, SHORT).await).await
}

/// Whether there is somebody at an address where nothing listens, who says so.
async fn refuses(from: &Pod, dead_end: SocketAddr) -> Result<()> {
    match get(from.namespace(), dead_end, SHORT).await {
        Err(error) if format!("{error:#}").contains("refused") => Ok(()),
        Err(error) => Err(error),
        Ok(answer) => anyhow::bail!("{answer:?}"),
    }
}

/// One of the network stack's counters in a pod.
fn counted(pod: &Pod, counter: &str) -> Result<u64> {
    let all = pod.namespace().execute("nstat", &["--ignore", "--noupdate", "--zeros", counter])?;
    let line = all.lines().find_map(|line| line.strip_prefix(counter));
    let value = line.and_then(|line| line.split_whitespace().next());
    value.with_context(|| format!("no {counter} in: {all}"))?.parse().context("a count")
}

#[tokio::test]
async fn pods_of_different_clusters_reach_each_other() -> Result<()> {
    let lab = Lab::new()?;
    let (one, other) = (serving_pod(&lab, near())?, serving_pod(&lab, far())?);
    for (from, to, cluster) in [(&one, &other, "far"), (&other, &one, "near"), (&one, &one, "near")] {
        let expected = Answer { cluster: cluster.to_owned(), pod: "pod1".to_owned() };
        for to in servers(to) {
            assert_eq!(answers(&lab, from, to).await?, expected);
            assert_eq!(echo(from.namespace(), to, PATIENCE).await?, expected);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_host_outside_of_all_nodes_reaches_a_pod() -> Result<()> {
    let lab = Lab::new()?;
    let (outside, pod) = (lab.host("outside")?, serving_pod(&lab, near())?);
    for server in servers(&pod) {
        let answer = async || get(outside.namespace(), server, SHORT).await;
        lab.wait_for("the pod answers", PATIENCE, answer).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_routed_via_a_node_reaches_it_in_both_families() -> Result<()> {
    let lab = Lab::new()?;
    let (client, node) = (serving_pod(&lab, near())?, lab.cluster(far())?.add_node()?);
    for (range, address) in [("198.18.0.0/16", "198.18.0.7"), ("fd98:18::/112", "fd98:18::7")] {
        let dead_end = SocketAddr::new(address.parse()?, PORT);
        node.namespace().ip([format!("address add {address} dev lo")])?;
        refuses(&client, dead_end).await.expect_err("no route leads there");
        lab.route_via(range.parse()?, &node)?;
        refuses(&client, dead_end).await?;
        node.power_off()?;
        refuses(&client, dead_end).await.expect_err("nobody is there");
        node.power_on()?;
        refuses(&client, dead_end).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_power_cut_is_silence_and_ends_with_the_power_back() -> Result<()> {
    let lab = Lab::new()?;
    let client = serving_pod(&lab, near())?;
    let cluster = lab.cluster(far())?;
    let node = cluster.add_node()?;
    // Nothing listens there: as long as the node has power, it says so.
    let addresses: [IpAddr; 4] = [
        node.gateway().into(),
        node.gateway_v6().into(),
        node.host().address().into(),
        node.host().address_v6().into(),
    ];
    let dead_ends = addresses.map(|address| SocketAddr::new(address, PORT));
    for dead_end in dead_ends {
        refuses(&client, dead_end).await?;
    }
    cluster.power_off()?;
    for dead_end in dead_ends {
        let error = get(client.namespace(), dead_end, SHORT).await.expect_err("nobody is there");
        assert!(format!("{error:#}").contains("no answer"), "neither refused nor unreachable: {error:#}");
    }
    // A socket may have missed the errors that its host was sent.
    for counter in ["IcmpInDestUnreachs", "Icmp6InDestUnreachs"] {
        assert_eq!(counted(&client, counter)?, 0, "{counter}");
    }
    cluster.power_on()?;
    for dead_end in dead_ends {
        refuses(&client, dead_end).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_delay_is_felt_in_both_directions_and_carries_large_transfers() -> Result<()> {
    let delay = Duration::from_millis(30);
    let lab = Lab::new()?;
    let (client, pod) = (serving_pod(&lab, near())?, serving_pod(&lab, far().delayed_by(delay))?);
    answers(&lab, &client, server(&pod)).await?;
    let start = Instant::now();
    client.namespace().connect(server(&pod)).await?;
    assert!(start.elapsed() >= 2 * delay, "a handshake took only {:?}", start.elapsed());

    let large = "x".repeat(20_000);
    let socket = client.namespace().udp("0.0.0.0:0".parse()?)?;
    socket.send_to(large.as_bytes(), server(&pod)).await?;
    let mut answer = vec![0; 40_000];
    let (length, _) = tokio::time::timeout(PATIENCE, socket.recv_from(&mut answer)).await??;
    assert!(answer[..length].ends_with(large.as_bytes()));
    Ok(())
}

#[tokio::test]
async fn labs_do_not_see_each_other() -> Result<()> {
    let (one, other) = (Lab::new()?, Lab::new()?);
    let pod = serving_pod(&one, near())?;
    let stranger = other.cluster(far())?.add_node()?.add_pod("pod1")?;
    answers(&one, &pod, server(&pod)).await?;
    for server in servers(&pod) {
        get(stranger.namespace(), server, SHORT).await.expect_err("the pod is in another lab");
    }
    Ok(())
}

#[tokio::test]
async fn what_was_awaited_and_what_processes_said_is_in_the_error() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("hub")?;
    let mut command = host.namespace().command("sh");
    command.args(["-c", "echo the disk is full; exit 3"]);
    host.spawn("store", command)?.end(PATIENCE).await?;
    let never = async || -> Result<()> { anyhow::bail!("no store yet") };
    let error = lab.wait_for("the store is there", Duration::ZERO, never).await.expect_err("it never comes");
    let error = format!("{error:#}");
    for part in
        ["the store is there", "no store yet", "store (ended with exit status: 3)", "the disk is full"]
    {
        assert!(error.contains(part), "{part:?} is missing in: {error}");
    }
    Ok(())
}

#[test]
fn a_lab_leaves_nothing_behind_when_its_test_panics() {
    let mut known = None;
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let lab = Lab::new().expect("a lab");
        serving_pod(&lab, near()).expect("a pod with a server");
        known = Some(lab.id());
        assert!(!traces(lab.id()).is_empty());
        panic!("as a failing test does");
    }));
    assert!(outcome.is_err());
    assert_eq!(traces(known.expect("the lab was there")), Vec::<String>::new());
}

#[tokio::test]
async fn a_lab_is_left_alone_while_its_owner_lives_and_removed_once_it_was_killed() -> Result<()> {
    let (mut owner, id) = hold()?;
    assert!(!remove(id)?, "the owner lives");
    assert!(!traces(id).is_empty());

    owner.kill()?;
    owner.wait()?;
    let state = labs()?.into_iter().find(|lab| lab.id == id).context("the lab is still there")?.owner;
    assert_eq!(state, Owner::Nobody);
    assert!(remove(id)?);
    assert_eq!(traces(id), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn processes_of_a_lab_are_found_without_any_record_of_them() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("hub")?;
    // Its child leaves the group, as a daemon does: only the environment still tells whose it is.
    let mut command = host.namespace().command("setsid");
    command.args(["--fork", "sleep", "1000"]);
    host.spawn("daemon", command)?.end(PATIENCE).await?;
    let id = lab.id();
    let daemon = async || {
        ensure!(traces(id).iter().any(|trace| trace.contains("process")), "no process yet");
        Ok(())
    };
    eventually("the daemon runs", PATIENCE, daemon).await?;
    drop(lab);
    assert_eq!(traces(id), Vec::<String>::new());
    Ok(())
}

/// A process that owns an empty lab, and the number of that lab.
fn hold() -> Result<(Child, LabId)> {
    let mut owner =
        Command::new(program("lab")?).arg("hold").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let output = owner.stdout.take().context("its output is a pipe")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let id = line.trim().parse().with_context(|| format!("a lab's number, not {line:?}"))?;
    Ok((owner, id))
}

/// Everything on the machine that carries the lab's number, found by other means than the lab uses itself.
fn traces(id: LabId) -> Vec<String> {
    let mut traces = Vec::new();
    let namespaces = Command::new("ip").args(["netns", "list"]).output().expect("ip runs");
    let namespaces = String::from_utf8(namespaces.stdout).expect("names are text");
    traces.extend(namespaces.lines().filter(|line| line.starts_with(&id.prefix())).map(str::to_owned));
    for folder in [format!("/sys/fs/bpf/fed-{id}"), format!("/run/federation-lab/{id}")] {
        traces.extend(Path::new(&folder).exists().then_some(folder));
    }
    let mark = format!("FEDERATION_LAB={id}\0");
    for entry in std::fs::read_dir("/proc").expect("there is /proc") {
        let path = entry.expect("a readable entry").path().join("environ");
        // Most entries are no process, and a process may end while we look.
        let Ok(environment) = std::fs::read(&path) else { continue };
        let marked = String::from_utf8_lossy(&environment).contains(&mark);
        traces.extend(marked.then(|| format!("process {}", path.display())));
    }
    traces
}
