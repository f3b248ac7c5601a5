//! `federation-agent join` and `leave`, as a person runs them.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use federation_agent::api::{Cluster, FederatedService, SYSTEM_NAMESPACE};
use federation_tests::lab::program;
use k8s_openapi::api::core::v1::{Node, Secret, Service};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::world::{AMERICA, EUROPE, SERVICE, Site, World, create, in_world, merge, service};

/// What a command said, once it has ended.
struct Said {
    output: String,
    errors: String,
    success: bool,
}

impl Said {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { output: text(&output.stdout), errors: text(&output.stderr), success: output.status.success() }
    }

    #[track_caller]
    fn fine(&self) -> &str {
        assert!(self.success, "{}{}", self.output, self.errors);
        &self.output
    }

    #[track_caller]
    fn refused(&self, part: &str) {
        assert!(!self.success, "it went well: {}", self.output);
        assert!(self.errors.contains(part), "{}", self.errors);
    }
}

fn command(world: &World, name: &str) -> Result<Command> {
    let mut command = world.command(program("federation-agent")?);
    command.arg(name).env("FEDERATION_KUBECONFIG", world.lab.folder().join("hub/admin.conf"));
    Ok(command)
}

async fn run(mut command: Command) -> Result<Said> {
    Ok(Said::of(&tokio::task::spawn_blocking(move || command.output()).await??))
}

/// Joins a site by the kubeconfig that its API server has written.
async fn join(world: &World, site: Site, flags: &[&str]) -> Result<Said> {
    let mut command = command(world, "join")?;
    command.arg("--cluster-kubeconfig").arg(kubeconfig(world, site)).args(flags);
    run(command).await
}

async fn leave(world: &World, flags: &[&str]) -> Result<Said> {
    let mut command = command(world, "leave")?;
    command.args(flags);
    run(command).await
}

fn kubeconfig(world: &World, site: Site) -> PathBuf {
    world.lab.folder().join(site.name).join("admin.conf")
}

/// Nodes as a cloud has them.
async fn add_nodes(world: &World, site: Site) -> Result<()> {
    let nodes: Api<Node> = world.of_site(site);
    for number in 0..2_u8 {
        let node = json!({
            "metadata": { "name": format!("node-{number}"), "labels": {
                "topology.kubernetes.io/region": site.region, "topology.kubernetes.io/zone": site.name,
            } },
            "spec": { "podCIDR": format!("10.{}.{number}.0/24", site.number), "providerID": "gce://my-project/z/n" },
        });
        create(&nodes, node).await?;
    }
    Ok(())
}

async fn clusters(world: &World) -> Result<Vec<Cluster>> {
    Ok(world.clusters().list(&kube::api::ListParams::default()).await?.items)
}

fn secrets(world: &World) -> Api<Secret> {
    world.hub_in(SYSTEM_NAMESPACE)
}

