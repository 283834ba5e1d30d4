//! `pbm profile`: storages beside the main one.

use super::{
    checks::{self, Need},
    config,
};
use crate::cmd::{
    follow::{Waiting, follow, lock::Lock},
    io::{
        context::Context,
        error::{CliError, Result},
        output::{Report, Shown, yaml},
        profiles, storage,
    },
};
use crate::control::{Order, Shelf};
use crate::model::{
    command::{ResyncCmd, name},
    config::{Config, StorageConf},
};
use crate::{
    config::{mask, same_place},
    storages::place,
};
use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;

/// Storages beside the main one: list, show, add, remove, read again
#[derive(Debug, Args)]
pub struct Profile {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the profiles (also without a subcommand)
    List,
    /// Show one profile
    Show {
        /// Name of the profile
        #[arg(value_name = "PROFILE")]
        name: String,
    },
    Add(Add),
    Remove(Remove),
    Sync(Sync),
}

/// Add a profile, or change the settings of one
#[derive(Debug, Args)]
struct Add {
    /// Name of the profile
    #[arg(value_name = "PROFILE", value_parser = parse_new_name)]
    name: String,
    /// YAML file with a section `storage`, as in the configuration; `-` reads stdin
    file: PathBuf,
    /// Also read which backups the storage holds
    #[arg(long)]
    sync: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// Forget a profile and its backups; the files stay on its storage
#[derive(Debug, Args)]
struct Remove {
    /// Name of the profile
    #[arg(value_name = "PROFILE", value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    waiting: Waiting,
}

/// Read again which backups the storages of profiles hold
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["name", "all"])))]
struct Sync {
    /// Name of the profile
    #[arg(value_name = "PROFILE", value_parser = parse_name)]
    name: Option<String>,
    /// Of all profiles
    #[arg(long)]
    all: bool,
    /// Forget the backups in place of reading; the files stay
    #[arg(long)]
    clear: bool,
    /// Take a storage that was used before, and lacks its mark, for a new one: forget the backups of the old one
    ///
    /// Without it such a storage is an error, because most often a mount is missing.
    #[arg(long, conflicts_with = "clear")]
    accept_empty: bool,
    #[command(flatten)]
    waiting: Waiting,
}

fn parse_name(text: &str) -> Result<String, String> {
    if place::is_main(text) {
        return Err("it can't be the name of a profile: `main` is the storage of `pbm config`".to_owned());
    }
    if text == profiles::ALL {
        return Err("it can't be the name of a profile: it means all storages where one can be chosen".to_owned());
    }
    Ok(text.to_owned())
}

/// A name that people can see and type.
fn parse_new_name(text: &str) -> Result<String, String> {
    const LONGEST: usize = 128;
    if text.trim() != text || text.contains(char::is_control) {
        return Err("the name of a profile has no spaces around it and no control characters".to_owned());
    }
    if text.len() > LONGEST {
        return Err(format!("the name of a profile has at most {LONGEST} bytes"));
    }
    parse_name(text)
}

/// The storage that `--profile` means: a profile's, or the main one.
///
/// # Errors
/// As [`profiles::known`].
pub async fn place(cx: &Context, main: &StorageConf, profile: &str) -> Result<StorageConf> {
    if place::is_main(profile) {
        return Ok(main.clone());
    }
    Ok(place::named(&profiles::known(cx, profile).await?))
}

#[derive(Debug, Serialize)]
struct Profiles {
    profiles: Vec<Value>,
}

impl Report for Profiles {
    fn text(&self) -> String {
        self.profiles.iter().map(yaml).collect::<Vec<_>>().join("\n---\n")
    }

    fn is_prose(&self) -> bool {
        false
    }
}

/// The original's one word for programs, a sentence for people.
#[derive(Debug, Serialize)]
struct Done {
    msg: &'static str,
    /// *Added by us*: what was met with on the way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(skip)]
    text: String,
}

impl Report for Done {
    fn text(&self) -> String {
        self.text.clone()
    }
}

fn done(text: String) -> Done {
    Done { msg: "OK", warnings: Vec::new(), text }
}

impl Profile {
    /// Runs the subcommand.
    pub async fn run(self, cx: &Context) -> Result<()> {
        match self.command.unwrap_or(Command::List) {
            Command::List => {
                let all = cx.control.config.profiles().await?;
                if all.is_empty() {
                    cx.out.note("There are no profiles; `pbm profile add NAME FILE` adds one");
                }
                all.iter().for_each(|profile| warn(cx, profile));
                let profiles = all.iter().map(mask::shown).collect::<anyhow::Result<_>>()?;
                cx.out.print(&Profiles { profiles });
                Ok(())
            }
            Command::Show { name } => {
                let profile = profiles::known(cx, &name).await?;
                warn(cx, &profile);
                cx.out.print(&Shown(mask::shown(&profile)?));
                Ok(())
            }
            Command::Add(it) => it.run(cx).await,
            Command::Remove(it) => it.run(cx).await,
            Command::Sync(it) => it.run(cx).await,
        }
    }
}

/// What of the stored profile can't be used.
fn warn(cx: &Context, profile: &Config) {
    let name = profile.name.as_deref().unwrap_or_default();
    for mistake in &profile.mistakes {
        cx.out.note(&format!("Warning: in profile {name} {mistake}; `pbm profile add {name} FILE` corrects it"));
    }
}

