//! The last known federation on disk, for who starts while the Federation API does not answer.
//!
//! One file in the state folder, replaced as a whole: a reader finds the one before or the new one, never a part. Its first
//! line says what it is, in which version of its form, and the checksum of the rest, which is JSON.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, ErrorKind, Seek as _, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use crc32fast::Hasher;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::model::{Cluster, ClusterName, Federation, Service, ServiceKey};

/// The file's name in the state folder.
pub const FILE: &str = "federation";

const TITLE: &str = "last-known-federation";

/// Of the form of what follows, the types of `model` among it: one that changes in any way takes the next number.
const VERSION: u32 = 2;

/// Where a federation is kept.
#[derive(Clone, Debug)]
pub struct Saved {
    path: PathBuf,
    /// The name of the federation: what another one left behind is not this one's.
    federation: String,
}

#[derive(Serialize, Deserialize)]
struct Contents<Services> {
    federation: String,
    clusters: BTreeMap<ClusterName, Cluster>,
    services: Services,
}

impl Saved {
    /// # Errors
    /// There is no such folder, and it cannot be made.
    pub fn in_folder(state_dir: &Path, federation: &str) -> Result<Self> {
        fs::create_dir_all(state_dir)
            .with_context(|| format!("create the state folder {}", state_dir.display()))?;
        Ok(Self { path: state_dir.join(FILE), federation: federation.to_owned() })
    }

    /// What was saved last; nothing where nothing was. A file that cannot be used is as good as none, and told.
    pub fn load(&self) -> Option<Federation> {
        self.read().unwrap_or_else(|reason| {
            warn!(
                file = %self.path.display(),
                "the last known federation cannot be used and is ignored, the next one takes its place: {reason:#}"
            );
            None
        })
    }

    fn read(&self) -> Result<Option<Federation>> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("read it"),
        };
        let end = bytes.iter().position(|byte| *byte == b'\n').context("it has no first line")?;
        let (first, values) = (str::from_utf8(&bytes[..end]).unwrap_or_default(), &bytes[end + 1..]);
        let words: Vec<_> = first.split(' ').collect();
        let [TITLE, version, sum] = words[..] else { bail!("its first line does not say that it is one") };
        ensure!(
            version == VERSION.to_string(),
            "it is of version {version}, this agent reads version {VERSION}"
        );
        let mut whole = Hasher::new();
        whole.update(values);
        let is_whole = sum == checksum(&whole);
        ensure!(is_whole, "it is damaged: its checksum is not that of its contents");
        let contents: Contents<Vec<(ServiceKey, Service)>> =
            serde_json::from_slice(values).context("read its values")?;
        ensure!(
            contents.federation == self.federation,
            "it is of the federation {}, not of {}; give each its own --state-dir",
            contents.federation,
            self.federation
        );
        let services = contents.services.into_iter().map(|(key, service)| (key, Arc::new(service)));
        Ok(Some(Federation { clusters: contents.clusters, services: services.collect() }))
    }

    /// Puts it in the place of what was saved before. When this returns it outlives a power cut.
    ///
    /// # Errors
    /// The folder takes no file; what was saved before stays.
    pub fn save(&self, federation: &Federation) -> Result<()> {
        let services = federation.services.iter().map(|(key, service)| (key, &**service));
        let contents = Contents {
            federation: self.federation.clone(),
            clusters: federation.clusters.clone(),
            services: services.collect::<Vec<(&ServiceKey, &Service)>>(),
        };
        self.write(&contents).with_context(|| format!("save the federation in {}", self.path.display()))
    }

    fn write(&self, contents: &impl Serialize) -> Result<()> {
        let folder = self.path.parent().context("it has a folder")?;
        let mut file = tempfile::Builder::new().prefix(".federation-").tempfile_in(folder)?;
        // Piece by piece: of a large federation it would be tens of megabytes. The sum is known, and written, at the end.
        file.write_all(first_line(&Hasher::new()).as_bytes())?;
        let mut summed = Summed { to: BufWriter::new(file), sum: Hasher::new() };
        serde_json::to_writer(&mut summed, contents)?;
        let Summed { to, sum } = summed;
        let mut file = to.into_inner()?;
        file.rewind()?;
        file.write_all(first_line(&sum).as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        // The new name, too.
        File::open(folder)?.sync_all()?;
        Ok(())
    }
}

/// As long whatever the sum is.
fn first_line(sum: &Hasher) -> String {
    format!("{TITLE} {VERSION} {}\n", checksum(sum))
}

fn checksum(sum: &Hasher) -> String {
    format!("{:08x}", sum.clone().finalize())
}

/// Sums up what is written.
struct Summed<W> {
    to: W,
    sum: Hasher,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests;
