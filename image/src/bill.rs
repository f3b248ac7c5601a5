//! The bill of materials: every crate of the program and of what it loads into the kernel, and what the toolchain puts
//! beside them, as an SPDX 2.3 document (ISO/IEC 5962).
//!
//! cargo itself says what is in: the dependencies of the one package that is built, with the features that it is built
//! with, less what serves only to build.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    NAME, Origin, Sources,
    origin::ask,
    program::{self, TARGET},
    root::PROGRAM,
    tree::{Crate, Tree, checksums},
};

/// What runs in the kernel, and what that is built for.
const KERNEL: (&str, &str) = ("federation-ebpf", "bpfel-unknown-none");

/// Archives of the C toolchain that a static program takes code from, with what that code is under.
const ARCHIVES: [(&str, &str); 2] =
    [("libc.a", "LGPL-2.1-or-later"), ("libgcc_eh.a", "GPL-3.0-or-later WITH GCC-exception-3.1")];

/// Rust's standard library.
const RUST: &str = "MIT OR Apache-2.0";

const DOCUMENT: &str = "SPDXRef-DOCUMENT";

/// The document, for a program built from these sources.
pub fn draw_up(sources: &Sources, origin: &Origin, program: &[u8]) -> Result<Vec<u8>> {
    let lock = sources.root.join("Cargo.lock");
    let lock = fs::read_to_string(&lock).with_context(|| format!("read {}", lock.display()))?;
    let mut tree = Tree::default();
    for (package, target) in [(PROGRAM, TARGET), KERNEL] {
        let listing = list(sources, package, target)?;
        tree.read(&listing).with_context(|| format!("read what goes into {package}"))?;
    }
    let ours = Crate { name: PROGRAM.to_owned(), version: origin.version.clone() };
    let (packages, relations) = describe(&tree, &checksums(&lock), &ours, toolchain(program)?);
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": format!("{NAME}-{}", origin.version),
        "documentNamespace":
            format!("https://federation.dev/spdx/{NAME}/{}/{}", origin.version, origin.revision),
        "creationInfo": { "created": origin.created, "creators": ["Tool: cargo-xtask-image"] },
        "packages": packages,
        "relationships": relations,
    });
    Ok(format!("{document:#}\n").into_bytes())
}

/// Something that is no crate: its SPDX package.
struct Foreign {
    id: String,
    package: Value,
}

/// The packages, and how they hang together.
fn describe(
    tree: &Tree,
    checksums: &BTreeMap<Crate, String>,
    ours: &Crate,
    toolchain: Vec<Foreign>,
) -> (Vec<Value>, Vec<Value>) {
    let mut packages = Vec::new();
    let mut relations = vec![relation(DOCUMENT, "DESCRIBES", &id_of(ours))];
    for (id, license) in &tree.licenses {
        let mut package = package(&id_of(id), &id.name, &id.version, license);
        if let Some(checksum) = checksums.get(id) {
            package["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": checksum }]);
            package["externalRefs"] = purl(&format!("pkg:cargo/{}@{}", id.name, id.version));
        }
        packages.push(package);
    }
    for (from, to) in &tree.edges {
        relations.push(relation(&id_of(from), "DEPENDS_ON", &id_of(to)));
    }
    for Foreign { id, package } in toolchain {
        relations.push(relation(&id_of(ours), "STATIC_LINK", &id));
        packages.push(package);
    }
    (packages, relations)
}

/// What goes into a package for a target: a line each, with its depth, name, version and licence.
fn list(sources: &Sources, package: &str, target: &str) -> Result<String> {
    let mut cargo = program::cargo(sources);
    cargo.args(["tree", "--locked", "--package", package, "--target", target]);
    ask(cargo.args(["--edges", "normal,no-proc-macro", "--prefix", "depth", "--format", "{p}\t{l}"]))
}

/// What compilers and linker have put in.
fn toolchain(program: &[u8]) -> Result<Vec<Foreign>> {
    let mut foreign = Vec::new();
    for version in compilers(program)? {
        let id = spdx_id(&format!("rust-std-{version}"));
        let package = package(&id, "rust-std", &version, RUST);
        foreign.push(Foreign { id, package });
    }
    for (archive, license) in ARCHIVES {
        let path = ask(Command::new("cc").arg(format!("-print-file-name={archive}")))?;
        let path = Path::new(&path).canonicalize().with_context(|| format!("find {archive}"))?;
        let owner = ask(Command::new("dpkg-query").arg("--search").arg(&path))
            .with_context(|| format!("ask Debian whose {} is", path.display()))?;
        let name = owner.split([':', ' ']).next().unwrap_or_default();
        let version = ask(Command::new("dpkg-query").args(["--show", "--showformat", "${Version}", name]))?;
        let id = spdx_id(&format!("debian-{name}-{version}"));
        let mut package = package(&id, name, &version, license);
        package["externalRefs"] = purl(&format!("pkg:deb/debian/{name}@{version}"));
        foreign.push(Foreign { id, package });
    }
    Ok(foreign)
}

/// The versions of the compilers that wrote the program and what it loads: they sign both.
fn compilers(program: &[u8]) -> Result<BTreeSet<String>> {
    const SIGNATURE: &[u8] = b"rustc version ";
    let mut versions = BTreeSet::new();
    for (at, _) in program.windows(SIGNATURE.len()).enumerate().filter(|(_, bytes)| *bytes == SIGNATURE) {
        let rest = program[at + SIGNATURE.len()..].iter();
        let version: Vec<u8> =
            rest.copied().take_while(|byte| byte.is_ascii_alphanumeric() || b".-".contains(byte)).collect();
        versions.insert(String::from_utf8(version).context("read a compiler's signature")?);
    }
    Ok(versions)
}

fn package(id: &str, name: &str, version: &str, license: &str) -> Value {
    json!({
        "SPDXID": id,
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": license,
        "copyrightText": "NOASSERTION",
    })
}

/// By which scanners look for what is known about a package.
fn purl(locator: &str) -> Value {
    json!([{ "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": locator }])
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

fn id_of(id: &Crate) -> String {
    spdx_id(&format!("{}-{}", id.name, id.version))
}

/// Identifiers have letters, digits, dots and dashes, no more.
fn spdx_id(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    format!("SPDXRef-{}", name.chars().map(allowed).collect::<String>())
}
