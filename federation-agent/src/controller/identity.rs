//! Which cluster a cluster is: its own word for itself, a `ClusterProperty` of group `about.k8s.io` (KEP-2149).

use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::Value;

/// The property whose value tells the cluster from all others of its cluster set.
const PROPERTY: &str = "cluster.clusterset.k8s.io";
/// The newest first; the value is at the same place in all of them.
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];

/// The cluster's id; `None` where it has none, or does not let us read it.
///
/// # Errors
/// Its API does not answer that question.
pub async fn cluster_id(client: &Client) -> Result<Option<String>, kube::Error> {
    for version in VERSIONS {
        let kind = GroupVersionKind::gvk("about.k8s.io", version, "ClusterProperty");
        let resource = ApiResource::from_gvk_with_plural(&kind, "clusterproperties");
        let properties: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        match properties.get_opt(PROPERTY).await {
            Ok(Some(property)) => return Ok(value(&property)),
            // No such property, or no such kind.
            Ok(None) => {}
            Err(kube::Error::Api(status)) if status.code == 403 => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn value(property: &DynamicObject) -> Option<String> {
    let value = property.data.pointer("/spec/value").and_then(Value::as_str)?;
    Some(value.to_owned()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// A cluster that answers the property in one version with this, and with that code.
    fn cluster(served: &'static str, code: u16, body: Value) -> Client {
        let answer = move |request: Request<Body>| {
            let path = format!("/apis/about.k8s.io/{served}/clusterproperties/cluster.clusterset.k8s.io");
            let (code, body) =
                if request.uri().path() == path { (code, body.clone()) } else { (404, failure(404)) };
            let response = Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
            std::future::ready(Ok::<_, Infallible>(response.expect("a response")))
        };
        Client::new(tower::service_fn(answer), "default")
    }

    fn failure(code: u16) -> Value {
        let reason = if code == 404 { "NotFound" } else { "no" };
        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": reason, "code": code })
    }

    fn property(value: &str) -> Value {
        let (name, kind) = ("cluster.clusterset.k8s.io", "ClusterProperty");
        json!({ "apiVersion": "about.k8s.io/v1", "kind": kind, "metadata": { "name": name }, "spec": { "value": value } })
    }

    #[tokio::test]
    async fn the_id_is_read_in_either_version_and_may_be_missing() {
        let cases = [
            ("v1beta1", 200, property("one"), Some("one")),
            ("v1alpha1", 200, property("two"), Some("two")),
            ("v1beta1", 200, property(""), None),
            ("v1beta1", 403, failure(403), None),
            ("v2", 200, property("three"), None),
        ];
        for (version, code, body, expected) in cases {
            let id = cluster_id(&cluster(version, code, body)).await.expect("an answer");
            assert_eq!(id.as_deref(), expected, "{version} {code}");
        }
        assert!(cluster_id(&cluster("v1beta1", 500, failure(500))).await.is_err());
    }
}
