//! `pbm config`: shows and changes the configuration, reads the storage again.

use super::{
    checks::{self, Need},
    context::Context,
    error::{CliError, Result},
    output::{Message, Report, Shown},
    resync,
};
use crate::config::{self, duration, edit, effective, idle, mask};
use crate::model::{command::ResyncCmd, config::Config};
use bson::Document;
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
    #[arg(conflicts_with_all = ["file", "set", "list", "force_resync", "effective"])]
    key: Option<String>,
    /// Replace the configuration by this YAML file; `-` reads stdin
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["set", "list", "force_resync"])]
    file: Option<PathBuf>,
    /// Set a key; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_assignment, conflicts_with_all = ["list", "force_resync"])]
    set: Vec<(String, String)>,
    /// Show the whole configuration (also without any option)
    #[arg(long, conflicts_with = "force_resync")]
    list: bool,
    /// Show the whole configuration with every default: what takes effect
    #[arg(long, conflicts_with_all = ["file", "set", "force_resync"])]
    effective: bool,
    /// Read the storage again: backups, oplog chunks, restores
    #[arg(long)]
    force_resync: bool,
    /// Also read the records of physical restores
    #[arg(long, requires = "force_resync")]
    include_restores: bool,
    /// Wait until the storage has been read
    #[arg(short, long)]
    wait: bool,
    /// Wait no longer than this, such as 30s or 5m
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, requires = "wait")]
    wait_time: Option<Duration>,
}

fn parse_assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
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
        let changes = self.file.is_some() || self.force_resync || !self.set.is_empty();
        if self.wait && !changes {
            return Err(CliError::usage("--wait goes with --file, --set or --force-resync"));
        }
        if let Some(file) = &self.file {
            return self.apply(cx, file).await;
        }
        if !self.set.is_empty() {
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
        let config = config::load(&read(file)?)?;
        cx.ready_to_write().await?;
        // One that can't be read is a reason to replace it.
        let before = cx.control.config.main().await.ok().flatten();
        let moved = before.is_none_or(|before| !config::same_place(&before.storage, &config.storage));
        if moved {
            checks::nothing_runs(&cx.control).await?;
        }
        cx.control.config.replace_main(&config, cx.control.cluster_time().await?).await?;
        if moved {
            self.read_new_storage(cx).await?;
        }
        warn(cx, &idle::told(&config, None));
        cx.out.print(&Shown(mask::shown(&config)?));
        Ok(())
    }

    /// Changes single keys, all or none.
    async fn set(&self, cx: &Context) -> Result<()> {
        let mut config = cx.config().await?;
        let before = config.clone();
        let mut keys = Document::new();
        let mut pairs = Vec::new();
        for change in edit::set(&mut config, self.set.iter().map(|(key, value)| (key.as_str(), value.as_str())))? {
            keys.insert(change.path, change.set);
            pairs.push(Pair { key: change.key, value: change.value });
        }
        cx.ready_to_write().await?;
        let moved = !config::same_place(&before.storage, &config.storage);
        if moved {
            checks::nothing_runs(&cx.control).await?;
        }
        let enabled = |config: &Config| config.pitr.as_ref().is_some_and(|pitr| pitr.enabled);
        if moved || enabled(&before) != enabled(&config) {
            keys.insert("epoch", cx.control.cluster_time().await?);
        }
        if !cx.control.config.set(keys).await? {
            return Err(CliError::refused("the configuration has just been removed by somebody else; nothing was set"));
        }
        if moved {
            self.read_new_storage(cx).await?;
        }
        let given: Vec<&str> = self.set.iter().map(|(key, _)| key.as_str()).collect();
        warn(cx, &idle::told(&config, Some(&given)));
        match <[Pair; 1]>::try_from(pairs) {
            Ok([pair]) => cx.out.print(&pair),
            Err(pairs) => cx.out.print(&Pairs(pairs)),
        }
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
                "Warning: the storage was not read ({:#}); once an agent runs, run `pbm config --force-resync`",
                error.source
            ));
            return Ok(());
        }
        let opid = cx.control.commands.send_resync(None).await?.to_hex();
        if self.wait {
            // Told on the way; the result of `--file` is the configuration.
            resync::follow(cx, &opid, self.wait_time).await?;
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
        let details = self.include_restores.then(|| ResyncCmd { include_restores: true, ..ResyncCmd::default() });
        let opid = cx.control.commands.send_resync(details).await?.to_hex();
        if self.wait {
            let warnings = resync::follow(cx, &opid, self.wait_time).await?;
            cx.out.print(&Resynced { msg: "Storage resync finished", warnings });
        } else {
            cx.out.print(&Message::new("Storage resync started"));
        }
        Ok(())
    }
}

fn warn(cx: &Context, warnings: &[String]) {
    warnings.iter().for_each(|warning| cx.out.note(&format!("Warning: {warning}")));
}

/// The text of a file; `-` is stdin.
pub(super) fn read(file: &Path) -> Result<String> {
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
    fn one_key_is_an_object_and_several_an_array() {
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
        let round = crate::upkeep::balancer::ROUND.as_secs().to_string();
        assert_eq!([value("backup.timeouts.balancerStop"), value("restore.timeouts.balancerStop")], [&*round; 2]);
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
    fn assignments_keep_further_equal_signs() {
        assert_eq!(parse_assignment("a.b=c=d"), Ok(("a.b".into(), "c=d".into())));
        assert!(parse_assignment("a.b").is_err() && parse_assignment("=x").is_err());
    }
}
