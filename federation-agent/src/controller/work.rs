//! Work by key: what is queued is reconciled, one at a time for each object, again and ever later after a failure.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _};
use kube::{
    Resource,
    runtime::{
        applier,
        controller::{self, Action, Config},
        reflector::{ObjectRef, Store},
    },
};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tracing::{info, warn};

use crate::client::chain;

/// How many objects of one kind are worked on at a time.
const CONCURRENCY: u16 = 32;
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_mins(1);

/// Where to say that an object wants a look. Objects that are queued already are not queued twice.
pub type Queue<K> = mpsc::UnboundedSender<ObjectRef<K>>;
pub type Queued<K> = mpsc::UnboundedReceiver<ObjectRef<K>>;

/// Why a reconciliation has to be tried again.
#[derive(Debug, Error)]
pub enum Failure {
    #[error("{what}: {}", chain(source))]
    Api { what: String, source: kube::Error },
    #[error("{0}: no answer in time")]
    Late(String),
    /// Nothing is wrong; it is somebody else's turn.
    #[error("waiting until {0}")]
    Waiting(String),
    #[error("{}", chain(.0))]
    Finalizer(#[from] Box<kube::runtime::finalizer::Error<Failure>>),
}

/// Says what was tried, in the infinitive: `apply shard n/s in europe-west1-d`.
pub trait Trying<T> {
    fn trying(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> Trying<T> for Result<T, kube::Error> {
    fn trying(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|source| Failure::Api { what: what(), source })
    }
}

/// Whether the API answered with this HTTP status code.
pub fn is(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Works until the queue's senders are gone. `name` says in the log whose work it is.
pub async fn work<K, C, F>(
    name: &str,
    store: Store<K>,
    queued: Queued<K>,
    context: Arc<C>,
    mut reconcile: impl FnMut(Arc<K>, Arc<C>) -> F,
) where
    K: Resource<DynamicType = ()> + Clone + 'static,
    F: Future<Output = Result<Action, Failure>> + Send + 'static,
{
    let failures = Failures::default();
    let policy = |object: Arc<K>, failure: &Failure, _| {
        let object = ObjectRef::from_obj(&*object);
        let retry = failures.add(&object);
        if matches!(failure, Failure::Waiting(_)) {
            info!(%object, "{name}: {failure}");
        } else {
            warn!(%object, ?retry, "{name}: {failure}");
        }
        Action::requeue(retry)
    };
    let queue = UnboundedReceiverStream::new(queued).map(Ok::<_, Infallible>).into_stream();
    applier(
        |object, context| Box::pin(reconcile(object, context)),
        policy,
        context,
        store,
        queue,
        Config::default().concurrency(CONCURRENCY),
    )
    .for_each(|result| {
        match result {
            Ok((object, _)) => failures.forget(&object),
            // It went while it was queued; failures were told where the policy was asked.
            Err(controller::Error::ObjectNotFound(_) | controller::Error::ReconcilerFailed(..)) => {}
            Err(error) => warn!("{name}: {}", chain(&error)),
        }
        std::future::ready(())
    })
    .await;
}

/// How often each object failed in a row.
struct Failures<K: Resource<DynamicType = ()>>(Mutex<HashMap<ObjectRef<K>, u32>>);

impl<K: Resource<DynamicType = ()>> Default for Failures<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Resource<DynamicType = ()>> Failures<K> {
    fn add(&self, object: &ObjectRef<K>) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(object.clone()).or_default();
        *count += 1;
        backoff(FIRST_RETRY, LONGEST_RETRY, *count)
    }

    fn forget(&self, object: &ObjectRef<K>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }
}

/// How long to wait after so many failures in a row: twice as long each time.
pub fn backoff(first: Duration, longest: Duration, failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_come_ever_later_up_to_a_bound() {
        let seconds = |failures| backoff(Duration::from_secs(1), Duration::from_mins(1), failures).as_secs();
        assert_eq!([1, 2, 3, 6, 7, 40, u32::MAX].map(seconds), [1, 2, 4, 32, 60, 60, 60]);
    }
}
