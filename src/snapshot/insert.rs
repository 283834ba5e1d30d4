//! Sends batches to the server and reads its answers.

use super::batch::{Insert, InsertInto, ZeroTimestamps, put_back};
use crate::mongo::code::{DUPLICATE_KEY, MIXED_SCHEMA};
use crate::raw;
use bson::{Bson, Document, RawArrayBuf, RawDocumentBuf, doc, raw::cstr, rawdoc};
use mongodb::{Client, error::ErrorKind};

/// The number of updates in one command.
const UPDATES_AT_ONCE: usize = 500;

/// Why documents were not inserted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused a document.
    #[error("insert into '{ns}': the server refused {document} (code {code}): {message}")]
    Refused { ns: String, document: String, code: i32, message: String },
    /// A majority of the members did not confirm the insert.
    #[error("insert into '{ns}': not confirmed by a majority: {reason}")]
    Unconfirmed { ns: String, reason: String },
    /// The command itself failed.
    #[error("{action} '{ns}'")]
    Server { action: &'static str, ns: String, source: mongodb::error::Error },
    /// The answer can't be understood, or reports fewer documents than were sent.
    #[error("insert into '{ns}': {reason}")]
    Answer { ns: String, reason: String },
}

/// A document that the server refused, and its position in the batch.
#[derive(Debug, Clone, PartialEq)]
struct WriteError {
    index: usize,
    code: i32,
    message: String,
    key: Option<Document>,
}

impl WriteError {
    /// Whether the collection already has a document with this `_id`.
    fn is_same_id(&self) -> bool {
        self.code == DUPLICATE_KEY && self.key.as_ref().is_some_and(|key| key.len() == 1 && key.contains_key("_id"))
    }
}

/// Sends one batch. Returns when the server has inserted all of it.
///
/// For a time series, `series` is its name. If the server requires it, buckets of mixed types are allowed for the
/// series.
pub async fn send(client: &Client, into: &InsertInto, insert: Insert, series: Option<&str>) -> Result<(), Error> {
    let ns = format!("{}.{}", into.db, into.coll);
    let (expected, first, zeros) = (insert.documents, insert.first, insert.zeros.clone());
    let Some(series) = series else {
        let answer = run(client, into, insert).await?;
        check(&ns, &answer, expected, first)?;
        return restore_zeros(client, &ns, &zeros).await;
    };
    let copy =
        Insert { command: insert.command.clone(), documents: expected, bytes: insert.bytes, first, zeros: Vec::new() };
    let answer = run(client, into, insert).await?;
    let mixed: Vec<_> =
        write_errors(&ns, &answer)?.into_iter().filter(|e| e.code == MIXED_SCHEMA).map(|e| e.index).collect();
    if mixed.is_empty() {
        check(&ns, &answer, expected, first)?;
    } else {
        allow_mixed_schema(client, into, series).await?;
        let retry = copy.only(into, &mixed).map_err(|reason| Error::Answer { ns: ns.clone(), reason })?;
        let others = write_errors(&ns, &answer)?.into_iter().find(|e| e.code != MIXED_SCHEMA);
        if let Some(other) = others {
            return Err(refused(&ns, &other, first));
        }
        let answer = run(client, into, retry).await?;
        check(&ns, &answer, mixed.len(), first)?;
    }
    restore_zeros(client, &ns, &zeros).await
}

/// Returns when a majority of the members has everything that was written before.
pub async fn confirm(client: &Client) -> Result<(), Error> {
    // A write that changes nothing waits until the majority has the last operation of the server.
    let nothing = doc! {
        "delete": crate::model::names::TMP_USERS,
        "deletes": [{ "q": { "_id": { "$exists": false } }, "limit": 1 }],
        "writeConcern": { "w": "majority" },
    };
    let ns = "admin".to_owned();
    let answer = client
        .database(crate::model::names::CONTROL_DB)
        .run_command(nothing)
        .await
        .map_err(|source| Error::Server { action: "wait for a majority to confirm", ns: ns.clone(), source })?;
    match answer.get_document("writeConcernError") {
        Ok(error) => Err(Error::Unconfirmed { ns, reason: text(error, "errmsg") }),
        Err(_) => Ok(()),
    }
}

