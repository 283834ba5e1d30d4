//! `pbm restore`: finds the way to what is wanted, shows the plan, asks, queues the command, follows it.

use super::{
    checks,
    dry_run::{self, Question},
    flush, restore_files,
};
use crate::cmd::{
    follow::{
        Waiting,
        document::{self, Document, Goal},
        follow,
        give_up::{self, Sent},
        on_storage::OnStorage,
    },
    io::{
        agents, ask,
        context::Context,
        error::{CliError, Result},
        offered_values::offering,
        output::Report,
        remapping::{Remapping, parse_remapping},
        selection, storage, times, units,
    },
};
use crate::control::Order;
use crate::model::{
    backup::{BackupMeta, BackupType},
    command::{self, RestoreCmd},
    config::{Config, StorageConf},
    restore::RestoreMeta,
    selection::{Narrowed, Selection},
    serde_help::zero_ts,
    status::Status,
};
use crate::preflight::Operation;
use crate::printable;
use crate::restore::plan::{
    members::participants,
    moment::{self, Moment, Unreachable},
    namespaces::Wish,
    restorable, slices,
};
use crate::{config, storages::place};
use bson::Timestamp;
use clap::{ArgGroup, Args};
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};

/// How long agents have to take the command.
pub const TAKEN_WITHIN: Duration = Duration::from_secs(15);
/// The most oplog, in stored bytes, that is read to prepare the question to the user.
const READ_TO_ASK: i64 = 256 << 20;
/// Databases named one by one in the plan.
const NAMED: usize = 10;

/// Put a backup's data back into the running cluster, also as it was at a later moment
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["backup_name", "time"])))]
pub struct Restore {
    /// Name of the backup, as `pbm list` shows it
    #[arg(value_name = "BACKUP", value_parser = selection::name)]
    backup_name: Option<String>,
    /// Restore to this moment: a backup, and the saved oplog behind it
    ///
    /// 2026-03-01T10:20:30 is UTC; an offset (+02:00, Z) can follow. -10m is ten minutes ago, by the clock of this host. T,I is a cluster time in Unix seconds and increment,
    /// and the operation with exactly that time is the last one to be there. A time without an increment means T,0: the
    /// state before the first operation of that second. Fractions of a second are cut. `latest` is now, if the oplog is
    /// being saved: what is not saved yet is saved first. Else it is the end of the saved oplog behind the newest backup, as
    /// far as all replica sets have it, and the end of that backup where there is none.
    #[arg(long, value_name = "TIME", value_parser = offering(parse_moment, &["latest"]), hide_possible_values = true, allow_hyphen_values = true)]
    time: Option<Moment>,
    /// Begin with this backup in place of the newest one before that moment
    #[arg(long, value_name = "BACKUP", conflicts_with = "backup_name", value_parser = selection::name)]
    base_snapshot: Option<String>,
    /// Collections loaded at once on each node; 0 for what the configuration or the agent says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=1024))]
    num_parallel_collections: Option<i32>,
    /// Workers that insert into each collection; 0 for what the configuration says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=1024))]
    num_insertion_workers_per_collection: Option<i32>,
    /// Members that must have finished an index build: majority, votingMembers, or 1 to 50
    #[arg(long, value_name = "QUORUM", value_parser = offering(parse_quorum, &["majority", "votingMembers"]), hide_possible_values = true)]
    index_commit_quorum: Option<String>,
    /// Files of a physical backup that are fetched at once on each node; 0 for what the configuration says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=1024))]
    num_parallel_files: Option<i32>,
    /// Of a physical backup: whether each node keeps its old data until the set is up again
    ///
    /// Without it the configuration decides, and without restore.fallbackEnabled there, it is kept where there is room for both.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    fallback_enabled: Option<bool>,
    /// Of a physical backup: whether the restore counts as done if single nodes failed, which then copy from the others
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_partly_done: Option<bool>,
    /// Other names of the backup's replica sets in this cluster: CLUSTER=BACKUP,...
    #[arg(long, value_name = "MAP", env = "PBM_REPLSET_REMAPPING", value_parser = parse_remapping)]
    replset_remapping: Option<Remapping>,
    #[command(flatten)]
    ns: selection::Namespaces,
    /// Also the users and roles of the databases that --ns selects as a whole (db.*)
    #[arg(long, requires = "ns")]
    with_users_and_roles: bool,
    /// Restore this only, and under another name: db.collection or db.*, several separated by commas
    ///
    /// What has the old names in the cluster stays as it is. All clones of one database go to one database.
    #[arg(long, value_name = "NAMESPACES", requires = "ns_to", conflicts_with_all = ["ns", "ns_exclude"])]
    ns_from: Option<String>,
    /// The other name of each, in the same order; nothing may have it
    #[arg(long, value_name = "NAMESPACES", requires = "ns_from")]
    ns_to: Option<String>,
    /// Also drop collections that the cluster has and the backup lacks, of --ns if it is given
    ///
    /// Without it they stay, with what they have by then.
    #[arg(long, conflicts_with = "ns_from")]
    drop_extra: bool,
    /// Show what would be dropped, created and replayed, and what stays, and do nothing
    ///
    /// The storage is read from here. A restore that would be refused is an error, with all reasons.
    #[arg(long, conflicts_with_all = ["wait", "yes"])]
    dry_run: bool,
    #[command(flatten)]
    waiting: Waiting,
    /// Don't ask
    #[arg(short, long)]
    yes: bool,
}

