//! `pbm backup`: checks, queues the command, follows it.

use super::{checks, profile};
use crate::cmd::{
    follow::{
        Waiting,
        document::{self, Document, Goal},
        follow,
        give_up::{self, Sent},
    },
    io::{
        agents,
        context::Context,
        error::{CliError, Result},
        offered_values::offering,
        output::Report,
        selection, storage, units,
    },
};
use crate::compress::{check_level, level_remark};
use crate::config::resolved::Resolved;
use crate::control::{LogQuery, Order};
use crate::model::{
    agent::AgentStat,
    backup::{BackupMeta, BackupType, Way},
    command::{self, BackupCmd},
    compression::Compression,
    config::Config,
    log::Severity,
    rate::Rate,
    status::Status,
};
use crate::preflight::Operation;
use crate::storages::place;
use crate::topo::elect::{self, Locked, Preference};
use clap::Args;
use serde::Serialize;
use std::time::Duration;

/// The newest warnings that are told.
const WARNINGS: i64 = 10;
/// How long agents have to take the command.
const TAKEN_WITHIN: Duration = Duration::from_secs(33);

/// Make a backup of the whole cluster
#[derive(Debug, Args)]
pub struct Backup {
    /// Kind of backup: logical (documents), or physical (data files; only of replica sets)
    #[arg(short = 't', long = "type", value_name = "TYPE", default_value = "logical", value_parser = offering(parse_type, &["logical", "physical"]), hide_possible_values = true)]
    kind: BackupType,
    /// Codec of the data: none, gzip, pgzip, snappy, lz4, s2 or zstd [default: the configuration's, or s2]
    #[arg(long, value_name = "CODEC", value_parser = offering(parse_codec, Compression::NAMES), hide_possible_values = true)]
    compression: Option<Compression>,
    /// Level of the codec
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    compression_level: Option<i32>,
    /// Collections dumped at once on each node; 0 for what the configuration or the agent says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=1024))]
    num_parallel_collections: Option<i32>,
    /// Data files stored at once by a physical backup; 0 for what the configuration or the agent says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=1024))]
    num_parallel_files: Option<i32>,
    /// A physical backup may lock the only member of a replica set; all its writes wait meanwhile
    #[arg(long)]
    allow_lock_on_only_member: bool,
    /// Storage profile that the backup is made to
    #[arg(long, value_name = "PROFILE", default_value = place::MAIN)]
    profile: String,
    /// Send at most this much per second from each node, such as 50MiB or 800KiB; 0 for no limit [default: the
    /// configuration's backup.limitUpload, or none]
    #[arg(long, value_name = "RATE")]
    limit_upload: Option<Rate>,
    #[command(flatten)]
    ns: selection::Namespaces,
    /// Also the users and roles of the databases that --ns selects as a whole (db.*)
    #[arg(long, requires = "ns")]
    with_users_and_roles: bool,
    /// A few words about it, which `pbm describe-backup` shows
    #[arg(long, value_name = "TEXT", value_parser = parse_description)]
    description: Option<String>,
    #[command(flatten)]
    waiting: Waiting,
}

/// The longest description, in bytes: it is read with every list of backups.
const DESCRIPTION: usize = 1000;

fn parse_description(text: &str) -> Result<String, String> {
    if text.len() > DESCRIPTION {
        return Err(format!("it has {} bytes; {DESCRIPTION} are allowed", text.len()));
    }
    Ok(text.to_owned())
}

/// One parser for all command lines, so that completion can offer the names.
pub fn parse_codec(text: &str) -> Result<Compression, String> {
    text.parse()
}

fn parse_type(text: &str) -> Result<BackupType, String> {
    match text {
        "logical" => Ok(BackupType::Logical),
        "physical" => Ok(BackupType::Physical),
        "incremental" | "external" => Err(format!(
            "{text} backups need Percona Server for MongoDB and are not in this build; use logical or physical"
        )),
        _ => Err("unknown; use logical or physical".to_owned()),
    }
}

/// What is printed at the end.
#[derive(Debug, Serialize)]
struct Made {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
    #[serde(rename = "storagePath")]
    storage_path: String,
    /// *Added by us*: what the agents warned of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(skip)]
    status: Status,
    #[serde(skip)]
    size: i64,
}

impl Report for Made {
    fn text(&self) -> String {
        if self.status == Status::Done {
            let profile = self.profile.as_ref().map(|name| format!(" (profile {name})")).unwrap_or_default();
            return format!(
                "Backup {} is complete: {} in {}{profile}",
                self.name,
                units::size(self.size),
                self.storage_path
            );
        }
        format!(
            "Backup {} is running; it is complete when `pbm list` shows it (`pbm status -s running` shows how far it is)",
            self.name
        )
    }
}

