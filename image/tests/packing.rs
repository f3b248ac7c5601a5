//! The image as other people's tools see it. What is packed here is a development program: a static one takes many
//! minutes to build, and `cargo xtask image` checks that one itself.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use federation_image::{Contents, Image, Origin, Sources, Written, bill, write};
use ring::digest::{SHA256, digest};
use serde_json::Value;
use tempfile::TempDir;

const CREATED: &str = "2026-11-26T11:21:19Z";
const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";

fn origin() -> Origin {
    Origin {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: REVISION.to_owned(),
        epoch: 1_795_692_079,
        created: CREATED.to_owned(),
    }
}

fn contents() -> Contents {
    let mut program = fs::read(env!("CARGO_BIN_EXE_image")).expect("a program");
    // Its beginning will do: nothing here starts it, and compressing all of it takes a while.
    program.truncate(4 << 20);
    Contents { program, bill: b"{}\n".to_vec() }
}

/// Packs and writes the image.
fn written(folder: &Path) -> Written {
    let contents = contents();
    let image = Image::pack(&contents, &origin()).expect("an image");
    write(&image, &contents, folder).expect("write it")
}

/// Runs a program, which must succeed, and gives what it prints.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {errors}", arguments.join(" "));
    String::from_utf8(output.stdout).expect("text")
}

fn json(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("JSON")
}

/// Every file below a folder with its content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let content = fs::read(&path).expect("a file");
                found.insert(path.strip_prefix(folder).expect("below it").to_owned(), content);
            }
        }
    }
    found
}

#[test]
fn the_same_contents_give_the_same_bytes_at_another_time_and_place() {
    let (one, other) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    written(one.path());
    written(other.path());
    // A second time into the same folder, too.
    written(other.path());
    assert!(files(one.path()) == files(other.path()), "the folders differ");
}

#[test]
fn another_program_gives_another_digest() {
    let mut contents = contents();
    let digest =
        |contents: &Contents| Image::pack(contents, &origin()).expect("an image").digest().to_owned();
    let before = digest(&contents);
    contents.program.push(0);
    assert_ne!(digest(&contents), before);
}

#[test]
fn every_blob_has_the_digest_and_the_size_that_its_descriptor_says() {
    let folder = TempDir::new().expect("a folder");
    let layout = written(folder.path()).layout;
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a digest").replace(':', "/");
        layout.join("blobs").join(digest)
    };
    let check = |descriptor: &Value| {
        let content = fs::read(blob(descriptor)).expect("a blob");
        let hex: Vec<_> =
            digest(&SHA256, &content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(descriptor["digest"], format!("sha256:{}", hex.concat()));
        assert_eq!(descriptor["size"], content.len());
    };
    let index = json(&layout.join("index.json"));
    let entry = &index["manifests"][0];
    check(entry);
    let manifest = json(&blob(entry));
    check(&manifest["config"]);
    check(&manifest["layers"][0]);
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1));
    let blobs = fs::read_dir(layout.join("blobs/sha256")).expect("blobs").count();
    assert_eq!(blobs, 3, "every blob is named by one that is");
}

#[test]
fn skopeo_reads_the_layout_and_the_archive_and_docker_s_form_of_it() {
    let folder = TempDir::new().expect("a folder");
    let written = written(folder.path());
    let version = env!("CARGO_PKG_VERSION");
    let copies = [
        (format!("oci:{}", written.layout.display()), "layout"),
        (format!("oci:{}:{version}", written.layout.display()), "tagged"),
        (format!("oci-archive:{}:{version}", written.archive.display()), "archive"),
        (format!("docker-archive:{}:federation-agent:{version}", written.archive.display()), "docker"),
    ];
    for (from, to) in copies {
        let said: Value =
            serde_json::from_str(&run("skopeo", &["inspect", "--config", &from])).expect("JSON");
        assert_eq!(said["architecture"], "amd64", "{from}");
        assert_eq!(said["os"], "linux", "{from}");
        assert_eq!(said["created"], CREATED, "{from}");
        assert_eq!(said["config"]["Entrypoint"], serde_json::json!(["/federation-agent"]), "{from}");
        assert_eq!(said["config"]["User"], "0", "{from}");
        let labels = &said["config"]["Labels"];
        assert_eq!(labels["org.opencontainers.image.version"], version, "{from}");
        assert_eq!(labels["org.opencontainers.image.revision"], REVISION, "{from}");
        assert_eq!(
            labels["org.opencontainers.image.licenses"], "Apache-2.0 AND (MIT OR GPL-2.0-only)",
            "{from}"
        );
        // Copying takes every blob in hand, and compares it with its digest.
        let to = format!("oci:{}:copy", folder.path().join(to).display());
        run("skopeo", &["--insecure-policy", "copy", &from, &to]);
    }
    let digest =
        run("skopeo", &["inspect", "--format", "{{.Digest}}", &format!("oci:{}", written.layout.display())]);
    let copied = format!("oci:{}:copy", folder.path().join("archive").display());
    assert_eq!(run("skopeo", &["inspect", "--format", "{{.Digest}}", &copied]), digest);
}

