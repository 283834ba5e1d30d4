//! Finds the storage that a name means, the main one or that of a profile, and the storage of a backup.
//!
//! A profile replaces only the storage. A backup's document contains the settings with which it was made, so the backup can be
//! read even if its profile is removed. The profile's own document has priority, because credentials are changed there.

use crate::config::{ConfigError, load_over, same_place};
use crate::control::Control;
use crate::model::{
    backup::BackupMeta,
    config::{Config, StorageConf},
};
use anyhow::Result;

/// The name of the main storage in places that take the name of a profile.
pub const MAIN: &str = "main";

/// Whether this name means the main storage. Commands leave it out.
#[must_use]
pub fn is_main(profile: &str) -> bool {
    profile.is_empty() || profile == MAIN
}

/// Returns the profile of a backup, or `None` if the backup is on the main storage.
#[must_use]
pub fn profile_of(store: &StorageConf) -> Option<&str> {
    (store.profile == Some(true)).then(|| store.name.as_deref().unwrap_or_default())
}

/// Returns a profile's storage in the form in which backups on it name it.
#[must_use]
pub fn named(profile: &Config) -> StorageConf {
    StorageConf { name: profile.name.clone(), profile: Some(true), ..profile.storage.clone() }
}

/// Returns the settings with which a backup is read: those of the main storage, or the present ones of its profile. If the
/// profile is removed or has another place now, these are the settings in the backup, because the backup was written there.
#[must_use]
pub fn settings(backup: &BackupMeta, main: &StorageConf, profiles: &[Config]) -> StorageConf {
    let Some(name) = profile_of(&backup.store) else { return main.clone() };
    let today = profiles.iter().find(|profile| profile.name.as_deref() == Some(name));
    match today {
        Some(profile) if same_place(&profile.storage, &backup.store) => named(profile),
        _ => backup.store.clone(),
    }
}

/// Does the same as [`settings`], with the present profiles.
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

/// Returns the profile of this name.
///
/// # Errors
/// [`Unknown`], with the existing names.
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

/// Returns the storage that a command names, in the form in which backups on it will name it.
///
/// # Errors
/// The profile is [`Unknown`], or the profiles can't be read.
pub async fn storage(control: &Control, main: &StorageConf, profile: &str) -> Result<StorageConf> {
    if is_main(profile) {
        return Ok(main.clone());
    }
    Ok(named(find(&control.config.profiles().await?, profile)?))
}

/// Reads the file of a profile, as strictly as a configuration file. Returns its storage, and the other sections, which are
/// not used. `stored` is the present profile: values that the file hides keep their stored values.
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
