//! What cargo says of crates: the tree that `cargo tree` prints, and the checksums of Cargo.lock.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    pub name: String,
    pub version: String,
}

/// Crates with their licences, and who depends on whom.
#[derive(Debug, Default)]
pub struct Tree {
    pub licenses: BTreeMap<Crate, String>,
    pub edges: BTreeSet<(Crate, Crate)>,
}

impl Tree {
    /// Adds a tree as `cargo tree --prefix depth --format "{p}\t{l}"` prints it.
    pub fn read(&mut self, listing: &str) -> Result<()> {
        let mut above: Vec<Crate> = Vec::new();
        for line in listing.lines() {
            let (depth, id, license) = read(line).with_context(|| format!("understand {line:?}"))?;
            above.truncate(depth);
            if let Some(parent) = above.last() {
                self.edges.insert((parent.clone(), id.clone()));
            }
            self.licenses.insert(id.clone(), license);
            above.push(id);
        }
        Ok(())
    }
}

/// Depth, crate and licence of a line.
fn read(line: &str) -> Option<(usize, Crate, String)> {
    let (package, license) = line.split_once('\t')?;
    let name = package.trim_start_matches(|c: char| c.is_ascii_digit());
    let depth = package[..package.len() - name.len()].parse().ok()?;
    let mut words = name.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    // Where the tree goes on below an earlier line of the same crate.
    let license = license.trim_end_matches(" (*)");
    Some((depth, Crate { name: name.to_owned(), version: version.to_owned() }, expression(license)))
}

/// An SPDX expression: older manifests write a slash for "or". "Or later" is in the text of the MPL itself (10.2), and
/// validators know no licence of that name.
fn expression(license: &str) -> String {
    let choices: Vec<_> =
        license.split('/').map(|choice| choice.trim().replace("MPL-2.0+", "MPL-2.0")).collect();
    let expression = choices.join(" OR ");
    if expression.is_empty() { "NOASSERTION".to_owned() } else { expression }
}

/// The checksum of every crate that comes from a registry, by Cargo.lock.
pub fn checksums(lock: &str) -> BTreeMap<Crate, String> {
    let field = |package: &str, name: &str| {
        let value = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
        value.map(|value| value.trim_matches('"').to_owned())
    };
    let packages = lock.split("[[package]]").filter_map(|package| {
        let id = Crate { name: field(package, "name")?, version: field(package, "version")? };
        Some((id, field(package, "checksum")?))
    });
    packages.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str, version: &str) -> Crate {
        Crate { name: name.to_owned(), version: version.to_owned() }
    }

    #[test]
    fn a_tree_tells_licences_and_who_depends_on_whom() {
        let mut tree = Tree::default();
        let listing = "0agent v0.1.0 (/somewhere)\tApache-2.0\n\
                       1http v1.5.0\tMIT/Apache-2.0\n\
                       2itoa v1.0.19\tMIT OR Apache-2.0\n\
                       1axum v0.8.9\tMIT\n\
                       2http v1.5.0\tMIT/Apache-2.0 (*)\n\
                       1nameless v0.1.0\t\n\
                       1roots v0.9.0\tMPL-2.0+\n";
        tree.read(listing).expect("a listing");
        let (agent, http) = (id("agent", "0.1.0"), id("http", "1.5.0"));
        let edges = [
            (agent.clone(), id("axum", "0.8.9")),
            (agent.clone(), http.clone()),
            (agent.clone(), id("nameless", "0.1.0")),
            (agent, id("roots", "0.9.0")),
            (id("axum", "0.8.9"), http.clone()),
            (http.clone(), id("itoa", "1.0.19")),
        ];
        assert_eq!(tree.edges, BTreeSet::from(edges));
        assert_eq!(tree.licenses[&http], "MIT OR Apache-2.0");
        assert_eq!(tree.licenses[&id("nameless", "0.1.0")], "NOASSERTION");
        assert_eq!(tree.licenses[&id("roots", "0.9.0")], "MPL-2.0");
        assert!(tree.read("warning: something").is_err());
    }

    #[test]
    fn only_what_comes_from_a_registry_has_a_checksum() {
        let lock = "version = 4\n\n[[package]]\nname = \"http\"\nversion = \"1.5.0\"\nsource = \"elsewhere\"\n\
                    checksum = \"abc\"\ndependencies = [\n \"itoa\",\n]\n\n[[package]]\nname = \"ours\"\n\
                    version = \"0.1.0\"\n";
        assert_eq!(checksums(lock), BTreeMap::from([(id("http", "1.5.0"), "abc".to_owned())]));
    }
}
