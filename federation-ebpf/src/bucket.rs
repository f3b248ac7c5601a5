//! How many answers may leave: the generic cell rate algorithm (ITU-T I.371), which needs one number and no timer.

/// A rate with what may be saved up of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Nanoseconds that one answer takes of the allowance.
    pub interval: u64,
    /// Nanoseconds of allowance that can be saved up.
    pub saved: u64,
}

impl Limit {
    pub const fn per_second(answers: u64) -> Self {
        let interval = 1_000_000_000 / answers;
        // A second's worth: what a pod sends at once when its service goes.
        Self { interval, saved: 1_000_000_000 }
    }
}

/// Element of `ALLOWANCE`: when the allowance is full again, on the monotonic clock.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    pub full_at: u64,
}

impl Bucket {
    /// Takes one answer from the allowance, if it is there.
    #[inline(always)]
    pub fn take(&mut self, now: u64, limit: Limit) -> bool {
        let full_at = if self.full_at > now { self.full_at } else { now };
        if full_at - now + limit.interval > limit.saved {
            return false;
        }
        self.full_at = full_at + limit.interval;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_is_bounded_and_the_rate_holds_afterwards() {
        let limit = Limit::per_second(100);
        let mut bucket = Bucket::default();
        let burst = (0..1000).filter(|_| bucket.take(5 * SECOND, limit)).count();
        assert_eq!(burst, 100);
        assert!(!bucket.take(5 * SECOND + limit.interval - 1, limit));
        assert!(bucket.take(5 * SECOND + limit.interval, limit));
        let later = (0..1000).filter(|_| bucket.take(60 * SECOND, limit)).count();
        assert_eq!(later, 100, "no more is saved up than a second's worth");
    }
}
