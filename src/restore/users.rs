//! Restores users and roles. The cluster is never without them (docs/format.md E.5.1).
//!
//! The copies are read directly from the storage, twice: first to check that they are complete, then to write them.
//! First the documents of the backup are inserted or replaced, roles before the users that have them. Only then those
//! that the backup lacks are removed. So a failure in between can leave too many users, but never too few.
//!
//! The user of this program and the roles of that user keep their present definition, because otherwise a restore could
//! lock itself out. If the backup contains no users, or no roles, those of the target stay.

use super::plan::UsersSource;
use crate::{
    mongo::listing,
    raw::{find, text},
    snapshot::{insert, stored::StoredDocuments},
    storage::Storage,
};
use anyhow::{Context as _, Result, bail};
use bson::{Bson, Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use mongodb::{Client, Database};
use std::collections::BTreeSet;
use tokio_util::sync::CancellationToken;

/// The most documents and bytes in one command.
const AT_ONCE: usize = 500;
const BYTES_AT_ONCE: usize = 4 << 20;

const USERS: &str = "system.users";
const ROLES: &str = "system.roles";

/// The numbers of changed users and roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swapped {
    /// Users that were inserted or replaced.
    pub users: u64,
    pub roles: u64,
    /// Users that were removed because the backup does not have them.
    pub removed_users: u64,
    pub removed_roles: u64,
}

/// Names (`db.user`, `db.role`) of the users and roles that are not changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Mine {
    users: BTreeSet<String>,
    roles: BTreeSet<String>,
}

/// Replaces the users and roles by those of the backup, with `databases` only those that were created in these
/// databases. Every write is confirmed by a majority.
pub async fn put_back(
    storage: &dyn Storage,
    client: &Client,
    source: &UsersSource,
    databases: Option<&[&str]>,
    cancel: &CancellationToken,
) -> Result<Swapped> {
    for data in [&source.roles, &source.users].into_iter().flatten() {
        data.verify(storage).await?;
    }
    if cancel.is_cancelled() {
        bail!("the restore was cancelled");
    }
    let admin = client.database("admin");
    let status = admin.run_command(doc! { "connectionStatus": 1 }).await.context("ask who we are logged in as")?;
    let mine = mine(&status);
    let mut swapped = Swapped::default();
    let mut wanted_roles = None;
    if let Some(data) = &source.roles {
        let wanted = write(storage, &admin, ROLES, data, databases, &mine.roles).await?;
        swapped.roles = wanted.len() as u64;
        wanted_roles = Some(wanted);
    }
    if let Some(data) = &source.users {
        let wanted = write(storage, &admin, USERS, data, databases, &mine.users).await?;
        swapped.users = wanted.len() as u64;
        swapped.removed_users = remove_others(&admin, USERS, databases, &wanted, &mine.users).await?;
    }
    // Roles are removed last, because the users that were removed above may have had them.
    if let Some(wanted) = wanted_roles {
        swapped.removed_roles = remove_others(&admin, ROLES, databases, &wanted, &mine.roles).await?;
    }
    Ok(swapped)
}

fn mine(status: &Document) -> Mine {
    let names = |list: &str, name: &str| {
        let info = status.get_document("authInfo").ok();
        let entries = info.and_then(|info| info.get_array(list).ok()).into_iter().flatten();
        entries
            .filter_map(|entry| {
                let entry = entry.as_document()?;
                Some(format!("{}.{}", entry.get_str("db").ok()?, entry.get_str(name).ok()?))
            })
            .collect()
    };
    Mine { users: names("authenticatedUsers", "user"), roles: names("authenticatedUserRoles", "role") }
}

