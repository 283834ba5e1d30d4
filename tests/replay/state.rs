//! The whole state of a server in a form that can be compared.

use std::collections::BTreeMap;

use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};

use super::dump::{databases, list};

/// Namespace -> what is to be said about it, line by line.
pub type State = BTreeMap<String, BTreeMap<String, String>>;

/// Fields of a document in alphabetical order: options and index specifications have no order.
fn sorted(doc: &Document) -> Document {
    let mut fields: Vec<_> = doc.iter().collect();
    fields.sort_by_key(|(name, _)| name.as_str());
    fields.into_iter().map(|(name, value)| (name.clone(), normal(name, value))).collect()
}

fn normal(name: &str, value: &Bson) -> Bson {
    match value {
        Bson::Document(doc) if name != "key" => Bson::Document(sorted(doc)),
        Bson::Int64(n) => i32::try_from(*n).map_or(value.clone(), Bson::Int32),
        other => other.clone(),
    }
}

pub async fn state(client: &Client) -> State {
    let mut state = State::new();
    for db in databases(client).await {
        for each in list(client, &db).await {
            let name = each.get_str("name").unwrap();
            if name == "system.views" {
                continue;
            }
            let mut lines = BTreeMap::new();
            let options = each.get_document("options").unwrap();
            lines.insert("type".to_owned(), each.get_str("type").unwrap().to_owned());
            lines.insert("options".to_owned(), sorted(options).to_string());
            let real = each.get_str("type").unwrap() == "collection";
            if real && !name.starts_with("system.buckets.") {
                lines.insert("uuid".to_owned(), each.get_document("info").unwrap().get("uuid").unwrap().to_string());
            }
            if real {
                let ordered = options.contains_key("capped");
                let mut cursor = client.database(&db).run_cursor_command(doc! {"find": name}).await.unwrap();
                let mut count = 0;
                while cursor.advance().await.unwrap() {
                    let raw = cursor.current();
                    let id = format!("doc {:?}", raw.get("_id").unwrap());
                    let position = if ordered { format!("#{count} ") } else { String::new() };
                    lines.insert(id, format!("{position}{raw:?}"));
                    count += 1;
                }
                lines.insert("count".to_owned(), count.to_string());
            }
            if each.get_str("type").unwrap() != "view" {
                let mut cursor = client.database(&db).run_cursor_command(doc! {"listIndexes": name}).await.unwrap();
                while cursor.advance().await.unwrap() {
                    let mut spec: Document = cursor.deserialize_current().unwrap();
                    crate::support::state::unify(&mut spec, !real);
                    lines.insert(format!("index {}", spec.get_str("name").unwrap()), sorted(&spec).to_string());
                }
            }
            state.insert(format!("{db}.{name}"), lines);
        }
    }
    state
}

/// The first differences, in words.
/// The primary gives an upsert into a capped collection its place before it gives it its time: of writes at the same time
/// the oplog may have another order than the collection. A secondary and a restore have the oplog's.
const RACING: usize = 4;

fn is_same(a: Option<&String>, b: Option<&String>) -> bool {
    let placed = |text: &String| {
        let (place, rest) = text.strip_prefix('#')?.split_once(' ')?;
        Some((place.parse::<usize>().ok()?, rest.to_owned()))
    };
    let place = |text: Option<&String>| text.and_then(placed);
    match (place(a), place(b)) {
        (Some((a, one)), Some((b, other))) => one == other && a.abs_diff(b) < RACING,
        _ => a == b,
    }
}

pub fn differences(truth: &State, found: &State) -> Vec<String> {
    let mut all = Vec::new();
    let empty = BTreeMap::new();
    for ns in truth.keys().chain(found.keys()).collect::<std::collections::BTreeSet<_>>() {
        let (a, b) = (truth.get(ns), found.get(ns));
        if a.is_none() != b.is_none() {
            all.push(format!("{ns}: {}", if a.is_none() { "only in the restored" } else { "missing in the restored" }));
            continue;
        }
        let (a, b) = (a.unwrap_or(&empty), b.unwrap_or(&empty));
        for line in a.keys().chain(b.keys()).collect::<std::collections::BTreeSet<_>>() {
            if !is_same(a.get(line), b.get(line)) {
                let crop = |text: Option<&String>| text.map(|text| text.chars().take(600).collect::<String>());
                all.push(format!(
                    "{ns} {line}:\n      source   {:?}\n      restored {:?}",
                    crop(a.get(line)),
                    crop(b.get(line))
                ));
            }
        }
    }
    all
}
