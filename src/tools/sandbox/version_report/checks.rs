//! The checks on one replica set.

use super::{Found, Report, Subject, data, state::State};
use crate::tools::sandbox::processes::until;
use anyhow::{Context as _, Result};
use mongodb::{
    ClientSession,
    bson::{Document, Timestamp, doc},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

const CODECS: [&str; 7] = ["s2", "zstd", "gzip", "pgzip", "lz4", "snappy", "none"];
/// How long the oplog up to a moment may take to be saved.
const SAVED_WITHIN: Duration = Duration::from_secs(60);
/// Moments that are restored.
const MOMENTS: usize = 3;

pub(super) async fn run(subject: Subject<'_>, report: &mut Report) {
    for codec in CODECS {
        report.check(subject, &format!("all kinds of data, {codec}"), round_trip(subject, codec)).await;
    }
    report.check(subject, "a selection", selection(subject)).await;
    report.check(subject, "a collection under another name", clone(subject)).await;
    report.check(subject, "an export", export(subject)).await;
    report.check(subject, "a read-only server on a backup", serve(subject)).await;
    report.check(subject, "moments under load", moments(subject)).await;
}

impl Subject<'_> {
    /// Makes a backup and returns its name.
    async fn backup(self, more: &[&str]) -> Result<String> {
        let mut args = vec!["backup", "--wait"];
        args.extend(more);
        let done = self.programs.json(&args).await?;
        done["name"].as_str().map(str::to_owned).context("pbm backup printed no name")
    }

    async fn restore(self, more: &[&str]) -> Result<()> {
        let mut args = vec!["restore", "--wait", "--yes"];
        args.extend(more);
        self.programs.json(&args).await.map(drop)
    }

    /// Drops and changes data, so that nothing of a restore is there before it.
    async fn spoil(self) -> Result<()> {
        for db in data::DATABASES {
            let db = self.client.database(db);
            db.run_command(doc! { "dropAllUsersFromDatabase": 1 }).await.context("drop the users")?;
            db.run_command(doc! { "dropAllRolesFromDatabase": 1 }).await.context("drop the roles")?;
            db.drop().await.context("drop a database")?;
        }
        Ok(())
    }
}

async fn round_trip(subject: Subject<'_>, codec: &str) -> Result<Found> {
    let before = State::read(subject.client).await?;
    let name = subject.backup(&["--compression", codec]).await?;
    subject.spoil().await?;
    subject.restore(&[&name]).await?;
    Ok(Found::of(State::read(subject.client).await?.differences(&before)))
}

/// Everything else keeps what it has at the restore.
async fn selection(subject: Subject<'_>) -> Result<Found> {
    let before = State::read(subject.client).await?;
    let name = subject.backup(&[]).await?;
    let more = subject.client.database("more");
    more.collection::<Document>("chosen").delete_many(doc! { "_id": { "$lt": 50 } }).await.context("delete")?;
    more.collection::<Document>("other").delete_many(doc! { "_id": { "$lt": 50 } }).await.context("delete")?;
    let changed = State::read(subject.client).await?;
    subject.restore(&[&name, "--ns", "more.chosen"]).await?;
    let after = State::read(subject.client).await?;
    let chosen = |ns: &str| ns == "more.chosen";
    let mut differences = after.only(chosen).differences(&before.only(chosen));
    differences.extend(after.only(|ns| !chosen(ns)).differences(&changed.only(|ns| !chosen(ns))));
    subject.restore(&[&name]).await?;
    Ok(Found::of(differences))
}

async fn clone(subject: Subject<'_>) -> Result<Found> {
    let name = subject.backup(&[]).await?;
    let before = State::read(subject.client).await?;
    subject.restore(&[&name, "--ns-from", "kinds.plain", "--ns-to", "more.again"]).await?;
    let after = State::read(subject.client).await?;
    let more = subject.client.database("more");
    let count = more.collection::<Document>("again").count_documents(doc! {}).await.context("count the clone")?;
    let wanted = subject.client.database("kinds").collection::<Document>("plain").count_documents(doc! {}).await;
    let wanted = wanted.context("count the original")?;
    more.collection::<Document>("again").drop().await.context("drop the clone")?;
    let mut differences = after.only(|ns| ns != "more.again").differences(&before);
    if count != wanted {
        differences.push(format!("more.again: has {count} documents in place of {wanted}"));
    }
    Ok(Found::of(differences))
}

async fn export(subject: Subject<'_>) -> Result<Found> {
    let name = subject.backup(&[]).await?;
    let file = subject.folder.join("export.archive");
    let args = ["export", &name, "--with-users-and-roles", "--out", &file.display().to_string()];
    subject.programs.text(&args).await?;
    let size = std::fs::metadata(&file).context("look at the archive")?.len();
    Ok(if size > 0 { Found::Same } else { Found::Different(vec!["the archive is empty".to_owned()]) })
}

