//! Namespaces that are not there yet, at the Federation API or in a member.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

use super::work::is;
use crate::api::marks::{FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL};

/// Makes the namespace, marked as ours, if there is none of that name.
///
/// # Errors
/// The API refuses, or does not answer.
pub async fn ensure(client: &Client, name: &str) -> Result<(), kube::Error> {
    let namespace = Namespace {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())])),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let created = Api::<Namespace>::all(client.clone()).create(&parameters, &namespace).await;
    // Somebody else may have been first.
    created.map(drop).or_else(|error| if is(&error, 409) { Ok(()) } else { Err(error) })
}
