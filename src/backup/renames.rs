//! Did a collection get a selected name while a selective backup ran?

use crate::{model::selection::Selection, raw::find};
use anyhow::{Context, Result, bail};
use bson::{RawDocument, RawDocumentBuf, Timestamp, Uuid, doc};
use futures::TryStreamExt;
use mongodb::{Client, Collection};
use std::{collections::HashSet, time::Duration};

/// A collection that was renamed into the selection came without what it held before, unless it was dumped, or was also
/// created between `first` and `last`: then the oplog of the backup has all of it.
///
/// # Errors
/// The backup lacks documents, or the oplog can't be read.
pub(super) async fn check(
    client: &Client,
    selection: &Selection,
    dumped: &HashSet<Uuid>,
    (first, last): (Timestamp, Timestamp),
) -> Result<()> {
    let oplog: Collection<RawDocumentBuf> = client.database("local").collection("oplog.rs");
    let during = doc! { "$gte": first, "$lte": last };
    let filter = doc! { "ts": during.clone(), "op": "c", "o.renameCollection": { "$exists": true } };
    // Without the zero a default of the cluster may end the scan.
    let mut renames =
        oplog.find(filter).max_time(Duration::ZERO).await.context("look for renamed collections in the oplog")?;
    while let Some(entry) = renames.try_next().await.context("look for renamed collections in the oplog")? {
        let Some((uuid, from, to)) = into(&entry, selection) else { continue };
        if dumped.contains(&uuid) {
            continue;
        }
        let created = doc! { "ts": during.clone(), "op": "c", "ui": uuid, "o.create": { "$exists": true } };
        if oplog.find_one(created).await.context("look for a created collection in the oplog")?.is_none() {
            bail!(
                "'{from}', which is not selected, was renamed to '{to}' while the backup ran, and what it held before is not \
                 in the backup; repeat it"
            );
        }
    }
    Ok(())
}

/// UUID, old and new name of a collection that was renamed into the selection.
fn into(entry: &RawDocument, selection: &Selection) -> Option<(Uuid, String, String)> {
    let o = find(entry, "o")?.document()?;
    // A slice of the backup reports names that are not valid UTF-8.
    let (from, to) = (find(o, "renameCollection")?.text()?, find(o, "to")?.text()?);
    let wants = |ns: &str| ns.split_once('.').is_some_and(|(db, coll)| selection.wants(db, coll));
    let uuid = find(entry, "ui")?.uuid()?;
    (wants(to) && !wants(from)).then(|| (uuid, from.to_owned(), to.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Binary, rawdoc};

    #[test]
    fn only_renames_into_the_selection_count() {
        let selection = Selection::parse(&["shop.orders", "crm.*"]).expect("a selection");
        let uuid = Uuid::new();
        for (from, to, counts) in [
            ("shop.new", "shop.orders", true),
            ("shop.orders", "shop.old", false),
            ("shop.a", "shop.b", false),
            ("crm.a", "crm.b", false),
        ] {
            let entry = rawdoc! { "ui": Binary::from(uuid), "o": { "renameCollection": from, "to": to } };
            assert_eq!(into(&entry, &selection).is_some(), counts, "{from} {to}");
        }
    }
}
