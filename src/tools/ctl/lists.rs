//! What `pbmctl list` shows, in the columns that it always had.

use super::was_known;
use crate::cmd::io::{agents, context::Context, error::Result, output::Report, storage};
use crate::model::{
    agent::AgentStat, command::name, config::StorageConf, lock::is_stale, status::Status, store::StoreKind,
};
use crate::mongo::{Purpose, admin, connect};
use crate::storages::place;
use crate::topo::identity;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::timeout;

/// How long a replica set has to tell its ID.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// The end of a list of storages, and of each in it.
const RULE: usize = 97;

/// One node, with the keys of the old API.
#[derive(Debug, Serialize)]
struct Node {
    id: String,
    cluster_id: String,
    node_type: &'static str,
    node_name: String,
    replicaset_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    replicaset_id: Option<String>,
    running_db_backup: bool,
    running_oplog_backup: bool,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Nodes(Vec<Node>);

impl Report for Nodes {
    fn text(&self) -> String {
        let verbose = self.0.iter().any(|node| node.replicaset_id.is_some());
        let (more, rule) = if verbose {
            (" - Replicaset ID".to_owned(), format!("   {}", "-".repeat(36)))
        } else {
            (String::new(), String::new())
        };
        let row = |cells: [&str; 5]| {
            let [id, cluster, kind, name, replset] = cells;
            format!("{id:<36} - {cluster:<24} - {kind:<26} - {name:<30} - {replset:<30} - ")
        };
        let titles = row(["Node ID", "Cluster ID", "Node Type", "Node Name", "Replicaset Name"]);
        let rules = [36, 24, 26, 30, 30, 23].map(|width| "-".repeat(width)).join("   ");
        let mut lines = vec![format!("{titles}Running DB/Oplog backup{more}"), format!("{rules}{rule}")];
        for node in &self.0 {
            let cells = row([&node.id, &node.cluster_id, node.node_type, &node.node_name, &node.replicaset_name]);
            let db = if node.running_db_backup { "Yes" } else { " No" };
            let oplog = if node.running_oplog_backup { "Yes" } else { "No " };
            let id = node.replicaset_id.as_ref().map(|id| format!("          - {id}")).unwrap_or_default();
            lines.push(format!("{cells}     {db} / {oplog}{id}"));
        }
        lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
    }
}

async fn replset_id(uri: &str, hosts: &[String]) -> anyhow::Result<String> {
    let client = connect::connect_elsewhere(uri, &hosts.join(","), Purpose::Leader { app: super::NAME }).await?;
    Ok(admin::replica_set_id(&client).await?.map(|id| id.to_hex()).unwrap_or_default())
}

/// The nodes that the cluster names, and those that have agents.
pub async fn nodes(cx: &Context, verbose: bool) -> Result<Nodes> {
    let cluster = cx.cluster().await?;
    let id = identity::read(cx.control.client(), &cluster).await?.map(|it| it.id).unwrap_or_default();
    let mut hosts: BTreeSet<(String, String)> = BTreeSet::new();
    let mut replset_ids = BTreeMap::new();
    for (rs, member) in &cluster.members {
        hosts.extend(member.hosts.iter().map(|host| (host.clone(), rs.clone())));
        if verbose {
            // One that does not answer has no ID; it is listed all the same.
            let id = timeout(ANSWERS_WITHIN, replset_id(&cx.uri, &member.hosts)).await;
            replset_ids.insert(rs.clone(), id.ok().and_then(anyhow::Result::ok).unwrap_or_default());
        }
    }
    hosts.extend(cx.control.agents.all().await?.into_iter().map(|agent| (agent.n, agent.rs)));
    let (mut dumping, mut tailing) = (BTreeSet::new(), BTreeSet::new());
    for lock in agents::living_locks(&cx.control).await? {
        if lock.header.kind == name::BACKUP {
            let backup = cx.control.backups.by_opid(&lock.header.opid).await?;
            let part = backup.and_then(|it| it.replsets.into_iter().find(|part| part.name == lock.header.replset));
            if part.is_none_or(|part| matches!(part.status, Status::Starting | Status::Running)) {
                dumping.insert(lock.header.node.clone());
            }
            tailing.insert(lock.header.node);
        }
    }
    let now = cx.control.cluster_time().await?;
    let slicers = cx.control.locks.slicers().await?.into_iter().filter(|lock| !is_stale(lock.hb, now));
    tailing.extend(slicers.map(|lock| lock.header.node));
    let node = |(host, rs): (String, String)| Node {
        cluster_id: id.clone(),
        node_type: match cluster.members.get(&rs) {
            Some(member) if member.config => "NODE_TYPE_MONGOD_CONFIGSVR",
            _ if cluster.sharded => "NODE_TYPE_MONGOD_SHARDSVR",
            _ => "NODE_TYPE_MONGOD_REPLSET",
        },
        replicaset_id: replset_ids.get(&rs).cloned(),
        running_db_backup: dumping.contains(&host),
        running_oplog_backup: tailing.contains(&host),
        id: host.clone(),
        node_name: host,
        replicaset_name: rs,
    };
    Ok(Nodes(hosts.into_iter().map(node).collect()))
}

#[derive(Debug, Serialize)]
struct Backup {
    filename: String,
    description: String,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Backups(Vec<Backup>);

impl Report for Backups {
    fn text(&self) -> String {
        if self.0.is_empty() {
            return "No backups found".to_owned();
        }
        let row = |name: &str, description: &str| format!("{name:<30} - {description}").trim_end().to_owned();
        let mut lines =
            vec![row("Metadata file name", "Description"), format!("{} - {}", "-".repeat(30), "-".repeat(75))];
        // A line break in a description must not make a line of its own.
        lines.extend(self.0.iter().map(|it| row(&it.filename, &it.description.replace(['\n', '\r'], " "))));
        lines.join("\n")
    }
}

/// Finished backups, by name.
pub async fn backups(cx: &Context) -> Result<Backups> {
    let all = cx.control.backups.readable().await?.into_iter();
    let done = all.filter(|backup| backup.status == Status::Done && was_known(backup.kind));
    let mut out: Vec<Backup> = done
        .map(|it| Backup { filename: format!("{}.json", it.name), description: it.description.unwrap_or_default() })
        .collect();
    out.sort_by(|a, b| a.filename.cmp(&b.filename));
    Ok(Backups(out))
}

/// One storage, with the keys of the old API.
#[derive(Debug, Serialize)]
struct Storage {
    name: String,
    match_clients: Vec<String>,
    differ_clients: Vec<String>,
    valid: bool,
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Storages(Vec<Storage>);

impl Report for Storages {
    fn text(&self) -> String {
        let rule = "-".repeat(RULE);
        let names = |all: &[String]| all.iter().map(|name| format!("{name},")).collect::<String>();
        let mut lines = vec!["Available Storages:".to_owned(), rule.clone()];
        for it in &self.0 {
            lines.push(format!("Name         : {}", it.name));
            lines.push(format!("MatchClients : {}", names(&it.match_clients)).trim_end().to_owned());
            lines.push(format!("DifferClients: {}", names(&it.differ_clients)).trim_end().to_owned());
            lines.push(format!("Storage configuration is {}.", if it.valid { "valid" } else { "invalid" }));
            lines.extend(it.errors.iter().map(|error| format!("  {error}")));
            lines.push(format!("Type: {}", it.kind));
            if it.kind == StoreKind::Filesystem.name() {
                lines.push(format!("  Path       : {}", it.path));
            } else {
                let text = |value: &Option<String>| value.clone().unwrap_or_default();
                lines.push(format!("  Region      : {}", text(&it.region)));
                lines.push(format!("  Endpoint URI: {}", text(&it.endpoint_url)));
                lines.push(format!("  Bucket      : {}", text(&it.bucket)));
            }
            lines.push(rule.clone());
        }
        lines.push(String::new());
        lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
    }
}

impl Storage {
    fn of(name: &str, conf: &StorageConf) -> Self {
        let of = |keys: &[&str]| {
            let store = conf.object_store()?;
            keys.iter().find_map(|key| store.get_str(key).ok()).map(str::to_owned)
        };
        Self {
            name: name.to_owned(),
            match_clients: Vec::new(),
            differ_clients: Vec::new(),
            valid: true,
            kind: conf.kind.clone(),
            path: storage::path(conf),
            region: storage::region(conf),
            endpoint_url: of(&["endpointUrl", "endpoint"]),
            bucket: of(&["bucket", "container"]),
            errors: Vec::new(),
        }
    }

