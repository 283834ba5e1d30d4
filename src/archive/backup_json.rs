//! `<backup>.pbm.json` (docs/format.md A.2): the metadata of a backup, in a file next to its data.

use super::{extjson, json};
use crate::model::{backup::BackupMeta, store::StoreKind};
use anyhow::{Context as _, anyhow};
use bson::{Bson, Document};
use serde_json::{Map, Value, json};

/// The most JSON values that a file may contain. A backup has some dozens for each shard and one for each selected namespace.
const MOST_VALUES: usize = 200_000;
/// Lists of data files, which only physical backups before 2.4.1 have. They may be long, and no code here reads them.
const FILES: [&str; 2] = ["files", "journal"];
/// The text in place of a secret.
const MASK: &str = "***";
/// Keys of storage settings outside `credentials` whose text is secret.
const SECRET_KEYS: [&str; 1] = ["sseCustomerKey"];
/// Keys inside `credentials` whose text is not secret.
const OPEN_KEYS: [&str; 3] = ["type", "signature-ver", "server"];

const BACKUP: [&str; 27] = [
    "type",
    "opid",
    "name",
    "src_backup",
    "shardRemap",
    "nss",
    "nss_narrowed",
    "sel_users_and_roles",
    "replsets",
    "compression",
    "store",
    "size",
    "size_uncompressed",
    "mongodb_version",
    "fcv",
    "start_ts",
    "last_transition_ts",
    "first_write_ts",
    "last_write_ts",
    "hb",
    "status",
    "conditions",
    "n",
    "error",
    "pbm_version",
    "balancer",
    // This key is ours.
    "description",
];
const REPLSET: [&str; 20] = [
    "name",
    "backup_name",
    "oplog_name",
    "start_ts",
    "status",
    "size",
    "size_uncompressed",
    "iscs",
    "configshard",
    "last_transition_ts",
    "first_write_ts",
    "last_write_ts",
    "node",
    "error",
    "conditions",
    "mongod_opts",
    "pbm_version",
    "mongo_version",
    // This key is ours.
    "physical",
    "left_out",
];
/// Keys of the storage, in addition to the settings of each type.
const STORE: [&str; 3] = ["name", "profile", "type"];
const FILESYSTEM: [&str; 6] = ["path", "maxObjSizeGB", "backupBuffSize", "restoreBuffSize", "fileMode", "dirMode"];

/// Returns the content of the file: indented by tabs, without a line break at the end. Secrets of the storage are
/// masked, and the progress is left out.
///
/// # Errors
/// The metadata cannot be encoded.
pub fn write(meta: &BackupMeta) -> anyhow::Result<Vec<u8>> {
    let context = || format!("encode the metadata of backup '{}'", meta.name);
    let mut doc = bson::serialize_to_document(meta).with_context(context)?;
    omit_empty(&mut doc, &["error", "src_backup"]);
    if let Ok(store) = doc.get_document_mut("store") {
        mask_store(store);
    }
    omit_empty_errors(&mut doc);
    let replsets = doc.get_array_mut("replsets").into_iter().flatten();
    for replset in replsets.filter_map(Bson::as_document_mut) {
        *replset = std::mem::take(replset)
            .into_iter()
            .filter(|(key, _)| key != "progress")
            .map(|(key, value)| (if key == "dump_name" { "backup_name".to_owned() } else { key }, value))
            .collect();
        omit_empty(replset, &["error"]);
        omit_empty_errors(replset);
    }
    Ok(plain(&doc))
}

