//! Where this node stands by the labels of its Node object, which its own cluster's API tells; and, kept in the state
//! folder, what it told last.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt as _};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::{
    Args,
    readiness::Readiness,
    start::{AGAIN, listed},
};
use crate::{
    client::{Login, chain},
    model::{Cluster, Zone},
};

const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";

/// The file's name in the state folder.
pub(super) const FILE: &str = "node.json";

/// How long the API may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a Node object says of where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    pub node: String,
    pub zone: Option<String>,
    pub region: Option<String>,
}

/// Why there are none.
#[derive(Debug)]
pub enum Missing {
    /// The API answers that there is no such Node.
    NoSuchNode,
    Other(anyhow::Error),
}

/// What this node's own cluster says; nothing where nobody asks for it, or no API can be asked. What was known last stands
/// for an API that does not answer.
///
/// # Errors
/// The cluster has no such Node.
pub(super) async fn learn(args: &Args, readiness: &Readiness) -> Result<Option<Labels>> {
    if args.node.zone.is_some() {
        return Ok(None);
    }
    let Some(login) = Login::at_own_cluster(args.node_kubeconfig.as_deref()) else { return Ok(None) };
    let path = args.node.state_dir.join(FILE);
    let node = args.node_name.as_str();
    loop {
        let missing = match labels(&login, node).await {
            Ok(labels) => {
                if let Err(error) = save(&path, &labels) {
                    warn!(
                        "a restart without the API of this cluster would not find where this node stands: {error:#}"
                    );
                }
                return Ok(Some(labels));
            }
            Err(missing) => missing,
        };
        let reason = match &missing {
            Missing::NoSuchNode => no_such_node(node),
            Missing::Other(error) => format!("{error:#}"),
        };
        if let Some(last) = load(&path, node) {
            warn!(
                "where this node stands is what was known last, since its own cluster does not say: {reason}"
            );
            return Ok(Some(last));
        }
        if matches!(missing, Missing::NoSuchNode) {
            bail!(reason);
        }
        readiness.waits(format!(
            "the agent does not know its node's zone, and waits until it does (--zone would tell it): {reason}"
        ));
        sleep(AGAIN).await;
    }
}

/// Asks once.
///
/// # Errors
/// Why there is no answer.
pub async fn labels(login: &Login, node: &str) -> Result<Labels, Missing> {
    let client = login.client().await.map_err(Missing::Other)?;
    let place = || format!("read the Node {node} with {login}");
    let asked = timeout(PATIENCE, Api::<Node>::all(client).get(node)).await;
    let found = match asked {
        Ok(Ok(found)) => found,
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Err(Missing::NoSuchNode),
        Ok(Err(error)) => return Err(Missing::Other(anyhow!("{}", chain(&error)).context(place()))),
        Err(_) => {
            let error = anyhow!("no answer within {} s", PATIENCE.as_secs());
            return Err(Missing::Other(error.context(place())));
        }
    };
    let label = |name: &str| found.labels().get(name).filter(|value| !value.is_empty()).cloned();
    Ok(Labels { node: node.to_owned(), zone: label(ZONE), region: label(REGION) })
}

/// What a person is told.
pub fn no_such_node(node: &str) -> String {
    format!("this cluster has no Node {node}: give --node-name as `kubectl get nodes` lists it")
}

impl Labels {
    /// The zone that the node stands in, with what there is to remark. A label is taken at its word, as the zones of
    /// endpoints are: else a node would not find those that stand beside it.
    pub fn zone_in(&self, name: &str, cluster: &Cluster) -> (Zone, Vec<String>) {
        let mut remarks = Vec::new();
        let node = &self.node;
        if let Some(region) = self.region.as_deref().filter(|region| *region != cluster.region.as_str()) {
            remarks.push(format!(
                "the Node {node} is labelled as of region {region}, but the Cluster {name} is of {}: what the Cluster says \
                 stands; correct one of them",
                cluster.region
            ));
        }
        let Some(zone) = self.zone.as_deref().map(Zone::from) else {
            let first = &cluster.zones[0];
            remarks.push(format!(
                "the Node {node} has no label {ZONE}: it stands in the first zone of its cluster, {first}; label it, or \
                 give --zone"
            ));
            return (first.clone(), remarks);
        };
        if !cluster.zones.contains(&zone) {
            remarks.push(format!(
                "the Node {node} is in the zone {zone}, which the Cluster {name} does not list ({}): it stands there, but \
                 no name or virtual IP is of that zone until you add it to spec.zones",
                listed(cluster)
            ));
        }
        (zone, remarks)
    }
}

/// In the place of what was saved before.
fn save(path: &Path, labels: &Labels) -> Result<()> {
    let folder = path.parent().context("it has a folder")?;
    let save = || -> Result<()> {
        let mut file = tempfile::Builder::new().prefix(".node-").tempfile_in(folder)?;
        file.write_all(&serde_json::to_vec(labels)?)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(folder)?.sync_all()?;
        Ok(())
    };
    save().with_context(|| format!("write {}", path.display()))
}

/// What was saved of this node. What cannot be used is as good as nothing, and told.
fn load(path: &Path, node: &str) -> Option<Labels> {
    let read = || -> Result<Option<Labels>> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        Ok(Some(serde_json::from_slice(&bytes)?))
    };
    let labels = read().unwrap_or_else(|error| {
        warn!("{} cannot be used and is ignored: {error:#}", path.display());
        None
    });
    labels.filter(|labels| labels.node == node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(zone: Option<&str>, region: Option<&str>) -> Labels {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Labels { node: "node-1".to_owned(), zone: owned(zone), region: owned(region) }
    }

    #[test]
    fn a_label_is_taken_at_its_word_and_what_does_not_fit_is_told() {
        let cluster =
            Cluster { provider: "gcp".into(), region: "r".into(), zones: vec!["z1".into(), "z2".into()] };
        for (told, zone, remarks) in [
            (labels(Some("z2"), Some("r")), "z2", &[][..]),
            (labels(Some("z2"), None), "z2", &[]),
            (labels(None, None), "z1", &["has no label topology.kubernetes.io/zone"]),
            (labels(Some("z3"), Some("r")), "z3", &["does not list (z1, z2)"]),
            (labels(Some("z1"), Some("s")), "z1", &["region s, but the Cluster here is of r"]),
        ] {
            let (found, said) = told.zone_in("here", &cluster);
            assert_eq!(found.as_str(), zone);
            assert_eq!(said.len(), remarks.len(), "{said:?}");
            for (said, part) in said.iter().zip(remarks) {
                assert!(said.contains(part), "{said}");
            }
        }
    }

    #[test]
    fn what_was_saved_is_of_one_node_and_a_damaged_file_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(load(&path, "node-1"), None);
        let known = labels(Some("z2"), None);
        save(&path, &known).unwrap();
        assert_eq!(load(&path, "node-1"), Some(known));
        assert_eq!(load(&path, "node-2"), None);
        fs::write(&path, "{").unwrap();
        assert_eq!(load(&path, "node-1"), None);
    }
}
