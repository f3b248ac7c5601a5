//! From a request to its answer: who asks, for what, and which of the generic steps carries it out.

use std::sync::Arc;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusDetails};
use serde_json::json;

use super::access::{Identity, Tokens};
use super::delete::{self, DeleteOptions, Deleted};
use super::kinds::Kind;
use super::object::Object as _;
use super::patch::Patch;
use super::request::{self, Form, MOST_BODY_BYTES, Parameters, Target};
use super::selector::Selector;
use super::status::ApiError;
use super::store::{Key, Store, Stored, Transaction};
use super::versions::in_version;
use super::write::{self, Options, Written};
use super::{discovery, openapi, options, read};

pub struct Api {
    pub store: Store,
    pub tokens: Tokens,
}

pub fn router(api: Api) -> Router {
    let api = Arc::new(api);
    let authenticated = Router::new()
        .merge(discovery::routes())
        .merge(openapi::routes())
        .fallback(resource)
        .layer(middleware::from_fn_with_state(Arc::clone(&api), authenticate))
        .with_state(api);
    // What a probe may ask without a token, as on any cluster.
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(|| async { "ok" }))
        .route("/version", get(discovery::version))
        .merge(authenticated)
}

async fn authenticate(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    match api.tokens.identify(request.headers()) {
        Ok(identity) => {
            request.extensions_mut().insert(identity);
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn resource(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let target = Target::parse(request.uri().path())?;
    let parameters = Parameters::of(request.uri())?;
    let (parts, body) = request.into_parts();
    let identity = parts.extensions.get::<Identity>().copied().ok_or_else(ApiError::unauthorized)?;
    identity.authorize(&parts.method, &target, &parameters)?;
    if parts.method == Method::GET || parts.method == Method::HEAD {
        let form = Form::of(&parts.headers)?;
        return match (target.name.is_empty(), parameters.watch) {
            (_, true) => read::watch(&api.store, &target, form, &parameters),
            (true, false) => read::list(&api.store, &target, form, &parameters),
            (false, false) => read::get(&api.store, &target, form, &parameters),
        };
    }
    let body = to_bytes(body, MOST_BODY_BYTES).await.map_err(|_| ApiError::too_large(MOST_BODY_BYTES))?;
    let change = Change { target, parameters, headers: parts.headers, body };
    match (parts.method, change.target.name.is_empty()) {
        (Method::POST, true) => change.create(&api.store).await,
        (Method::PUT, false) => change.replace(&api.store).await,
        (Method::PATCH, false) => change.patch(&api.store).await,
        (Method::DELETE, false) if !change.target.is_status => change.delete(&api.store).await,
        (Method::DELETE, true) => change.delete_collection(&api.store).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// A request that changes something.
struct Change {
    target: Target,
    parameters: Parameters,
    headers: HeaderMap,
    body: Bytes,
}

impl Change {
    async fn create(self, store: &Store) -> Result<Response, ApiError> {
        if self.target.kind.namespaced && self.target.namespace.is_empty() {
            return Err(ApiError::method_not_allowed());
        }
        let object = request::decode_object(&self.headers, &self.body)?;
        let (options, dry_run) = self.options("CreateOptions", false)?;
        let target = self.target;
        let (kind, version) = (target.kind, target.version);
        let written =
            commit(store, dry_run, move |transaction| write::create(transaction, &target, object, &options));
        Ok(answer(kind, version, written.await?))
    }

    async fn replace(self, store: &Store) -> Result<Response, ApiError> {
        let object = request::decode_object(&self.headers, &self.body)?;
        let (options, dry_run) = self.options("UpdateOptions", false)?;
        let target = self.target;
        let (kind, version) = (target.kind, target.version);
        let written =
            commit(store, dry_run, move |transaction| write::replace(transaction, &target, object, &options));
        Ok(answer(kind, version, written.await?))
    }

    async fn patch(self, store: &Store) -> Result<Response, ApiError> {
        let patch = Patch::decode(self.target.kind, &self.headers, &self.body)?;
        let (options, dry_run) = self.options("PatchOptions", matches!(patch, Patch::Apply(_)))?;
        let target = self.target;
        let (kind, version) = (target.kind, target.version);
        let written =
            commit(store, dry_run, move |transaction| write::patch(transaction, &target, &patch, &options));
        Ok(answer(kind, version, written.await?))
    }

    async fn delete(self, store: &Store) -> Result<Response, ApiError> {
        let body = self.delete_options()?;
        let (dry_run, propagation) = (body.is_dry_run(&self.parameters)?, body.propagation()?);
        let target = self.target;
        let (kind, version) = (target.kind, target.version);
        let key = Key::new(kind, &target.namespace, &target.name);
        let deleted = commit(store, dry_run, move |transaction| {
            delete::delete_one(transaction, kind, &key, &body.preconditions, propagation)
        });
        Ok(match deleted.await? {
            Deleted::Marked(stored) => object_response(StatusCode::OK, &in_version(kind, version, &stored)),
            Deleted::Gone(stored) => {
                let details = StatusDetails {
                    name: Some(stored.object.name().to_owned()),
                    group: (!kind.group.is_empty()).then(|| kind.group.to_owned()),
                    kind: Some(kind.plural.to_owned()),
                    uid: Some(stored.object.uid().to_owned()),
                    ..StatusDetails::default()
                };
                let status = Status {
                    status: Some("Success".to_owned()),
                    details: Some(details),
                    ..Status::default()
                };
                axum::Json(status).into_response()
            }
        })
    }

    async fn delete_collection(self, store: &Store) -> Result<Response, ApiError> {
        let body = self.delete_options()?;
        let (dry_run, propagation) = (body.is_dry_run(&self.parameters)?, body.propagation()?);
        let target = self.target;
        let (kind, version) = (target.kind, target.version);
        let parameters = self.parameters;
        let selector = Selector::parse(kind, &parameters.label_selector, &parameters.field_selector)?;
        let deleted = commit(store, dry_run, move |transaction| {
            delete::delete_collection(transaction, &target, &selector, propagation)
        });
        let items: Vec<_> =
            deleted.await?.iter().map(|stored| in_version(kind, version, stored).object.clone()).collect();
        let list = json!({
            "apiVersion": kind.api_version_of(version),
            "kind": format!("{}List", kind.name),
            "metadata": { "resourceVersion": store.revision().to_string() },
            "items": items,
        });
        Ok(axum::Json(list).into_response())
    }

    fn delete_options(&self) -> Result<DeleteOptions, ApiError> {
        if self.body.is_empty() {
            Ok(DeleteOptions::in_query(&self.parameters))
        } else {
            request::decode(&self.headers, &self.body)
        }
    }

    /// What a write says beside its object, and whether it is a dry run.
    fn options(&self, kind: &str, is_apply: bool) -> Result<(Options, bool), ApiError> {
        let options = options::of_write(kind, &self.parameters, &self.headers, is_apply)?;
        Ok((options, options::is_dry_run(kind, &self.parameters, &[])?))
    }
}

/// Runs `job` as a write of the store; of a dry run nothing stays but the answer.
async fn commit<T, F>(store: &Store, dry_run: bool, job: F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: FnOnce(&mut Transaction<'_>) -> Result<T, ApiError> + Send + 'static,
{
    let write = store.write(move |transaction| {
        if dry_run {
            transaction.pretend();
        }
        let result = job(transaction)?;
        if dry_run {
            transaction.roll_back();
        }
        Ok(result)
    });
    write.await
}

fn answer(kind: &Kind, version: &str, written: Written) -> Response {
    let code = if written.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = object_response(code, &in_version(kind, version, &written.stored));
    for warning in written.warnings {
        let text = format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\""));
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

fn object_response(code: StatusCode, stored: &Stored) -> Response {
    let mut response = read::json_response(stored.text.clone().into());
    *response.status_mut() = code;
    response
}