fn parse_quorum(text: &str) -> Result<String, String> {
    config::index_commit_quorum(text).map(|()| text.to_owned())
}

fn parse_moment(text: &str) -> Result<Moment, String> {
    match text.trim() {
        "latest" => Ok(Moment::Latest),
        text => times::parse(text).map(Moment::At).map_err(|why| format!("{why}, or latest")),
    }
}

/// What is printed at the end.
#[derive(Debug, Serialize)]
struct Restored {
    name: String,
    /// As in the original not told for a moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<String>,
    #[serde(skip)]
    what: String,
    #[serde(skip)]
    status: Status,
    #[serde(skip)]
    sharded: bool,
    #[serde(skip)]
    slicing: Slicing,
}

/// State of point-in-time recovery after an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slicing {
    /// It was off.
    Off,
    /// It is on.
    On,
    /// It was on before, and the original's agents switched it off and did not switch it on again.
    LeftOff,
}

impl Slicing {
    /// Determines the state after an operation; `before` is the configuration from before the operation.
    pub async fn after(cx: &Context, before: &Config) -> Result<Self> {
        let beside_original = !agents::agents_of_the_original(cx).await?.is_empty();
        Ok(Self::of(before.pitr_is_on(), cx.config().await?.pitr_is_on(), beside_original))
    }

    fn of(was_on: bool, is_on: bool, beside_original: bool) -> Self {
        match (was_on, is_on, beside_original) {
            (_, true, _) => Self::On,
            // Our agents switch it on again themselves, perhaps a moment later.
            (true, false, true) => Self::LeftOff,
            (_, false, _) => Self::Off,
        }
    }

    /// What the user has to know and do.
    fn advice(self) -> &'static str {
        match self {
            Self::Off => "",
            Self::On => {
                "\nPoint-in-time recovery is on again, but its timeline starts anew: run `pbm backup`, because only moments \
                 after the next backup can be restored from now on"
            }
            Self::LeftOff => {
                "\nPoint-in-time recovery is off now, as the original's agents leave it: run `pbm config --set \
                 pitr.enabled=true`, then `pbm backup`, because no later moment can be restored until then"
            }
        }
    }
}

/// The text at the end of an operation that has changed data, with what the user has to do now.
pub fn complete(what: &str, sharded: bool, slicing: Slicing) -> String {
    // A router forgets its old routing only if it is asked itself.
    let routers = if sharded {
        "\nBefore clients come back, run db.adminCommand({flushRouterConfig: 1}) on every mongos, or restart them"
    } else {
        ""
    };
    format!("{what} is complete{routers}{}", slicing.advice())
}

impl Report for Restored {
    fn text(&self) -> String {
        if self.status != Status::Done {
            return format!(
                "Restore {} of {} is running; `pbm describe-restore {}` shows how it ends",
                self.name, self.what, self.name
            );
        }
        complete(&format!("Restore {} of {}", self.name, self.what), self.sharded, self.slicing)
    }
}

