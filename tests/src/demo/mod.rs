//! The main job, shown: three clusters, one service, one client, and what happens when clusters fail.

mod report;
mod story;
mod tally;
mod traffic;
mod view;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use federation_agent::api::ScopeKind;

use crate::{
    client::resolve,
    federation::{
        FEDERATION, Federation, NAMESPACE, PATIENCE, SERVICE, SERVICE_HTTP_PORT, my_service, three_clusters,
    },
    lab::Lab,
};
use report::Report;
use traffic::Traffic;

/// What the demo was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where to write the figures as JSON.
    pub report: Option<PathBuf>,
    /// Whether the lab stays when the demo ends.
    pub keep: bool,
}

/// Builds the lab, tells the story, and removes the lab unless it shall stay.
///
/// # Errors
/// Something did not happen that should have, or the user has ended the demo.
pub async fn run(options: Options) -> Result<()> {
    let federation = tokio::select! {
        federation = prepare() => federation?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("ended before the federation stood; its lab is removed"),
    };
    let home = federation.member(story::HOME)?;
    let node = home.cluster().nodes().into_iter().next().context("the client's cluster has no node")?;
    let client = node.add_pod("client")?;
    let name = format!("{SERVICE}.{NAMESPACE}.{FEDERATION}");
    println!("==> the client pod asks the node's DNS at {} for {name}", node.dns());
    let addresses = federation
        .lab()
        .wait_for(format!("{name} resolves"), PATIENCE, async || {
            resolve(client.namespace(), node.dns(), &name, PATIENCE).await
        })
        .await?;
    let vip = *addresses.first().context("the name has no address")?;
    println!("    {name} is {vip}, now and for as long as the service lives");

    let traffic = Traffic::start(client.namespace(), (vip, SERVICE_HTTP_PORT).into());
    let mut view = view::View::open()?;
    let told = story::tell(&federation, traffic, &mut view).await;
    view.close()?;
    let report = Report::new(told?);
    report.print();
    if let Some(path) = &options.report {
        report.write(path)?;
        println!("written to {}", path.display());
    }
    if options.keep {
        report::print_how_to_look_inside(&federation, &node, &client, vip)?;
        federation.lab().keep()?;
    }
    Ok(())
}

/// Everything up to a service that has its VIPs, a line for each step.
async fn prepare() -> Result<Federation> {
    println!("==> the Federation API and its controller start");
    let mut federation = Federation::start(Lab::new()?).await?;
    for spec in three_clusters() {
        println!("==> cluster {} in {} starts: an API server, a node, two pods", spec.name, spec.region);
        federation.add_cluster(spec, 2).await?;
    }
    println!("==> the clusters are registered, each with a kubeconfig in a Secret");
    federation.register_all().await?;
    println!("==> an agent starts on every node");
    federation.start_agents().await?;
    println!("==> kubectl --context {FEDERATION} create -f service.yaml");
    let service = my_service()?;
    let yaml = serde_json::to_value(&service).context("print the Service")?;
    for line in serde_json::to_string_pretty(&yaml).context("print the Service")?.lines() {
        println!("    {line}");
    }
    federation.create(&service).await?;
    federation.publish_all().await?;
    let vip = federation.vip(ScopeKind::Nearest, None).await?;
    println!("==> the service is sharded over all three clusters; its nearest VIP is {vip}");
    Ok(federation)
}