/// Reads the file as the original does: unknown keys and everything after the first value are ignored, keys may be in
/// any case, and missing or `null` values count as empty.
///
/// # Errors
/// The bytes do not begin with a JSON object, or a known key has a value of the wrong type.
pub fn read(bytes: &[u8]) -> anyhow::Result<BackupMeta> {
    let value = json::first_value(bytes, MOST_VALUES, &FILES)?;
    let mut backup = pick(value, &BACKUP, "the backup")?;
    drop_empty(&mut backup, &["type", "status", "compression"]);
    backup.entry("compression").or_insert_with(|| json!("none"));
    backup.entry("name").or_insert_with(|| json!(""));
    for key in ["first_write_ts", "last_write_ts", "hb"] {
        timestamp(&mut backup, key)?;
    }
    each(&mut backup, "conditions", condition)?;
    each(&mut backup, "n", |n| with_default(pick(n, &["rs", "n", "ack"], "a nomination")?, "rs", json!("")))?;
    each(&mut backup, "replsets", replset)?;
    if let Some(store) = backup.remove("store") {
        let kinds = StoreKind::ALL.into_iter().filter(|kind| *kind != StoreKind::Blackhole);
        let known: Vec<&str> = STORE.into_iter().chain(kinds.map(StoreKind::name)).collect();
        let mut store = pick(store, &known, "store")?;
        if let Some(filesystem) = store.remove("filesystem") {
            let filesystem = with_default(pick(filesystem, &FILESYSTEM, "store.filesystem")?, "path", json!(""))?;
            store.insert("filesystem".to_owned(), filesystem);
        }
        backup.insert("store".to_owned(), Value::Object(store));
    }
    serde_json::from_value(Value::Object(backup)).context("read the metadata of a backup")
}

fn replset(value: Value) -> anyhow::Result<Value> {
    let mut replset = pick(value, &REPLSET, "a replica set")?;
    drop_empty(&mut replset, &["status"]);
    if let Some(name) = replset.remove("backup_name") {
        replset.insert("dump_name".to_owned(), name);
    }
    for key in ["first_write_ts", "last_write_ts"] {
        timestamp(&mut replset, key)?;
    }
    each(&mut replset, "conditions", condition)?;
    with_default(replset, "name", json!(""))
}

fn condition(value: Value) -> anyhow::Result<Value> {
    let mut condition = pick(value, &["timestamp", "status", "error"], "a condition")?;
    drop_empty(&mut condition, &["status"]);
    condition.entry("timestamp").or_insert_with(|| json!(0));
    with_default(condition, "status", json!("init"))
}

/// Returns the known members of an object under their exact names, without nulls.
fn pick(value: Value, known: &[&str], what: &str) -> anyhow::Result<Map<String, Value>> {
    let Value::Object(object) = value else { return Err(anyhow!("{what} is no JSON object")) };
    let named = |(key, value): (String, Value)| {
        let name = known.iter().find(|name| name.eq_ignore_ascii_case(&key))?;
        (!value.is_null()).then(|| ((*name).to_owned(), value))
    };
    Ok(object.into_iter().filter_map(named).collect())
}

/// Removes empty words. An empty word has the same meaning as a missing one: the first value of its kind.
fn drop_empty(object: &mut Map<String, Value>, keys: &[&str]) {
    object.retain(|key, value| !keys.contains(&key.as_str()) || value.as_str() != Some(""));
}

fn with_default(mut object: Map<String, Value>, key: &str, default: Value) -> anyhow::Result<Value> {
    object.entry(key).or_insert(default);
    Ok(Value::Object(object))
}

/// Converts every element of the array at `key`. Null elements count as empty objects.
fn each(
    object: &mut Map<String, Value>,
    key: &str,
    convert: impl Fn(Value) -> anyhow::Result<Value>,
) -> anyhow::Result<()> {
    if let Some(Value::Array(list)) = object.get_mut(key) {
        for element in list {
            let value = match element.take() {
                Value::Null => json!({}),
                value => value,
            };
            *element = convert(value)?;
        }
    }
    Ok(())
}

/// Converts `{"T", "I"}` to the form that [`bson::Timestamp`] reads.
fn timestamp(object: &mut Map<String, Value>, key: &str) -> anyhow::Result<()> {
    if let Some(value) = object.remove(key) {
        let parts = pick(value, &["T", "I"], key)?;
        let part = |name: &str| parts.get(name).cloned().unwrap_or_else(|| json!(0));
        object.insert(key.to_owned(), json!({ "$timestamp": { "t": part("T"), "i": part("I") } }));
    }
    Ok(())
}

