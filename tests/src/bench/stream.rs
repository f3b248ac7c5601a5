//! The two ends of a measured TCP connection: round trips of a few bytes, blocks of many, and one connection after another.
//!
//! Plain blocking sockets and a thread a connection: nothing stands between the clock and the kernel.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::cpu::{self, Cpus};
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

/// Serves inside `namespace` for as long as the process lives: each connection tells on which processor to serve it, then
/// sends a message's length and the message, and gets one message back for it, again and again.
pub fn serve(namespace: &Namespace, address: SocketAddr) -> Result<()> {
    let listener = listen(namespace, address)?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer(stream));
        }
    });
    Ok(())
}

/// Serves short connections, one after another, on one processor: each sends a message and gets one.
pub fn serve_short(namespace: &Namespace, address: SocketAddr, cpu: usize) -> Result<()> {
    let listener = listen(namespace, address)?;
    thread::spawn(move || {
        cpu::stay_on(cpu)?;
        for stream in listener.incoming() {
            // Health probes send nothing, and those who hang up have what they wanted.
            let _ = stream.and_then(answer_once);
        }
        anyhow::Ok(())
    });
    Ok(())
}

/// `count` connections, one after another: how many a second were made, asked over and closed.
///
/// They end with a reset, so that no port has to wait for the last packets of the connection before.
pub fn connections(namespace: &Namespace, address: SocketAddr, count: u32) -> Result<f64> {
    let one = || -> io::Result<()> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(&MESSAGE)?;
        stream.read_exact(&mut [0; MESSAGE.len()])?;
        reset_at_close(&stream)
    };
    let all = || {
        let begun = Instant::now();
        (0..count).try_for_each(|_| one())?;
        io::Result::Ok(f64::from(count) / begun.elapsed().as_secs_f64())
    };
    namespace.run(all)?.with_context(|| format!("connect to {address} again and again"))
}

fn reset_at_close(stream: &TcpStream) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    #[expect(clippy::cast_possible_truncation, reason = "eight bytes")]
    let size = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the option is read from the struct that it takes, which lives until the call is over.
    let outcome = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn listen(namespace: &Namespace, address: SocketAddr) -> Result<TcpListener> {
    namespace.run(|| TcpListener::bind(address))?.with_context(|| format!("listen on {address}"))
}

fn answer_once(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0; MESSAGE.len()])?;
    stream.write_all(&MESSAGE)
}

/// Answers until the other end closes, as health probes do at once.
fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    cpu::stay_on(usize::try_from(read_number(&mut stream)?)?)?;
    let mut piece = vec![0; PIECE];
    loop {
        let mut remaining = read_number(&mut stream)?;
        while remaining > 0 {
            let most = usize::try_from(remaining).unwrap_or(PIECE).min(PIECE);
            match stream.read(&mut piece[..most])? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                read => remaining -= read as u64,
            }
        }
        stream.write_all(&MESSAGE)?;
    }
}

fn read_number(stream: &mut TcpStream) -> io::Result<u64> {
    let mut number = [0; 8];
    stream.read_exact(&mut number)?;
    Ok(u64::from_be_bytes(number))
}

impl Connection {
    /// Connects from inside `namespace`, from a thread that stays where `cpus` says.
    pub fn open(namespace: &Namespace, address: SocketAddr, cpus: Cpus) -> Result<Self> {
        let connect = || TcpStream::connect_timeout(&address, PATIENCE);
        let mut stream = namespace.run(connect)?.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true).context("send small messages at once")?;
        stream.set_read_timeout(Some(PATIENCE)).context("bound the wait for an answer")?;
        stream.set_write_timeout(Some(PATIENCE)).context("bound the wait for the network")?;
        stream.write_all(&(cpus.server as u64).to_be_bytes()).context("tell the server its processor")?;
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
