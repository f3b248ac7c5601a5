//! Looks up load balancers that are known by a name alone, again and again: what a name leads to may change.
//!
//! Only needed where several stand for one name of ours: one alone is told as an alias.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use futures::{StreamExt as _, stream};
use tokio::{net::lookup_host, time::timeout};
use tracing::warn;

use super::external::Hosts;
use crate::model::HostName;

/// How often each is looked up.
pub const PERIOD: Duration = Duration::from_secs(30);

const PATIENCE: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 16;

/// Looks up `names` by the resolver of this machine. Who cannot be found is where he was `before`.
pub async fn look_up(names: BTreeSet<HostName>, before: &Hosts) -> Hosts {
    let one = |name: HostName| async move {
        let found = match timeout(PATIENCE, lookup_host((name.as_str(), 0))).await {
            Ok(Ok(found)) => Ok(found.map(|address| address.ip()).collect::<BTreeSet<IpAddr>>()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        (name, found)
    };
    let mut hosts = Hosts::new();
    let mut found = stream::iter(names).map(one).buffer_unordered(AT_ONCE);
    while let Some((name, found)) = found.next().await {
        let addresses = found.unwrap_or_else(|reason| {
            warn!(host = %name, %reason, "a load balancer cannot be looked up and stays where it was");
            before.get(&name).cloned().unwrap_or_default()
        });
        hosts.insert(name, addresses);
    }
    hosts
}
