//! Pure: which backups and PITR chunks may go, and why (docs/format.md A.11).
//!
//! # What is kept
//!
//! Whatever is asked for, a backup that runs stays, and so does one that a kept increment is built on. Deleting by age
//! keeps every time from the asked one on restorable: the newest backup before it whose oplog goes on past it stays as
//! their base, with that oplog. The chunks of other kept backups stay too, except when chunks alone are deleted: that is
//! asked for to keep old backups without the oplog between them.

use super::plan::{Cut, CutWhy, Fate, Goes, Item, Plan, Stays};
use crate::model::{
    backup::{BackupMeta, BackupType},
    config::Slicing,
    status::Status,
};
use crate::pitr::timeline::{self, Line, Lines};
use crate::storages::place;
use bson::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    str::FromStr,
};

/// What is known when the plan is made.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Facts {
    /// All of them, in any order.
    pub backups: Vec<BackupMeta>,
    pub lines: Lines,
    pub slicing: Slicing,
}

/// What is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// One backup, with the increments built on it.
    Backup(String),
    /// Backups older than a time, of one kind or of any; on the main storage or on that of a profile.
    Backups {
        before: Timestamp,
        kind: Option<Kind>,
        profile: Option<String>,
    },
    /// Chunks older than a time.
    Chunks {
        before: Timestamp,
    },
    AllChunks,
    /// Backups and chunks older than a time; on the storage of a profile there are no chunks.
    Everything {
        before: Timestamp,
        profile: Option<String>,
    },
}

impl Ask {
    /// The time that it names, if it does.
    #[must_use]
    pub fn before(&self) -> Option<Timestamp> {
        match self {
            Self::Backup(_) | Self::AllChunks => None,
            Self::Backups { before, .. } | Self::Chunks { before } | Self::Everything { before, .. } => Some(*before),
        }
    }

    /// The profile that it names, if it does.
    #[must_use]
    pub fn profile(&self) -> Option<&str> {
        match self {
            Self::Backups { profile, .. } | Self::Everything { profile, .. } => profile.as_deref(),
            Self::Backup(_) | Self::Chunks { .. } | Self::AllChunks => None,
        }
    }
}

/// A kind of backup, as people select them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of all namespaces.
    Logical,
    Physical,
    Incremental,
    External,
    /// Logical, of some namespaces.
    Selective,
}

impl Kind {
    fn of(backup: &BackupMeta) -> Self {
        match backup.kind {
            BackupType::Logical if !backup.nss.is_empty() => Self::Selective,
            BackupType::Logical => Self::Logical,
            BackupType::Physical => Self::Physical,
            BackupType::Incremental => Self::Incremental,
            BackupType::External => Self::External,
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "logical" => Self::Logical,
            "physical" => Self::Physical,
            "incremental" => Self::Incremental,
            "external" => Self::External,
            "selective" => Self::Selective,
            _ => return Err("unknown; use logical, physical, incremental, external or selective".to_owned()),
        })
    }
}

/// Why a wish can't be fulfilled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    NoSuch(String),
    Runs { name: String, status: Status },
    IsIncrement { name: String, first: String },
    LastBase(String),
}

/// Decides for every backup, and where the chunks are cut.
///
/// # Errors
/// The one backup that is asked for can't be deleted.
pub fn plan(facts: &Facts, ask: &Ask) -> Result<Plan, Refusal> {
    let mut sorted: Vec<&BackupMeta> = facts.backups.iter().collect();
    sorted.sort_by(|a, b| (a.start_ts, &a.name).cmp(&(b.start_ts, &b.name)));
    let made = Making { facts, sorted };
    match ask {
        Ask::Backup(name) => made.one(name),
        Ask::AllChunks => {
            let until = Timestamp { time: u32::MAX, increment: u32::MAX };
            Ok(made.chunks_only(Cut { until, spared: Vec::new(), why: CutWhy::All }))
        }
        Ask::Chunks { before } => Ok(made.chunks_only(made.older(*before, None).cut(*before))),
        Ask::Backups { before, kind, profile } => {
            Ok(made.older(*before, profile.as_deref()).only(*kind).plan(&made, None))
        }
        Ask::Everything { before, profile } => {
            let chunks = profile.is_none().then_some(*before);
            Ok(made.older(*before, profile.as_deref()).plan(&made, chunks))
        }
    }
}

struct Making<'a> {
    facts: &'a Facts,
    /// Oldest first.
    sorted: Vec<&'a BackupMeta>,
}

