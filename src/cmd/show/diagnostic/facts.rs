//! The parts of a report beside the operation's own documents.

use super::Operation;
use crate::cmd::io::context::Context;
use crate::config::redact::Secrets;
use crate::model::{lock::Lock, names::PBM_VERSION};
use crate::mongo::{admin, connect};
use anyhow::Result;
use bson::{Bson, Document, doc};
use futures::{StreamExt, stream};
use serde::Serialize;
use std::{collections::BTreeSet, time::Duration};
use tokio::time::timeout;

/// How long a node has to answer.
const NODE_ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Nodes asked at a time.
const AT_ONCE: usize = 16;

/// Everything secret that is known: without it nothing may be quoted.
pub async fn secrets(cx: &Context, operation: &Operation) -> Result<Secrets> {
    let mut secrets = Secrets::default();
    secrets.learn_uri(&cx.uri);
    for document in &cx.control.config.documents().await? {
        secrets.learn(document);
    }
    for document in [&operation.command, &operation.backup, &operation.restore].into_iter().flatten() {
        secrets.learn(document);
    }
    Ok(secrets)
}

fn encode<T: Serialize>(all: &[T]) -> Result<Bson> {
    Ok(Bson::Array(all.iter().map(bson::serialize_to_bson).collect::<Result<_, _>>()?))
}

fn locks(all: &[Lock], now: Option<bson::Timestamp>) -> Result<Bson> {
    let with_age = |lock: &Lock| -> Result<Bson> {
        let mut document = bson::serialize_to_document(lock)?;
        if let Some(now) = now {
            document.insert("silent_secs", i64::from(now.time.saturating_sub(lock.hb.time)));
        }
        Ok(document.into())
    };
    Ok(Bson::Array(all.iter().map(with_age).collect::<Result<_>>()?))
}

/// The report: first what the original tells, in its order, then ours.
pub async fn report(cx: &Context, operation: &Operation, missing: &mut Vec<String>) -> Document {
    let control = &cx.control;
    let mut out = doc! { "opid": &operation.opid };
    let mut add = |key: &str, what: &str, value: Result<Bson>| match value {
        Ok(Bson::Null) => {}
        Ok(value) => drop(out.insert(key, value)),
        Err(error) => missing.push(format!("{what}: {}", admin::explain(&error))),
    };
    let now = control.cluster_time().await;
    let at = now.as_ref().ok().copied();
    add("cluster_time", "the cluster's time", now.map(Bson::from));
    match admin::version(control.client()).await {
        Ok(version) => {
            add("server_version", "", Ok(version.server.into()));
            add("fcv", "", Ok(version.fcv.into()));
        }
        Err(error) => add("server_version", "the server's version", Err(error)),
    }
    let command = operation.command.clone().map(|mut command| {
        command.remove("_id");
        command
    });
    add("command", "", Ok(command.map_or(Bson::Null, Bson::from)));
    let replsets = cx.cluster().await.map_err(|error| error.source).map(|cluster| {
        let one = |(rs, member): (&String, &crate::topo::cluster::Member)| -> Bson {
            doc! { "_id": &member.id, "host": format!("{rs}/{}", member.hosts.join(",")) }.into()
        };
        Bson::Array(cluster.members.iter().map(one).collect())
    });
    add("replsets", "the cluster's replica sets", replsets);
    add("agents", "the agents", control.agents.all().await.and_then(|all| encode(&all)));
    // From here on ours.
    add("locks", "the locks", control.locks.all().await.and_then(|all| locks(&all, at)));
    add("slicing_locks", "the slicers' locks", control.locks.slicers().await.and_then(|all| locks(&all, at)));
    let pitr =
        control.pitr.get().await.and_then(|it| Ok(it.map_or(Ok(Bson::Null), |it| bson::serialize_to_bson(&it))?));
    add("pitr", "the state of slicing", pitr);
    let config = control.config.documents().await;
    let config = config.map(|all| Bson::Array(all.into_iter().map(Bson::from).collect()));
    add("config", "the configuration", config);
    let open = async {
        let mut all = control.backups.unfinished().await?;
        all.extend(control.restores.unfinished().await?);
        let brief = |it: &Document| -> Bson {
            doc! { "name": it.get_str("name").unwrap_or_default(), "opid": it.get_str("opid").unwrap_or_default(),
            "status": it.get_str("status").unwrap_or_default() }
            .into()
        };
        Ok(Bson::Array(all.iter().map(brief).collect()))
    };
    add("unfinished", "what has not ended", open.await);
    add("written", "", Ok(Bson::DateTime(bson::DateTime::now())));
    let by = doc! { "program": concat!("pbmbox ", env!("CARGO_PKG_VERSION")), "formats": PBM_VERSION };
    add("written_by", "", Ok(by.into()));
    let missing: Vec<Bson> = missing.iter().map(|part| part.as_str().into()).collect();
    out.insert("missing", missing);
    out
}

/// What every node that answers says of its replica set, and why others did not answer.
pub async fn nodes(cx: &Context, missing: &mut Vec<String>) -> Document {
    let mut hosts: BTreeSet<(String, String)> = BTreeSet::new();
    match cx.cluster().await {
        Ok(cluster) => {
            let all = cluster.members.into_iter();
            hosts.extend(all.flat_map(|(rs, it)| it.hosts.into_iter().map(move |host| (rs.clone(), host))));
        }
        Err(error) => missing.push(format!("the cluster's nodes: {}", admin::explain(&error.source))),
    }
    // Hidden members are in no list of the cluster, but have agents.
    if let Ok(agents) = cx.control.agents.all().await {
        hosts.extend(agents.into_iter().map(|agent| (agent.rs, agent.n)));
    }
    let asked = stream::iter(hosts).map(async |(rs, host)| {
        let mut node = doc! { "rs": rs, "host": &host };
        match timeout(NODE_ANSWERS_WITHIN * 2, ask(&cx.uri, &host)).await {
            Ok(Ok(answer)) => node.extend(answer),
            Ok(Err(error)) => drop(node.insert("error", admin::explain(&error))),
            Err(_) => drop(node.insert("error", format!("no answer within {} s", NODE_ANSWERS_WITHIN.as_secs() * 2))),
        }
        node
    });
    let mut nodes: Vec<Document> = asked.buffered(AT_ONCE).collect().await;
    let silent = nodes.iter().filter(|node| node.contains_key("error"));
    missing.extend(silent.map(|node| {
        let text = |key| node.get_str(key).unwrap_or_default();
        format!("the state of node {}/{}: {}", text("rs"), text("host"), text("error"))
    }));
    doc! { "nodes": std::mem::take(&mut nodes) }
}

async fn ask(uri: &str, host: &str) -> Result<Document> {
    let client = connect::connect_member(uri, host, "pbm-ctl", NODE_ANSWERS_WITHIN).await?;
    let version = admin::version(&client).await?;
    let mut out = doc! { "server_version": version.server, "fcv": version.fcv };
    out.extend(version.psmdb.map(|psmdb| ("psmdb_version".to_owned(), Bson::from(psmdb))));
    out.insert("repl_status", admin::raw_repl_status(&client).await?);
    Ok(out)
}
