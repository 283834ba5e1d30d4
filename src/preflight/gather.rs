//! Finding out: asks every member itself, and reads the control collections. Nothing is changed anywhere.

use super::facts::{Answer, ControlFacts, Facts, NodeFacts, Oplog, ReplsetFacts, Unfinished};
use crate::control::{Control, OpDocs, OpDocument, unix_now};
use crate::model::{config::Config, member::MemberState};
use crate::mongo::{self, admin, code, connect::connect_member, hello::Hello, login, majority};
use crate::oplog::slice;
use crate::topo::cluster::{self, Cluster, Member};
use anyhow::{Result, bail};
use bson::{Bson, Timestamp};
use futures::future::join_all;
use mongodb::Client;
use std::{collections::BTreeMap, time::Duration};
use tokio::{net::TcpStream, time::Instant, time::timeout};

/// How much is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Everything.
    Full,
    /// What can stand against an operation that is about to begin.
    Operation,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Of the leader replica set.
    pub control: &'a Control,
    /// With the user and TLS settings for every member.
    pub uri: &'a str,
    /// The name of the connections in the servers' logs.
    pub app: &'static str,
    /// How long a member has to answer.
    pub patience: Duration,
    pub depth: Depth,
}

impl Asker<'_> {
    /// Asks everybody. What can't be found out is part of the facts.
    pub async fn everything(&self) -> Facts {
        let ((cluster, replsets, mut unanswered), (control, more)) =
            tokio::join!(self.replsets(), self.control_facts());
        unanswered.extend(more);
        let with_few = !majority::is_asked_for(self.control.client());
        let shards = cluster.members.values().filter(|member| cluster.sharded && !member.config).count();
        // Whoever may not read it can't be told.
        let config_shard = cluster.sharded && cluster::has_config_shard(self.control.client()).await.unwrap_or(false);
        Facts { replsets, control, unanswered, with_few, shards, config_shard }
    }

    /// Every member of every replica set, hidden ones and arbiters too, and which questions had no answer.
    async fn replsets(&self) -> (Cluster, Vec<ReplsetFacts>, Vec<String>) {
        let (cluster, failed) = match cluster::read(self.control.client()).await {
            Ok(cluster) => (cluster, None),
            Err(error) => (self.only_leader().await, Some(format!("find the replica sets: {}", explain(&error)))),
        };
        let sets = cluster.members.iter().map(|(rs, member)| self.replset(rs, &member.hosts));
        let sets = join_all(sets).await;
        (cluster, sets, failed.into_iter().collect())
    }

    /// As far as `hello` tells, which everybody may ask.
    async fn only_leader(&self) -> Cluster {
        let Ok(Hello { set_name, hosts, passives, .. }) = mongo::hello(self.control.client()).await else {
            return Cluster::default();
        };
        let member = Member { id: set_name.clone(), hosts: [hosts, passives].concat(), config: false };
        Cluster { sharded: false, members: [(set_name, member)].into() }
    }

    async fn replset(&self, rs: &str, hosts: &[String]) -> ReplsetFacts {
        let mut asked = self.ask_all(hosts.to_vec()).await;
        let mut states: BTreeMap<String, (MemberState, String)> = BTreeMap::new();
        for member in asked.iter().flat_map(|(_, asked)| asked.iter().flat_map(|asked| &asked.members)) {
            // 0 to 10; whoever does not reach a member knows nothing of its state.
            if member.health > 0.0 || !states.contains_key(&member.name) {
                states.insert(member.name.clone(), (member.state, member.state_str.clone()));
            }
        }
        let others = states.iter().filter(|(host, (state, _))| *state != MemberState::Arbiter && !hosts.contains(host));
        asked.extend(self.ask_all(others.map(|(host, _)| host.clone()).collect()).await);
        // Members that see each other report the same; a member that sees no other does not count against them.
        let seen: Vec<&Option<String>> =
            asked.iter().filter_map(|(_, it)| it.as_ref().ok()).map(|it| &it.no_majority).collect();
        let no_majority =
            if seen.iter().all(|it| it.is_some()) { seen.into_iter().flatten().next().cloned() } else { None };
        let mut nodes: Vec<NodeFacts> = asked
            .into_iter()
            .map(|(host, asked)| {
                let (state, state_str) =
                    states.get(&host).cloned().map_or((None, String::new()), |(n, s)| (Some(n), s));
                NodeFacts { host, state, state_str, answer: asked.map(|asked| asked.answer) }
            })
            .collect();
        for (host, (state, state_str)) in states.into_iter().filter(|(_, (state, _))| *state == MemberState::Arbiter) {
            if !nodes.iter().any(|node| node.host == host) {
                nodes.push(NodeFacts {
                    host,
                    state: Some(state),
                    state_str,
                    answer: Err("it is not asked".to_owned()),
                });
            }
        }
        nodes.sort_by(|a, b| a.host.cmp(&b.host));
        ReplsetFacts { name: rs.to_owned(), nodes, no_majority }
    }

    async fn ask_all(&self, hosts: Vec<String>) -> Vec<(String, Result<Asked, String>)> {
        join_all(hosts.into_iter().map(|host| async {
            let asked = self.ask(&host).await.map_err(|error| explain(&error));
            (host, asked)
        }))
        .await
    }

    /// One member, over one connection of its own.
    async fn ask(&self, host: &str) -> Result<Asked> {
        // The driver would try again and again, and then tell of its own time-out.
        match timeout(self.patience, TcpStream::connect(host)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => bail!("no connection from here: {error}"),
            Err(_) => bail!("no connection from here within {} ms", self.patience.as_millis()),
        }
        let client = connect_member(self.uri, host, self.app, self.patience).await?;
        let asking = async {
            // The first question also logs in; the second one measures.
            mongo::hello(&client).await?;
            let (begun, sent) = (Instant::now(), unix_ms());
            let hello = mongo::hello(&client).await?;
            let round = begun.elapsed();
            let round_ms = u64::try_from(round.as_millis()).unwrap_or(u64::MAX);
            let middle = sent + i64::try_from(round_ms / 2).unwrap_or(0);
            let clock_ms = hello.local_time.map_or(0, |there| there.timestamp_millis() - middle);
            let (status, config) = tokio::join!(admin::repl_status(&client), admin::set_config(&client));
            let no_majority = match (&status, &config) {
                (Ok(status), Ok(config)) => majority::missing(status, config),
                _ => None,
            };
            let members = status.map(|status| status.members).unwrap_or_default();
            let version = told(admin::version(&client).await);
            let login = told(login::login(&client).await);
            let locked = admin::is_fsync_locked(&client).await.unwrap_or(false);
            let answer = Answer { clock_ms, round_ms, version, login, locked, oplog: told(oplog(&client).await) };
            anyhow::Ok(Asked { answer, members, no_majority })
        };
        match timeout(self.patience.saturating_mul(2), asking).await {
            Ok(asked) => asked,
            Err(_) => bail!("it takes connections, but no answer came in {} ms", self.patience.as_millis() * 2),
        }
    }

    /// What the control collections say, and which questions had no answer.
    async fn control_facts(&self) -> (ControlFacts, Vec<String>) {
        let (control, mut failed) = (self.control, Vec::new());
        let now = keep(&mut failed, control.cluster_time().await);
        let mut facts = ControlFacts {
            now,
            ahead_secs: now.map_or(0, |now| i64::from(now.time) - unix_now()),
            config: keep(&mut failed, control.config.main().await).flatten(),
            agents: keep(&mut failed, control.agents.all().await).unwrap_or_default(),
            ..ControlFacts::default()
        };
        facts.newest_backup = keep(&mut failed, newest_backup(control).await).flatten();
        if self.depth == Depth::Full {
            // Only unreadable documents matter here, not the readable ones.
            keep(&mut failed, control.backups.readable().await);
            keep(&mut failed, control.restores.readable().await);
            facts.locks = keep(&mut failed, control.locks.all().await).unwrap_or_default();
            facts.slicers = keep(&mut failed, control.locks.slicers().await).unwrap_or_default();
            facts.pitr = keep(&mut failed, control.pitr.get().await).flatten();
            facts.leader_rs = keep(&mut failed, leader_rs(control).await).unwrap_or_default();
            facts.slicing_errors = match &facts.config {
                Some(config) => keep(&mut failed, self.slicing_errors(config).await).unwrap_or_default(),
                None => Vec::new(),
            };
            facts
                .unfinished
                .extend(keep(&mut failed, unfinished(&control.backups, "backup").await).unwrap_or_default());
            facts
                .unfinished
                .extend(keep(&mut failed, unfinished(&control.restores, "restore").await).unwrap_or_default());
        }
        failed.dedup();
        facts.unreadable = control.unreadable.named();
        (facts, failed)
    }

    async fn slicing_errors(&self, config: &Config) -> Result<Vec<(String, String)>> {
        let on = config.pitr_is_on();
        let (Some(epoch), true) = (config.epoch, on) else { return Ok(Vec::new()) };
        let mut errors = Vec::new();
        for rs in cluster::read(self.control.client()).await?.names() {
            let line = self.control.logs.pitr_error(&rs, epoch).await?;
            errors.extend(line.map(|line| (rs, format!("{}: {}", line.node, line.msg))));
        }
        Ok(errors)
    }
}

