//! Restores the settings of a cluster (`config.settings`). The cluster uses them during the restore, so the collection
//! is never dropped. The settings are replaced one by one, so a setting that the backup also contains is never missing.
//!
//! The balancer's document contains the balancer's present state and the operator's configuration, for example when the
//! balancer may run. The state stays as it is: the restore has switched the balancer off and switches it on again itself, and
//! an operator's "off" must survive a restore that crashes. The configuration comes from the backup. If the backup has no such
//! document, the cluster's document is not changed.

use crate::{replay::filter::SWITCHES, snapshot::stored::StoredDocuments, storage::Storage};
use anyhow::{Context as _, Result, bail};
use bson::{Bson, Document, doc};
use mongodb::{Client, Database};

const SETTINGS: &str = "settings";
const BALANCER: &str = "balancer";
/// The fields with the balancer's present state.
const STATE: [&str; 2] = ["stopped", "mode"];

/// Replaces the cluster's settings by those of the backup. `source` is `None` if the backup's settings collection is empty.
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

/// Returns the backup's balancer document with the state from `now`, the cluster's present document.
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
