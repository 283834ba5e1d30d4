//! All that a replica set holds, and how it differs from what it held before.

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use mongodb::{
    Client, Database,
    bson::{Bson, Document, RawDocumentBuf, doc},
};
use std::collections::{BTreeMap, BTreeSet};

/// The most differences that are described for one namespace.
const MOST: usize = 3;

/// The content of the databases that belong to users, and the users and roles.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct State(BTreeMap<String, Namespace>);

#[derive(Debug, Clone, PartialEq, Default)]
struct Namespace {
    kind: String,
    options: Document,
    /// By their names.
    indexes: BTreeMap<String, Document>,
    /// By the text of their ids. They are compared byte by byte.
    documents: BTreeMap<String, RawDocumentBuf>,
}

impl State {
    /// Reads everything but what belongs to the server and to this program.
    ///
    /// # Errors
    /// The server refuses to be read.
    pub async fn read(client: &Client) -> Result<Self> {
        let mut state = Self::default();
        for name in client.list_database_names().await.context("list the databases")? {
            if !["admin", "config", "local"].contains(&name.as_str()) {
                state.read_database(&client.database(&name)).await.with_context(|| format!("read {name}"))?;
            }
        }
        for coll in ["system.users", "system.roles"] {
            let documents = documents(&client.database("admin"), coll).await?;
            state.0.insert(format!("admin.{coll}"), Namespace { documents, ..Namespace::default() });
        }
        Ok(state)
    }

    async fn read_database(&mut self, db: &Database) -> Result<()> {
        let found = db.run_cursor_command(doc! { "listCollections": 1 }).await.context("list the collections")?;
        let found: Vec<Document> = found.try_collect().await.context("list the collections")?;
        for each in found {
            let name = each.get_str("name").context("a collection without a name")?;
            // The server makes it with the first view, and keeps it. Buckets are read as their time series.
            if name == "system.views" || name.starts_with("system.buckets.") {
                continue;
            }
            let kind = each.get_str("type").unwrap_or("collection").to_owned();
            let indexes = if kind == "view" { BTreeMap::new() } else { indexes(db, name).await? };
            let options = each.get_document("options").cloned().unwrap_or_default();
            let documents = documents(db, name).await?;
            self.0.insert(format!("{}.{name}", db.name()), Namespace { kind, options, indexes, documents });
        }
        Ok(())
    }

    /// The part whose names `wanted` chooses.
    pub fn only(&self, wanted: impl Fn(&str) -> bool) -> Self {
        Self(self.0.iter().filter(|(ns, _)| wanted(ns)).map(|(ns, it)| (ns.clone(), it.clone())).collect())
    }

    /// Every difference between what is expected and `self`, without the values of documents.
    pub fn differences(&self, expected: &Self) -> Vec<String> {
        let names: BTreeSet<&String> = self.0.keys().chain(expected.0.keys()).collect();
        let mut all = Vec::new();
        for ns in names {
            match (expected.0.get(ns), self.0.get(ns)) {
                (Some(expected), Some(got)) => {
                    all.extend(got.differences(expected).into_iter().map(|it| format!("{ns}: {it}")));
                }
                (Some(_), None) => all.push(format!("{ns}: is missing")),
                (None, _) => all.push(format!("{ns}: was not there before")),
            }
        }
        all
    }
}

impl Namespace {
    fn differences(&self, expected: &Self) -> Vec<String> {
        let mut all = Vec::new();
        if self.kind != expected.kind {
            all.push(format!("is a {} in place of a {}", self.kind, expected.kind));
        }
        for key in keys(&expected.options, &self.options) {
            if self.options.get(&key) != expected.options.get(&key) {
                let shown = |side: &Document| side.get(&key).map_or_else(|| "nothing".to_owned(), masked);
                all.push(format!("option {key}: {} in place of {}", shown(&self.options), shown(&expected.options)));
            }
        }
        compare("index", &expected.indexes, &self.indexes, Document::clone, &mut all);
        compare("document", &expected.documents, &self.documents, decoded, &mut all);
        all
    }
}

fn decoded(document: &RawDocumentBuf) -> Document {
    document.try_into().unwrap_or_else(|error| doc! { "unreadable": format!("{error}") })
}

/// Describes the first differences and counts the rest.
fn compare<T: PartialEq>(
    what: &str,
    expected: &BTreeMap<String, T>,
    got: &BTreeMap<String, T>,
    fields: impl Fn(&T) -> Document,
    all: &mut Vec<String>,
) {
    let names: BTreeSet<&String> = expected.keys().chain(got.keys()).collect();
    let mut different = names.into_iter().filter(|name| expected.get(*name) != got.get(*name));
    for name in different.by_ref().take(MOST) {
        // The name of an index says which one it is. The id of a document may say more than a reader of the report should know.
        let what = if what == "index" { format!("index {name}") } else { what.to_owned() };
        let shape = |it: &T| masked(&Bson::Document(fields(it)));
        all.push(match (expected.get(name), got.get(name)) {
            (Some(expected), Some(got)) => format!("{what}: {}", changes(&fields(expected), &fields(got))),
            (Some(expected), None) => format!("{what}: is missing: {}", shape(expected)),
            (None, Some(got)) => format!("{what}: was not there before: {}", shape(got)),
            (None, None) => continue,
        });
    }
    let rest = different.count();
    if rest > 0 {
        all.push(format!("{rest} more differences of this kind: {what}"));
    }
}

