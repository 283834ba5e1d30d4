//! `pbm doctor`: is everything there that backups and restores need? A green and red list; changes nothing.

use crate::cmd::io::{
    context::Context,
    error::{CliError, Kind, Result},
    output::Report,
};
use crate::preflight::{self, Finding, Verdict, gather::Depth};
use clap::Args;
use serde::Serialize;
use std::{collections::HashMap, io::IsTerminal, time::Duration};

/// How long a member has to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Check everything that backups and restores need, and change nothing
///
/// Connections to every member, the user's privileges, versions, agents (missing, lost, or two on one node), the storage as
/// every agent has tried it (write, read, list, delete) and the room there, clocks, the oplog's window, the slicing of the
/// oplog, and operations that are stuck. Exits with 2 when a check fails.
#[derive(Debug, Args)]
pub struct Doctor {}

/// The whole list.
#[derive(Debug, Serialize)]
struct Examination {
    ok: bool,
    checks: Vec<Finding>,
    #[serde(skip)]
    coloured: bool,
}

impl Doctor {
    /// Runs the subcommand.
    pub async fn run(self, cx: &Context) -> Result<()> {
        let facts = cx.asker(PATIENCE, Depth::Full).everything().await;
        let checks = preflight::judge(&facts);
        let count = |verdict| checks.iter().filter(|it: &&Finding| it.verdict == verdict).count();
        let failed = count(Verdict::Failure);
        let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
        cx.out.print(&Examination { ok: failed == 0, checks, coloured });
        if failed == 0 {
            return Ok(());
        }
        let checks = if failed == 1 { "check has" } else { "checks have" };
        Err(CliError::new(Kind::Attention, format!("{failed} {checks} failed"))
            .hint("do what is said below each of them, then run `pbm doctor` again"))
    }
}

/// The word and its colour.
const fn word(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Ok => ("ok  ", "\x1b[32m"),
        Verdict::Warning => ("warn", "\x1b[33m"),
        Verdict::Failure => ("FAIL", "\x1b[31m"),
    }
}

impl Report for Examination {
    fn text(&self) -> String {
        let width = |text: fn(&Finding) -> usize| self.checks.iter().map(text).max().unwrap_or(0);
        let (name, subject) = (width(|it| it.check.name().len()), width(|it| it.subject.len()));
        let mut lines = Vec::new();
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for it in &self.checks {
            let (word, colour) = word(it.verdict);
            *counts.entry(word).or_default() += 1;
            let word = if self.coloured { format!("{colour}{word}\x1b[0m") } else { word.to_owned() };
            lines.push(format!("{word}  {:name$}  {:subject$}  {}", it.check.name(), it.subject, it.detail));
            lines.extend(it.next.iter().map(|next| format!("      next: {next}")));
        }
        let count = |verdict| counts.get(word(verdict).0).copied().unwrap_or(0);
        let (ok, warnings, failures) = (count(Verdict::Ok), count(Verdict::Warning), count(Verdict::Failure));
        lines.push(format!("{ok} ok, {warnings} warnings, {failures} failed"));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Check;

    #[test]
    fn a_list_for_people_and_one_for_programs() {
        let checks = vec![
            Finding::ok(Check::Clock, "cluster", "all within 5 s"),
            Finding::failure(Check::Agent, "rs0/h:1", "no pbm-agent runs here").next("start it"),
        ];
        let mut list = Examination { ok: false, checks, coloured: false };
        let text = "ok    clock  cluster  all within 5 s\n\
                    FAIL  agent  rs0/h:1  no pbm-agent runs here\n      next: start it\n1 ok, 0 warnings, 1 failed";
        assert_eq!(list.text(), text);
        assert_eq!(
            serde_json::to_string(&list).expect("json"),
            r#"{"ok":false,"checks":[{"check":"clock","subject":"cluster","verdict":"ok","detail":"all within 5 s"},{"check":"agent","subject":"rs0/h:1","verdict":"failure","detail":"no pbm-agent runs here","next":"start it"}]}"#
        );
        list.coloured = true;
        assert!(list.text().contains("\u{1b}[31mFAIL\u{1b}[0m"));
    }
}
