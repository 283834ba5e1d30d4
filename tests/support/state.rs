//! The whole logical state of a replica set as JSON, in the form of the fixtures' `expected.json` (see `_about` there).

use bson::{Document, RawDocumentBuf, doc};
use futures::TryStreamExt;
use mongodb::{Client, Database};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Reads everything but what a server keeps for itself and our control collections.
pub async fn read(client: &Client) -> Value {
    let mut databases = Map::new();
    for name in client.list_database_names().await.expect("list databases") {
        if !["admin", "config", "local"].contains(&name.as_str()) {
            let db = client.database(&name);
            let state = read_database(&db).await;
            if state["collections"] != json!({}) || state["views"] != json!({}) {
                databases.insert(name, state);
            }
        }
    }
    json!({
        "databases": databases,
        "users": principals(client, "system.users").await,
        "roles": principals(client, "system.roles").await,
    })
}

async fn read_database(db: &Database) -> Value {
    let (mut collections, mut views, mut series) = (Map::new(), Map::new(), Map::new());
    let listed: Vec<Document> = db
        .run_cursor_command(doc! { "listCollections": 1 })
        .await
        .expect("list collections")
        .try_collect()
        .await
        .expect("list collections");
    for each in listed {
        let name = each.get_str("name").expect("a name").to_owned();
        let kind = each.get_str("type").expect("a type").to_owned();
        let options = extjson(each.get_document("options").expect("options"));
        match kind.as_str() {
            "view" => drop(views.insert(name, json!({ "type": kind, "options": options }))),
            "timeseries" => {
                let indexes = indexes(db, &name, true).await;
                series.insert(name, json!({ "type": kind, "options": options, "indexes": indexes }));
            }
            _ => {
                let mut state = documents(db, &name, options.get("capped").is_some()).await;
                let uuid = each.get_document("info").ok().and_then(|i| i.get("uuid")).cloned();
                let found: Option<bson::Uuid> = uuid.and_then(|u| bson::deserialize_from_bson(u).ok());
                state.insert("type".into(), kind.into());
                state.insert("options".into(), options);
                state.insert("uuid".into(), json!(found.map(self::uuid)));
                state.insert("indexes".into(), indexes(db, &name, false).await);
                collections.insert(name, Value::Object(state));
            }
        }
    }
    json!({ "collections": collections, "views": views, "timeseries": series })
}

/// Whether an index of a time series was made with `prepareUnique` or got it by `collMod` has no meaning, but shows in the
/// list of the series and in `originalSpec`. The outer field of the buckets' index says what holds.
pub fn unify(spec: &mut Document, series: bool) {
    if series {
        spec.remove("prepareUnique");
    } else if let Ok(original) = spec.get_document_mut("originalSpec") {
        original.remove("prepareUnique");
    }
}

async fn indexes(db: &Database, coll: &str, series: bool) -> Value {
    let Ok(cursor) = db.run_cursor_command(doc! { "listIndexes": coll }).await else { return json!([]) };
    let mut specs: Vec<Document> = cursor.try_collect().await.expect("list indexes");
    specs.sort_by(|a, b| a.get_str("name").unwrap_or("").cmp(b.get_str("name").unwrap_or("")));
    for spec in &mut specs {
        spec.remove("ns");
        unify(spec, series);
    }
    specs.iter().map(extjson).collect()
}

async fn documents(db: &Database, coll: &str, capped: bool) -> Map<String, Value> {
    let mut cursor = db.collection::<RawDocumentBuf>(coll).find(doc! {}).await.expect("read a collection");
    let mut contents = Contents::new(capped);
    while cursor.advance().await.expect("read a collection") {
        contents.add(cursor.current().as_bytes());
    }
    contents.into_state()
}

/// The documents of a collection, in sums.
pub struct Contents {
    count: u64,
    bytes: u64,
    sum: [u8; 32],
    /// Of a capped collection: its order is part of what it holds.
    natural: Option<Sha256>,
}

impl Contents {
    pub fn new(capped: bool) -> Self {
        Self { count: 0, bytes: 0, sum: [0; 32], natural: capped.then(Sha256::new) }
    }

    /// The next document in natural order.
    pub fn add(&mut self, raw: &[u8]) {
        if let Some(natural) = &mut self.natural {
            natural.update(raw);
        }
        add(&mut self.sum, &Sha256::digest(raw).into());
        self.count += 1;
        self.bytes += raw.len() as u64;
    }

    pub fn into_state(self) -> Map<String, Value> {
        let mut state = Map::new();
        state.insert("count".into(), self.count.into());
        state.insert("bytes".into(), self.bytes.into());
        state.insert("docs_hash".into(), hex(&self.sum).into());
        if let Some(natural) = self.natural {
            state.insert("natural_hash".into(), hex(&natural.finalize()).into());
        }
        state
    }
}