async fn serve(subject: Subject<'_>) -> Result<Found> {
    let before = State::read(subject.client).await?;
    let name = subject.backup(&[]).await?;
    let (mongod, folder) = (subject.mongod.display().to_string(), subject.folder.display().to_string());
    let args = ["serve", &name, "--mongod", &mongod, "--folder", &folder, "-o", "json"];
    let mut serving = subject.programs.start(&args)?;
    let read = async {
        let said: serde_json::Value = serde_json::from_str(&serving.first_line().await?)?;
        let uri = said["uri"].as_str().context("pbm serve printed no address")?;
        let copy = mongodb::Client::with_uri_str(uri).await.context("connect to the read-only server")?;
        State::read(&copy).await
    };
    let copy = read.await;
    serving.end().await?;
    Ok(Found::of(copy?.differences(&before)))
}

/// A state of the data, and when it was so.
struct Moment {
    at: Timestamp,
    state: State,
}

/// Restores moments between which writes of all kinds went on, the latest one first.
async fn moments(subject: Subject<'_>) -> Result<Found> {
    subject.backup(&[]).await?;
    let set = ["config", "--set", "pitr.enabled=true", "--set", "pitr.maxLossSec=5"];
    subject.programs.json(&set).await?;
    let mut moments = Vec::new();
    for round in 0..MOMENTS {
        write(subject, i32::try_from(round)?).await.context("write while the oplog is saved")?;
        let mut session = subject.client.start_session().await.context("start a session")?;
        let at = now(subject, &mut session).await?;
        moments.push(Moment { at, state: State::read(subject.client).await? });
    }
    write(subject, -1).await?;
    let mut differences = Vec::new();
    for (number, moment) in moments.iter().enumerate().rev() {
        let time = format!("{},{}", moment.at.time, moment.at.increment);
        let saved =
            until(SAVED_WITHIN, async || subject.programs.json(&["restore", "--time", &time, "--dry-run"]).await.ok());
        saved.await.context("the oplog was not saved")?;
        subject
            .restore(&["--time", &time, "--drop-extra"])
            .await
            .with_context(|| format!("restore moment {number}"))?;
        let found = State::read(subject.client).await?.differences(&moment.state);
        differences.extend(found.into_iter().map(|it| format!("moment {number}: {it}")));
    }
    subject.programs.json(&["config", "--set", "pitr.enabled=false"]).await?;
    Ok(Found::of(differences))
}

/// The time of a write that comes after all others.
async fn now(subject: Subject<'_>, session: &mut ClientSession) -> Result<Timestamp> {
    let note = doc! { "appendOplogNote": 1, "data": { "sandbox": "a moment" }, "writeConcern": { "w": "majority" } };
    subject.client.database("admin").run_command(note).session(&mut *session).await.context("write a note")?;
    session.operation_time().context("the server gave no time")
}

/// Writes of all kinds at the same time; `round` makes them different.
async fn write(subject: Subject<'_>, round: i32) -> Result<()> {
    const DOCUMENTS: i32 = 300;
    let db = subject.client.database("kinds");
    let stop = Arc::new(AtomicBool::new(false));
    let background = tokio::spawn({
        let (plain, stop) = (db.collection::<Document>("plain"), stop.clone());
        async move {
            while !stop.load(Relaxed) {
                plain
                    .update_many(
                        doc! { "_id": { "$lt": 20 } },
                        doc! { "$inc": { "any.a": 1 }, "$push": { "list": round } },
                    )
                    .await?;
            }
            anyhow::Ok(())
        }
    });
    let name = format!("round{round}");
    let coll = db.collection::<Document>(&name);
    coll.insert_many((0..DOCUMENTS).map(|n| doc! { "_id": n, "round": round })).await?;
    db.run_command(
        doc! { "createIndexes": &name, "indexes": [{ "key": { "round": 1, "_id": -1 }, "name": "by_round" }] },
    )
    .await?;
    coll.update_many(
        doc! { "_id": { "$mod": [3, 0] } },
        doc! { "$set": { "deep.er": round }, "$unset": { "round": "" } },
    )
    .await?;
    coll.delete_many(doc! { "_id": { "$mod": [5, 0] } }).await?;
    let mut session = subject.client.start_session().await?;
    session.start_transaction().await?;
    coll.insert_one(doc! { "_id": "in a transaction" }).session(&mut session).await?;
    db.collection::<Document>("words").insert_one(doc! { "w": round }).session(&mut session).await?;
    session.commit_transaction().await?;
    db.collection::<Document>("gone").insert_one(doc! { "round": round }).await?;
    let to = format!("kinds.kept{round}");
    subject.client.database("admin").run_command(doc! { "renameCollection": "kinds.gone", "to": to }).await?;
    db.run_command(doc! { "collMod": "strict", "validator": { "n": { "$gt": round } } }).await?;
    db.collection("points")
        .insert_one(doc! { "t": mongodb::bson::DateTime::now(), "m": round })
        .await
        .map(drop)
        .or_else(|error| {
            // A server without time series has an ordinary collection there.
            tracing::debug!("{error}");
            anyhow::Ok(())
        })?;
    stop.store(true, Relaxed);
    background.await.context("write in the background")?
}
