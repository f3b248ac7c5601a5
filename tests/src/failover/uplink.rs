//! The client's own node is cut off: local pods serve, and nothing that was open is broken by the time it is back.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{
    book::AT_ONCE,
    judge,
    run::{Run, Watched},
    scenario::{Course, Serving},
    traffic,
    world::{HOME, World},
};
use crate::{client::Answer, lab::eventually};

/// How long the node is cut off, at least.
const CUT: Duration = Duration::from_secs(4);

/// How long everything may take to be used again.
const BACK: Duration = Duration::from_mins(1);

/// How many connections are opened until one leads to the other node.
const TRIES: usize = 200;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: vip\r\n\r\n";
const PACE: Duration = Duration::from_secs(1);

/// A connection through the VIP to a server on the other node, that asks once a second.
struct Pinger {
    /// When the last answer came, or how the connection ended.
    last: watch::Receiver<Result<Instant, String>>,
    task: JoinHandle<()>,
}

/// Its seconds are those until no request was hurt any more.
pub async fn run(world: &World) -> Result<Run> {
    let local = World::is_on(&world.near);
    let elsewhere = World::is_on(&world.other);
    world.prepare(Serving::Home).await?;
    let pinger = Pinger::open(world, &elsewhere).await?;

    let start = Instant::now();
    world.near.power_off()?;
    let settled = world.settle(&local, AT_ONCE).await;
    let cut = Instant::now();
    let passed = world.pass(start + CUT).await;
    world.near.power_on()?;
    passed?;
    let back = Instant::now();

    let all_used = async || {
        let window = world.traffic.book().window(back, Instant::now());
        let used =
            window.iter().filter_map(super::book::Request::answer).any(|(_, answer)| elsewhere(answer));
        ensure!(used, "only local servers answer");
        Ok(())
    };
    let mut wrongs = Vec::new();
    if let Err(error) = eventually("the other node is used again", BACK, all_used).await {
        wrongs.push(format!("{error:#}"));
    }
    if let Err(error) = pinger.survives(back).await {
        wrongs.push(format!("a connection to another node did not survive: {error:#}"));
    }
    world.calm("the nearest shard", &|answer| answer.cluster == HOME).await?;

    let watched = Watched { start, end: Instant::now() };
    let window = world.finish(&watched).await?;
    let mut run = Run::new(&watched, &window);
    run.wrongs = wrongs;
    let during = world.finish(&Watched { start, end: cut }).await?;
    run.judge(settled, judge::seconds(&during, start, Course::Heals, &local));
    Ok(run)
}

impl Pinger {
    async fn open(world: &World, wanted: &(impl Fn(&Answer) -> bool + Sync)) -> Result<Self> {
        let stream = connect(world, world.vip(), wanted).await?;
        let (said, last) = watch::channel(Ok(Instant::now()));
        let task = tokio::spawn(ping(stream, said));
        Ok(Self { last, task })
    }

    /// Waits until an answer has come after `instant`.
    async fn survives(&self, instant: Instant) -> Result<()> {
        let survived = async || {
            let last = self.last.borrow().clone();
            match last {
                Err(error) => Ok(Err(error)),
                Ok(at) if at > instant => Ok(Ok(())),
                Ok(_) => anyhow::bail!("no answer yet"),
            }
        };
        eventually("an open connection goes on", BACK, survived).await?.map_err(anyhow::Error::msg)
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Opens connections until one leads to a server that is wanted.
async fn connect(world: &World, vip: SocketAddr, wanted: impl Fn(&Answer) -> bool) -> Result<TcpStream> {
    for _ in 0..TRIES {
        let mut stream = world.client.namespace().connect(vip).await.context("connect through the VIP")?;
        let line = traffic::ask(&mut stream, REQUEST).await.context("ask through the VIP")?;
        if wanted(&line.parse()?) {
            return Ok(stream);
        }
    }
    anyhow::bail!("none of {TRIES} connections leads to the other node")
}

async fn ping(mut stream: TcpStream, said: watch::Sender<Result<Instant, String>>) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let answered = traffic::ask(&mut stream, REQUEST).await;
        let over = answered.is_err();
        let told = answered.map(|_| Instant::now()).map_err(|error| error.to_string());
        if said.send(told).is_err() || over {
            return;
        }
    }
}
