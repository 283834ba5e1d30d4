//! Typed administration commands.

use super::{Server, code};
use crate::model::member::MemberState;
use anyhow::{Context, Result};
use bson::{Document, Timestamp, doc, oid::ObjectId};
use mongodb::Client;
use mongodb::error::{Error as MongoError, ErrorKind, WriteFailure};
use serde::Deserialize;

/// Server version and feature compatibility version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub server: String,
    pub fcv: String,
    /// Set on Percona Server for MongoDB.
    pub psmdb: Option<String>,
}

/// `buildInfo` and `featureCompatibilityVersion`.
pub async fn version(server: &dyn Server) -> Result<Version> {
    let info = server.run(doc! { "buildInfo": 1 }).await.context("run buildInfo")?;
    let fcv = server
        .run(doc! { "getParameter": 1, "featureCompatibilityVersion": 1 })
        .await
        .context("read featureCompatibilityVersion")?;
    Ok(Version {
        server: info.get_str("version").context("buildInfo has no version")?.to_owned(),
        fcv: fcv
            .get_document("featureCompatibilityVersion")
            .and_then(|d| d.get_str("version"))
            .context("featureCompatibilityVersion has no version")?
            .to_owned(),
        psmdb: info.get_str("psmdbVersion").ok().map(str::to_owned),
    })
}

/// One member in `replSetGetStatus`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub name: String,
    #[serde(default)]
    pub health: f64,
    #[serde(default)]
    pub state: MemberState,
    #[serde(default)]
    pub state_str: String,
    #[serde(default)]
    optime: Option<Optime>,
    #[serde(default, rename = "self")]
    pub is_self: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Optime {
    ts: Timestamp,
}

/// `replSetGetStatus`, as far as we use it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplStatus {
    pub set: String,
    pub members: Vec<Member>,
    /// How many members with data have to confirm a write with write concern `majority`.
    #[serde(default)]
    pub write_majority_count: Option<f64>,
}

/// The answer of `replSetGetConfig`: only the fields that we use.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct SetConfig {
    pub members: Vec<ConfigMember>,
}

/// One member in the configuration of the replica set.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMember {
    pub host: String,
    #[serde(default)]
    pub votes: f64,
    #[serde(default)]
    pub arbiter_only: bool,
    /// If `false`, the member has no indexes except those on `_id`.
    #[serde(default)]
    pub build_indexes: Option<bool>,
}

impl ReplStatus {
    /// The member that was asked.
    #[must_use]
    pub fn me(&self) -> Option<&Member> {
        self.members.iter().find(|m| m.is_self)
    }

    /// Seconds that the asked member is behind the primary; 0 while there is no primary to compare with.
    #[must_use]
    pub fn lag_secs(&self) -> i64 {
        let mine = self.me().and_then(|m| m.optime.as_ref());
        let first = self.members.iter().find(|m| m.state == MemberState::Primary).and_then(|m| m.optime.as_ref());
        match (first, mine) {
            (Some(first), Some(mine)) => (i64::from(first.ts.time) - i64::from(mine.ts.time)).max(0),
            _ => 0,
        }
    }
}

/// `replSetGetStatus` as the node answers it, without what it signs its answers with.
pub async fn raw_repl_status(client: &Client) -> Result<Document> {
    let command = doc! { "replSetGetStatus": 1 };
    let mut answer = client.database("admin").run_command(command).await.context("run replSetGetStatus")?;
    answer.remove("$clusterTime");
    Ok(answer)
}

/// Asks the node for the state of its replica set.
pub async fn repl_status(node: &dyn Server) -> Result<ReplStatus> {
    let answer = node.run(doc! { "replSetGetStatus": 1 }).await.context("run replSetGetStatus")?;
    bson::deserialize_from_document(answer).context("read the answer to replSetGetStatus")
}

/// The configuration of the replica set that the node belongs to.
pub async fn set_config(node: &dyn Server) -> Result<SetConfig> {
    let answer = node.run(doc! { "replSetGetConfig": 1 }).await.context("run replSetGetConfig")?;
    let config = answer.get_document("config").context("replSetGetConfig gave no configuration")?;
    bson::deserialize_from_document(config.clone()).context("read the answer to replSetGetConfig")
}

/// Is this node locked by `fsync`? If so, nothing is written there, not even replicated writes.
pub async fn is_fsync_locked(node: &dyn Server) -> Result<bool> {
    // Only the lock is of interest, so the filter matches no operations.
    let command = doc! { "currentOp": 1, "ns": "no such namespace" };
    let answer = node.run(command).await.context("run currentOp")?;
    Ok(answer.get_bool("fsyncLock").unwrap_or(false))
}