async fn leader_rs(control: &Control) -> Result<String> {
    Ok(mongo::hello(control.client()).await?.set_name)
}

/// A member's answer, with its view of the replica set.
struct Asked {
    answer: Answer,
    members: Vec<admin::Member>,
    no_majority: Option<String>,
}

fn unix_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// What the server says of a denial repeats the whole command.
fn explain(error: &anyhow::Error) -> String {
    let denied = error.chain().find_map(|cause| cause.downcast_ref()).and_then(code::code) == Some(code::UNAUTHORIZED);
    if denied { format!("{error}: the user may not do this") } else { admin::explain(error) }
}

fn told<T>(result: Result<T>) -> Result<T, String> {
    result.map_err(|error| explain(&error))
}

fn keep<T>(failed: &mut Vec<String>, result: Result<T>) -> Option<T> {
    result.map_err(|error| failed.push(explain(&error))).ok()
}

async fn oplog(client: &Client) -> Result<Oplog> {
    let (oldest, newest) = slice::window(client).await?;
    let (size, max) = slice::size_and_limit(client).await?;
    Ok(Oplog { oldest, newest, size, max })
}

async fn newest_backup(control: &Control) -> Result<Option<(i64, i64)>> {
    let newest = control.backups.newest_full().await?;
    Ok(newest.map(|backup| (backup.size, backup.last_transition_ts - backup.start_ts)))
}

async fn unfinished<T: OpDocument>(docs: &OpDocs<T>, kind: &'static str) -> Result<Vec<Unfinished>> {
    let text = |document: &bson::Document, key: &str| document.get_str(key).unwrap_or_default().to_owned();
    let found = docs.unfinished().await?;
    Ok(found
        .iter()
        .map(|document| Unfinished {
            kind,
            name: text(document, "name"),
            opid: text(document, "opid"),
            hb: document.get("hb").and_then(Bson::as_timestamp).unwrap_or(Timestamp { time: 0, increment: 0 }),
        })
        .collect())
}
