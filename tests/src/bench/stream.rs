//! The two ends of a measured TCP connection: round trips of a few bytes, and blocks of many.
//!
//! Plain blocking sockets and a thread a connection: nothing stands between the clock and the kernel.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::lab::Namespace;

/// A small request, and its answer.
const MESSAGE: [u8; 64] = [7; 64];

/// What is handed to the kernel at once.
const PIECE: usize = 256 * 1024;

/// Longer than anything here takes: a connection that hangs ends the benchmark with an error.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to be measured.
pub struct Connection {
    stream: TcpStream,
}

/// Serves inside `namespace` for as long as the process lives: each connection sends a message's length and the message,
/// and gets one message back for it.
pub fn serve(namespace: &Namespace, address: SocketAddr) -> Result<()> {
    let listener =
        namespace.run(|| TcpListener::bind(address))?.with_context(|| format!("listen on {address}"))?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer(stream));
        }
    });
    Ok(())
}

/// Answers until the other end closes, as health probes do at once.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut piece = vec![0; PIECE];
    loop {
        let mut length = [0; 8];
        stream.read_exact(&mut length)?;
        let mut remaining = u64::from_be_bytes(length);
        while remaining > 0 {
            let most = usize::try_from(remaining).unwrap_or(PIECE).min(PIECE);
            match stream.read(&mut piece[..most])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => remaining -= read as u64,
            }
        }
        stream.write_all(&MESSAGE)?;
    }
}

impl Connection {
    /// Connects from inside `namespace`.
    pub fn open(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let connect = || TcpStream::connect_timeout(&address, PATIENCE);
        let stream = namespace.run(connect)?.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true).context("send small messages at once")?;
        stream.set_read_timeout(Some(PATIENCE)).context("bound the wait for an answer")?;
        stream.set_write_timeout(Some(PATIENCE)).context("bound the wait for the network")?;
        Ok(Self { stream })
    }

    /// How long each of `count` small requests takes until its answer is there, in microseconds.
    pub fn round_trips(&mut self, count: usize) -> Result<Vec<f64>> {
        let mut request = (MESSAGE.len() as u64).to_be_bytes().to_vec();
        request.extend(MESSAGE);
        let mut answer = MESSAGE;
        (0..count)
            .map(|_| {
                let begun = Instant::now();
                self.stream.write_all(&request).context("send a request")?;
                self.stream.read_exact(&mut answer).context("read an answer")?;
                Ok(begun.elapsed().as_secs_f64() * 1e6)
            })
            .collect()
    }

    /// How long it takes until the other end has read so many bytes.
    pub fn transfer(&mut self, bytes: u64) -> Result<Duration> {
        let piece = vec![7; PIECE];
        let begun = Instant::now();
        self.stream.write_all(&bytes.to_be_bytes()).context("announce a block")?;
        let mut remaining = bytes;
        while remaining > 0 {
            let most = usize::try_from(remaining).unwrap_or(PIECE).min(PIECE);
            self.stream.write_all(&piece[..most]).context("send a block")?;
            remaining -= most as u64;
        }
        let mut answer = MESSAGE;
        self.stream.read_exact(&mut answer).context("read that a block has arrived")?;
        Ok(begun.elapsed())
    }
}
