//! `docs/install.md` and the manifests in `deploy/`, with nothing else: what they say is done, and what it leads to is
//! what the page promises.

#[path = "install/page.rs"]
mod page;
#[path = "install/rights.rs"]
mod rights;
#[path = "install/world.rs"]
mod world;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use federation_tests::{
    client,
    federation::{NAMESPACE, PATIENCE, SERVICE, SERVICE_HTTP_PORT},
};
use nix::sys::signal::Signal;

use world::{AMERICA, DNS, EUROPE, World};

/// How long an answer may take before it is asked for again.
const REQUEST: Duration = Duration::from_secs(1);

#[tokio::test]
async fn the_page_leads_from_bare_clusters_to_the_first_request_and_back() -> Result<()> {
    let world = World::new().await?;
    let mut page = world.page()?;
    page.run("The host").await?;
    page.run("The members").await?;
    page.run("The first service").await?;
    world.publish(NAMESPACE, SERVICE).await?;

    // A pod of Europe asks its node's agent, and is served at home; then from afar.
    let client = world.client()?;
    let name = format!("{SERVICE}.{NAMESPACE}.my-federation");
    let resolved = async || client::resolve(client.namespace(), DNS, &name, REQUEST).await;
    let addresses = world.lab.wait_for("the name resolves", PATIENCE, resolved).await?;
    let server = SocketAddr::from((*addresses.first().context("no address")?, SERVICE_HTTP_PORT));
    world.served_by(client.namespace(), server, EUROPE).await?;
    world.europe().member().set_all_ready(false).await?;
    world.served_by(client.namespace(), server, AMERICA).await?;
    world.europe().member().set_all_ready(true).await?;
    world.served_by(client.namespace(), server, EUROPE).await?;

    // So is who has no network of his own: this process, for the moment.
    let node = world.europe().kubelets()[0].node();
    node.host().take_in_this_process()?;
    world.served_by(node.namespace(), server, EUROPE).await?;

    // Agents are replaced while somebody asks.
    let before = world.agent()?.first()?;
    let enough = Arc::new(AtomicBool::new(false));
    let requests = tokio::spawn({
        let (from, enough) = (client.namespace().clone(), Arc::clone(&enough));
        async move {
            let mut count = 0;
            while !enough.load(Ordering::Relaxed) {
                client::get(&from, server, PATIENCE).await?;
                count += 1;
            }
            anyhow::Ok(count)
        }
    });
    page.run("Another version, other settings").await?;
    enough.store(true, Ordering::Relaxed);
    let count: usize = requests.await?.context("a request failed while agents were replaced")?;
    assert!(count > 0);
    assert_ne!(world.agent()?.first()?, before, "the agent was not replaced");

    rights::more_happens(&world, &page).await?;
    let given = rights::given(&world);

    page.run("Removing").await?;
    rights::all_were_used(&world, &given)?;
    page.ends()?;
    world.is_clean()?;
    Ok(())
}

#[tokio::test]
async fn an_agent_has_what_its_manifest_gives_it_and_nothing_else() -> Result<()> {
    let world = World::new().await?;
    let mut page = world.page()?;
    page.run("The host").await?;
    page.run("The members").await?;
    let agent = world.agent()?;

    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.first()?))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.map(str::to_owned).with_context(|| format!("no {name} in {status}"))
    };
    // NET_BIND_SERVICE, NET_ADMIN, NET_RAW, PERFMON, BPF (linux/capability.h).
    let rights = [10, 12, 13, 38, 39].into_iter().fold(0_u64, |rights, bit| rights | 1 << bit);
    assert_eq!(field("CapEff")?, format!("{rights:016x}"));
    assert_eq!(field("CapPrm")?, format!("{rights:016x}"));
    assert_eq!(field("NoNewPrivs")?, "1");

    let probe = async |probe| agent.probe(probe).await;
    let (ready, live) = (agent.readiness().context("probed")?, agent.liveness().context("probed")?);
    for said in [probe(ready).await?, probe(live).await?] {
        assert!(said.success, "{}", said.output);
    }
    // One that is stopped says nothing any more.
    agent.signal(Signal::SIGSTOP)?;
    let said = probe(live).await?;
    assert!(!said.success && !said.output.is_empty(), "{}", said.output);
    agent.signal(Signal::SIGCONT)?;
    let lives = async || {
        let said = probe(live).await?;
        ensure!(said.success, "{}", said.output);
        Ok(())
    };
    world.lab.wait_for("the agent lives again", PATIENCE, lives).await?;
    let said = agent.run(&["/federation-agent", "status"]).await?;
    assert!(said.success, "as `kubectl exec` would: {}", said.output);
    for program in ["from_pod", "connect4"] {
        assert!(said.output.contains(program), "{}", said.output);
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_of_a_cluster_that_is_not_registered_is_not_ready_and_says_why() -> Result<()> {
    let world = World::new().await?;
    let mut page = world.page()?;
    page.run("The host").await?;
    page.shell(
        "cluster=europe-west1-d
        kubectl --kubeconfig $cluster.conf apply --server-side -k deploy/settings
        kubectl --kubeconfig $cluster.conf --namespace federation-system create secret generic federation \
          --from-literal=cluster=$cluster --from-file=kubeconfig=node.conf
        kubectl --kubeconfig $cluster.conf apply --server-side -k deploy/member",
    )
    .await?;
    let agent = world.lab.wait_for("the agent runs", PATIENCE, async || world.agent()).await?;
    let ready = agent.readiness().context("it is probed")?;
    let says = async || {
        let said = agent.probe(ready).await?;
        ensure!(!said.success && said.output.contains(EUROPE), "{}", said.output);
        Ok(())
    };
    world.lab.wait_for("the probe says what the agent waits for", PATIENCE, says).await?;
    let live = agent.probe(agent.liveness().context("it is probed")?).await?;
    assert!(live.success, "waiting is no reason to be killed: {}", live.output);
    Ok(())
}
