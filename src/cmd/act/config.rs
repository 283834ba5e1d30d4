//! `pbm config`: shows and changes the configuration, reads the storage again.

use super::checks::{self, Need};
use crate::cmd::{
    follow::{follow, give_up, limit, lock::Lock},
    io::{
        context::Context,
        error::{CliError, Result},
        output::{Message, Report, Shown},
    },
};
use crate::config::{self, duration, edit, effective, ignored_settings, mask};
use crate::control::Order;
use crate::model::{command::ResyncCmd, config::StorageConf};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

/// Bytes; no configuration is as large.
const LARGEST: u64 = 1 << 20;

/// Show or change the configuration, or read the storage again
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Key to show, such as storage.type
    #[arg(conflicts_with_all = ["file", "set", "unset", "list", "force_resync", "effective"])]
    key: Option<String>,
    /// Replace the configuration by this YAML file; `-` reads stdin
    ///
    /// A secret that is written as ***, as this command shows it, stays as it is stored.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["set", "unset", "list", "force_resync"])]
    file: Option<PathBuf>,
    /// Set a key; repeatable, or several separated by commas
    ///
    /// In `a=1,b=2` a value that contains a comma stands in quotes, with its key: 'a=1,"b=2,3"'. An empty value takes a
    /// number or a codec back, as --unset does with every setting.
    #[arg(long, value_name = "KEY=VALUE", value_parser = Assignments::parse, conflicts_with_all = ["list", "force_resync"])]
    set: Vec<Assignments>,
    /// Take a setting back, so that its default holds; repeatable
    #[arg(long, value_name = "KEY", conflicts_with_all = ["list", "force_resync"])]
    unset: Vec<String>,
    /// Show the whole configuration (also without any option)
    #[arg(long, conflicts_with = "force_resync")]
    list: bool,
    /// Show the whole configuration with every default: what takes effect
    #[arg(long, conflicts_with_all = ["file", "set", "unset", "force_resync"])]
    effective: bool,
    /// Read the storage again: backups, oplog chunks, restores
    #[arg(long)]
    force_resync: bool,
    /// Also read the records of physical restores
    #[arg(long, requires = "force_resync")]
    include_restores: bool,
    /// Take a storage that was used before, and lacks its mark, for a new one: forget the backups of the old one
    ///
    /// Without it such a storage is an error everywhere, because most often a mount is missing.
    #[arg(long, requires = "force_resync")]
    accept_empty: bool,
    /// Wait until the storage has been read
    #[arg(short, long)]
    wait: bool,
    /// Wait no longer than this, such as 30s or 5m
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    wait_time: Option<Duration>,
}

/// What one `--set` holds, as the original's flags divide it: a text with a single equal sign is one assignment, others
/// are fields of CSV.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Assignments(Vec<(String, String)>);

impl Assignments {
    fn parse(text: &str) -> Result<Self, String> {
        let fields = match text.matches('=').count() {
            0 | 1 => vec![text.to_owned()],
            _ => fields(text)?,
        };
        let pair = |field: &String| match field.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(format!(
                "expected KEY=VALUE in place of '{field}'; a value with commas and equal signs stands in quotes, with its key: '\"a.key=b=c,d\"'"
            )),
        };
        fields.iter().map(pair).collect::<Result<_, _>>().map(Self)
    }
}

/// The fields of a line of CSV. A field that begins with a quote ends with one; two of them inside stand for one.
fn fields(line: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let mut field = String::new();
                let mut quoted = quoted;
                loop {
                    let (part, after) = quoted.split_once('"').ok_or("a quote is not closed")?;
                    field.push_str(part);
                    match after.strip_prefix('"') {
                        Some(more) => {
                            field.push('"');
                            quoted = more;
                        }
                        None => break (field, after),
                    }
                }
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(fields),
            None => return Err("after a closing quote a comma is expected".to_owned()),
        }
    }
}

/// One key.
#[derive(Debug, Serialize)]
struct Pair {
    key: String,
    value: String,
}

impl Report for Pair {
    fn text(&self) -> String {
        format!("[{}={}]", self.key, self.value)
    }
}

/// Several keys.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Pairs(Vec<Pair>);

impl Report for Pairs {
    fn text(&self) -> String {
        self.0.iter().map(Report::text).collect::<Vec<_>>().join("\n")
    }
}

/// All of it, defaults included.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Everything {
    value: Value,
    #[serde(skip)]
    text: String,
}

impl Report for Everything {
    fn text(&self) -> String {
        self.text.clone()
    }
}

