//! What this federation promises of exports and imports beyond the Multi-Cluster Services API.

use super::*;

#[test]
fn an_exported_service_is_federated_with_the_shards_that_export_it() -> Result<()> {
    in_world(async |world| {
        world.start_clusterset().await?;
        world.deploy(EUROPE, hello()).await?;
        world.deploy(AMERICA, hello()).await?;
        world.announce(EUROPE, &[(&EUROPE.pod(1), true)]).await?;
        // A Service of that name that is not exported has no part in it.
        world.announce(AMERICA, &[(&AMERICA.pod(1), true)]).await?;
        world.export(EUROPE).await?;
        world.mirrored_becomes(EUROPE, &[EUROPE.pod(1)]).await?;
        world.service_says("Propagated", "True", "InPlace").await?;
        world.service_says("Ready", "True", "Serving").await?;
        let shards: Vec<_> = world.status().await?.shards.into_iter().map(|shard| shard.cluster).collect();
        assert_eq!(shards, [EUROPE.name]);
        assert_eq!(world.mirrored(AMERICA).await?, Vec::<String>::new());
        world.export(AMERICA).await?;
        world.mirrored_becomes(AMERICA, &[AMERICA.pod(1)]).await?;
        world.unexport(EUROPE).await?;
        world.mirrored_becomes(EUROPE, &[]).await?;
        assert_eq!(world.mirrored(AMERICA).await?, [AMERICA.pod(1)]);
        Ok(())
    })
}

#[test]
fn an_export_without_a_service_says_so_until_there_is_one() -> Result<()> {
    in_world(async |world| {
        world.start_clusterset().await?;
        world.export(EUROPE).await?;
        let message = world.export_says(EUROPE, "Valid", "False", "NoService").await?;
        assert!(message.contains("my-namespace/my-service"), "{message}");
        world.deploy(EUROPE, hello()).await?;
        world.export_says(EUROPE, "Valid", "True", "Valid").await?;
        world.imports_any(AMERICA).await?;
        world.site::<Service>(EUROPE).delete(SERVICE, &DeleteParams::default()).await?;
        world.export_says(EUROPE, "Valid", "False", "NoService").await?;
        world.imports_nothing(AMERICA).await
    })
}

#[test]
fn a_service_is_imported_where_its_namespace_is_and_as_soon_as_it_is() -> Result<()> {
    in_world(async |world| {
        world.start().await?;
        world.create_namespace_in(EUROPE).await?;
        world.deploy(EUROPE, hello()).await?;
        world.export(EUROPE).await?;
        world.imports_any(EUROPE).await?;
        let namespaces = Api::<Namespace>::all(world.site::<Service>(AMERICA).into_client());
        assert!(namespaces.get_opt(NAMESPACE).await?.is_none(), "no namespace is made in a member");
        world.create_namespace_in(AMERICA).await?;
        world.imports_any(AMERICA).await?;
        Ok(())
    })
}

#[test]
fn a_name_that_a_user_has_federated_cannot_be_taken_by_an_export() -> Result<()> {
    in_world(async |world| {
        world.start_clusterset().await?;
        world.deploy(EUROPE, hello()).await?;
        create(&world.hub::<Service>(), crate::world::service()).await?;
        world.shard(AMERICA).await?;
        world.export(EUROPE).await?;
        let message = world.export_says(EUROPE, "Ready", "False", "Failed").await?;
        assert!(
            message.contains("the name is taken by the federated Service my-namespace/my-service"),
            "{message}"
        );
        // Its own endpoints do not come in, those of the real shard do.
        world.announce(EUROPE, &[(&EUROPE.pod(1), true)]).await?;
        world.announce(AMERICA, &[(&AMERICA.pod(1), true)]).await?;
        world.mirrored_becomes(AMERICA, &[AMERICA.pod(1)]).await?;
        assert_eq!(world.mirrored(EUROPE).await?, Vec::<String>::new());
        // The export of a shard imports the user's service, with its VIP and as the user made it.
        world.export(AMERICA).await?;
        world.export_says(AMERICA, "Ready", "True", "Exported").await?;
        for site in BOTH {
            world.exporters(site, &[AMERICA]).await?;
            let import = world.imports_any(site).await?;
            assert_eq!(ports(&import), ["http:80/TCP"]);
            let status = world.status().await?;
            let nearest = status.vips.iter().find(|vip| vip.scope == ScopeKind::Nearest).context("a VIP")?;
            assert_eq!(import.spec.ips, nearest.ips.iter().map(ToString::to_string).collect::<Vec<_>>());
        }
        world.unexport(AMERICA).await?;
        world.imports_nothing(EUROPE).await?;
        let service = world.hub::<Service>().get(SERVICE).await?;
        assert!(service.metadata.deletion_timestamp.is_none(), "the user's service stays");
        Ok(())
    })
}

