//! The federation's own kinds: what their definitions cannot say by type alone.

use crate::api::{Cluster, FederatedService};
use crate::apiserver::kinds::Admission;
use crate::apiserver::status::FieldErrors;

const MOST_WEIGHT: u16 = 1_000;

impl Admission for Cluster {
    fn validate(&self, _old: Option<&Self>, errors: &mut FieldErrors) {
        let spec = &self.spec;
        let server: Option<http::Uri> = spec.server.parse().ok();
        let is_https =
            server.as_ref().is_some_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some());
        if !is_https {
            errors.invalid(
                "spec.server",
                spec.server.as_str(),
                "must be an https URL, like https://203.0.113.7:6443",
            );
        }
        if spec.credentials_ref.name.is_empty() {
            errors
                .required("spec.credentialsRef.name", "the Secret in federation-system with the credentials");
        }
        if spec.region.is_empty() {
            errors.required("spec.region", "");
        }
        if spec.zones.iter().all(String::is_empty) {
            errors.required("spec.zones", "at least one zone");
        }
        if spec.networks.is_empty() {
            errors.required("spec.networks", "the ranges that the cluster's endpoints come from");
        }
        for (index, network) in spec.networks.iter().enumerate() {
            if network.trunc() != *network {
                let detail = format!("has bits set behind its prefix, did you mean {}?", network.trunc());
                errors.invalid(&format!("spec.networks[{index}]"), network.to_string(), &detail);
            }
        }
    }
}

impl Admission for FederatedService {
    fn validate(&self, _old: Option<&Self>, errors: &mut FieldErrors) {
        let spec = &self.spec;
        for (index, weight) in spec.weights.iter().enumerate() {
            let earlier = &spec.weights[..index];
            if weight.cluster.is_empty() {
                errors.required(&format!("spec.weights[{index}].cluster"), "");
            } else if earlier.iter().any(|earlier| earlier.cluster == weight.cluster) {
                errors.duplicate(&format!("spec.weights[{index}].cluster"), weight.cluster.as_str());
            }
            if weight.weight > MOST_WEIGHT {
                let detail = format!("must be between 0 and {MOST_WEIGHT}, inclusive");
                errors.invalid(&format!("spec.weights[{index}].weight"), weight.weight, &detail);
            }
        }
        if let Some(percent) = spec.overprovisioning_percent.filter(|percent| *percent < 100) {
            errors.invalid("spec.overprovisioningPercent", percent, "must be at least 100");
        }
        let faults = spec.health_check.as_ref().map(|check| check.read().1).unwrap_or_default();
        for fault in faults {
            errors.invalid(&format!("spec.healthCheck.{}", fault.field), fault.value, &fault.must);
        }
    }
}
