//! The operator's commands that make and remove a snapshot of the volume.

use crate::config::resolved::PhysicalSettings;
use crate::operation::Cx;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};
use tokio::process::Command;

/// Bytes of what a command printed that an error shows.
const SHOWN: usize = 400;

/// What the commands find in their environment.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub backup: String,
    pub rs: String,
    pub node: String,
    pub db_path: PathBuf,
}

impl Facts {
    pub fn of(cx: &Cx, db_path: &Path) -> Self {
        Self { backup: cx.name.clone(), rs: cx.rs.clone(), node: cx.me.clone(), db_path: db_path.to_owned() }
    }
}

/// A snapshot of the volume. It is removed when this value is dropped, if [`Snapshot::remove`] was not called.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// The data files in it.
    pub path: PathBuf,
    remove: Option<(String, Facts)>,
}

impl Snapshot {
    /// Runs the operator's command, which prints the path of the data files in the snapshot as its last line.
    ///
    /// # Errors
    /// The command fails, or names no folder.
    pub async fn make(settings: &PhysicalSettings, facts: Facts) -> Result<Self> {
        let command = settings.snapshot_command.as_deref().context("there is no backup.physical.snapshotCommand")?;
        let output = run(command, &facts, None).await.context("run backup.physical.snapshotCommand")?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let line = printed.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
        let path = PathBuf::from(line);
        ensure!(
            path.is_absolute() && path.is_dir(),
            "the last line that backup.physical.snapshotCommand printed is '{line}', which is no folder; it has to be the path of \
             the data files in the snapshot. If it made a snapshot, remove it"
        );
        // The command that removes the snapshot must never get a folder with the data of mongod in it.
        ensure!(
            !is_within(&facts.db_path, &path),
            "the last line that backup.physical.snapshotCommand printed is '{line}', which is or contains the dbPath itself; it has \
             to be the path of the data files in the snapshot. If it made a snapshot, remove it"
        );
        let remove = settings.remove_snapshot_command.clone().map(|command| (command, facts));
        Ok(Self { path, remove })
    }

    /// Runs the command that removes the snapshot.
    ///
    /// # Errors
    /// The command fails.
    pub async fn remove(mut self) -> Result<()> {
        let Some((command, facts)) = self.remove.take() else { return Ok(()) };
        let removed = run(&command, &facts, Some(&self.path)).await;
        removed.map(drop).context("run backup.physical.removeSnapshotCommand")
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let Some((command, facts)) = self.remove.take() else { return };
        let path = std::mem::take(&mut self.path);
        tokio::spawn(async move {
            if let Err(error) = run(&command, &facts, Some(&path)).await {
                tracing::warn!("run backup.physical.removeSnapshotCommand: {error:#}");
            }
        });
    }
}

/// Whether `folder` is `path` or contains it, also by another name.
fn is_within(path: &Path, folder: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(path).starts_with(real(folder))
}

/// Ends a command with everything that it has started.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs a command in a shell. It ends with the returned future.
async fn run(command: &str, facts: &Facts, snapshot: Option<&Path>) -> Result<Output> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    shell.env("PBM_BACKUP", &facts.backup).env("PBM_REPLSET", &facts.rs).env("PBM_NODE", &facts.node);
    shell.env("PBM_DBPATH", &facts.db_path);
    // The agent's own connection string is not the command's business.
    shell.env_remove("PBM_MONGODB_URI");
    if let Some(path) = snapshot {
        shell.env("PBM_SNAPSHOT", path);
    }
    let child = shell.spawn().context("start sh")?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let output = child.wait_with_output().await.context("wait for the command")?;
    group.0 = None;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said: String = said.trim().chars().take(SHOWN).collect();
        bail!(
            "the command ended with {}: {}",
            output.status,
            if said.is_empty() { "it printed no error" } else { &said }
        );
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn settings(make: &str, remove: Option<&str>) -> PhysicalSettings {
        PhysicalSettings {
            snapshot_command: Some(make.to_owned()),
            remove_snapshot_command: remove.map(str::to_owned),
            spool: None,
            max_lock: Duration::from_secs(60),
        }
    }

    fn facts(folder: &Path) -> Facts {
        Facts { backup: "b".into(), rs: "rs0".into(), node: "h:1".into(), db_path: folder.to_owned() }
    }

    #[tokio::test]
    async fn the_commands_know_what_they_work_on() {
        let folder = std::env::temp_dir().join(format!("pbmbox-hook-{:08x}", rand::random::<u32>()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let make =
            "echo working; mkdir \"$PBM_DBPATH/$PBM_BACKUP.$PBM_REPLSET.$PBM_NODE\" && echo \"$PBM_DBPATH/b.rs0.h:1\"";
        let both = settings(make, Some("rmdir \"$PBM_SNAPSHOT\""));
        let snapshot = Snapshot::make(&both, facts(&folder)).await.expect("a snapshot");
        assert_eq!(snapshot.path, folder.join("b.rs0.h:1"));
        let path = snapshot.path.clone();
        snapshot.remove().await.expect("removed");
        assert!(!path.exists());
        for (command, why) in [
            ("echo no disk >&2; exit 3", "exit status: 3: no disk"),
            ("echo relative", "'relative', which is no folder"),
            ("true", "'', which is no folder"),
            ("echo /", "'/', which is or contains the dbPath"),
            ("echo \"$PBM_DBPATH/.\"", "which is or contains the dbPath"),
        ] {
            let remove = "touch \"$PBM_DBPATH/removed\"";
            let failed = Snapshot::make(&settings(command, Some(remove)), facts(&folder)).await.expect_err(command);
            assert!(format!("{failed:#}").contains(why), "{failed:#}");
        }
        tokio::task::yield_now().await;
        assert!(!folder.join("removed").exists(), "nothing is removed that was not checked");
        std::fs::remove_dir_all(&folder).expect("clean up");
    }
}
