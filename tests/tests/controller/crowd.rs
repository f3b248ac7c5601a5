//! Many clusters, and one that swallows everything.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::world::{NAMESPACE, SERVICE, Site, World, create, in_world, merge};

/// Registrations that live: as many at each of these API servers. A member is what is registered, not the process
/// behind it; each has its own connections, queues and watches.
const SERVERS: [Site; 7] = [
    Site { name: "site-0", region: "r", number: 20 },
    Site { name: "site-1", region: "r", number: 21 },
    Site { name: "site-2", region: "r", number: 22 },
    Site { name: "site-3", region: "r", number: 23 },
    Site { name: "site-4", region: "r", number: 24 },
    Site { name: "site-5", region: "r", number: 25 },
    Site { name: "site-6", region: "r", number: 26 },
];
const PER_SERVER: usize = 7;
const BLACK_HOLE: &str = "black-hole";

/// An API endpoint that accepts connections and never says a word.
struct BlackHole {
    port: u16,
    /// How many connections were ever begun, and how many of them were given up.
    begun: Arc<AtomicU64>,
    ended: Arc<AtomicU64>,
}

impl BlackHole {
    async fn open() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (begun, ended) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let counts = (Arc::clone(&begun), Arc::clone(&ended));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counts.0.fetch_add(1, Ordering::SeqCst);
                let ended = Arc::clone(&counts.1);
                tokio::spawn(async move {
                    let mut swallowed = [0; 4096];
                    // Until the other side gives up.
                    while stream.readable().await.is_ok() {
                        match stream.try_read(&mut swallowed) {
                            Ok(0) => break,
                            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
                            _ => {}
                        }
                    }
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Ok(Self { port, begun, ended })
    }

    /// The connection that is waited for now, by its number.
    fn waiting(&self) -> Option<u64> {
        let (ended, begun) = (self.ended.load(Ordering::SeqCst), self.begun.load(Ordering::SeqCst));
        (begun > ended).then_some(begun)
    }
}

fn registration(name: &str, secret: &str, port: u16) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": {
            "server": format!("https://127.0.0.1:{port}"), "credentialsRef": { "name": secret }, "region": "r",
            "zones": [name], "networks": ["10.20.0.0/16"],
            // Behind gateways, networks may be the same.
            "reachability": "NodePort",
        },
    })
}

async fn port_is(world: &World, expected: i32) -> Result<()> {
    for site in SERVERS {
        world.shard_has_port(site, expected).await?;
    }
    Ok(())
}

#[test]
fn one_black_hole_among_fifty_delays_nobody() -> Result<()> {
    in_world(async |world| {
        world.start_hub().await?;
        for site in SERVERS {
            world.start_site(site).await?;
            world.write_secret(site.name, &[("kubeconfig", &world.kubeconfig(site)?)]).await?;
            for number in 0..PER_SERVER {
                let name = format!("{}-{number}", site.name);
                create(&world.clusters(), registration(&name, site.name, site.port())).await?;
            }
        }
        let hole = BlackHole::open().await?;
        create(&world.clusters(), registration(BLACK_HOLE, SERVERS[0].name, hole.port)).await?;
        world.start_controller("198.18.0.0/16")?;
        let service = json!({
            "metadata": { "name": SERVICE, "namespace": NAMESPACE }, "spec": { "ports": [{ "name": "http", "port": 80 }] },
        });
        create(&world.hub::<Service>(), service).await?;
        let all_in_place = async || {
            let shards = world.status().await?.shards;
            let missing: Vec<_> = shards.iter().filter(|shard| !shard.message.is_empty()).collect();
            ensure!(shards.len() == SERVERS.len() * PER_SERVER + 1, "{} shards", shards.len());
            ensure!(missing.iter().all(|shard| shard.cluster == BLACK_HOLE), "{missing:?}");
            Ok(())
        };
        world.wait("every cluster but one has its shard", all_in_place).await?;

        // A change that reaches everybody while one and the same question to the black hole is waiting for its answer: who
        // waited for that answer could not do it, however quick the machine is.
        let mut port = 81;
        let overtaken = async || {
            let Some(before) = hole.waiting() else {
                anyhow::bail!("nothing waits for the black hole just now")
            };
            port += 1;
            let ports = json!({ "spec": { "ports": [{ "name": "http", "port": port }] } });
            merge(&world.hub::<Service>(), SERVICE, ports).await?;
            port_is(world, port).await?;
            ensure!(hole.waiting() == Some(before), "the question was given up meanwhile");
            Ok(())
        };
        world.wait("a change overtakes the question to the black hole", overtaken).await
    })
}
