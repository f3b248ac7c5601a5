//! One inquiry: the same question to a few endpoints of a shard, and what came of it.

mod grpc;
mod http;
mod tcp;

use std::{
    fmt,
    io::ErrorKind,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Duration, Instant, sleep_until, timeout_at},
};

use super::ShardKey;
use crate::model::{HealthCheck, Question};

/// What to ask of one shard now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inquiry {
    pub shard: ShardKey,
    pub check: HealthCheck,
    /// The sample that speaks for the shard.
    pub sample: Vec<SocketAddr>,
    /// Failed ones outside the sample.
    pub again: Vec<SocketAddr>,
    /// How long an answer may take, the way there and back included.
    pub patience: Duration,
}

/// What becomes of an inquiry.
#[derive(Debug)]
pub(super) enum Progress {
    /// The last questions are put now, and somebody has not answered yet.
    LastAttempt {
        shard: ShardKey,
        at: Instant,
    },
    /// Half of the patience is over and somebody has not answered, or somebody has said no.
    Uneasy {
        shard: ShardKey,
    },
    Done(Report),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub shard: ShardKey,
    /// When the first question was put.
    pub asked: Instant,
    pub sample: Vec<Answer>,
    pub again: Vec<Answer>,
    /// Why some could not be asked at all: this node's own trouble, and no verdict on them.
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub address: SocketAddr,
    pub result: Result<(), Failure>,
    /// When it was known.
    pub at: Instant,
    /// How long a connection took to open, if one did.
    pub round_trip: Option<Duration>,
}

/// Why an endpoint does not count as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Nothing came back from the endpoint: the network may be what failed.
    pub silent: bool,
    /// This node knows no way there at this moment.
    pub no_route: bool,
    pub evidence: Arc<str>,
}

/// Asks everybody and tells how it goes.
pub(super) async fn inquire(inquiry: Inquiry, progress: mpsc::UnboundedSender<Progress>) {
    let asked = Instant::now();
    let Inquiry { shard, check, sample, again, patience } = inquiry;
    let last_attempt = asked + check.begin(check.attempts() - 1);
    let ask_all = |addresses: Vec<SocketAddr>| {
        let check = &check;
        let asked = addresses.into_iter().map(move |address| ask(address, check, asked, patience));
        asked.collect::<FuturesUnordered<_>>()
    };
    let (mut sampled, mut others) = (ask_all(sample), ask_all(again));
    let mut report = Report { shard, asked, sample: Vec::new(), again: Vec::new(), trouble: None };
    let (last, uneasy) = (sleep_until(last_attempt), sleep_until(asked + patience / 2));
    tokio::pin!(last, uneasy);
    let (mut was_last, mut told) = (false, false);
    loop {
        let waits = !(sampled.is_empty() && others.is_empty());
        let doubtful = tokio::select! {
            // First, for what fails at once ends with the last attempt.
            biased;
            () = &mut last, if !was_last && waits => {
                was_last = true;
                // Nobody listens any more when the agent ends; here and below.
                let _ = progress.send(Progress::LastAttempt { shard: report.shard.clone(), at: last_attempt });
                false
            }
            Some(outcome) = sampled.next() => {
                let failed = matches!(&outcome, Ok(Answer { result: Err(_), .. }));
                report.take(outcome, |report| &mut report.sample);
                failed
            }
            Some(outcome) = others.next() => {
                report.take(outcome, |report| &mut report.again);
                false
            }
            () = &mut uneasy, if !told && waits => true,
            else => break,
        };
        if doubtful && !told {
            told = true;
            let _ = progress.send(Progress::Uneasy { shard: report.shard.clone() });
        }
    }
    let _ = progress.send(Progress::Done(report));
}

impl Report {
    fn take(&mut self, outcome: Result<Answer, Trouble>, to: impl FnOnce(&mut Self) -> &mut Vec<Answer>) {
        match outcome {
            Ok(answer) => to(self).push(answer),
            Err(Trouble(reason)) => self.trouble = Some(reason),
        }
    }
}

/// A question could not even be put.
struct Trouble(String);

/// How an attempt ended in time, if not well.
enum Refusal {
    Failed(Failure),
    Trouble(Trouble),
}

