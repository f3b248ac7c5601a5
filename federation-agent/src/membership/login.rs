//! One context of a kubeconfig, made a kubeconfig of its own that works on another machine.
//!
//! What stands in files goes in as data; what needs a program cannot be carried, and is refused.

use std::fs;

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::ByteString;
use kube::config::{AuthInfo, Cluster, Kubeconfig};
use serde_json::{Map, Value, json};

/// A login that can be carried elsewhere.
#[derive(Debug)]
pub struct Carried {
    /// The kubeconfig, as YAML.
    pub kubeconfig: String,
    pub server: String,
}

/// The context to use: the one that was asked for, else the current one.
///
/// # Errors
/// There is none of that name; the names that there are.
pub fn context(kubeconfig: &Kubeconfig, asked: Option<&str>) -> Result<String> {
    let names: Vec<_> = kubeconfig.contexts.iter().map(|context| context.name.as_str()).collect();
    let known =
        if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) };
    let Some(name) = asked.or(kubeconfig.current_context.as_deref()) else {
        bail!("the kubeconfig has no current context; choose one with --context: {known}");
    };
    if !names.contains(&name) {
        bail!("the kubeconfig has no context {name}; {known}");
    }
    Ok(name.to_owned())
}

/// The login of `context`, under the name `name`. `server` replaces the one that the kubeconfig names.
///
/// # Errors
/// The context is incomplete, names a file that cannot be read, or logs in by running a program.
pub fn carry(kubeconfig: &Kubeconfig, context: &str, name: &str, server: Option<&str>) -> Result<Carried> {
    let found = kubeconfig.contexts.iter().find(|named| named.name == context);
    let place = found.and_then(|named| named.context.as_ref()).context("a context without content")?;
    let cluster = kubeconfig.clusters.iter().find(|named| named.name == place.cluster);
    let cluster = cluster.and_then(|named| named.cluster.as_ref()).with_context(|| {
        format!("context {context} names cluster {:?}, which the kubeconfig does not have", place.cluster)
    })?;
    let user = place.user.as_deref().unwrap_or_default();
    let login = kubeconfig.auth_infos.iter().find(|named| named.name == user);
    let login = login.and_then(|named| named.auth_info.as_ref()).with_context(|| {
        format!("context {context} names user {user:?}, which the kubeconfig does not have")
    })?;
    let server = server.or(cluster.server.as_deref()).with_context(|| {
        format!("cluster {:?} of the kubeconfig has no server; give it with --server", place.cluster)
    })?;
    let whole = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": name, "cluster": endpoint(cluster, server)? }],
        "users": [{ "name": name, "user": credentials(login, user)? }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
        "current-context": name,
    });
    let kubeconfig = serde_yaml_ng::to_string(&whole).context("write the kubeconfig of the Secret")?;
    Ok(Carried { kubeconfig, server: server.to_owned() })
}

fn endpoint(cluster: &Cluster, server: &str) -> Result<Map<String, Value>> {
    let mut fields = object(cluster)?;
    fields.remove("extensions");
    fields.insert("server".to_owned(), server.into());
    embed(&mut fields, "certificate-authority", "certificate-authority-data", Form::Base64)?;
    Ok(fields)
}

fn credentials(login: &AuthInfo, user: &str) -> Result<Map<String, Value>> {
    let program = match (&login.exec, &login.auth_provider) {
        (Some(exec), _) => {
            Some(format!("the program {}", exec.command.as_deref().unwrap_or("of its exec plugin")))
        }
        (None, Some(provider)) => Some(format!("the auth-provider {}", provider.name)),
        (None, None) => None,
    };
    if let Some(program) = program {
        bail!(
            "user {user:?} logs in through {program}, which the controller does not have; make a ServiceAccount in the \
             cluster for the federation and join with a context that uses its token (docs/clusters.md shows how)"
        );
    }
    let mut fields = object(login)?;
    fields.remove("extensions");
    embed(&mut fields, "tokenFile", "token", Form::Text)?;
    embed(&mut fields, "client-certificate", "client-certificate-data", Form::Base64)?;
    embed(&mut fields, "client-key", "client-key-data", Form::Base64)?;
    let logs_in = ["token", "client-certificate-data", "username"];
    if !logs_in.iter().any(|field| fields.contains_key(*field)) {
        bail!("user {user:?} has neither a token nor a client certificate; give it credentials");
    }
    Ok(fields)
}

#[derive(Clone, Copy)]
enum Form {
    Base64,
    Text,
}

/// Puts the content of the file that `file` names into `data`, unless that is there: data goes before files.
fn embed(fields: &mut Map<String, Value>, file: &str, data: &str, form: Form) -> Result<()> {
    let Some(path) = fields.remove(file) else { return Ok(()) };
    if fields.contains_key(data) {
        return Ok(());
    }
    let path = path.as_str().unwrap_or_default();
    let content =
        fs::read(path).with_context(|| format!("read {path}, which the kubeconfig names as {file}"))?;
    let value = match form {
        // Its JSON is base64, as a kubeconfig wants it.
        Form::Base64 => serde_json::to_value(ByteString(content)).context("encode the file")?,
        Form::Text => {
            let text = String::from_utf8(content).map_err(|_| anyhow!("{path} is not text"))?;
            text.trim().into()
        }
    };
    fields.insert(data.to_owned(), value);
    Ok(())
}

