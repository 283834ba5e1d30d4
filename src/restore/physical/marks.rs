//! What the agents of a physical restore tell each other: pure, from the names of the synchronisation files on the storage
//! (docs/format.md A.9).
//!
//! A node writes `rs.<rs>/node.<host:port>.<step>`. The node that was the primary writes `rs.<rs>/rs.<step>` when all nodes of
//! its replica set are there, and the leader `cluster.<step>` when all replica sets are. Everybody goes on when the cluster
//! is there.
//!
//! At the end every node may write for its replica set and for the cluster, because the primary may be lost. A replica set of
//! which only some nodes are done is `partlyDone`; the others will copy from them.

use crate::model::status::Status;
use crate::rendezvous::rank;
use std::collections::{BTreeMap, BTreeSet};

/// Who has reached a step.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Cluster,
    Set(String),
    Node(String, String),
}

impl Who {
    /// The file of a step, or of the heartbeat, below the folder of the restore.
    #[must_use]
    pub fn file(&self, word: &str) -> String {
        match self {
            Self::Cluster => format!("cluster.{word}"),
            Self::Set(rs) => format!("rs.{rs}/rs.{word}"),
            Self::Node(rs, node) => format!("rs.{rs}/node.{node}.{word}"),
        }
    }

    /// Takes the name of a file apart; `None` for files that are not about steps.
    #[must_use]
    pub fn parse(file: &str) -> Option<(Self, String)> {
        let (head, word) = file.rsplit_once('.')?;
        let who = match head.split_once('/') {
            None => (head == "cluster").then_some(Self::Cluster)?,
            Some((set, head)) => {
                let rs = set.strip_prefix("rs.")?.to_owned();
                match head.strip_prefix("node.") {
                    Some(node) => Self::Node(rs, node.to_owned()),
                    None => (head == "rs").then_some(Self::Set(rs))?,
                }
            }
        };
        Some((who, word.to_owned()))
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster => f.write_str("the restore"),
            Self::Set(rs) => write!(f, "replica set {rs}"),
            Self::Node(_, node) => write!(f, "node {node}"),
        }
    }
}

/// Returns the step that a file's last word names.
#[must_use]
pub fn step_of(word: &str) -> Option<Status> {
    let all = [
        Status::Starting,
        Status::Running,
        Status::Down,
        Status::CopyReady,
        Status::CopyDone,
        Status::PartlyDone,
        Status::Done,
        Status::Error,
    ];
    all.into_iter().find(|status| status.as_str() == word)
}

/// All steps that were reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks(BTreeMap<Who, BTreeSet<&'static str>>);

impl Marks {
    /// Reads the names of files below the folder of the restore.
    #[must_use]
    pub fn of<'a>(files: impl IntoIterator<Item = &'a str>) -> Self {
        let mut marks = Self::default();
        for (who, word) in files.into_iter().filter_map(Who::parse) {
            if let Some(step) = step_of(&word) {
                marks.0.entry(who).or_default().insert(step.as_str());
            }
        }
        marks
    }

    #[must_use]
    pub fn has(&self, who: &Who, step: Status) -> bool {
        self.0.get(who).is_some_and(|steps| steps.contains(step.as_str()))
    }

    /// Whether it has reached this step or one after it.
    fn reached(&self, who: &Who, step: Status) -> bool {
        let steps = self.0.get(who).into_iter().flatten().filter_map(|word| step_of(word));
        steps.filter(|it| *it != Status::Error).any(|it| order(it) >= order(step))
    }

    /// The nodes of a replica set that have written anything.
    #[must_use]
    pub fn nodes(&self, rs: &str) -> Vec<Who> {
        self.0.keys().filter(|who| matches!(who, Who::Node(of, _) if of == rs)).cloned().collect()
    }
}

/// In this restore a copy that is made beside the old data is complete before mongod is stopped.
fn order(step: Status) -> u8 {
    if step == Status::Down { rank(Status::CopyDone) * 2 + 1 } else { rank(step) * 2 }
}

/// This node's place in the restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub rs: String,
    pub node: String,
    /// All nodes of this replica set that take part.
    pub nodes: Vec<String>,
    /// All replica sets that take part.
    pub sets: Vec<String>,
    /// It was the primary when the restore began.
    pub primary: bool,
    /// It was the primary of the leader replica set.
    pub leader: bool,
}

