//! The Multi-Cluster Services API (KEP-1645) as its users meet it: one test for each required case of the conformance suite
//! of `kubernetes-sigs/mcs-api`. What this federation promises beyond is in [`beyond`].

#[path = "mcs/beyond.rs"]
mod beyond;

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use federation_agent::api::{
    FederatedService, ScopeKind,
    mcs::{EndpointSliceObjects, ServiceExport, ServiceImport, ServiceImportType},
};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};

use crate::world::{AMERICA, EUROPE, NAMESPACE, SERVICE, Site, World, create, in_world, merge};

const BOTH: [Site; 2] = [EUROPE, AMERICA];

/// The Service of the conformance suite, under our name.
fn hello() -> Value {
    json!({
        "metadata": { "name": SERVICE, "labels": { "own": "label" }, "annotations": { "own": "annotation" } },
        "spec": {
            "selector": { "app": "hello" },
            "ports": [{ "name": "tcp", "port": 42, "protocol": "TCP" }, { "name": "udp", "port": 42, "protocol": "UDP" }],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 10 } },
        },
    })
}

fn headless() -> Value {
    with(hello(), "/spec/clusterIP", json!("None"))
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
    object.pointer_mut(parent).expect("there is a parent")[field] = value;
    object
}

impl World {
    /// Two members that have the namespace, and a controller.
    async fn start_clusterset(&self) -> Result<()> {
        self.start().await?;
        for site in BOTH {
            self.create_namespace_in(site).await?;
        }
        Ok(())
    }

    async fn deploy(&self, site: Site, service: Value) -> Result<()> {
        create(&self.site::<Service>(site), service).await
    }

    /// Exports the service of a site as most are exported: by name alone.
    async fn export(&self, site: Site) -> Result<()> {
        self.export_with(site, json!({})).await
    }

    async fn export_with(&self, site: Site, spec: Value) -> Result<()> {
        create(&self.site::<ServiceExport>(site), json!({ "metadata": { "name": SERVICE }, "spec": spec }))
            .await
    }

    async fn unexport(&self, site: Site) -> Result<()> {
        self.site::<ServiceExport>(site).delete(SERVICE, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Exports from both sites, Europe's being the older by a second at least: that is how exactly an API server knows.
    async fn export_both(&self, europe: Value, america: Value) -> Result<()> {
        self.export_both_with((europe, json!({})), (america, json!({}))).await
    }

    async fn export_both_with(&self, europe: (Value, Value), america: (Value, Value)) -> Result<()> {
        self.deploy(EUROPE, europe.0).await?;
        self.deploy(AMERICA, america.0).await?;
        self.export_with(EUROPE, europe.1).await?;
        let older = self.site::<ServiceExport>(EUROPE).get(SERVICE).await?.metadata.creation_timestamp;
        // The clock of the servers moves on while others are made there.
        let later = async || {
            let name = format!("clock-{}", next_number());
            let clock: Namespace = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
            let namespaces = Api::<Namespace>::all(self.site::<Service>(AMERICA).into_client());
            let made = namespaces.create(&kube::api::PostParams::default(), &clock).await?;
            ensure!(made.metadata.creation_timestamp.map(|time| time.0) > older.clone().map(|time| time.0));
            Ok(())
        };
        self.wait("the servers' clock has moved on", later).await?;
        self.export_with(AMERICA, america.1).await
    }

    /// Waits until an import is there and `check` accepts it.
    async fn imports(
        &self,
        site: Site,
        check: impl Fn(&ServiceImport) -> Result<()>,
    ) -> Result<ServiceImport> {
        let import = async || {
            let import = self.site::<ServiceImport>(site).get(SERVICE).await?;
            check(&import).with_context(|| format!("{import:?}"))?;
            Ok(import)
        };
        self.wait(&format!("{} imports the service", site.name), import).await
    }

    async fn imports_any(&self, site: Site) -> Result<ServiceImport> {
        self.imports(site, |_| Ok(())).await
    }

    async fn imports_nothing(&self, site: Site) -> Result<()> {
        self.is_gone(self.site::<ServiceImport>(site), SERVICE).await
    }

    async fn exporters(&self, site: Site, expected: &[Site]) -> Result<()> {
        self.imports(site, |import| {
            let status = import.status.as_ref().context("no status")?;
            let clusters: Vec<_> = status.clusters.iter().map(|cluster| cluster.cluster.as_str()).collect();
            ensure!(clusters == expected.iter().map(|site| site.name).collect::<Vec<_>>(), "{clusters:?}");
            Ok(())
        })
        .await
        .map(drop)
    }

    async fn export_says(&self, site: Site, type_: &str, status: &str, reason: &str) -> Result<String> {
        let what = format!("{type_} of the export in {} is {status}, {reason}", site.name);
        let said = async || {
            let export = self.site::<ServiceExport>(site).get(SERVICE).await?;
            let conditions = export.status.context("no status")?.conditions;
            let is = |condition: &&Condition| condition.type_ == type_;
            let condition = conditions.iter().find(is).context("no such condition")?;
            ensure!(condition.status == status && condition.reason == reason, "{condition:?}");
            Ok(condition.message.clone())
        };
        self.wait(&what, said).await
    }
}

/// Another one each time.
fn next_number() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).to_string()
}

