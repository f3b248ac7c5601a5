//! Arithmetic on measured samples that the demo and the benchmark share.

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

#[cfg(test)]
mod tests {
    use super::percentile;

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
