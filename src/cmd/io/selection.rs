//! Names and namespaces on the command line.

use super::agents::ours_only;
use super::context::Context;
use super::error::{CliError, Result};
use crate::model::selection::{Narrowed, Selection};
use clap::Args;

/// A part of the databases.
#[derive(Debug, Default, Args)]
pub struct Namespaces {
    /// Only these namespaces: db.collection or db.*, separated by commas; * stands for any characters
    ///
    /// Everything else is left alone. Collections that got a selected name while the oplog was written come with all they
    /// held. The server's own databases can't be selected.
    #[arg(long, value_name = "NAMESPACES", value_delimiter = ',', value_parser = parse)]
    ns: Vec<String>,
    /// Without these namespaces, written in the same way
    #[arg(long, value_name = "NAMESPACES", value_delimiter = ',', value_parser = parse)]
    ns_exclude: Vec<String>,
}

/// Parses one namespace.
fn parse(text: &str) -> std::result::Result<String, String> {
    let text = text.trim();
    Selection::parse(&[text]).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Parses the name of a backup or a restore, as far as it can be one.
pub fn name(text: &str) -> std::result::Result<String, String> {
    match text {
        "" => Err("a name is expected, such as 2026-03-01T10:20:30Z".to_owned()),
        _ if text.contains(|c: char| c == '/' || c == '\\' || c.is_control()) => {
            Err("nothing has such a name; names look like 2026-03-01T10:20:30Z".to_owned())
        }
        _ => Ok(text.to_owned()),
    }
}

impl Namespaces {
    /// What is selected.
    pub fn selection(&self) -> Result<Selection> {
        Selection::new(&self.ns, &self.ns_exclude).map_err(|error| CliError::usage(error.to_string()))
    }

    /// For a command, if it can be carried out: the fields of its document.
    pub async fn check(&self, cx: &Context, users: bool) -> Result<(Vec<String>, Option<Narrowed>)> {
        let selection = self.selection()?;
        if users && !selection.is_everything() && selection.databases().is_empty() {
            return Err(CliError::usage(
                "users and roles belong to databases, and --ns selects none as a whole and by its name",
            )
            .hint("add db.* to --ns, or leave --with-users-and-roles out"));
        }
        let (nss, narrowed) = selection.to_fields();
        if narrowed.is_some() {
            understood(cx, &format!("the selection {selection}")).await?;
        }
        Ok((nss, narrowed))
    }
}

/// The original's agents know neither patterns nor exclusions nor several clones, and would do something else.
pub async fn understood(cx: &Context, wanted: &str) -> Result<()> {
    let instead =
        "give single collections (db.collection) and whole databases (db.*) to select, or one collection to clone";
    ours_only(cx, wanted, instead).await
}
