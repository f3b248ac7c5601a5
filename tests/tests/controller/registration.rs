//! Becoming a member, and why not.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::ByteString;
use kube::api::DeleteParams;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::json;

use crate::world::{AMERICA, EUROPE, create, in_world, merge};

#[test]
fn credentials_that_do_not_work_are_named_and_picked_up_once_they_do() -> Result<()> {
    in_world(async |world| {
        world.start_hub().await?;
        world.start_site(EUROPE).await?;
        world.start_controller("198.18.0.0/16")?;
        create(&world.clusters(), EUROPE.cluster()).await?;
        let message = world.cluster_says(EUROPE, "Accepted", "False", "CredentialsMissing").await?;
        assert_eq!(message, "there is no Secret europe-west1-d in namespace federation-system; create it");

        world.write_secret(EUROPE.name, &[("kubeconfig", "no kubeconfig")]).await?;
        world.cluster_says(EUROPE, "Accepted", "False", "CredentialsInvalid").await?;

        let token = std::fs::read_to_string(world.lab.folder().join("europe-west1-d/data/admin.token"))?;
        let good = world.kubeconfig(EUROPE)?;
        world.write_secret(EUROPE.name, &[("kubeconfig", &good.replace(token.trim(), "guessed"))]).await?;
        let message = world.cluster_says(EUROPE, "Accepted", "False", "CredentialsRefused").await?;
        assert!(message.contains("renew the Secret") && !message.contains("guessed"), "{message}");

        world.write_secret(EUROPE.name, &[("kubeconfig", &good)]).await?;
        world.cluster_says(EUROPE, "Accepted", "True", "Accepted").await?;
        world.cluster_says(EUROPE, "ControlPlaneHealthy", "True", "Answers").await?;
        let status = world.clusters().get(EUROPE.name).await?.status.unwrap_or_default();
        assert!(status.version.is_some_and(|version| version.starts_with('v')));
        assert!(status.last_contact_time.is_some());

        let log = world.lab.process("controller")?.tail(usize::MAX)?.join("\n");
        assert!(!log.contains("guessed") && !log.contains(token.trim()), "credentials are never logged");
        Ok(())
    })
}

#[test]
fn a_client_certificate_whose_time_is_over_is_named_with_its_date() -> Result<()> {
    in_world(async |world| {
        world.start_hub().await?;
        world.start_site(EUROPE).await?;
        world.start_controller("198.18.0.0/16")?;
        let data = world.lab.folder().join("europe-west1-d/data");
        let ca = ByteString(std::fs::read(data.join("ca.crt"))?);
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2024, 1, 1);
        params.not_after = date_time_ymd(2025, 1, 1);
        let key = KeyPair::generate()?;
        let certificate = ByteString(params.self_signed(&key)?.pem().into_bytes());
        let private = ByteString(key.serialize_pem().into_bytes());
        let kubeconfig = json!({
            "clusters": [{ "name": "c", "cluster": {
                "server": "https://127.0.0.1:7008", "certificate-authority-data": ca,
            } }],
            "users": [{ "name": "u", "user": {
                "client-certificate-data": certificate, "client-key-data": private,
            } }],
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
            "current-context": "x",
        });
        world.write_secret(EUROPE.name, &[("kubeconfig", &kubeconfig.to_string())]).await?;
        create(&world.clusters(), EUROPE.cluster()).await?;
        let message = world.cluster_says(EUROPE, "Accepted", "False", "CredentialsExpired").await?;
        assert!(message.starts_with("the client certificate ("), "{message}");
        assert!(
            message.ends_with("in the Secret expired on 2025-01-01T00:00:00Z; put a new one there"),
            "{message}"
        );
        assert_eq!(world.event("default", "Cluster", "CredentialsExpired").await?, message);

        let condition = async || {
            let status = world.clusters().get(EUROPE.name).await?.status.context("a status")?;
            let accepted = status.conditions.into_iter().find(|condition| condition.type_ == "Accepted");
            accepted.context("Accepted")
        };
        let refused = condition().await?;
        world.write_secret(EUROPE.name, &[("kubeconfig", &world.kubeconfig(EUROPE)?)]).await?;
        world.cluster_says(EUROPE, "Accepted", "True", "Accepted").await?;
        let accepted = condition().await?;
        assert!(accepted.last_transition_time.0 >= refused.last_transition_time.0);
        assert_eq!(accepted.observed_generation, Some(1));
        let status = world.clusters().get(EUROPE.name).await?.status.context("a status")?;
        assert!(status.api_latency_milliseconds.is_some(), "it is told how long its API took");
        Ok(())
    })
}

#[test]
fn a_token_and_a_ca_are_enough_to_log_in() -> Result<()> {
    in_world(async |world| {
        world.start_hub().await?;
        world.start_site(EUROPE).await?;
        world.start_controller("198.18.0.0/16")?;
        let data = world.lab.folder().join("europe-west1-d/data");
        let token = std::fs::read_to_string(data.join("admin.token"))?;
        let ca = std::fs::read_to_string(data.join("ca.crt"))?;
        world.write_secret(EUROPE.name, &[("token", &token), ("ca.crt", &ca)]).await?;
        create(&world.clusters(), EUROPE.cluster()).await?;
        world.cluster_says(EUROPE, "Accepted", "True", "Accepted").await?;

        let other = std::fs::read_to_string(world.lab.folder().join("hub/data/ca.crt"))?;
        world.write_secret(EUROPE.name, &[("token", &token), ("ca.crt", &other)]).await?;
        world.cluster_says(EUROPE, "Accepted", "False", "ServerNotTrusted").await?;
        Ok(())
    })
}

#[test]
fn networks_that_overlap_are_refused_until_they_do_not() -> Result<()> {
    in_world(async |world| {
        world.start().await?;
        merge(&world.clusters(), AMERICA.name, json!({ "spec": { "networks": ["10.8.128.0/17"] } })).await?;
        let message = world.cluster_says(AMERICA, "Accepted", "False", "NetworksOverlap").await?;
        assert!(message.contains("overlaps network 10.8.0.0/16 of cluster europe-west1-d"), "{message}");
        merge(&world.clusters(), AMERICA.name, json!({ "spec": { "networks": ["198.18.4.0/24"] } })).await?;
        let in_range = async || {
            let message = world.cluster_says(AMERICA, "Accepted", "False", "NetworksOverlap").await?;
            ensure!(message.contains("overlaps the VIP range 198.18.0.0/16"), "{message}");
            Ok(())
        };
        world.wait("the VIP range is named", in_range).await?;
        merge(&world.clusters(), AMERICA.name, json!({ "spec": { "networks": ["10.8.128.0/17"] } })).await?;
        world.clusters().delete(EUROPE.name, &DeleteParams::default()).await?;
        world.cluster_says(AMERICA, "Accepted", "True", "Accepted").await?;
        Ok(())
    })
}