/// Name, number and protocol, in order.
fn ports(import: &ServiceImport) -> Vec<String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let ports = import.spec.ports.iter();
    let mut ports: Vec<_> =
        ports.map(|port| format!("{}:{}/{}", text(&port.name), port.port, text(&port.protocol))).collect();
    ports.sort();
    ports
}

// === The required cases ===

#[test]
fn an_import_exists_only_as_long_as_there_is_an_exporting_cluster() -> Result<()> {
    in_world(async |world| {
        world.start_clusterset().await?;
        for site in BOTH {
            world.deploy(site, hello()).await?;
        }
        world.export(EUROPE).await?;
        let ips = world.imports_any(EUROPE).await?.spec.ips;
        world.export(AMERICA).await?;
        world.exporters(EUROPE, &BOTH).await?;
        world.unexport(EUROPE).await?;
        for site in BOTH {
            world.exporters(site, &[AMERICA]).await?;
        }
        assert_eq!(world.imports_any(EUROPE).await?.spec.ips, ips, "its address is fixed for its life");
        world.unexport(AMERICA).await?;
        for site in BOTH {
            world.imports_nothing(site).await?;
        }
        Ok(())
    })
}

#[test]
fn exporting_a_service_imports_it_with_an_address_in_every_cluster_and_unexporting_ends_that() -> Result<()> {
    in_world(async |world| {
        world.start_clusterset().await?;
        world.deploy(EUROPE, hello()).await?;
        world.export(EUROPE).await?;
        world.export_says(EUROPE, "Valid", "True", "Valid").await?;
        world.export_says(EUROPE, "Ready", "True", "Exported").await?;
        world.export_says(EUROPE, "Conflict", "False", "NoConflicts").await?;
        let import = world.imports_any(EUROPE).await?;
        assert_eq!(import.spec.type_, ServiceImportType::ClusterSetIp);
        assert_eq!(world.imports_any(AMERICA).await?.spec, import.spec);
        world.unexport(EUROPE).await?;
        for site in BOTH {
            world.imports_nothing(site).await?;
        }
        // Nothing is left at the Federation API, and the cluster's own Service was never touched.
        world.is_gone(world.hub::<Service>(), SERVICE).await?;
        world.is_gone(world.hub::<FederatedService>(), SERVICE).await?;
        let service = world.site::<Service>(EUROPE).get(SERVICE).await?;
        assert_eq!(service.labels().keys().collect::<Vec<_>>(), ["own"]);
        assert!(world.site::<Service>(AMERICA).get_opt(SERVICE).await?.is_none(), "no shard is made");
        Ok(())
    })
}

#[test]
fn an_import_has_the_properties_of_the_exported_service() -> Result<()> {
    in_world(async |world| {
        world.start_clusterset().await?;
        let service = with(hello(), "/spec/internalTrafficPolicy", json!("Cluster"));
        let service = with(service, "/spec/trafficDistribution", json!("PreferClose"));
        world.deploy(EUROPE, service).await?;
        world.export(EUROPE).await?;
        for site in BOTH {
            let import = world.imports_any(site).await?;
            assert_eq!(ports(&import), ["tcp:42/TCP", "udp:42/UDP"]);
            let spec = serde_json::to_value(&import.spec)?;
            for (field, expected) in [
                ("sessionAffinity", json!("ClientIP")),
                ("sessionAffinityConfig", json!({ "clientIP": { "timeoutSeconds": 10 } })),
                ("internalTrafficPolicy", json!("Cluster")),
                ("trafficDistribution", json!("PreferClose")),
                ("ipFamilies", json!(["IPv4"])),
            ] {
                assert_eq!(spec[field], expected, "{field}");
            }
        }
        Ok(())
    })
}

