//! The kinds of the Multi-Cluster Services API and of the About API: what their definitions say.

use crate::api::about::ClusterProperty;
use crate::api::mcs::{ServiceExport, ServiceImport};
use crate::apiserver::kinds::Admission;
use crate::apiserver::status::FieldErrors;

/// Of each IP family one.
const MOST_FAMILIES: usize = 2;
const LONGEST_PROPERTY: usize = 128_000;

impl Admission for ServiceExport {}

impl Admission for ServiceImport {
    fn validate(&self, _old: Option<&Self>, errors: &mut FieldErrors) {
        let spec = &self.spec;
        for (field, count) in [("spec.ips", spec.ips.len()), ("spec.ipFamilies", spec.ip_families.len())] {
            if count > MOST_FAMILIES {
                errors.too_many(field, count, MOST_FAMILIES);
            }
        }
    }
}

impl Admission for ClusterProperty {
    fn validate(&self, _old: Option<&Self>, errors: &mut FieldErrors) {
        let value = &self.spec.value;
        if value.is_empty() {
            errors.invalid("spec.value", "", "spec.value in body should be at least 1 chars long");
        }
        if value.chars().count() > LONGEST_PROPERTY {
            errors.too_long("spec.value", &format!("may not be more than {LONGEST_PROPERTY} bytes"));
        }
    }
}
