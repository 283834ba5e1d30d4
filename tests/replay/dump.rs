//! A fuzzy dump in memory, as naive as it can be while losing nothing: collections are listed, then read one by one.

use mongodb::Client;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc, rawdoc};
use pbmbox::archive::meta::{NamespaceKind, NamespaceMeta};
use pbmbox::replay::catalog::Catalog;
use pbmbox::replay::target::{Mode, Target};

use super::workload::Pace;

pub struct Dumped {
    pub meta: NamespaceMeta,
    /// The real collection and its documents in the order they were read.
    pub from: String,
    pub documents: Vec<RawDocumentBuf>,
}

pub async fn databases(client: &Client) -> Vec<String> {
    let mut names = client.list_database_names().await.unwrap();
    names.retain(|name| !matches!(name.as_str(), "admin" | "config" | "local"));
    names
}

pub async fn list(client: &Client, db: &str) -> Vec<Document> {
    let mut cursor = client.database(db).run_cursor_command(doc! {"listCollections": 1}).await.unwrap();
    let mut found = Vec::new();
    while cursor.advance().await.unwrap() {
        found.push(cursor.deserialize_current().unwrap());
    }
    found
}

/// All of a cursor, or what was read before it broke.
async fn drain(
    client: &Client,
    db: &str,
    command: Document,
    pace: &mut Pace,
) -> (Vec<RawDocumentBuf>, Option<mongodb::error::Error>) {
    let mut read = Vec::new();
    let mut cursor = match client.database(db).run_cursor_command(command).batch_size(20).await {
        Ok(cursor) => cursor,
        Err(error) => return (read, Some(error)),
    };
    loop {
        match cursor.advance().await {
            Ok(true) => {
                read.push(cursor.current().to_owned());
                if read.len() % 20 == 0 {
                    pace.wait(1).await;
                }
            }
            Ok(false) => return (read, None),
            Err(error) => return (read, Some(error)),
        }
    }
}

/// Reads by UUID; a scan that was broken off by a rename or by a full capped collection begins again.
async fn read(client: &Client, db: &str, verb: &str, uuid: &Bson, pace: &mut Pace) -> Vec<RawDocumentBuf> {
    loop {
        let (read, error) = drain(client, db, doc! {verb: uuid}, pace).await;
        match error {
            None => return read,
            // NamespaceNotFound: dropped, and its drop is in the oplog.
            Some(error) if matches!(&*error.kind, mongodb::error::ErrorKind::Command(c) if c.code == 26) => {
                return read;
            }
            Some(_) => {}
        }
    }
}

pub async fn dump(client: &Client, pace: &mut Pace) -> Vec<Dumped> {
    let mut all = Vec::new();
    for db in databases(client).await {
        pace.wait(20).await;
        let listed = list(client, &db).await;
        let named = |each: &Document| each.get_str("name").unwrap().to_owned();
        for each in &listed {
            let (name, kind) = (named(each), each.get_str("type").unwrap());
            // One name can be listed twice while one kind gives way to another (`snapshot/namespaces.rs`).
            let rank = |kind: &str| ["collection", "view", "timeseries"].iter().position(|other| *other == kind);
            let is_twin = |other: &Document| named(other) == name && rank(other.get_str("type").unwrap()) < rank(kind);
            if name == "system.views" || listed.iter().any(is_twin) {
                continue;
            }
            let kind = match kind {
                "view" => NamespaceKind::View,
                "timeseries" => NamespaceKind::Timeseries,
                _ => NamespaceKind::Collection,
            };
            let uuid = each.get_document("info").unwrap().get("uuid").cloned();
            let (mut indexes, mut documents) = (None, Vec::new());
            if let Some(uuid) = &uuid {
                pace.wait(8).await;
                let read_indexes = read(client, &db, "listIndexes", uuid, pace).await;
                indexes = Some(
                    read_indexes
                        .iter()
                        .map(|raw| Document::try_from(raw.as_ref() as &mongodb::bson::RawDocument).unwrap())
                        .collect(),
                );
                pace.wait(8).await;
                documents = read(client, &db, "find", uuid, pace).await;
            }
            all.push(Dumped {
                meta: NamespaceMeta {
                    db: db.clone(),
                    coll: name.clone(),
                    kind,
                    options: each.get_document("options").unwrap().clone(),
                    indexes,
                    uuid: uuid.map(|uuid| mongodb::bson::deserialize_from_bson(uuid).unwrap()),
                    crc: 0,
                    size: 0,
                    object: None,
                },
                from: name,
                documents,
            });
        }
    }
    all
}

/// Loads a dump; a document that was read twice is there as it was read last.
pub async fn load(client: &Client, dump: &[Dumped], catalog: &mut Catalog) {
    let target = Target::new(client.clone());
    // Buckets of no series come last: beside them an insertion by a collection's name would go to them.
    let is_remains = |each: &Dumped| {
        let series = |other: &Dumped| {
            other.meta.kind == NamespaceKind::Timeseries
                && other.meta.db == each.meta.db
                && each.from.strip_prefix("system.buckets.") == Some(&other.meta.coll)
        };
        each.from.starts_with("system.buckets.") && !dump.iter().any(series)
    };
    let (remains, others): (Vec<&Dumped>, Vec<&Dumped>) = dump.iter().partition(|each| is_remains(each));
    for (group, remains) in [(others, false), (remains, true)] {
        create(client, &target, &group, remains, catalog).await;
        insert(&target, &group).await;
    }
}

async fn create(client: &Client, target: &Target, dump: &[&Dumped], remains: bool, catalog: &mut Catalog) {
    for each in dump {
        let options = catalog.add(&each.meta);
        let (db, coll) = (&each.meta.db, &each.meta.coll);
        let mut create = doc! {"create": coll};
        create.extend(options);
        match each.meta.uuid {
            Some(_) if coll.starts_with("system.buckets.") && !remains => continue,
            Some(uuid) => {
                let indexes = each.meta.indexes.clone().unwrap_or_default();
                let id = indexes.iter().find(|index| {
                    index.get_str("name").is_ok_and(|name| name == "_id_") && !index.contains_key("clustered")
                });
                if let Some(id) = id {
                    create.insert("idIndex", id.clone());
                }
                let op = rawdoc! {"op": "c", "ns": format!("{db}.$cmd"), "ui": mongodb::bson::Binary::from(uuid), "o": RawDocumentBuf::try_from(&create).unwrap()};
                let reply = target.apply_ops(Mode::InitialSync, &[&op]).await.unwrap();
                assert_eq!((reply.without_document, reply.refusal), (vec![], None), "{create}");
            }
            None => drop(client.database(db).run_command(create).await.unwrap()),
        }
    }
}

async fn insert(target: &Target, dump: &[&Dumped]) {
    for each in dump {
        let ops: Vec<RawDocumentBuf> = each
            .documents
            .iter()
            .map(|document| rawdoc! {"op": "i", "ns": format!("{}.{}", each.meta.db, each.from), "o": document.clone()})
            .collect();
        for chunk in ops.chunks(200) {
            let refs: Vec<_> = chunk.iter().map(AsRef::as_ref).collect();
            let reply = target.apply_ops(Mode::InitialSync, &refs).await.unwrap();
            assert_eq!((reply.without_document, reply.refusal), (vec![], None), "{}.{}", each.meta.db, each.from);
        }
    }
}
