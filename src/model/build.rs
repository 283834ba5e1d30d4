//! What this executable is, as `version` tells it.

use super::names::PBM_VERSION;
use serde::Serialize;

/// What every program prints for `--version`.
pub const SHORT: &str = concat!("2.15.0 (pbmbox ", env!("CARGO_PKG_VERSION"), ")");

/// With the original's keys. `Version` is the release whose formats we keep: that is what programs compare.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Build {
    pub version: &'static str,
    pub platform: String,
    pub git_commit: &'static str,
    pub git_branch: &'static str,
    pub build_time: &'static str,
    go_version: &'static str,
}

/// This program's.
#[must_use]
pub fn current() -> Build {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Build {
        version: PBM_VERSION,
        platform: format!("{}/{arch}", std::env::consts::OS),
        git_commit: option_env!("PBMBOX_GIT_COMMIT").unwrap_or_default(),
        git_branch: option_env!("PBMBOX_GIT_BRANCH").unwrap_or_default(),
        build_time: option_env!("PBMBOX_BUILD_TIME").unwrap_or_default(),
        go_version: "",
    }
}

/// For people.
#[must_use]
pub fn text(of: &Build) -> String {
    format!(
        "Version:   {} (pbmbox {})\nPlatform:  {}\nGitCommit: {}\nGitBranch: {}\nBuildTime: {}",
        of.version,
        env!("CARGO_PKG_VERSION"),
        of.platform,
        of.git_commit,
        of.git_branch,
        of.build_time
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_version_is_told_everywhere() {
        assert!(SHORT.starts_with(PBM_VERSION));
        assert!(text(&current()).contains(SHORT));
    }
}