    /// As the agents say.
    fn seen_by(mut self, agents: &[AgentStat]) -> Self {
        let (good, bad): (Vec<&AgentStat>, Vec<&AgentStat>) = agents.iter().partition(|agent| agent.stors.ok);
        self.match_clients = good.iter().map(|agent| agent.n.clone()).collect();
        self.differ_clients = bad.iter().map(|agent| agent.n.clone()).collect();
        self.errors = bad.iter().map(|agent| format!("{}: {}", agent.n, agent.stors.e)).collect();
        self.valid = bad.is_empty();
        self
    }
}

/// The main storage and the profiles. Agents tell of the main one whether they can use it; the settings of the others are
/// the same for all agents, because they are in the database.
pub async fn storages(cx: &Context) -> Result<Storages> {
    let config = cx.config().await?;
    let now = cx.control.cluster_time().await?;
    let agents = cx.control.agents.living(now).await?;
    let mut out = vec![Storage::of(place::MAIN, &config.storage).seen_by(&agents)];
    for profile in cx.control.config.profiles().await? {
        let mut it = Storage::of(profile.name.as_deref().unwrap_or_default(), &profile.storage);
        it.match_clients = agents.iter().map(|agent| agent.n.clone()).collect();
        out.push(it);
    }
    Ok(Storages(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::agent::SubsysStatus;
    use bson::doc;

    fn node() -> Node {
        Node {
            id: "h:1".into(),
            cluster_id: "0".repeat(24),
            node_type: "NODE_TYPE_MONGOD_REPLSET",
            node_name: "h:1".into(),
            replicaset_name: "rs0".into(),
            replicaset_id: None,
            running_db_backup: true,
            running_oplog_backup: false,
        }
    }

    #[test]
    fn nodes_have_the_old_columns() {
        let text = Nodes(vec![node()]).text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1].len(), 36 + 24 + 26 + 30 + 30 + 23 + 5 * 3);
        let cells: Vec<&str> = lines[2].split(" - ").map(str::trim).collect();
        assert_eq!(cells, ["h:1", &"0".repeat(24), "NODE_TYPE_MONGOD_REPLSET", "h:1", "rs0", "Yes / No"]);
        let verbose = Node { replicaset_id: Some("abc".into()), running_oplog_backup: true, ..node() };
        let text = Nodes(vec![verbose]).text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].find("- Replicaset ID"), lines[2].find("- abc"), "{text}");
    }

