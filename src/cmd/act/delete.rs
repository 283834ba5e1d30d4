//! `pbm delete-backup`, `pbm delete-pitr`, `pbm cleanup`: show what goes and why, ask, queue the command, follow it.

use super::{
    checks::{self, Need},
    cleanup_failed,
    consent::Consent,
    prune_plan::{NOTHING, Shown},
};
use crate::cmd::{
    follow::{Waiting, follow, give_up, lock::Lock},
    io::{
        context::Context,
        error::{CliError, Result},
        offered_values::offering,
        output::Message,
        profiles, selection,
        times::Moment,
    },
    show::list::List,
};
use crate::control::Order;
use crate::model::command::{CleanupCmd, DeleteCmd, DeletePitrCmd};
use crate::storages::place;
use crate::upkeep::deletion::{
    prune,
    retention::{self, Ask, Kind, Refusal},
};
use bson::Timestamp;
use clap::{ArgGroup, Args};

/// Delete a backup, or those older than a time
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["name", "older_than"])))]
pub struct DeleteBackup {
    /// Name of the backup, as `pbm list` shows it; its increments go with it
    #[arg(value_name = "BACKUP", value_parser = selection::name)]
    name: Option<String>,
    /// Delete backups older than this: 2026-03-01, 2026-03-01T10:20:30 (UTC), 2w, 30d or 12h
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    older_than: Option<Moment>,
    /// Only of this type: logical, physical, incremental, external or selective
    #[arg(short = 't', long = "type", value_name = "TYPE", value_parser = offering(parse_kind, KINDS), hide_possible_values = true, requires = "older_than", conflicts_with = "name")]
    kind: Option<String>,
    #[command(flatten)]
    profile: Profile,
    #[command(flatten)]
    consent: Consent,
    /// The same as --yes
    #[arg(short, long, hide = true)]
    force: bool,
}

/// Delete the oplog saved for point-in-time recovery
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["older_than", "all"])))]
pub struct DeletePitr {
    /// Delete what restores to this time and later don't need: 2026-03-01, 2026-03-01T10:20:30 (UTC), 2w, 30d or 12h
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    older_than: Option<Moment>,
    /// Delete everything: backups can be restored to their own times only
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    consent: Consent,
    /// The same as --yes
    #[arg(short, long, hide = true)]
    force: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// Delete backups and saved oplog that restores to a time and later don't need, or what failed backups left
#[derive(Debug, Args)]
pub struct Cleanup {
    /// Keep restorable what is from here on: 2026-03-01, 2026-03-01T10:20:30 (UTC), 2w, 30d or 12h
    #[arg(
        long,
        value_name = "TIME",
        required_unless_present = "failed",
        conflicts_with = "failed",
        allow_hyphen_values = true
    )]
    older_than: Option<Moment>,
    /// Delete failed, cancelled and stuck backups of any age, and folders that have a backup's name and belong to none
    #[arg(long)]
    failed: bool,
    #[command(flatten)]
    profile: Profile,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    waiting: Waiting,
}

const KINDS: &[&str] = &["logical", "physical", "incremental", "external", "selective"];

fn parse_kind(text: &str) -> Result<String, String> {
    text.parse::<Kind>().map(|_| text.to_owned())
}

#[derive(Debug, Args)]
struct Profile {
    /// Storage profile whose backups are meant [default: main]
    #[arg(long, value_name = "PROFILE")]
    profile: Option<String>,
}

impl Profile {
    /// The profile, if it is not the main storage.
    async fn read(&self, cx: &Context) -> Result<Option<String>> {
        let Some(name) = self.profile.as_ref().filter(|name| !place::is_main(name)) else { return Ok(None) };
        profiles::known(cx, name).await?;
        Ok(Some(name.clone()))
    }

    /// A backup that is named with a profile has to lie there.
    async fn must_hold(&self, cx: &Context, backup: &str) -> Result<()> {
        let Some(name) = &self.profile else { return Ok(()) };
        let wanted = self.read(cx).await?;
        match cx.control.backups.get(backup).await? {
            Some(meta) if place::profile_of(&meta.store) != wanted.as_deref() => {
                let place = place::profile_of(&meta.store).unwrap_or(place::MAIN);
                Err(CliError::refused(format!(
                    "backup {backup} is not on the storage of {name} but on that of {place}"
                ))
                .hint("leave --profile out: a backup is found by its name"))
            }
            _ => Ok(()),
        }
    }
}

