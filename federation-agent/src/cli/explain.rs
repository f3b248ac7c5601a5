//! `explain`: why a connection goes where it goes, asked of the node's running agent.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args as ClapArgs;
use http::StatusCode;

use super::{agent, show, table::Table};
use crate::{
    dataplane::Course,
    node::desk::{Answer, Question, Story},
    plan::Explanation,
};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// A service (NAME, NAMESPACE/NAME or its DNS name) or a VIP, with or without its port
    subject: String,

    /// Where the client is: an endpoint pod's address, a node (NODE or CLUSTER/NODE) or a cluster; this node by default.
    /// Health is always as this node sees it
    #[arg(long, value_name = "POD|NODE")]
    from: Option<String>,

    /// A client's address and port: ask the loaded program where that connection would go, or goes already
    #[arg(long, value_name = "ADDR:PORT")]
    tuple: Option<SocketAddr>,

    /// Print the answer as JSON
    #[arg(long)]
    json: bool,

    /// Where the node's agent keeps its socket
    #[arg(long, env = "FEDERATION_STATE_DIR", value_name = "DIR", default_value = crate::node::DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let question = Question { subject: args.subject, from: args.from, tuple: args.tuple };
    let query = serde_urlencoded::to_string(question).context("put the question")?;
    let (status, body) = agent::get(&args.state_dir, &format!("/explain?{query}")).await?;
    if status != StatusCode::OK {
        bail!("{}", String::from_utf8_lossy(&body));
    }
    let answer: Answer =
        serde_json::from_slice(&body).map_err(|error| anyhow!("the agent's answer is none: {error}"))?;
    if args.json {
        return show::print(&format!("{}\n", serde_json::to_string_pretty(&answer)?));
    }
    show::print(&render(&answer)?)
}

fn render(answer: &Answer) -> Result<String> {
    let mut text = String::new();
    for story in &answer.services {
        writeln!(text, "{}, for clients at {}", story.service, answer.place)?;
        for frontend in &story.frontends {
            writeln!(text, "\n{}", heading(frontend))?;
            let mut tiers = Table::new(["TIER", "USABLE", "SHARE"]);
            for tier in &frontend.tiers {
                tiers.row([
                    tier.name.clone(),
                    format!("{}/{}", tier.usable, tier.total),
                    format!("{:.1}%", tier.percent),
                ]);
            }
            write!(text, "{tiers}\n{}", endpoints(frontend))?;
        }
        text.push_str(&courses(story)?);
    }
    Ok(text)
}

fn heading(frontend: &Explanation) -> String {
    let affinity = if frontend.client_ip_affinity { ", each client stays with one" } else { "" };
    let next = match frontend.tiers.iter().find(|tier| tier.percent > 0.0) {
        None => "nobody can serve it: connections are refused".to_owned(),
        Some(tier) => format!("the next connection goes to {:?} first", tier.name),
    };
    format!("{} {} ({}{affinity}): {next}", frontend.vip, frontend.protocol, frontend.scope)
}

fn endpoints(frontend: &Explanation) -> Table {
    let mut table = Table::new(["ENDPOINT", "CLUSTER", "ZONE", "NODE", "TIER", "SHARE", "WHY"]);
    for endpoint in &frontend.endpoints {
        table.row([
            endpoint.address.to_string(),
            endpoint.cluster.clone(),
            endpoint.zone.clone(),
            endpoint.node.clone().unwrap_or_else(|| "-".to_owned()),
            endpoint.tier.clone(),
            format!("{:.1}%", endpoint.percent),
            endpoint.why.clone(),
        ]);
    }
    table
}

/// What the loaded program said.
fn courses(story: &Story) -> Result<String> {
    let whose: BTreeMap<SocketAddr, &str> = story
        .frontends
        .iter()
        .flat_map(|frontend| &frontend.endpoints)
        .map(|endpoint| (endpoint.address, endpoint.cluster.as_str()))
        .collect();
    let mut text = String::new();
    for (vip, protocol, course) in &story.courses {
        let cluster = |backend: &SocketAddr| whose.get(backend).copied().unwrap_or("nobody of the service");
        let what = match course {
            Course::Known { backend } => format!("is open, to {backend} ({})", cluster(backend)),
            Course::Opens { backend } => format!("would go to {backend} ({})", cluster(backend)),
            Course::Refused => "would be refused".to_owned(),
            Course::NotOurs => "would be let pass untouched: the program does not know this VIP".to_owned(),
        };
        writeln!(text, "\nthe loaded program: the connection to {vip} {protocol} {what}")?;
    }
    Ok(text)
}
