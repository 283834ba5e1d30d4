//! The connection to the primary that a replay writes to: `applyOps` and its peculiarities, other commands, and the
//! existing names.
//!
//! # What the server does (measured on 6.0.5 and 5.0.4)
//!
//! All cases use `allowAtomic: false` and `alwaysUpsert: false`.
//!
//! | case | answer |
//! |---|---|
//! | insert or update or delete, UUID unknown | error 26, the batch stops there (in every mode) |
//! | `ns` is not the present name of the UUID's collection | insert, update: error 26; delete: true, nothing done; if another collection has that name the server applies it without its lock, or dies (update): always send the present name |
//! | update (diff or replacement) of a missing document | `results[i]` false, the batch goes on, at its end error 8 |
//! | delete of a missing document | true |
//! | insert over an existing `_id` | true, replaces the document in place (its natural position stays) |
//! | insert or replacement hitting an `_id` equal only by collation | error 13596, stops |
//! | a diff onto fields of another shape, or onto a newer document | true, the parts that do not fit are left out |
//! | an update that would make a document too large | error 17419 or 10334, stops |
//! | `create` with the UUID of an existing collection | true; under another name: it is renamed to this one |
//! | `create`, the name belongs to another UUID | InitialSync: the other becomes `tmp`, five random letters and `.create`; ApplyOps: error |
//! | … and it is a time series' bucket collection | as above, and 6.0.5 dies on the next `listCollections`: never do it |
//! | `create` over a view, `drop` or `collMod` of a missing collection, `create system.views` again | true, nothing done |
//! | `renameCollection`: already renamed; source missing | true; true, `dropTarget` (a UUID) is dropped |
//! | `renameCollection` onto a name of another UUID that is not `dropTarget` | InitialSync: the other becomes `tmp`, five random letters and `.rename` |
//! | insert into `system.views` of a name that is a collection | true; the view hides it until it is deleted |
//! | command `drop` of `system.buckets.x` | drops the collection or view `x` if there is one; the oplog's `drop` does not |
//! | insert into a missing `system.views` | error 26 |
//! | `collMod` without `ui` in mode InitialSync | 6.0.5 dies (invariant): send it in mode ApplyOps |
//! | `createIndexes` in mode InitialSync | 5.0.4 dies: indexes are never sent |
//! | delete from a capped collection; update changing a size in one | 6.0: true; 5.0: error 20; 10003 |
//! | an unknown command, `convertToCapped` | error 2, nothing of the batch is applied on 6.0 |
//! | insert with `Timestamp(0,0)` on the top level, `$` or dotted fields | kept as it is (an `insert` command replaces the time) |
//!
//! # Servers that answer in another way
//!
//! - From 7.1 at the latest an operation whose collection is not there, or not at the name that it gives, does not stop the
//!   batch: its result is false, as if its document were missing, and the error at the end tells no reason. So the catalogue is
//!   asked what is missing ([`Target::has_collection`]).
//! - A server may refuse the mode InitialSync. The first command that it refuses as a whole shows it, together with an empty
//!   one. Then every operation is sent in a command of its own, without the mode, and the errors that the mode would have
//!   ignored are ignored here: a `drop`, `collMod` or `renameCollection` of a missing collection, and a `create` of one that
//!   is there. The callers look up who has a name anyway.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bson::{Document, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, Uuid, cstr, doc, rawdoc};
use mongodb::Client;
use mongodb::error::ErrorKind;

use crate::mongo::{code, listing};
use crate::raw::{find, text};
use crate::replay::key::Key;

/// How the server treats operations that do not fit the present data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As in an initial sync, an operation may be older than the data that it changes.
    InitialSync,
    ApplyOps,
}

/// The server's answer to an `applyOps`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Positions of the operations that found no document to update.
    pub without_document: Vec<usize>,
    /// The operation at which the server stopped. The operations after it were not applied.
    pub refusal: Option<Refusal>,
    /// Whether the operations were sent more than once.
    pub resent: bool,
}

