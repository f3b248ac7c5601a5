//! The process itself: how it starts, refuses and ends.

use anyhow::{Context as _, Result};
use federation_tests::lab::{ServiceAccount, eventually};

use crate::world::{PATIENCE, QUICK_ELECTION, World, in_world};

#[test]
fn what_cannot_work_ends_in_a_sentence() -> Result<()> {
    in_world(async |world| {
        world.start_hub().await?;
        let admin = world.lab.folder().join("hub/admin.conf");
        let admin = admin.to_str().context("a path of ASCII")?;
        let stranger = world.lab.folder().join("stranger.conf");
        let token = std::fs::read_to_string(world.lab.folder().join("hub/data/admin.token"))?;
        std::fs::write(&stranger, std::fs::read_to_string(admin)?.replace(token.trim(), "guessed"))?;
        let stranger = stranger.to_str().context("a path of ASCII")?;
        for (flag, value, sentence) in [
            ("--kubeconfig", "/nowhere", "read the kubeconfig /nowhere"),
            ("--kubeconfig", stranger, "the Federation API refuses the credentials of"),
            ("--vip-range", "198.18.0.0/16,198.19.0.0/16", "--vip-range was given 2 ranges of IPv4"),
            ("--vip-range", "198.18.0.0/33", "invalid value '198.18.0.0/33' for '--vip-range"),
            ("--service-selector", "=x", "\"=x\" has no label before its ="),
            ("--federation", "My Federation", "--federation \"My Federation\" cannot be part of a DNS name"),
            ("--domain", "example..com", "--domain \"example..com\" is no DNS name"),
            (
                "--leader-elect-lease-duration",
                "10s",
                "--leader-elect-renew-deadline 10s must be shorter than",
            ),
            ("--leader-elect-retry-period", "soon", "invalid value 'soon' for '--leader-elect-retry-period"),
        ] {
            let mut arguments = Vec::new();
            let usual = [
                ("--federation", "my-federation"),
                ("--domain", "example.com"),
                ("--kubeconfig", admin),
                ("--vip-range", "198.18.0.0/16"),
            ];
            arguments.extend(
                usual.iter().filter(|(name, _)| *name != flag).flat_map(|(name, value)| [*name, *value]),
            );
            arguments.extend([flag, value]);
            let output = world.controller_command()?.args(arguments).output()?;
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{flag} {value} was taken");
            assert!(errors.contains(sentence), "{flag} {value}: {errors}");
            assert!(!errors.contains("guessed"), "credentials are not printed: {errors}");
        }
        Ok(())
    })
}

#[test]
fn it_ends_well_when_it_is_told_to() -> Result<()> {
    in_world(async |world| {
        let controller = world.start().await?;
        world.create_service().await?;
        assert!(controller.terminate().await?.success());
        Ok(())
    })
}

#[test]
fn it_waits_for_a_federation_api_that_comes_later() -> Result<()> {
    in_world(async |world: &World| {
        let hub = world.start_hub().await?;
        assert!(hub.terminate().await?.success());
        let controller = world.start_controller("198.18.0.0/16")?;
        let waits = async || {
            let log = controller.tail(20)?.join("\n");
            anyhow::ensure!(log.contains("the Federation API does not answer yet"), "{log}");
            Ok(())
        };
        eventually("the controller says that it waits", PATIENCE, waits).await?;
        world.restart_hub().await?;
        world.join_sites().await
    })
}

#[test]
fn without_a_kubeconfig_it_is_the_service_account_of_its_pod() -> Result<()> {
    in_world(async |world: &World| {
        world.start_hub().await?;
        let usual =
            ["--federation", "my-federation", "--domain", "example.com", "--vip-range", "198.18.0.0/16"];
        let mut command = world.controller_command()?;
        let output = command.args(usual).env_remove("KUBERNETES_SERVICE_HOST").output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(errors.contains("neither a --kubeconfig nor a pod's service account"), "{errors}");

        let kubeconfig = world.lab.folder().join("hub/admin.conf");
        let account = ServiceAccount::of(&kubeconfig, &world.lab.folder().join("account"))?;
        let mut command = world.controller_command()?;
        command.args(usual).args(QUICK_ELECTION);
        account.lend(&mut command);
        world.spawn("controller", command)?;
        world.join_sites().await
    })
}