async fn run(client: &Client, into: &InsertInto, insert: Insert) -> Result<Document, Error> {
    let ns = format!("{}.{}", into.db, into.coll);
    let answer = client.database(&into.db).run_raw_command(insert.command.clone()).await;
    match answer {
        Err(error) if is_unreadable(&error) => insert_again(client, &ns, &insert).await,
        answer => answer.map_err(|source| Error::Server { action: "insert into", ns, source }),
    }
}

/// Whether the server's answer can't be decoded. This happens when it repeats an `_id` with invalid UTF-8: the one of a
/// duplicate document, or of a document that an update has inserted.
pub(crate) fn is_unreadable(error: &mongodb::error::Error) -> bool {
    matches!(*error.kind, ErrorKind::BsonDeserialization(_) | ErrorKind::Bson(_) | ErrorKind::InvalidResponse { .. })
}

async fn insert_again(client: &Client, ns: &str, insert: &Insert) -> Result<Document, Error> {
    let unreadable = |reason: String| Error::Answer { ns: ns.to_owned(), reason };
    let documents = raw::find(&insert.command, "documents").and_then(|documents| documents.nested());
    let documents = documents.ok_or_else(|| unreadable("the command has no documents".to_owned()))?;
    let mut all = Vec::new();
    for field in raw::fields(documents) {
        let document = field.map_err(|error| unreadable(error.to_string()))?.document();
        all.push(document.ok_or_else(|| unreadable("the command has no documents".to_owned()))?.to_owned());
    }
    let put = put(client, ns, &all).await;
    put.map_err(|source| Error::Server { action: "insert again into", ns: ns.to_owned(), source })?;
    Ok(doc! { "ok": 1, "n": i64::try_from(all.len()).unwrap_or(i64::MAX) })
}

/// Inserts documents, or replaces those with the same `_id`, in the way in which the oplog is replayed. The server's
/// answer contains no `_id`.
pub(crate) async fn put(client: &Client, ns: &str, documents: &[RawDocumentBuf]) -> mongodb::error::Result<()> {
    let entries: Vec<_> =
        documents.iter().map(|document| rawdoc! { "op": "i", "ns": ns, "o": document.clone() }).collect();
    let mut command = apply_ops(&entries);
    for (name, value) in
        [(cstr!("allowAtomic"), false), (cstr!("alwaysUpsert"), true), (cstr!("bypassDocumentValidation"), true)]
    {
        command.append(name, value);
    }
    command.append(cstr!("oplogApplicationMode"), "InitialSync");
    client.database("admin").run_raw_command(command).await.map(drop)
}

fn apply_ops(entries: &[RawDocumentBuf]) -> RawDocumentBuf {
    let mut list = RawArrayBuf::new();
    entries.iter().for_each(|entry| list.push(entry.clone()));
    rawdoc! { "applyOps": list }
}

/// Checks the answer to an insert. It is no error if a document already exists: if a document is deleted and inserted
/// again during a scan, the scan can read it twice. It does not matter which of the two versions stays, because the
/// oplog of the backup contains both operations and is replayed afterwards. No other unique index exists yet.
fn check(ns: &str, answer: &Document, expected: usize, first: u64) -> Result<(), Error> {
    let (twice, refusals): (Vec<_>, Vec<_>) = write_errors(ns, answer)?.into_iter().partition(WriteError::is_same_id);
    if let Some(error) = refusals.first() {
        return Err(refused(ns, error, first));
    }
    if !twice.is_empty() {
        tracing::debug!("{} documents of {ns} stand twice in the backup", twice.len());
    }
    if let Ok(error) = answer.get_document("writeConcernError") {
        return Err(Error::Unconfirmed { ns: ns.to_owned(), reason: text(error, "errmsg") });
    }
    let inserted = answer.get("n").and_then(number).unwrap_or_default();
    if inserted != i64::try_from(expected - twice.len().min(expected)).unwrap_or(i64::MAX) {
        let reason = format!("{inserted} of {expected} documents were inserted");
        return Err(Error::Answer { ns: ns.to_owned(), reason });
    }
    Ok(())
}