    #[test]
    fn backups_are_two_columns() {
        assert_eq!(Backups(Vec::new()).text(), "No backups found");
        let one = Backup { filename: "b.json".into(), description: "two\nlines".into() };
        let text = Backups(vec![one]).text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("{:<30} - Description", "Metadata file name"));
        assert_eq!(lines[2], format!("{:<30} - two lines", "b.json"));
    }

    #[test]
    fn storages_tell_which_agents_can_use_them() {
        let conf = StorageConf {
            kind: "s3".into(),
            s3: Some(doc! { "bucket": "b", "region": "eu-1", "credentials": { "secret-access-key": "hunter2" } }),
            ..StorageConf::default()
        };
        let good = AgentStat::healthy("rs0", "h:1", 1);
        let bad = AgentStat { stors: SubsysStatus::broken("denied"), ..AgentStat::healthy("rs0", "h:2", 2) };
        let storage = Storage::of("main", &conf).seen_by(&[good, bad]);
        assert!(!serde_json::to_string(&storage).expect("JSON").contains("hunter2"));
        let text = Storages(vec![storage]).text();
        for line in [
            "Name         : main",
            "MatchClients : h:1,",
            "DifferClients: h:2,",
            "Storage configuration is invalid.",
            "  h:2: denied",
            "  Region      : eu-1",
            "  Bucket      : b",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
    }
}
