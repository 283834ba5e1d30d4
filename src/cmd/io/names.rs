//! `pbm __names KIND`, which the completion scripts call: prints the names that can stand on the command line at this point.
//! It has a short time limit, and prints nothing if the cluster can't be asked.

use super::{context::Context, error::Result, launch, output, output::Format};
use crate::cli::pages::Names;
use std::{ffi::OsString, process::ExitCode, time::Duration};

/// Time limit: users don't wait longer for a completion after pressing a key.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The kind of names that a completion script asks for; `None` if the caller is no completion script.
pub fn asked_for(args: &[OsString]) -> Option<Names> {
    match args {
        [_, word, kind] if word == Names::SUBCOMMAND => Names::parse(kind.to_str()?),
        _ => None,
    }
}

/// Prints the names of a kind, one per line, the newest first.
pub fn print(kind: Names) -> ExitCode {
    let uri = std::env::var("PBM_MONGODB_URI").ok();
    let asked = launch::on_runtime(async {
        let names = tokio::time::timeout(PATIENCE, read(uri.as_deref(), kind)).await;
        names.ok().and_then(Result::ok).unwrap_or_default().iter().for_each(|name| output::line(name));
        Ok(())
    });
    asked.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

async fn read(uri: Option<&str>, kind: Names) -> Result<Vec<String>> {
    let control = Context::connect(uri, Format::Quiet).await?.control.clone();
    let mut names: Vec<String> = match kind {
        Names::Backups => control.backups.known_names().await?,
        Names::Restores => control.restores.known_names().await?,
        Names::Profiles => {
            let profiles = control.config.profiles().await?;
            profiles.into_iter().filter_map(|profile| profile.name).collect()
        }
        Names::Nodes => {
            let agents = control.agents.all().await?;
            agents.into_iter().map(|agent| format!("{}/{}", agent.rs, agent.n)).collect()
        }
    };
    names.sort_by(|a, b| b.cmp(a));
    // The scripts split the output into words, so names with white space are left out.
    names.retain(|name| !name.contains(|c: char| c.is_whitespace() || c.is_control()));
    Ok(names)
}