#[test]
fn a_cluster_joins_by_what_its_nodes_say_and_a_second_time_nothing_changes() -> Result<()> {
    in_world(async |world| {
        world.start_hub().await?;
        world.start_site(EUROPE).await?;
        add_nodes(world, EUROPE).await?;
        world.start_controller("198.18.0.0/16")?;

        let dry = join(world, EUROPE, &["--dry-run"]).await?;
        for part in [
            "Secret federation-system/europe-west1-d: would be created.",
            "Cluster europe-west1-d: would be created.",
            "region: europe-west1",
        ] {
            assert!(dry.fine().contains(part), "{}", dry.output);
        }
        ensure!(clusters(world).await?.is_empty() && secrets(world).get_opt(EUROPE.name).await?.is_none());

        let said = join(world, EUROPE, &["--label", "env=prod"]).await?;
        for sentence in [
            "Its Nodes (2) tell of region europe-west1, zones europe-west1-d, provider gcp, pod ranges 10.8.0.0/23.",
            "Secret federation-system/europe-west1-d: created.",
            "Cluster europe-west1-d: created.",
            "The controller accepts it: the registration and its credentials are usable",
        ] {
            assert!(said.fine().contains(sentence), "{}", said.output);
        }
        let cluster = world.clusters().get(EUROPE.name).await?;
        assert_eq!(cluster.labels().get("env").map(String::as_str), Some("prod"));
        let spec = serde_json::to_value(&cluster.spec)?;
        let expected = json!({
            "server": "https://127.0.0.1:7008", "credentialsRef": { "name": "europe-west1-d" }, "provider": "gcp",
            "region": "europe-west1", "zones": ["europe-west1-d"], "reachability": "Pod", "networks": ["10.8.0.0/23"],
        });
        assert_eq!(spec, expected);

        let again = join(world, EUROPE, &["--label", "env=prod"]).await?;
        assert!(
            again.fine().contains("Secret federation-system/europe-west1-d: unchanged."),
            "{}",
            again.output
        );
        assert!(again.output.contains("Cluster europe-west1-d: unchanged."), "{}", again.output);
        let same = world.clusters().get(EUROPE.name).await?;
        assert_eq!(same.metadata.generation, cluster.metadata.generation);

        let wider = join(world, EUROPE, &["--network", "10.8.0.0/16,fd00:8::/48"]).await?;
        assert!(
            wider.fine().contains("Secret federation-system/europe-west1-d: unchanged."),
            "{}",
            wider.output
        );
        assert!(wider.output.contains("Cluster europe-west1-d: updated."), "{}", wider.output);
        let networks = world.clusters().get(EUROPE.name).await?.spec.networks;
        assert_eq!(
            networks.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.8.0.0/16", "fd00:8::/48"]
        );
        Ok(())
    })
}

#[test]
fn what_keeps_a_cluster_from_joining_is_told_and_nothing_is_written() -> Result<()> {
    in_world(async |world| {
        world.start().await?;
        let before = clusters(world).await?.len();
        let missing = world.lab.folder().join("missing.conf");
        let elsewhere = std::fs::read_to_string(kubeconfig(world, EUROPE))?.replace("7008", "7009");
        let folder = world.lab.folder();
        let write = |name: &str, content: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            std::fs::write(&path, content)?;
            Ok(path)
        };
        let token = std::fs::read_to_string(folder.join("europe-west1-d/data/admin.token"))?;
        let good = std::fs::read_to_string(kubeconfig(world, EUROPE))?;
        let stranger = write("stranger.conf", &good.replace(token.trim(), "guessed"))?;
        let exec =
            write("exec.conf", &good.replace(&format!("token: {}", token.trim()), "exec: {command: aws}"))?;
        let silent = write("silent.conf", &good.replace("7008", "7007"))?;
        let untrusted = write("untrusted.conf", &elsewhere)?;
        let reader = folder.join("europe-west1-d/node.conf");
        let place =
            ["--region", "europe-west1", "--zone", "z", "--provider", "p", "--network", "10.7.0.0/16"];
        let cases: &[(&PathBuf, &[&str], &str)] = &[
            (&missing, &[], "read the kubeconfig that has the cluster"),
            (&stranger, &["--context", "mars"], "the kubeconfig has no context mars; it has europe-west1-d"),
            (&stranger, &["My_Cluster"], "\"My_Cluster\" cannot be the name of a cluster"),
            (&exec, &["new"], "logs in through the program aws, which the controller does not have"),
            (&stranger, &["new"], "is registered already, as europe-west1-d"),
            (&silent, &["new"], "reach the cluster of context europe-west1-d at https://127.0.0.1:7007"),
            (&untrusted, &[AMERICA.name, "--context", EUROPE.name], "invalid peer certificate"),
            (&stranger, &[EUROPE.name], "use the cluster of context europe-west1-d"),
            (
                &reader,
                &[],
                "its credentials may not create Namespaces, create and patch Services, delete Services; give them",
            ),
            (
                &kubeconfig(world, EUROPE),
                &["--network", "10.9.4.0/24", "--zone", "z", "--region", "r"],
                "its network 10.9.4.0/24 overlaps network 10.9.0.0/16 of cluster us-east1-b",
            ),
            (
                &kubeconfig(world, EUROPE),
                &[
                    "--network",
                    "198.18.4.0/24",
                    "--vip-range",
                    "198.18.0.0/16",
                    "--zone",
                    "z",
                    "--region",
                    "r",
                ],
                "its network 198.18.4.0/24 overlaps the VIP range 198.18.0.0/16",
            ),
        ];
        for (kubeconfig, flags, sentence) in cases {
            let mut command = command(world, "join")?;
            command.arg("--cluster-kubeconfig").arg(kubeconfig).args(*flags);
            if !flags.contains(&"--network") {
                command.args(place);
            }
            let said = run(command).await?;
            said.refused(sentence);
            assert!(
                !said.errors.contains("guessed") && !said.errors.contains(token.trim()),
                "{}",
                said.errors
            );
        }
        assert_eq!(clusters(world).await?.len(), before);
        for site in [EUROPE, AMERICA] {
            let generation = world.clusters().get(site.name).await?.metadata.generation;
            assert_eq!(generation, Some(1), "{} is as it was", site.name);
        }
        // A Secret that somebody else wrote is not overwritten.
        let said = join(world, EUROPE, &place).await?;
        said.refused("there is a Secret federation-system/europe-west1-d that was not made by `join`");
        Ok(())
    })
}