fn omit_empty(doc: &mut Document, keys: &[&str]) {
    for key in keys {
        if doc.get_str(key).is_ok_and(str::is_empty) {
            doc.remove(key);
        }
    }
}

fn omit_empty_errors(doc: &mut Document) {
    let conditions = doc.get_array_mut("conditions").into_iter().flatten();
    for condition in conditions.filter_map(Bson::as_document_mut) {
        omit_empty(condition, &["error"]);
    }
}

/// Masks the secrets in the settings of any storage. The credentials of gcs are removed.
fn mask_store(store: &mut Document) {
    omit_empty(store, &["name"]);
    if store.get_bool("profile").is_ok_and(|on| !on) {
        store.remove("profile");
    }
    if let Ok(gcs) = store.get_document_mut("gcs") {
        gcs.remove("credentials");
    }
    mask(store, false);
}

fn mask(doc: &mut Document, secret: bool) {
    for (key, value) in doc.iter_mut() {
        match value {
            Bson::Document(inner) => mask(inner, secret || key == "credentials"),
            Bson::String(text) if !text.is_empty() => {
                let open = OPEN_KEYS.contains(&key.as_str());
                if (secret && !open) || SECRET_KEYS.contains(&key.as_str()) {
                    MASK.clone_into(text);
                }
            }
            _ => {}
        }
    }
}

/// Returns a document as the files of the original have it: plain JSON, indented by tabs.
#[must_use]
pub fn plain(doc: &Document) -> Vec<u8> {
    let mut compact = String::new();
    push_document(&mut compact, doc);
    json::indent(&compact, "\t").into_bytes()
}

fn push_document(out: &mut String, doc: &Document) {
    out.push('{');
    for (i, (key, value)) in doc.iter().enumerate() {
        json::push_comma(out, i);
        json::push_string(out, key);
        out.push(':');
        push_value(out, value);
    }
    out.push('}');
}

/// Appends plain JSON. Values of types that no field has are written as Extended JSON.
fn push_value(out: &mut String, value: &Bson) {
    match value {
        Bson::Int32(v) => out.push_str(&v.to_string()),
        Bson::Int64(v) => out.push_str(&v.to_string()),
        Bson::Double(v) if v.is_finite() => out.push_str(&v.to_string()),
        Bson::Timestamp(v) => out.push_str(&format!("{{\"T\":{},\"I\":{}}}", v.time, v.increment)),
        Bson::ObjectId(v) => json::push_string(out, &v.to_hex()),
        Bson::Document(v) => push_document(out, v),
        Bson::Array(v) => {
            out.push('[');
            for (i, element) in v.iter().enumerate() {
                json::push_comma(out, i);
                push_value(out, element);
            }
            out.push(']');
        }
        other => extjson::push_value(out, other),
    }
}

#[cfg(test)]
mod tests {
    use super::{read, write};
    use crate::model::{
        backup::{BackupMeta, BackupType, Progress},
        compression::Compression,
        status::Status,
    };
    use bson::{Timestamp, doc};

    const SHARDED: &[u8] = include_bytes!("../../tests/fixtures/original/sharded.pbm.json");
    const SELECTIVE: &[u8] = include_bytes!("../../tests/fixtures/original/selective.pbm.json");

    fn written(meta: &BackupMeta) -> String {
        String::from_utf8(write(meta).unwrap()).unwrap()
    }

    #[test]
    fn files_of_the_original_come_back_byte_for_byte() {
        for file in [SHARDED, SELECTIVE] {
            assert_eq!(written(&read(file).unwrap()), String::from_utf8_lossy(file));
        }
        let meta = read(SHARDED).unwrap();
        assert_eq!(meta.shard_remap["rs2"], "shardB");
        assert_eq!(meta.replsets[2].dump_name, "2026-11-21T02:21:36Z/cfgrs/metadata.json");
        assert_eq!(meta.last_write_ts, Timestamp { time: 1_795_227_704, increment: 2 });
        assert!(read(SELECTIVE).unwrap().sel_users_and_roles);
    }

