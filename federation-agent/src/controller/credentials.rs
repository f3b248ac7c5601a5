//! From a cluster's Secret to how to log in there.
//!
//! Nothing of a Secret is ever printed: where a library's error could quote it, the error is left out.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Config,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use super::{expiry::Validity, registration::Refusal};
use crate::api::SYSTEM_NAMESPACE;

/// Reason of a condition: the Secret is not there, or nothing that could be used is in it.
pub const MISSING: &str = "CredentialsMissing";

const KUBECONFIG: &str = "kubeconfig";
const TOKEN: &str = "token";
const CA: &str = "ca.crt";

/// How long a cluster's API may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a watch may be silent. A watch asks to be ended before, so only a dead connection reaches it.
const READ_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a watch asks to run.
pub const WATCH_SECONDS: u32 = 60;

/// How to log in, and a number that changes when that does.
pub struct Login {
    pub config: Config,
    /// Until when the credentials are good, where they say so.
    pub validity: Option<Validity>,
    pub fingerprint: u64,
}

/// # Errors
/// There is no Secret, or it holds nothing that can be used. Nothing is sent yet.
pub async fn login(server: &str, name: &str, secret: Option<&Secret>) -> Result<Login, Refusal> {
    let Some(secret) = secret else {
        return Err(missing(format!("there is no Secret {name} in namespace {SYSTEM_NAMESPACE}; create it")));
    };
    let empty = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&empty);
    let kubeconfig = match (data.get(KUBECONFIG), data.get(TOKEN), data.get(CA)) {
        (Some(kubeconfig), _, _) => read_kubeconfig(name, kubeconfig)?,
        (None, Some(token), Some(ca)) => compose_kubeconfig(name, server, token, ca)?,
        (None, Some(_), None) => {
            return Err(missing(format!("Secret {name} has a {TOKEN} but no {CA}; add the cluster's CA")));
        }
        (None, None, _) => {
            return Err(missing(format!("Secret {name} has neither {KUBECONFIG}, nor {TOKEN} and {CA}")));
        }
    };
    let validity = Validity::of(&kubeconfig);
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| invalid(format!("Secret {name} cannot be used: {error}")))?;
    config.cluster_url =
        server.parse().map_err(|error| invalid(format!("spec.server {server:?} is no URL: {error}")))?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    Ok(Login { config, validity, fingerprint: fingerprint(server, data) })
}

fn missing(message: String) -> Refusal {
    Refusal::new(MISSING, message)
}

fn invalid(message: String) -> Refusal {
    Refusal::new("CredentialsInvalid", message)
}

fn read_kubeconfig(name: &str, bytes: &ByteString) -> Result<Kubeconfig, Refusal> {
    // A parser's complaint may quote what it could not read.
    let text = std::str::from_utf8(&bytes.0).ok();
    let kubeconfig = text.and_then(|text| Kubeconfig::from_yaml(text).ok());
    let kubeconfig = kubeconfig
        .ok_or_else(|| invalid(format!("{KUBECONFIG} of Secret {name} is no kubeconfig; write it anew")))?;
    let users = kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
    let clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
    let outside = users
        .filter_map(outside_of_user)
        .chain(
            clusters
                .filter(|cluster| cluster.certificate_authority.is_some())
                .map(|_| "certificate-authority"),
        )
        .next();
    match outside {
        None => Ok(kubeconfig),
        Some(field) => Err(invalid(format!(
            "{KUBECONFIG} of Secret {name} has {field}, which needs a file or a program of the machine that it was \
             written on; embed the data (kubectl config view --flatten) or use a token"
        ))),
    }
}

/// A way to log in that a Secret does not carry. A Secret must not make us run programs or read our own files.
fn outside_of_user(user: &AuthInfo) -> Option<&'static str> {
    [
        (user.exec.is_some(), "exec"),
        (user.auth_provider.is_some(), "auth-provider"),
        (user.token_file.is_some(), "tokenFile"),
        (user.client_certificate.is_some(), "client-certificate"),
        (user.client_key.is_some(), "client-key"),
    ]
    .into_iter()
    .find_map(|(is_there, field)| is_there.then_some(field))
}

