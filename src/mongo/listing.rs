//! Lists of a server's collections and indexes, whose names and options may hold any bytes.

use crate::raw::text;
use anyhow::{Context, Result};
use bson::{Document, doc};
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

/// The databases of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Databases {
    pub names: Vec<String>,
    /// Whether there are others, whose names are not valid UTF-8. Servers accept such names, and the driver can't read them.
    pub others: bool,
}

/// Lists all databases.
///
/// # Errors
/// The server refuses the command.
pub async fn databases(client: &Client) -> Result<Databases> {
    let what = "list the databases";
    match client.list_database_names().await {
        Ok(names) => Ok(Databases { names, others: false }),
        Err(error) if is_unreadable(&error) => {
            // The server matches no pattern with a name that is not valid UTF-8.
            let names = client.list_database_names().filter(doc! { "name": { "$regex": "^" } }).await.context(what)?;
            Ok(Databases { names, others: true })
        }
        Err(error) => Err(error).context(what),
    }
}

/// Whether the driver could not read the server's answer.
fn is_unreadable(error: &Error) -> bool {
    matches!(*error.kind, ErrorKind::InvalidResponse { .. } | ErrorKind::BsonDeserialization(_) | ErrorKind::Bson(_))
}