impl Restore {
    /// Runs the subcommand.
    pub async fn run(self, cx: &Context) -> Result<()> {
        let config = cx.config().await?;
        let (nss, narrowed) = self.ns.check(cx, self.with_users_and_roles).await?;
        if let (Some(from), Some(to)) = (&self.ns_from, &self.ns_to) {
            let wish = Wish::cloning(from, to).map_err(CliError::usage)?;
            if from.contains([',', '*']) {
                selection::understood(cx, &format!("the clone of {}", wish.selection)).await?;
            }
        }
        if self.drop_extra {
            selection::understood(cx, "--drop-extra").await?;
        }
        let map = self.replset_remapping.clone().unwrap_or_default();
        let (name, target, said) = self.way(cx).await?;
        let (backup, sharded) = find(cx, &name, &map).await?;
        if backup.kind == BackupType::Physical {
            return Box::pin(self.of_files(cx, &config, &backup, target, &said)).await;
        }
        self.refuse_options_of_files(&backup)?;
        let wish = self.wish(&backup)?;
        let place = &place::of_backup(&cx.control, &backup, &config.storage).await?;
        let asked = Question { uri: &cx.uri, place, backup: &backup, wish: &wish, map: &map, target };
        if self.dry_run {
            return dry_run::run(cx, &asked).await;
        }
        cx.ready_to_write().await?;
        checks::nothing_runs(&cx.control).await?;
        checks::before(cx, Operation::Restore).await?;
        if !self.yes {
            let plan = match (&self.ns_from, &self.ns_to) {
                (Some(from), Some(to)) => clone_plan(&backup, from, to, target),
                _ => plan(cx, &asked).await,
            };
            let said: String = said.iter().map(|line| format!("\n  attention:    {line}")).collect();
            let plan = plan + &said;
            ask::confirm(cx.out, &plan, "Start the restore?", "nothing was restored").await?;
        }

        let name = units::restore_name(jiff::Timestamp::now());
        let what = match target {
            Some(target) => format!("{} from backup {}", slices::moment(target), backup.name),
            None => format!("backup {}", backup.name),
        };
        cx.out.note(&format!("Starting restore {name} of {what}"));
        let command = self.command(&name, &backup, target, (nss, narrowed));
        give_up::heed_interruptions();
        let opid = cx.control.commands.send(Order::Restore(command)).await?.to_hex();
        let sent = Sent { kind: command::name::RESTORE, opid: &opid };
        document::appears::<RestoreMeta>(cx, &name, sent, TAKEN_WITHIN).await?;
        let goal = if self.waiting.wait { Goal::Ended } else { Goal::Started };
        let meta = follow(cx, Document::<RestoreMeta>::new(cx, &name, goal), self.waiting.limit()).await?;
        let snapshot = target.is_none().then_some(backup.name);
        let slicing = Slicing::after(cx, &config).await?;
        cx.out.print(&Restored { name, snapshot, what, status: meta.status, sharded, slicing });
        Ok(())
    }

    /// Runs the subcommand for a physical backup.
    async fn of_files(
        &self,
        cx: &Context,
        config: &Config,
        backup: &BackupMeta,
        target: Option<Timestamp>,
        said: &[String],
    ) -> Result<()> {
        if self.ns_from.is_some() || self.drop_extra || !self.ns.selection()?.is_everything() {
            return Err(CliError::refused("a physical backup can only be restored as a whole by this release"));
        }
        let place = place::of_backup(&cx.control, backup, &config.storage).await?;
        let fallback = self.fallback_enabled.or(config.restore.as_ref().and_then(|it| it.fallback_enabled));
        let plan = restore_files::plan(cx, &place, backup, target, fallback).await?;
        if self.dry_run {
            cx.out.print(&plan);
            return Ok(());
        }
        cx.ready_to_write().await?;
        checks::nothing_runs(&cx.control).await?;
        checks::before(cx, Operation::Restore).await?;
        if !self.yes {
            let said: String = said.iter().map(|line| format!("\n  attention:    {line}")).collect();
            ask::confirm(cx.out, &(plan.text() + &said), "Start the restore?", "nothing was restored").await?;
        }
        let store = storage::open_here(&config.storage).await?;
        let agents = cx.control.agents.alive(cx.control.cluster_time().await?).await?.len();
        let name = units::restore_name(jiff::Timestamp::now());
        let what = match target {
            Some(target) => format!("{} from backup {}", slices::moment(target), backup.name),
            None => format!("backup {}", backup.name),
        };
        cx.out.note(&format!("Starting restore {name} of {what}"));
        let command = self.command(&name, backup, target, (Vec::new(), None));
        give_up::heed_interruptions();
        let opid = cx.control.commands.send(Order::Restore(command)).await?.to_hex();
        let sent = Sent { kind: command::name::RESTORE, opid: &opid };
        document::appears::<RestoreMeta>(cx, &name, sent, TAKEN_WITHIN).await?;
        let following = OnStorage::new(cx, store, &name, !self.waiting.wait);
        let meta = follow(cx, following, self.waiting.limit()).await?;
        if meta.status == Status::PartlyDone && !self.allows_partly_done(config) {
            return Err(CliError::failed(format!("restore {name} succeeded on some nodes only")));
        }
        let snapshot = target.is_none().then(|| backup.name.clone());
        let slicing = if meta.status.is_final() {
            // The connections of before carry the time of the old set.
            let cx = Context::connect(Some(&cx.uri), cx.out).await?;
            restore_files::agents_are_back(&cx, agents).await;
            Slicing::after(&cx, config).await?
        } else {
            Slicing::Off
        };
        let status = if meta.status == Status::PartlyDone { Status::Done } else { meta.status };
        cx.out.print(&Restored { name, snapshot, what, status, sharded: false, slicing });
        Ok(())
    }

