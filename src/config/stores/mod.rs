//! Converts the settings of object stores, from the documents of the configuration (docs/format.md C.3.2) to the
//! drivers' types.
//!
//! Pure. The same code checks a configuration before it is stored and opens the storage, so a wrong configuration is
//! refused.

pub mod cloud;
mod fields;
pub mod s3;

use super::ConfigError;
use crate::{
    model::config::StorageConf,
    storage::{parts::Cut, patience::Patience},
};
use fields::Fields;
use std::time::Duration;

/// How many parts of one object are uploaded at the same time.
const IN_FLIGHT_PARTS: usize = 4;

/// Returns the `maxObjSizeGB` of the storage type in use.
#[must_use]
pub fn max_obj_size_gb(conf: &StorageConf) -> Option<f64> {
    match conf.object_store() {
        Some(doc) => Fields::new("storage", doc).float("maxObjSizeGB"),
        None => conf.filesystem.as_ref()?.max_obj_size_gb,
    }
}

/// Returns the cut for parts of the configured size (at least `smallest`), with several parts at a time.
fn cut(fields: &Fields<'_>, key: &str, smallest: i64, most: u32) -> Result<Cut, ConfigError> {
    const DEFAULT: i64 = 10 << 20;
    let part = fields.whole(key).filter(|it| *it != 0).unwrap_or(DEFAULT);
    if part < smallest {
        return Err(
            fields.wrong(key, format!("{part} is below {smallest} bytes, the smallest part that the store takes"))
        );
    }
    let part = usize::try_from(part).map_err(|error| fields.wrong(key, error.to_string()))?;
    Ok(Cut { part, most, in_flight: part.saturating_mul(IN_FLIGHT_PARTS) })
}

/// Returns how calls are repeated: as the settings require, and otherwise for longer than a short outage of a store.
///
/// `retries` is a number of repetitions. If it is set, only this number limits the repetitions.
fn patience(retries: Option<i64>, first: Option<Duration>, longest: Option<Duration>) -> Patience {
    let default = Patience::default();
    Patience {
        attempts: retries.map_or(default.attempts, |it| u32::try_from(it.saturating_add(1)).unwrap_or(1).max(1)),
        first_pause: first.unwrap_or(default.first_pause),
        longest_pause: longest.unwrap_or(default.longest_pause),
        overall: if retries.is_some() { Duration::from_secs(3600) } else { default.overall },
        ..default
    }
}

/// Returns a prefix without slashes at its ends.
fn trimmed(text: Option<&str>) -> String {
    text.unwrap_or_default().trim_matches('/').to_owned()
}