impl Place {
    #[must_use]
    pub fn me(&self) -> Who {
        Who::Node(self.rs.clone(), self.node.clone())
    }

    fn all_nodes(&self) -> impl Iterator<Item = Who> {
        self.nodes.iter().map(|node| Who::Node(self.rs.clone(), node.clone()))
    }

    fn all_sets(&self) -> impl Iterator<Item = Who> {
        self.sets.iter().map(|rs| Who::Set(rs.clone()))
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Write that this one has reached this step.
    Write(Who, Status),
    Wait(Vec<Who>),
    /// The cluster is at this step.
    Proceed(Status),
    /// This one has failed or is lost.
    Abort(Who),
}

/// Decides on the way to a step before the end. `lost` have given no sign of life for long.
#[must_use]
pub fn next(step: Status, place: &Place, marks: &Marks, lost: &BTreeSet<Who>) -> Next {
    let failed = |who: &Who| marks.has(who, Status::Error) || (lost.contains(who) && !marks.reached(who, step));
    if failed(&Who::Cluster) {
        return Next::Abort(Who::Cluster);
    }
    if marks.reached(&Who::Cluster, step) {
        return Next::Proceed(step);
    }
    if let Some(bad) = place.all_nodes().chain(place.all_sets()).find(failed) {
        return Next::Abort(bad);
    }
    let mut missing: Vec<Who> = place.all_nodes().filter(|who| !marks.reached(who, step)).collect();
    let own = Who::Set(place.rs.clone());
    if missing.is_empty() && place.primary && !marks.reached(&own, step) {
        return Next::Write(own, step);
    }
    missing.extend(place.all_sets().filter(|who| !marks.reached(who, step)));
    if missing.is_empty() && place.leader {
        return Next::Write(Who::Cluster, step);
    }
    Next::Wait(missing)
}

/// Decides about the end: [`Next::Proceed`] has how the cluster ended.
#[must_use]
pub fn settle(place: &Place, marks: &Marks, lost: &BTreeSet<Who>) -> Next {
    let final_of =
        |who: &Who| [Status::Error, Status::PartlyDone, Status::Done].into_iter().find(|it| marks.has(who, *it));
    if let Some(end) = final_of(&Who::Cluster) {
        return Next::Proceed(end);
    }
    let own = Who::Set(place.rs.clone());
    if final_of(&own).is_none() {
        let waiting: Vec<Who> =
            place.all_nodes().filter(|who| final_of(who).is_none() && !lost.contains(who)).collect();
        if !waiting.is_empty() {
            return Next::Wait(waiting);
        }
        let done = place.all_nodes().filter(|who| marks.has(who, Status::Done)).count();
        return Next::Write(own, together(done, place.nodes.len(), false));
    }
    let waiting: Vec<Who> = place.all_sets().filter(|who| final_of(who).is_none()).collect();
    if !waiting.is_empty() {
        return Next::Wait(waiting);
    }
    let well = place.all_sets().filter(|who| !marks.has(who, Status::Error)).count();
    let partly = place.all_sets().any(|who| marks.has(&who, Status::PartlyDone));
    let end = if well < place.sets.len() { Status::Error } else { together(well, place.sets.len(), partly) };
    Next::Write(Who::Cluster, end)
}

fn together(done: usize, all: usize, partly: bool) -> Status {
    match done {
        0 => Status::Error,
        _ if done < all || partly => Status::PartlyDone,
        _ => Status::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(node: &str, nodes: &[&str]) -> Place {
        let first = nodes.first() == Some(&node);
        Place {
            rs: "rs0".into(),
            node: node.into(),
            nodes: nodes.iter().map(|it| (*it).to_owned()).collect(),
            sets: vec!["rs0".into()],
            primary: first,
            leader: first,
        }
    }

    fn node(name: &str) -> Who {
        Who::Node("rs0".into(), name.into())
    }

    #[test]
    fn names_are_those_of_the_original() {
        for (who, word, file) in [
            (Who::Cluster, "hb", "cluster.hb"),
            (Who::Set("rs0".into()), "running", "rs.rs0/rs.running"),
            (node("h.example.com:27017"), "done", "rs.rs0/node.h.example.com:27017.done"),
        ] {
            assert_eq!(who.file(word), file);
            assert_eq!(Who::parse(file), Some((who, word.to_owned())));
        }
        for other in ["rs.rs0/stat.h:1", "rs.rs0/log/h:1.0.log", "x", "other.done"] {
            assert_eq!(Who::parse(other).filter(|(_, word)| step_of(word).is_some()), None, "{other}");
        }
    }

    #[test]
    fn a_step_goes_from_nodes_to_the_set_to_the_cluster() {
        let (first, second) = (place("a:1", &["a:1", "b:1"]), place("b:1", &["a:1", "b:1"]));
        let none = BTreeSet::new();
        let run = Status::Running;
        let mut files = vec!["rs.rs0/node.a:1.running"];
        let set = Who::Set("rs0".into());
        let decided = |files: &[&str], place: &Place| next(run, place, &Marks::of(files.iter().copied()), &none);
        assert_eq!(decided(&files, &first), Next::Wait(vec![node("b:1"), set.clone()]));
        files.push("rs.rs0/node.b:1.running");
        assert_eq!(decided(&files, &first), Next::Write(set.clone(), run));
        assert_eq!(decided(&files, &second), Next::Wait(vec![set]));
        files.push("rs.rs0/rs.running");
        assert_eq!(decided(&files, &first), Next::Write(Who::Cluster, run));
        files.push("cluster.running");
        assert_eq!([decided(&files, &first), decided(&files, &second)], [Next::Proceed(run), Next::Proceed(run)]);
    }

    #[test]
    fn a_failed_or_lost_node_ends_a_step() {
        let first = place("a:1", &["a:1", "b:1"]);
        let marks = Marks::of(["rs.rs0/node.b:1.error"]);
        assert_eq!(next(Status::Running, &first, &marks, &BTreeSet::new()), Next::Abort(node("b:1")));
        let lost = BTreeSet::from([node("b:1")]);
        assert_eq!(next(Status::Running, &first, &Marks::default(), &lost), Next::Abort(node("b:1")));
        let there = Marks::of(["rs.rs0/node.b:1.running", "rs.rs0/node.a:1.running"]);
        assert_eq!(next(Status::Running, &first, &there, &lost), Next::Write(Who::Set("rs0".into()), Status::Running));
    }

    #[test]
    fn mongod_is_stopped_after_the_copies_are_complete() {
        let marks = Marks::of(["cluster.copyDone"]);
        let first = place("a:1", &["a:1"]);
        let at = |step| next(step, &first, &marks, &BTreeSet::new());
        assert_eq!([at(Status::Running), at(Status::CopyDone)], [Status::Running, Status::CopyDone].map(Next::Proceed));
        assert!(matches!(at(Status::Down), Next::Wait(_)));
    }

    #[test]
    fn the_end_is_the_sum_of_the_nodes() {
        let any = place("b:1", &["a:1", "b:1", "c:1"]);
        let ends = |files: &[&str], lost: &[&str]| {
            let lost = lost.iter().map(|it| node(it)).collect();
            settle(&any, &Marks::of(files.iter().copied()), &lost)
        };
        let set = Who::Set("rs0".into());
        let (a, b) = ("rs.rs0/node.a:1.done", "rs.rs0/node.b:1.done");
        assert_eq!(ends(&[a, b], &[]), Next::Wait(vec![node("c:1")]));
        assert_eq!(ends(&[a, b], &["c:1"]), Next::Write(set.clone(), Status::PartlyDone));
        assert_eq!(ends(&[a, b, "rs.rs0/node.c:1.done"], &[]), Next::Write(set.clone(), Status::Done));
        assert_eq!(ends(&["rs.rs0/node.a:1.error"], &["b:1", "c:1"]), Next::Write(set, Status::Error));
        assert_eq!(ends(&["rs.rs0/rs.partlyDone"], &[]), Next::Write(Who::Cluster, Status::PartlyDone));
        assert_eq!(ends(&["cluster.error"], &[]), Next::Proceed(Status::Error));
    }
}
