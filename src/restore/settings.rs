//! The settings of a cluster (`config.settings`) are in use while it is restored: they are replaced one by one, and at no moment is
//! one that the backup has too missing. The collection is never dropped.
//!
//! The document of the balancer says what the balancer does now, and what people want of it (when it may run, for example). The
//! first stays as it is: the restore has switched the balancer off and says itself when it goes on, and an operator's
//! "off" outlives a restore that dies. The second comes from the backup. A backup without that document leaves it alone.

use crate::{oplog::filter::SWITCHES, snapshot::stored::StoredDocuments, storage::Storage};
use anyhow::{Context as _, Result, bail};
use bson::{Bson, Document, doc};
use mongodb::{Client, Database};

const SETTINGS: &str = "settings";
const BALANCER: &str = "balancer";
/// What the balancer does now.
const STATE: [&str; 2] = ["stopped", "mode"];

/// Makes the settings those of the backup; `None` if it has an empty collection of them.
pub(super) async fn put_back(storage: &dyn Storage, client: &Client, source: Option<&StoredDocuments>) -> Result<()> {
    let config = client.database("config");
    let mut stays: Vec<Bson> = SWITCHES.iter().map(|id| Bson::from(*id)).collect();
    if let Some(source) = source {
        source.verify(storage).await?;
        let mut reading = source.open(storage).await?;
        while let Some(document) = reading.next_document().await? {
            let setting = Document::try_from(document.as_ref()).context("read a setting of the backup")?;
            let id = setting.get("_id").cloned().context("a setting of the backup has no _id")?;
            let setting = if id.as_str() == Some(BALANCER) {
                let now = config.collection::<Document>(SETTINGS).find_one(doc! { "_id": BALANCER }).await;
                with_state(setting, now.context("read the balancer's setting")?.as_ref())
            } else {
                setting
            };
            let replace = doc! { "q": { "_id": id.clone() }, "u": setting, "upsert": true };
            write(&config, doc! { "update": SETTINGS, "updates": [replace] }).await?;
            stays.push(id);
        }
    }
    let others = doc! { "q": { "_id": { "$nin": stays } }, "limit": 0 };
    write(&config, doc! { "delete": SETTINGS, "deletes": [others] }).await
}

/// The backup's setting of the balancer with what it does `now`.
fn with_state(mut setting: Document, now: Option<&Document>) -> Document {
    let Some(now) = now else { return setting };
    for field in STATE {
        match now.get(field) {
            Some(value) => drop(setting.insert(field, value.clone())),
            None => drop(setting.remove(field)),
        }
    }
    setting
}

async fn write(config: &Database, mut command: Document) -> Result<()> {
    command.insert("writeConcern", doc! { "w": "majority" });
    let answer = config.run_command(command).await?;
    match answer.get("writeErrors") {
        None => Ok(()),
        Some(errors) => bail!("{errors}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_balancer_does_what_it_did_and_keeps_the_window_of_the_backup() {
        let window = doc! { "start": "1:00", "stop": "5:00" };
        let backup = doc! { "_id": "balancer", "stopped": false, "mode": "full", "activeWindow": window.clone() };
        let now = doc! { "_id": "balancer", "stopped": true, "mode": "off", "activeWindow": {} };
        let wanted = doc! { "_id": "balancer", "stopped": true, "mode": "off", "activeWindow": window };
        assert_eq!(with_state(backup.clone(), Some(&now)), wanted);
        assert_eq!(with_state(backup.clone(), None), backup);
        let of_people = doc! { "_id": "balancer", "activeWindow": {} };
        assert!(!with_state(backup, Some(&of_people)).contains_key("mode"));
    }
}
