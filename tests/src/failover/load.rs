//! How busy the machine was: figures of a lab that has no time left are figures of the machine.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::traffic::Traffic;

/// Counts from when it was started.
pub struct Meter {
    since: Instant,
    sending: Duration,
    ticks: Ticks,
}

/// The processors' time, in units of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    idle: u64,
    all: u64,
}

impl Meter {
    pub fn start(traffic: &Traffic) -> Result<Self> {
        Ok(Self { since: Instant::now(), sending: traffic.processor_time(), ticks: Ticks::read()? })
    }

    /// A sentence about the time since then.
    pub fn tell(&self, traffic: &Traffic) -> Result<String> {
        let now = Ticks::read()?;
        let all = now.all.saturating_sub(self.ticks.all).max(1) as f64;
        let busy = 100.0 - now.idle.saturating_sub(self.ticks.idle) as f64 / all * 100.0;
        let sending = traffic.processor_time().saturating_sub(self.sending).as_secs_f64();
        let sending = sending / self.since.elapsed().as_secs_f64() * 100.0;
        Ok(format!("the machine's processors were {busy:.0} % busy; sending took {sending:.0} % of one"))
    }
}

impl Ticks {
    fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("read how busy the machine is")?;
        Self::parsed(&text).context("/proc/stat does not begin with the processors' time")
    }

    /// Reads `cpu user nice system idle iowait irq softirq steal ...`, as proc(5) has it. Guests' time is in user's.
    fn parsed(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).take(8).collect();
        Some(Self { idle: ticks.get(3)? + ticks.get(4)?, all: ticks.iter().sum() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_all_time_are_told_apart() {
        let text = "cpu  10 1 20 100 5 2 3 4 50 60\ncpu0 1 2 3\n";
        assert_eq!(Ticks::parsed(text), Some(Ticks { idle: 105, all: 145 }));
        for text in ["", "cpu 1 2", "intr 1"] {
            assert_eq!(Ticks::parsed(text), None, "{text}");
        }
    }
}
