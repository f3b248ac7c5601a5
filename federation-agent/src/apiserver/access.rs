//! Who may do what: two bearer tokens, the kubeconfigs that carry them, and the check of each request.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use http::{HeaderMap, Method, header};
use k8s_openapi::ByteString;
use serde_json::json;
use subtle::ConstantTimeEq as _;

use super::files;
use super::kinds;
use super::request::{Parameters, Target};
use super::status::ApiError;

/// Who a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    Administrator,
    /// Node agents: they read everything but Secrets, which hold the clusters' credentials, and write Events.
    Reader,
}

pub struct Tokens {
    administrator: String,
    reader: String,
}

impl Tokens {
    /// Those in `data_dir`; made there at the first start.
    pub fn open(data_dir: &Path) -> Result<Self> {
        let token = |name: &str| -> Result<String> {
            let text = files::read_or_create(&data_dir.join(name), || Ok(random_token()))?;
            Ok(text.trim().to_owned())
        };
        Ok(Self { administrator: token("admin.token")?, reader: token("node.token")? })
    }

    /// Compared in constant time, so that answers do not tell how much of a guess was right.
    pub fn identify(&self, headers: &HeaderMap) -> Result<Identity, ApiError> {
        let presented = headers.get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
        let is = |token: &str| bool::from(presented.ct_eq(format!("Bearer {token}").as_bytes()));
        if is(&self.administrator) {
            Ok(Identity::Administrator)
        } else if is(&self.reader) {
            Ok(Identity::Reader)
        } else {
            Err(ApiError::unauthorized())
        }
    }

    pub fn of(&self, identity: Identity) -> &str {
        match identity {
            Identity::Administrator => &self.administrator,
            Identity::Reader => &self.reader,
        }
    }
}

fn random_token() -> String {
    format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}

impl Identity {
    pub fn user(self) -> &'static str {
        match self {
            Self::Administrator => "federation-admin",
            Self::Reader => "federation-node",
        }
    }

    /// Refuses what the identity may not do with the target.
    pub fn authorize(
        self,
        method: &Method,
        target: &Target,
        parameters: &Parameters,
    ) -> Result<(), ApiError> {
        let is_read = *method == Method::GET || *method == Method::HEAD;
        let tells = [Method::POST, Method::PATCH].contains(method) && target.kind.is(&kinds::EVENT);
        if self == Self::Administrator || (is_read && !target.kind.is(&kinds::SECRET)) || tells {
            return Ok(());
        }
        let verb = match *method {
            Method::GET | Method::HEAD if parameters.watch => "watch",
            Method::GET | Method::HEAD if target.name.is_empty() => "list",
            Method::GET | Method::HEAD => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if target.name.is_empty() => "deletecollection",
            _ => "delete",
        };
        let place = match (target.kind.namespaced, target.namespace.as_str()) {
            (true, namespace) if !namespace.is_empty() => format!("in the namespace \"{namespace}\""),
            _ => "at the cluster scope".to_owned(),
        };
        let resource = if target.is_status {
            format!("{}/status", target.kind.plural)
        } else {
            target.kind.plural.to_owned()
        };
        let why = format!(
            "User \"{}\" cannot {verb} resource \"{resource}\" in API group \"{}\" {place}",
            self.user(),
            target.kind.group
        );
        Err(ApiError::forbidden(target.kind, &target.name, &why))
    }
}

/// A kubeconfig with one context, named `context`. Everything in it is named after that, so that kubectl can read several
/// at once (`KUBECONFIG=one:other`) and confuses nothing.
pub fn kubeconfig(
    context: &str,
    server: SocketAddr,
    ca_pem: &str,
    identity: Identity,
    token: &str,
) -> Result<String> {
    let user = format!("{context}-{}", identity.user());
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": context,
            "cluster": {
                "server": format!("https://{server}"),
                "certificate-authority-data": ByteString(ca_pem.as_bytes().to_vec()),
            },
        }],
        "users": [{ "name": user, "user": { "token": token } }],
        "contexts": [{ "name": context, "context": { "cluster": context, "user": user } }],
        "current-context": context,
    });
    Ok(serde_yaml_ng::to_string(&config)?)
}
