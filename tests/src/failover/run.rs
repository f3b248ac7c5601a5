//! One run of a scenario: from a good state, through what happens, to its figures.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{
    book::{Haste, Request, Right},
    crowd, flapping, judge,
    scenario::{Act, Course, Event, Kind, Loss, Scenario},
    traffic::DEADLINE,
    uplink,
    world::World,
};
use crate::lab::eventually;

/// Traffic that has not found its way after this has not failed over.
const LONGEST: Duration = Duration::from_secs(10);

/// How long nothing must move, at least.
const STEADY: Duration = Duration::from_secs(5);

/// What one run has shown.
#[derive(Debug)]
pub struct Run {
    pub seconds: f64,
    pub failed: usize,
    pub requests: usize,
    /// How long it was measured.
    pub lasted: Duration,
    /// What must not happen and did, a sentence each.
    pub wrongs: Vec<String>,
}

/// The time that is measured.
pub struct Watched {
    pub start: Instant,
    pub end: Instant,
}

/// Runs a scenario once. The world is as good as new when this returns.
pub async fn once(scenario: &Scenario, world: &mut World) -> Result<Run> {
    world.recover().await.context("bring the federation into a good state")?;
    let mut run = match scenario.kind {
        Kind::Event(event) => happen(event, world).await,
        Kind::Flapping => flapping::run(world).await,
        Kind::ScaleFromZero => crowd::run(world).await,
        Kind::UplinkLost => uplink::run(world).await,
    }?;
    if scenario.loss == Loss::Forbidden && run.failed > 0 {
        run.wrongs.push(format!("{} of {} requests failed, and none may", run.failed, run.requests));
    }
    Ok(run)
}

async fn happen(event: Event, world: &World) -> Result<Run> {
    let Event { serving, act, course } = event;
    let strikes = act.strikes(world);
    let right = |answer: &_| !strikes(answer);
    world.prepare(serving).await?;
    let watched = match act.prepare(world).await {
        Ok(()) => watch(act, course, &right, world).await,
        Err(error) => Err(error),
    };
    // What was done must be undone whether or not it could be watched.
    act.undo(world).await.context("undo what was done")?;
    let (watched, settled) = watched?;
    let window = world.finish(&watched).await?;

    let mut run = Run::new(&watched, &window);
    run.judge(settled, judge::seconds(&window, watched.start, course, &right));
    if course == Course::Stays && window.iter().filter_map(Request::answer).any(|(_, answer)| !right(answer))
    {
        run.wrongs.push("requests have moved to other clusters, and none may".to_owned());
    }
    Ok(run)
}

/// Does it and waits until the traffic is where it shall be. It begins right before the command that does it, so the time
/// that the command takes is part of what users wait. Beside the time, whether the traffic has come to rest in it.
async fn watch(act: Act, course: Course, right: Right<'_>, world: &World) -> Result<(Watched, Result<()>)> {
    let start = Instant::now();
    act.perform(world).await?;
    let settled = if course == Course::Stays {
        world.federation.control_plane_unhealthy(world.home()?).await?;
        world.pass(start + STEADY).await?;
        Ok(())
    } else {
        world.settle(right, act.haste()).await
    };
    Ok((Watched { start, end: Instant::now() }, settled))
}

impl World {
    /// Waits until nobody but `right` has answered for a while and nobody was hurt.
    ///
    /// # Errors
    /// That takes longer than it may.
    pub async fn settle(&self, right: Right<'_>, haste: Haste) -> Result<()> {
        let calm = async || self.traffic.book().check_calm(Instant::now(), right, haste);
        eventually("the traffic is where it shall be", LONGEST, calm).await
    }

    /// Waits until requests that were begun at `instant` are there.
    pub async fn pass(&self, instant: Instant) -> Result<()> {
        let passed = async || {
            let begun = self.traffic.book().window(instant, instant + LONGEST);
            ensure!(!begun.is_empty(), "no request was begun since");
            Ok(())
        };
        eventually("traffic goes on", LONGEST + instant.saturating_duration_since(Instant::now()), passed)
            .await
    }

    /// The requests that were begun in the time that was watched, once all have ended.
    pub async fn finish(&self, Watched { start, end }: &Watched) -> Result<Vec<Request>> {
        let ended = async || {
            ensure!(self.traffic.book().is_complete(*start, *end), "requests are under way");
            Ok(())
        };
        eventually("all requests end", 3 * DEADLINE, ended).await?;
        Ok(self.traffic.book().window(*start, *end))
    }
}

impl Run {
    /// All but the seconds, which are those of the whole window until something else is known.
    pub fn new(watched: &Watched, window: &[Request]) -> Self {
        let lasted = watched.end.saturating_duration_since(watched.start);
        let (seconds, failed) = (lasted.as_secs_f64(), judge::failed(window));
        if failed > 0 {
            eprintln!("    {failed} of {} failed: {}", window.len(), judge::reasons(window));
        }
        Self { seconds, failed, requests: window.len(), lasted, wrongs: Vec::new() }
    }

    /// Notes how long it took until the traffic was where it shall be, given that it came to rest there: a first success
    /// is none while others fail.
    pub fn judge(&mut self, settled: Result<()>, seconds: Option<f64>) {
        match (settled, seconds) {
            (Ok(()), Some(seconds)) => self.seconds = seconds,
            (Ok(()), None) => self.wrongs.push("nobody has answered who should".to_owned()),
            (Err(error), _) => self.wrongs.push(format!("{error:#}")),
        }
    }
}
