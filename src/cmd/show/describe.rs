//! `pbm describe-backup` and `pbm describe-restore`: one record in full. The text is YAML of the same.

use crate::cmd::io::{
    context::Context,
    error::{CliError, Result},
    output::{Format, Report, yaml},
    selection, storage, units,
};
use crate::config;
use crate::model::{
    backup::{BackupMeta, BackupReplset, BackupType, Taking, Way},
    restore::{RestoreMeta, RestoreReplset},
    status::Status,
};
use crate::restore::physical::state;
use crate::storages::place;
use crate::upkeep::contents::inventory;
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;

/// Show one backup
#[derive(Debug, Args)]
pub struct DescribeBackup {
    /// Name of the backup, as `pbm list` shows it
    #[arg(value_name = "BACKUP", value_parser = selection::name)]
    backup_name: String,
    /// Also list its collections, read from the storage
    #[arg(long)]
    with_collections: bool,
}

/// Show one restore
#[derive(Debug, Args)]
pub struct DescribeRestore {
    /// Name of the restore, as `pbm list --restore` shows it
    #[arg(value_name = "RESTORE", value_parser = selection::name)]
    name: String,
    /// Read it from the storage of this configuration's file, also while no database runs
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct BackupView {
    name: String,
    /// *Added by us*.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_name: Option<String>,
    storage_type: String,
    opid: String,
    #[serde(rename = "type")]
    kind: BackupType,
    last_write_ts: i64,
    last_transition_ts: i64,
    last_write_time: String,
    last_transition_time: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    namespaces: Vec<String>,
    sel_user_and_roles: bool,
    mongodb_version: String,
    fcv: String,
    pbm_version: String,
    status: Status,
    size: i64,
    size_uncompressed: i64,
    size_h: String,
    size_uncompressed_h: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    replsets: Vec<ReplsetView>,
}

#[derive(Debug, Serialize)]
struct ReplsetView {
    name: String,
    status: Status,
    node: String,
    size: i64,
    size_uncompressed: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    size_h: String,
    size_uncompressed_h: String,
    last_write_ts: i64,
    last_transition_ts: i64,
    last_write_time: String,
    last_transition_time: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    configsvr: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    configshard: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// *Added by us*.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    collections: Option<Vec<String>>,
    /// *Added by us*.
    #[serde(skip_serializing_if = "Option::is_none")]
    physical: Option<TakingView>,
}

/// How the data files of a physical backup were taken.
#[derive(Debug, Serialize)]
struct TakingView {
    way: Way,
    /// In words.
    files: &'static str,
    /// Milliseconds.
    locked_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_ms: Option<i64>,
    copied_meanwhile_h: String,
}

impl TakingView {
    fn of(taking: &Taking) -> Self {
        Self {
            way: taking.way,
            files: taking.way.words(),
            locked_ms: taking.lock_ms,
            expected_ms: Some(taking.expected_ms).filter(|ms| *ms > 0),
            copied_meanwhile_h: units::size(taking.copied),
        }
    }
}

impl BackupView {
    fn of(backup: &BackupMeta) -> Self {
        let profile = backup.store.name.clone().filter(|_| backup.store.profile == Some(true));
        let last_write = i64::from(backup.last_write_ts.time);
        Self {
            name: backup.name.clone(),
            description: backup.description.clone(),
            storage_name: profile.clone(),
            profile,
            storage_type: backup.store.kind.clone(),
            opid: backup.opid.clone(),
            kind: backup.kind,
            last_write_ts: last_write,
            last_transition_ts: backup.last_transition_ts,
            last_write_time: units::rfc3339(last_write),
            last_transition_time: units::rfc3339(backup.last_transition_ts),
            namespaces: backup.nss.clone(),
            sel_user_and_roles: backup.sel_users_and_roles,
            mongodb_version: backup.mongodb_version.clone(),
            fcv: backup.fcv.clone(),
            pbm_version: backup.pbm_version.clone(),
            status: backup.status,
            size: backup.size,
            size_uncompressed: backup.size_uncompressed,
            size_h: units::size(backup.size),
            size_uncompressed_h: units::size(backup.size_uncompressed),
            error: given(backup.error.as_ref()),
            replsets: backup.replsets.iter().map(ReplsetView::of).collect(),
        }
    }
}

impl ReplsetView {
    fn of(rs: &BackupReplset) -> Self {
        let human = |bytes: i64| if bytes == 0 { String::new() } else { units::size(bytes) };
        let last_write = i64::from(rs.last_write_ts.time);
        Self {
            name: rs.name.clone(),
            status: rs.status,
            node: rs.node.clone(),
            size: rs.size,
            size_uncompressed: rs.size_uncompressed,
            size_h: human(rs.size),
            size_uncompressed_h: human(rs.size_uncompressed),
            last_write_ts: last_write,
            last_transition_ts: rs.last_transition_ts,
            last_write_time: units::rfc3339(last_write),
            last_transition_time: units::rfc3339(rs.last_transition_ts),
            configsvr: rs.iscs,
            configshard: rs.configshard,
            error: given(rs.error.as_ref()),
            left_out: rs.left_out.clone(),
            collections: None,
            physical: rs.physical.as_ref().map(TakingView::of),
        }
    }
}

fn given(error: Option<&String>) -> Option<String> {
    error.filter(|error| !error.is_empty()).cloned()
}

impl Report for BackupView {
    fn text(&self) -> String {
        for_people(self)
    }

