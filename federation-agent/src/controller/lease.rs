//! Holds the Lease: gets it, keeps it, gives it back. What it says is decided in [`election`](super::election).

use std::time::Instant;

use anyhow::{Result, anyhow};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{sleep, timeout, timeout_at};
use tracing::{info, warn};

use super::{
    election::{Election, Step, Terms},
    fence::Fence,
    work::is,
};
use crate::{
    api::{SYSTEM_NAMESPACE, marks::FIELD_MANAGER},
    client::chain,
};

/// The Lease of a federation's controllers.
pub const NAME: &str = "federation-controller";

/// The Lease as one candidate uses it.
pub struct Held {
    leases: Api<Lease>,
    terms: Terms,
    election: Election,
    fence: Fence,
    /// When the request was sent that last made the lease ours. The others count from later.
    renewed: Instant,
    /// The lease as we wrote it last, in this time of leading.
    written: Option<Lease>,
}

enum Outcome {
    Ours,
    /// Somebody else's.
    Taken(String),
    /// What we wrote last is not there any more, but what was there before: the Federation API has an older store.
    Restored,
    /// Somebody wrote between our reading and our writing. Who it was is seen next time.
    Contended,
}

impl Held {
    /// `client` is behind no fence: what it does opens one.
    pub fn new(client: Client, identity: String, terms: Terms) -> Self {
        Self {
            leases: Api::namespaced(client, SYSTEM_NAMESPACE),
            terms,
            election: Election::new(identity, terms),
            fence: Fence::closed(),
            renewed: Instant::now(),
            written: None,
        }
    }

    /// Waits until this process leads, and gives the fence of this time of leading.
    pub async fn acquire(&mut self) -> Fence {
        self.fence = Fence::closed();
        self.written = None;
        let mut told = String::new();
        loop {
            let tried = timeout(self.terms.renew_deadline, self.attempt()).await;
            let why = match tried {
                Ok(Ok(Outcome::Ours)) => return self.fence.clone(),
                Ok(Ok(Outcome::Restored)) => "the Federation API has an older store than before".to_owned(),
                Ok(Ok(Outcome::Taken(holder))) => format!("{holder} leads, standing by"),
                Ok(Ok(Outcome::Contended)) => "another controller was quicker, standing by".to_owned(),
                Ok(Err(error)) if is(&error, 404) => format!(
                    "the Lease {SYSTEM_NAMESPACE}/{NAME} cannot be had: create the namespace {SYSTEM_NAMESPACE}: {}",
                    chain(&error)
                ),
                Ok(Err(error)) => {
                    format!("the Lease {SYSTEM_NAMESPACE}/{NAME} cannot be had: {}", chain(&error))
                }
                Err(_) => format!("the Lease {SYSTEM_NAMESPACE}/{NAME} cannot be had: no answer"),
            };
            // Once for each reason, not every two seconds.
            if why != told {
                info!("{why}");
                told = why;
            }
            sleep(self.terms.retry).await;
        }
    }

    /// Keeps the lease, and comes back only when it is lost; with how, in words.
    pub async fn keep(&mut self) -> String {
        let lost = |why: &str| {
            format!("the Lease {SYSTEM_NAMESPACE}/{NAME} is lost, this controller stands by: {why}")
        };
        loop {
            sleep(self.terms.retry).await;
            let patience = self.terms.renew_deadline;
            let deadline = self.renewed + patience;
            let over = || format!("it could not be renewed within {patience:?}");
            match timeout_at(deadline.into(), self.attempt()).await {
                Ok(Ok(Outcome::Ours | Outcome::Contended)) => {}
                Ok(Ok(Outcome::Restored)) => {
                    // Watches that ask for what comes after a version that is not there yet would be told nothing.
                    return lost(
                        "the Federation API has an older store than before, all of which is read anew",
                    );
                }
                Ok(Ok(Outcome::Taken(holder))) => return lost(&format!("{holder} leads now")),
                Ok(Err(error)) if Instant::now() < deadline => {
                    warn!("the Lease {SYSTEM_NAMESPACE}/{NAME} could not be renewed yet: {}", chain(&error));
                }
                Ok(Err(error)) => return lost(&format!("{}: {}", over(), chain(&error))),
                Err(_) => return lost(&over()),
            }
        }
    }

    /// Gives the lease back, so that the next one need not wait for it.
    pub async fn release(&mut self) {
        self.fence.close();
        match timeout(self.terms.retry, self.give_back()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                warn!("the Lease {SYSTEM_NAMESPACE}/{NAME} is left to run out: {}", chain(&error));
            }
            Err(_) => warn!("the Lease {SYSTEM_NAMESPACE}/{NAME} is left to run out: no answer"),
        }
    }

    async fn give_back(&self) -> Result<(), kube::Error> {
        let lease = self.leases.get(NAME).await?;
        let Some(free) = self.election.release(&lease, Timestamp::now()) else { return Ok(()) };
        self.leases.replace(NAME, &parameters(), &free).await.map(drop)
    }

    async fn attempt(&mut self) -> Result<Outcome, kube::Error> {
        let found = self.leases.get_opt(NAME).await?;
        if let Some(written) = &self.written
            && is_older(found.as_ref(), written)
        {
            return Ok(Outcome::Restored);
        }
        let sent = Instant::now();
        let step = self.election.step(NAME, found.as_ref(), sent, Timestamp::now());
        let written = match &step {
            Step::Wait { holder } => return Ok(Outcome::Taken(holder.clone())),
            Step::Create(lease) => self.leases.create(&parameters(), lease).await,
            Step::Replace(lease) => self.leases.replace(NAME, &parameters(), lease).await,
        };
        match written {
            Ok(lease) => {
                self.renewed = sent;
                self.written = Some(lease);
                self.fence.extend(sent + self.terms.renew_deadline);
                Ok(Outcome::Ours)
            }
            Err(error) if is(&error, 409) => Ok(Outcome::Contended),
            Err(error) => Err(error),
        }
    }
}

/// Whether the lease that was found is from before the one that we wrote. Nobody but its holder turns its time back.
fn is_older(found: Option<&Lease>, written: &Lease) -> bool {
    let spec = |lease: &Lease| lease.spec.clone().unwrap_or_default();
    let Some(found) = found.map(spec) else { return true };
    let written = spec(written);
    // In the unit that is stored.
    let time = |spec: &LeaseSpec| spec.renew_time.as_ref().map(|time| time.0.as_microsecond());
    found.holder_identity == written.holder_identity && time(&found) < time(&written)
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// A name for this process that no other has: its host's, and a random number.
pub fn identity() -> Result<String> {
    let host = nix::sys::utsname::uname().map_err(|error| anyhow!("ask for this host's name: {error}"))?;
    Ok(format!("{}_{:016x}", host.nodename().display(), rand::random::<u64>()))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    fn lease(holder: &str, second: i64) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            renew_time: Some(MicroTime(Timestamp::from_second(second).expect("a time"))),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[test]
    fn a_lease_that_went_back_in_time_tells_of_an_older_store() {
        let written = lease("one", 100);
        let cases = [
            (Some(lease("one", 100)), false),
            // Written, but the answer was lost.
            (Some(lease("one", 101)), false),
            (Some(lease("one", 99)), true),
            // Taken: that is another story.
            (Some(lease("two", 99)), false),
            (None, true),
        ];
        for (found, expected) in cases {
            assert_eq!(is_older(found.as_ref(), &written), expected, "{found:?}");
        }
    }
}
