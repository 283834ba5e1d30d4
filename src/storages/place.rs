//! Which storage is meant: the main one, or one of the profiles; and where a backup lies.
//!
//! A profile overrides the storage and nothing else. A backup's document holds the settings that it was made with, so
//! it can be read even when its profile is gone; the profile's own document counts first, because keys are changed there.

use crate::config::{ConfigError, load_over, same_place};
use crate::control::Control;
use crate::model::{
    backup::BackupMeta,
    config::{Config, StorageConf},
};
use anyhow::Result;

/// The name of the main storage where the name of a profile is asked for.
pub const MAIN: &str = "main";

/// Is this the main storage? Commands leave its name out.
#[must_use]
pub fn is_main(profile: &str) -> bool {
    profile.is_empty() || profile == MAIN
}

/// The profile of a backup; `None` on the main storage.
#[must_use]
pub fn profile_of(store: &StorageConf) -> Option<&str> {
    (store.profile == Some(true)).then(|| store.name.as_deref().unwrap_or_default())
}

/// A profile's storage as backups on it name it.
#[must_use]
pub fn named(profile: &Config) -> StorageConf {
    StorageConf { name: profile.name.clone(), profile: Some(true), ..profile.storage.clone() }
}

/// The settings by which a backup is read: of the main storage, or those of its profile today. If the profile is gone or
/// names another place today, what the backup itself says: that is where it was written.
#[must_use]
pub fn settings(backup: &BackupMeta, main: &StorageConf, profiles: &[Config]) -> StorageConf {
    let Some(name) = profile_of(&backup.store) else { return main.clone() };
    let today = profiles.iter().find(|profile| profile.name.as_deref() == Some(name));
    match today {
        Some(profile) if same_place(&profile.storage, &backup.store) => named(profile),
        _ => backup.store.clone(),
    }
}

/// As [`settings`], with the profiles of now.
pub async fn of_backup(control: &Control, backup: &BackupMeta, main: &StorageConf) -> Result<StorageConf> {
    if profile_of(&backup.store).is_none() {
        return Ok(main.clone());
    }
    Ok(settings(backup, main, &control.config.profiles().await?))
}

/// There is no profile of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no profile named '{name}'{known}")]
pub struct Unknown {
    name: String,
    known: String,
}

/// The profile of this name.
///
/// # Errors
/// [`Unknown`], with the names that there are.
pub fn find<'a>(profiles: &'a [Config], name: &str) -> Result<&'a Config, Unknown> {
    let names: Vec<&str> = profiles.iter().filter_map(|profile| profile.name.as_deref()).collect();
    profiles.iter().find(|profile| profile.name.as_deref() == Some(name)).ok_or_else(|| Unknown {
        name: name.to_owned(),
        known: if names.is_empty() {
            "; there are none".to_owned()
        } else {
            format!("; there are: {}", names.join(", "))
        },
    })
}

/// The storage that a command names, as backups on it are to name it.
///
/// # Errors
/// The profile is [`Unknown`]; the profiles can't be read.
pub async fn storage(control: &Control, main: &StorageConf, profile: &str) -> Result<StorageConf> {
    if is_main(profile) {
        return Ok(main.clone());
    }
    Ok(named(find(&control.config.profiles().await?, profile)?))
}

/// Reads the file of a profile, as strictly as a configuration file. Gives its storage and the sections beside it, which
/// are not used. `stored` is the profile as it is: what the file hides stays so.
///
/// # Errors
/// As [`load_over`].
pub fn read(yaml: &str, stored: Option<&StorageConf>) -> Result<(StorageConf, Vec<&'static str>), ConfigError> {
    let config = load_over(yaml, stored)?;
    let others =
        [("pitr", config.pitr.is_some()), ("backup", config.backup.is_some()), ("restore", config.restore.is_some())];
    Ok((config.storage, others.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    fn storage(path: &str, buffer: i32) -> StorageConf {
        let yaml = format!("storage: {{type: filesystem, filesystem: {{path: {path}, backupBuffSize: {buffer}}}}}");
        load(&yaml).expect("a good file").storage
    }

    fn profile(name: &str, storage: StorageConf) -> Config {
        Config { name: Some(name.to_owned()), profile: Some(true), storage, ..Config::default() }
    }

    fn backup(store: StorageConf) -> BackupMeta {
        let meta = serde_json::json!({ "name": "b", "status": "done" });
        BackupMeta { store, ..serde_json::from_value(meta).expect("a backup") }
    }

    #[test]
    fn a_backup_is_read_with_the_settings_of_today_from_where_it_lies() {
        let (main, old) = (storage("/main", 40_000), storage("/p", 40_000));
        let made = named(&profile("p", old.clone()));
        assert_eq!(settings(&backup(old.clone()), &main, &[]), main, "without a profile it is on the main storage");
        let today = profile("p", storage("/p", 50_000));
        assert_eq!(settings(&backup(made.clone()), &main, std::slice::from_ref(&today)), named(&today));
        let moved = profile("p", storage("/q", 50_000));
        assert_eq!(settings(&backup(made.clone()), &main, &[moved]), made);
        assert_eq!(settings(&backup(made.clone()), &main, &[profile("q", old)]), made, "its profile is gone");
    }

    #[test]
    fn an_unknown_profile_is_told_with_the_known_ones() {
        let profiles = [profile("a", storage("/a", 0)), profile("b", storage("/b", 0))];
        assert_eq!(find(&profiles, "b").map(|p| p.name.as_deref()), Ok(Some("b")));
        let said = |profiles| find(profiles, "x").expect_err("unknown").to_string();
        assert_eq!(said(&profiles), "there is no profile named 'x'; there are: a, b");
        assert_eq!(said(&[]), "there is no profile named 'x'; there are none");
    }

    #[test]
    fn a_file_is_read_strictly_and_its_other_sections_are_named() {
        let file =
            "storage: {type: filesystem, filesystem: {path: /p}}\npitr: {enabled: true}\nrestore: {batchSize: 5}";
        let (storage, others) = read(file, None).expect("a good file");
        assert_eq!((storage.kind.as_str(), others), ("filesystem", vec!["pitr", "restore"]));
        for bad in ["pitr: {enabled: true}", "storage: {type: filesystem, filesystem: {pth: /p}}", "name: p"] {
            assert!(read(bad, None).is_err(), "{bad}");
        }
    }
}