    fn allows_partly_done(&self, config: &Config) -> bool {
        self.allow_partly_done.or(config.restore.as_ref().and_then(|it| it.allow_partly_done)).unwrap_or(true)
    }

    /// Refuses options that only mean something for physical backups.
    fn refuse_options_of_files(&self, backup: &BackupMeta) -> Result<()> {
        let given = [
            (self.fallback_enabled.is_some(), "--fallback-enabled"),
            (self.allow_partly_done.is_some(), "--allow-partly-done"),
            (self.num_parallel_files.is_some(), "--num-parallel-files"),
        ];
        match given.iter().find(|(given, _)| *given) {
            Some((_, option)) => Err(CliError::usage(format!(
                "{option} is for physical backups, and backup {} is {}",
                backup.name, backup.kind
            ))
            .hint("leave it out")),
            None => Ok(()),
        }
    }

    /// The backup to begin with, and the moment to go on to.
    ///
    /// The third value describes newer writes that the latest moment does not include.
    async fn way(&self, cx: &Context) -> Result<(String, Option<Timestamp>, Vec<String>)> {
        let Some(wish) = self.time else {
            let name = self.backup_name.clone().ok_or_else(|| {
                CliError::usage("give the name of a backup, or a moment with --time")
                    .hint("`pbm list` shows the backups, and the ranges in which every moment can be restored")
            })?;
            return Ok((name, None, Vec::new()));
        };
        if wish == Moment::Latest && !self.dry_run {
            flush::up_to_now(cx).await?;
        }
        let (backups, chunks) = (cx.control.backups.readable().await?, cx.control.chunks.all().await?);
        if let Some(base) = self.base_snapshot.as_ref().filter(|base| !backups.iter().any(|it| it.name == **base)) {
            return Err(no_such(base));
        }
        let way = moment::find(&backups, &chunks, wish, self.base_snapshot.as_deref()).map_err(unreachable)?;
        let mut said = Vec::new();
        if wish == Moment::Latest {
            let itself = format!(", the end of backup {}: no saved oplog goes on from it", way.base.name);
            let itself = if way.target.is_none() { itself } else { String::new() };
            cx.out.note(&format!("The latest moment is {}{itself}", slices::moment(way.moment())));
            said = way.leaves_behind(&backups, &chunks, &cx.control.restores.readable().await?);
            said.iter().for_each(|line| cx.out.note(&format!("Attention: {line}")));
        }
        Ok((way.base.name.clone(), way.target, said))
    }

    fn wish(&self, backup: &BackupMeta) -> Result<Wish> {
        if let (Some(from), Some(to)) = (&self.ns_from, &self.ns_to) {
            return Wish::cloning(from, to).map_err(CliError::usage);
        }
        let asked = self.ns.selection()?;
        let wish = Wish::of(asked, self.with_users_and_roles, backup);
        let wish = wish.map_err(|error| CliError::usage(error.to_string()))?;
        Ok(Wish { drop_extra: self.drop_extra, ..wish })
    }

