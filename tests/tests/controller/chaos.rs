//! Every process is killed at random while somebody works; in the end the federation is what was asked for.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, anyhow, ensure};
use federation_agent::api::FederatedService;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::json;

use crate::world::{AMERICA, EUROPE, NAMESPACE, QUICK_ELECTION, Site, World, apply, in_world};

/// Steps of one run: about half of them are operations, the rest ends or begins a process.
const STEPS: usize = 200;
/// Chooses a run again: its seed is printed.
const SEED: &str = "FEDERATION_CHAOS_SEED";
const RANGE: &str = "198.18.0.0/16";
const SITES: [Site; 2] = [EUROPE, AMERICA];
const SERVICES: [&str; 4] = ["one", "two", "three", "four"];
const CONTROLLERS: [&str; 2] = ["controller-0", "controller-1"];
/// The Federation API, by the name of its process.
const HUB: &str = "hub";

/// What was asked for.
#[derive(Debug, Default)]
struct Script {
    services: BTreeMap<&'static str, Wanted>,
    /// What the pods of each site are, by service.
    endpoints: BTreeMap<(&'static str, &'static str), BTreeSet<String>>,
}

#[derive(Clone, Debug)]
struct Wanted {
    port: i32,
    /// Everywhere, or at one site.
    only: Option<&'static str>,
}

struct Chaos<'a> {
    world: &'a World,
    random: StdRng,
    script: Script,
    running: BTreeSet<&'static str>,
    story: Vec<String>,
}