fn compose_kubeconfig(
    name: &str,
    server: &str,
    token: &ByteString,
    ca: &ByteString,
) -> Result<Kubeconfig, Refusal> {
    let token = std::str::from_utf8(&token.0)
        .map_err(|_| invalid(format!("{TOKEN} of Secret {name} is not text; write it anew")))?;
    // The JSON of a `ByteString` is base64, as the kubeconfig wants it.
    let composed = serde_json::from_value(json!({
        "clusters": [{ "name": name, "cluster": { "server": server, "certificate-authority-data": ca } }],
        "users": [{ "name": name, "user": { "token": token.trim() } }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
        "current-context": name,
    }));
    composed.map_err(|_| invalid(format!("Secret {name} cannot be made a kubeconfig")))
}

fn fingerprint(server: &str, data: &BTreeMap<String, ByteString>) -> u64 {
    let mut hasher = DefaultHasher::new();
    server.hash(&mut hasher);
    for (key, value) in data {
        key.hash(&mut hasher);
        value.0.hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "https://203.0.113.7:6443";

    fn secret(data: &[(&str, &str)]) -> Secret {
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
        Secret { data: Some(data.collect()), ..Secret::default() }
    }

    fn kubeconfig(user: &str) -> String {
        format!(
            "{{clusters: [{{name: c, cluster: {{server: 'https://elsewhere'}}}}], users: [{{name: u, user: {user}}}], \
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}], current-context: x}}"
        )
    }

    async fn refusal(secret: Option<Secret>) -> Refusal {
        login(SERVER, "one", secret.as_ref()).await.map(|_| ()).expect_err("a refusal")
    }

    #[tokio::test]
    async fn secrets_that_cannot_be_used_are_refused_without_quoting_them() {
        let cases = [
            (None, "CredentialsMissing", "there is no Secret one in namespace federation-system; create it"),
            (Some(secret(&[])), "CredentialsMissing", "has neither kubeconfig, nor token and ca.crt"),
            (Some(secret(&[("token", "s3cret")])), "CredentialsMissing", "has a token but no ca.crt"),
            (Some(secret(&[("kubeconfig", "s3cret: [")])), "CredentialsInvalid", "is no kubeconfig"),
            (Some(secret(&[("kubeconfig", "users: s3cret")])), "CredentialsInvalid", "is no kubeconfig"),
            (Some(secret(&[("kubeconfig", "{}")])), "CredentialsInvalid", "cannot be used"),
            (
                Some(secret(&[("kubeconfig", &kubeconfig("{exec: {command: s3cret}}"))])),
                "CredentialsInvalid",
                "has exec, which needs a file or a program",
            ),
            (
                Some(secret(&[("kubeconfig", &kubeconfig("{tokenFile: /etc/s3cret}"))])),
                "CredentialsInvalid",
                "has tokenFile",
            ),
        ];
        for (secret, reason, part) in cases {
            let refusal = refusal(secret).await;
            assert_eq!(refusal.reason, reason, "{}", refusal.message);
            assert!(refusal.message.contains(part), "{}", refusal.message);
            assert!(!refusal.message.contains("s3cret"), "{}", refusal.message);
        }
    }

    #[tokio::test]
    async fn a_login_goes_to_the_registered_server_and_changes_with_the_secret() {
        let first = secret(&[("kubeconfig", &kubeconfig("{token: first}"))]);
        let second = secret(&[("kubeconfig", &kubeconfig("{token: second}"))]);
        let login =
            async |secret| login(SERVER, "one", Some(secret)).await.map_err(|r| r.message).expect("a login");
        let one = login(&first).await;
        assert_eq!(one.config.cluster_url.host(), Some("203.0.113.7"));
        assert_eq!(one.fingerprint, login(&first).await.fingerprint);
        assert_ne!(one.fingerprint, login(&second).await.fingerprint);
    }

    #[tokio::test]
    async fn a_token_with_its_ca_is_enough() {
        let certificate = rcgen::generate_simple_self_signed(["cluster".to_owned()]).expect("a certificate");
        let secret = secret(&[("token", "abc\n"), ("ca.crt", &certificate.cert.pem())]);
        let login = login(SERVER, "one", Some(&secret)).await.map_err(|r| r.message).expect("a login");
        assert_eq!(login.config.root_cert.map(|certificates| certificates.len()), Some(1));
    }
}