/// The end of a resync.
#[derive(Debug, Serialize)]
struct Resynced {
    msg: &'static str,
    /// *Added by us*: what was met with on the way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl Report for Resynced {
    fn text(&self) -> String {
        self.msg.to_owned()
    }
}

impl ConfigArgs {
    /// Runs the subcommand.
    pub async fn run(self, cx: &Context) -> Result<()> {
        let keys = !self.set.is_empty() || !self.unset.is_empty();
        if self.wait && !(self.file.is_some() || self.force_resync || keys) {
            return Err(CliError::usage("--wait goes with --file, --set, --unset or --force-resync"));
        }
        if let Some(file) = &self.file {
            return self.apply(cx, file).await;
        }
        if keys {
            return self.set(cx).await;
        }
        if self.force_resync {
            return self.resync(cx).await;
        }
        let config = cx.config().await?;
        if self.effective {
            let effective = effective::effective(&config)?;
            cx.out.print(&Everything { text: effective.yaml(), value: effective.value });
            return Ok(());
        }
        let config = config::with_defaults(config);
        match self.key {
            Some(key) => {
                let value = edit::get(&config, &key)?;
                cx.out.print(&Pair { key, value });
            }
            None => cx.out.print(&Shown(mask::shown(&config)?)),
        }
        Ok(())
    }

    /// Replaces the main document.
    async fn apply(&self, cx: &Context, file: &Path) -> Result<()> {
        let text = read(file)?;
        let before = cx.control.config.main().await?.map(|before| before.storage);
        let config = config::load_over(&text, before.as_ref())?;
        cx.ready_to_write().await?;
        let moved = before.is_none_or(|before| moved(&before, &config.storage));
        if moved {
            checks::nothing_runs(&cx.control).await?;
        }
        cx.control.config.replace_main(&config, cx.control.cluster_time().await?).await?;
        if moved {
            self.read_new_storage(cx).await?;
        }
        warn(cx, &ignored_settings::told(&config, None));
        cx.out.print(&Shown(mask::shown(&config)?));
        Ok(())
    }

    /// Changes single keys, all or none.
    async fn set(&self, cx: &Context) -> Result<()> {
        let stored = cx.control.config.main_document().await?.unwrap_or_default();
        let mut config = cx.config().await?;
        let before = config.clone();
        let set = self.set.iter().flat_map(|it| &it.0).map(|(key, value)| (key.as_str(), Some(value.as_str())));
        let given: Vec<(&str, Option<&str>)> = set.chain(self.unset.iter().map(|key| (key.as_str(), None))).collect();
        let changes = edit::change(&mut config, given.iter().copied())?;
        let mut keys = edit::update(&stored, &changes);
        let pairs = changes.into_iter().map(|change| Pair { key: change.key, value: change.value }).collect();
        cx.ready_to_write().await?;
        let moved = moved(&before.storage, &config.storage);
        if moved {
            checks::nothing_runs(&cx.control).await?;
        }
        if moved || before.pitr_is_on() != config.pitr_is_on() {
            keys.set.insert("epoch", cx.control.cluster_time().await?);
        }
        if !cx.control.config.update(keys).await? {
            return Err(CliError::refused("the configuration has just been removed by somebody else; nothing was set"));
        }
        if moved {
            self.read_new_storage(cx).await?;
        }
        let given: Vec<&str> = given.iter().map(|(key, _)| *key).collect();
        warn(cx, &ignored_settings::told(&config, Some(&given)));
        cx.out.print(&Pairs(pairs));
        Ok(())
    }

    /// The catalogue of another place is read. The configuration is stored already: only a waiting caller needs an
    /// error when nobody can do it now.
    async fn read_new_storage(&self, cx: &Context) -> Result<()> {
        if let Err(mut error) = checks::agents(cx, Need::Any).await {
            if self.wait {
                error.hints.push(
                    "the configuration is stored; with an agent, `pbm config --force-resync` reads the storage"
                        .to_owned(),
                );
                return Err(error);
            }
            cx.out.note(&format!(
                "Warning: the storage was not read ({}); once an agent runs, run `pbm config --force-resync`",
                crate::mongo::admin::explain(&error.source)
            ));
            return Ok(());
        }
        let opid = cx.control.commands.send(Order::Resync(ResyncCmd::default())).await?.to_hex();
        if self.wait {
            // Told on the way; the result of `--file` is the configuration.
            follow(cx, Lock::resync(cx, &opid), limit(self.wait_time)).await?;
        } else {
            cx.out.note("An agent reads the storage now; `pbm logs -e resync` shows how it ends");
        }
        Ok(())
    }

