//! The story: what is done to the clusters, and where traffic must go then.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::time::interval;

use super::{tally::Tally, traffic::Traffic, view::View};
use crate::federation::Federation;

/// Where the client is.
pub const HOME: &str = "europe-west1-d";
const NEIGHBOUR: &str = "europe-west1-b";
const OVERSEAS: &str = "us-east1-b";

/// Within this an event must be over, or the demo has failed.
const LONGEST: Duration = Duration::from_secs(30);
/// Quiet traffic after each event, for the eye.
const BREATH: Duration = Duration::from_secs(3);
const FRAME: Duration = Duration::from_millis(250);

struct Step {
    name: &'static str,
    /// What a person would have to do for it.
    how: &'static str,
    expected: &'static str,
    act: Act,
}

enum Act {
    Nothing,
    LoseReadiness,
    CutPower,
    RestorePower,
    RestoreReadiness,
}

const STORY: [Step; 5] = [
    Step {
        name: "traffic begins",
        how: "the nearest shard is the client's own cluster",
        expected: HOME,
        act: Act::Nothing,
    },
    Step {
        name: "europe-west1-d loses readiness",
        how: "its pods stop being ready; the EndpointSlice in its API says so",
        expected: NEIGHBOUR,
        act: Act::LoseReadiness,
    },
    Step {
        name: "europe-west1-b loses power",
        how: "its links go down, without a FIN and without a word to any API",
        expected: OVERSEAS,
        act: Act::CutPower,
    },
    Step {
        name: "europe-west1-b is back",
        how: "its links come up",
        expected: NEIGHBOUR,
        act: Act::RestorePower,
    },
    Step {
        name: "europe-west1-d is back",
        how: "its pods are ready again",
        expected: HOME,
        act: Act::RestoreReadiness,
    },
];

/// Tells the story; what it added up to.
///
/// # Errors
/// Traffic did not go where it should in time, or the user has ended it.
pub async fn tell(federation: &Federation, mut traffic: Traffic, view: &mut View) -> Result<Tally> {
    let mut tally = Tally::new(Instant::now());
    for step in &STORY {
        view.event(step.name, step.how, step.expected, tally.elapsed(Instant::now()));
        tally.begin(step.name, step.expected, Instant::now());
        act(federation, &step.act).await?;
        watch(&mut tally, &mut traffic, view, step).await?;
        let event = tally.events.last().expect("just begun");
        view.recovered(event, tally.elapsed(Instant::now()));
    }
    // The first step only waits for traffic to flow; it is no event.
    tally.events.remove(0);
    Ok(tally)
}

async fn act(federation: &Federation, act: &Act) -> Result<()> {
    match act {
        Act::Nothing => Ok(()),
        Act::LoseReadiness => federation.member(HOME)?.set_all_ready(false).await,
        Act::RestoreReadiness => federation.member(HOME)?.set_all_ready(true).await,
        Act::CutPower => federation.member(NEIGHBOUR)?.cluster().power_off(),
        Act::RestorePower => federation.member(NEIGHBOUR)?.cluster().power_on(),
    }
}

/// Counts and shows traffic until the step is over and a breath has been drawn.
async fn watch(tally: &mut Tally, traffic: &mut Traffic, view: &mut View, step: &Step) -> Result<()> {
    let began = Instant::now();
    let mut frames = interval(FRAME);
    let mut over: Option<Instant> = None;
    loop {
        tokio::select! {
            Some(sample) = traffic.next() => tally.record(&sample),
            _ = tokio::signal::ctrl_c() => bail!("ended by the user; the lab is removed"),
            _ = frames.tick() => {
                let now = Instant::now();
                tally.roll(now);
                if view.draw(tally, now)? {
                    bail!("ended by the user; the lab is removed");
                }
                let event = tally.events.last().expect("begun by the caller");
                if event.is_over(now) {
                    over.get_or_insert(now);
                }
                if over.is_some_and(|over| now - over >= BREATH) {
                    return Ok(());
                }
                if over.is_none() && now - began > LONGEST {
                    bail!(
                        "{}: {} s later traffic is still not served by {} alone ({} requests have failed)",
                        step.name, LONGEST.as_secs(), step.expected, event.failed
                    );
                }
            }
        }
    }
}
