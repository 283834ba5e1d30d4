//! The synchronisation files of a physical restore on the storage (docs/format.md A.9): they are there while no database is.

use super::marks::{Marks, Next, Place, Who, next, settle};
use crate::archive::backup_json::plain;
use crate::control::unix_now;
use crate::layout;
use crate::model::{restore::RestoreMeta, status::Status};
use crate::storage::{Storage, read_all, write_all};
use anyhow::{Context, Result, bail};
use futures::TryStreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Time between two looks at the storage.
const LOOK: Duration = Duration::from_millis(500);
/// Time between two heartbeats. The original writes one in two minutes.
const BEAT: Duration = Duration::from_secs(15);
/// A heartbeat that has not changed for so long, by our own clock, is that of a lost agent.
const LOST: Duration = Duration::from_secs(75);
/// The most bytes of a synchronisation file.
const LIMIT: usize = 1 << 20;

/// The heartbeats that were seen, each with the time when it changed last.
type Beats = BTreeMap<Who, (Vec<u8>, Instant)>;

/// The files of one restore, as one node uses them.
#[derive(Debug)]
pub struct Board {
    storage: Arc<dyn Storage>,
    folder: String,
    name: String,
    pub place: Place,
    beats: Mutex<Beats>,
}

impl Board {
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, name: &str, place: Place) -> Self {
        let (folder, name) = (layout::restore_folder(name), name.to_owned());
        Self { storage, folder, name, place, beats: Mutex::default() }
    }

    async fn write(&self, who: &Who, word: &str, content: String) -> Result<()> {
        let object = format!("{}/{}", self.folder, who.file(word));
        write_all(self.storage.as_ref(), &object, content).await.with_context(|| format!("write '{object}'")).map(drop)
    }

    /// Writes that this node has reached a step.
    ///
    /// # Errors
    /// The storage can't be written.
    pub async fn announce(&self, step: Status) -> Result<()> {
        self.write(&self.place.me(), step.as_str(), unix_now().to_string()).await
    }

    /// Writes that this node has failed. `everybody`: the restore has changed nothing yet, so it ends for all nodes.
    ///
    /// # Errors
    /// The storage can't be written.
    pub async fn fail(&self, reason: &str, everybody: bool) -> Result<()> {
        let content = format!("{}:{reason}", unix_now());
        let word = Status::Error.as_str();
        self.write(&self.place.me(), word, content.clone()).await?;
        if everybody {
            self.write(&Who::Set(self.place.rs.clone()), word, content.clone()).await?;
            self.write(&Who::Cluster, word, content).await?;
        }
        Ok(())
    }

    /// Announces a step and waits until the cluster is there.
    ///
    /// # Errors
    /// A node failed or is lost, or the storage does not answer.
    pub async fn reach(&self, step: Status) -> Result<()> {
        self.announce(step).await?;
        loop {
            let (marks, lost) = self.read().await?;
            match next(step, &self.place, &marks, &lost) {
                Next::Proceed(_) => return Ok(()),
                Next::Write(who, step) => self.write(&who, step.as_str(), unix_now().to_string()).await?,
                Next::Abort(who) => bail!("{}", self.reason(&who, lost.contains(&who)).await),
                Next::Wait(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Waits, as the primary, until all nodes of this replica set are at a step.
    ///
    /// # Errors
    /// As [`Self::reach`].
    pub async fn gather(&self, step: Status) -> Result<()> {
        loop {
            let (marks, lost) = self.read().await?;
            match next(step, &Place { primary: true, ..self.place.clone() }, &marks, &lost) {
                Next::Proceed(_) | Next::Write(..) => return Ok(()),
                Next::Abort(who) => bail!("{}", self.reason(&who, lost.contains(&who)).await),
                Next::Wait(missing) if missing.iter().all(|who| !matches!(who, Who::Node(..))) => return Ok(()),
                Next::Wait(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Waits until every node is done, has failed or is lost. Returns how the cluster ended.
    ///
    /// # Errors
    /// The storage does not answer.
    pub async fn settle(&self) -> Result<Status> {
        loop {
            let (marks, lost) = self.read().await?;
            match settle(&self.place, &marks, &lost) {
                Next::Proceed(end) => return Ok(end),
                Next::Write(who, end) => {
                    let content = match end {
                        Status::Error => format!("{}:{}", unix_now(), self.first_reason(&marks).await),
                        _ => unix_now().to_string(),
                    };
                    self.write(&who, end.as_str(), content).await?;
                }
                Next::Wait(_) | Next::Abort(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn first_reason(&self, marks: &Marks) -> String {
        let failed = marks.nodes(&self.place.rs).into_iter().find(|who| marks.has(who, Status::Error));
        match failed {
            Some(who) => self.reason(&who, false).await,
            None => "no node of the replica set is done".to_owned(),
        }
    }

    /// Why it failed.
    async fn reason(&self, who: &Who, lost: bool) -> String {
        if lost {
            return format!("the agent of {who} is lost: it gave no sign of life for more than {} s", LOST.as_secs());
        }
        let object = format!("{}/{}", self.folder, who.file(Status::Error.as_str()));
        let content = read_all(self.storage.as_ref(), &object, LIMIT).await;
        let content = content.map(|it| String::from_utf8_lossy(&it).into_owned()).unwrap_or_default();
        let reason = content.split_once(':').map_or(content.as_str(), |(_, reason)| reason);
        if *who == Who::Cluster { reason.to_owned() } else { format!("{who} failed: {reason}") }
    }

    /// Reads all marks, and who is lost.
    async fn read(&self) -> Result<(Marks, BTreeSet<Who>)> {
        let prefix = format!("{}/", self.folder);
        let names: Vec<String> = self
            .storage
            .list(&self.folder)
            .map_ok(|object| object.name.strip_prefix(&prefix).unwrap_or_default().to_owned())
            .try_collect()
            .await
            .context("list the synchronisation files of the restore")?;
        let lost = self.lost(&names).await;
        Ok((Marks::of(names.iter().map(String::as_str)), lost))
    }

    /// The nodes whose heartbeat stands still. Their files are read seldom: nobody is in a hurry to call a node lost.
    async fn lost(&self, names: &[String]) -> BTreeSet<Who> {
        let nodes: Vec<Who> = names
            .iter()
            .filter_map(|name| Who::parse(name))
            .filter(|(who, word)| word == "hb" && matches!(who, Who::Node(..)) && *who != self.place.me())
            .map(|(who, _)| who)
            .collect();
        let known = |who: &Who| {
            let beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
            beats.get(who).map(|(_, since)| since.elapsed())
        };
        let mut lost = BTreeSet::new();
        for who in nodes {
            let Some(age) = known(&who) else {
                self.seen(&who, Vec::new());
                continue;
            };
            if age < BEAT + LOOK {
                continue;
            }
            let object = format!("{}/{}", self.folder, who.file("hb"));
            match read_all(self.storage.as_ref(), &object, LIMIT).await {
                Ok(content) if self.seen(&who, content.to_vec()) => {}
                // A storage that does not answer says nothing about a node.
                Err(_) => {}
                Ok(_) if age >= LOST => drop(lost.insert(who)),
                Ok(_) => {}
            }
        }
        lost
    }

    /// Records a heartbeat; `true` if it is a new one.
    fn seen(&self, who: &Who, content: Vec<u8>) -> bool {
        let mut beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        if beats.get(who).is_some_and(|(known, _)| *known == content) {
            return false;
        }
        beats.insert(who.clone(), (content, Instant::now()));
        true
    }

    /// Writes heartbeats until dropped.
    pub async fn keep_beating(&self) {
        let mut all = vec![self.place.me()];
        all.extend(self.place.primary.then(|| Who::Set(self.place.rs.clone())));
        all.extend(self.place.leader.then_some(Who::Cluster));
        loop {
            for who in &all {
                if let Err(error) = self.write(who, "hb", unix_now().to_string()).await {
                    tracing::warn!("{error:#}");
                }
            }
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Writes the record of the restore, if no other node has.
    ///
    /// # Errors
    /// The storage can't be written.
    pub async fn record(&self, meta: &RestoreMeta) -> Result<()> {
        let object = layout::restore_record(&self.name);
        let document = bson::serialize_to_document(meta).context("encode the record of the restore")?;
        write_all(self.storage.as_ref(), &object, plain(&document)).await.context("write the record of the restore")?;
        let stat = format!("rs.{}/stat.{}", self.place.rs, self.place.node);
        let content = r#"{"txn":{"partial":0,"shard_uncommitted":0,"left_uncommitted":0},"d":null}"#;
        write_all(self.storage.as_ref(), &format!("{}/{stat}", self.folder), content).await.map(drop)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::Memory;

    fn boards(nodes: &[&str]) -> Vec<Board> {
        let store: Arc<dyn Storage> = Arc::new(Memory::new());
        let of = |(n, node): (usize, &&str)| {
            let place = Place {
                rs: "rs0".into(),
                node: (*node).to_owned(),
                nodes: nodes.iter().map(|it| (*it).to_owned()).collect(),
                sets: vec!["rs0".into()],
                primary: n == 0,
                leader: n == 0,
            };
            Board::new(store.clone(), "r", place)
        };
        nodes.iter().enumerate().map(of).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_go_through_the_steps_together() {
        let all = boards(&["a:1", "b:1"]);
        let (one, two) = tokio::join!(all[0].reach(Status::Running), all[1].reach(Status::Running));
        one.and(two).expect("both are there");
        all[0].announce(Status::Done).await.expect("a mark");
        all[1].fail("the disk is full", false).await.expect("a mark");
        let ends = tokio::join!(all[0].settle(), all[1].settle());
        assert_eq!((ends.0.expect("an end"), ends.1.expect("an end")), (Status::PartlyDone, Status::PartlyDone));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_reaches_everybody_with_its_reason() {
        let all = boards(&["a:1", "b:1"]);
        all[1].fail("no space", true).await.expect("a mark");
        let error = all[0].reach(Status::Starting).await.expect_err("it failed");
        assert_eq!(error.to_string(), "no space");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_whose_heartbeat_stands_still_is_lost() {
        let all = boards(&["a:1", "b:1"]);
        tokio::select! {
            () = all[1].keep_beating() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        let since = Instant::now();
        let error = all[0].reach(Status::Starting).await.expect_err("b:1 is lost");
        assert!(error.to_string().contains("the agent of node b:1 is lost"), "{error}");
        assert!(since.elapsed() >= LOST && since.elapsed() < LOST * 3, "{:?}", since.elapsed());
    }
}