fn object(part: &impl serde::Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(part) {
        Ok(Value::Object(fields)) => Ok(fields),
        // No error of the encoder is shown: it could quote a credential.
        _ => bail!("the kubeconfig cannot be written anew"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(cluster: &str, user: &str) -> Kubeconfig {
        let text = format!(
            "{{clusters: [{{name: c, cluster: {cluster}}}, {{name: other, cluster: {{server: 'https://other'}}}}], \
             users: [{{name: u, user: {user}}}], contexts: [{{name: x, context: {{cluster: c, user: u}}}}, \
             {{name: y, context: {{cluster: gone, user: u}}}}], current-context: x}}"
        );
        Kubeconfig::from_yaml(&text).expect("a kubeconfig")
    }

    fn carried(kubeconfig: &Kubeconfig) -> Result<Value> {
        let carried = carry(kubeconfig, "x", "one", None)?;
        Ok(serde_yaml_ng::from_str(&carried.kubeconfig).expect("YAML"))
    }

    const SERVER: &str = "{server: 'https://203.0.113.7:6443'}";

    #[test]
    fn files_are_embedded_and_nothing_of_other_contexts_is_taken_along() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, content) in [("ca.crt", "the CA"), ("key", "the key"), ("crt", "the certificate")] {
            fs::write(folder.path().join(name), content).expect("write");
        }
        let path = |name: &str| folder.path().join(name).display().to_string();
        let cluster =
            format!("{{server: 'https://203.0.113.7:6443', certificate-authority: '{}'}}", path("ca.crt"));
        let user = format!("{{client-key: '{}', client-certificate: '{}'}}", path("key"), path("crt"));
        let expected = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "one", "cluster": {
                "server": "https://203.0.113.7:6443", "certificate-authority-data": "dGhlIENB",
            } }],
            "users": [{ "name": "one", "user": {
                "client-certificate-data": "dGhlIGNlcnRpZmljYXRl", "client-key-data": "dGhlIGtleQ==",
            } }],
            "contexts": [{ "name": "one", "context": { "cluster": "one", "user": "one" } }],
            "current-context": "one",
        });
        assert_eq!(carried(&kubeconfig(&cluster, &user)).expect("a login"), expected);
    }

    #[test]
    fn a_token_in_a_file_is_taken_and_one_in_the_kubeconfig_goes_before_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        fs::write(&file, "from-a-file\n").expect("write");
        let token =
            |user: String| carried(&kubeconfig(SERVER, &user)).expect("a login")["users"][0]["user"].clone();
        assert_eq!(token(format!("{{tokenFile: '{}'}}", file.display())), json!({ "token": "from-a-file" }));
        let both = format!("{{token: first, tokenFile: '{}'}}", file.display());
        assert_eq!(token(both), json!({ "token": "first" }));
    }

    #[test]
    fn what_cannot_be_carried_is_refused_in_a_sentence() {
        let cases = [
            (
                "{exec: {command: aws}}",
                "user \"u\" logs in through the program aws, which the controller does not have",
            ),
            ("{auth-provider: {name: oidc}}", "logs in through the auth-provider oidc"),
            (
                "{client-key: /nowhere/key, token: s3cret}",
                "read /nowhere/key, which the kubeconfig names as client-key",
            ),
            ("{}", "has neither a token nor a client certificate"),
        ];
        for (user, part) in cases {
            let error = format!("{:#}", carried(&kubeconfig(SERVER, user)).expect_err(user));
            assert!(error.contains(part) && !error.contains("s3cret"), "{error}");
        }
        let error = carried(&kubeconfig("{}", "{token: a}")).expect_err("no server").to_string();
        assert!(error.contains("has no server; give it with --server"), "{error}");
        let whole = kubeconfig(SERVER, "{token: a}");
        let error = carry(&whole, "y", "one", None).expect_err("no cluster").to_string();
        assert_eq!(error, "context y names cluster \"gone\", which the kubeconfig does not have");
    }

    #[test]
    fn a_context_that_is_missing_is_named_beside_those_that_there_are() {
        let mut whole = kubeconfig(SERVER, "{token: a}");
        assert_eq!(context(&whole, None).expect("the current one"), "x");
        assert_eq!(context(&whole, Some("y")).expect("the other"), "y");
        let error = context(&whole, Some("z")).expect_err("unknown").to_string();
        assert_eq!(error, "the kubeconfig has no context z; it has x, y");
        whole.current_context = None;
        let error = context(&whole, None).expect_err("none chosen").to_string();
        assert_eq!(error, "the kubeconfig has no current context; choose one with --context: it has x, y");
    }
}