#[test]
fn a_cluster_exports_from_the_namespaces_that_its_registration_allows() -> Result<()> {
    in_world(async |world| {
        world.start_clusterset().await?;
        let allow = async |namespaces: Value| {
            let patch =
                json!({ "metadata": { "annotations": { "federation.dev/export-namespaces": namespaces } } });
            merge(&world.clusters(), EUROPE.name, patch).await
        };
        allow(json!("others, and-more")).await?;
        world.deploy(EUROPE, hello()).await?;
        world.export(EUROPE).await?;
        let message = world.export_says(EUROPE, "Valid", "False", "NamespaceNotAllowed").await?;
        assert!(message.contains("only from and-more, others"), "{message}");
        allow(json!("others,my-namespace")).await?;
        world.imports_any(AMERICA).await?;
        allow(json!("others")).await?;
        world.imports_nothing(AMERICA).await
    })
}

#[test]
fn an_import_that_somebody_else_made_is_left_alone() -> Result<()> {
    in_world(async |world| {
        world.start_clusterset().await?;
        let theirs = json!({
            "metadata": { "name": SERVICE },
            "spec": { "type": "ClusterSetIP", "ips": ["192.0.2.1"], "ports": [{ "port": 7 }] },
        });
        create(&world.site::<ServiceImport>(AMERICA), theirs).await?;
        world.deploy(EUROPE, hello()).await?;
        world.export(EUROPE).await?;
        world.imports_any(EUROPE).await?;
        world.announce(EUROPE, &[(&EUROPE.pod(1), true)]).await?;
        world.imported_becomes(EUROPE, &[EUROPE.pod(1)]).await?;
        assert_eq!(world.imports_any(AMERICA).await?.spec.ips, ["192.0.2.1"]);
        world.site::<ServiceImport>(AMERICA).delete(SERVICE, &DeleteParams::default()).await?;
        world
            .imports(AMERICA, |import| {
                ensure!(import.spec.ips != ["192.0.2.1"]);
                Ok(())
            })
            .await?;
        Ok(())
    })
}

#[test]
fn an_import_that_is_changed_or_deleted_by_hand_is_put_right() -> Result<()> {
    in_world(async |world| {
        world.start_clusterset().await?;
        world.deploy(EUROPE, hello()).await?;
        world.export(EUROPE).await?;
        let import = world.imports_any(AMERICA).await?;
        let api = world.site::<ServiceImport>(AMERICA);
        merge(&api, SERVICE, json!({ "spec": { "ips": ["192.0.2.1"] } })).await?;
        let is_right = |found: &ServiceImport| {
            ensure!(found.spec == import.spec);
            Ok(())
        };
        world.imports(AMERICA, is_right).await?;
        api.delete(SERVICE, &DeleteParams::default()).await?;
        let again = world.imports(AMERICA, is_right).await?;
        assert_ne!(again.metadata.uid, import.metadata.uid);
        Ok(())
    })
}

#[test]
fn a_silent_cluster_exports_what_it_did_also_to_a_controller_that_starts_anew() -> Result<()> {
    in_world(async |world| {
        world.start_hub().await?;
        let controller = world.start_controller("198.18.0.0/16")?;
        let europe = world.start_site(EUROPE).await?;
        world.register(EUROPE).await?;
        world.start_site(AMERICA).await?;
        world.register(AMERICA).await?;
        for site in BOTH {
            world.cluster_says(site, "Accepted", "True", "Accepted").await?;
            world.create_namespace_in(site).await?;
        }
        let second = json!([{ "name": "more", "port": 43, "protocol": "TCP" }]);
        world.export_both(hello(), with(hello(), "/spec/ports", second)).await?;
        world.exporters(AMERICA, &BOTH).await?;
        let import = world.imports_any(AMERICA).await?;

        europe.kill();
        controller.kill();
        world.start_controller("198.18.0.0/16")?;
        world.cluster_says(EUROPE, "ControlPlaneHealthy", "False", "Silent").await?;
        // What America says anew is merged with what Europe said last.
        let ports_now = json!({ "spec": { "ports": [{ "name": "other", "port": 44, "protocol": "TCP" }] } });
        merge(&world.site::<Service>(AMERICA), SERVICE, ports_now).await?;
        let merged = world.imports(AMERICA, |import| {
            ensure!(ports(import) == ["other:44/TCP", "tcp:42/TCP", "udp:42/UDP"]);
            Ok(())
        });
        assert_eq!(merged.await?.spec.ips, import.spec.ips);
        world.exporters(AMERICA, &BOTH).await?;

        // One that leaves takes its exports along.
        world.clusters().delete(EUROPE.name, &DeleteParams::default()).await?;
        world.exporters(AMERICA, &[AMERICA]).await
    })
}