    /// `selected`: as the original understands it, and what it has no words for.
    fn command(
        &self,
        name: &str,
        backup: &BackupMeta,
        target: Option<Timestamp>,
        (nss, narrowed): (Vec<String>, Option<Narrowed>),
    ) -> RestoreCmd {
        RestoreCmd {
            name: name.to_owned(),
            backup_name: backup.name.clone(),
            nss,
            narrowed,
            drop_extra: self.drop_extra,
            ns_from: self.ns_from.clone().unwrap_or_default(),
            ns_to: self.ns_to.clone().unwrap_or_default(),
            users_and_roles: self.with_users_and_roles,
            rs_map: self.replset_remapping.iter().flatten().map(|(from, to)| (from.clone(), to.into())).collect(),
            fallback_enabled: self.fallback_enabled,
            allow_partly_done: self.allow_partly_done,
            num_parallel_files: self.num_parallel_files.filter(|n| *n > 0),
            num_parallel_colls: self.num_parallel_collections.filter(|n| *n > 0),
            num_insertion_workers: self.num_insertion_workers_per_collection.filter(|n| *n > 0),
            index_commit_quorum: self.index_commit_quorum.clone(),
            oplog_ts: target,
            external: false,
            ext_conf: None,
            ext_ts: zero_ts(),
            exit: false,
        }
    }
}

fn unreachable(error: Unreachable) -> CliError {
    error.hints.iter().fold(CliError::refused(error.to_string()), |error, hint| error.hint(hint))
}

fn no_such(name: &str) -> CliError {
    CliError::not_found(format!("there is no backup named {name}"))
        .hint("`pbm list` shows the backups; `pbm config --force-resync` reads the storage again")
}

/// The backup, if it can be restored here.
async fn find(cx: &Context, name: &str, map: &Remapping) -> Result<(BackupMeta, bool)> {
    let backup = cx.control.backups.get(name).await?.ok_or_else(|| no_such(name))?;
    let refuse = |reason: String| CliError::refused(reason).hint("`pbm list` shows backups that can be restored");
    for part in &backup.replsets {
        restorable(&backup, &part.name).map_err(|refusal| refuse(refusal.to_string()))?;
    }
    let cluster = cx.cluster().await?;
    participants(&backup, &cluster, map)
        .map_err(|reasons| refuse(format!("backup '{name}' cannot be restored here: {}", reasons.join("; "))))?;
    Ok((backup, cluster.sharded))
}

/// What will happen, in words.
async fn plan(cx: &Context, asked: &Question<'_>) -> String {
    let Question { place, backup, wish, target, .. } = *asked;
    let end = units::rfc3339(i64::from(backup.last_write_ts.time));
    let mut lines = vec![
        format!("Restore of backup {}:", backup.name),
        format!("  type:         {}", backup.kind),
        match target {
            None => format!("  restore time: {end}"),
            Some(target) => {
                format!("  restore time: {}, by oplog behind the backup, which ends at {end}", slices::moment(target))
            }
        },
        format!("  size:         {} on {}", units::size(backup.size), storage::path(place)),
    ];
    if !wish.selection.is_everything() {
        let users = if wish.users { ", and the users and roles of whole databases" } else { "" };
        lines.push(format!("  only:         {}{users}", wish.selection));
    }
    match replaced(place, backup, &wish.selection).await {
        Ok(databases) => count(&mut lines, "replaces:", &databases),
        Err(error) => {
            lines.push(format!("  replaces:     every collection that the backup holds (not listed: {error:#})"));
        }
    }
    match dropped(cx, asked).await {
        Ok(databases) => count(&mut lines, "drops:", &databases),
        Err(why) => lines.push(format!("  drops:        not counted: {why}")),
    }
    let which = if wish.selection.is_everything() { "Collections" } else { "Selected collections" };
    let others = if wish.drop_extra { "others are dropped, too" } else { "others stay as they are" };
    lines.push(format!(
        "{which} that the backup holds or its oplog speaks of are dropped and made anew, as they were at that time; {others}. \
         `--dry-run` names them."
    ));
    lines.iter().map(|line| printable::line(line)).collect::<Vec<_>>().join("\n")
}

fn count(lines: &mut Vec<String>, what: &str, databases: &BTreeMap<String, usize>) {
    let collections: usize = databases.values().sum();
    lines.push(format!("  {what:<13} {collections} collections in {} databases", databases.len()));
    for (database, count) in databases.iter().take(NAMED) {
        lines.push(format!("                {database} ({count})"));
    }
    if databases.len() > NAMED {
        lines.push(format!("                and {} more databases", databases.len() - NAMED));
    }
}

