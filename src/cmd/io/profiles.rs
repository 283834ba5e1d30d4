//! Profiles by their names, and the backups of a profile.

use super::{
    context::Context,
    error::{CliError, Result},
};
use crate::model::config::{Config, StorageConf};
use crate::storages::place;

/// All storages, where backups are filtered.
pub const ALL: &str = "*";

/// Which backups are shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Filter {
    #[default]
    All,
    Main,
    Profile(String),
}

impl Filter {
    /// Checks the name that was given with `--profile`.
    ///
    /// # Errors
    /// There is no such profile.
    pub async fn read(cx: &Context, given: &str) -> Result<Self> {
        if given == ALL {
            return Ok(Self::All);
        }
        if place::is_main(given) {
            return Ok(Self::Main);
        }
        known(cx, given).await?;
        Ok(Self::Profile(given.to_owned()))
    }

    /// Is a backup with this storage shown?
    #[must_use]
    pub fn shows(&self, store: &StorageConf) -> bool {
        match self {
            Self::All => true,
            Self::Main => place::profile_of(store).is_none(),
            Self::Profile(name) => place::profile_of(store) == Some(name),
        }
    }

    /// Is the oplog shown? It is on the main storage.
    #[must_use]
    pub fn shows_oplog(&self) -> bool {
        !matches!(self, Self::Profile(_))
    }
}

/// The profile of this name.
///
/// # Errors
/// There is none; the error names those that there are.
pub async fn known(cx: &Context, name: &str) -> Result<Config> {
    let profiles = cx.control.config.profiles().await?;
    place::find(&profiles, name).cloned().map_err(|unknown| {
        CliError::not_found(unknown.to_string())
            .hint("`pbm profile list` shows the profiles; `pbm profile add NAME FILE` adds one")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_shows_its_own() {
        let main = StorageConf::default();
        let store = |name: &str| StorageConf { name: Some(name.to_owned()), profile: Some(true), ..main.clone() };
        let shown = |filter: &Filter| [&main, &store("a"), &store("b")].map(|store| filter.shows(store));
        assert_eq!(shown(&Filter::All), [true; 3]);
        assert_eq!(shown(&Filter::Main), [true, false, false]);
        let one = Filter::Profile("a".to_owned());
        assert_eq!((shown(&one), one.shows_oplog()), ([false, true, false], false));
    }
}