#[test]
fn a_cluster_that_the_controller_refuses_is_told_with_its_reason() -> Result<()> {
    in_world(async |world| {
        world.start_hub().await?;
        world.start_site(EUROPE).await?;
        world.start_controller("198.18.0.0/16")?;
        // Nobody tells the command the ranges, so the controller alone can know.
        let place = ["--region", "r", "--zone", "z", "--provider", "p", "--network", "198.18.4.0/24"];
        join(world, EUROPE, &place).await?.refused(
            "europe-west1-d is registered, but the controller does not accept it: its network 198.18.4.0/24 overlaps the \
             VIP range 198.18.0.0/16",
        );
        let said = leave(world, &[EUROPE.name]).await?;
        assert!(said.fine().contains("Cluster europe-west1-d: removed."), "{}", said.output);
        Ok(())
    })
}

#[test]
fn a_cluster_leaves_with_its_shards_and_its_secret_and_may_come_again() -> Result<()> {
    in_world(async |world| {
        world.start_hub().await?;
        world.start_controller("198.18.0.0/16")?;
        let place = |site: Site| vec!["--region", site.region, "--zone", site.name, "--provider", "p"];
        for (site, network) in [(EUROPE, "10.8.0.0/16"), (AMERICA, "10.9.0.0/16")] {
            world.start_site(site).await?;
            join(world, site, &[place(site), vec!["--network", network]].concat()).await?.fine();
        }
        create(&world.hub::<Service>(), service()).await?;
        for site in [EUROPE, AMERICA] {
            world.shard(site).await?;
            world.announce(site, &[(&site.pod(1), true)]).await?;
            world.mirrored_becomes(site, &[site.pod(1)]).await?;
        }
        let other = json!({ "metadata": { "name": "other" }, "spec": { "ports": [{ "port": 80 }] } });
        create(&world.site::<Service>(EUROPE), other).await?;
        let vips = world.status().await?.vips;

        leave(world, &["mars"]).await?.refused("there is no Cluster mars; known: europe-west1-d, us-east1-b");
        let said = leave(world, &[EUROPE.name]).await?;
        for sentence in [
            "Shards removed from cluster europe-west1-d: my-namespace/my-service.",
            "Cluster europe-west1-d: removed.",
            "Secret federation-system/europe-west1-d: removed.",
        ] {
            assert!(said.fine().contains(sentence), "{}", said.output);
        }
        assert!(world.site::<Service>(EUROPE).get_opt(SERVICE).await?.is_none(), "its shard is gone");
        world.site::<Service>(EUROPE).get("other").await?;
        assert_eq!(world.mirrored(EUROPE).await?, Vec::<String>::new());
        assert_eq!(world.mirrored(AMERICA).await?, [AMERICA.pod(1)]);
        assert!(secrets(world).get_opt(EUROPE.name).await?.is_none());
        world.shard(AMERICA).await?;

        join(world, EUROPE, &[place(EUROPE), vec!["--network", "10.8.0.0/16"]].concat()).await?.fine();
        world.shard(EUROPE).await?;
        world.mirrored_becomes(EUROPE, &[EUROPE.pod(1)]).await?;
        assert_eq!(world.status().await?.vips, vips, "no VIP moved");
        Ok(())
    })
}

