//! Sets the cap of a collection when its data is complete.
//!
//! On servers from 6.0 on, a `collMod` sets the cap. Older servers have no such `collMod`, so there the collection is uncapped
//! until its data is complete. Then its documents are copied in their order into a temporary collection, and from there into a
//! new capped collection with the old name and UUID.

use anyhow::{Context, Result, bail};
use bson::{Document, RawDocument, RawDocumentBuf, doc, rawdoc};

use crate::mongo::listing;
use crate::raw::text;
use crate::replay::catalog::{Cap, WIDEST, integer};
use crate::replay::key::Key;
use crate::replay::op::{append_uuid, uuid_binary};
use crate::replay::target::{Mode, Target};
use crate::replay::temporary_names;

const COPY_BYTES: usize = 4 << 20;

/// Sets the cap of the collection `db.coll`. `movable` is the result of
/// [`Catalog::can_move_caps`](super::catalog::Catalog::can_move_caps).
pub(super) async fn set_cap(target: &Target, db: &str, coll: &str, key: &Key, cap: Cap, movable: bool) -> Result<()> {
    if !movable {
        return recreate(target, db, coll, key, cap).await;
    }
    let mut command = doc! {"collMod": coll, "cappedSize": cap.size};
    if let Some(max) = cap.max {
        command.insert("cappedMax", max);
    }
    target.run_with_retries(db, command).await.context("set the size of the capped collection")?;
    // The answer `ok` does not prove that the cap is set: if bucket collections with the collection's name exist, 6.0
    // changes nothing and answers `ok`.
    if has_cap(target, db, coll, cap).await? {
        return Ok(());
    }
    bail!("the server does not take its size of {} bytes", cap.size)
}

async fn has_cap(target: &Target, db: &str, coll: &str, cap: Cap) -> Result<bool> {
    let options = options_of(target, db, coll).await?;
    let number = |name: &str| options.get(name).and_then(integer).filter(|number| *number > 0);
    // The server rounds sizes up.
    Ok(number("size").is_some_and(|size| size >= cap.size && size < WIDEST) && number("max") == cap.max)
}

/// Copies the documents twice, because the UUID becomes free only when the first collection is dropped.
async fn recreate(target: &Target, db: &str, coll: &str, key: &Key, cap: Cap) -> Result<()> {
    let copy_name = temporary_names::generate();
    let create = doc! {"create": &copy_name, "writeConcern": {"w": "majority"}};
    target.run_with_retries(db, create).await.context("create a copy")?;
    let options = options_of(target, db, coll).await?;
    copy(target, db, coll, &copy_name).await?;
    let mut command = doc! {"create": coll};
    command.extend(options);
    command.extend(doc! {"capped": true, "size": cap.size});
    if let Some(max) = cap.max {
        command.insert("max", max);
    }
    let mut op = rawdoc! {"op": "c", "ns": format!("{db}.$cmd"), "o": text::encode(&command)?};
    append_uuid(&mut op, key);
    target.drop(db, coll).await?;
    target.apply_all(Mode::InitialSync, &[&op]).await.context("create the capped collection")?;
    copy(target, db, &copy_name, coll).await?;
    target.drop(db, &copy_name).await
}

async fn options_of(target: &Target, db: &str, coll: &str) -> Result<Document> {
    let command = doc! {"listCollections": 1, "filter": {"name": coll}};
    let found = listing::documents(&target.client().database(db), command).await.context("read the options")?;
    let Some(found) = found.first() else { bail!("{db}.{coll} is not there") };
    let mut options = found.get_document("options").cloned().unwrap_or_default();
    if let Ok(id_index) = found.get_document("idIndex") {
        options.insert("idIndex", id_index.clone());
    }
    Ok(options)
}

/// Copies all documents in natural order, byte for byte.
async fn copy(target: &Target, db: &str, from: &str, to: &str) -> Result<()> {
    let to_uuid = uuid_binary(target.collection_uuid(db, to).await?.bytes());
    let failed = || format!("copy {db}.{from} to {to}");
    let find = doc! {"find": from, "sort": {"$natural": 1}};
    let mut cursor = target.client().database(db).run_cursor_command(find).await.with_context(failed)?;
    let (mut ops, mut bytes) = (Vec::<RawDocumentBuf>::new(), 0);
    loop {
        let more = cursor.advance().await.with_context(failed)?;
        let next = if more { cursor.current().as_bytes().len() } else { 0 };
        if !ops.is_empty() && (!more || bytes + next > COPY_BYTES) {
            let batch: Vec<&RawDocument> = ops.iter().map(AsRef::as_ref).collect();
            target.apply_all(Mode::InitialSync, &batch).await.with_context(failed)?;
            ops.clear();
            bytes = 0;
        }
        if !more {
            return Ok(());
        }
        bytes += next;
        ops.push(
            rawdoc! {"op": "i", "ns": format!("{db}.{to}"), "ui": to_uuid.clone(), "o": cursor.current().to_owned()},
        );
    }
}
