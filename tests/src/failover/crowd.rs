//! A near shard that scales from 0 to 30 pods while 90 far ones serve: its first pods must not be flooded.
//!
//! The endpoints are addresses, many of them of one pod: what is counted is which cluster is asked how often.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{
    book::AT_ONCE,
    judge,
    run::{Run, Watched},
    scenario::{Course, Serving},
    world::{HOME, World},
};
use crate::{
    client::Answer,
    federation::{Listed, Member, NAMESPACE, SERVICE_HTTP_PORT, my_service},
};

const SERVICE: &str = "my-crowd";
const NEAR: usize = 30;
const FAR: usize = 18;

/// How many of the near ones are ready, one after another.
const STEPS: [usize; 4] = [1, 3, 10, NEAR];

/// What the near tier takes: `min(1, 1.4 * ready / all)`.
const OVERPROVISIONING: f64 = 1.4;

/// How long shares are counted.
const COUNTED: Duration = Duration::from_secs(3);

/// The endpoints of the near shard, and where the service is to be asked.
pub struct Crowd {
    vip: std::net::SocketAddr,
    near: Vec<Listed>,
}

/// Its seconds are those to the first answer of the first near pod.
pub async fn run(world: &mut World) -> Result<Run> {
    let crowd = match world.crowd.take() {
        Some(crowd) => crowd,
        None => Crowd::new(world).await?,
    };
    world.traffic.aim(crowd.vip);
    let run = crowd.grow(world).await;
    let emptied = crowd.list(world, 0).await;
    world.traffic.aim(world.vip());
    world.crowd = Some(crowd);
    emptied?;
    run
}

impl Crowd {
    async fn new(world: &World) -> Result<Self> {
        let mut service = my_service()?;
        service.metadata.name = Some(SERVICE.to_owned());
        world.federation.create(&service).await?;
        let mut near = Vec::new();
        for member in world.federation.members() {
            member.has_shard(world.federation.lab(), NAMESPACE, SERVICE).await?;
            if member.name() == HOME {
                near = listed(member, NEAR, false)?;
                member.list(NAMESPACE, SERVICE, &near).await?;
            } else {
                member.list(NAMESPACE, SERVICE, &listed(member, FAR, true)?).await?;
            }
        }
        let vip = world.federation.nearest_vip_of(SERVICE).await?;
        Ok(Self { vip: (vip, SERVICE_HTTP_PORT).into(), near })
    }

    /// Says that so many of the near ones are ready.
    async fn list(&self, world: &World, ready: usize) -> Result<()> {
        let mut near = self.near.clone();
        near.iter_mut().take(ready).for_each(|endpoint| endpoint.ready = true);
        world.home()?.list(NAMESPACE, SERVICE, &near).await
    }

    async fn grow(&self, world: &World) -> Result<Run> {
        let at_home = |answer: &Answer| answer.cluster == HOME;
        self.list(world, 0).await?;
        world.calm("the far shards", &|answer| !at_home(answer)).await?;
        world.prepare(Serving::Home).await?;

        let start = Instant::now();
        let mut steps = Vec::new();
        for ready in STEPS {
            let step = Instant::now();
            self.list(world, ready).await?;
            world.pass(Instant::now() + COUNTED).await?;
            steps.push((ready, Watched { start: step, end: Instant::now() }));
        }
        let settled = world.settle(&at_home, AT_ONCE).await;
        let watched = Watched { start, end: Instant::now() };
        let window = world.finish(&watched).await?;
        let mut run = Run::new(&watched, &window);
        run.judge(settled, judge::seconds(&window, start, Course::Moves, &at_home));
        for (ready, step) in steps {
            let bound = (OVERPROVISIONING * ready as f64 / NEAR as f64).min(1.0);
            let window = world.finish(&step).await?;
            if let Some(share) = judge::too_large_a_share(&window, &at_home, bound) {
                run.wrongs.push(format!(
                    "{ready} of {NEAR} near pods were ready and got {:.1} % of the connections, more than {:.1} %",
                    share * 100.0,
                    bound * 100.0
                ));
            }
        }
        Ok(run)
    }
}

/// `count` endpoints of a cluster, spread over its pods.
fn listed(member: &Member, count: usize, ready: bool) -> Result<Vec<Listed>> {
    let pods = member.servers();
    let nodes = member.cluster().nodes();
    let mut all = Vec::new();
    for pod in &pods {
        let node =
            nodes.iter().find(|node| node.name() == pod.node_name()).context("a pod without a node")?;
        for address in node.add_addresses(pod, count / pods.len())? {
            all.push(Listed {
                pod: format!("{}-{}", pod.name(), all.len()),
                node: node.name().to_owned(),
                addresses: vec![address.into()],
                ready,
            });
        }
    }
    Ok(all)
}
