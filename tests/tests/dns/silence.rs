//! What is said while the Federation API is not there.

use anyhow::{Context as _, Result, ensure};

use crate::world::{DNS, PATIENCE, VIPS, create_cluster, create_service, in_world};

#[test]
fn nothing_is_denied_before_the_federation_is_known_and_nothing_forgotten_when_its_api_ends() -> Result<()> {
    in_world(async |world| {
        let api = world.start_api().await?;
        let client = world.client().await?;
        create_cluster(&client).await?;
        create_service(&client, "my-service", &VIPS).await?;
        api.terminate().await?;

        let name = "my-service.my-namespace.my-federation";
        world.start_dns("dns", DNS)?;
        world.eventually(name, "SERVFAIL").await?;
        assert_eq!(world.dig(&["other.my-namespace.my-federation"])?.status, "SERVFAIL");
        assert_eq!(world.dig(&["example.org"])?.status, "REFUSED");

        let api = world.start_api().await?;
        world.eventually_answers(name, "198.18.0.1").await?;
        api.terminate().await?;
        assert_eq!(world.dig(&[name])?.answers, [format!("{name}. 300 IN A 198.18.0.1")]);
        Ok(())
    })
}

#[test]
fn refused_credentials_are_told_and_nothing_is_denied() -> Result<()> {
    in_world(async |world| {
        let _api = world.start_api().await?;
        let kubeconfig = std::fs::read_to_string(world.kubeconfig())?;
        let token = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("token: "));
        let wrong = kubeconfig.replace(token.context("a token in the kubeconfig")?, "wrong");
        std::fs::write(world.kubeconfig(), wrong)?;
        let dns = world.start_dns("dns", DNS)?;

        let told = async || {
            let log = std::fs::read_to_string(dns.log())?;
            ensure!(log.contains("it refuses the credentials of the kubeconfig"), "{log}");
            Ok(())
        };
        world.lab.wait_for("the reason is told", PATIENCE, told).await?;
        assert_eq!(world.dig(&["my-service.my-namespace.my-federation"])?.status, "SERVFAIL");
        Ok(())
    })
}

#[test]
fn a_process_that_starts_without_the_api_answers_from_what_was_known_last() -> Result<()> {
    in_world(async |world| {
        let api = world.start_api().await?;
        let client = world.client().await?;
        create_cluster(&client).await?;
        create_service(&client, "my-service", &VIPS).await?;
        let name = "my-service.my-namespace.my-federation";
        let state = world.lab.folder().join("dns-state");
        let arguments = ["--listen", DNS, "--state-dir", state.to_str().context("a path of ASCII")?];
        let dns = world.start_dns_with("dns", &arguments)?;
        world.eventually_answers(name, "198.18.0.1").await?;
        let file = state.join("federation");
        let saved = async || {
            let text = std::fs::read_to_string(&file)?;
            ensure!(text.contains("198.18.0.1"), "{text}");
            Ok(())
        };
        world.lab.wait_for("the federation is saved", PATIENCE, saved).await?;
        api.terminate().await?;
        dns.kill();

        // Nothing is denied while the API may still answer, then what was known stands for it.
        let dns = world.start_dns_with("dns", &arguments)?;
        world.eventually_answers(name, "198.18.0.1").await?;
        assert_eq!(world.dig(&["other.my-namespace.my-federation"])?.status, "NXDOMAIN");
        dns.kill();

        // A damaged file is as good as none.
        let mut bytes = std::fs::read(&file)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, bytes)?;
        let dns = world.start_dns_with("dns", &arguments)?;
        let told = async || {
            let log = std::fs::read_to_string(dns.log())?;
            ensure!(log.contains("it is damaged: its checksum is not that of its contents"), "{log}");
            Ok(())
        };
        world.lab.wait_for("the reason is told", PATIENCE, told).await?;
        assert_eq!(world.dig(&[name])?.status, "SERVFAIL");

        // And what the API says once it is there again takes its place.
        let _api = world.start_api().await?;
        world.eventually_answers(name, "198.18.0.1").await?;
        world.lab.wait_for("the federation is saved anew", PATIENCE, saved).await
    })
}
