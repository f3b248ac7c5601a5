//! How far clusters are: round trips, smoothed into bands that do not flap.

use std::collections::{BTreeMap, VecDeque};

use tokio::time::Duration;

use crate::{model::ClusterName, plan::Distance};

/// Round trips that are looked at together: the shortest of them is what the network takes, the rest is waiting.
const WINDOW: usize = 16;

/// Windows in a row that must lie beyond a band's edge before a cluster leaves it.
const PATIENCE: u32 = 3;

/// How far beyond the edge, as a factor.
const MARGIN: f64 = 1.15;

/// What band 0 reaches to, in seconds, and how much wider each next one is (`plan::Distance`). What is nearer than a
/// millisecond is so for all who are: how busy machines are would decide between them.
const FIRST: f64 = 1e-3;
const STEP: f64 = 1.25;

#[derive(Debug, Default)]
pub(super) struct Distances {
    clusters: BTreeMap<ClusterName, Measured>,
}

#[derive(Debug, Default)]
struct Measured {
    /// Seconds, of the window that is being filled and those before.
    recent: VecDeque<f64>,
    band: Option<Distance>,
    /// New measurements since the band was looked at.
    fresh: usize,
    /// Windows in a row that lay beyond the band.
    beyond: u32,
}

impl Distances {
    /// Takes a measurement; whether a cluster is in another band by it.
    pub(super) fn measure(&mut self, cluster: &ClusterName, round_trip: Duration) -> bool {
        self.clusters.entry(cluster.clone()).or_default().measure(round_trip.as_secs_f64())
    }

    /// The shortest of the recent round trips.
    pub(super) fn round_trip(&self, cluster: &ClusterName) -> Option<Duration> {
        self.clusters.get(cluster)?.shortest().map(Duration::from_secs_f64)
    }

    pub(super) fn bands(&self) -> BTreeMap<ClusterName, Distance> {
        let band = |(name, measured): (&ClusterName, &Measured)| Some((name.clone(), measured.band?));
        self.clusters.iter().filter_map(band).collect()
    }

    pub(super) fn forget(&mut self, is_known: impl Fn(&ClusterName) -> bool) {
        self.clusters.retain(|cluster, _| is_known(cluster));
    }
}

impl Measured {
    fn measure(&mut self, seconds: f64) -> bool {
        self.recent.push_back(seconds);
        if self.recent.len() > WINDOW {
            self.recent.pop_front();
        }
        self.fresh += 1;
        // The first measurement is better than none; later ones count by the window.
        if self.band.is_some() && self.fresh < WINDOW {
            return false;
        }
        self.fresh = 0;
        let Some(shortest) = self.shortest() else { return false };
        match self.band {
            Some(band) if lies_in(shortest, band) => {
                self.beyond = 0;
                false
            }
            Some(_) if self.beyond + 1 < PATIENCE => {
                self.beyond += 1;
                false
            }
            _ => {
                self.beyond = 0;
                self.band = Some(band(shortest));
                true
            }
        }
    }

    fn shortest(&self) -> Option<f64> {
        self.recent.iter().copied().min_by(f64::total_cmp)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn band(seconds: f64) -> Distance {
    let steps = (seconds / FIRST).log(STEP).ceil();
    Distance(steps.clamp(0.0, f64::from(u16::MAX)) as u16)
}

/// Within the band, or so little beyond that it may stay there.
fn lies_in(seconds: f64, Distance(band): Distance) -> bool {
    let upper = FIRST * STEP.powi(band.into());
    let lower = if band == 0 { 0.0 } else { upper / STEP };
    (lower / MARGIN..=upper * MARGIN).contains(&seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn milliseconds(n: f64) -> Duration {
        Duration::from_secs_f64(n / 1e3)
    }

    #[test]
    fn bands_rise_with_round_trips() {
        for (n, expected) in [(0.1, 0), (1.0, 0), (1.2, 1), (10.0, 11), (100.0, 21), (1000.0, 31)] {
            assert_eq!(band(n / 1e3), Distance(expected), "{n} ms");
        }
    }

    #[test]
    fn one_slow_answer_moves_nobody_and_a_longer_way_does() {
        let mut distances = Distances::default();
        let near = ClusterName::from("near");
        assert!(distances.measure(&near, milliseconds(10.0)), "the first measurement counts");
        for n in 0..100 {
            let time = if n % 7 == 0 { 80.0 } else { 10.0 };
            assert!(!distances.measure(&near, milliseconds(time)));
        }
        let moves = (0..100).filter(|_| distances.measure(&near, milliseconds(40.0))).count();
        assert_eq!(moves, 1);
        assert_eq!(distances.bands()[&near], band(0.04));
        assert_eq!(distances.round_trip(&near), Some(milliseconds(40.0)));
    }

    proptest! {
        #[test]
        fn noise_of_a_tenth_moves_a_cluster_at_most_once(
            base in 0.05_f64..300.0,
            noise in prop::collection::vec(-0.1_f64..0.1, 400),
        ) {
            let mut distances = Distances::default();
            let cluster = ClusterName::from("c");
            let measured = noise.iter().map(|part| milliseconds(base * (1.0 + part)));
            let moves = measured.filter(|time| distances.measure(&cluster, *time)).count();
            // The first measurement, and one correction of it.
            prop_assert!(moves <= 2, "{moves} moves");
        }
    }
}
