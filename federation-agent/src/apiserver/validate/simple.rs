//! Kinds with few rules of their own.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, NamespaceSpec, NamespaceStatus, Node, Secret};

use serde_json::{Map, Value};

use crate::apiserver::kinds::Admission;
use crate::apiserver::status::FieldErrors;

/// Bytes of all values of one Secret or `ConfigMap` together.
const MOST_DATA_BYTES: usize = 1024 * 1024;

impl Admission for Namespace {
    fn set_defaults(&mut self, _old: Option<&Self>) {
        let name = self.metadata.name.clone().unwrap_or_default();
        self.metadata.labels.get_or_insert_default().insert("kubernetes.io/metadata.name".to_owned(), name);
        self.spec.get_or_insert_with(|| NamespaceSpec { finalizers: Some(vec!["kubernetes".to_owned()]) });
        let status = self.status.get_or_insert_with(NamespaceStatus::default);
        status.phase.get_or_insert_with(|| "Active".to_owned());
    }
}

impl Admission for Secret {
    fn set_defaults(&mut self, _old: Option<&Self>) {
        // `stringData` is for writing: it is never read back.
        for (key, value) in self.string_data.take().into_iter().flatten() {
            self.data.get_or_insert_default().insert(key, k8s_openapi::ByteString(value.into_bytes()));
        }
        self.type_.get_or_insert_with(|| "Opaque".to_owned());
    }

    fn validate(&self, old: Option<&Self>, errors: &mut FieldErrors) {
        let data = self.data.iter().flatten();
        data_keys("data", data.clone().map(|(key, _)| key), errors);
        if data.map(|(_, value)| value.0.len()).sum::<usize>() > MOST_DATA_BYTES {
            errors.too_long("data", &format!("may not be more than {MOST_DATA_BYTES} bytes"));
        }
        required_keys(self, errors);
        let Some(old) = old else { return };
        if old.type_ != self.type_ {
            errors.invalid("type", self.type_.clone(), "field is immutable");
        }
        if old.immutable == Some(true) {
            let differs = [("immutable", self.immutable != Some(true)), ("data", old.data != self.data)];
            immutable(&differs, errors);
        }
    }
}

/// What a Secret of a type that Kubernetes knows must hold.
fn required_keys(secret: &Secret, errors: &mut FieldErrors) {
    let value = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let mut require = |key: &str| errors.required(&format!("data[{key}]"), "");
    match secret.type_.as_deref().unwrap_or_default() {
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"].into_iter().filter(|key| value(key).is_none()) {
                require(key);
            }
        }
        "kubernetes.io/basic-auth" => {
            let keys = ["username", "password"];
            if keys.iter().all(|key| value(key).is_none()) {
                keys.into_iter().for_each(require);
            }
        }
        "kubernetes.io/ssh-auth" if value("ssh-privatekey").is_none_or(|key| key.0.is_empty()) => {
            require("ssh-privatekey");
        }
        known @ ("kubernetes.io/dockercfg" | "kubernetes.io/dockerconfigjson") => {
            let key = if known.ends_with("cfg") { ".dockercfg" } else { ".dockerconfigjson" };
            match value(key).map(|text| serde_json::from_slice::<Map<String, Value>>(&text.0)) {
                None => require(key),
                Some(Err(error)) => {
                    let detail = error.to_string();
                    errors.invalid(&format!("data[{key}]"), "<secret contents redacted>", &detail);
                }
                Some(Ok(_)) => {}
            }
        }
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            let annotations = secret.metadata.annotations.as_ref();
            if annotations.and_then(|all| all.get(ACCOUNT)).is_none_or(String::is_empty) {
                errors.required(&format!("metadata.annotations[{ACCOUNT}]"), "");
            }
        }
        _ => {}
    }
}

fn immutable(differs: &[(&str, bool)], errors: &mut FieldErrors) {
    for (field, _) in differs.iter().filter(|(_, differs)| *differs) {
        errors.forbidden(field, "field is immutable when `immutable` is set");
    }
}

impl Admission for ConfigMap {
    fn validate(&self, old: Option<&Self>, errors: &mut FieldErrors) {
        let (data, binary) = (self.data.iter().flatten(), self.binary_data.iter().flatten());
        data_keys("data", data.clone().map(|(key, _)| key), errors);
        let is_twice =
            |key: &&String| self.binary_data.as_ref().is_some_and(|binary| binary.contains_key(*key));
        for key in data.clone().map(|(key, _)| key).filter(is_twice) {
            let detail = "duplicate of key present in binaryData";
            errors.invalid(&format!("data[{key}]"), key.as_str(), detail);
        }
        data_keys("binaryData", binary.clone().map(|(key, _)| key), errors);
        let bytes: usize =
            data.map(|(_, text)| text.len()).chain(binary.map(|(_, bytes)| bytes.0.len())).sum();
        if bytes > MOST_DATA_BYTES {
            // The whole object, as kube-apiserver names it.
            errors.too_long("[]", &format!("may not be more than {MOST_DATA_BYTES} bytes"));
        }
        let Some(old) = old else { return };
        if old.immutable == Some(true) {
            let differs = [
                ("immutable", self.immutable != Some(true)),
                ("data", old.data != self.data),
                ("binaryData", old.binary_data != self.binary_data),
            ];
            immutable(&differs, errors);
        }
    }
}

fn data_keys<'a>(field: &str, keys: impl Iterator<Item = &'a String>, errors: &mut FieldErrors) {
    const RULE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
                        'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
    for key in keys {
        let is_word =
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !is_word || key == "." || key == ".." || key.len() > 253 {
            errors.invalid(&format!("{field}[{key}]"), key.as_str(), RULE);
        }
    }
}

impl Admission for Event {
    fn validate(&self, _old: Option<&Self>, errors: &mut FieldErrors) {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        let involved = self.involved_object.namespace.as_deref().unwrap_or_default();
        // Events on objects without a namespace are kept in `default`.
        let belongs = involved == namespace || (involved.is_empty() && namespace == "default");
        if !belongs {
            errors.invalid("involvedObject.namespace", involved, "does not match event.namespace");
        }
    }
}

impl Admission for Node {}

impl Admission for Lease {
    fn validate(&self, _old: Option<&Self>, errors: &mut FieldErrors) {
        let Some(spec) = &self.spec else { return };
        if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
            errors.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0");
        }
        if let Some(transitions) = spec.lease_transitions.filter(|transitions| *transitions < 0) {
            errors.invalid("spec.leaseTransitions", transitions, "must be greater than or equal to 0");
        }
        if spec.holder_identity.as_deref() == Some("") {
            errors.invalid("spec.holderIdentity", "", "must not be empty");
        }
    }
}