/// The fields that differ.
fn changes(expected: &Document, got: &Document) -> String {
    let shown = |side: &Document, key: &str| side.get(key).map_or_else(|| "nothing".to_owned(), masked);
    let all: Vec<String> = keys(expected, got)
        .into_iter()
        .filter(|key| expected.get(key) != got.get(key))
        .map(|key| format!("{key} is {} in place of {}", shown(got, &key), shown(expected, &key)))
        .collect();
    if all.is_empty() { "the order of its fields differs".to_owned() } else { all.join(", ") }
}

fn keys(a: &Document, b: &Document) -> BTreeSet<String> {
    a.keys().chain(b.keys()).cloned().collect()
}

/// The shape of a value: names of fields, types and lengths.
fn masked(value: &Bson) -> String {
    match value {
        Bson::Document(fields) => {
            let fields: Vec<String> = fields.iter().map(|(key, value)| format!("{key}: {}", masked(value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Bson::Array(items) => format!("[{} items]", items.len()),
        Bson::String(text) => format!("<text of {} bytes>", text.len()),
        Bson::Binary(binary) => format!("<binary of {} bytes>", binary.bytes.len()),
        Bson::Boolean(value) => value.to_string(),
        other => format!("<{:?}>", other.element_type()),
    }
}

async fn indexes(db: &Database, coll: &str) -> Result<BTreeMap<String, Document>> {
    let found = db.run_cursor_command(doc! { "listIndexes": coll }).await;
    let found = found.with_context(|| format!("list the indexes of {coll}"))?;
    let found: Vec<Document> = found.try_collect().await.with_context(|| format!("list the indexes of {coll}"))?;
    Ok(found.into_iter().map(|index| (index.get_str("name").unwrap_or_default().to_owned(), index)).collect())
}

async fn documents(db: &Database, coll: &str) -> Result<BTreeMap<String, RawDocumentBuf>> {
    let found = db.collection::<RawDocumentBuf>(coll).find(doc! {}).await;
    let mut found = found.with_context(|| format!("read {coll}"))?;
    let mut documents = BTreeMap::new();
    while let Some(document) = found.try_next().await.with_context(|| format!("read {coll}"))? {
        let id = document.get("_id").with_context(|| format!("read a document of {coll}"))?;
        documents.insert(id.map(|id| format!("{id:?}")).unwrap_or_default(), document);
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(document: Document) -> RawDocumentBuf {
        document.try_into().expect("a document")
    }

    fn state(document: Document, index: Document) -> State {
        let it = Namespace {
            kind: "collection".into(),
            options: doc! { "capped": true },
            indexes: BTreeMap::from([("a_1".to_owned(), index)]),
            documents: BTreeMap::from([("1".to_owned(), raw(document))]),
        };
        State(BTreeMap::from([("shop.orders".to_owned(), it)]))
    }

    #[test]
    fn what_differs_is_named_and_no_value_is_shown() {
        let before = state(doc! { "_id": 1, "card": "4000 1234" }, doc! { "key": { "a": 1 } });
        assert_eq!(before.differences(&before), Vec::<String>::new());
        let after = state(doc! { "_id": 1, "card": 7 }, doc! { "key": { "a": 1 }, "unique": true });
        let expected = [
            "shop.orders: index a_1: unique is true in place of nothing",
            "shop.orders: document: card is <Int32> in place of <text of 9 bytes>",
        ];
        assert_eq!(after.differences(&before), expected);
        let (nan, zero) = (
            |sign: f64| state(doc! { "v": f64::NAN.copysign(sign) }, doc! {}),
            |zero: f64| state(doc! { "v": zero }, doc! {}),
        );
        assert_eq!(nan(1.0).differences(&nan(1.0)), Vec::<String>::new());
        assert_eq!(zero(-0.0).differences(&zero(0.0)).len(), 1, "bytes count");
        let moved = state(doc! { "card": "4000 1234", "_id": 1 }, doc! { "key": { "a": 1 } });
        assert_eq!(moved.differences(&before), ["shop.orders: document: the order of its fields differs"]);
        assert_eq!(State::default().differences(&before), ["shop.orders: is missing"]);
        assert_eq!(before.differences(&State::default()), ["shop.orders: was not there before"]);
        assert_eq!(before.only(|ns| ns == "crm.notes"), State::default());
    }

    #[test]
    fn many_differences_are_counted() {
        let mut before = state(doc! {}, doc! {});
        let mut after = before.clone();
        let docs = |n: i32| (0..10).map(|id| (id.to_string(), raw(doc! { "_id": id, "n": n }))).collect();
        before.0.get_mut("shop.orders").expect("it").documents = docs(1);
        after.0.get_mut("shop.orders").expect("it").documents = docs(2);
        let told = after.differences(&before);
        assert_eq!(told.len(), 4);
        assert_eq!(told[3], "shop.orders: 7 more differences of this kind: document");
    }
}
