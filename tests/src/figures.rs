//! Arithmetic on measured samples that the demo and the measurements share.

/// The value below which the given part (0 to 1) of the samples lies, interpolated between neighbours; `None` without samples.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank among samples that fit into memory, never negative"
)]
pub fn percentile(samples: &[f64], part: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = part.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
    Some(below + (above - below) * rank.fract())
}

/// The smallest sample that is not below the given part (0 to 1) of all, by nearest rank; `None` without samples. Of few
/// samples a high percentile is the worst.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank among samples that fit into memory, never negative"
)]
pub fn nearest_rank(samples: &[f64], part: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::{nearest_rank, percentile};

    #[test]
    fn the_nearest_rank_is_always_a_sample() {
        let twenty: Vec<_> = (1..=20).rev().map(f64::from).collect();
        let cases: [(&[f64], f64, Option<f64>); 8] = [
            (&[], 0.5, None),
            (&[7.0], 0.99, Some(7.0)),
            (&[2.0, 1.0], 0.5, Some(1.0)),
            (&[3.0, 1.0, 2.0], 0.5, Some(2.0)),
            (&twenty, 0.0, Some(1.0)),
            (&twenty, 0.5, Some(10.0)),
            (&twenty, 0.95, Some(19.0)),
            (&twenty, 0.99, Some(20.0)),
        ];
        for (samples, part, expected) in cases {
            assert_eq!(nearest_rank(samples, part), expected, "{part} of {samples:?}");
        }
    }

    #[test]
    fn percentiles_lie_between_the_samples_around_them() {
        let cases: [(&[f64], f64, Option<f64>); 7] = [
            (&[], 0.5, None),
            (&[7.0], 0.9, Some(7.0)),
            (&[3.0, 1.0, 2.0], 0.5, Some(2.0)),
            (&[4.0, 1.0, 2.0, 3.0], 0.5, Some(2.5)),
            (&[5.0, 4.0, 3.0, 2.0, 1.0], 0.0, Some(1.0)),
            (&[5.0, 4.0, 3.0, 2.0, 1.0], 1.0, Some(5.0)),
            (&[10.0, 20.0, 30.0, 40.0, 50.0], 0.25, Some(20.0)),
        ];
        for (samples, part, expected) in cases {
            assert_eq!(percentile(samples, part), expected, "{part} of {samples:?}");
        }
    }
}