impl Backup {
    /// Runs the subcommand.
    pub async fn run(self, cx: &Context) -> Result<()> {
        let config = cx.config().await?;
        let (compression, level) = self.codec(&config)?;
        if let Some(remark) = level_remark(compression, level) {
            cx.out.note(&format!("Warning: {remark}"));
        }
        let (nss, narrowed) = self.ns.check(cx, self.with_users_and_roles).await?;
        let files = self.files(cx, !nss.is_empty()).await?;
        let place = profile::place(cx, &config.storage, &self.profile).await?;
        if self.limit_upload.is_some() {
            agents::ours_only(cx, "--limit-upload", "leave --limit-upload out").await?;
        }
        cx.ready_to_write().await?;
        checks::nothing_runs(&cx.control).await?;
        let operation = if place.name.is_some() { Operation::ProfileBackup } else { Operation::Backup };
        checks::before_backup(cx, operation, files).await?;
        if let Some(locked) = files {
            explain_lock(cx, locked).await?;
        }

        let name = free_name(cx).await?;
        let command = BackupCmd {
            kind: self.kind,
            base: false,
            name: name.clone(),
            nss,
            narrowed,
            compression,
            level,
            num_parallel_files: self.num_parallel_files.filter(|n| *n > 0),
            allow_only_member: self.allow_lock_on_only_member,
            num_parallel_colls: self.num_parallel_collections.filter(|n| *n > 0),
            profile: place.name.clone().unwrap_or_default(),
            users_and_roles: self.with_users_and_roles,
            limit_upload: self.limit_upload,
            description: self.description.clone().filter(|text| !text.is_empty()),
        };
        if command.description.is_some() {
            let others = agents::agents_of_the_original(cx).await?;
            if !others.is_empty() {
                cx.out.note(&format!(
                    "Warning: the description is lost if one of these agents of the original makes the backup: {}",
                    others.join(", ")
                ));
            }
        }
        cx.out.announce(&starting(&name, place.name.as_deref()));
        give_up::heed_interruptions();
        let opid = cx.control.commands.send(Order::Backup(command)).await?.to_hex();
        let sent = Sent { kind: command::name::BACKUP, opid: &opid };
        document::appears::<BackupMeta>(cx, &name, sent, TAKEN_WITHIN).await?;
        let goal = if self.waiting.wait { Goal::Ended } else { Goal::Started };
        let meta = follow(cx, Document::<BackupMeta>::new(cx, &name, goal), self.waiting.limit()).await?;
        cx.out.print(&Made {
            warnings: warnings(cx, &opid).await,
            name,
            storage_path: storage::path(&place),
            profile: place.name,
            status: meta.status,
            size: meta.size,
        });
        Ok(())
    }

    /// For a physical backup: whom it may lock. Refuses what can't be combined with its type.
    async fn files(&self, cx: &Context, selective: bool) -> Result<Option<Locked>> {
        if self.kind != BackupType::Physical {
            let given = [
                ("--allow-lock-on-only-member", self.allow_lock_on_only_member),
                ("--num-parallel-files", self.num_parallel_files.is_some_and(|n| n > 0)),
            ];
            if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
                return Err(CliError::usage(format!("{option} is for physical backups; add --type physical")));
            }
            return Ok(None);
        }
        if selective {
            return Err(CliError::usage(crate::backup::NOT_SELECTIVE));
        }
        if cx.cluster().await?.sharded {
            return Err(CliError::refused(crate::backup::NOT_SHARDED).hint("nothing was started"));
        }
        agents::ours_only(cx, "--type physical on this server", "use --type logical, or replace these agents first")
            .await?;
        Ok(Some(Locked { only_member: self.allow_lock_on_only_member }))
    }

    /// The option wins over the configuration. A configured level belongs to the configured codec.
    fn codec(&self, config: &Config) -> Result<(Compression, Option<i32>)> {
        let configured = Resolved::of(config).backup;
        let codec = self.compression.unwrap_or(configured.compression);
        let level = self.compression_level.or(configured.level.filter(|_| codec == configured.compression));
        check_level(codec, level).map_err(|reason| {
            CliError::usage(reason)
                .hint("give another --compression-level, or correct backup.compressionLevel with `pbm config --set`")
        })?;
        Ok((codec, level))
    }
}