/// Takes one lock of `fsync` away. Returns `false` if the node was not locked.
pub async fn fsync_unlock(node: &dyn Server) -> Result<bool> {
    match node.run(doc! { "fsyncUnlock": 1 }).await {
        Ok(_) => Ok(true),
        Err(error) if code::code(&error) == Some(code::ILLEGAL_OPERATION) => Ok(false),
        Err(error) => Err(error).context("unlock the node (fsyncUnlock)"),
    }
}

/// The config-server replica set that a shard belongs to, as `<set>/<host>,<host>`; `None` outside sharded clusters.
pub async fn config_server_of_shard(client: &Client) -> Result<Option<String>> {
    let identity = client
        .database("admin")
        .collection::<Document>("system.version")
        .find_one(doc! { "_id": "shardIdentity" })
        .await
        .context("read shardIdentity")?;
    Ok(identity.and_then(|d| d.get_str("configsvrConnectionString").ok().map(str::to_owned)))
}

/// The id of a sharded cluster, from its config servers.
pub async fn cluster_id(config: &Client) -> Result<Option<ObjectId>> {
    let versions = config.database("config").collection::<Document>("version");
    let version = versions.find_one(doc! {}).await.context("read config.version")?;
    Ok(version.and_then(|d| d.get_object_id("clusterId").ok()))
}

/// The id of a replica set, given when it was initiated.
pub async fn replica_set_id(client: &Client) -> Result<Option<ObjectId>> {
    let admin = client.database("admin");
    let answer = admin.run_command(doc! { "replSetGetConfig": 1 }).await.context("run replSetGetConfig")?;
    let settings = answer.get_document("config").and_then(|config| config.get_document("settings"));
    Ok(settings.and_then(|settings| settings.get_object_id("replicaSetId")).ok())
}

/// The error for people: a server's answer by its name and message, without the answer's bytes.
#[must_use]
pub fn reason(error: &MongoError) -> String {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => {
            format!("{} ({}): {}", command.code_name, command.code, brief(&command.message))
        }
        ErrorKind::Write(WriteFailure::WriteConcernError(missed)) => {
            format!("too few members confirmed the write: {} ({}): {}", missed.code_name, missed.code, missed.message)
        }
        kind => brief(&tidy(&kind.to_string())),
    }
}

/// Shortens a server's message. Some messages repeat the whole command with its session and signature; of that only the
/// command's name is kept.
fn brief(message: &str) -> String {
    const COMMAND: &str = "to execute command {";
    let Some((before, command)) = message.split_once(COMMAND) else { return message.to_owned() };
    let name = command.split(':').next().unwrap_or_default().trim();
    format!("{before}to execute the command {name}")
}

/// The driver's words without what only its developers need: a server that can't be reached comes with the error's labels,
/// and its source and answer, which are empty.
fn tidy(text: &str) -> String {
    let mut told = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(", labels: {") {
        told.push_str(before);
        let after = after.split_once('}').map_or("", |(_, after)| after);
        let after = after.strip_prefix(", source: None").unwrap_or(after);
        rest = after.strip_prefix(", server response: None").unwrap_or(after);
    }
    (told + rest).replace("Error: Kind: ", "Error: ")
}

/// A chain of causes for people, with the server's answers as [`reason`] tells them.
#[must_use]
pub fn explain(error: &anyhow::Error) -> String {
    let mut told: Vec<String> = Vec::new();
    for cause in error.chain() {
        let said = cause.downcast_ref::<MongoError>().map_or_else(|| cause.to_string(), reason);
        // Some errors tell their cause themselves.
        if !told.last().is_some_and(|before| before.ends_with(&said)) {
            told.push(said);
        }
        if cause.is::<MongoError>() {
            break;
        }
    }
    told.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_was_denied_is_told_by_its_name() {
        let message = r#"not authorized on admin to execute command { find: "pbmConfig", filter: {}, lsid: { id: UUID("0") }, $clusterTime: { clusterTime: Timestamp(1, 1), signature: { hash: BinData(0, 00), keyId: 7 } }, $db: "admin" }"#;
        assert_eq!(brief(message), "not authorized on admin to execute the command find");
        assert_eq!(brief("not primary"), "not primary");
    }

    #[test]
    fn the_drivers_own_affairs_are_left_out() {
        let servers = r#"No available servers. Topology: { Type: Unknown, Servers: [ { Address: h:1, Type: Unknown, Error: Kind: I/O error: Connection refused (os error 111), labels: {"RetryableError", "SystemOverloadedError"}, source: None, server response: None }, { Address: h:2, Type: Unknown, Error: Kind: I/O error: timed out, labels: {}, source: None, server response: None } ] }"#;
        let told = "No available servers. Topology: { Type: Unknown, Servers: [ { Address: h:1, Type: Unknown, Error: I/O error: \
                    Connection refused (os error 111) }, { Address: h:2, Type: Unknown, Error: I/O error: timed out } ] }";
        assert_eq!(tidy(servers), told);
        for whole in ["", "duplicate key", "x, labels: none"] {
            assert_eq!(tidy(whole), whole);
        }
    }
}
