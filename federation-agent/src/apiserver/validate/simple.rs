//! Kinds with few rules of their own.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, NamespaceSpec, NamespaceStatus, Node, Secret};

use crate::apiserver::kinds::Admission;
use crate::apiserver::status::FieldErrors;

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
        let keys = self.data.iter().flatten().map(|(key, _)| key);
        data_keys("data", keys, errors);
        let Some(old) = old else { return };
        if old.type_ != self.type_ {
            errors.invalid("type", self.type_.clone(), "field is immutable");
        }
        if old.immutable == Some(true) && (old.data != self.data || self.immutable != Some(true)) {
            errors.forbidden("data", "field is immutable when `immutable` is set");
        }
    }
}

impl Admission for ConfigMap {
    fn validate(&self, old: Option<&Self>, errors: &mut FieldErrors) {
        data_keys("data", self.data.iter().flatten().map(|(key, _)| key), errors);
        data_keys("binaryData", self.binary_data.iter().flatten().map(|(key, _)| key), errors);
        let Some(old) = old else { return };
        let differs =
            old.data != self.data || old.binary_data != self.binary_data || self.immutable != Some(true);
        if old.immutable == Some(true) && differs {
            errors.forbidden("data", "field is immutable when `immutable` is set");
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
    }
}