impl Chaos<'_> {
    /// Something happens.
    async fn step(&mut self) -> Result<()> {
        match self.random.random_range(0..10_u8) {
            0..5 => self.operate().await,
            5..8 => self.kill(),
            _ => self.revive().await,
        }
    }

    /// One operation, which succeeds once the API servers that it needs are there.
    async fn operate(&mut self) -> Result<()> {
        let name = *SERVICES.choose(&mut self.random).context("a service")?;
        let site = *SITES.choose(&mut self.random).context("a site")?;
        match self.random.random_range(0..6_u8) {
            0..3 => {
                let only = [None, None, Some(EUROPE.name), Some(AMERICA.name)];
                let only = *only.choose(&mut self.random).context("a choice")?;
                let wanted = Wanted { port: self.random.random_range(1..1000), only };
                self.tell(format!("{name} shall be {wanted:?}"));
                self.needs(HUB).await?;
                let live = self.world.hub::<Service>().get_opt(name).await?;
                if live.is_some_and(|live| live.metadata.deletion_timestamp.is_some()) {
                    // One of the same name is on its way out, and goes only if everybody lets it.
                    self.needs_all().await?;
                }
                self.write(name, &wanted).await?;
                self.script.services.insert(name, wanted);
            }
            3 => {
                self.tell(format!("{name} shall go"));
                self.needs(HUB).await?;
                self.delete(name).await?;
                self.script.services.remove(name);
            }
            _ => {
                let pods = self.random.random_range(0..4_u8);
                let pods: BTreeSet<_> =
                    (0..pods).map(|_| site.pod(self.random.random_range(1..200))).collect();
                self.tell(format!("{} announces {pods:?} for {name}", site.name));
                self.needs(site.name).await?;
                self.announce(site, name, &pods).await?;
                self.script.endpoints.insert((site.name, name), pods);
            }
        }
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        let running: Vec<_> = self.running.iter().copied().collect();
        let Some(name) = running.choose(&mut self.random).copied() else { return Ok(()) };
        self.tell(format!("{name} is killed"));
        self.world.lab.process(name)?.kill();
        self.running.remove(name);
        Ok(())
    }

    async fn revive(&mut self) -> Result<()> {
        let all = [HUB, EUROPE.name, AMERICA.name].into_iter().chain(CONTROLLERS);
        let dead: Vec<_> = all.filter(|name| !self.running.contains(name)).collect();
        let Some(name) = dead.choose(&mut self.random).copied() else { return Ok(()) };
        self.needs(name).await
    }

    /// Sees to it that a process runs.
    async fn needs(&mut self, name: &'static str) -> Result<()> {
        if self.running.contains(name) {
            return Ok(());
        }
        self.tell(format!("{name} is started"));
        if name == HUB {
            self.world.restart_hub().await?;
        } else if let Some(site) = SITES.into_iter().find(|site| site.name == name) {
            self.world.start_site(site).await?;
        } else {
            self.world.start_candidate(name, RANGE, &QUICK_ELECTION)?;
        }
        self.running.insert(name);
        Ok(())
    }

    async fn needs_all(&mut self) -> Result<()> {
        for name in [HUB, EUROPE.name, AMERICA.name].into_iter().chain(CONTROLLERS) {
            self.needs(name).await?;
        }
        Ok(())
    }

    fn tell(&mut self, what: String) {
        self.story.push(what);
    }

    async fn write(&self, name: &str, wanted: &Wanted) -> Result<()> {
        let selector = wanted.only.map(|site| json!({ "matchLabels": { "site": site } }));
        let federated: FederatedService = serde_json::from_value(json!({
            "apiVersion": "federation.dev/v1alpha1", "kind": "FederatedService", "metadata": { "name": name },
            "spec": { "clusterSelector": selector },
        }))?;
        let service: Service = serde_json::from_value(json!({
            "metadata": { "name": name }, "spec": { "ports": [{ "name": "http", "port": wanted.port }] },
        }))?;
        let written = async || {
            let live = self.world.hub::<Service>().get_opt(name).await?;
            ensure!(
                live.is_none_or(|live| live.metadata.deletion_timestamp.is_none()),
                "the old one is going"
            );
            apply(&self.world.hub(), name, &federated).await?;
            apply(&self.world.hub(), name, &service).await
        };
        self.world.wait(&format!("{name} is written"), written).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        for deleted in [
            self.world.hub::<FederatedService>().delete(name, &DeleteParams::default()).await.map(drop),
            self.world.hub::<Service>().delete(name, &DeleteParams::default()).await.map(drop),
        ] {
            match deleted {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                result => result?,
            }
        }
        Ok(())
    }

    async fn announce(&self, site: Site, name: &str, pods: &BTreeSet<String>) -> Result<()> {
        let endpoints: Vec<_> = pods.iter().map(|pod| json!({ "addresses": [pod] })).collect();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": { "name": format!("{name}-x"), "labels": { "kubernetes.io/service-name": name } },
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        }))?;
        apply(&self.world.site(site), &format!("{name}-x"), &slice).await
    }

    /// Whether everything is as the script says.
    async fn is_as_asked(&self) -> Result<()> {
        for name in SERVICES {
            let wanted = self.script.services.get(name);
            let is_there = self.world.hub::<Service>().get_opt(name).await?.is_some();
            ensure!(is_there == wanted.is_some(), "Service {name} is there: {is_there}");
            let federated = self.world.hub::<FederatedService>().get_opt(name).await?;
            ensure!(
                federated.is_some() == wanted.is_some(),
                "FederatedService {name} is there: {}",
                !is_there
            );
            for site in SITES {
                self.shard_is_as_asked(site, name, wanted).await?;
            }
            let Some(federated) = federated else { continue };
            let status = federated.status.context("no status")?;
            let selected =
                SITES.iter().filter(|site| wanted.is_some_and(|wanted| wanted.selects(**site))).count();
            ensure!(status.shards.len() == selected, "{name}: {:?}", status.shards);
            let bad: Vec<_> = status
                .conditions
                .iter()
                .filter(|condition| ["Accepted", "Propagated"].contains(&condition.type_.as_str()))
                .filter(|condition| condition.status != "True")
                .collect();
            ensure!(bad.is_empty(), "{name}: {bad:?}");
        }
        self.vips_are_distinct().await
    }

    async fn shard_is_as_asked(&self, site: Site, name: &str, wanted: Option<&Wanted>) -> Result<()> {
        let wanted = wanted.filter(|wanted| wanted.selects(site));
        let shard = self.world.site::<Service>(site).get_opt(name).await?;
        let port = shard
            .as_ref()
            .and_then(|shard| shard.spec.as_ref()?.ports.as_ref()?.first().map(|port| port.port));
        let expected = wanted.map(|wanted| wanted.port);
        ensure!(port == expected, "{name} at {} has port {port:?} instead of {expected:?}", site.name);
        let label = format!("federation.dev/cluster={},kubernetes.io/service-name={name}", site.name);
        let slices: Api<EndpointSlice> = self.world.hub_in(NAMESPACE);
        let slices = slices.list(&ListParams::default().labels(&label)).await?;
        let mirrored: BTreeSet<_> = slices
            .iter()
            .flat_map(|slice| &slice.endpoints)
            .flat_map(|endpoint| endpoint.addresses.iter().cloned())
            .collect();
        let announced = wanted
            .and_then(|_| self.script.endpoints.iter().find(|((at, of), _)| *at == site.name && *of == name));
        let announced = announced.map(|(_, pods)| pods.clone()).unwrap_or_default();
        ensure!(mirrored == announced, "{name} at {}: mirrored {mirrored:?}, not {announced:?}", site.name);
        Ok(())
    }

    async fn vips_are_distinct(&self) -> Result<()> {
        let mut holders = BTreeMap::new();
        for federated in self.world.hub::<FederatedService>().list(&ListParams::default()).await? {
            let vips = federated.status.iter().flat_map(|status| &status.vips);
            ensure!(vips.clone().count() >= 4, "{} has its VIPs", federated.name_any());
            for (vip, ip) in vips.flat_map(|vip| vip.ips.iter().map(move |ip| (vip, *ip))) {
                let before = holders.insert(ip, (federated.name_any(), vip.name.clone()));
                ensure!(before.is_none(), "{ip} is held by {before:?} and {}", vip.name);
            }
        }
        Ok(())
    }
}

impl Wanted {
    fn selects(&self, site: Site) -> bool {
        self.only.is_none_or(|only| only == site.name)
    }
}

#[test]
fn the_federation_becomes_what_was_asked_for_whatever_is_killed_meanwhile() -> Result<()> {
    let seed = std::env::var(SEED).ok().map(|seed| seed.parse()).transpose().context(SEED)?;
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("{SEED}={seed}");
    in_world(async |world| {
        world.start_hub().await?;
        let mut chaos = Chaos {
            world,
            random: StdRng::seed_from_u64(seed),
            script: Script::default(),
            running: [HUB, EUROPE.name, AMERICA.name].into(),
            story: Vec::new(),
        };
        for name in CONTROLLERS {
            chaos.needs(name).await?;
        }
        world.join_sites().await?;
        for site in SITES {
            world.create_namespace_in(site).await?;
        }
        for _ in 0..STEPS {
            chaos.step().await?;
        }
        chaos.needs_all().await?;
        let settled =
            world.wait("the federation is what was asked for", async || chaos.is_as_asked().await).await;
        settled.map_err(|error| {
            anyhow!("{SEED}={seed}: {error:#}\nwhat happened:\n  {}", chaos.story.join("\n  "))
        })
    })
}