#[test]
fn unpacked_it_has_exactly_what_is_meant_to_be_there() {
    let folder = TempDir::new().expect("a folder");
    let layout = format!("{}:{}", written(folder.path()).layout.display(), env!("CARGO_PKG_VERSION"));
    let bundle = folder.path().join("bundle");
    run("umoci", &["unpack", "--image", &layout, &bundle.to_string_lossy()]);
    let root = bundle.join("rootfs");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            let about = fs::symlink_metadata(&path).expect("about it");
            let kind = if about.is_dir() { "d" } else { "-" };
            let name = path.strip_prefix(&root).expect("below it").display().to_string();
            let mode = about.permissions().mode() & 0o7777;
            found.push(format!("{kind} {mode:o} {}:{} {} /{name}", about.uid(), about.gid(), about.mtime()));
            if about.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort_by_key(|line| line[line.find('/').expect("a path")..].to_owned());
    let expected = [
        "d 755 /dev",
        "d 755 /etc",
        "d 755 /etc/federation",
        "- 755 /federation-agent",
        "d 755 /proc",
        "d 755 /run",
        "d 755 /sys",
        "d 1777 /tmp",
        "d 755 /usr",
        "d 755 /usr/share",
        "d 755 /usr/share/doc",
        "d 755 /usr/share/doc/federation-agent",
        "- 644 /usr/share/doc/federation-agent/federation-agent.spdx.json",
        "d 755 /var",
        "d 755 /var/lib",
        "d 755 /var/lib/federation",
    ];
    let expected = expected.map(|line| line.replace(" /", " 0:0 1795692079 /"));
    assert_eq!(found, expected);
    assert!(fs::read(root.join("federation-agent")).expect("the program") == contents().program);
}

#[test]
fn the_bill_lists_what_is_built_in_with_licences_and_checksums_and_nothing_that_only_builds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned();
    let folder = TempDir::new().expect("a folder");
    let sources = Sources { root, target: folder.path().join("target") };
    let program = b"\0rustc version 1.95.0 (0 2026-04-14)\0rustc version 1.96.0 (1)\0rustc version 1.95.0\0";
    let bill = bill::draw_up(&sources, &origin(), program).expect("a bill");
    assert!(bill == bill::draw_up(&sources, &origin(), program).expect("a bill"), "two bills differ");
    let bill: Value = serde_json::from_slice(&bill).expect("JSON");
    let packages = bill["packages"].as_array().expect("packages");
    let versions = |name: &str| -> Vec<&str> {
        packages
            .iter()
            .filter(|package| package["name"] == name)
            .map(|package| package["versionInfo"].as_str().expect("a version"))
            .collect()
    };
    for ours in ["federation-agent", "federation-ebpf"] {
        assert_eq!(versions(ours), [env!("CARGO_PKG_VERSION")], "{ours}");
    }
    for within in ["kube", "aya", "aya-ebpf", "rustls", "libc6-dev"] {
        assert_eq!(versions(within).len(), 1, "{within} in {packages:?}");
    }
    assert_eq!(versions("rust-std"), ["1.95.0", "1.96.0"]);
    for without in ["federation-image", "federation-tests", "proptest", "aya-build", "serde_derive", "syn"] {
        assert!(versions(without).is_empty(), "{without} is no part of the program");
    }
    for package in packages {
        assert_ne!(package["licenseDeclared"], "NOASSERTION", "{package}");
        let foreign = ["libc6-dev", "libgcc-12-dev", "rust-std"];
        let name = package["name"].as_str().expect("a name");
        if !name.starts_with("federation-") && !foreign.contains(&name) {
            assert_eq!(
                package["checksums"][0]["checksumValue"].as_str().map(str::len),
                Some(64),
                "{package}"
            );
        }
    }
    let relations = bill["relationships"].as_array().expect("relations");
    let known =
        |id: &Value| *id == "SPDXRef-DOCUMENT" || packages.iter().any(|package| package["SPDXID"] == *id);
    for relation in relations {
        assert!(known(&relation["spdxElementId"]) && known(&relation["relatedSpdxElement"]), "{relation}");
    }
    let ids: std::collections::BTreeSet<_> =
        packages.iter().map(|package| package["SPDXID"].as_str()).collect();
    assert_eq!(ids.len(), packages.len(), "every package has an identifier of its own");
}