impl Reply {
    fn is_refused_as_a_whole(&self) -> bool {
        self.refusal.as_ref().is_some_and(|refusal| refusal.at.is_none())
    }

    /// Fails unless every operation was applied.
    pub(super) fn expect_all(&self) -> Result<()> {
        match &self.refusal {
            Some(refusal) => bail!("error {}: {}", refusal.code, refusal.message),
            None if self.without_document.is_empty() => Ok(()),
            None => bail!("the server did not apply it"),
        }
    }
}

/// An operation that the server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Position in the batch; `None` if the whole command was refused.
    pub at: Option<usize>,
    pub code: i32,
    pub message: String,
}

/// The collection or view that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Occupant {
    Collection(Uuid),
    View,
    /// The view of a time series; its bucket collection has a name of its own.
    Timeseries,
}

/// How often a batch is sent at most. It may be sent again because the operations are idempotent in mode InitialSync.
const ATTEMPTS: u32 = 6;

/// A connection to the primary.
#[derive(Debug, Clone)]
pub struct Target {
    client: Client,
    /// The server refuses the mode InitialSync.
    is_plain: Arc<AtomicBool>,
}

impl Target {
    pub fn new(client: Client) -> Self {
        Self { client, is_plain: Arc::default() }
    }

    /// Applies `ops` in their order and waits until the majority has them.
    ///
    /// The reply lists the operations that the server refused.
    ///
    /// # Errors
    /// Even after several attempts, it is unknown whether the operations were applied.
    pub async fn apply_ops(&self, mode: Mode, ops: &[&RawDocument]) -> Result<Reply> {
        if mode == Mode::ApplyOps {
            return self.send(mode, ops).await;
        }
        if !self.is_plain.load(Ordering::Relaxed) {
            let reply = self.send(mode, ops).await?;
            if !reply.is_refused_as_a_whole() || !self.refuses_initial_sync().await? {
                return Ok(reply);
            }
            tracing::warn!(
                "the server refuses applyOps in the mode InitialSync: each operation is sent for itself, which takes longer"
            );
            self.is_plain.store(true, Ordering::Relaxed);
        }
        self.send_one_by_one(ops).await
    }

    /// Whether the server refuses the mode, and not what was to be applied in it.
    async fn refuses_initial_sync(&self) -> Result<bool> {
        let with = self.send(Mode::InitialSync, &[]).await?.refusal.is_some();
        Ok(with && self.send(Mode::ApplyOps, &[]).await?.refusal.is_none())
    }

    /// Applies operations without the mode InitialSync, with the same result.
    async fn send_one_by_one(&self, ops: &[&RawDocument]) -> Result<Reply> {
        let mut all = Reply::default();
        for (at, op) in ops.iter().enumerate() {
            let reply = self.send(Mode::ApplyOps, &[op]).await?;
            all.resent |= reply.resent;
            all.without_document.extend(reply.without_document.iter().map(|_| at));
            if let Some(refusal) = reply.refusal.filter(|refusal| !is_ignored(op, refusal.code)) {
                all.refusal = Some(Refusal { at: Some(at), ..refusal });
                break;
            }
        }
        Ok(all)
    }

    /// As [`Target::apply_ops`], in one command.
    async fn send(&self, mode: Mode, ops: &[&RawDocument]) -> Result<Reply> {
        let mut delay = Duration::from_millis(100);
        for attempt in 1.. {
            let resent = attempt > 1;
            let answer = self.client.database("admin").run_raw_command(command(mode, ops)).await;
            let error = match answer {
                Ok(answer) => match write_concern_error(&answer) {
                    None => return Ok(Reply { resent, ..Reply::default() }),
                    Some(message) => anyhow::anyhow!("the writes did not reach the majority: {message}"),
                },
                Err(error) => {
                    if let Some(reply) = read_refusal(&error)
                        && !reply.refusal.as_ref().is_some_and(|refusal| code::is_transient_code(refusal.code))
                    {
                        return Ok(Reply { resent, ..reply });
                    }
                    let transient = code::is_transient(&error);
                    let error = anyhow::Error::new(error);
                    if !transient {
                        return Err(error.context("apply operations on the primary"));
                    }
                    error
                }
            };
            if attempt >= ATTEMPTS {
                return Err(error.context(format!("apply operations on the primary ({attempt} attempts)")));
            }
            tracing::warn!(attempt, "applyOps interrupted, sending it again: {}", crate::mongo::admin::explain(&error));
            tokio::time::sleep(delay).await;
            delay *= 2;
        }
        unreachable!("the loop returns at the last attempt")
    }

