//! Findings, as rows of a table or as JSON.

use std::fmt;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::cli::{show::print, table::Table};

/// How a thing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Verdict {
    #[serde(rename = "pass")]
    Pass,
    #[serde(rename = "warn")]
    Warn,
    #[serde(rename = "FAIL")]
    Fail,
    #[serde(rename = "skip")]
    Skip,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    pub check: String,
    pub result: Verdict,
    pub found: String,
    /// Empty where there is nothing to do, or `found` says it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

#[derive(Debug, Default)]
pub(super) struct Report {
    rows: Vec<Row>,
}

impl Row {
    pub(super) fn pass(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Pass, found, "")
    }

    pub(super) fn warn(
        check: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(check, Verdict::Warn, found, remedy)
    }

    pub(super) fn fail(
        check: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(check, Verdict::Fail, found, remedy)
    }

    pub(super) fn skip(check: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(check, Verdict::Skip, why, "")
    }

    fn new(
        check: impl Into<String>,
        result: Verdict,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { check: check.into(), result, found: found.into(), remedy: remedy.into() }
    }
}

impl Report {
    pub(super) fn extend(&mut self, rows: impl IntoIterator<Item = Row>) {
        self.rows.extend(rows);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.rows.iter().any(|row| row.result == Verdict::Fail)
    }

    pub(super) fn print(&self, json: bool) -> Result<()> {
        if json {
            let text = serde_json::to_string_pretty(&self.rows).context("write the findings as JSON")?;
            return print(&format!("{text}\n"));
        }
        let mut table = Table::new(["CHECK", "RESULT", "FOUND"]);
        for row in &self.rows {
            let found = match row.remedy.as_str() {
                "" => row.found.clone(),
                remedy => format!("{}: {remedy}", row.found),
            };
            table.row([row.check.clone(), row.result.to_string(), found]);
        }
        print(&table.to_string())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::Skip => "skip",
        })
    }
}
