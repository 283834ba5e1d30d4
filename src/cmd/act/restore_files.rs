//! `pbm restore` of a physical backup: the plan in words, and the following on the storage.

use crate::archive::filelist;
use crate::cmd::io::{
    context::Context,
    error::{CliError, Result},
    output::Report,
    storage, units,
};
use crate::datafiles::download;
use crate::layout::{self, ReplsetLayout};
use crate::model::{agent::AgentStat, backup::BackupMeta, config::StorageConf};
use crate::printable;
use crate::restore::plan::slices;
use crate::storage::{Storage, read_all};
use bson::Timestamp;
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;

/// How long the agents have to connect again.
const BACK: Duration = Duration::from_secs(30);

/// What a restore of files would do.
#[derive(Debug, Serialize)]
pub struct FilesPlan {
    backup: String,
    #[serde(rename = "restoreTo")]
    restore_to: String,
    replsets: Vec<Part>,
    /// Where it lies, for people.
    #[serde(skip)]
    place: String,
    /// Stored bytes.
    #[serde(skip)]
    stored: i64,
    #[serde(skip)]
    fallback: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Part {
    rs: String,
    files: usize,
    bytes: u64,
    /// Each mongod that is stopped and started again.
    stops: Vec<String>,
}

/// Makes the plan, from the lists of files on the storage.
///
/// # Errors
/// An object of the backup is missing, or the storage can't be read.
pub async fn plan(
    cx: &Context,
    place: &StorageConf,
    backup: &BackupMeta,
    target: Option<Timestamp>,
    fallback: Option<bool>,
) -> Result<FilesPlan> {
    if cx.cluster().await?.sharded {
        return Err(CliError::refused("physical backups of sharded clusters are not supported yet by this release"));
    }
    let store = storage::open_here(place).await?;
    let now = cx.control.cluster_time().await?;
    let agents = cx.control.agents.alive(now).await?;
    let mut replsets = Vec::new();
    for part in &backup.replsets {
        replsets.push(of_part(store.as_ref(), backup, &part.name, &agents).await?);
    }
    Ok(FilesPlan {
        backup: backup.name.clone(),
        restore_to: target.map_or_else(|| units::rfc3339(i64::from(backup.last_write_ts.time)), slices::moment),
        replsets,
        place: storage::path(place),
        stored: backup.size,
        fallback,
    })
}

/// Waits until as many agents as before have connected to the restored set, so that the next command finds them. The
/// restore does not need them any more: if one is missing, `pbm status` shows it.
pub async fn agents_are_back(cx: &Context, before: usize) {
    let since = Instant::now();
    while since.elapsed() < BACK {
        let mut waiter = cx.control.bell.waiter();
        if let Ok(agents) = cx.control.agents.all().await
            && agents.len() >= before
        {
            return;
        }
        waiter.next().await;
    }
}

async fn of_part(store: &dyn Storage, backup: &BackupMeta, rs: &str, agents: &[AgentStat]) -> Result<Part> {
    let refuse = |why: String| CliError::refused(format!("backup '{}' can't be restored: {why}", backup.name));
    let object = layout::filelist(&backup.name, rs);
    let list = read_all(store, &object, filelist::LARGEST).await.map_err(|error| refuse(error.to_string()))?;
    let files = filelist::read(&list).map_err(|error| refuse(format!("'{object}' is damaged: {error:#}")))?;
    let layout = ReplsetLayout::new(&backup.name, rs, backup.compression);
    download::check(store, &layout, &files).await.map_err(|error| refuse(format!("{error:#}")))?;
    let mut stops: Vec<String> = agents.iter().map(|agent| format!("{} ({})", agent.n, agent.state)).collect();
    stops.sort();
    Ok(Part { rs: rs.to_owned(), files: files.len(), bytes: download::total(&files), stops })
}

impl Report for FilesPlan {
    fn text(&self) -> String {
        let mut lines = vec![
            format!("Restore of backup {}:", self.backup),
            "  type:         physical".to_owned(),
            format!("  restore time: {}", self.restore_to),
            format!("  size:         {} on {}", units::size(self.stored), self.place),
        ];
        for part in &self.replsets {
            let bytes = units::size(i64::try_from(part.bytes).unwrap_or(i64::MAX));
            lines.push(format!("  files:        {} of {}, {bytes}", part.files, part.rs));
            lines.push(format!("  stops:        mongod on {}; it is started again", part.stops.join(", ")));
        }
        lines.push(format!("  old data:     {}", self.old_data()));
        lines.push(
            "All data of the cluster is replaced, users and roles too. It can't be reached while the files are replaced."
                .to_owned(),
        );
        lines.iter().map(|line| printable::line(line)).collect::<Vec<_>>().join("\n")
    }
}

impl FilesPlan {
    fn old_data(&self) -> &'static str {
        match self.fallback {
            Some(true) => "is kept beside the new data until the set is up again, and put back if that fails",
            Some(false) => "is removed first: if the restore fails, it is lost",
            None => {
                "is kept until the set is up again on each node with room for old and new data; else it is removed first"
            }
        }
    }
}