/// Puts the question as often as it takes to believe a no: the next time when the time before has failed, or has been
/// without an answer for its part of the timeout. The first yes counts.
///
/// # Errors
/// No attempt could be made.
async fn ask(
    address: SocketAddr,
    check: &HealthCheck,
    asked: Instant,
    patience: Duration,
) -> Result<Answer, Trouble> {
    let deadline = asked + patience;
    let round_trip = OnceLock::new();
    let attempt = |number: u32| {
        let round_trip = &round_trip;
        async move {
            sleep_until(asked + check.begin(number)).await;
            timeout_at(deadline, put(address, &check.question, round_trip)).await
        }
    };
    let answer =
        |result| Answer { address, result, at: Instant::now(), round_trip: round_trip.get().copied() };
    let (mut failure, mut trouble, mut in_silence) = (None, None, false);
    let mut attempts: FuturesUnordered<_> = (0..check.attempts()).map(attempt).collect();
    while let Some(outcome) = attempts.next().await {
        match outcome {
            Ok(Ok(())) => return Ok(answer(Ok(()))),
            // A no outweighs what this node's own network said.
            Ok(Err(Refusal::Failed(reason))) if !reason.silent => failure = Some(reason),
            Ok(Err(Refusal::Failed(reason))) => drop(failure.get_or_insert(reason)),
            Ok(Err(Refusal::Trouble(reason))) => trouble = Some(reason),
            Err(_) => in_silence = true,
        }
    }
    if let (None, Some(trouble), false) = (&failure, trouble, in_silence) {
        return Err(trouble);
    }
    let silence = || Failure {
        silent: true,
        no_route: false,
        evidence: format!("no answer to {} within {} ms", check.question, patience.as_millis()).into(),
    };
    Ok(answer(Err(failure.unwrap_or_else(silence))))
}

/// One attempt. The round trip is known before the answer is.
///
/// # Errors
/// What the endpoint said no with, or what kept the question from being put.
async fn put(
    address: SocketAddr,
    question: &Question,
    round_trip: &OnceLock<Duration>,
) -> Result<(), Refusal> {
    let failure = |silent, reason: &dyn fmt::Display| {
        let evidence = format!("{question}: {reason}").into();
        Refusal::Failed(Failure { silent, no_route: silent, evidence })
    };
    let begun = Instant::now();
    let stream = tcp::connect(address).await.map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => failure(false, &error),
        // From a network on the way, as likely as not from this node's own.
        ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown
        | ErrorKind::TimedOut => failure(true, &error),
        // Neither: no descriptor, no port, no memory, no permission.
        _ => Refusal::Trouble(Trouble(format!("{address} cannot be asked: {error}"))),
    })?;
    // The first attempt that got so far counts.
    let _ = round_trip.set(begun.elapsed());
    speak(stream, address, question).await.map_err(|reason| failure(false, &reason))
}

async fn speak(stream: TcpStream, address: SocketAddr, question: &Question) -> Result<(), String> {
    match question {
        Question::Tcp | Question::Nothing => Ok(()),
        Question::Http { path, codes } => http::get(stream, address, path, codes).await,
        Question::Grpc { service } => grpc::check(stream, address, service).await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;
    use crate::model::ServiceKey;

    /// What an inquiry with this check finds at each address.
    async fn inquired(addresses: &[SocketAddr], check: HealthCheck) -> Vec<Answer> {
        let (progress, mut heard) = mpsc::unbounded_channel();
        let shard = (ServiceKey::new("ns", "s"), "here".into());
        let patience = check.timeout;
        let (sample, again) = (addresses.to_vec(), vec![]);
        let inquiry = Inquiry { shard, check, sample, again, patience };
        inquire(inquiry, progress).await;
        loop {
            if let Progress::Done(report) = heard.recv().await.expect("it ends") {
                return report.sample;
            }
        }
    }

    fn patient(question: Question) -> HealthCheck {
        HealthCheck { question, timeout: Duration::from_secs(5), ..HealthCheck::default() }
    }

    #[tokio::test]
    async fn a_listener_answers_a_closed_port_refuses_and_a_full_one_is_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = gone.local_addr().unwrap();
        drop(gone);
        let answers = inquired(&[open, closed], patient(Question::Tcp)).await;
        assert_eq!(answers[0].result, Ok(()));
        assert!(answers[0].round_trip.is_some());
        let refusal = answers[1].result.as_ref().unwrap_err();
        assert!(!refusal.silent && refusal.evidence.contains("refused"), "{refusal:?}");
    }

    #[tokio::test]
    async fn who_accepts_and_never_answers_is_silent_to_a_question_over_http() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let question = Question::Http { path: "/".to_owned(), codes: vec![200..=399] };
        let check = HealthCheck { question, timeout: Duration::from_millis(50), ..HealthCheck::default() };
        let answers = inquired(&[address], check).await;
        let silence = answers[0].result.as_ref().unwrap_err();
        assert!(silence.silent && silence.evidence.contains("no answer to HTTP GET /"), "{silence:?}");
        assert!(answers[0].round_trip.is_some(), "the handshake was measured all the same");
    }

    #[tokio::test]
    async fn http_codes_decide() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                // Kept open until the client is done: a reset would overtake the answer.
                tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
            }
        });
        for (codes, well) in [(vec![200..=399], false), (vec![200..=299, 503..=503], true)] {
            let question = Question::Http { path: "/healthz".to_owned(), codes };
            let answers = inquired(&[address], patient(question)).await;
            assert_eq!(answers[0].result.is_ok(), well, "{answers:?}");
        }
    }
}
