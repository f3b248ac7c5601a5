//! The client pod's requests: at an even pace, a TCP connection each, whatever becomes of the last one.
//!
//! The schedule is one of time: a sender that was held up sends what was due meanwhile, and a request counts from when it
//! was due. The sender is a thread of its own inside the pod's network, so that nothing has to be carried between
//! processes.
//!
//! A connection ends with a reset from the client: at this rate the ports of orderly ends would be used up within half a
//! minute, since each waits for a minute in `TIME_WAIT`.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use nix::time::{ClockId, clock_gettime};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{sleep_until, timeout},
};

use super::book::{Book, Failure, Outcome};
use crate::{client::Answer, lab::Namespace};

/// A request without an answer has failed after this.
pub const DEADLINE: Duration = Duration::from_secs(2);

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: vip\r\nconnection: close\r\n\r\n";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";
const MOST_BYTES: usize = 1024;

/// Sends until dropped.
pub struct Traffic {
    shared: Arc<Shared>,
    sender: Option<JoinHandle<()>>,
}

struct Shared {
    book: Mutex<Book>,
    target: Mutex<SocketAddr>,
    stop: AtomicBool,
    /// Processor time that the sender has used.
    nanoseconds: AtomicU64,
}

impl Traffic {
    /// `rate` requests a second from `namespace` to `target`.
    pub fn start(namespace: &Namespace, target: SocketAddr, rate: u32) -> Result<Self> {
        // All ports that there are: one that is used again soon meets what the nodes remember of it.
        namespace.set("ipv4/ip_local_port_range", "1024 65535")?;
        let shared = Arc::new(Shared {
            book: Mutex::default(),
            target: Mutex::new(target),
            stop: AtomicBool::default(),
            nanoseconds: AtomicU64::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (namespace, theirs) = (namespace.clone(), Arc::clone(&shared));
        let send = move || {
            let sent = namespace.run(|| runtime.block_on(send(theirs, Duration::from_secs(1) / rate)));
            sent.expect("the namespace is there as long as its traffic");
        };
        let sender =
            thread::Builder::new().name("traffic".to_owned()).spawn(send).context("start the sender")?;
        Ok(Self { shared, sender: Some(sender) })
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.shared.book()
    }

    /// Sends there from now on.
    pub fn aim(&self, target: SocketAddr) {
        *self.shared.target.lock().expect("no holder of the target panics") = target;
    }

    /// Processor time that sending has taken so far.
    pub fn processor_time(&self) -> Duration {
        Duration::from_nanos(self.shared.nanoseconds.load(Ordering::Relaxed))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take()
            && sender.join().is_err()
        {
            eprintln!("the sender of the traffic has panicked");
        }
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("no holder of the book panics")
    }
}

async fn send(shared: Arc<Shared>, pace: Duration) {
    let known = Arc::new(Mutex::new(HashMap::new()));
    let mut due = Instant::now();
    while !shared.stop.load(Ordering::Relaxed) {
        sleep_until(due.into()).await;
        let number = shared.book().begin(due);
        let target = *shared.target.lock().expect("no holder of the target panics");
        let (shared_too, known) = (Arc::clone(&shared), Arc::clone(&known));
        tokio::spawn(async move {
            let outcome = match timeout(DEADLINE, request(target)).await {
                Ok(Ok(line)) => {
                    parsed(&known, line).map_or(Outcome::Failed(Failure::Other), Outcome::Answered)
                }
                Ok(Err(error)) => Outcome::Failed(error.into()),
                Err(_) => Outcome::Failed(Failure::Silence),
            };
            shared_too.book().end(number, Instant::now(), outcome);
        });
        if let Ok(used) = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID) {
            let used = u64::try_from(Duration::from(used).as_nanos()).unwrap_or(u64::MAX);
            shared.nanoseconds.store(used, Ordering::Relaxed);
        }
        due += pace;
    }
}

/// Who is named in the line; every pod's names are kept once.
fn parsed(known: &Mutex<HashMap<String, Arc<Answer>>>, line: String) -> Result<Arc<Answer>> {
    let mut known = known.lock().map_err(|_| anyhow!("a holder of the names has panicked"))?;
    if let Some(answer) = known.get(&line) {
        return Ok(Arc::clone(answer));
    }
    let answer = Arc::new(line.parse::<Answer>()?);
    known.insert(line, Arc::clone(&answer));
    Ok(answer)
}

/// One request over a connection of its own; the line of its answer.
async fn request(target: SocketAddr) -> io::Result<String> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_zero_linger()?;
    let mut stream = socket.connect(target).await?;
    ask(&mut stream, REQUEST).await
}

/// Sends `request` and reads the line of its answer.
pub(super) async fn ask(stream: &mut TcpStream, request: &[u8]) -> io::Result<String> {
    stream.write_all(request).await?;
    let mut answer = Vec::with_capacity(MOST_BYTES);
    loop {
        if stream.read_buf(&mut answer).await? == 0 || answer.len() >= MOST_BYTES {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let head = answer.windows(END_OF_HEAD.len()).position(|bytes| bytes == END_OF_HEAD);
        let body = head.map(|head| &answer[head + END_OF_HEAD.len()..]);
        if let Some([line @ .., b'\n']) = body {
            return String::from_utf8(line.to_vec()).map_err(io::Error::other);
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => Self::Reset,
            ErrorKind::TimedOut => Self::Silence,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_read_whatever_pieces_it_comes_in() {
        for (pieces, expected) in [
            (&["HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nnear pod1\n"][..], Ok("near pod1")),
            (&["HTTP/1.1 200 OK\r\n", "\r\nnear", " pod1\n"], Ok("near pod1")),
            (&["HTTP/1.1 200 OK\r\n\r\nnear"], Err(ErrorKind::UnexpectedEof)),
            (&[], Err(ErrorKind::UnexpectedEof)),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let answer = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read_exact(&mut [0; REQUEST.len()]).await.unwrap();
                for piece in pieces {
                    stream.write_all(piece.as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                }
            };
            let (line, ()) = tokio::join!(request(address), answer);
            assert_eq!(line.as_deref().map_err(io::Error::kind), expected);
        }
    }
}
