//! `pbm version`.

use crate::cmd::io::output::{Format, Report};
use crate::model::build::{self, Build};
use clap::Args;
use serde::Serialize;

/// Print the version
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Only the number
    #[arg(short, long)]
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

/// A part of it; in JSON under the name that it has in the whole.
#[derive(Debug, Serialize)]
enum Part {
    Version(&'static str),
    GitCommit(&'static str),
}

impl Report for Part {
    fn text(&self) -> String {
        match self {
            Self::Version(text) | Self::GitCommit(text) => (*text).to_owned(),
        }
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
        if self.commit {
            out.print(&Part::GitCommit(version.git_commit));
        } else if self.short {
            out.print(&Part::Version(version.version));
        } else {
            out.print(&version);
        }
    }
}