#[test]
fn an_import_has_the_vip_of_scope_nearest_of_each_family_of_the_service() -> Result<()> {
    for (families, expected) in [
        (json!(["IPv4"]), vec!["IPv4"]),
        (json!(["IPv6"]), vec!["IPv6"]),
        (json!(["IPv6", "IPv4"]), vec!["IPv6", "IPv4"]),
    ] {
        in_world(async |world| {
            world.start_hub().await?;
            world.start_controller("198.18.0.0/16,fd00:fed::/64")?;
            world.join_sites().await?;
            world.create_namespace_in(EUROPE).await?;
            let policy = if expected.len() == 2 { "RequireDualStack" } else { "SingleStack" };
            let service = with(hello(), "/spec/ipFamilies", families.clone());
            world.deploy(EUROPE, with(service, "/spec/ipFamilyPolicy", json!(policy))).await?;
            world.export(EUROPE).await?;
            let import = world.imports(EUROPE, |import| {
                ensure!(import.spec.ips.len() == expected.len(), "not all addresses");
                Ok(())
            });
            let spec = import.await?.spec;
            let ips: Vec<IpAddr> = spec.ips.iter().map(|ip| ip.parse()).collect::<Result<_, _>>()?;
            let found: Vec<_> = ips.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
            assert_eq!(
                (&found, &spec.ip_families.iter().map(String::as_str).collect::<Vec<_>>()),
                (&expected, &expected)
            );
            let vips = world.status().await?.vips;
            let nearest = vips.iter().find(|vip| vip.scope == ScopeKind::Nearest).context("a VIP")?;
            assert!(ips.iter().all(|ip| nearest.ips.contains(ip)), "{ips:?} {nearest:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn an_import_exposes_the_union_of_the_exported_ports() -> Result<()> {
    in_world(async |world| {
        world.start_clusterset().await?;
        let second = json!([
            { "name": "tcp", "port": 42, "protocol": "TCP" }, { "name": "stcp", "port": 142, "protocol": "SCTP" },
        ]);
        world.export_both(hello(), with(hello(), "/spec/ports", second)).await?;
        for site in BOTH {
            world
                .imports(site, |import| {
                    ensure!(ports(import) == ["stcp:142/SCTP", "tcp:42/TCP", "udp:42/UDP"]);
                    Ok(())
                })
                .await?;
        }
        Ok(())
    })
}

#[test]
fn conflicting_ports_are_those_of_the_oldest_export_and_every_export_is_told() -> Result<()> {
    in_world(async |world| {
        world.start_clusterset().await?;
        let second = json!([{ "name": "tcp", "port": 43, "protocol": "TCP" }]);
        world.export_both(hello(), with(hello(), "/spec/ports", second)).await?;
        for site in BOTH {
            let message = world.export_says(site, "Conflict", "True", "PortConflict").await?;
            assert!(message.contains("in cluster \"europe-west1-d\". 1/2 clusters disagree"), "{message}");
            let import = world.imports_any(site).await?;
            assert_eq!(ports(&import), ["tcp:42/TCP", "udp:42/UDP"]);
        }
        // The oldest being gone, the next one wins; alone, nobody disagrees with it.
        world.unexport(EUROPE).await?;
        world.export_says(AMERICA, "Conflict", "False", "NoConflicts").await?;
        world
            .imports(EUROPE, |import| {
                ensure!(ports(import) == ["tcp:43/TCP"]);
                Ok(())
            })
            .await?;
        Ok(())
    })
}

#[test]
fn a_headless_service_is_imported_without_an_address() -> Result<()> {
    in_world(async |world| {
        world.start_clusterset().await?;
        world.deploy(EUROPE, headless()).await?;
        world.export(EUROPE).await?;
        world.export_says(EUROPE, "Ready", "True", "Exported").await?;
        world.service_says("Accepted", "True", "Accepted").await?;
        world.announce(EUROPE, &[(&EUROPE.pod(1), true)]).await?;
        for site in BOTH {
            // Everything that could give it an address has run when its endpoints are there.
            world.imported_becomes(site, &[EUROPE.pod(1)]).await?;
            let import = world.imports_any(site).await?;
            assert_eq!((import.spec.type_, import.spec.ips), (ServiceImportType::Headless, Vec::new()));
        }
        assert_eq!(world.status().await?.vips, []);
        world.unexport(EUROPE).await?;
        for site in BOTH {
            world.imports_nothing(site).await?;
        }
        Ok(())
    })
}

#[test]
fn an_external_name_cannot_be_exported() -> Result<()> {
    in_world(async |world| {
        world.start_clusterset().await?;
        let external = json!({ "metadata": { "name": SERVICE }, "spec": { "type": "ExternalName", "externalName": "example.com" } });
        world.deploy(EUROPE, external).await?;
        world.export(EUROPE).await?;
        world.export_says(EUROPE, "Valid", "False", "InvalidServiceType").await?;
        // What is exported later, by another, is imported: so this one would have been.
        world.deploy(AMERICA, hello()).await?;
        world.export(AMERICA).await?;
        world.exporters(EUROPE, &[AMERICA]).await?;
        world.export_says(AMERICA, "Conflict", "False", "NoConflicts").await?;
        Ok(())
    })
}

#[test]
fn conflicting_headlessness_is_resolved_by_age_and_every_export_is_told() -> Result<()> {
    in_world(async |world| {
        world.start_clusterset().await?;
        world.export_both(hello(), headless()).await?;
        for site in BOTH {
            world.export_says(site, "Conflict", "True", "TypeConflict").await?;
            assert_eq!(world.imports_any(site).await?.spec.type_, ServiceImportType::ClusterSetIp);
        }
        // The type follows when the older export goes.
        world.unexport(EUROPE).await?;
        world
            .imports(EUROPE, |import| {
                ensure!(import.spec.type_ == ServiceImportType::Headless && import.spec.ips.is_empty());
                Ok(())
            })
            .await?;
        world.export_says(AMERICA, "Conflict", "False", "NoConflicts").await?;
        Ok(())
    })
}

// === Optional cases ===

#[test]
fn only_exported_labels_and_annotations_reach_the_import() -> Result<()> {
    in_world(async |world| {
        world.start_clusterset().await?;
        let spec = |name: &str| json!({ "exportedLabels": { name: "true" }, "exportedAnnotations": { name: "true" } });
        world.export_both_with((hello(), spec("first")), (hello(), spec("second"))).await?;
        for site in BOTH {
            world.export_says(site, "Conflict", "True", "LabelsConflict,AnnotationsConflict").await?;
            let import = world.imports_any(site).await?;
            for map in [import.labels(), import.annotations()] {
                assert_eq!(map.get("first").map(String::as_str), Some("true"));
                assert!(!map.contains_key("second") && !map.contains_key("own"), "{map:?}");
            }
        }
        Ok(())
    })
}

impl World {
    async fn imported(&self, site: Site) -> Result<Vec<EndpointSlice>> {
        let label = format!("multicluster.kubernetes.io/service-name={SERVICE}");
        Ok(self.site::<EndpointSlice>(site).list(&ListParams::default().labels(&label)).await?.items)
    }

    /// Waits until the addresses imported into a site are these, in order.
    async fn imported_becomes(&self, site: Site, expected: &[String]) -> Result<()> {
        let same = async || {
            let slices = self.imported(site).await?;
            let endpoints = slices.into_iter().flat_map(|slice| slice.endpoints);
            let mut addresses: Vec<_> = endpoints.flat_map(|endpoint| endpoint.addresses).collect();
            addresses.sort();
            ensure!(addresses == expected, "{addresses:?}");
            Ok(())
        };
        self.wait(&format!("{} has imported {expected:?}", site.name), same).await
    }
}

#[test]
fn endpoints_are_imported_marked_with_their_service_and_their_source() -> Result<()> {
    in_world(async |world| {
        world.start_clusterset().await?;
        world.export_both(hello(), hello()).await?;
        for site in BOTH {
            world.announce(site, &[(&site.pod(1), true)]).await?;
        }
        for site in BOTH {
            world.imported_becomes(site, &[EUROPE.pod(1), AMERICA.pod(1)]).await?;
            let import = world.imports_any(site).await?;
            assert_eq!(
                import.status.context("a status")?.endpoint_slice_objects,
                Some(EndpointSliceObjects::Present)
            );
            for slice in world.imported(site).await? {
                let label = |key: &str| slice.labels().get(key).map(String::as_str);
                let source = if slice.endpoints[0].addresses[0] == EUROPE.pod(1) { EUROPE } else { AMERICA };
                assert_eq!(label("multicluster.kubernetes.io/source-cluster"), Some(source.name));
                assert_eq!(label("endpointslice.kubernetes.io/managed-by"), Some("federation-agent"));
                assert_eq!(label("kubernetes.io/service-name"), None, "it is not the local Service's");
                let owner = &slice.owner_references()[0];
                assert_eq!(
                    (owner.kind.as_str(), Some(owner.uid.as_str())),
                    ("ServiceImport", import.metadata.uid.as_deref())
                );
            }
        }
        world.unexport(EUROPE).await?;
        for site in BOTH {
            world.imported_becomes(site, &[AMERICA.pod(1)]).await?;
        }
        world.unexport(AMERICA).await?;
        for site in BOTH {
            world.imported_becomes(site, &[]).await?;
        }
        Ok(())
    })
}