impl Add {
    async fn run(self, cx: &Context) -> Result<()> {
        let text = config::read(&self.file)?;
        let profiles = cx.control.config.profiles().await?;
        let stored = place::find(&profiles, &self.name).ok().map(|profile| &profile.storage);
        let (settings, unused) = place::read(&text, stored)?;
        let main = cx.config().await?;
        self.check_place(cx, &main, &settings).await?;
        if !unused.is_empty() {
            cx.out.note(&format!(
                "Of a profile only the section storage is used; not used: {}. Those are the main configuration's",
                unused.join(", ")
            ));
        }
        ready(cx).await?;
        let order = Order::AddProfile { name: self.name.clone(), storage: settings };
        let opid = cx.control.commands.send(order).await?.to_hex();
        if !self.waiting.wait && !self.sync {
            cx.out.print(&done(format!("An agent adds the profile; `pbm logs -i {opid}` shows how it ends")));
            return Ok(());
        }
        follow(cx, Lock::new(cx, name::ADD_PROFILE, &opid), self.waiting.limit()).await?;
        if !self.sync {
            cx.out.print(&done(format!("Profile {} is added", self.name)));
            return Ok(());
        }
        let command = ResyncCmd { name: self.name.clone(), ..ResyncCmd::default() };
        let said = format!("Profile {} is added, and its storage read", self.name);
        send_sync(cx, command, &self.waiting, said).await
    }

    /// A profile can get other keys, but not another place while backups are known at the old one.
    async fn check_place(&self, cx: &Context, main: &Config, settings: &StorageConf) -> Result<()> {
        let profiles = cx.control.config.profiles().await?;
        let path = storage::path(settings);
        if same_place(&main.storage, settings) {
            cx.out.note(&format!("Warning: {path} is the main storage too; its backups belong to that"));
        }
        for other in &profiles {
            let name = other.name.as_deref().unwrap_or_default();
            let same = other.storage.unusable.is_some() || same_place(&other.storage, settings);
            if name != self.name {
                if same {
                    cx.out.note(&format!(
                        "Warning: profile {name} is at {path} too; a backup is listed under one of them"
                    ));
                }
                continue;
            }
            let backups = cx.control.backups.count_on(Shelf::Profile(name)).await?;
            if !same && backups > 0 {
                return Err(CliError::refused(format!(
                    "profile {name} is at {}, where {backups} backups are known; it can't move to {path}",
                    storage::path(&other.storage)
                ))
                .hint("choose another name")
                .hint(format!("or forget it and its backups first, whose files stay: `pbm profile remove {name}`")));
            }
        }
        Ok(())
    }
}

impl Remove {
    async fn run(self, cx: &Context) -> Result<()> {
        profiles::known(cx, &self.name).await?;
        ready(cx).await?;
        let opid = cx.control.commands.send(Order::RemoveProfile { name: self.name.clone() }).await?.to_hex();
        if !self.waiting.wait {
            cx.out.print(&done(format!("An agent removes the profile; `pbm logs -i {opid}` shows how it ends")));
            return Ok(());
        }
        follow(cx, Lock::new(cx, name::REMOVE_PROFILE, &opid), self.waiting.limit()).await?;
        cx.out.print(&done(format!("Profile {} is removed; its backups stay on its storage", self.name)));
        Ok(())
    }
}

impl Sync {
    async fn run(self, cx: &Context) -> Result<()> {
        if let Some(name) = &self.name {
            profiles::known(cx, name).await?;
        } else if cx.control.config.profiles().await?.is_empty() {
            cx.out.print(&done("There are no profiles".to_owned()));
            return Ok(());
        }
        ready(cx).await?;
        let what = self.name.as_ref().map_or_else(|| "all profiles".to_owned(), |name| format!("profile {name}"));
        let said = match self.clear {
            true => format!("The backups of {what} are forgotten; their files stay"),
            false => format!("The storage of {what} has been read"),
        };
        let command = ResyncCmd {
            name: self.name.unwrap_or_default(),
            all: self.all,
            clear: self.clear,
            include_restores: false,
            accept_empty: self.accept_empty,
        };
        send_sync(cx, command, &self.waiting, said).await
    }
}

async fn ready(cx: &Context) -> Result<()> {
    cx.ready_to_write().await?;
    checks::nothing_runs(&cx.control).await?;
    checks::agents(cx, Need::Any).await
}

async fn send_sync(cx: &Context, command: ResyncCmd, waiting: &Waiting, said: String) -> Result<()> {
    let opid = cx.control.commands.send(Order::Resync(command)).await?.to_hex();
    if !waiting.wait {
        cx.out.print(&done(format!("An agent does it now; `pbm logs -e resync -i {opid}` shows how it ends")));
        return Ok(());
    }
    let warnings = follow(cx, Lock::resync(cx, &opid), waiting.limit()).await?;
    cx.out.print(&Done { warnings, ..done(said) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_refused() {
        assert_eq!(parse_name("second"), Ok("second".to_owned()));
        for bad in ["main", "", "*"] {
            assert!(parse_name(bad).is_err(), "{bad}");
        }
        for bad in [" a", "a\n", &"a".repeat(129), "main"] {
            assert!(parse_new_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn programs_get_the_originals_answer() {
        assert_eq!(serde_json::to_string(&done("said".to_owned())).expect("json"), r#"{"msg":"OK"}"#);
    }
}
