//! The two APIs: the federation's, where this node's cluster is a member, and the cluster's own, which has its Node.

use std::{path::Path, time::Duration};

use anyhow::{Result, anyhow};
use kube::{Api, ResourceExt as _, api::ListParams};
use tokio::time::timeout;

use super::{Args, report::Row};
use crate::{
    api::Cluster,
    client::{Login, chain},
    model,
    node::whereabouts::{self, Labels, Missing},
};

/// How long an API may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was found.
pub(super) struct Apis {
    pub rows: Vec<Row>,
    /// The members, where the Federation API tells them.
    pub clusters: Option<Vec<Cluster>>,
}

pub(super) async fn look(args: &Args) -> Apis {
    let (federation, labels) = tokio::join!(clusters(args.kubeconfig.as_deref()), labels(args));
    let mut rows = Vec::new();
    let clusters = match federation {
        None => {
            rows.push(Row::skip(FEDERATION, "no --kubeconfig is given"));
            None
        }
        Some(Ok(clusters)) => {
            rows.push(Row::pass(FEDERATION, format!("it answers, members: {}", clusters.len())));
            Some(clusters)
        }
        Some(Err(error)) => {
            rows.push(Row::warn(
                FEDERATION,
                format!("{error:#}"),
                "an agent waits for it, or begins with what was known last",
            ));
            None
        }
    };
    let own = match (&args.cluster, &clusters) {
        (None, _) => Err(Row::skip(CLUSTER, "no --cluster is given")),
        (_, None) => Err(Row::skip(CLUSTER, "the Federation API has not told its clusters")),
        (Some(name), Some(clusters)) => registration(name, args.node.zone.as_deref(), clusters),
    };
    match own {
        Ok((cluster, row)) => {
            rows.push(row);
            rows.push(node(labels, Some(cluster)));
        }
        Err(row) => {
            rows.push(row);
            rows.push(node(labels, None));
        }
    }
    Apis { rows, clusters }
}

const FEDERATION: &str = "Federation API";
const CLUSTER: &str = "cluster";
const NODE: &str = "node";

async fn clusters(kubeconfig: Option<&Path>) -> Option<Result<Vec<Cluster>>> {
    let login = Login::by(Some(kubeconfig?));
    let ask = async {
        let api: Api<Cluster> = Api::all(login.client().await?);
        let listed = api.list(&ListParams::default()).await;
        let listed = listed.map_err(|error| anyhow!("ask it with {login}: {}", chain(&error)))?;
        Ok(listed.items)
    };
    Some(
        timeout(PATIENCE, ask).await.unwrap_or_else(|_| {
            Err(anyhow!("ask it with {login}: no answer within {} s", PATIENCE.as_secs()))
        }),
    )
}

/// This node's cluster among the members.
fn registration<'a>(
    name: &str,
    zone: Option<&str>,
    clusters: &'a [Cluster],
) -> Result<(&'a Cluster, Row), Row> {
    let Some(cluster) = clusters.iter().find(|cluster| cluster.name_any() == name) else {
        let known: Vec<_> = clusters.iter().map(kube::ResourceExt::name_any).collect();
        let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
        return Err(Row::warn(
            CLUSTER,
            format!("the federation has no cluster {name} ({known})"),
            "register it (`federation-agent join`); an agent waits for it",
        ));
    };
    let zones = cluster.spec.zones.join(", ");
    if let Some(zone) = zone
        && cluster.spec.zones.iter().all(|other| other != zone)
    {
        let remedy = format!("give --zone one of {zones}, or add it to spec.zones");
        return Ok((cluster, Row::fail(CLUSTER, format!("{name} does not span the zone {zone}"), remedy)));
    }
    let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
    let wrong = conditions.into_iter().find(|condition| {
        ["Accepted", "ServiceRangeApart"].contains(&condition.type_.as_str()) && condition.status == "False"
    });
    let row = match wrong {
        Some(condition) => Row::warn(
            CLUSTER,
            format!("{name} is registered, but {} is False: {}", condition.type_, condition.message),
            format!("see `kubectl describe cluster {name}` at the Federation API"),
        ),
        None => Row::pass(
            CLUSTER,
            format!("{name} is registered, of region {} and zones {zones}", cluster.spec.region),
        ),
    };
    Ok((cluster, row))
}

