//! What stands before a cluster's API server: who may come in, and what each may do.
//!
//! Service accounts log in with tokens that are made here, as by the token controller: in a Secret of their type, or in a
//! pod's volume. What their roles do not allow is refused as kube-apiserver would, and noted; so is what they used. All
//! that the API server has a kind for it answers itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard},
};

use anyhow::{Context as _, Result, ensure};
use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Request, State as Extracted},
    response::{IntoResponse as _, Response},
};
use axum_server::tls_rustls::{RustlsConfig, from_tcp_rustls};
use federation_agent::api::SYSTEM_NAMESPACE;
use http::{Method, StatusCode, header};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use serde_json::{Value, json};

use super::{
    rules::{self, Account, Attempt, Permission},
    shelf::{self, Query, Shelf},
};
use crate::lab::Host;

const MOST_BYTES: usize = 1 << 22;
const PORT: u16 = 443;
const ADMINISTRATOR: &str = "administrator";
const TOKEN_TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_ANNOTATION: &str = "kubernetes.io/service-account.name";

/// What a request is about, from its path.
#[derive(Clone, Default)]
pub struct Target {
    pub group: String,
    pub version: String,
    pub namespace: String,
    /// Empty where the path is no object's, but tells of the server.
    pub resource: String,
    pub name: String,
    pub subresource: String,
}

#[derive(Default)]
struct Notes {
    tokens: BTreeMap<String, Account>,
    used: BTreeMap<Account, BTreeSet<Permission>>,
    refused: BTreeSet<(Account, Attempt)>,
    /// The federation's namespace was deleted.
    without_system: bool,
}

pub struct Front {
    behind: Client,
    shelf: Arc<Shelf>,
    address: SocketAddr,
    ca: String,
    notes: Mutex<Notes>,
}

enum Identity {
    Administrator,
    Account(Account),
}

/// A refusal in the form of Kubernetes.
pub fn failure(code: StatusCode, reason: &str, message: &str) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code.as_u16(), "reason": reason, "message": message,
    });
    (code, Json(status)).into_response()
}

async fn serve(Extracted(front): Extracted<Arc<Front>>, request: Request) -> Response {
    let outcome = front.answer(request).await;
    outcome.unwrap_or_else(|error| failure(StatusCode::BAD_GATEWAY, "BadGateway", &format!("{error:#}")))
}

// === impl Front ===

