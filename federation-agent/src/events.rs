//! Kubernetes Events: what a person who describes an object must know.
//!
//! Of the core group, which every API server has and `kubectl describe` reads.

use std::hash::{Hash as _, Hasher as _};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use siphasher::sip::SipHasher24;
use tracing::warn;

use crate::{api::marks::FIELD_MANAGER, client::chain};

pub struct Events {
    client: Client,
    /// The node that speaks, if it is one.
    host: Option<String>,
}

/// Whether something is wrong, or right again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Normal,
    Warning,
}

impl Events {
    pub fn new(client: Client) -> Self {
        Self { client, host: None }
    }

    /// Those of a node's agent.
    pub fn of_node(client: Client, node: &str) -> Self {
        Self { client, host: Some(node.to_owned()) }
    }

    /// Warns of something about an object. The same warning again is counted on the first one's Event.
    ///
    /// An Event that cannot be written is told in the log: it is an echo of a condition, which is retried by itself.
    pub async fn warn(&self, about: ObjectReference, reason: &str, message: &str) {
        self.tell(Kind::Warning, about, reason, message).await;
    }

    /// As [`Self::warn`], of good news too.
    pub async fn tell(&self, kind: Kind, about: ObjectReference, reason: &str, message: &str) {
        let event = event(kind, about, reason, message, self.host.as_deref(), Timestamp::now());
        if let Err(error) = self.publish(&event).await {
            warn!(reason, message, "an Event cannot be written: {}", chain(&error));
        }
    }

    async fn publish(&self, event: &Event) -> Result<(), kube::Error> {
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        let name = event.metadata.name.as_deref().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let Some(first) = api.get_opt(name).await? else {
            let parameters =
                PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
            return api.create(&parameters, event).await.map(drop);
        };
        let again = json!({ "count": first.count.unwrap_or(1) + 1, "lastTimestamp": event.last_timestamp });
        api.patch(name, &PatchParams::default(), &Patch::Merge(&again)).await.map(drop)
    }
}

/// Its name says what it is about and what it says, so that the same one is found again.
fn event(
    kind: Kind,
    about: ObjectReference,
    reason: &str,
    message: &str,
    host: Option<&str>,
    now: Timestamp,
) -> Event {
    let mut hasher = SipHasher24::new();
    (&about.kind, &about.uid, reason, message, host).hash(&mut hasher);
    let now = Some(Time(now));
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:016x}", about.name.as_deref().unwrap_or_default(), hasher.finish())),
            // Events on objects without a namespace are kept in `default`.
            namespace: about.namespace.clone().or_else(|| Some("default".to_owned())),
            ..ObjectMeta::default()
        },
        involved_object: about,
        type_: Some(format!("{kind:?}")),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        count: Some(1),
        first_timestamp: now.clone(),
        last_timestamp: now,
        source: Some(EventSource {
            component: Some(FIELD_MANAGER.to_owned()),
            host: host.map(str::to_owned),
        }),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_warning_has_the_same_name_and_lives_beside_its_object() {
        let about = |namespace: Option<&str>, uid: &str| ObjectReference {
            name: Some("web".to_owned()),
            namespace: namespace.map(str::to_owned),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        let warning = |namespace, uid, message| {
            event(Kind::Warning, about(namespace, uid), "Conflict", message, None, Timestamp::now())
        };
        let first = warning(Some("n"), "1", "taken");
        assert_eq!(first.metadata.name, warning(Some("n"), "1", "taken").metadata.name);
        assert_ne!(first.metadata.name, warning(Some("n"), "2", "taken").metadata.name);
        assert_ne!(first.metadata.name, warning(Some("n"), "1", "free").metadata.name);
        assert_eq!(first.metadata.namespace.as_deref(), Some("n"));
        assert_eq!(warning(None, "1", "taken").metadata.namespace.as_deref(), Some("default"));
    }
}