impl DeleteBackup {
    /// Runs the subcommand.
    pub async fn run(mut self, cx: &Context) -> Result<()> {
        self.consent.yes |= self.force;
        let kind: Option<Kind> = match &self.kind {
            Some(kind) => Some(kind.parse().map_err(|why| CliError::usage(format!("--type {kind}: {why}")))?),
            None => None,
        };
        let (wanted, command) = match (&self.name, self.older_than) {
            (None, Some(moment)) => {
                let before = whole_seconds(past(cx, moment).await?);
                let kind_word = self.kind.clone().unwrap_or_default();
                let profile = self.profile.read(cx).await?;
                let command = DeleteCmd {
                    olderthan: before.time.into(),
                    kind: kind_word,
                    profile: profile.clone().unwrap_or_default(),
                    ..DeleteCmd::default()
                };
                (Ask::Backups { before, kind, profile }, command)
            }
            (name, _) => {
                let name = name.clone().unwrap_or_default();
                self.profile.must_hold(cx, &name).await?;
                (Ask::Backup(name.clone()), DeleteCmd { backup: name, ..DeleteCmd::default() })
            }
        };
        let wait = Waiting::FOREVER;
        carry_out(cx, &wanted, Order::Delete(command), &self.consent, &wait).await
    }
}

impl DeletePitr {
    /// Runs the subcommand.
    pub async fn run(mut self, cx: &Context) -> Result<()> {
        self.consent.yes |= self.force;
        let (wanted, olderthan) = match self.older_than {
            Some(moment) => {
                let before = whole_seconds(past(cx, moment).await?);
                (Ask::Chunks { before }, before.time.into())
            }
            None => (Ask::AllChunks, 0),
        };
        let command = Order::DeletePitr(DeletePitrCmd { olderthan });
        carry_out(cx, &wanted, command, &self.consent, &self.waiting).await
    }
}

impl Cleanup {
    /// Runs the subcommand.
    pub async fn run(self, cx: &Context) -> Result<()> {
        let profile = self.profile.read(cx).await?;
        let Some(moment) = self.older_than else {
            return cleanup_failed::run(cx, profile, &self.consent, &self.waiting).await;
        };
        let before = past(cx, moment).await?;
        let command = Order::Cleanup(CleanupCmd { older_than: before, profile: profile.clone().unwrap_or_default() });
        carry_out(cx, &Ask::Everything { before, profile }, command, &self.consent, &self.waiting).await
    }
}

/// The time that is meant, if it is not to come yet and not nothing.
async fn past(cx: &Context, moment: Moment) -> Result<Timestamp> {
    let now = cx.control.advanced_cluster_time().await?;
    let before = moment.from(now);
    if before.time > now.time {
        let (asked, now) =
            (crate::cmd::io::units::rfc3339(before.time.into()), crate::cmd::io::units::rfc3339(now.time.into()));
        return Err(
            CliError::usage(format!("--older-than {asked} is after now, {now}")).hint("give a time that has passed")
        );
    }
    if before.time == 0 {
        return Err(CliError::usage("--older-than is before everything").hint("give a later time"));
    }
    Ok(before)
}

/// Commands other than `cleanup` carry seconds.
fn whole_seconds(before: Timestamp) -> Timestamp {
    Timestamp { increment: 0, ..before }
}

fn refused(refusal: &Refusal) -> CliError {
    let error = CliError::refused(refusal.to_string());
    match refusal {
        Refusal::NoSuch(_) => {
            CliError::not_found(refusal.to_string()).hint("`pbm list` and `pbm status` show the backups")
        }
        Refusal::Runs { .. } => error.hint("wait for its end, or run `pbm cancel-backup`"),
        Refusal::IsIncrement { first, .. } => {
            error.hint(format!("`pbm delete-backup {first}` deletes the whole chain"))
        }
        Refusal::LastBase(_) => {
            error.hint("make a new backup first, or switch PITR off with `pbm config --set pitr.enabled=false`")
        }
    }
}

async fn carry_out(cx: &Context, wanted: &Ask, order: Order, consent: &Consent, waiting: &Waiting) -> Result<()> {
    let config = cx.config().await?;
    // Before the plan, which an operation under way would change.
    if !consent.dry_run {
        checks::nothing_runs(&cx.control).await?;
    }
    let facts = prune::facts(&cx.control, &config).await?;
    let plan = retention::plan(&facts, wanted).map_err(|refusal| refused(&refusal))?;
    let shown = Shown::read(cx, &facts, &plan, facts.slicing.is_on()).await?;
    if consent.dry_run {
        cx.out.print(&shown);
        return Ok(());
    }
    if shown.is_empty() {
        cx.out.note(&shown.reasons());
        cx.out.print(&Message::new(NOTHING));
        return Ok(());
    }
    cx.ready_to_write().await?;
    checks::agents(cx, Need::Any).await?;
    consent.given(cx, &shown.plan()).await?;
    let event = order.event();
    give_up::heed_interruptions();
    let opid = cx.control.commands.send(order).await?.to_hex();
    if !waiting.wait {
        cx.out.print(&Message::new(format!(
            "The agents delete it; `pbm logs -e {event} -i {opid}` shows when it is done"
        )));
        return Ok(());
    }
    follow(cx, Lock::new(cx, event, &opid), waiting.limit()).await?;
    List::default().run(cx).await
}
