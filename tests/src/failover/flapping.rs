//! A shard whose power comes and goes: users shall suffer little, and the shard be trusted less each time.

use std::time::Instant;

use anyhow::{Context as _, Result};
use tokio::time::interval;

use super::{
    judge,
    run::{Run, Watched},
    scenario::{FLAP, FLAPPING, MOST_RETURNS, Serving},
    world::{NEXT, World},
};

/// Its seconds are the longest time without a success.
pub async fn run(world: &World) -> Result<Run> {
    world.prepare(Serving::Next).await?;
    let start = Instant::now();
    let flapped = flap(world, start).await;
    let end = Instant::now();
    let cluster = world.next()?.cluster();
    cluster.power_on().context("give the shard its power back")?;
    flapped?;

    let watched = Watched { start, end };
    let window = world.finish(&watched).await?;
    let mut run = Run::new(&watched, &window);
    run.seconds = judge::longest_silence(&window, start, end);
    let returns = judge::returns(&window, &|answer| answer.cluster == NEXT);
    eprintln!("    the shard came back into use {returns} times");
    if returns > MOST_RETURNS {
        run.wrongs.push(format!("the shard came back into use {returns} times, more than {MOST_RETURNS}"));
    }
    Ok(run)
}

async fn flap(world: &World, start: Instant) -> Result<()> {
    let hosts = world.next()?.cluster().hosts();
    // The pace is what is done here, not a way to wait for something.
    let mut pace = interval(FLAP);
    let mut power = true;
    while start.elapsed() < FLAPPING {
        pace.tick().await;
        if power {
            world.federation.lab().power_off(&hosts)?;
        } else {
            world.next()?.cluster().power_on()?;
        }
        power = !power;
    }
    Ok(())
}