fn refused(ns: &str, error: &WriteError, first: u64) -> Error {
    let number = first + error.index as u64 + 1;
    let document = match &error.key {
        Some(key) => format!("document number {number} ({key})"),
        None => format!("document number {number}"),
    };
    Error::Refused { ns: ns.to_owned(), document, code: error.code, message: error.message.clone() }
}

fn write_errors(ns: &str, answer: &Document) -> Result<Vec<WriteError>, Error> {
    let Ok(errors) = answer.get_array("writeErrors") else { return Ok(Vec::new()) };
    errors
        .iter()
        .map(|error| {
            let error = error.as_document()?;
            Some(WriteError {
                index: usize::try_from(error.get("index").and_then(number)?).ok()?,
                code: i32::try_from(error.get("code").and_then(number)?).ok()?,
                message: text(error, "errmsg"),
                key: error.get_document("keyValue").ok().cloned(),
            })
        })
        .collect::<Option<_>>()
        .ok_or_else(|| Error::Answer { ns: ns.to_owned(), reason: "the list of write errors is unreadable".to_owned() })
}

async fn allow_mixed_schema(client: &Client, into: &InsertInto, series: &str) -> Result<(), Error> {
    let database = client.database(&into.db);
    let mut result = Ok(Document::new());
    // It depends on the server version which of the two names is right.
    for name in [series, into.coll.as_str()] {
        let command = doc! { "collMod": name, "timeseriesBucketsMayHaveMixedSchemaData": true };
        result = database.run_command(command).await;
        if result.is_ok() {
            break;
        }
    }
    result.map(|_| ()).map_err(|source| Error::Server {
        action: "allow buckets of mixed types in",
        ns: format!("{}.{series}", into.db),
        source,
    })
}

async fn restore_zeros(client: &Client, ns: &str, zeros: &[ZeroTimestamps]) -> Result<(), Error> {
    for some in zeros.chunks(UPDATES_AT_ONCE) {
        let entries: Vec<_> = some.iter().map(|zero| put_back(ns, zero)).collect();
        client.database("admin").run_raw_command(apply_ops(&entries)).await.map_err(|source| Error::Server {
            action: "put zero timestamps back into",
            ns: ns.to_owned(),
            source,
        })?;
    }
    Ok(())
}

fn number(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(n) => Some(i64::from(*n)),
        Bson::Int64(n) => Some(*n),
        _ => None,
    }
}

fn text(document: &Document, key: &str) -> String {
    document.get_str(key).unwrap_or("no reason given").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        assert!(check("a.b", &doc! { "ok": 1, "n": 3 }, 3, 0).is_ok());
        let twice = doc! { "index": 1, "code": 11000, "errmsg": "E11000 dup", "keyValue": { "_id": 1 } };
        assert!(check("a.b", &doc! { "ok": 1, "n": 2, "writeErrors": [twice] }, 3, 0).is_ok());
        let cases = [
            (doc! { "ok": 1, "n": 2 }, "2 of 3 documents"),
            (doc! { "ok": 1 }, "0 of 3 documents"),
            (
                doc! { "n": 2, "writeErrors": [{ "index": 1, "code": 11000, "errmsg": "E11000 dup",
                "keyValue": { "mail": "x" } }] },
                "refused document number 42 ({ \"mail\": \"x\" }) (code 11000): E11000 dup",
            ),
            (
                doc! { "n": 1, "writeErrors": [{ "index": 1, "code": 11000, "errmsg": "E11000 dup",
                "keyValue": { "_id": "x" } }] },
                "1 of 3 documents",
            ),
            (
                doc! { "n": 2, "writeErrors": [{ "index": 0, "code": 2, "errmsg": "no" }] },
                "document number 41 (code 2)",
            ),
            (doc! { "n": 2, "writeErrors": [7] }, "unreadable"),
            (doc! { "n": 3, "writeConcernError": { "code": 64, "errmsg": "timed out" } }, "majority: timed out"),
        ];
        for (answer, part) in cases {
            let error = check("a.b", &answer, 3, 40).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
