//! The DNS names of a service's scopes, as its status shows them.

use crate::{
    model::{Scope, ServiceKey},
    settings::FederationSettings,
};

pub(super) fn dns_name(service: &ServiceKey, scope: &Scope, settings: &FederationSettings) -> String {
    let (name, namespace) = (&service.name, &service.namespace);
    let (federation, domain) = (&settings.federation, &settings.domain);
    match scope {
        Scope::Nearest => format!("{name}.{namespace}.{federation}"),
        Scope::Global => format!("{name}.{namespace}.{federation}.svc.{domain}"),
        Scope::Region(region) => format!("{name}.{namespace}.{federation}.svc.{region}.{domain}"),
        Scope::Zone(zone) => format!("{name}.{namespace}.{federation}.svc.{zone}.{domain}"),
    }
}