/// What this node's own cluster says of it, with its name; or why nobody is asked.
async fn labels(args: &Args) -> Result<(String, Result<Labels, Missing>), &'static str> {
    let node = args.node_name.clone().ok_or("no --node-name is given")?;
    let login = Login::at_own_cluster(args.node_kubeconfig.as_deref())
        .ok_or("this is no pod with a service account, and no --node-kubeconfig is given")?;
    let labels = whereabouts::labels(&login, &node).await;
    Ok((node, labels))
}

fn node(asked: Result<(String, Result<Labels, Missing>), &'static str>, cluster: Option<&Cluster>) -> Row {
    let (name, labels) = match asked {
        Err(why) => return Row::skip(NODE, why),
        Ok(answer) => answer,
    };
    match (labels, cluster.and_then(member)) {
        (Err(Missing::NoSuchNode), _) => Row::fail(NODE, whereabouts::no_such_node(&name), ""),
        (Err(Missing::Other(error)), _) => {
            Row::warn(NODE, format!("{error:#}"), "an agent waits for it, or begins with what was known last")
        }
        (Ok(labels), None) => {
            let zone = labels.zone.as_deref().unwrap_or("that its labels do not tell");
            Row::pass(NODE, format!("{name} is in the zone {zone}"))
        }
        (Ok(labels), Some((own, cluster))) => {
            let (zone, remarks) = labels.zone_in(&own, &cluster);
            if remarks.is_empty() {
                Row::pass(NODE, format!("{name} is in the zone {zone}"))
            } else {
                Row::warn(NODE, remarks.join("; "), "")
            }
        }
    }
}

/// The cluster as a node would take it; one without zones is none.
fn member(cluster: &Cluster) -> Option<(String, model::Cluster)> {
    let spec = &cluster.spec;
    let zones: Vec<_> = spec.zones.iter().map(model::Zone::from).collect();
    let is_one = !zones.is_empty();
    let value =
        model::Cluster { provider: spec.provider.as_str().into(), region: (&spec.region).into(), zones };
    is_one.then(|| (cluster.name_any(), value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::check::report::Verdict;

    fn cluster(accepted: &str) -> Cluster {
        serde_json::from_value(json!({
            "apiVersion": "federation.dev/v1alpha1", "kind": "Cluster", "metadata": { "name": "here" },
            "spec": {
                "server": "https://203.0.113.7:6443", "credentialsRef": { "name": "here" }, "region": "r",
                "zones": ["z1", "z2"], "networks": ["10.8.0.0/14"],
            },
            "status": { "conditions": [{
                "type": "Accepted", "status": accepted, "reason": "R", "message": "no Secret",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]},
        }))
        .unwrap()
    }

    #[test]
    fn a_cluster_that_may_come_is_warned_of_and_a_zone_that_it_has_not_fails() {
        let (good, refused) = ([cluster("True")], [cluster("False")]);
        for (name, zone, clusters, verdict, part) in [
            ("here", None, &good, Verdict::Pass, "zones z1, z2"),
            ("here", Some("z2"), &good, Verdict::Pass, "region r"),
            ("here", Some("z3"), &good, Verdict::Fail, "zone z3"),
            ("there", None, &good, Verdict::Warn, "no cluster there (here)"),
            ("here", None, &refused, Verdict::Warn, "no Secret"),
        ] {
            let row = registration(name, zone, clusters).map_or_else(|row| row, |(_, row)| row);
            assert_eq!(row.result, verdict, "{row:?}");
            assert!(row.found.contains(part), "{row:?}");
        }
    }

    #[test]
    fn a_node_that_its_cluster_does_not_know_fails() {
        let labels = |zone: &str| Labels { node: "n".to_owned(), zone: Some(zone.to_owned()), region: None };
        let known = cluster("True");
        for (answer, verdict) in [
            (Ok(labels("z1")), Verdict::Pass),
            (Ok(labels("z9")), Verdict::Warn),
            (Err(Missing::Other(anyhow!("no answer"))), Verdict::Warn),
            (Err(Missing::NoSuchNode), Verdict::Fail),
        ] {
            let row = node(Ok(("n".to_owned(), answer)), Some(&known));
            assert_eq!(row.result, verdict, "{row:?}");
        }
        assert_eq!(node(Err("no --node-name is given"), None).result, Verdict::Skip);
    }
}
