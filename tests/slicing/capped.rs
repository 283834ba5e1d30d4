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

/// A capped collection at a moment.
pub struct Capped {
    db: String,
    coll: String,
    /// The collection is clustered: its order is that of `_id`, which is taken from the server.
    clustered: bool,
    documents: Vec<Held>,
    /// Text that helps to explain a difference.
    told: String,
}

struct Held {
    id: String,
    key: Document,
    inserted: RawDocumentBuf,
    changed: bool,
    /// The document as the witness has it, if it was changed.
    now: Option<RawDocumentBuf>,
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

    /// The capped collections of `expected`, built from the oplog; changed documents are taken from the witness.
    pub async fn now(&self, expected: &Value, witness: &Client) -> Vec<Capped> {
        let mut all = Vec::new();
        for (db, content) in expected["databases"].as_object().expect("databases") {
            for (coll, state) in content["collections"].as_object().expect("collections") {
                if state["options"].get("capped").is_none() {
                    continue;
                }
                let empty = Collection::default();
                let uuid = state["uuid"].as_str().expect("a UUID");
                let collection = self.collections.get(uuid).unwrap_or(&empty);
                let mut documents = Vec::new();
                for document in &collection.documents {
                    let key = doc! { "_id": document.get("_id").expect("_id") };
                    let changed = collection.changed.contains(&id(&key));
                    let there = witness.database(db).collection::<RawDocumentBuf>(coll);
                    let now = match changed {
                        true => there.find_one(key.clone()).await.expect("read a document"),
                        false => None,
                    };
                    let inserted = RawDocumentBuf::try_from(document).expect("a document");
                    documents.push(Held { id: id(&key), key, inserted, changed, now });
                }
                let seen = ids(witness, db, coll).await;
                all.push(Capped {
                    db: db.clone(),
                    coll: coll.clone(),
                    clustered: state["options"].get("clusteredIndex").is_some(),
                    documents,
                    told: format!("  witness {seen:?}\n  {}\n", collection.history.join("\n  ")),
                });
            }
        }
        all
    }
}

impl Capped {
    /// The explanation that is printed if `restored` has other documents.
    pub async fn explain(&self, restored: &Client) -> String {
        let by_oplog: Vec<&String> = self.documents.iter().map(|held| &held.id).collect();
        let got = ids(restored, &self.db, &self.coll).await;
        match got.iter().eq(by_oplog.iter().copied()) {
            true => String::new(),
            false => {
                let Self { db, coll, told, .. } = self;
                format!("{db}.{coll}\n  oplog {by_oplog:?}\n  restored {got:?}\n{told}")
            }
        }
    }

    /// Replaces the witness's documents by those from the oplog. If the witness had dropped a changed document, the document
    /// of `restored` is used.
    pub async fn correct(&self, expected: &mut Value, restored: &Client) {
        let mut documents: Vec<&Held> = self.documents.iter().collect();
        if self.clustered {
            let order = ids(restored, &self.db, &self.coll).await;
            documents.sort_by_key(|held| order.iter().position(|other| *other == held.id));
        }
        let mut contents = Contents::new(true);
        for held in documents {
            let mut now = held.now.clone();
            if held.changed && now.is_none() {
                let there = restored.database(&self.db).collection::<RawDocumentBuf>(&self.coll);
                now = there.find_one(held.key.clone()).await.expect("read a document");
            }
            contents.add(now.as_ref().unwrap_or(&held.inserted).as_bytes());
        }
        let state = &mut expected["databases"][&self.db]["collections"][&self.coll];
        state.as_object_mut().expect("a state").extend(contents.into_state());
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