    fn is_prose(&self) -> bool {
        false
    }
}

/// YAML without the fields that are only for programs: seconds and byte counts, which the output has in words too. It also
/// leaves out times that are not known yet, which programs get as 1970.
fn for_people(report: &impl Serialize) -> String {
    let mut value = match serde_json::to_value(report) {
        Ok(value) => value,
        Err(error) => return error.to_string(),
    };
    drop_numbers(&mut value);
    yaml(&value)
}

fn drop_numbers(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let unknown: Vec<String> = map
                .iter()
                .filter(|(_, value)| value.as_i64().is_some_and(|seconds| seconds <= 1))
                .filter_map(|(key, _)| Some(format!("{}_time", key.strip_suffix("_ts")?)))
                .collect();
            map.retain(|key, _| !unknown.contains(key));
            map.retain(|key, value| {
                let in_words =
                    key.ends_with("_ts") || key == "ts_to_restore" || key == "size" || key == "size_uncompressed";
                !(in_words && value.is_number())
            });
            map.values_mut().for_each(drop_numbers);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_numbers),
        _ => {}
    }
}

impl DescribeBackup {
    /// Runs the subcommand.
    pub async fn run(self, cx: &Context) -> Result<()> {
        let backup = cx.control.backups.get(&self.backup_name).await?.ok_or_else(|| {
            CliError::not_found(format!("there is no backup named {}", self.backup_name))
                .hint("`pbm status -s backups` shows all of them, failed ones too")
        })?;
        let mut view = BackupView::of(&backup);
        if self.with_collections {
            if backup.kind != BackupType::Logical {
                return Err(CliError::usage(format!("a {} backup has no list of collections", backup.kind)));
            }
            // Where the backup is, which need not be where new ones go; with the keys of today.
            let main = cx.control.config.main().await?.map_or_else(|| backup.store.clone(), |config| config.storage);
            let place = place::of_backup(&cx.control, &backup, &main).await?;
            let store = storage::open_here(&place).await?;
            for rs in &mut view.replsets {
                let found = storage::namespaces(store.as_ref(), &backup, &rs.name).await?;
                rs.collections = Some(found.iter().map(|ns| format!("{}.{}", ns.db, ns.coll)).collect());
            }
        }
        cx.out.print(&view);
        Ok(())
    }
}

#[derive(Debug, Serialize)]
struct RestoreView {
    name: String,
    opid: String,
    backup: String,
    #[serde(rename = "type")]
    kind: BackupType,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    namespaces: Vec<String>,
    start: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts_to_restore: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_to_restore: Option<String>,
    last_transition_ts: i64,
    last_transition_time: String,
    replsets: Vec<RestoreReplsetView>,
}

#[derive(Debug, Serialize)]
struct RestoreReplsetView {
    name: String,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    partial_txn: Option<Vec<Value>>,
    last_transition_ts: i64,
    last_transition_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl RestoreView {
    fn of(restore: &RestoreMeta) -> Self {
        let point = (restore.pitr > 0).then_some(restore.pitr);
        Self {
            name: restore.name.clone(),
            opid: restore.opid.clone(),
            backup: restore.backup.clone(),
            kind: restore.kind,
            status: restore.status,
            error: given(restore.error.as_ref()),
            namespaces: restore.nss.clone(),
            start: units::rfc3339(restore.start_ts),
            finish: (restore.status == Status::Done).then(|| units::rfc3339(restore.last_transition_ts)),
            ts_to_restore: point,
            time_to_restore: point.map(units::rfc3339),
            last_transition_ts: restore.last_transition_ts,
            last_transition_time: units::rfc3339(restore.last_transition_ts),
            replsets: restore.replsets.iter().map(RestoreReplsetView::of).collect(),
        }
    }
}

impl RestoreReplsetView {
    fn of(rs: &RestoreReplset) -> Self {
        let partial = rs.partial_txn.as_ref().filter(|all| !all.is_empty());
        Self {
            name: rs.name.clone(),
            status: rs.status,
            partial_txn: partial.map(|all| all.iter().filter_map(|it| serde_json::to_value(it).ok()).collect()),
            last_transition_ts: rs.last_transition_ts,
            last_transition_time: units::rfc3339(rs.last_transition_ts),
            error: given(rs.error.as_ref()),
        }
    }
}

impl Report for RestoreView {
    fn text(&self) -> String {
        for_people(self)
    }

