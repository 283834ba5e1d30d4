//! The words of a plan of deletion: what goes, what stays, and why.

use crate::model::status::Status;
use crate::pitr::timeline::Line;
use bson::Timestamp;
use std::fmt;

/// What goes and what stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Every backup, oldest first.
    pub backups: Vec<Item>,
    pub chunks: Option<Cut>,
    /// Kept backups that lose the oplog after them, with the time that they could be restored to.
    pub shortened: Vec<(String, Timestamp)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub name: String,
    pub fate: Fate,
    /// It is built on another backup, or another one on it: the order of deletion matters.
    pub chained: bool,
}

/// What becomes of a backup, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Goes(Goes),
    Stays(Stays),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goes {
    Asked,
    /// It is built on a backup that was asked for.
    BuiltOn(String),
    Older,
    /// It did not succeed, so nothing can be restored from it.
    Failed,
    /// It ended like this, whatever its age.
    Ended(Status),
    /// It gives no sign of life, whatever its age.
    Stuck,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stays {
    /// Nobody asked for it.
    NotAsked,
    NotOlder,
    /// Its time is the very time asked for.
    AtBorder,
    Runs(Status),
    /// It was made, and its files were found incomplete later.
    Incomplete,
    /// Of this profile, or the main one.
    OtherStorage(Option<String>),
    OtherKind,
    /// Times after the border are restored from it.
    BaseOfLaterTimes,
    /// Point-in-time recovery is on and has no newer base.
    LastBase,
    /// A kept increment is built on it.
    SourceOf(String),
}

/// Which chunks go: those that end by a time, except for what some kept backup needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub until: Timestamp,
    pub spared: Vec<Line>,
    pub why: CutWhy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CutWhy {
    All,
    Older,
    /// This backup stays as the base of what comes after it.
    Base(String),
}

impl Cut {
    /// Does the chunk with these ends go?
    #[must_use]
    pub fn takes(&self, start: Timestamp, end: Timestamp) -> bool {
        end <= self.until && !self.spared.iter().any(|line| start < line.end && end > line.start)
    }
}

impl Plan {
    /// The backups that go, in the order of their deletion: an increment before what it is built on.
    pub fn going(&self) -> impl Iterator<Item = &Item> {
        self.backups.iter().rev().filter(|item| matches!(item.fate, Fate::Goes(_)))
    }
}

impl fmt::Display for Goes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("asked for"),
            Self::BuiltOn(base) => write!(f, "an increment of {base}"),
            Self::Older => f.write_str("older"),
            Self::Failed => f.write_str("older, and it did not succeed"),
            Self::Ended(status) => write!(f, "it did not succeed: {status}"),
            Self::Stuck => f.write_str("stuck: no sign of life"),
        }
    }
}

impl fmt::Display for Stays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("not asked for"),
            Self::NotOlder => f.write_str("not older"),
            Self::AtBorder => f.write_str("its time is the very second asked for"),
            Self::Runs(status) => write!(f, "it is not finished: {status}"),
            Self::Incomplete => {
                f.write_str("it was finished, and its files were found incomplete later; `pbm delete-backup` takes it")
            }
            Self::OtherStorage(Some(profile)) => write!(f, "it is on the storage of profile {profile}"),
            Self::OtherStorage(None) => f.write_str("it is on the main storage"),
            Self::OtherKind => f.write_str("of another type"),
            Self::BaseOfLaterTimes => f.write_str("later times are restored from it and the oplog after it"),
            Self::LastBase => f.write_str("point-in-time recovery is on and has no newer backup to begin from"),
            Self::SourceOf(increment) => write!(f, "the kept increment {increment} is built on it"),
        }
    }
}