/// The number of existing collections that the restore drops, by database. This requires reading the oplog, which takes too
/// long for a question if there is much oplog.
async fn dropped(cx: &Context, asked: &Question<'_>) -> Result<BTreeMap<String, usize>, String> {
    if let Some(target) = asked.target {
        let chunks = cx.control.chunks.all().await.map_err(|error| format!("{error:#}"))?;
        let replayed = chunks.iter().filter(|it| it.end_ts > asked.backup.last_write_ts && it.start_ts <= target);
        let bytes: i64 = replayed.map(|chunk| chunk.size).sum();
        if bytes > READ_TO_ASK {
            return Err(format!("`--dry-run` reads {} of oplog for it", units::size(bytes)));
        }
    }
    dry_run::drops(cx, asked).await.map_err(|error| format!("{:#}", error.source))
}

/// What a clone will do.
fn clone_plan(backup: &BackupMeta, from: &str, to: &str, target: Option<Timestamp>) -> String {
    let time = target.map_or_else(|| units::rfc3339(i64::from(backup.last_write_ts.time)), slices::moment);
    let (name, from, to) = (printable::line(&backup.name), printable::line(from), printable::line(to));
    format!(
        "Restore of backup {name}:\n  clones:       {from} as {to}\n  restore time: {time}\nEverything in the cluster stays as it is; nothing may have the new names."
    )
}

/// Databases of the backup with the number of their collections.
async fn replaced(
    place: &StorageConf,
    backup: &BackupMeta,
    selection: &Selection,
) -> anyhow::Result<BTreeMap<String, usize>> {
    let store = storage::open_here(place).await?;
    let mut databases = BTreeMap::new();
    for part in &backup.replsets {
        for ns in storage::namespaces(store.as_ref(), backup, &part.name).await? {
            if !matches!(ns.db.as_str(), "admin" | "config" | "local") && selection.wants(&ns.db, &ns.coll) {
                *databases.entry(ns.db).or_insert(0) += 1;
            }
        }
    }
    Ok(databases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slicing_is_left_off_only_by_agents_of_the_original() {
        for (was_on, is_on, beside_original, slicing) in [
            (true, false, true, Slicing::LeftOff),
            (true, false, false, Slicing::Off),
            (false, false, true, Slicing::Off),
            (false, false, false, Slicing::Off),
            (true, true, true, Slicing::On),
            (true, true, false, Slicing::On),
            (false, true, false, Slicing::On),
        ] {
            assert_eq!(Slicing::of(was_on, is_on, beside_original), slicing, "{was_on} {is_on} {beside_original}");
        }
        assert!(Slicing::LeftOff.advice().contains("`pbm config --set pitr.enabled=true`"));
        assert_eq!(Slicing::Off.advice(), "");
    }

    #[test]
    fn remappings_are_parsed_or_refused() {
        let map = parse_remapping("a=x, b=y").expect("a map");
        assert_eq!(map, [("x", "a"), ("y", "b")].map(|(from, to)| (from.to_owned(), to.to_owned())).into());
        for bad in ["garbage", "a=", "=x", "a=x=y", "a=x,a=y", "a=x,b=x"] {
            assert!(parse_remapping(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_result_is_the_originals() {
        let mut done = Restored {
            name: "r".into(),
            snapshot: Some("b".into()),
            what: "backup b".into(),
            status: Status::Done,
            sharded: false,
            slicing: Slicing::Off,
        };
        assert_eq!(serde_json::to_string(&done).expect("json"), r#"{"name":"r","snapshot":"b"}"#);
        assert_eq!(done.text(), "Restore r of backup b is complete");
        (done.snapshot, done.slicing) = (None, Slicing::On);
        assert_eq!(serde_json::to_string(&done).expect("json"), r#"{"name":"r"}"#);
        assert!(done.text().contains("`pbm backup`"));
        done.slicing = Slicing::LeftOff;
        assert!(done.text().contains("is off now") && done.text().contains("pitr.enabled=true"));
    }

    #[test]
    fn moments_are_parsed() {
        assert_eq!(parse_moment("latest"), Ok(Moment::Latest));
        assert_eq!(parse_moment("5,7"), Ok(Moment::At(Timestamp { time: 5, increment: 7 })));
        assert!(parse_moment("soon").is_err_and(|why| why.contains("or latest")));
    }
}