impl Front {
    /// Listens on `host`, and passes on to `behind`.
    pub fn start(host: &Host, behind: Client) -> Result<Arc<Self>> {
        let address = SocketAddr::from((host.address(), PORT));
        let listener = host.namespace().run(|| TcpListener::bind(address))?;
        let listener = listener.with_context(|| format!("listen at {address}"))?;
        listener.set_nonblocking(true)?;
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([address.ip().to_string()])?;
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let mut tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let shelf = Arc::new(Shelf::new());
        let front = Arc::new(Self { behind, shelf, address, ca: cert.pem(), notes: Mutex::default() });
        let router = Router::new().fallback(serve).with_state(Arc::clone(&front));
        let server = from_tcp_rustls(listener, RustlsConfig::from_config(Arc::new(tls)))?;
        tokio::spawn(server.serve(router.into_make_service()));
        Ok(front)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate that it is known by.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// The API server behind it, with an administrator's rights.
    pub fn behind(&self) -> &Client {
        &self.behind
    }

    pub(super) fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    /// An object of a kind that the API server behind has none of.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.shelf.get(kind, namespace, name)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self, name: &str) -> Result<String> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": name, "cluster": {
                "server": format!("https://{}", self.address),
                "certificate-authority-data": ByteString(self.ca.clone().into_bytes()),
            } }],
            "users": [{ "name": ADMINISTRATOR, "user": { "token": ADMINISTRATOR } }],
            "contexts": [{ "name": name, "context": { "cluster": name, "user": ADMINISTRATOR } }],
            "current-context": name,
        });
        serde_json::to_string_pretty(&config).context("write a kubeconfig")
    }

    /// A new token of a service account.
    pub fn token(&self, account: &Account) -> String {
        let mut notes = self.notes();
        let token = format!("{}.{}.{}", account.0, account.1, notes.tokens.len());
        notes.tokens.insert(token.clone(), account.clone());
        token
    }

    /// What was refused to any service account.
    pub fn refused(&self) -> Vec<String> {
        let line = |((namespace, name), attempt): &(Account, Attempt)| {
            format!("{namespace}/{name} may not {attempt}")
        };
        self.notes().refused.iter().map(line).collect()
    }

    /// What the roles of a service account give it.
    pub fn given(&self, account: &Account) -> BTreeSet<Permission> {
        rules::given(&self.shelf.rbac(), account)
    }

    /// What of that it has used.
    pub fn used(&self, account: &Account) -> BTreeSet<Permission> {
        self.notes().used.get(account).cloned().unwrap_or_default()
    }

    async fn answer(&self, request: Request) -> Result<Response> {
        let Some(identity) = self.identify(&request) else {
            return Ok(failure(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized"));
        };
        let target = Target::of(request.uri().path());
        let query = Query::of(request.uri().query().unwrap_or_default());
        let method = request.method().clone();
        let attempt = attempt(&method, &target, &query);
        if let (Identity::Account(account), false) = (&identity, target.resource.is_empty())
            && !self.allows(account, &attempt)
        {
            return Ok(self.refuse(account, attempt));
        }
        let path = request.uri().path().to_owned();
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, MOST_BYTES).await?;
        // As kubectl did before it asked for one object by its name.
        let lists_system = target.name.is_empty() && query.name.as_deref() == Some(SYSTEM_NAMESPACE);
        if shelf::has(&target) {
            return Ok(self.shelf.answer(&method, &target, query, &body));
        }
        if let Some(discovered) = self.discover(&path, &target).await? {
            return Ok(discovered);
        }
        if target.resource == "namespaces"
            && (target.name == SYSTEM_NAMESPACE || lists_system)
            && let Some(answer) = self.system_namespace(&method, lists_system).await?
        {
            return Ok(answer);
        }
        let answer = self.pass_on(parts, body).await?;
        // What an apply makes takes the right to create as well.
        if let Identity::Account(account) = &identity
            && method == Method::PATCH
            && answer.status() == StatusCode::CREATED
        {
            let creates = Attempt { verb: "create".to_owned(), name: String::new(), ..attempt };
            if !self.allows(account, &creates) {
                return Ok(self.refuse(account, creates));
            }
        }
        if target.resource == "secrets" && answer.status().is_success() && method != Method::GET {
            return self.with_token(answer).await;
        }
        Ok(answer)
    }

    fn identify(&self, request: &Request) -> Option<Identity> {
        let token = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
        if token == ADMINISTRATOR {
            return Some(Identity::Administrator);
        }
        let account = self.notes().tokens.get(token).cloned()?;
        self.shelf.get("ServiceAccount", &account.0, &account.1)?;
        Some(Identity::Account(account))
    }

    fn allows(&self, account: &Account, attempt: &Attempt) -> bool {
        let allowing = rules::allowing(&self.shelf.rbac(), account, attempt);
        let allows = !allowing.is_empty();
        let mut notes = self.notes();
        notes.used.entry(account.clone()).or_default().extend(allowing);
        allows
    }

    fn refuse(&self, account: &Account, attempt: Attempt) -> Response {
        let (namespace, name) = account;
        let message = format!("User \"system:serviceaccount:{namespace}:{name}\" cannot {attempt}");
        self.notes().refused.insert((account.clone(), attempt));
        failure(StatusCode::FORBIDDEN, "Forbidden", &message)
    }

    async fn pass_on(&self, mut parts: http::request::Parts, body: axum::body::Bytes) -> Result<Response> {
        // It logs in by itself.
        for name in [header::AUTHORIZATION, header::HOST] {
            parts.headers.remove(name);
        }
        parts.uri = parts.uri.path_and_query().context("a request without a path")?.as_str().parse()?;
        let request = http::Request::from_parts(parts, kube::client::Body::from(body));
        Ok(self.behind.send(request).await?.map(Body::new))
    }

    /// The lists of groups and of kinds, with those of the shelf in them.
    async fn discover(&self, path: &str, target: &Target) -> Result<Option<Response>> {
        let groups = path == "/apis";
        let own = shelf::described(&target.group, &target.version);
        if !groups && (own.is_empty() || !target.resource.is_empty()) {
            return Ok(None);
        }
        let mut list = if groups || target.group.is_empty() {
            let request = http::Request::get(path).body(kube::client::Body::empty())?;
            let answer = self.behind.send(request).await?;
            ensure!(answer.status().is_success(), "GET {path}: {}", answer.status());
            serde_json::from_slice(&answer.into_body().collect_bytes().await?)?
        } else {
            let group_version = format!("{}/{}", target.group, target.version);
            json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": [] })
        };
        let field = if groups { "groups" } else { "resources" };
        let described = if groups { shelf::groups().into_iter().map(described_group).collect() } else { own };
        list[field].as_array_mut().with_context(|| format!("no {field} at {path}"))?.extend(described);
        Ok(Some(Json(list).into_response()))
    }

    /// The namespace that our API server never lets go, and a real one does: what is in it goes, and it is not told of
    /// until it is written again.
    async fn system_namespace(&self, method: &Method, lists: bool) -> Result<Option<Response>> {
        if *method == Method::DELETE {
            let (parameters, all) = (DeleteParams::default(), ListParams::default());
            let behind = || self.behind.clone();
            Api::<Secret>::namespaced(behind(), SYSTEM_NAMESPACE)
                .delete_collection(&parameters, &all)
                .await?;
            Api::<ConfigMap>::namespaced(behind(), SYSTEM_NAMESPACE)
                .delete_collection(&parameters, &all)
                .await?;
        }
        let mut notes = self.notes();
        notes.without_system = *method == Method::DELETE || (notes.without_system && *method == Method::GET);
        Ok(match (notes.without_system, method) {
            (true, &Method::DELETE) => Some(
                Json(json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" })).into_response(),
            ),
            (true, _) if lists => {
                let list =
                    json!({ "kind": "NamespaceList", "apiVersion": "v1", "metadata": {}, "items": [] });
                Some(Json(list).into_response())
            }
            (true, _) => Some(failure(StatusCode::NOT_FOUND, "NotFound", "the namespace is not there")),
            (false, _) => None,
        })
    }

    /// What the token controller adds to a Secret that asks for it.
    async fn with_token(&self, answer: Response) -> Result<Response> {
        let (parts, body) = answer.into_parts();
        let bytes = to_bytes(body, MOST_BYTES).await?;
        if let Ok(secret) = serde_json::from_slice::<Secret>(&bytes)
            && secret.type_.as_deref() == Some(TOKEN_TYPE)
            && secret.metadata.deletion_timestamp.is_none()
            && secret.data.is_none()
        {
            let namespace = secret.namespace().unwrap_or_default();
            let account = secret.annotations().get(ACCOUNT_ANNOTATION).context("a token of nobody")?;
            let token = self.token(&(namespace.clone(), account.clone()));
            let data = [("token", token), ("ca.crt", self.ca.clone()), ("namespace", namespace.clone())];
            let data: BTreeMap<_, _> = data.map(|(key, text)| (key, ByteString(text.into_bytes()))).into();
            let patch = Patch::Merge(json!({ "data": data }));
            let secrets = Api::<Secret>::namespaced(self.behind.clone(), &namespace);
            secrets.patch(&secret.name_any(), &PatchParams::default(), &patch).await?;
        }
        Ok(Response::from_parts(parts, Body::from(bytes)))
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().expect("no holder of the notes panics")
    }
}

fn described_group((group, version): (&str, &str)) -> Value {
    let version = json!({ "groupVersion": format!("{group}/{version}"), "version": version });
    json!({ "name": group, "versions": [version], "preferredVersion": version })
}

fn attempt(method: &Method, target: &Target, query: &Query) -> Attempt {
    let verb = match (method.as_str(), target.name.is_empty()) {
        ("GET", _) if query.watch => "watch",
        ("GET", true) => "list",
        ("GET", false) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "deletecollection",
        (_, _) => "delete",
    };
    let Target { group, resource, subresource, .. } = target;
    let slash = if subresource.is_empty() { "" } else { "/" };
    Attempt {
        verb: verb.to_owned(),
        group: group.clone(),
        resource: format!("{resource}{slash}{subresource}"),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
    }
}

impl Target {
    /// Reads a path as kube-apiserver does (apiserver/pkg/endpoints/request/requestinfo.go).
    fn of(path: &str) -> Self {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let mut next = move || parts.next().unwrap_or_default().to_owned();
        let group = match next().as_str() {
            "api" => String::new(),
            "apis" => next(),
            _ => return Self::default(),
        };
        let (version, first) = (next(), next());
        let mut target = Self { group, version, resource: first, ..Self::default() };
        target.name = next();
        target.subresource = next();
        // A namespace's own subresources are no resources.
        if target.resource == "namespaces"
            && !["", "status", "finalize"].contains(&target.subresource.as_str())
        {
            target.namespace = std::mem::take(&mut target.name);
            target.resource = std::mem::take(&mut target.subresource);
            target.name = next();
            target.subresource = next();
        }
        target
    }
}

impl Query {
    fn of(query: &str) -> Self {
        let mut asked = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "watch" => asked.watch = ["1", "true"].contains(&value),
                "resourceVersion" => asked.resource_version = value.parse().ok(),
                "fieldSelector" => {
                    let name =
                        value.strip_prefix("metadata.name%3D").or(value.strip_prefix("metadata.name="));
                    asked.name = name.map(str::to_owned);
                }
                _ => {}
            }
        }
        asked
    }
}
