//! `pbm version`.

use super::output::{Format, Report};
use crate::model::build::{self, Build};
use clap::Args;
use serde::Serialize;

/// Print the version
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Only the number
    #[arg(short, long, conflicts_with = "commit")]
    short: bool,
    /// Only the commit
    #[arg(short, long)]
    commit: bool,
}

impl Report for Build {
    fn text(&self) -> String {
        build::text(self)
    }
}

/// A single word; in JSON a string.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Word(&'static str);

impl Report for Word {
    fn text(&self) -> String {
        self.0.to_owned()
    }
}

impl VersionArgs {
    /// As another command line's options say.
    #[must_use]
    pub fn new(short: bool, commit: bool) -> Self {
        Self { short, commit }
    }

    /// Runs the subcommand.
    pub fn run(self, out: Format) {
        let version = build::current();
        if self.short {
            out.print(&Word(version.version));
        } else if self.commit {
            out.print(&Word(version.git_commit));
        } else {
            out.print(&version);
        }
    }
}
