//! Restores the settings of a cluster (`config.settings`). The cluster uses them during the restore, so the collection
//! is never dropped. The settings are replaced one by one, so a setting that the backup also contains is never missing.
//!
//! The balancer's document contains the balancer's present state and the operator's configuration, for example when the
//! balancer may run. The state stays as it is: the restore has switched the balancer off and switches it on again itself, and
//! an operator's "off" must survive a restore that crashes. The configuration comes from the backup. If the backup has no such
//! document, the cluster's document is not changed.

use crate::{
    raw::{self, Field, Writer, fields, find, kind},
    replay::filter::SWITCHES,
    snapshot::stored::StoredDocuments,
    storage::Storage,
};
use anyhow::{Context as _, Result, bail};
use bson::{Document, RawDocument, RawDocumentBuf, doc, rawdoc};
use mongodb::{Client, Database};

const SETTINGS: &str = "settings";
const BALANCER: &str = "balancer";
/// The fields with the balancer's present state.
const STATE: [&str; 2] = ["stopped", "mode"];

/// Replaces the cluster's settings by those of the backup. `source` is `None` if the backup's settings collection is empty.
pub(super) async fn put_back(storage: &dyn Storage, client: &Client, source: Option<&StoredDocuments>) -> Result<()> {
    let config = client.database("config");
    let mut stays: Vec<RawDocumentBuf> = SWITCHES.iter().map(|id| rawdoc! { "_id": *id }).collect();
    if let Some(source) = source {
        source.verify(storage).await?;
        let mut reading = source.open(storage).await?;
        while let Some(setting) = reading.next_document().await? {
            let id = find(&setting, "_id").context("a setting of the backup has no _id")?;
            let now = match id.text() == Some(BALANCER) {
                true => {
                    let now = config.collection::<RawDocumentBuf>(SETTINGS).find_one(doc! { "_id": BALANCER }).await;
                    now.context("read the balancer's setting")?
                }
                false => None,
            };
            let query = id.alone("_id");
            let setting = with_state(&setting, now.as_deref())?;
            // The answer to an upsert repeats the `_id`, and the driver can't read it if it is not valid UTF-8.
            let replaced = write(&config, replacement(&query, &setting)).await?;
            if replaced.get_i32("n").context("read the answer to an update")? == 0 {
                write(&config, on_settings("insert", "documents", &setting)).await?;
            }
            stays.push(query);
        }
    }
    write(&config, removal(&stays)).await.map(drop)
}

/// Returns the backup's document with the state of the balancer from `now`, the cluster's present balancer document, if it has
/// one. All bytes of the other fields stay as they are.
fn with_state(setting: &RawDocument, now: Option<&RawDocument>) -> Result<RawDocumentBuf> {
    let Some(now) = now else { return Ok(setting.to_owned()) };
    let is_state = |field: &Field<'_>| STATE.iter().any(|name| name.as_bytes() == field.name);
    let mut writer = Writer::new();
    for field in fields(setting) {
        let field = field.context("read a setting of the backup")?;
        if !is_state(&field) {
            writer.copy(&field);
        }
    }
    STATE.iter().filter_map(|name| find(now, name)).for_each(|field| writer.copy(&field));
    Ok(writer.finish())
}

/// The command that replaces the setting with this `_id`, if it is there.
fn replacement(query: &RawDocument, setting: &RawDocument) -> RawDocumentBuf {
    let mut update = Writer::new();
    update.document(b"q", query);
    update.document(b"u", setting);
    on_settings("update", "updates", &update.finish())
}

/// The command that removes all settings except those with an `_id` of `stays`.
fn removal(stays: &[RawDocumentBuf]) -> RawDocumentBuf {
    let mut ids = Writer::new();
    for (at, id) in stays.iter().filter_map(|query| find(query, "_id")).enumerate() {
        ids.value(id.kind, at.to_string().as_bytes(), id.value);
    }
    let (mut others, mut query, mut delete) = (Writer::new(), Writer::new(), Writer::new());
    others.value(kind::ARRAY, b"$nin", ids.finish().as_bytes());
    query.document(b"_id", &others.finish());
    delete.document(b"q", &query.finish());
    delete.value(kind::INT32, b"limit", &[0; 4]);
    on_settings("delete", "deletes", &delete.finish())
}

fn on_settings(command: &str, field: &str, statement: &RawDocument) -> RawDocumentBuf {
    let mut writer = Writer::new();
    writer.text(command.as_bytes(), SETTINGS.as_bytes());
    writer.value(kind::ARRAY, field.as_bytes(), raw::array([statement]).as_bytes());
    writer.document(b"writeConcern", &rawdoc! { "w": "majority" });
    writer.finish()
}

async fn write(config: &Database, command: RawDocumentBuf) -> Result<Document> {
    let answer = config.run_raw_command(command).await?;
    match answer.get("writeErrors") {
        None => Ok(answer),
        Some(errors) => bail!("{errors}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_balancer_does_what_it_did_and_keeps_the_window_of_the_backup() {
        let window = rawdoc! { "start": "1:00", "stop": "5:00" };
        let backup = rawdoc! { "_id": "balancer", "stopped": false, "mode": "full", "activeWindow": window.clone() };
        let now = rawdoc! { "_id": "balancer", "stopped": true, "mode": "off", "activeWindow": {} };
        let wanted = rawdoc! { "_id": "balancer", "activeWindow": window, "stopped": true, "mode": "off" };
        assert_eq!(with_state(&backup, Some(&now)).expect("a setting"), wanted);
        assert_eq!(with_state(&backup, None).expect("a setting"), backup);
        let of_people = rawdoc! { "_id": "balancer", "activeWindow": {} };
        let setting = with_state(&backup, Some(&of_people)).expect("a setting");
        assert!(find(&setting, "mode").is_none() && find(&setting, "stopped").is_none());
    }

    #[test]
    fn a_setting_is_written_byte_for_byte() {
        let mut strange = Writer::new();
        strange.text(b"_id", b"\xff");
        strange.text(b"\xfe", b"\xfd");
        strange.text(b"\xfe", b"the same name");
        let strange = strange.finish();
        let id = find(&strange, "_id").expect("an id").alone("_id");
        let copied = with_state(&strange, Some(&rawdoc! {})).expect("a setting");
        let command = replacement(&id, &copied);
        assert!(command.as_bytes().windows(strange.as_bytes().len()).any(|part| part == strange.as_bytes()));
        raw::check(&command).expect("a command");
        let removal = removal(&[id, rawdoc! { "_id": 7 }]);
        raw::check(&removal).expect("a command");
        assert!(removal.as_bytes().windows(10).any(|part| part == b"\x020\0\x02\0\0\0\xff\0\x10"));
        let plain = super::removal(&[rawdoc! { "_id": "a" }]);
        let wanted = doc! {
            "delete": "settings", "deletes": [{ "q": { "_id": { "$nin": ["a"] } }, "limit": 0 }],
            "writeConcern": { "w": "majority" },
        };
        assert_eq!(Document::try_from(&*plain).expect("a command"), wanted);
    }
}
