//! Whether others come to the same bytes: the same commit, built a second time in another folder from nothing.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use object::{Object as _, ObjectSection as _, read::elf::ElfFile64};

use crate::{Contents, Image, Sources, build, origin};

/// What surrounds the first difference is shown to this length, in bytes.
const GLIMPSE: usize = 60;

/// Builds again in `folder`, and compares.
///
/// # Errors
/// The sources are not those of their commit, so that nobody could build them elsewhere; or the second image is another
/// one, and where it first differs.
pub fn again(sources: &Sources, first: (&Image, &Contents), folder: &Path) -> Result<()> {
    ensure!(
        origin::is_clean(&sources.root)?,
        "what is built twice is a commit, and files here differ from theirs: commit them first"
    );
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    let again = Sources { root: folder.join("sources"), target: folder.join("target") };
    let (from, to) = (sources.root.to_string_lossy(), again.root.to_string_lossy());
    origin::git(&sources.root, &["clone", "--quiet", "--shared", &from, &to])?;
    let (second, contents) = build(&again)?;
    let (image, expected) = first;
    if second.digest() == image.digest() {
        return fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()));
    }
    let what = difference(expected, &contents).unwrap_or_else(|| "the image's description".to_owned());
    anyhow::bail!(
        "the second build is another image, {}: {what} (it is left in {}, to compare)",
        second.digest(),
        folder.display()
    )
}

/// Where the contents differ first.
fn difference(first: &Contents, second: &Contents) -> Option<String> {
    if first.bill != second.bill {
        let lines =
            |bill: &[u8]| String::from_utf8_lossy(bill).lines().map(str::to_owned).collect::<Vec<_>>();
        let (first, second) = (lines(&first.bill), lines(&second.bill));
        let line = first.iter().zip(&second).position(|(one, other)| one != other);
        let line = line.unwrap_or(first.len().min(second.len()));
        return Some(format!("the bill of materials differs from line {} on", line + 1));
    }
    let (first, second) = (&first.program, &second.program);
    let at = (0..first.len().max(second.len())).find(|at| first.get(*at) != second.get(*at))?;
    let glimpse = |program: &[u8]| {
        let start = at.saturating_sub(GLIMPSE / 2).min(program.len());
        program[start..(start + GLIMPSE).min(program.len())].escape_ascii().to_string()
    };
    Some(format!(
        "the program differs from byte {at} on, in {}: {:?} here, {:?} there; {} bytes here, {} there",
        section(first, at).unwrap_or_else(|| "no section".to_owned()),
        glimpse(first),
        glimpse(second),
        first.len(),
        second.len(),
    ))
}

/// The section of a program that has the byte.
fn section(program: &[u8], at: usize) -> Option<String> {
    let file = ElfFile64::<object::Endianness>::parse(program).ok()?;
    let has = |range: (u64, u64)| (range.0..range.0 + range.1).contains(&(at as u64));
    let section = file.sections().find(|section| section.file_range().is_some_and(has))?;
    section.name().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named_with_its_section() {
        let program = fs::read("/proc/self/exe").expect("this program");
        let file = ElfFile64::<object::Endianness>::parse(program.as_slice()).expect("a program");
        let text = file.section_by_name(".text").expect("code");
        let start = usize::try_from(text.file_range().expect("in the file").0).expect("an offset");
        let mut other = program.clone();
        other[start] ^= 1;
        let contents = |program: &[u8], bill: &str| Contents { program: program.to_vec(), bill: bill.into() };
        let here = contents(&program, "one\ntwo\n");
        assert_eq!(difference(&here, &here), None);
        let said = difference(&here, &contents(&other, "one\ntwo\n")).expect("a difference");
        assert!(said.starts_with(&format!("the program differs from byte {start} on, in .text: ")), "{said}");
        let said = difference(&here, &contents(&program, "one\nthree\n"));
        assert_eq!(said.as_deref(), Some("the bill of materials differs from line 2 on"));
    }
}
