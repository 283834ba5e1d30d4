//! What a capped collection holds at a moment, by the source's oplog.
//!
//! From 6.0 on the deletions that an insertion into a full capped collection causes are entries of their own, after it
//! and among those of other insertions. A server that applies the entries deletes by itself as well, and sooner: it can't
//! tell what the source held in between. Before 6.0 there are no such entries, and every server deletes by itself.

use crate::support::state::{self, Contents};
use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, RawDocumentBuf, Timestamp, Uuid, doc};
use mongodb::{Client, Cursor};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

#[derive(Default)]
struct Collection {
    /// As they were inserted, in their order.
    documents: Vec<Document>,
    /// The `_id`s of those that were changed since.
    changed: HashSet<String>,
    /// Everything that happened to it, for whoever has to explain a difference.
    history: Vec<String>,
}

/// Goes through an oplog, and knows what all collections hold that only insertions, deletions and changes in place reach.
pub struct Caps {
    entries: Cursor<Document>,
    ahead: Option<Document>,
    collections: HashMap<String, Collection>,
}

impl Caps {
    pub async fn of(source: &Client) -> Self {
        let oplog = source.database("local").collection::<Document>("oplog.rs");
        let entries = oplog.find(doc! {}).await.expect("read the oplog");
        Self { entries, ahead: None, collections: HashMap::new() }
    }

    pub async fn go_to(&mut self, until: Timestamp) {
        loop {
            let next = match self.ahead.take() {
                None => self.entries.try_next().await.expect("read the oplog"),
                ahead => ahead,
            };
            let Some(entry) = next else { return };
            if entry.get_timestamp("ts").expect("ts") > until {
                self.ahead = Some(entry);
                return;
            }
            self.take(&entry);
        }
    }

    fn take(&mut self, entry: &Document) {
        let Some(uuid) = entry.get("ui").and_then(uuid) else { return };
        let o = entry.get_document("o").expect("o");
        let collection = self.collections.entry(uuid).or_default();
        let ts = entry.get_timestamp("ts").expect("ts");
        let shown: String = format!("{o}").chars().take(80).collect();
        let of = entry.get("o2").map(ToString::to_string).unwrap_or_default();
        collection.history.push(format!("{ts} {} {of} {shown}", entry.get_str("op").expect("op")));
        match entry.get_str("op").expect("op") {
            "i" => collection.documents.push(o.clone()),
            "d" => collection.documents.retain(|document| document.get("_id") != o.get("_id")),
            "u" => drop(collection.changed.insert(id(entry.get_document("o2").expect("o2")))),
            _ if o.contains_key("emptycapped") => collection.documents.clear(),
            _ => {}
        }
    }

    /// What three tellers say about a capped collection that `restored` has otherwise than expected.
    pub async fn explain(&self, expected: &Value, witness: &Client, restored: &Client) -> String {
        let mut text = String::new();
        for (db, content) in expected["databases"].as_object().expect("databases") {
            for (coll, state) in content["collections"].as_object().expect("collections") {
                let Some(collection) = self.collections.get(state["uuid"].as_str().unwrap_or_default()) else {
                    continue;
                };
                let by_oplog: Vec<String> = collection.documents.iter().map(id).collect();
                let got = ids(restored, db, coll).await;
                if state["options"].get("capped").is_some() && by_oplog != got {
                    let seen = ids(witness, db, coll).await;
                    text += &format!("{db}.{coll}\n  oplog {by_oplog:?}\n  witness {seen:?}\n  restored {got:?}\n");
                    text += &format!("  {}\n", collection.history.join("\n  "));
                }
            }
        }
        text
    }

    /// Puts what the oplog says in the place of what `witness` holds, in each capped collection of `expected`. A document
    /// that was changed is the witness's; where it has dropped one, that of `restored`.
    pub async fn correct(&self, expected: &mut Value, witness: &Client, restored: &Client) {
        let databases = expected["databases"].as_object_mut().expect("databases");
        for (db, content) in databases {
            let collections = content["collections"].as_object_mut().expect("collections");
            for (coll, state) in collections.iter_mut().filter(|(_, state)| state["options"].get("capped").is_some()) {
                let uuid = state["uuid"].as_str().expect("a UUID");
                let empty = Collection::default();
                let collection = self.collections.get(uuid).unwrap_or(&empty);
                let mut documents: Vec<&Document> = collection.documents.iter().collect();
                // What is clustered is in the order of `_id`, which its server knows best.
                if state["options"].get("clusteredIndex").is_some() {
                    let order = ids(restored, db, coll).await;
                    documents.sort_by_key(|document| order.iter().position(|other| *other == id(document)));
                }
                let mut contents = Contents::new(true);
                for document in documents {
                    let key = doc! { "_id": document.get("_id").expect("_id") };
                    let inserted = RawDocumentBuf::try_from(document).expect("a document");
                    let mut now = None;
                    if collection.changed.contains(&id(&key)) {
                        for server in [witness, restored] {
                            let there = server.database(db).collection::<RawDocumentBuf>(coll);
                            let found = there.find_one(key.clone()).await.expect("read a document");
                            now = now.or(found);
                        }
                    }
                    contents.add(now.as_ref().unwrap_or(&inserted).as_bytes());
                }
                state.as_object_mut().expect("a state").extend(contents.into_state());
            }
        }
    }
}

/// The `_id`s in natural order.
async fn ids(server: &Client, db: &str, coll: &str) -> Vec<String> {
    let found = server.database(db).collection::<Document>(coll).find(doc! {}).await.expect("read a collection");
    let found: Vec<Document> = found.try_collect().await.expect("read a collection");
    found.iter().map(id).collect()
}

fn uuid(value: &Bson) -> Option<String> {
    let uuid: Uuid = mongodb::bson::deserialize_from_bson(value.clone()).ok()?;
    Some(state::uuid(uuid))
}

fn id(document: &Document) -> String {
    format!("{:?}", document.get("_id").expect("_id"))
}