    fn is_prose(&self) -> bool {
        false
    }
}

impl DescribeRestore {
    /// Whether it needs no server.
    pub const fn is_offline(&self) -> bool {
        self.config.is_some()
    }

    /// Runs the subcommand without a server.
    pub async fn run_offline(self, out: Format) -> Result<()> {
        let file = self.config.unwrap_or_default();
        let text = std::fs::read_to_string(&file)
            .map_err(|error| CliError::usage(format!("can't read {}: {error}", file.display())))?;
        let config = config::load(&text).map_err(|error| CliError::usage(format!("{}: {error}", file.display())))?;
        let store = storage::open_here(&config.storage).await?;
        let known = inventory::restores(store.as_ref(), true).await?.into_iter().find(|it| it.name == self.name);
        let recorded = known.is_some();
        let mut restore = known.unwrap_or_else(|| state::unknown(&self.name));
        let begun = state::read(store.as_ref(), &self.name, &mut restore).await?;
        if !recorded && !begun {
            return Err(CliError::not_found(format!("the storage has no restore named {}", self.name)));
        }
        out.print(&RestoreView::of(&restore));
        Ok(())
    }

    /// Runs the subcommand.
    pub async fn run(self, cx: &Context) -> Result<()> {
        let restore = cx.control.restores.get(&self.name).await?.ok_or_else(|| {
            CliError::not_found(format!("there is no restore named {}", self.name))
                .hint("`pbm list --restore` shows the restores")
        })?;
        cx.out.print(&RestoreView::of(&restore));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    fn backup() -> BackupMeta {
        bson::deserialize_from_document(doc! {
            "type": "logical", "opid": "o", "name": "n", "compression": "s2", "status": "done", "size": 439_991_i64,
            "store": { "type": "filesystem" }, "last_transition_ts": 1_795_221_873_i64, "mongodb_version": "6.0.5",
            "fcv": "6.0", "pbm_version": "2.15.0",
            "last_write_ts": bson::Timestamp { time: 1_795_221_871, increment: 1 },
            "replsets": [{ "name": "rs0", "status": "done", "node": "h:1", "last_transition_ts": 1_795_221_872_i64,
                "last_write_ts": bson::Timestamp { time: 1_795_221_871, increment: 1 } }],
        })
        .expect("a backup")
    }

    #[test]
    fn a_backup_is_described_as_by_the_original() {
        assert_eq!(
            serde_json::to_string(&BackupView::of(&backup())).expect("json"),
            concat!(
                r#"{"name":"n","storage_type":"filesystem","opid":"o","type":"logical","last_write_ts":1795221871,"#,
                r#""last_transition_ts":1795221873,"last_write_time":"2026-11-21T00:44:31Z","#,
                r#""last_transition_time":"2026-11-21T00:44:33Z","sel_user_and_roles":false,"mongodb_version":"6.0.5","#,
                r#""fcv":"6.0","pbm_version":"2.15.0","status":"done","size":439991,"size_uncompressed":0,"#,
                r#""size_h":"429.7 KiB","size_uncompressed_h":"0 B","replsets":[{"name":"rs0","status":"done","#,
                r#""node":"h:1","size":0,"size_uncompressed":0,"size_uncompressed_h":"","last_write_ts":1795221871,"#,
                r#""last_transition_ts":1795221872,"last_write_time":"2026-11-21T00:44:31Z","#,
                r#""last_transition_time":"2026-11-21T00:44:32Z"}]}"#
            )
        );
    }

    #[test]
    fn people_see_no_time_where_there_is_none() {
        let none = bson::Timestamp { time: 1, increment: 1 };
        let mut cancelled = BackupMeta { status: Status::Canceled, last_write_ts: none, ..backup() };
        cancelled.replsets[0].last_write_ts = bson::Timestamp { time: 0, increment: 0 };
        let view = BackupView::of(&cancelled);
        assert!(!view.text().contains("1970") && view.text().contains("last_transition_time"), "{}", view.text());
        let json = serde_json::to_value(&view).expect("json");
        assert_eq!(json["last_write_time"], "1970-01-01T00:00:01Z", "as the original's");
    }

    #[test]
    fn people_see_words_in_place_of_numbers() {
        let text = BackupView::of(&backup()).text();
        assert!(text.contains("size_h: 429.7 KiB") && !text.contains("_ts:") && !text.contains("size:"), "{text}");
    }
}