/// Fates in the making, and the bases that stay for what comes after them.
struct Older<'a> {
    fates: BTreeMap<&'a str, Fate>,
    sorted: &'a [&'a BackupMeta],
    bases: Vec<&'a BackupMeta>,
}

impl<'a> Making<'a> {
    fn bases(&self) -> impl Iterator<Item = &'a BackupMeta> {
        self.sorted.iter().copied().filter(|backup| timeline::is_base(backup))
    }

    /// The last time that a base can be restored to, if it is later than its own.
    fn reach(&self, base: &BackupMeta) -> Option<Timestamp> {
        timeline::reach(&self.facts.lines, base).filter(|reach| *reach > base.last_write_ts)
    }

    fn one(&self, name: &str) -> Result<Plan, Refusal> {
        if !self.sorted.iter().any(|backup| backup.name == name) {
            return Err(Refusal::NoSuch(name.to_owned()));
        }
        let sources = sources(&self.sorted);
        let exists = |source: &&&str| self.sorted.iter().any(|backup| backup.name == **source);
        if let Some(first) = chain(&sources, name).iter().rfind(exists) {
            return Err(Refusal::IsIncrement { name: name.to_owned(), first: (*first).to_owned() });
        }
        let mut fates = BTreeMap::new();
        for backup in &self.sorted {
            let goes = match backup.name == name {
                true => Goes::Asked,
                false if self::chain(&sources, &backup.name).contains(&name) => Goes::BuiltOn(name.to_owned()),
                false => {
                    fates.insert(backup.name.as_str(), Fate::Stays(Stays::NotAsked));
                    continue;
                }
            };
            if !backup.status.is_final() {
                return Err(Refusal::Runs { name: backup.name.clone(), status: backup.status });
            }
            fates.insert(backup.name.as_str(), Fate::Goes(goes));
        }
        if self.facts.slicing == Slicing::On {
            let newest = self.bases().max_by_key(|base| base.last_write_ts);
            let goes = |backup: &BackupMeta| matches!(fates.get(backup.name.as_str()), Some(Fate::Goes(_)));
            if let Some(newest) = newest.filter(|newest| goes(newest)) {
                // The one before it takes its place only if the oplog leads from there to here.
                let before = self.bases().filter(|base| !goes(base)).max_by_key(|base| base.last_write_ts);
                if before.and_then(|base| self.reach(base)).is_none_or(|reach| reach < newest.last_write_ts) {
                    return Err(Refusal::LastBase(newest.name.clone()));
                }
            }
        }
        Ok(Older { fates, sorted: &self.sorted, bases: Vec::new() }.plan(self, None))
    }

    fn chunks_only(&self, cut: Cut) -> Plan {
        let loses = |base: &&BackupMeta| {
            let reach = self.reach(base)?;
            (cut.until > base.last_write_ts).then(|| (base.name.clone(), reach))
        };
        let shortened = self.bases().filter_map(|base| loses(&base)).collect();
        Plan { backups: Vec::new(), chunks: Some(cut), shortened }
    }

    /// Backups of a storage older than a time, and the bases that must stay: nothing is replayed on those of a profile
    /// unless somebody names them, so none of them has to stay.
    fn older(&self, before: Timestamp, of: Option<&str>) -> Older<'_> {
        let mut bases: Vec<&BackupMeta> = self.bases().filter(|b| b.last_write_ts.time == before.time).collect();
        let mut kept = BTreeMap::new();
        if bases.is_empty() && of.is_none() {
            let mut earlier: Vec<&BackupMeta> =
                self.bases().filter(|base| base.last_write_ts.time < before.time).collect();
            earlier.sort_by_key(|base| base.last_write_ts);
            let goes_on = |base: &&&BackupMeta| self.reach(base).is_some_and(|reach| reach >= before);
            let of_later = earlier.iter().rev().find(goes_on);
            kept.extend(of_later.map(|base| (base.name.as_str(), Stays::BaseOfLaterTimes)));
            bases.extend(of_later);
            let later = self.bases().any(|base| base.last_write_ts.time > before.time);
            if let Some(last) = earlier.last().filter(|_| self.facts.slicing == Slicing::On && !later) {
                kept.entry(last.name.as_str()).or_insert(Stays::LastBase);
                bases.push(last);
            }
        }
        let fate = |backup: &BackupMeta| {
            let place = place::profile_of(&backup.store);
            let stays = if place != of {
                Stays::OtherStorage(place.map(str::to_owned))
            } else if !backup.status.is_final() {
                Stays::Runs(backup.status)
            } else if let Some(stays) = kept.get(backup.name.as_str()) {
                stays.clone()
            } else if backup.last_write_ts.time > before.time {
                Stays::NotOlder
            } else if backup.last_write_ts.time == before.time {
                Stays::AtBorder
            } else {
                return Fate::Goes(if backup.status == Status::Done { Goes::Older } else { Goes::Failed });
            };
            Fate::Stays(stays)
        };
        let fates = self.sorted.iter().map(|backup| (backup.name.as_str(), fate(backup))).collect();
        Older { fates, sorted: &self.sorted, bases }
    }
}

