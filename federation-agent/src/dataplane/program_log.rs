//! What the programs log: faults that should never happen, told through the agent's own log.

use std::io;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya_log::{EbpfLogger, Error};
use log::Log;
use tokio::io::{Interest, unix::AsyncFd};

/// The programs' side of the agent's log.
pub struct ProgramLog {
    logger: AsyncFd<EbpfLogger<&'static dyn Log>>,
}

impl ProgramLog {
    /// `None` when the programs log nothing, and so have no map for it.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Option<Self>> {
        match EbpfLogger::init(ebpf) {
            Err(Error::MapNotFound) => Ok(None),
            logger => {
                let logger = logger.context("read what the programs log")?;
                // SAFETY: the logger has one descriptor, its ring's, and closes it when it is dropped itself.
                let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
                let logger = logger.map_err(io::Error::from).context("wait for what the programs log")?;
                Ok(Some(Self { logger }))
            }
        }
    }

    /// Passes on what the programs log, for ever.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub async fn pass_on(&mut self) -> Result<()> {
        loop {
            let mut ready = self.logger.readable_mut().await.context("wait for what the programs log")?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}
