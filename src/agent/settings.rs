//! The agent's own settings (docs/features.md group 19). A value comes from the first of these that has it: the flags,
//! the environment, the settings file, for the connection string systemd's credentials, and the default.

use crate::log::{Level, LogOptions};
use crate::model::log::Severity;
use anyhow::{Context, Result};
use clap::Args;
use serde::Deserialize;
use serde_norway::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The name of the credential that may hold the connection string.
const CREDENTIAL: &str = "pbm-mongodb-uri";

/// What the command line and the environment say.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Given {
    /// Connection string of this agent's mongod.
    #[arg(long, env = "PBM_MONGODB_URI", value_name = "URI", hide_env_values = true)]
    mongodb_uri: Option<String>,
    /// Settings file, in YAML: `mongodb-uri`, `backup.dump-parallel-collections`, `log.path`, `log.level`, `log.json`.
    ///
    /// Options and variables go before it. Changes of `log` are taken at once, the others at the next start.
    #[arg(short = 'f', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Collections dumped at once, unless a backup says otherwise; half the cores by default.
    #[arg(long, env = "PBM_DUMP_PARALLEL_COLLECTIONS", value_name = "N")]
    dump_parallel_collections: Option<Filled<u16>>,
    /// File to append the log to, opened again on SIGHUP; stderr by default.
    #[arg(long, env = "LOG_PATH", value_name = "FILE")]
    log_path: Option<Filled<PathBuf>>,
    /// Write the log as one JSON object a line.
    #[arg(long, env = "LOG_JSON", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = parse_bool)]
    log_json: Option<Filled<bool>>,
    /// Least severe level that is written: D, I, W, E or F; D by default.
    #[arg(long, env = "LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<Filled<Level>>,
}

/// A value, or `None` for an empty text, because a file of variables may contain a variable without a value.
#[derive(Debug, Clone)]
struct Filled<T>(Option<T>);

impl<T: FromStr> FromStr for Filled<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        Ok(Self(match text.trim() {
            "" => None,
            text => Some(text.parse()?),
        }))
    }
}

fn parse_bool(text: &str) -> Result<Filled<bool>, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "" => Ok(Filled(None)),
        "true" | "t" | "yes" | "y" | "on" | "1" => Ok(Filled(Some(true))),
        "false" | "f" | "no" | "n" | "off" | "0" => Ok(Filled(Some(false))),
        _ => Err("expected true or false".to_owned()),
    }
}

fn given<T: Clone>(value: &Option<Filled<T>>) -> Option<T> {
    value.as_ref().and_then(|filled| filled.0.clone())
}

/// The settings that the agent uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub uri: Option<String>,
    pub parallel: Option<u16>,
    pub log: LogOptions,
    /// Remarks about the settings file for the operator.
    pub remarks: Vec<String>,
}

