//! The interfaces of this network namespace, over netlink: pods' host-side ends as they come and go.
//!
//! Only found here. What is attached to them is the business of `dataplane`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
};

use anyhow::{Context as _, Result};
use futures::{
    FutureExt as _, Stream, StreamExt as _, TryStreamExt as _, channel::mpsc::UnboundedReceiver, stream,
};
use rtnetlink::{
    MulticastGroup, new_connection, new_multicast_connection,
    packet_core::NetlinkMessage,
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    },
    sys::SocketAddr,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// What happened to the interface of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceEvent {
    Appeared { index: u32, name: String },
    Gone { index: u32 },
}

/// The pods' interfaces, those that exist first.
///
/// A pod's interface is a veth whose peer is in another network namespace, or, where a pattern is given, one whose
/// name matches it (`*` stands for any run of characters, `?` for one). The uplink never is.
///
/// # Errors
/// Netlink cannot be listened to. Each item says so too when it ends to work.
pub fn watch(
    uplink: u32,
    pattern: Option<&str>,
) -> Result<impl Stream<Item = Result<InterfaceEvent>> + use<>> {
    let pods = Pods { uplink, pattern: pattern.map(str::to_owned), known: BTreeSet::new() };
    let watch = Watch::start(pods)?;
    Ok(stream::try_unfold(watch, |mut watch| async move { Ok(Some((watch.next().await?, watch))) }))
}

/// What is told of an interface, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    index: u32,
    name: String,
    veth_to_another_namespace: bool,
}

impl Link {
    fn read(message: &LinkMessage) -> Option<Self> {
        let mut name = None;
        let mut veth = false;
        let mut peer_elsewhere = false;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(it) => name = Some(it.clone()),
                LinkAttribute::LinkNetNsId(_) => peer_elsewhere = true,
                LinkAttribute::LinkInfo(infos) => {
                    veth = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
                }
                _ => {}
            }
        }
        Some(Self {
            index: message.header.index,
            name: name?,
            veth_to_another_namespace: veth && peer_elsewhere,
        })
    }
}

/// Which interfaces are pods', and those of them that exist.
#[derive(Debug)]
struct Pods {
    uplink: u32,
    pattern: Option<String>,
    known: BTreeSet<u32>,
}

impl Pods {
    fn is_pod(&self, link: &Link) -> bool {
        link.index != self.uplink
            && match &self.pattern {
                Some(pattern) => matches(pattern.as_bytes(), link.name.as_bytes()),
                None => link.veth_to_another_namespace,
            }
    }

    /// What has happened since the last time, now that `links` is all there is.
    fn listed(&mut self, links: Vec<Link>) -> Vec<InterfaceEvent> {
        let pods: BTreeMap<_, _> =
            links.into_iter().filter(|link| self.is_pod(link)).map(|link| (link.index, link.name)).collect();
        let known = mem::replace(&mut self.known, pods.keys().copied().collect());
        let gone = known.iter().filter(|index| !pods.contains_key(index));
        let gone = gone.map(|index| InterfaceEvent::Gone { index: *index });
        let appeared = pods.iter().filter(|(index, _)| !known.contains(index));
        let appeared =
            appeared.map(|(index, name)| InterfaceEvent::Appeared { index: *index, name: name.clone() });
        gone.chain(appeared).collect()
    }
}

/// How many times as long as it took a listing rests.
const REST: u32 = 4;

type Messages = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// Lists the interfaces whenever the kernel says that something about them has changed.
///
/// What the messages say in detail is not used. They can be lost (the kernel drops them when they come faster than
/// they are read, and says so by one more message), some of them mean bridge ports and not interfaces, and each would
/// need care with a listing that has overtaken it. A listing takes a few milliseconds on a node with hundreds of pods;
/// when they come and go at once, messages gather while it rests, so that it takes a part of one processor only.
struct Watch {
    pods: Pods,
    messages: Messages,
    stale: bool,
    /// No listing before this.
    rests_until: Instant,
    events: VecDeque<InterfaceEvent>,
    /// Reads the socket for as long as the watch lives.
    _connection: JoinSet<()>,
}

impl Watch {
    /// Listens before the first listing, so that nothing falls between the two.
    fn start(pods: Pods) -> Result<Self> {
        let (connection, _, messages) =
            new_multicast_connection(&[MulticastGroup::Link]).context("listen to netlink for interfaces")?;
        let mut reader = JoinSet::new();
        reader.spawn(connection);
        Ok(Self {
            pods,
            messages,
            stale: true,
            rests_until: Instant::now(),
            events: VecDeque::new(),
            _connection: reader,
        })
    }

    async fn next(&mut self) -> Result<InterfaceEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if !mem::take(&mut self.stale) {
                self.messages.next().await.context("netlink has stopped telling of interfaces")?;
            }
            sleep_until(self.rests_until).await;
            // One listing answers all messages that are older than it.
            while self.messages.next().now_or_never().flatten().is_some() {}
            let begun = Instant::now();
            let links = list().await?;
            self.rests_until = Instant::now() + begun.elapsed() * REST;
            self.events.extend(self.pods.listed(links));
        }
    }
}

/// Every interface of this network namespace.
async fn list() -> Result<Vec<Link>> {
    let (connection, handle, _) = new_connection().context("open netlink")?;
    // Ends with the last handle.
    tokio::spawn(connection);
    let links: Vec<_> = handle.link().get().execute().try_collect().await.context("list the interfaces")?;
    Ok(links.iter().filter_map(Link::read).collect())
}

/// Whether `name` is what `pattern` describes.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|skipped| matches(rest, &name[skipped..])),
        ([b'?', pattern @ ..], [_, name @ ..]) => matches(pattern, name),
        ([p, pattern @ ..], [n, name @ ..]) => p == n && matches(pattern, name),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
