//! Lists of a server's collections and indexes, whose names and options may hold any bytes.

use crate::raw::text;
use anyhow::Result;
use bson::Document;
use futures::TryStreamExt;
use mongodb::{
    Client, Database,
    error::{Error, ErrorKind},
};

/// Returns all documents of a command that answers with a cursor, as [`text::decode`] reads them.
///
/// # Errors
/// The server refuses the command, or its answer can't be read.
pub async fn documents(db: &Database, command: Document) -> Result<Vec<Document>, Error> {
    let mut batches = db.run_cursor_command(command).batch().await?;
    let mut found = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        for document in batch.doc_slices()? {
            let document = document.map_err(Error::custom)?;
            let document = document.as_document().ok_or_else(|| Error::custom("a list holds no documents"))?;
            found.push(text::decode(document).map_err(Error::custom)?);
        }
    }
    Ok(found)
}

/// The names of all databases.
///
/// # Errors
/// The server refuses the command, or a name is not valid UTF-8. Servers accept such names, and the driver can't read them.
pub async fn databases(client: &Client) -> Result<Vec<String>> {
    const HINT: &str = "list the databases: if `show dbs` shows one whose name is not valid UTF-8, it can be neither backed up \
                        nor restored: drop it";
    client.list_database_names().await.map_err(|error| {
        let unreadable = matches!(
            *error.kind,
            ErrorKind::InvalidResponse { .. } | ErrorKind::BsonDeserialization(_) | ErrorKind::Bson(_)
        );
        anyhow::Error::from(error).context(if unreadable { HINT } else { "list the databases" })
    })
}