impl Given {
    /// The path of the settings file.
    pub fn file(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Reads the settings file, if there is one, and combines all sources.
    ///
    /// # Errors
    /// The file can't be read or is not YAML, or a value is not valid.
    pub fn settle(&self) -> Result<Settings> {
        let (file, remarks) = match &self.config {
            Some(path) => read(path).with_context(|| format!("read the settings file {}", path.display()))?,
            None => (File::default(), Vec::new()),
        };
        let level = file.log.level.as_deref().map(str::parse).transpose();
        let level = level.map_err(|why: String| anyhow::anyhow!("the settings file's log.level: {why}"))?;
        let filled = |text: String| (!text.trim().is_empty()).then_some(text);
        let uri = self.mongodb_uri.clone().and_then(filled).or_else(|| file.mongodb_uri.and_then(filled));
        Ok(Settings {
            uri: match uri {
                None => credential(std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).as_deref())?,
                found => found,
            },
            parallel: given(&self.dump_parallel_collections)
                .or(file.backup.dump_parallel_collections)
                .filter(|n| *n > 0),
            log: LogOptions {
                path: given(&self.log_path).or(file.log.path).filter(|path| !path.as_os_str().is_empty()),
                json: given(&self.log_json).or(file.log.json).unwrap_or_default(),
                level: given(&self.log_level).or(level).unwrap_or(Level(Severity::Debug)),
            },
            remarks,
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    mongodb_uri: Option<String>,
    backup: Backup,
    log: Log,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Backup {
    dump_parallel_collections: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Log {
    path: Option<PathBuf>,
    level: Option<String>,
    json: Option<bool>,
}

const KEYS: [&str; 5] = ["mongodb-uri", "backup.dump-parallel-collections", "log.path", "log.level", "log.json"];

fn read(path: &Path) -> Result<(File, Vec<String>)> {
    let text = fs::read_to_string(path)?;
    let (file, mut remarks) = parse(&text)?;
    let mode = fs::metadata(path)?.permissions().mode();
    if file.mongodb_uri.as_deref().is_some_and(|uri| uri.contains('@')) && mode & 0o004 != 0 {
        remarks.push(format!("{} holds a password and everybody may read it; run: chmod o-r {0}", path.display()));
    }
    Ok((file, remarks))
}

/// Returns the settings in the file, and its unknown keys. The keys are no errors, because the file may be written for
/// another release.
fn parse(text: &str) -> Result<(File, Vec<String>)> {
    let value: Value = serde_norway::from_str(text)?;
    if value.is_null() {
        return Ok((File::default(), Vec::new()));
    }
    let mut paths = Vec::new();
    leaves(&value, "", &mut paths);
    paths.retain(|path| !KEYS.contains(&path.as_str()));
    let unknown = paths.iter().map(|path| {
        format!("the settings file's {path} is not known and has no effect; known are {}", KEYS.join(", "))
    });
    // The settings are read from the text, because an error then contains the key and the line.
    Ok((serde_norway::from_str(text)?, unknown.collect()))
}

/// Collects the paths of all values. An empty group has none.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Mapping(map) => {
            for (key, value) in map {
                let key = key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned);
                leaves(value, &if path.is_empty() { key } else { format!("{path}.{key}") }, found);
            }
        }
        Value::Null => {}
        _ => found.push(path.to_owned()),
    }
}

/// Returns the connection string that systemd provides as a credential.
fn credential(folder: Option<&Path>) -> Result<Option<String>> {
    let Some(path) = folder.map(|folder| folder.join(CREDENTIAL)) else { return Ok(None) };
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|uri| !uri.is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read the credential {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("pbmbox-settings-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&folder).expect("make a folder");
        folder
    }

    fn settle(given: &Given, text: &str) -> Result<Settings> {
        let folder = folder();
        let path = folder.join("agent.yaml");
        fs::write(&path, text).expect("write");
        let settings = Given { config: Some(path), ..given.clone() }.settle();
        fs::remove_dir_all(folder).expect("remove");
        settings
    }

    const ALL: &str = "mongodb-uri: mongodb://h:1\nbackup:\n  dump-parallel-collections: 3\nlog:\n  path: /var/log/a\n  level: W\n  json: true\n";

    #[test]
    fn the_file_counts_where_nothing_else_was_said() {
        let settings = settle(&Given::default(), ALL).expect("settings");
        let log = LogOptions { path: Some("/var/log/a".into()), json: true, level: Level(Severity::Warning) };
        let wanted = Settings { uri: Some("mongodb://h:1".into()), parallel: Some(3), log, remarks: Vec::new() };
        assert_eq!(settings, wanted);
        let given = Given {
            mongodb_uri: Some("mongodb://other".into()),
            dump_parallel_collections: "1".parse().ok(),
            log_path: "/dev/stderr".parse().ok(),
            log_json: parse_bool("f").ok(),
            log_level: "E".parse().ok(),
            config: None,
        };
        let settings = settle(&given, ALL).expect("settings");
        let log = LogOptions { path: Some("/dev/stderr".into()), json: false, level: Level(Severity::Error) };
        assert_eq!(settings, Settings { uri: given.mongodb_uri.clone(), parallel: Some(1), log, remarks: Vec::new() });
        let nothing = Given {
            mongodb_uri: Some(String::new()),
            dump_parallel_collections: "0".parse().ok(),
            log_path: "".parse().ok(),
            log_json: parse_bool("").ok(),
            log_level: " ".parse().ok(),
            config: None,
        };
        assert_eq!(settle(&nothing, ALL).expect("settings"), Settings { parallel: None, ..wanted });
        for empty in ["", "log:\n", "---\n# nothing\n"] {
            let settings = settle(&Given::default(), empty).expect(empty);
            assert_eq!((settings.uri, settings.log.level), (None, Level(Severity::Debug)), "{empty:?}");
        }
    }

    #[test]
    fn slips_in_the_file_are_told() {
        for (text, part) in [
            ("log:\n  level: loud\n", "loud"),
            ("log:\n  json: [1]\n", "json"),
            ("backup:\n  dump-parallel-collections: many\n", "many"),
            ("backup: {dump-parallel-collections: -1}\n", "-1"),
            ("{", "line 2"),
            ("just words", "just words"),
        ] {
            let error = settle(&Given::default(), text).expect_err(text);
            assert!(format!("{error:#}").contains(part), "{text:?}: {error:#}");
        }
        let settings = settle(&Given::default(), "log:\n  paht: /x\nmongodb_uri: mongodb://h\n").expect("settings");
        assert!(
            settings.remarks[0].contains("log.paht") && settings.remarks[1].contains("mongodb_uri"),
            "{settings:?}"
        );
        let missing = Given { config: Some("/nonexistent/agent.yaml".into()), ..Given::default() }.settle();
        assert!(format!("{:#}", missing.expect_err("no file")).contains("/nonexistent/agent.yaml"));
        let open = settle(&Given::default(), "mongodb-uri: mongodb://u:throwaway@h\n").expect("settings");
        assert!(open.remarks[0].contains("chmod o-r") && !open.remarks[0].contains("throwaway"), "{open:?}");
    }

    #[test]
    fn a_credential_is_read_without_its_line_end() {
        let folder = folder();
        assert_eq!(credential(Some(&folder)).expect("none"), None);
        fs::write(folder.join(CREDENTIAL), "mongodb://u:p@h\n").expect("write");
        assert_eq!(credential(Some(&folder)).expect("one").as_deref(), Some("mongodb://u:p@h"));
        fs::remove_dir_all(&folder).expect("remove");
        assert_eq!(credential(None).expect("none"), None);
    }
}
