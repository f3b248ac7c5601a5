//! A client that writes only while its process may act.
//!
//! A process that was stopped, or starved, may wake long after its lease has passed to another and go on in the middle
//! of what it did. The one place where that can be stopped is the way out: each request that changes something asks the
//! monotonic clock, which went on meanwhile, right before it is sent.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Instant,
};

use futures::future::{self, Either, MapErr, Ready, TryFutureExt as _};
use http::{Method, Request};
use kube::{Client, Config, client::ClientBuilder};
use thiserror::Error;
use tower::{BoxError, Layer, Service};

/// Until when this process may act. Clones share it.
#[derive(Clone, Debug)]
pub struct Fence(Arc<Mutex<Until>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// Nobody else acts: there is no election.
    Always,
    At(Instant),
    /// Over, and not to begin again.
    Never,
}

#[derive(Debug, Error)]
#[error("this controller does not lead any more, so it changes nothing")]
pub struct NotLeading;

// === impl Fence ===

impl Fence {
    /// For the only controller that there is.
    pub fn open() -> Self {
        Self(Arc::new(Mutex::new(Until::Always)))
    }

    /// For one that has to be elected first.
    pub fn closed() -> Self {
        // Any instant that is not ahead.
        Self(Arc::new(Mutex::new(Until::At(Instant::now()))))
    }

    pub fn extend(&self, until: Instant) {
        let mut state = self.lock();
        if *state != Until::Never {
            *state = Until::At(until);
        }
    }

    /// For good.
    pub fn close(&self) {
        *self.lock() = Until::Never;
    }

    fn lets_through(&self, method: &Method, now: Instant) -> bool {
        // Reading changes nothing, and a watch that ends would only be begun again.
        let is_read = [Method::GET, Method::HEAD].contains(method);
        is_read
            || match *self.lock() {
                Until::Always => true,
                Until::At(end) => now < end,
                Until::Never => false,
            }
    }

    fn lock(&self) -> MutexGuard<'_, Until> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client behind this fence.
    ///
    /// # Errors
    /// The configuration's certificates cannot be used.
    pub fn client(&self, mut config: Config) -> Result<Client, kube::Error> {
        // The library's own retries would begin behind the fence. Who works here retries by object anyway.
        config.default_retry = false;
        Ok(ClientBuilder::try_from(config)?.with_layer(self).build())
    }
}

impl<S> Layer<S> for Fence {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Fenced<S> {
        Fenced { fence: self.clone(), inner }
    }
}

/// A way to an API behind a [`Fence`].
#[derive(Clone, Debug)]
pub struct Fenced<S> {
    fence: Fence,
    inner: S,
}

impl<S, B> Service<Request<B>> for Fenced<S>
where
    S: Service<Request<B>, Error: Into<BoxError>>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<MapErr<S::Future, fn(S::Error) -> BoxError>, Ready<Result<S::Response, BoxError>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if self.fence.lets_through(request.method(), Instant::now()) {
            Either::Left(self.inner.call(request).map_err(Into::into))
        } else {
            Either::Right(future::ready(Err(NotLeading.into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use super::*;

    /// How many of these requests reach the other side of the fence.
    async fn sent(fence: &Fence, methods: &[Method]) -> usize {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let mut way = fence.layer(tower::service_fn(move |_: Request<()>| {
            count.fetch_add(1, Ordering::Relaxed);
            future::ready(Ok::<_, BoxError>(()))
        }));
        for method in methods {
            let request = Request::builder().method(method).body(()).expect("a request");
            let refused = way.call(request).await.err();
            assert!(refused.is_none_or(|error| error.is::<NotLeading>()));
        }
        sent.load(Ordering::Relaxed)
    }

    const WRITES: [Method; 4] = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    const READS: [Method; 2] = [Method::GET, Method::HEAD];

    #[tokio::test]
    async fn only_who_may_act_writes_and_everybody_reads() {
        let hour = Duration::from_hours(1);
        for (fence, expected) in [(Fence::open(), WRITES.len()), (Fence::closed(), 0)] {
            assert_eq!(sent(&fence, &WRITES).await, expected);
            assert_eq!(sent(&fence, &READS).await, READS.len());
        }
        let fence = Fence::closed();
        fence.extend(Instant::now() + hour);
        assert_eq!(sent(&fence, &WRITES).await, WRITES.len());
        fence.extend(Instant::now());
        assert_eq!(sent(&fence, &WRITES).await, 0, "the time is over, whoever was told so or not");
        fence.extend(Instant::now() + hour);
        fence.close();
        fence.extend(Instant::now() + hour);
        assert_eq!(sent(&fence, &WRITES).await, 0, "who has ended does not begin again");
    }
}