    #[test]
    fn empty_errors_and_progress_are_left_out_and_real_errors_kept() {
        let mut meta = read(SHARDED).unwrap();
        meta.error = Some(String::new());
        meta.conditions[0].error = Some(String::new());
        meta.replsets[0].error = Some(String::new());
        meta.replsets[0].conditions[0].error = Some(String::new());
        meta.replsets[0].progress = Some(Progress::default());
        assert_eq!(written(&meta), String::from_utf8_lossy(SHARDED));
        meta.replsets[0].error = Some("<disk> full".to_owned());
        let text = written(&meta);
        assert!(text.contains(r#""error": "\u003cdisk\u003e full""#), "{text}");
        assert_eq!(read(text.as_bytes()).unwrap().replsets[0].error.as_deref(), Some("<disk> full"));
    }

    #[test]
    fn secrets_are_masked() {
        let mut meta = read(SHARDED).unwrap();
        meta.store.s3 = Some(doc! {
            "bucket": "b", "credentials": { "access-key-id": "A1", "secret-access-key": "A2", "session-token": "",
                "vault": { "server": "v", "token": "A3" } },
            "serverSideEncryption": { "sseAlgorithm": "x", "sseCustomerKey": "A4" }, "maxObjSizeGB": 1.5,
        });
        meta.store.gcs = Some(doc! { "bucket": "g", "credentials": { "clientEmail": "A5", "privateKey": "A6" } });
        meta.store.oci = Some(doc! { "credentials": { "type": "up", "userPrincipal": { "privateKey": "A7" } } });
        let text: String = written(&meta).split_whitespace().collect();
        for secret in 1..=7 {
            assert!(!text.contains(&format!("\"A{secret}\"")), "A{secret} in {text}");
        }
        assert!(text.contains(r#""session-token":"","vault":{"server":"v","token":"***"}"#), "{text}");
        assert!(text.contains(r#""maxObjSizeGB":1.5},"gcs":{"bucket":"g"}"#), "{text}");
        assert!(text.contains(r#""credentials":{"type":"up","userPrincipal":{"privateKey":"***"}}"#), "{text}");
    }

    #[test]
    fn a_sparse_file_is_enough() {
        let meta = read(
            br#"{"NAME": "b", "Type": "logical", "conditions": null, "new": {"x": 1}, "status": "done",
                 "replsets": [{"name": "rs0", "Backup_Name": "b/rs0/metadata.json", "status": null, "node": null,
                               "first_write_ts": {"t": 5, "i": 1}, "files": []}],
                 "first_write_ts": {"t": 7, "I": 2}, "hb": null, "n": [{"rs": "rs0", "n": null}],
                 "store": {"type": "filesystem", "filesystem": {"path": "/x", "more": true}}} trailing }"#,
        )
        .unwrap();
        assert_eq!((meta.name.as_str(), meta.kind, meta.status), ("b", BackupType::Logical, Status::Done));
        assert_eq!(meta.compression, Compression::None);
        assert_eq!(meta.first_write_ts, Timestamp { time: 7, increment: 2 });
        assert_eq!(meta.hb, Timestamp { time: 0, increment: 0 });
        assert_eq!(meta.replsets[0].dump_name, "b/rs0/metadata.json");
        assert_eq!(meta.replsets[0].first_write_ts, Timestamp { time: 5, increment: 1 });
        assert_eq!(meta.replsets[0].status, Status::Init);
        assert_eq!(meta.store.filesystem.unwrap().path, "/x");
        assert!(meta.nss.is_empty());
    }

    #[test]
    fn wrong_types_are_refused() {
        for text in [
            "",
            "[]",
            "{",
            r#"{"name": 1}"#,
            r#"{"name": "b", "size": 1.5}"#,
            r#"{"name": "b", "hb": 7}"#,
            r#"{"name": "b", "hb": {"T": 4294967296}}"#,
            r#"{"name": "b", "status": "dreaming"}"#,
            r#"{"name": "b", "replsets": [1]}"#,
        ] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