/// As the states have it.
pub fn uuid(uuid: bson::Uuid) -> String {
    uuid.to_string().replace('-', "")
}

async fn principals(client: &Client, coll: &str) -> Value {
    let mut cursor = client
        .database("admin")
        .collection::<RawDocumentBuf>(coll)
        .find(doc! {})
        .sort(doc! { "_id": 1 })
        .await
        .expect("read users or roles");
    let mut all = Vec::new();
    while cursor.advance().await.expect("read users or roles") {
        let raw = cursor.current();
        let id = raw.get_str("_id").expect("an id");
        all.push(json!({ "_id": id, "raw_sha256": hex(&Sha256::digest(raw.as_bytes())) }));
    }
    all.into()
}

/// Adds modulo 2^256, big-endian.
fn add(sum: &mut [u8; 32], more: &[u8; 32]) {
    let mut carry = 0_u16;
    for at in (0..32).rev() {
        let total = u16::from(sum[at]) + u16::from(more[at]) + carry;
        sum[at] = u8::try_from(total & 0xff).expect("a byte");
        carry = total >> 8;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn extjson(document: &Document) -> Value {
    serde_json::from_str(&pbmbox::archive::extjson::compact(document)).expect("extended JSON")
}

/// The routing of a cluster and its settings, as the fixtures have them.
pub async fn routing(config: &Client) -> Value {
    let db = config.database("config");
    let read = async |coll: &str, filter: Document| -> Vec<Document> {
        let cursor =
            db.collection::<Document>(coll).find(filter).sort(doc! { "_id": 1 }).await.expect("read the routing");
        cursor.try_collect().await.expect("read the routing")
    };
    let ours = doc! { "_id": { "$ne": "config.system.sessions" } };
    let collections = read("collections", ours).await;
    let uuids: Vec<bson::Bson> = collections.iter().filter_map(|coll| coll.get("uuid").cloned()).collect();
    let chunks = read("chunks", doc! { "uuid": { "$in": uuids } }).await;
    let all = [
        ("databases", read("databases", doc! {}).await),
        ("collections", collections),
        ("chunks", chunks),
        ("tags", read("tags", doc! {}).await),
        ("settings", read("settings", doc! {}).await),
    ];
    all.into_iter()
        .map(|(name, documents)| (name.to_owned(), documents.iter().map(extjson).collect()))
        .collect::<Map<_, Value>>()
        .into()
}

/// Every difference as a line `path: expected=… got=…`. What the fixtures say not to compare is left out: UUIDs of
/// `system.views` and of buckets, database hashes, counts through views.
pub fn differences(expected: &Value, got: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    compare("", expected, got, &mut lines);
    lines
}

const NOT_COMPARED: [&str; 6] = ["dbhash", "dbhash_md5", "count_through_view", "measurements", "customData", "doc"];

fn compare(path: &str, expected: &Value, got: &Value, lines: &mut Vec<String>) {
    match (expected, got) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                // The server makes it with the first view and keeps it when the last one goes: it says nothing then.
                let empty = |side: &Map<String, Value>| side.get(key).is_none_or(|views| views["count"] == 0);
                if key == "system.views" && empty(a) && empty(b) {
                    continue;
                }
                // Nobody chooses the index of `system.views`; who made it decides its version.
                if path.ends_with("/system.views") && key == "indexes" {
                    continue;
                }
                let own = path.contains("system.buckets.") || path.contains("system.views");
                // Of users the fixtures give more than the hash of the whole document, which says it all.
                if NOT_COMPARED.contains(&key.as_str())
                    || (own && key == "uuid")
                    || (path.starts_with("/users") && key == "roles")
                {
                    continue;
                }
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => compare(&format!("{path}/{key}"), a, b, lines),
                    (Some(a), None) => lines.push(format!("{path}/{key}: missing, expected {}", short(a))),
                    (None, Some(b)) => lines.push(format!("{path}/{key}: not expected: {}", short(b))),
                    (None, None) => {}
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            let name = |v: &Value| v.get("name").or_else(|| v.get("_id")).map(ToString::to_string);
            for one in a {
                match b.iter().find(|other| name(one).is_some() && name(other) == name(one)) {
                    Some(other) => compare(&format!("{path}[{}]", name(one).unwrap_or_default()), one, other, lines),
                    None if b.contains(one) => {}
                    None => lines.push(format!("{path}: missing {}", short(one))),
                }
            }
            for other in
                b.iter().filter(|o| !a.iter().any(|one| name(one) == name(o) && (name(one).is_some() || one == *o)))
            {
                lines.push(format!("{path}: not expected {}", short(other)));
            }
        }
        (a, b) if a == b => {}
        (a, b) => lines.push(format!("{path}: expected={} got={}", short(a), short(b))),
    }
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(300).collect()
}
