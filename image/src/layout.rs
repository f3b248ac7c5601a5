//! An OCI image (image-spec 1.1): blobs by their digests, a manifest that names them, and an index that names that.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tar::Builder;

use crate::{
    Contents, NAME, Origin,
    root::{self, PROGRAM},
};

/// What is shipped is built for this architecture, as Go and with it all image tools call it.
const ARCHITECTURE: &str = "amd64";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const BLOBS: &str = "blobs/sha256";

/// An image in memory.
pub struct Image {
    version: String,
    /// Of the manifest: the name of the image that nobody can change.
    digest: String,
    /// By path in the layout.
    files: BTreeMap<String, Vec<u8>>,
    epoch: u64,
}

/// What names a blob.
struct Descriptor {
    media_type: &'static str,
    digest: String,
    size: usize,
}

// === impl Image ===

impl Image {
    pub fn pack(contents: &Contents, origin: &Origin) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut add = |content: Vec<u8>, media_type| {
            let blob = Descriptor { media_type, digest: digest_of(&content), size: content.len() };
            files.insert(blob.path(), content);
            blob
        };
        let uncompressed = root::layer(contents, origin)?;
        let layer = add(root::compress(&uncompressed)?, "application/vnd.oci.image.layer.v1.tar+gzip");
        let labels = labels(origin);
        let config = json!({
            "created": origin.created,
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": {
                "User": "0",
                // Who looks around in a container need not know where the program is.
                "Env": ["PATH=/"],
                "Entrypoint": [format!("/{PROGRAM}")],
                "WorkingDir": "/",
                "Labels": labels,
            },
            "rootfs": { "type": "layers", "diff_ids": [digest_of(&uncompressed)] },
            "history": [{ "created": origin.created, "created_by": "cargo xtask image" }],
        });
        let config = add(bytes(&config), "application/vnd.oci.image.config.v1+json");
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.json(),
            "layers": [layer.json()],
            "annotations": labels,
        });
        let manifest = add(bytes(&manifest), MANIFEST);
        let mut entry = manifest.json();
        entry["platform"] = json!({ "architecture": ARCHITECTURE, "os": "linux" });
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": origin.version });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        });
        // What `docker load` looks for, of whatever version.
        let docker = json!([{
            "Config": config.path(),
            "RepoTags": [format!("{NAME}:{}", origin.version)],
            "Layers": [layer.path()],
        }]);
        files.insert("index.json".to_owned(), bytes(&index));
        files.insert("manifest.json".to_owned(), bytes(&docker));
        files.insert("oci-layout".to_owned(), bytes(&json!({ "imageLayoutVersion": "1.0.0" })));
        let version = origin.version.clone();
        Ok(Self { version, digest: manifest.digest, files, epoch: origin.epoch })
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// How much is fetched by who has nothing of it.
    pub fn size(&self) -> usize {
        self.files.values().map(Vec::len).sum()
    }

    /// Writes the files into a folder, in place of what was there.
    pub fn write_layout(&self, folder: &Path) -> Result<()> {
        if folder.exists() {
            // Someone else's folder must not go for a slip in a command line.
            let known = folder.join("oci-layout").is_file();
            ensure!(known, "{} is no image layout, so it is left alone: name another", folder.display());
            fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        fs::create_dir_all(folder.join(BLOBS)).with_context(|| format!("create {}", folder.display()))?;
        for (path, content) in &self.files {
            let path = folder.join(path);
            fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// Writes the files as one archive, which `ctr images import`, `skopeo copy` and `docker load` take.
    pub fn write_archive(&self, path: &Path) -> Result<()> {
        let mut archive = Builder::new(Vec::new());
        let folders = ["blobs", BLOBS].map(|folder| (folder, 0o755, None));
        let files = self.files.iter().map(|(path, content)| (path.as_str(), 0o644, Some(content.as_slice())));
        let mut entries: Vec<_> = folders.into_iter().chain(files).collect();
        entries.sort_unstable_by_key(|(path, ..)| *path);
        for (path, mode, content) in entries {
            root::append(&mut archive, path, mode, content, self.epoch)
                .with_context(|| format!("archive {path}"))?;
        }
        let archive = archive.into_inner().context("end the archive")?;
        fs::write(path, archive).with_context(|| format!("write {}", path.display()))
    }
}

/// The predefined annotations of the image specification, on the manifest and as labels of what runs.
fn labels(origin: &Origin) -> Value {
    json!({
        "org.opencontainers.image.created": origin.created,
        "org.opencontainers.image.description":
            "Node-level service router for federated Kubernetes clusters",
        // What the bill of materials says of federation-agent and federation-ebpf.
        "org.opencontainers.image.licenses": "Apache-2.0 AND (MIT OR GPL-2.0-only)",
        "org.opencontainers.image.revision": origin.revision,
        "org.opencontainers.image.title": NAME,
        "org.opencontainers.image.version": origin.version,
    })
}

// === impl Descriptor ===

impl Descriptor {
    fn json(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.size })
    }

    /// Where in the layout the blob is.
    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }
}

fn digest_of(content: &[u8]) -> String {
    let digest = digest(&SHA256, content);
    let hex: Vec<_> = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{}", hex.concat())
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}