#[test]
fn a_cluster_that_does_not_answer_is_waited_for_and_may_be_kept_or_abandoned() -> Result<()> {
    in_world(async |world| {
        world.start().await?;
        world.create_service().await?;
        world.service_says("Propagated", "True", "InPlace").await?;
        world.lab.process(EUROPE.name)?.kill();
        world.cluster_says(EUROPE, "ControlPlaneHealthy", "False", "Silent").await?;
        let said = leave(world, &[EUROPE.name, "--timeout", "1s"]).await?;
        said.refused("1 services may have shards there still, as my-namespace/my-service, and its API does not let us in");
        said.refused("`federation-agent leave --abandon europe-west1-d`");
        world.cluster_says(EUROPE, "Drained", "False", "RemovingShards").await?;

        // Whoever changes their mind takes the mark off, and the shard stays.
        let stays = json!({ "metadata": { "annotations": { "federation.dev/leaving": null } } });
        merge(&world.clusters(), EUROPE.name, stays).await?;
        world.start_site(EUROPE).await?;
        world.service_says("Propagated", "True", "InPlace").await?;
        world.shard(EUROPE).await?;
        let conditions = world.clusters().get(EUROPE.name).await?.status.context("a status")?.conditions;
        assert!(conditions.iter().all(|condition| condition.type_ != "Drained"), "{conditions:?}");

        world.lab.process(EUROPE.name)?.kill();
        world.cluster_says(EUROPE, "ControlPlaneHealthy", "False", "Silent").await?;
        let said = leave(world, &[EUROPE.name, "--abandon"]).await?;
        assert!(said.fine().contains("stay there: my-namespace/my-service."), "{}", said.output);
        assert!(said.output.contains("stays, it was not made by `join`"), "{}", said.output);
        world.start_site(EUROPE).await?;
        world.site::<Service>(EUROPE).get(SERVICE).await?;
        // Nothing waits for it any more.
        world.delete_service().await?;
        world.is_gone(world.hub::<FederatedService>(), SERVICE).await
    })
}

#[test]
fn the_credentials_in_the_secret_are_whole_without_the_files_that_the_kubeconfig_names() -> Result<()> {
    in_world(async |world| {
        world.start_hub().await?;
        world.start_site(EUROPE).await?;
        world.start_controller("198.18.0.0/16")?;
        let folder = world.lab.folder().join("europe-west1-d");
        let text = "{clusters: [{name: c, cluster: {server: 'https://127.0.0.1:7008', certificate-authority: data/ca.crt}}], \
             users: [{name: u, user: {tokenFile: data/admin.token}}], contexts: [{name: europe-west1-d, context: \
             {cluster: c, user: u}}], current-context: europe-west1-d}";
        let files = folder.join("files.conf");
        std::fs::write(&files, text)?;
        let mut command = command(world, "join")?;
        command.arg("--cluster-kubeconfig").arg(&files);
        command.args(["--region", "r", "--zone", "z", "--provider", "p", "--network", "10.8.0.0/16"]);
        run(command).await?.fine();
        let secret = secrets(world).get(EUROPE.name).await?;
        let kubeconfig = secret.data.context("data")?.remove("kubeconfig").context("a kubeconfig")?;
        let kubeconfig = String::from_utf8(kubeconfig.0)?;
        assert!(!kubeconfig.contains("data/"), "it names files");
        Ok(())
    })
}
