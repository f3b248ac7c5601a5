//! The file: keys to JSON text, and the last revision. Every commit is on the disk before it returns.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Error, Result, anyhow};
use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition,
};
use serde_json::Value;
use tracing::info;

use super::{Change, ChangeKind, Key, Stored};
use crate::apiserver::kinds;
use crate::apiserver::object::Object as _;

const OBJECTS: TableDefinition<(&str, &str, &str), &[u8]> = TableDefinition::new("objects");
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
const REVISION: &str = "revision";
const FORMAT: &str = "format";
/// Raised when an older agent could not read what a newer one wrote.
const CURRENT_FORMAT: u64 = 1;
/// Readers are served from memory: the file's own cache only has to hold what commits touch.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// A file may be this much longer than twice its content before it is worth the time to compact it.
const SLACK_BYTES: u64 = 16 * 1024 * 1024;

pub(super) struct Disk {
    database: Database,
}

pub(super) struct Contents {
    pub(super) revision: u64,
    pub(super) objects: Vec<(Key, Arc<Stored>)>,
}

impl Disk {
    pub(super) fn open(path: &Path) -> Result<(Self, Contents)> {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.with_context(|| format!("open the store {}", path.display()))?;
        let length = file.metadata().with_context(|| format!("look at the store {}", path.display()))?.len();
        let database = FileBackend::new(file)
            .and_then(|backend| builder.create_with_backend(backend))
            .map_err(|error| explain(error, path))?;
        let mut disk = Self { database };
        let contents = disk.read().with_context(|| damaged(path))?;
        if length > 2 * contents.bytes() + SLACK_BYTES {
            info!("compacting the store {}", path.display());
            disk.database.compact().with_context(|| damaged(path))?;
        }
        Ok((disk, contents))
    }

    fn read(&self) -> Result<Contents> {
        let write = self.database.begin_write()?;
        {
            let mut numbers = write.open_table(NUMBERS)?;
            let format = numbers.get(FORMAT)?.map(|format| format.value());
            match format {
                None => drop(numbers.insert(FORMAT, CURRENT_FORMAT)?),
                Some(CURRENT_FORMAT) => {}
                Some(newer) => {
                    return Err(anyhow!("it has format {newer}, this agent reads {CURRENT_FORMAT}"));
                }
            }
            write.open_table(OBJECTS)?;
        }
        write.commit()?;

        let read = self.database.begin_read()?;
        let revision = read.open_table(NUMBERS)?.get(REVISION)?.map_or(0, |revision| revision.value());
        let mut objects = Vec::new();
        for entry in read.open_table(OBJECTS)?.iter()? {
            let (key, text) = entry?;
            let (resource, namespace, name) = key.value();
            let kind = kinds::by_qualified_name(resource)
                .ok_or_else(|| anyhow!("it has objects of an unknown kind, {resource}"))?;
            let stored = decode(text.value())
                .with_context(|| format!("{resource} \"{name}\" in namespace \"{namespace}\""))?;
            objects.push((Key::new(kind, namespace, name), Arc::new(stored)));
        }
        Ok(Contents { revision, objects })
    }

    pub(super) fn commit(&self, revision: u64, changes: &[Arc<Change>]) -> Result<()> {
        let mut write = self.database.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        {
            let mut objects = write.open_table(OBJECTS)?;
            for change in changes {
                let key = (&*change.key.resource, change.key.namespace.as_str(), change.key.name.as_str());
                if change.kind == ChangeKind::Deleted {
                    objects.remove(key)?;
                } else {
                    objects.insert(key, change.now.text.as_ref())?;
                }
            }
            write.open_table(NUMBERS)?.insert(REVISION, revision)?;
        }
        write.commit()?;
        Ok(())
    }
}

impl Contents {
    fn bytes(&self) -> u64 {
        self.objects.iter().map(|(_, stored)| stored.text.len() as u64).sum()
    }
}

fn decode(text: &[u8]) -> Result<Stored> {
    let object: Value = serde_json::from_slice(text)?;
    let revision = object.resource_version().parse().context("its resourceVersion is no number")?;
    Ok(Stored { revision, object, text: text.to_vec().into() })
}

fn damaged(path: &Path) -> String {
    format!("cannot use the store {}: move it away to start empty, or put back a copy of it", path.display())
}

fn explain(error: DatabaseError, path: &Path) -> Error {
    match error {
        DatabaseError::DatabaseAlreadyOpen => anyhow!(
            "the store {} is in use by another process: stop it, or choose another with --data-dir",
            path.display()
        ),
        other => Error::new(other).context(damaged(path)),
    }
}
