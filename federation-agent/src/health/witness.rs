//! Whether silence is to be believed: who falls silent while others answer is dead, and who falls silent with most others
//! may be well behind a network of this node's that has failed.

use std::collections::BTreeMap;

use tokio::time::{Duration, Instant};

use crate::model::ClusterName;

/// Clusters that were not heard of for this long are no witnesses: three rounds of the slow probes.
const LATELY: Duration = Duration::from_secs(30);

/// When each cluster answered last, by endpoints on other nodes than this one. A refusal is an answer.
#[derive(Debug, Default)]
pub(super) struct Witnesses {
    answered: BTreeMap<ClusterName, Instant>,
}

impl Witnesses {
    pub(super) fn answered(&mut self, cluster: &ClusterName, now: Instant) {
        self.answered.insert(cluster.clone(), now);
    }

    /// Whether the silence of somebody in `cluster` since `since` is its own: another in the same cluster has answered
    /// after that and not later than `until`, or at least half of the other clusters have. None where there are no others.
    pub(super) fn confirm(&self, cluster: &ClusterName, since: Instant, until: Instant) -> Option<bool> {
        let speaks = |at: &Instant| (since..=until).contains(at) && *at > since;
        if self.answered.get(cluster).is_some_and(speaks) {
            return Some(true);
        }
        // What counts is who was heard of before the silence: nobody loses a vote by it.
        let others = || {
            let lately = |at: &Instant| *at + LATELY > since;
            self.answered.iter().filter(move |(name, at)| *name != cluster && lately(at))
        };
        let heard = others().count();
        let speak = others().filter(|(_, at)| speaks(at)).count();
        (heard > 0).then_some(2 * speak >= heard)
    }

    pub(super) fn forget(&mut self, is_known: impl Fn(&ClusterName) -> bool) {
        self.answered.retain(|cluster, _| is_known(cluster));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_believed_when_its_cluster_or_half_of_the_others_speak() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (heard, believed) in [
            (&[("a", 5)][..], None),
            (&[("a", 5), ("b", 11)], Some(true)),
            (&[("a", 5), ("b", 11), ("c", 5)], Some(true)),
            (&[("a", 5), ("b", 11), ("c", 5), ("d", 5)], Some(false)),
            (&[("a", 11), ("b", 5), ("c", 5), ("d", 5)], Some(true)),
            (&[("a", 5), ("b", 5)], Some(false)),
            // The last question may have been lost before they could speak.
            (&[("a", 5), ("b", 21), ("c", 21)], Some(false)),
        ] {
            let mut witnesses = Witnesses::default();
            for (cluster, seconds) in heard {
                witnesses.answered(&(*cluster).into(), at(*seconds));
            }
            assert_eq!(witnesses.confirm(&"a".into(), at(10), at(20)), believed, "{heard:?}");
        }
        let mut witnesses = Witnesses::default();
        witnesses.answered(&"b".into(), at(0));
        witnesses.answered(&"c".into(), at(51));
        assert_eq!(
            witnesses.confirm(&"a".into(), at(50), at(60)),
            Some(true),
            "who was gone long before has no vote"
        );
    }
}