    async fn resync(&self, cx: &Context) -> Result<()> {
        cx.config().await?;
        cx.ready_to_write().await?;
        checks::nothing_runs(&cx.control).await?;
        checks::agents(cx, Need::Any).await?;
        let details = ResyncCmd {
            include_restores: self.include_restores,
            accept_empty: self.accept_empty,
            ..ResyncCmd::default()
        };
        give_up::heed_interruptions();
        let opid = cx.control.commands.send(Order::Resync(details)).await?.to_hex();
        if self.wait {
            let warnings = follow(cx, Lock::resync(cx, &opid), limit(self.wait_time)).await?;
            cx.out.print(&Resynced { msg: "Storage resync finished", warnings });
        } else {
            cx.out.print(&Message::new("Storage resync started"));
        }
        Ok(())
    }
}

/// Does the storage change so that the list of backups has to be read again?
fn moved(before: &StorageConf, after: &StorageConf) -> bool {
    before.unusable.is_some() || !config::same_place(before, after)
}

fn warn(cx: &Context, warnings: &[String]) {
    warnings.iter().for_each(|warning| cx.out.note(&format!("Warning: {warning}")));
}

/// The text of a file; `-` is stdin.
pub fn read(file: &Path) -> Result<String> {
    let stdin = file.as_os_str() == "-";
    let name = if stdin { "from stdin".to_owned() } else { format!("file {}", file.display()) };
    let text = match stdin {
        true => text_of(std::io::stdin()),
        false => std::fs::File::open(file).and_then(text_of),
    };
    text.map_err(|error| {
        CliError::usage(format!("the configuration {name} can't be read: {error}"))
            .hint("give a YAML file, such as `pbm config` shows")
    })
}

fn text_of(from: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    if from.take(LARGEST + 1).read_to_string(&mut text)? as u64 > LARGEST {
        return Err(std::io::Error::other(format!("it is larger than {LARGEST} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_key_is_an_object_and_set_ones_an_array() {
        let pair = || Pair { key: "a".into(), value: "1".into() };
        assert_eq!(serde_json::to_string(&pair()).expect("json"), r#"{"key":"a","value":"1"}"#);
        assert_eq!(serde_json::to_string(&Pairs(vec![pair()])).expect("json"), r#"[{"key":"a","value":"1"}]"#);
        assert_eq!(pair().text(), "[a=1]");
    }

    #[test]
    fn the_defaults_that_are_shown_are_those_that_hold() {
        let value = |path: &str| config::schema::find(path).and_then(|key| key.default?.value).expect(path);
        let load = crate::snapshot::load::LoadOptions::default();
        assert_eq!(value("restore.batchSize"), load.batch_documents.to_string());
        assert_eq!(value("restore.numInsertionWorkers"), load.workers.to_string());
        use crate::storage::ranges;
        assert_eq!(value("restore.numDownloadWorkers"), ranges::AT_ONCE.to_string());
        assert_eq!(value("restore.downloadChunkMb"), (ranges::SIZE >> 20).to_string());
        let patience = crate::storage::patience::Patience::default();
        assert_eq!(value("storage.gcs.retryer.backoffMultiplier"), patience.growth.to_string());
        for (path, pause) in [("minRetryDelay", patience.first_pause), ("maxRetryDelay", patience.longest_pause)] {
            assert_eq!(duration::parse(value(&format!("storage.s3.retryer.{path}"))), Ok(pause));
        }
    }

    #[test]
    fn assignments_are_divided_as_by_the_originals_flags() {
        for (text, want) in [
            ("a.b=c", vec![("a.b", "c")]),
            ("a.b=c,d", vec![("a.b", "c,d")]),
            ("a.b=\"c\"", vec![("a.b", "\"c\"")]),
            ("a.b=", vec![("a.b", "")]),
            ("a.b=c=d", vec![("a.b", "c=d")]),
            ("a=1,b.c=2,d=", vec![("a", "1"), ("b.c", "2"), ("d", "")]),
            ("\"a=x=1,2\",b=\"3\"", vec![("a", "x=1,2"), ("b", "\"3\"")]),
            ("\"a=say \"\"=\"\"\",b=2", vec![("a", "say \"=\""), ("b", "2")]),
        ] {
            let want = want.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            assert_eq!(Assignments::parse(text), Ok(Assignments(want)), "{text}");
        }
        for text in ["", "a.b", "=x", "a=1,b=2,c", "a=1,=2", "a=1,b=2,", "\"a=1,b=2", "\"a=1\"x,b=2"] {
            assert!(Assignments::parse(text).is_err(), "{text}");
        }
    }
}
