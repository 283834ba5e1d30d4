//! Namespaces on the command line.

use super::error::{CliError, Result};
use crate::model::selection::Selection;

/// Parses one namespace of `--ns`.
pub(super) fn parse(text: &str) -> std::result::Result<String, String> {
    let text = text.trim();
    Selection::parse(&[text]).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Namespaces and users together.
pub(super) fn check(namespaces: &[String], users: bool) -> Result<()> {
    let selection = Selection::parse(namespaces).map_err(|error| CliError::usage(error.to_string()))?;
    if users && !selection.is_everything() && selection.databases().is_empty() {
        return Err(CliError::usage("users and roles belong to databases, and --ns selects none as a whole")
            .hint("add db.* to --ns, or leave --with-users-and-roles out"));
    }
    Ok(())
}
