//! The README's walk-through, word for word: its commands are run as they stand there, and print what stands there.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use federation_tests::{
    federation::{Federation, three_clusters},
    lab::{Lab, eventually},
};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
const SECTION: &str = "## With kubectl";

/// A command of the page, and what the page says that it prints.
#[derive(Debug, Default)]
struct Step {
    command: String,
    prints: String,
}

/// The steps of the page's section, in their order.
fn steps(page: &str) -> Result<Vec<Step>> {
    let (_, section) = page.split_once(SECTION).with_context(|| format!("there is no {SECTION}"))?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut steps: Vec<Step> = Vec::new();
    for block in section.split("```console\n").skip(1) {
        let (block, _) = block.split_once("```").context("a block that does not end")?;
        // The end of the input that a command is given, while it is.
        let mut until: Option<&str> = None;
        for line in block.lines() {
            if let Some(command) = line.strip_prefix("$ ").filter(|_| until.is_none()) {
                until = command.split_once("<<").map(|(_, end)| end.trim());
                steps.push(Step { command: format!("{command}\n"), ..Step::default() });
                continue;
            }
            let step = steps.last_mut().context("a block that begins without a command")?;
            let part = if until.is_some() { &mut step.command } else { &mut step.prints };
            part.push_str(line);
            part.push('\n');
            until = until.filter(|end| *end != line);
        }
    }
    Ok(steps)
}

impl Step {
    /// What only looks may be asked again until it is so, as a person would.
    fn looks(&self) -> bool {
        ["get", "wait", "describe"].iter().any(|verb| self.command.starts_with(&format!("kubectl {verb} ")))
    }

    fn run(&self, federation: &Federation) -> Result<()> {
        let mut shell = federation.hub().namespace().command("bash");
        let output = shell
            .args(["-c", &self.command])
            .env("KUBECONFIG", federation.kubeconfigs()?)
            .env("HOME", federation.lab().folder())
            .output()
            .context("run bash")?;
        let said = String::from_utf8([output.stdout, output.stderr].concat()).context("not text")?;
        ensure!(output.status.success(), "it fails: {said}");
        ensure!(is_as_on_the_page(&said, &self.prints), "it prints\n{said}instead of\n{}", self.prints);
        Ok(())
    }
}

/// The same words in the same lines; columns may be of another width, and times are what they are.
fn is_as_on_the_page(said: &str, page: &str) -> bool {
    let (said, page): (Vec<_>, Vec<_>) =
        (said.trim_end().lines().collect(), page.trim_end().lines().collect());
    said.len() == page.len()
        && said.iter().zip(page).all(|(said, page)| {
            let (said, page): (Vec<_>, Vec<_>) =
                (said.split_whitespace().collect(), page.split_whitespace().collect());
            said.len() == page.len()
                && said.iter().zip(page).all(|(said, page)| *said == page || (is_age(said) && is_age(page)))
        })
}

/// As kubectl prints how old something is: `12s`, `3m10s`.
fn is_age(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
        && word.ends_with(['s', 'm', 'h', 'd'])
        && word.chars().all(|c| c.is_ascii_digit() || "smhd".contains(c))
}

#[test]
fn a_page_is_read_as_it_is_written() -> Result<()> {
    let page = "x\n## With kubectl\n```console\n$ one\na\nb\n$ two <<END\ninput\nEND\nc\n```\n## More\n```console\n$ three\n```\n";
    let steps = steps(page)?;
    let steps: Vec<_> = steps.iter().map(|step| (step.command.as_str(), step.prints.as_str())).collect();
    assert_eq!(steps, [("one\n", "a\nb\n"), ("two <<END\ninput\nEND\n", "c\n")]);
    assert!(is_as_on_the_page("NAME   AGE\ncart   3m10s\n", "NAME AGE\ncart 5s\n"));
    for different in ["NAME AGE\ncarts 5s\n", "NAME AGE\n", "NAME AGE\ncart never\n"] {
        assert!(!is_as_on_the_page("NAME AGE\ncart 5s\n", different), "{different}");
    }
    Ok(())
}

#[tokio::test]
async fn a_person_who_knows_kubectl_walks_through_a_federation() -> Result<()> {
    let page = std::fs::read_to_string(Path::new(README)).context("read the README")?;
    let steps = steps(&page)?;
    ensure!(steps.len() > 10, "the page has {} commands", steps.len());
    let mut federation = Federation::start(Lab::new()?).await?;
    for spec in three_clusters() {
        federation.add_cluster(spec, 1).await?;
    }
    federation.register_all().await?;
    for step in &steps {
        let done = if step.looks() {
            eventually("it is as the page says", PATIENCE, async || step.run(&federation)).await
        } else {
            step.run(&federation)
        };
        done.with_context(|| step.command.clone())?;
    }
    Ok(())
}
