//! What is said of a service's shards: in numbers, and in words. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;

use super::conditions::Finding;
use crate::{
    api::{ShardState, ShardStatus, marks::CLUSTER_LABEL},
    model::ClusterName,
};

/// What became of a shard when it was last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Propagation {
    Done,
    /// Another owner's Service stands in its place.
    Conflict,
    Failed(String),
}

/// A cluster's place and how its shard fared.
pub(super) struct ShardReport {
    pub region: String,
    pub zone: String,
    pub propagation: Propagation,
}

pub(super) type ShardReports = BTreeMap<ClusterName, ShardReport>;

pub(super) fn shards(reports: &ShardReports, slices: &[EndpointSlice]) -> Vec<ShardStatus> {
    let status = |(name, report): (&ClusterName, &ShardReport)| {
        let (ready, all) = count(name, slices);
        let message = match &report.propagation {
            Propagation::Done => String::new(),
            Propagation::Conflict => format!(
                "Conflict: cluster {name} has a Service of this name that the federation did not make; annotate it with \
                 federation.dev/adopt=true, or remove it"
            ),
            Propagation::Failed(reason) => format!("Failed: {reason}"),
        };
        let state = match report.propagation {
            Propagation::Conflict => ShardState::Unhealthy,
            _ if ready > 0 => ShardState::Healthy,
            Propagation::Failed(_) => ShardState::Unknown,
            Propagation::Done => ShardState::Unhealthy,
        };
        ShardStatus {
            cluster: name.to_string(),
            region: report.region.clone(),
            zone: report.zone.clone(),
            state,
            ready_endpoints: ready,
            endpoints: all,
            message,
        }
    };
    reports.iter().map(status).collect()
}

fn count(cluster: &ClusterName, slices: &[EndpointSlice]) -> (u32, u32) {
    let of_cluster = slices
        .iter()
        .filter(|slice| slice.labels().get(CLUSTER_LABEL).is_some_and(|c| c == cluster.as_str()));
    let ready = |ready: Option<bool>| ready.unwrap_or(true);
    of_cluster.flat_map(|slice| &slice.endpoints).fold((0, 0), |(count, all), endpoint| {
        let is_ready = ready(endpoint.conditions.as_ref().and_then(|conditions| conditions.ready));
        (count + u32::from(is_ready), all + 1)
    })
}

/// `2/3` shards, `5/6` endpoints.
pub(super) fn figures(shards: &[ShardStatus]) -> (String, String) {
    let healthy = shards.iter().filter(|shard| shard.state == ShardState::Healthy).count();
    let ready: u32 = shards.iter().map(|shard| shard.ready_endpoints).sum();
    let all: u32 = shards.iter().map(|shard| shard.endpoints).sum();
    (format!("{healthy}/{}", shards.len()), format!("{ready}/{all}"))
}

pub(super) fn propagated(reports: &ShardReports) -> Finding {
    let missing: Vec<_> = reports
        .iter()
        .filter_map(|(name, report)| match &report.propagation {
            Propagation::Done => None,
            Propagation::Conflict => Some(format!("{name}: conflict")),
            Propagation::Failed(reason) => Some(format!("{name}: {reason}")),
        })
        .collect();
    if reports.is_empty() {
        Finding::no("Propagated", "NoCluster", "no accepted cluster is selected")
    } else if missing.is_empty() {
        Finding::yes(
            "Propagated",
            "AllShards",
            format!("the shards of {} clusters are in place", reports.len()),
        )
    } else {
        Finding::no("Propagated", "ShardsMissing", missing.join("; "))
    }
}

pub(super) fn ready(shards: &[ShardStatus]) -> Finding {
    let (healthy, _) = figures(shards);
    if shards.iter().any(|shard| shard.ready_endpoints > 0) {
        Finding::yes("Ready", "EndpointsReady", format!("{healthy} shards have ready endpoints"))
    } else {
        Finding::no("Ready", "NoReadyEndpoint", "no shard has a ready endpoint")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        ShardState::{Healthy, Unhealthy, Unknown},
        *,
    };

    fn slice(cluster: &str, ready: &[Option<bool>]) -> EndpointSlice {
        let endpoints: Vec<_> = ready
            .iter()
            .map(|ready| json!({"addresses": ["10.8.0.1"], "conditions": {"ready": ready}}))
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": "s", "labels": {"federation.dev/cluster": cluster}},
            "addressType": "IPv4", "endpoints": endpoints
        }))
        .unwrap()
    }

    #[test]
    fn shards_are_counted_and_judged() {
        let report = |propagation| ShardReport { region: "r".into(), zone: "z".into(), propagation };
        let reports: ShardReports = [
            ("a".into(), report(Propagation::Done)),
            ("b".into(), report(Propagation::Conflict)),
            ("c".into(), report(Propagation::Failed("no answer".into()))),
            ("d".into(), report(Propagation::Done)),
        ]
        .into();
        let slices = [slice("a", &[Some(true), Some(false), None]), slice("d", &[Some(false)])];
        let shards = shards(&reports, &slices);
        let states: Vec<_> =
            shards.iter().map(|shard| (shard.state, shard.ready_endpoints, shard.endpoints)).collect();
        assert_eq!(states, [(Healthy, 2, 3), (Unhealthy, 0, 0), (Unknown, 0, 0), (Unhealthy, 0, 1)]);
        assert_eq!(figures(&shards), ("1/4".to_owned(), "2/4".to_owned()));
        assert_eq!(propagated(&reports).holds, Some(false));
        assert_eq!(ready(&shards).holds, Some(true));
    }
}