/// Inserts or replaces all documents except those in `keep`. Returns the names that were written.
async fn write(
    storage: &dyn Storage,
    admin: &Database,
    coll: &str,
    data: &StoredDocuments,
    databases: Option<&[&str]>,
    keep: &BTreeSet<String>,
) -> Result<BTreeSet<String>> {
    let mut reading = data.open(storage).await?;
    let mut written = BTreeSet::new();
    let (mut some, mut bytes) = (Vec::new(), 0);
    while let Some(document) = reading.next_document().await? {
        let found = find(&document, "_id").filter(|id| id.text_bytes().is_some());
        let found = found.with_context(|| format!("read a name in '{}'", data.object))?;
        let id = text::to_text(found.text_bytes().unwrap_or_default()).into_owned();
        let made_in = find(&document, "db").and_then(|db| db.text()).unwrap_or_default();
        if keep.contains(&id) || databases.is_some_and(|wanted| !wanted.contains(&made_in)) {
            continue;
        }
        written.insert(id);
        bytes += document.as_bytes().len();
        some.push(document);
        if some.len() == AT_ONCE || bytes > BYTES_AT_ONCE {
            put(admin, coll, &some).await?;
            (some, bytes) = (Vec::new(), 0);
        }
    }
    if !some.is_empty() {
        put(admin, coll, &some).await?;
    }
    Ok(written)
}

/// Removes the documents that are neither in `wanted` nor in `keep`, with `databases` only those of these databases.
/// Returns their number.
async fn remove_others(
    admin: &Database,
    coll: &str,
    databases: Option<&[&str]>,
    wanted: &BTreeSet<String>,
    keep: &BTreeSet<String>,
) -> Result<u64> {
    let filter = databases.map_or_else(Document::new, |databases| doc! { "db": { "$in": databases } });
    let find = doc! { "find": coll, "filter": filter, "projection": { "_id": 1 } };
    let names = listing::documents(admin, find).await.with_context(|| format!("list 'admin.{coll}'"))?;
    let mut others: Vec<Bson> = Vec::new();
    for entry in names {
        let id = entry.get("_id").cloned().unwrap_or(Bson::Null);
        if !id.as_str().is_some_and(|id| wanted.contains(id) || keep.contains(id)) {
            others.push(id);
        }
    }
    for some in others.chunks(AT_ONCE) {
        let delete = rawdoc! {
            "delete": coll,
            "deletes": [{ "q": text::encode(&doc! { "_id": { "$in": some } })?, "limit": 0 }],
        };
        send(admin, delete).await?;
    }
    Ok(others.len() as u64)
}

/// Inserts or replaces these documents.
async fn put(admin: &Database, coll: &str, documents: &[RawDocumentBuf]) -> Result<()> {
    let mut updates = RawArrayBuf::new();
    for document in documents {
        let id = find(document, "_id").context("a user or role has no name")?.alone("_id");
        updates.push(rawdoc! { "q": id, "u": document.clone(), "upsert": true });
    }
    let command = concerned(rawdoc! { "update": coll, "updates": updates });
    match admin.run_raw_command(command).await {
        // The server's answer repeats the `_id` of each inserted document.
        Err(error) if insert::is_unreadable(&error) => {
            let ns = format!("{}.{coll}", admin.name());
            insert::put(admin.client(), &ns, documents).await.context("write users and roles")?;
            insert::confirm(admin.client()).await.context("write users and roles")
        }
        answer => check(&answer.context("write users and roles")?),
    }
}

async fn send(admin: &Database, command: RawDocumentBuf) -> Result<()> {
    check(&admin.run_raw_command(concerned(command)).await.context("write users and roles")?)
}

fn concerned(mut command: RawDocumentBuf) -> RawDocumentBuf {
    command.append(bson::raw::cstr!("ordered"), true);
    command.append(bson::raw::cstr!("writeConcern"), rawdoc! { "w": "majority" });
    command
}

fn check(answer: &Document) -> Result<()> {
    for problem in ["writeErrors", "writeConcernError"] {
        if let Some(errors) = answer.get(problem) {
            bail!("write users and roles: {errors}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_know_who_we_are() {
        let status = doc! { "authInfo": {
            "authenticatedUsers": [{ "user": "pbm", "db": "admin" }],
            "authenticatedUserRoles": [{ "role": "backup", "db": "admin" }, { "role": "mine", "db": "shop" }],
        } };
        assert_eq!(
            mine(&status),
            Mine {
                users: BTreeSet::from(["admin.pbm".to_owned()]),
                roles: BTreeSet::from(["admin.backup".to_owned(), "shop.mine".to_owned()]),
            }
        );
        assert_eq!(mine(&doc! { "ok": 1 }), Mine::default());
    }
}
