//! `pbm version`.

use super::output::{Format, Report};
use crate::model::names::PBM_VERSION;
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

/// With the original's keys. `Version` is the release whose formats we keep: that is what programs compare.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Version {
    pub version: &'static str,
    platform: String,
    pub git_commit: &'static str,
    pub git_branch: &'static str,
    pub build_time: &'static str,
    go_version: &'static str,
}

impl Report for Version {
    fn text(&self) -> String {
        format!(
            "Version:   {} (pbmbox {})\nPlatform:  {}\nGitCommit: {}\nGitBranch: {}\nBuildTime: {}",
            self.version,
            env!("CARGO_PKG_VERSION"),
            self.platform,
            self.git_commit,
            self.git_branch,
            self.build_time
        )
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
        let version = current();
        if self.short {
            out.print(&Word(version.version));
        } else if self.commit {
            out.print(&Word(version.git_commit));
        } else {
            out.print(&version);
        }
    }
}

/// This program's.
pub fn current() -> Version {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Version {
        version: PBM_VERSION,
        platform: format!("{}/{arch}", std::env::consts::OS),
        git_commit: option_env!("PBMBOX_GIT_COMMIT").unwrap_or_default(),
        git_branch: option_env!("PBMBOX_GIT_BRANCH").unwrap_or_default(),
        build_time: option_env!("PBMBOX_BUILD_TIME").unwrap_or_default(),
        go_version: "",
    }
}
