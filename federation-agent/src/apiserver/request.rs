//! What a request asks for: its path as a target, its query, the form of its answer, and its body.

use axum::body::Bytes;
use axum::extract::Query;
use http::{HeaderMap, Uri, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::kinds::{self, Kind};
use super::protobuf;
use super::status::ApiError;

/// As kube-apiserver's limit on bodies.
pub const MOST_BODY_BYTES: usize = 3 * 1024 * 1024;

/// The collection or the object that a path names.
#[derive(Clone, Debug)]
pub struct Target {
    pub kind: &'static Kind,
    /// The version that the request speaks.
    pub version: &'static str,
    /// Empty for all namespaces, and for kinds without.
    pub namespace: String,
    /// Empty for the collection.
    pub name: String,
    pub is_status: bool,
}

impl Target {
    pub fn parse(path: &str) -> Result<Self, ApiError> {
        Self::parse_segments(path).ok_or_else(ApiError::no_such_path)
    }

    fn parse_segments(path: &str) -> Option<Self> {
        let segments: Vec<_> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, plural, rest) = match rest {
            // A namespace's own subresources, and not a kind inside of it.
            ["namespaces", _, "status"] => ("", "namespaces", &rest[1..]),
            ["namespaces", namespace, plural, rest @ ..] if !namespace.is_empty() => {
                (*namespace, *plural, rest)
            }
            [plural, rest @ ..] => ("", *plural, rest),
            [] => return None,
        };
        let (kind, version) = kinds::find(group, version, plural)?;
        let (name, is_status) = match rest {
            [] => ("", false),
            [name] => (*name, false),
            [name, "status"] if kind.has_status() => (*name, true),
            _ => return None,
        };
        let fits =
            if kind.namespaced { name.is_empty() || !namespace.is_empty() } else { namespace.is_empty() };
        let target =
            Self { kind, version, namespace: namespace.to_owned(), name: name.to_owned(), is_status };
        fits.then_some(target)
    }

    /// The `apiVersion` of what goes in and comes out.
    pub fn api_version(&self) -> String {
        self.kind.api_version_of(self.version)
    }

    /// The namespace of a list: none for all.
    pub fn list_namespace(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(self.namespace.as_str())
    }
}

/// The query of a request; what is not here is ignored, as kube-apiserver ignores it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Parameters {
    pub label_selector: String,
    pub field_selector: String,
    #[serde(deserialize_with = "number")]
    pub limit: usize,
    pub r#continue: String,
    pub resource_version: String,
    pub resource_version_match: String,
    #[serde(deserialize_with = "flag")]
    pub watch: bool,
    #[serde(deserialize_with = "flag")]
    pub allow_watch_bookmarks: bool,
    #[serde(deserialize_with = "stated_flag")]
    pub send_initial_events: Option<bool>,
    #[serde(deserialize_with = "number")]
    pub timeout_seconds: u64,
    pub field_manager: String,
    pub field_validation: String,
    #[serde(deserialize_with = "stated_flag")]
    pub force: Option<bool>,
    pub dry_run: String,
    pub propagation_policy: String,
    pub include_object: String,
}

impl Parameters {
    pub fn of(uri: &Uri) -> Result<Self, ApiError> {
        let Query(parameters) =
            Query::try_from_uri(uri).map_err(|error| ApiError::bad_request(error.to_string()))?;
        Ok(parameters)
    }

    /// The revision that a read asked for; none where any will do.
    pub fn revision(&self) -> Result<Option<u64>, ApiError> {
        match self.resource_version.as_str() {
            "" | "0" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!("invalid resource version \"{text}\": it must be a number"))
            }),
        }
    }
}

/// Go's reading of a boolean in a query: everything but `false` and `0` is true.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(!(text == "0" || text.eq_ignore_ascii_case("false")))
}

/// As [`flag`], where it matters whether it is there at all.
fn stated_flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    flag(deserializer).map(Some)
}

/// An empty number is zero.
fn number<'de, D: Deserializer<'de>, N: std::str::FromStr + Default>(deserializer: D) -> Result<N, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(N::default());
    }
    text.parse().map_err(|_| serde::de::Error::custom(format!("\"{text}\" is not a number that fits here")))
}

/// The form in which a reader wants objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    /// Rows and columns, printed as they are by kubectl; the version of `meta.k8s.io`.
    Table(&'static str),
    /// Metadata alone; the version of `meta.k8s.io`.
    Metadata(&'static str),
}

impl Form {
    pub fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        if accept.trim().is_empty() {
            return Ok(Self::Json);
        }
        accept.split(',').find_map(Self::parse).ok_or_else(|| ApiError::not_acceptable(&["application/json"]))
    }

    fn parse(range: &str) -> Option<Self> {
        let mut parts = range.split(';').map(str::trim);
        if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
            return None;
        }
        let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
        let get = |name: &str| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let Some(form) = get("as") else { return Some(Self::Json) };
        if get("g") != Some("meta.k8s.io") {
            return None;
        }
        let version = ["v1", "v1beta1"].into_iter().find(|version| get("v") == Some(version))?;
        match form {
            "Table" => Some(Self::Table(version)),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Self::Metadata(version)),
            _ => None,
        }
    }
}