/// Says which node will be locked, how its files are taken, and what that means.
async fn explain_lock(cx: &Context, locked: Locked) -> Result<()> {
    let alive = cx.control.agents.alive(cx.control.cluster_time().await?).await?;
    let config = cx.config().await?;
    let settings = Resolved::of(&config).backup;
    for rs in cx.members().await? {
        let preference = Preference { priority: settings.priority.as_ref(), slicing: &[], files: Some(locked) };
        let field = elect::field(&alive, &rs, preference);
        let candidates = field.tiers.into_iter().next().unwrap_or_default();
        for agent in alive.iter().filter(|agent| candidates.contains(&agent.n)) {
            cx.out.note(&lock_sentence(agent, settings.physical.max_lock));
        }
    }
    Ok(())
}

fn lock_sentence(agent: &AgentStat, limit: Duration) -> String {
    let files = agent.files.clone().unwrap_or_default();
    let bytes = units::size(files.bytes);
    let time = match files.way {
        Some(Way::Reflink) => "about a second".to_owned(),
        Some(Way::Snapshot) => "as long as the command runs".to_owned(),
        Some(Way::TwoPasses) => "as long as it takes to read what has changed meanwhile".to_owned(),
        Some(Way::UnderLock) | None => "as long as it takes to send them".to_owned(),
    };
    let how = files.way.map_or("taken", Way::words);
    format!(
        "{} may be locked for its data files ({bytes}, {how}): {time}, at most {} s (backup.physical.maxLockSec)",
        agent.n,
        limit.as_secs()
    )
}

/// The wording is the original's: scripts find the name between the quotes.
fn starting(name: &str, profile: Option<&str>) -> String {
    let to = profile.map(|profile| format!(" (profile: \"{profile}\")")).unwrap_or_default();
    format!("Starting backup '{name}'{to}")
}

/// What the agents warned of so far, such as another cluster on the same storage.
async fn warnings(cx: &Context, opid: &str) -> Vec<String> {
    let severity = Some(Severity::Warning as i32);
    let query = LogQuery { opid: Some(opid.to_owned()), severity, ..LogQuery::default() };
    // The backup itself went well; a log that can't be read is no reason to say otherwise.
    let lines = cx.control.logs.newest(&query, WARNINGS).await.unwrap_or_default();
    let said: Vec<String> = lines.into_iter().map(|line| line.msg).collect();
    said.iter().for_each(|warning| cx.out.note(&format!("Warning: {warning}")));
    said
}

/// The name is the second of the start; the next second when this one is taken.
async fn free_name(cx: &Context) -> Result<String> {
    loop {
        let name = units::backup_name();
        if cx.control.backups.raw(&name).await?.is_none() {
            return Ok(name);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::BackupConf;

    fn backup(compression: Option<Compression>, compression_level: Option<i32>) -> Backup {
        Backup {
            kind: BackupType::Logical,
            compression,
            compression_level,
            num_parallel_collections: None,
            num_parallel_files: None,
            allow_lock_on_only_member: false,
            profile: place::MAIN.to_owned(),
            limit_upload: None,
            ns: selection::Namespaces::default(),
            with_users_and_roles: false,
            description: None,
            waiting: Waiting::default(),
        }
    }

    #[test]
    fn the_option_wins_over_the_configuration() {
        let conf =
            BackupConf { compression: Some(Compression::Gzip), compression_level: Some(7), ..BackupConf::default() };
        let config = Config { backup: Some(conf), ..Config::default() };
        let codec = |a, b| backup(a, b).codec(&config).map_err(|e| e.source.to_string());
        assert_eq!(codec(None, None), Ok((Compression::Gzip, Some(7))));
        assert_eq!(codec(None, Some(1)), Ok((Compression::Gzip, Some(1))));
        assert_eq!(codec(Some(Compression::Zstd), None), Ok((Compression::Zstd, None)));
        assert!(codec(None, Some(10)).expect_err("no such level").contains("level 10"));
        assert_eq!(backup(None, None).codec(&Config::default()).expect("fine"), (Compression::S2, None));
    }

    #[test]
    fn a_script_finds_the_name_between_quotes() {
        assert_eq!(starting("n", None), "Starting backup 'n'");
        assert_eq!(starting("n", Some("p")), "Starting backup 'n' (profile: \"p\")");
    }

    #[test]
    fn the_result_is_the_originals() {
        let mut made = Made {
            name: "n".into(),
            profile: None,
            storage_path: "/b".into(),
            warnings: Vec::new(),
            status: Status::Done,
            size: 5,
        };
        assert_eq!(serde_json::to_string(&made).expect("json"), r#"{"name":"n","storagePath":"/b"}"#);
        made.profile = Some("p".into());
        assert_eq!(serde_json::to_string(&made).expect("json"), r#"{"name":"n","profile":"p","storagePath":"/b"}"#);
    }
}
