//! One measured case: its figures, what it is compared with, and what was promised. Pure.

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::figures::percentile;

/// What is measured, and what is to come out.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    pub unit: &'static str,
    /// The case measured beside it, in the same run.
    pub against: Option<&'static str>,
    pub promise: Option<Promise>,
}

/// A bound from the design's list of promises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Promise {
    /// The median is at most this.
    AtMost(f64),
    /// The ratio to the peer is at most this.
    RatioAtMost(f64),
    /// The ratio to the peer is at least this.
    RatioAtLeast(f64),
}

/// A case with its figures, as `--json` writes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measurement {
    pub name: &'static str,
    pub unit: &'static str,
    pub median: f64,
    /// The 10th percentile.
    pub low: f64,
    /// The 90th percentile.
    pub high: f64,
    pub against: Option<&'static str>,
    /// To the peer: the median of the ratios of samples taken in turns, so that a busy moment hits both.
    pub ratio: Option<f64>,
    /// The bound of what was promised, in the unit or as a ratio.
    pub promise: Option<f64>,
    pub pass: Option<bool>,
}

impl Case {
    /// A case that nothing is compared with: a peer of others.
    ///
    /// # Errors
    /// There are no samples.
    pub fn alone(self, samples: &[f64]) -> Result<Measurement> {
        self.measured(samples, None)
    }

    /// A case with its peer's samples, of which the same number was taken in turns with its own.
    ///
    /// # Errors
    /// There are no samples, or not as many of the peer.
    pub fn beside(self, samples: &[f64], peer: &[f64]) -> Result<Measurement> {
        ensure!(
            samples.len() == peer.len(),
            "{} has {} samples and its peer {}",
            self.name,
            samples.len(),
            peer.len()
        );
        let ratios: Vec<_> = samples.iter().zip(peer).map(|(own, peer)| own / peer).collect();
        self.measured(samples, percentile(&ratios, 0.5))
    }

    fn measured(self, samples: &[f64], ratio: Option<f64>) -> Result<Measurement> {
        let [Some(low), Some(median), Some(high)] = [0.1, 0.5, 0.9].map(|part| percentile(samples, part))
        else {
            anyhow::bail!("{} has no samples", self.name);
        };
        let pass = match (self.promise, ratio) {
            (Some(Promise::AtMost(bound)), _) => Some(median <= bound),
            (Some(Promise::RatioAtMost(bound)), Some(ratio)) => Some(ratio <= bound),
            (Some(Promise::RatioAtLeast(bound)), Some(ratio)) => Some(ratio >= bound),
            (Some(Promise::RatioAtMost(_) | Promise::RatioAtLeast(_)), None) => {
                anyhow::bail!("{} promises a ratio, but was measured alone", self.name)
            }
            (None, _) => None,
        };
        let Self { name, unit, against, promise } = self;
        Ok(Measurement {
            name,
            unit,
            median,
            low,
            high,
            against,
            ratio,
            promise: promise.map(Promise::bound),
            pass,
        })
    }
}

impl Promise {
    fn bound(self) -> f64 {
        match self {
            Self::AtMost(bound) | Self::RatioAtMost(bound) | Self::RatioAtLeast(bound) => bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(promise: Option<Promise>) -> Case {
        Case { name: "case", unit: "ns", against: Some("peer"), promise }
    }

    #[test]
    fn a_median_or_a_ratio_passes_up_to_its_bound_and_not_beyond() {
        // The median is 20, the ratios are 1.0, 1.02 and 1.5.
        let (own, peer) = ([10.0, 20.4, 30.0], [10.0, 20.0, 20.0]);
        let cases = [
            (None, None),
            (Some(Promise::AtMost(20.4)), Some(true)),
            (Some(Promise::AtMost(20.3)), Some(false)),
            (Some(Promise::RatioAtMost(1.03)), Some(true)),
            (Some(Promise::RatioAtMost(1.01)), Some(false)),
            (Some(Promise::RatioAtLeast(1.01)), Some(true)),
            (Some(Promise::RatioAtLeast(1.03)), Some(false)),
        ];
        for (promise, pass) in cases {
            let measured = case(promise).beside(&own, &peer).expect("there are samples");
            assert_eq!(measured.pass, pass, "{promise:?}");
            assert_eq!(measured.promise, promise.map(Promise::bound));
        }
    }

    #[test]
    fn a_busy_moment_that_hits_both_does_not_change_the_ratio() {
        let (own, peer) = ([11.0, 110.0, 11.0, 22.0], [10.0, 100.0, 10.0, 20.0]);
        let ratio = case(None).beside(&own, &peer).expect("there are samples").ratio.expect("it has a peer");
        assert!((ratio - 1.1).abs() < 1e-9, "{ratio}");
    }

    #[test]
    fn measuring_nothing_is_an_error() {
        case(None).alone(&[]).expect_err("no samples");
        case(None).beside(&[1.0], &[]).expect_err("no peer");
        case(Some(Promise::RatioAtMost(1.0))).alone(&[1.0]).expect_err("no ratio");
    }

    #[test]
    fn json_has_exactly_the_promised_keys() {
        let alone = Case { against: None, ..case(None) }.alone(&[1.0, 2.0, 3.0]).expect("there are samples");
        let expected = serde_json::json!({
            "name": "case", "unit": "ns", "median": 2.0, "low": 1.2, "high": 2.8,
            "against": null, "ratio": null, "promise": null, "pass": null,
        });
        assert_eq!(serde_json::to_value(alone).expect("it encodes"), expected);
    }
}
