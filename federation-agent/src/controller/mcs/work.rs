//! Names that want a look. Unlike `work` of the controller these need no object: a name stays one when all its objects
//! are gone.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, warn};

use crate::{
    controller::work::{Failure, backoff},
    model::ServiceKey,
};

/// How many names are looked at at a time.
const CONCURRENCY: usize = 32;
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_mins(1);
/// How long one look may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What wants a look, and from when on. A name is there once.
#[derive(Debug, Default)]
pub struct Names {
    due: Mutex<HashMap<ServiceKey, Instant>>,
    added: Notify,
}

impl Names {
    pub fn add(&self, key: ServiceKey) {
        self.add_at(key, Instant::now());
    }

    /// The earlier of two times counts.
    fn add_at(&self, key: ServiceKey, at: Instant) {
        let mut due = self.lock();
        let before = due.entry(key).or_insert(at);
        *before = at.min(*before);
        self.added.notify_one();
    }

    /// Those whose time has come, once there are any.
    async fn next(&self) -> Vec<ServiceKey> {
        loop {
            let (ready, earliest) = self.take(Instant::now());
            if !ready.is_empty() {
                return ready;
            }
            tokio::select! {
                () = self.added.notified() => {}
                () = sleep_until(earliest.unwrap_or_else(Instant::now)), if earliest.is_some() => {}
            }
        }
    }

    /// Those whose time has come, and when the next one's does.
    fn take(&self, now: Instant) -> (Vec<ServiceKey>, Option<Instant>) {
        let mut due = self.lock();
        let ready: Vec<_> = due.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in &ready {
            due.remove(key);
        }
        (ready, due.values().min().copied())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServiceKey, Instant>> {
        // Every change is one insertion or removal.
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at every name that comes, again and ever later after a failure. `name` says in the log whose work it is.
pub async fn work<F>(name: &str, names: &Names, look: impl Fn(ServiceKey) -> F)
where
    F: Future<Output = Result<Option<Duration>, Failure>>,
{
    let failures = Mutex::new(HashMap::<ServiceKey, u32>::new());
    let failures = || failures.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let one = async |key: ServiceKey| {
            let late = || Err(Failure::Late(format!("look at {key}")));
            match timeout(TIMEOUT, look(key.clone())).await.unwrap_or_else(|_| late()) {
                Ok(again) => {
                    failures().remove(&key);
                    if let Some(after) = again {
                        names.add_at(key, Instant::now() + after);
                    }
                }
                Err(failure) => {
                    let count = {
                        let mut failures = failures();
                        let count = failures.entry(key.clone()).or_default();
                        *count += 1;
                        *count
                    };
                    let retry = backoff(FIRST_RETRY, LONGEST_RETRY, count);
                    if matches!(failure, Failure::Waiting(_)) {
                        info!(%key, "{name}: {failure}");
                    } else {
                        warn!(%key, ?retry, "{name}: {failure}");
                    }
                    names.add_at(key, Instant::now() + retry);
                }
            }
        };
        stream::iter(names.next().await).for_each_concurrent(CONCURRENCY, one).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn key(name: &str) -> ServiceKey {
        ServiceKey::new("n", name)
    }

    #[test]
    fn a_name_is_taken_once_and_when_its_earlier_time_has_come() {
        let names = Names::default();
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        for (name, seconds) in [("a", 1), ("b", 9), ("a", 5), ("b", 3)] {
            names.add_at(key(name), at(seconds));
        }
        assert_eq!(names.take(now), (Vec::new(), Some(at(1))));
        assert_eq!(names.take(at(2)), (vec![key("a")], Some(at(3))));
        assert_eq!(names.take(at(8)), (vec![key("b")], None));
    }

    #[tokio::test]
    async fn what_fails_is_looked_at_again_and_what_works_is_not() {
        let names = Names::default();
        let looks = RefCell::new(Vec::new());
        let again = Notify::new();
        names.add(key("fails"));
        names.add(key("works"));
        let look = async |key: ServiceKey| {
            let mut looks = looks.borrow_mut();
            let is_first = !looks.contains(&key);
            looks.push(key.clone());
            if !is_first {
                again.notify_one();
            }
            if &*key.name == "fails" && is_first { Err(Failure::Late("try".to_owned())) } else { Ok(None) }
        };
        tokio::select! {
            () = work("test", &names, look) => {}
            () = again.notified() => {}
        }
        let mut looks = looks.into_inner();
        looks.sort();
        assert_eq!(looks, [key("fails"), key("fails"), key("works")]);
        assert_eq!(names.take(Instant::now() + LONGEST_RETRY), (Vec::new(), None));
    }
}