pub const JSON: &str = "application/json";
pub const YAML: &str = "application/yaml";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const MERGE_PATCH: &str = "application/merge-patch+json";
pub const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
pub const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// The body's media type, without parameters; JSON where none is given.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or(JSON);
    value.split(';').next().unwrap_or(JSON).trim()
}

/// A body in JSON or, where its media type says so, in YAML or Protocol Buffers.
pub fn decode<T: DeserializeOwned>(headers: &HeaderMap, body: &Bytes) -> Result<T, ApiError> {
    let malformed = |error: &dyn std::fmt::Display| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {JSON}): {error}"
        ))
    };
    match media_type(headers) {
        JSON | JSON_PATCH | MERGE_PATCH | STRATEGIC_PATCH => {
            serde_json::from_slice(body).map_err(|error| malformed(&error))
        }
        YAML | APPLY_PATCH => serde_yaml_ng::from_slice(body).map_err(|error| malformed(&error)),
        protobuf::MEDIA_TYPE => match protobuf::decode_object(body).map_err(|error| malformed(&error))? {
            Some(object) => serde_json::from_value(object).map_err(|error| malformed(&error)),
            None => Err(ApiError::unsupported_media_type(&[JSON, YAML])),
        },
        _ => Err(ApiError::unsupported_media_type(&[JSON, YAML])),
    }
}

/// A body that has to be one object.
pub fn decode_object(headers: &HeaderMap, body: &Bytes) -> Result<Value, ApiError> {
    let value: Value = decode(headers, body)?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(ApiError::bad_request("the body of the request must be a JSON object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_collections_objects_and_their_halves() {
        let cases = [
            ("/api/v1/namespaces", "namespaces||"),
            ("/api/v1/namespaces/a", "namespaces||a"),
            ("/api/v1/namespaces/a/status", "namespaces||a status"),
            ("/api/v1/services", "services||"),
            ("/api/v1/namespaces/a/services", "services|a|"),
            ("/api/v1/namespaces/a/services/b", "services|a|b"),
            ("/api/v1/namespaces/a/services/b/status", "services|a|b status"),
            ("/apis/federation.dev/v1alpha1/clusters/c", "clusters||c"),
            ("/apis/discovery.k8s.io/v1/namespaces/a/endpointslices", "endpointslices|a|"),
            ("/apis/multicluster.x-k8s.io/v1beta1/serviceexports", "serviceexports||"),
            ("/apis/multicluster.x-k8s.io/v1alpha1/namespaces/a/serviceexports/b", "serviceexports|a|b"),
        ];
        for (path, expected) in cases {
            let target = Target::parse(path).unwrap_or_else(|error| panic!("{path}: {error}"));
            let half = if target.is_status { " status" } else { "" };
            let found = format!("{}|{}|{}{half}", target.kind.plural, target.namespace, target.name);
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn paths_that_name_nothing_are_not_found() {
        for path in [
            "/",
            "/api",
            "/api/v2/services",
            "/api/v1/pods",
            "/api/v1/services/without-a-namespace",
            "/api/v1/namespaces/a/nodes",
            "/api/v1/namespaces/a/services/b/scale",
            "/api/v1/namespaces/a/secrets/b/status",
            "/apis/federation.dev/v1/clusters",
        ] {
            assert!(Target::parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn the_first_form_that_can_be_had_is_taken() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let cases = [
            ("", Some(Form::Json)),
            ("*/*", Some(Form::Json)),
            ("application/json", Some(Form::Json)),
            (table, Some(Form::Table("v1"))),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Some(Form::Table("v1beta1")),
            ),
            ("application/json;as=Table;v=v2;g=meta.k8s.io,application/json", Some(Form::Json)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Form::Json)),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(Form::Metadata("v1"))),
            ("application/vnd.kubernetes.protobuf", None),
        ];
        for (accept, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().expect("a header"));
            assert_eq!(Form::of(&headers).ok(), expected, "{accept}");
        }
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        for (query, expected) in
            [("watch=1", true), ("watch", true), ("watch=False", false), ("watch=0", false), ("", false)]
        {
            let uri = format!("/api/v1/services?{query}").parse().expect("a URI");
            assert_eq!(Parameters::of(&uri).expect("parameters").watch, expected, "{query}");
        }
    }
}