    /// Applies operations, and fails if the server refuses one or finds no document for it.
    pub(super) async fn apply_all(&self, mode: Mode, ops: &[&RawDocument]) -> Result<()> {
        self.apply_ops(mode, ops).await?.expect_all()
    }

    /// Runs a command and returns its reply.
    pub async fn run(&self, db: &str, command: Document) -> Result<Document, mongodb::error::Error> {
        let command = text::encode(&command).map_err(mongodb::error::Error::custom)?;
        self.client.database(db).run_raw_command(command).await
    }

    /// Runs a command with several attempts. The command must be repeatable.
    pub(super) async fn run_with_retries(
        &self,
        db: &str,
        command: Document,
    ) -> Result<Document, mongodb::error::Error> {
        let mut delay = Duration::from_millis(200);
        for _ in 0..5 {
            match self.run(db, command.clone()).await {
                Err(error) if code::is_transient(&error) => tracing::warn!("interrupted, trying again: {error}"),
                result => return result,
            }
            tokio::time::sleep(delay).await;
            delay *= 2;
        }
        self.run(db, command).await
    }

    /// Returns the collection or view that has the name `db.coll`. If a view hides a collection, it returns the view.
    pub async fn lookup(&self, db: &str, coll: &str) -> Result<Option<Occupant>> {
        let found = self.list(db, doc! {"name": coll}).await?;
        Ok(found.into_iter().next().map(|(_, occupant)| occupant))
    }

    /// Lists the names in a database that match `filter`, with the UUIDs of the collections.
    pub async fn list(&self, db: &str, filter: Document) -> Result<Vec<(String, Occupant)>> {
        let database = self.client.database(db);
        let listed = listing::documents(&database, doc! {"listCollections": 1, "filter": filter}).await;
        let mut found = Vec::new();
        for namespace in listed.with_context(|| format!("list the collections of {db}"))? {
            let name = namespace.get_str("name").context("read a collection's name")?.to_owned();
            let uuid = namespace.get_document("info").ok().and_then(|info| info.get("uuid")).cloned();
            let is_series = namespace.get_str("type").is_ok_and(|kind| kind == "timeseries");
            found.push((
                name,
                match uuid.map(bson::deserialize_from_bson::<Uuid>) {
                    Some(uuid) => Occupant::Collection(uuid.context("read a collection's UUID")?),
                    None if is_series => Occupant::Timeseries,
                    None => Occupant::View,
                },
            ));
        }
        Ok(found)
    }

    /// Drops a collection that is not a view and has no `system.` in its name. A missing collection is no error.
    pub async fn drop(&self, db: &str, coll: &str) -> Result<()> {
        let command = doc! {"drop": coll, "writeConcern": {"w": "majority"}};
        match self.run(db, command).await {
            Err(error) if code::code(&error) == Some(code::NAMESPACE_NOT_FOUND) => Ok(()),
            result => result.map(drop).with_context(|| format!("drop {db}.{coll}")),
        }
    }

    /// Whether the collection that `key` stands for is there, under the name `ns`.
    pub(super) async fn has_collection(&self, key: &Key, ns: &str) -> Result<bool> {
        let (db, coll) = ns.split_once('.').unwrap_or((ns, ""));
        Ok(match (self.lookup(db, coll).await?, key) {
            (Some(Occupant::Collection(found)), Key::Uuid(uuid)) => found.bytes() == *uuid,
            (Some(Occupant::Collection(_)), Key::Name(_)) => true,
            _ => false,
        })
    }