impl Older<'_> {
    /// Takes what is of another kind out.
    fn only(mut self, kind: Option<Kind>) -> Self {
        let Some(kind) = kind else { return self };
        for backup in self.sorted.iter().filter(|backup| Kind::of(backup) != kind) {
            if let Some(fate @ Fate::Goes(_)) = self.fates.get_mut(backup.name.as_str()) {
                *fate = Fate::Stays(Stays::OtherKind);
            }
        }
        self
    }

    /// Where the chunks are cut, were all backups to go.
    fn cut(&self, before: Timestamp) -> Cut {
        match self.bases.iter().min_by_key(|base| base.last_write_ts) {
            Some(base) => Cut { until: base.last_write_ts, spared: Vec::new(), why: CutWhy::Base(base.name.clone()) },
            None => Cut { until: before, spared: Vec::new(), why: CutWhy::Older },
        }
    }

    /// Takes out what kept increments are built on; then it is what it will be. With `chunks` they go too.
    fn plan(mut self, made: &Making<'_>, chunks: Option<Timestamp>) -> Plan {
        let sources = sources(self.sorted);
        let needed: BTreeMap<&str, &str> = self
            .sorted
            .iter()
            .filter(|backup| matches!(self.fates.get(backup.name.as_str()), Some(Fate::Stays(_))))
            .filter(|backup| backup.status == Status::Done || !backup.status.is_final())
            .flat_map(|backup| chain(&sources, &backup.name).into_iter().map(|source| (source, backup.name.as_str())))
            .collect();
        for (source, increment) in needed {
            if let Some(fate @ Fate::Goes(_)) = self.fates.get_mut(source) {
                *fate = Fate::Stays(Stays::SourceOf(increment.to_owned()));
            }
        }
        let chunks = chunks.map(|before| {
            let mut cut = self.cut(before);
            let kept = made.bases().filter(|base| matches!(self.fates.get(base.name.as_str()), Some(Fate::Stays(_))));
            cut.spared = kept
                .filter(|base| base.last_write_ts < cut.until)
                .filter_map(|base| Some(Line { start: base.last_write_ts, end: made.reach(base)? }))
                .collect();
            cut
        });
        let built_on: BTreeSet<&str> = sources.values().copied().collect();
        let item = |backup: &&BackupMeta| {
            let fate = self.fates.get(backup.name.as_str()).cloned();
            let name = backup.name.clone();
            let chained = sources.contains_key(name.as_str()) || built_on.contains(name.as_str());
            Item { name, fate: fate.unwrap_or(Fate::Stays(Stays::NotAsked)), chained }
        };
        Plan { backups: self.sorted.iter().map(item).collect(), chunks, shortened: Vec::new() }
    }
}

/// What each increment is built on.
pub(in crate::upkeep) fn sources<'a>(backups: &[&'a BackupMeta]) -> HashMap<&'a str, &'a str> {
    let of = |backup: &&'a BackupMeta| {
        let source = backup.src_backup.as_deref().filter(|source| !source.is_empty())?;
        Some((backup.name.as_str(), source))
    };
    backups.iter().filter_map(of).collect()
}

/// What a backup is built on, up to the first; without itself.
pub(in crate::upkeep) fn chain<'a>(sources: &HashMap<&'a str, &'a str>, name: &str) -> Vec<&'a str> {
    let mut out: Vec<&str> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut at = sources.get(name);
    // Damaged documents may name each other.
    while let Some(source) = at.filter(|source| seen.insert(**source)) {
        out.push(source);
        at = sources.get(source);
    }
    out
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuch(name) => write!(f, "there is no backup named {name}"),
            Self::Runs { name, status } => write!(f, "backup {name} is not finished (status {status}), so it stays"),
            Self::IsIncrement { name, first } => {
                write!(
                    f,
                    "backup {name} is an increment; it can only go with its whole chain, which begins with {first}"
                )
            }
            Self::LastBase(name) => write!(
                f,
                "point-in-time recovery is on, and {name} is its newest base: without it, later times could not be restored"
            ),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests;
