//! What a cluster's Nodes say of where it is. Pure.

use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;

const REGION_LABEL: &str = "topology.kubernetes.io/region";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// What Nodes say. What none of them says is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    pub nodes: usize,
    /// Those that most Nodes name first.
    pub regions: Vec<String>,
    pub zones: Vec<String>,
    pub providers: Vec<String>,
    /// The Nodes' pod ranges, those that are neighbours joined.
    pub networks: Vec<IpNet>,
    /// Nodes that name no pod range: their network plugin gives addresses of its own.
    pub without_range: usize,
}

pub fn survey(nodes: &[Node]) -> Survey {
    let label = |key: &'static str| {
        by_frequency(nodes.iter().filter_map(move |node| node.labels().get(key).cloned()))
    };
    let ranges: Vec<_> = nodes.iter().map(ranges).collect();
    Survey {
        nodes: nodes.len(),
        regions: label(REGION_LABEL),
        zones: label(ZONE_LABEL),
        providers: by_frequency(nodes.iter().filter_map(provider)),
        networks: joined(ranges.iter().flatten().copied()),
        without_range: ranges.iter().filter(|ranges| ranges.is_empty()).count(),
    }
}

/// Distinct values, the most frequent first, equally frequent ones in order.
fn by_frequency(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for value in values.filter(|value| !value.is_empty()) {
        *counts.entry(value).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.into_iter().map(|(value, _)| value).collect()
}

/// The scheme of `providerID`, as `gce://project/zone/name` has one.
fn provider(node: &Node) -> Option<String> {
    let (scheme, _) = node.spec.as_ref()?.provider_id.as_deref()?.split_once("://")?;
    // Its own cloud controller calls it so, everybody else gcp.
    Some(if scheme == "gce" { "gcp" } else { scheme }.to_owned())
}

fn ranges(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let both = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    both.filter_map(|range| range.parse::<IpNet>().ok()).map(|range| range.trunc()).collect()
}

fn joined(ranges: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for range in ranges {
        match range {
            IpNet::V4(range) => v4.push(range),
            IpNet::V6(range) => v6.push(range),
        }
    }
    let v4 = Ipv4Net::aggregate(&v4).into_iter().map(IpNet::V4);
    v4.chain(Ipv6Net::aggregate(&v6).into_iter().map(IpNet::V6)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(region: &str, zone: &str, provider_id: &str, ranges: &[&str]) -> Node {
        let mut value = json!({ "metadata": { "labels": {} }, "spec": {} });
        let mut set = |pointer: &str, key: &str, content: Value| value[pointer][key] = content;
        if !ranges.is_empty() {
            set("spec", "podCIDRs", json!(ranges));
            set("spec", "podCIDR", json!(ranges[0]));
        }
        if !provider_id.is_empty() {
            set("spec", "providerID", json!(provider_id));
        }
        for (key, content) in [(REGION_LABEL, region), (ZONE_LABEL, zone)] {
            if !content.is_empty() {
                value["metadata"]["labels"][key] = json!(content);
            }
        }
        serde_json::from_value(value).expect("a Node")
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    #[test]
    fn nodes_tell_region_zones_provider_and_networks() {
        let survey = survey(&[
            node("europe-west1", "europe-west1-b", "gce://p/z/1", &["10.8.0.0/24", "fd00:8::/64"]),
            node("europe-west1", "europe-west1-d", "gce://p/z/2", &["10.8.1.0/24", "fd00:8:0:1::/64"]),
            node("europe-west1", "europe-west1-d", "gce://p/z/3", &["10.8.9.0/24"]),
        ]);
        let expected = Survey {
            nodes: 3,
            regions: vec!["europe-west1".to_owned()],
            zones: vec!["europe-west1-d".to_owned(), "europe-west1-b".to_owned()],
            providers: vec!["gcp".to_owned()],
            networks: nets(&["10.8.0.0/23", "10.8.9.0/24", "fd00:8::/63"]),
            without_range: 0,
        };
        assert_eq!(survey, expected);
    }

    #[test]
    fn what_no_node_says_is_empty_and_what_they_differ_in_is_told_whole() {
        assert_eq!(survey(&[]), Survey::default());
        let survey = survey(&[
            node("b", "", "kind://docker/x/y", &[]),
            node("a", "", "nonsense", &["10.0.0.0/24"]),
            node("a", "", "", &["rubbish"]),
        ]);
        assert_eq!(survey.regions, ["a", "b"]);
        assert_eq!(survey.zones, Vec::<String>::new());
        assert_eq!(survey.providers, ["kind"]);
        assert_eq!((survey.networks, survey.without_range), (nets(&["10.0.0.0/24"]), 2));
    }
}