    /// The UUID of the collection `db.coll`.
    ///
    /// # Errors
    /// No collection has this name, or a view hides the collection.
    pub(super) async fn collection_uuid(&self, db: &str, coll: &str) -> Result<Uuid> {
        match self.lookup(db, coll).await? {
            Some(Occupant::Collection(uuid)) => Ok(uuid),
            other => bail!("{db}.{coll} should be a collection but is {other:?}"),
        }
    }

    /// Drops indexes by name. A missing index is no error.
    pub(super) async fn drop_indexes<T: AsRef<str>>(&self, db: &str, coll: &str, names: &[T]) -> Result<()> {
        for name in names.iter().map(AsRef::as_ref) {
            let command = doc! {"dropIndexes": coll, "index": name, "writeConcern": {"w": "majority"}};
            match self.run_with_retries(db, command).await {
                Err(error) if matches!(code::code(&error), Some(code::INDEX_NOT_FOUND | code::NAMESPACE_NOT_FOUND)) => {
                }
                result => result.map(drop).with_context(|| format!("drop the index '{name}' of {db}.{coll}"))?,
            }
        }
        Ok(())
    }

    pub fn client(&self) -> &Client {
        &self.client
    }
}

/// Whether the mode InitialSync ignores this error of the operation.
fn is_ignored(op: &RawDocument, code: i32) -> bool {
    let command = find(op, "op").and_then(|op| op.text()) == Some("c");
    let first = || {
        find(op, "o").and_then(|o| o.document()).and_then(|o| o.iter().next()?.ok().map(|(name, _)| name.to_string()))
    };
    let ignored: &[i32] = match first().as_deref() {
        Some("create") => &[code::NAMESPACE_EXISTS],
        Some("renameCollection") => &[code::NAMESPACE_NOT_FOUND, code::NAMESPACE_EXISTS],
        Some("drop" | "dropDatabase" | "collMod") => &[code::NAMESPACE_NOT_FOUND],
        _ => &[],
    };
    command && ignored.contains(&code)
}

fn command(mode: Mode, ops: &[&RawDocument]) -> RawDocumentBuf {
    let mut array = RawArrayBuf::new();
    for op in ops {
        array.push((*op).to_owned());
    }
    let mut command = rawdoc! {"applyOps": array};
    command.append(cstr!("allowAtomic"), false);
    command.append(cstr!("alwaysUpsert"), false);
    if mode == Mode::InitialSync {
        command.append(cstr!("oplogApplicationMode"), "InitialSync");
    }
    command.append(cstr!("bypassDocumentValidation"), true);
    command.append(cstr!("writeConcern"), rawdoc! {"w": "majority"});
    command
}

/// Reads which operations of a failed `applyOps` could not be applied. `None` means that the error is not an answer of
/// the server.
fn read_refusal(error: &mongodb::error::Error) -> Option<Reply> {
    let answer = error.server_response()?;
    let ErrorKind::Command(command) = &*error.kind else { return None };
    let refusal_at =
        |at| Some(Refusal { at, code: command.code, message: crate::oplog::entry::crop(&command.message, 400) });
    let Ok(Some(RawBsonRef::Array(results))) = answer.get("results") else {
        return Some(Reply { refusal: refusal_at(None), ..Reply::default() });
    };
    let mut without_document = Vec::new();
    let mut count = 0;
    for (at, result) in results.into_iter().enumerate() {
        count = at + 1;
        if result.ok()? == RawBsonRef::Boolean(false) {
            without_document.push(at);
        }
    }
    // "One or more errors" means that the server tried all operations, and that each false result is a failed
    // operation. Any other code belongs to the last operation that the server tried.
    if command.code == code::UNKNOWN_ERROR && count > 0 {
        return Some(Reply { without_document, ..Reply::default() });
    }
    without_document.retain(|at| at + 1 != count);
    Some(Reply { without_document, refusal: refusal_at(count.checked_sub(1)), resent: false })
}

fn write_concern_error(reply: &Document) -> Option<String> {
    reply.get_document("writeConcernError").ok().map(ToString::to_string)
}
