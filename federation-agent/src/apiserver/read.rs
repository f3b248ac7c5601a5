//! Get, list and watch.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header;
use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::options;
use super::request::{Form, JSON, Parameters, Target};
use super::selector::Selector;
use super::status::ApiError;
use super::store::{Compacted, Key, Store, Stored};
use super::table;
use super::versions::in_version;
use super::watch::{self, Encoder};

pub fn get(
    store: &Store,
    target: &Target,
    form: Form,
    parameters: &Parameters,
) -> Result<Response, ApiError> {
    require_reached(store, parameters)?;
    let key = Key::new(target.kind, &target.namespace, &target.name);
    let stored = store.get(&key).ok_or_else(|| ApiError::not_found(target.kind, &target.name))?;
    let stored = in_version(target.kind, target.version, &stored);
    Ok(match form {
        Form::Json => json_response(stored.text.clone().into()),
        Form::Metadata(version) => json_response(table::partial(&stored.object, version).to_string().into()),
        Form::Table(version) => {
            let meta = json!({ "resourceVersion": stored.revision.to_string() });
            let table = table::render(target.kind, &[stored], version, &parameters.include_object, &meta);
            json_response(table.to_string().into())
        }
    })
}

/// Where a list that was cut short goes on.
#[derive(Serialize, Deserialize)]
struct Continue {
    revision: u64,
    namespace: String,
    name: String,
}

pub fn list(
    store: &Store,
    target: &Target,
    form: Form,
    parameters: &Parameters,
) -> Result<Response, ApiError> {
    options::check_list(parameters)?;
    require_reached(store, parameters)?;
    let kind = target.kind;
    let selector = Selector::parse(kind, &parameters.label_selector, &parameters.field_selector)?;
    let from = decode_continue(&parameters.r#continue)?;
    // All pages of a list show the state that the first one showed, as far back as changes are known.
    let exact = match &from {
        Some(from) => Some(from.revision),
        None if options::is_exact(parameters) => parameters.revision()?,
        None => None,
    };
    let snapshot = match exact {
        None => store.list(kind, target.list_namespace()),
        Some(revision) => {
            let snapshot = store.list_at(kind, target.list_namespace(), revision);
            snapshot.map_err(|compacted| too_old(&compacted, from.is_some()))?
        }
    };
    let revision = snapshot.revision;
    let mut selected = snapshot.objects.into_iter().filter(|(key, stored)| {
        let is_left = from.as_ref().is_none_or(|from| {
            (key.namespace.as_str(), key.name.as_str()) > (from.namespace.as_str(), from.name.as_str())
        });
        is_left && selector.matches(&stored.object)
    });
    let most = if parameters.limit == 0 { usize::MAX } else { parameters.limit };
    let page: Vec<_> = selected.by_ref().take(most).collect();
    let mut meta = json!({ "resourceVersion": revision.to_string() });
    let left = selected.count();
    if left > 0
        && let Some((last, _)) = page.last()
    {
        meta["continue"] = encode_continue(&Continue {
            revision,
            namespace: last.namespace.clone(),
            name: last.name.clone(),
        })?;
        meta["remainingItemCount"] = left.into();
    }
    let page: Vec<_> = page.iter().map(|(_, stored)| in_version(kind, target.version, stored)).collect();
    Ok(json_response(match form {
        Form::Json => list_text(target, &page, &meta),
        Form::Metadata(version) => json!({
            "apiVersion": format!("meta.k8s.io/{version}"),
            "kind": "PartialObjectMetadataList",
            "metadata": meta,
            "items": page.iter().map(|stored| table::partial(&stored.object, version)).collect::<Vec<_>>(),
        })
        .to_string()
        .into(),
        Form::Table(version) => {
            table::render(kind, &page, version, &parameters.include_object, &meta).to_string().into()
        }
    }))
}

fn too_old(compacted: &Compacted, is_continued: bool) -> ApiError {
    if is_continued {
        return ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You must start a new \
             list without the continue parameter.",
        );
    }
    watch::expired(*compacted)
}

/// The items' text as it is stored, with a list around it.
fn list_text(target: &Target, items: &[Arc<Stored>], meta: &Value) -> Body {
    let head = json!({
        "apiVersion": target.api_version(), "kind": format!("{}List", target.kind.name), "metadata": meta,
    });
    let mut text = head.to_string().into_bytes();
    text.pop();
    text.reserve(items.iter().map(|item| item.text.len() + 1).sum::<usize>() + 16);
    text.extend_from_slice(b",\"items\":[");
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        text.extend_from_slice(&item.text);
    }
    text.extend_from_slice(b"]}");
    text.into()
}

/// A stream of events: what is there where the request names no revision, then every change.
pub fn watch(
    store: &Store,
    target: &Target,
    form: Form,
    parameters: &Parameters,
) -> Result<Response, ApiError> {
    let kind = target.kind;
    let selector = Selector::parse(kind, &parameters.label_selector, &parameters.field_selector)?;
    options::check_watch(parameters)?;
    let asked = parameters.revision()?;
    let encoder = Encoder::new(kind, target.version, form, parameters.include_object.clone());
    let scope = watch::Scope { namespace: target.namespace.clone(), name: target.name.clone(), selector };
    let stream = watch::stream(store, kind, scope, encoder, asked, parameters)?;
    Ok(json_response(Body::from_stream(stream)))
}

/// A reader that has seen a revision may ask never to be taken back before it.
fn require_reached(store: &Store, parameters: &Parameters) -> Result<(), ApiError> {
    let current = store.revision();
    match parameters.revision()? {
        Some(asked) if asked > current => Err(ApiError::revision_too_large(asked, current)),
        _ => Ok(()),
    }
}

fn encode_continue(from: &Continue) -> Result<Value, ApiError> {
    let text = serde_json::to_vec(from).map_err(ApiError::internal)?;
    serde_json::to_value(ByteString(text)).map_err(ApiError::internal)
}

fn decode_continue(token: &str) -> Result<Option<Continue>, ApiError> {
    if token.is_empty() {
        return Ok(None);
    }
    let bytes: Option<ByteString> = serde_json::from_value(token.into()).ok();
    let from = bytes.and_then(|bytes| serde_json::from_slice(&bytes.0).ok());
    from.map(Some).ok_or_else(|| ApiError::bad_request("continue key is not valid"))
}

pub fn json_response(body: Body) -> Response {
    ([(header::CONTENT_TYPE, JSON)], body).into_response()
}
