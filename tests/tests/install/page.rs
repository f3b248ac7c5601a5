//! A page of the documentation, as somebody reads it who types what it says.

use std::{collections::VecDeque, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use federation_tests::{
    federation::PATIENCE,
    lab::{Lab, MARK, Namespace, program},
};
use tokio::time::timeout;

/// A page whose commands are run section by section.
pub struct Page<'a> {
    /// Heading and commands, of what has not been run yet.
    blocks: VecDeque<(String, String)>,
    folder: PathBuf,
    namespace: Namespace,
    lab: &'a Lab,
}

/// The blocks of commands in `text`, each with the heading that it stands under.
fn blocks(text: &str) -> VecDeque<(String, String)> {
    let mut blocks = VecDeque::new();
    let (mut heading, mut open) = (String::new(), None::<String>);
    for line in text.lines() {
        match (&mut open, line) {
            (None, "```sh") => open = Some(String::new()),
            (Some(_), "```") => blocks.extend(open.take().map(|block| (heading.clone(), block))),
            (Some(block), line) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, line) => {
                if let Some(title) = line.strip_prefix("## ") {
                    title.clone_into(&mut heading);
                }
            }
        }
    }
    blocks
}

impl<'a> Page<'a> {
    /// A reader in `folder`, on a machine of the lab.
    pub fn new(text: &str, folder: PathBuf, namespace: &Namespace, lab: &'a Lab) -> Self {
        Self { blocks: blocks(text), folder, namespace: namespace.clone(), lab }
    }

    /// Runs what stands under a heading, which is the next that has commands.
    ///
    /// # Errors
    /// A command fails: with all that was said.
    pub async fn run(&mut self, heading: &str) -> Result<()> {
        let next = self.blocks.front().map(|(heading, _)| heading.as_str());
        ensure!(
            next == Some(heading),
            "the next commands of the page are those of {next:?}, not {heading:?}"
        );
        while let Some((_, block)) = self.blocks.pop_front_if(|(of, _)| of == heading) {
            let outcome = self.shell(&block).await.with_context(|| format!("the commands under {heading:?}"));
            outcome.map_err(|error| error.context(self.lab.logs()))?;
        }
        Ok(())
    }

    /// Runs commands as if they stood on the page.
    pub async fn shell(&self, block: &str) -> Result<String> {
        // What one block defines, later ones use.
        let script = format!("touch functions; source ./functions\n{block}\ndeclare -f > functions");
        let mut command = self.namespace.command("bash");
        command.args(["-euxo", "pipefail", "-c", &script]).current_dir(&self.folder);
        command.env("HOME", &self.folder).env(MARK, self.lab.id().to_string());
        let own = program("federation-agent")?;
        let own = own.parent().context("a program without a folder")?.display().to_string();
        let path = std::env::var("PATH").context("PATH is not set")?;
        command.env("PATH", format!("{own}:{path}"));
        let output = tokio::process::Command::from(command).kill_on_drop(true).output();
        let output = timeout(PATIENCE * 2, output).await.context("it does not end")??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (said, errors) = (text(&output.stdout), text(&output.stderr));
        ensure!(output.status.success(), "{}:\n{said}{errors}", output.status);
        Ok(said)
    }

    /// Everything of the page was run.
    pub fn ends(&self) -> Result<()> {
        ensure!(self.blocks.is_empty(), "not run: {:?}", self.blocks);
        Ok(())
    }
}
