//! Commands of the oplog: what they do to the target and to the catalogue.
//!
//! The server calls many things done that it did not do ([`super::target`], the table), so the name that a command is about is
//! looked at before and after it. A collection in the way is dropped if it is none of the restore (it was in the target
//! before); if it is one of the restore, the dump has seen it under a name that it got later, and it is moved aside until
//! the oplog gives it that name.

use anyhow::{Context, Result, bail};
use bson::{Bson, RawDocument, RawDocumentBuf, Uuid, doc, rawdoc};

use crate::mongo::code;
use crate::oplog::entry::{Command, Entry};
use crate::raw::{find, text};
use crate::replay::apply::{Replayer, command_document};
use crate::replay::build::{drop_indexes, run};
use crate::replay::filter::{SWITCHES, by_name};
use crate::replay::owed::Key;
use crate::replay::target::{Mode, Occupant, Target};
use crate::replay::temporary_names;

impl Replayer {
    pub(super) async fn command(&mut self, entry: &Entry<'_>, command: &Command<'_>) -> Result<()> {
        self.flush().await?;
        let db = entry.split_ns().0;
        match command {
            Command::Create { coll } => match entry.ui.filter(|_| !by_name(db, coll)) {
                Some(uuid) => self.create(db, coll, uuid, entry.o).await,
                None => self.create_by_name(db, coll, entry.o).await,
            },
            Command::Drop { coll } => self.drop_collection(db, coll, entry).await,
            Command::DropDatabase => {
                self.catalog.forget_database(db);
                self.views.remove(db);
                self.send(Mode::InitialSync, &command_document(db, &Key::name(db, ""), entry.o)).await
            }
            Command::Rename { from, to, drop_target } => self.rename(from, to, *drop_target, entry).await,
            Command::CollMod { coll } => self.modify(db, coll, entry).await,
            Command::IndexesBuilt { coll, specs } => {
                let key = self.key(db, coll, entry.ui);
                specs.iter().for_each(|spec| self.catalog.index_built(&key, spec.clone()));
                Ok(())
            }
            Command::IndexesGone { coll, names } => {
                let key = self.key(db, coll, entry.ui);
                let gone: Vec<String> = names.iter().flat_map(|name| self.catalog.index_gone(&key, name)).collect();
                match self.catalog.get(&key).and_then(|collection| collection.ns.split_once('.')) {
                    Some((db, coll)) if !gone.is_empty() => drop_indexes(&self.target, db, coll, &gone).await,
                    _ => Ok(()),
                }
            }
            Command::EmptyCapped { coll } => self.empty(db, coll, entry).await,
            Command::Unknown(name) => bail!("this version does not know what `{name}` does, so it cannot restore it"),
            Command::ApplyOps(_) | Command::Harmless => Ok(()),
        }
    }

    async fn create(&mut self, db: &str, coll: &str, uuid: Uuid, o: &RawDocument) -> Result<()> {
        let key = Key::uuid(uuid);
        if self.is_from_later(&key) {
            // The oplog repeats everything that happened to the collection after its creation, so the collection must begin
            // empty.
            self.drop_uuid(db, coll, uuid).await?;
        }
        let parked = self.parking(db, coll);
        let coll = parked.as_deref().unwrap_or(coll);
        self.clear_name(db, coll, Some(uuid)).await?;
        self.catalog.forget(&Key::name(db, coll));
        let mut options = text::decode(o).context("read the options")?;
        options.insert("create", coll);
        let command = self.catalog.create(key.clone(), format!("{db}.{coll}"), &options);
        self.aside.remove(&uuid);
        let command = text::encode(&command).context("write the options")?;
        self.send(Mode::InitialSync, &command_document(db, &key, &command)).await?;
        self.expect_at(db, coll, uuid).await
    }

    /// Whether a collection that the target has with this UUID was not loaded by this restore. Such a collection is in a state
    /// later than this entry.
    fn is_from_later(&self, key: &Key) -> bool {
        self.catalog.get(key).is_none_or(|collection| collection.live.is_some())
    }

    /// Creates what has no lasting UUID. A bucket collection is always made anew (all that happened to it since follows);
    /// the others are the server's own and stay if they are there.
    async fn create_by_name(&mut self, db: &str, coll: &str, o: &RawDocument) -> Result<()> {
        let key = Key::name(db, coll);
        if !by_name(db, coll) || coll.starts_with("system.buckets.") {
            self.drop_name(db, coll).await?;
        } else if self.target.lookup(db, coll).await?.is_some() {
            return Ok(());
        }
        let options = text::decode(o).context("read the options")?;
        let command = self.catalog.create(key.clone(), format!("{db}.{coll}"), &options);
        let command = text::encode(&command).context("write the options")?;
        self.send(Mode::InitialSync, &command_document(db, &key, &command)).await?;
        match self.target.lookup(db, coll).await? {
            Some(Occupant::Collection(_)) => Ok(()),
            other => bail!("{db}.{coll} was created but is {other:?}"),
        }
    }

    async fn drop_collection(&mut self, db: &str, coll: &str, entry: &Entry<'_>) -> Result<()> {
        if coll == "system.views" {
            // No view or time series was there then; the server refuses while it knows one.
            for (name, occupant) in self.target.list(db, doc! {}).await? {
                if self.options.scope.selection.wants(db, &name) {
                    self.drop_view(db, &name, &occupant).await?;
                }
            }
            if !self.options.scope.selection.wants_database(db) {
                // It has views of others.
                return Ok(());
            }
            self.views.remove(db);
        }
        if (db, coll) == ("config", "settings") {
            // The cluster is in use, so the settings of its balancer stay, and all other settings are deleted.
            let others = doc! { "q": { "_id": { "$nin": &SWITCHES[..] } }, "limit": 0 };
            let delete = doc! { "delete": coll, "deletes": [others], "writeConcern": { "w": "majority" } };
            return run(&self.target, db, delete).await.map(drop).context("empty config.settings");
        }
        let key = self.key(db, coll, entry.ui);
        match (&key, entry.ui) {
            (Key::Uuid(_), Some(uuid)) => self.drop_uuid(db, coll, uuid).await,
            _ => {
                self.catalog.forget(&key);
                self.drop_name(db, coll).await
            }
        }
    }

    async fn rename(&mut self, from: &str, to: &str, drop_target: Option<Uuid>, entry: &Entry<'_>) -> Result<()> {
        let split = |ns: &str| ns.split_once('.').map(|(db, coll)| (db.to_owned(), coll.to_owned()));
        let (Some((from_db, from_coll)), Some((to_db, to_coll))) = (split(from), split(to)) else {
            bail!("`{from}` or `{to}` is no namespace")
        };
        if let Some(uuid) = drop_target
            && self.catalog.knows(&Key::uuid(uuid))
        {
            // Before the rename, because it may not be the one that has the name now.
            self.drop_uuid(&to_db, &to_coll, uuid).await?;
        }
        let key = self.key(&from_db, &from_coll, entry.ui);
        let (Key::Uuid(_), Some(uuid)) = (&key, entry.ui) else {
            self.catalog.rename_by_name(&key, &Key::name(&to_db, &to_coll), to);
            let command =
                doc! {"renameCollection": from, "to": to, "dropTarget": true, "writeConcern": {"w": "majority"}};
            run(&self.target, "admin", command).await.context("rename")?;
            return Ok(());
        };
        let here = self.catalog.knows(&key);
        if !here {
            if !self.tolerant(entry.ts) {
                bail!("the collection is not there, so the restored data is not what the oplog continues");
            }
            self.stats.missing_collections += 1;
            return Ok(());
        }
        if let Some(parked) = self.parking(&to_db, &to_coll) {
            return self.park(&key, &to_db, &parked).await;
        }
        self.clear_name(&to_db, &to_coll, Some(uuid)).await?;
        self.send(Mode::InitialSync, &command_document(&from_db, &key, entry.o)).await?;
        self.catalog.renamed(&key, to);
        self.aside.remove(&uuid);
        self.expect_at(&to_db, &to_coll, uuid).await
    }

    /// A name for a collection whose own is not selected: under that the target may have another one.
    fn parking(&self, db: &str, coll: &str) -> Option<String> {
        (!self.options.scope.selection.wants(db, coll)).then(temporary_names::fresh)
    }

    /// A collection leaves the selection, perhaps to come back.
    async fn park(&mut self, key: &Key, db: &str, parked: &str) -> Result<()> {
        let Some(collection) = self.catalog.get(key) else { return Ok(()) };
        let from = collection.ns.clone();
        if from.split_once('.').is_some_and(|(db, coll)| !self.options.scope.selection.wants(db, coll)) {
            return Ok(());
        }
        let to = format!("{db}.{parked}");
        let rename = rawdoc! {"renameCollection": from.as_str(), "to": to.as_str(), "stayTemp": false};
        self.send(Mode::InitialSync, &command_document(db, key, &rename)).await?;
        self.catalog.renamed(key, &to);
        Ok(())
    }

    /// What has no selected name in the end is none of the restore.
    pub(super) async fn drop_unselected(&mut self) -> Result<()> {
        let selection = &self.options.scope.selection;
        if selection.is_everything() {
            return Ok(());
        }
        let split = |ns: &str| ns.split_once('.').map(|(db, coll)| (db.to_owned(), coll.to_owned()));
        let left: Vec<(Uuid, String, String)> = self
            .catalog
            .iter()
            .filter_map(|(key, collection)| match (key, split(&collection.ns)) {
                (Key::Uuid(uuid), Some((db, coll))) if !selection.wants(&db, &coll) => {
                    Some((Uuid::from_bytes(*uuid), db, coll))
                }
                _ => None,
            })
            .collect();
        for (uuid, db, coll) in left {
            self.drop_uuid(&db, &coll, uuid).await.with_context(|| format!("drop {db}.{coll}"))?;
        }
        Ok(())
    }

    async fn modify(&mut self, db: &str, coll: &str, entry: &Entry<'_>) -> Result<()> {
        let key = self.key(db, coll, entry.ui);
        let command = text::decode(entry.o).context("read the options")?;
        let Some(command) = self.catalog.modified(&key, &command) else { return Ok(()) };
        let granularity = command.contains_key("timeseries");
        let command = text::encode(&command).context("write the options")?;
        if matches!(key, Key::Uuid(_)) && !self.catalog.knows(&key) {
            if !self.tolerant(entry.ts) {
                bail!("the collection is not there, so the restored data is not what the oplog continues");
            }
            self.stats.missing_collections += 1;
            return Ok(());
        }
        let op = command_document(db, &key, &command);
        let (applied, _) = self.target.apply_ops(Mode::ApplyOps, &[&op]).await?;
        match applied.stopped {
            // Granularity only grows; the dump has already seen a coarser one.
            Some(stop) if stop.code == code::INVALID_OPTIONS && granularity && self.tolerant(entry.ts) => {
                self.stats.superseded += 1;
                Ok(())
            }
            Some(stop) => bail!("error {}: {}", stop.code, stop.message),
            None if applied.missed.is_empty() => Ok(()),
            None => bail!("the server did not apply it"),
        }
    }

    async fn empty(&mut self, db: &str, coll: &str, entry: &Entry<'_>) -> Result<()> {
        let key = self.key(db, coll, entry.ui);
        let Some(ns) = self.catalog.get(&key).map(|collection| collection.ns.clone()) else { return Ok(()) };
        match &key {
            Key::Uuid(uuid) => empty_by_uuid(&self.target, &ns, *uuid).await,
            Key::Name(_) => {
                let coll = ns.split_once('.').map_or(coll, |(_, coll)| coll);
                let command =
                    doc! {"delete": coll, "deletes": [{"q": {}, "limit": 0}], "writeConcern": {"w": "majority"}};
                run(&self.target, db, command).await.map(drop).map_err(Into::into)
            }
        }
        .context("empty the collection")
    }

    /// Before a view (or time series) is made by inserting its document: its collection, and its name.
    pub(super) async fn make_room_for_view(&mut self, db: &str, entry: &Entry<'_>) -> Result<()> {
        if !self.views.contains(db) {
            if self.target.lookup(db, "system.views").await?.is_none() {
                let create = rawdoc! {"create": "system.views"};
                self.send(Mode::InitialSync, &command_document(db, &Key::name(db, ""), &create)).await?;
            }
            self.views.insert(db.to_owned());
        }
        let Some((db, name)) = find(entry.o, "_id").and_then(|id| id.text()?.split_once('.')) else { return Ok(()) };
        match self.target.lookup(db, name).await? {
            // One of the restore is hidden by the view until the oplog drops the view.
            Some(Occupant::Collection(there)) if !self.catalog.knows(&Key::uuid(there)) => {
                self.drop_foreign(db, name).await
            }
            _ => Ok(()),
        }
    }

    /// Frees a name for the collection `mine`, which may have it already.
    async fn clear_name(&mut self, db: &str, coll: &str, mine: Option<Uuid>) -> Result<()> {
        // A view that belongs to the restore is made later in the oplog. It may hide a collection.
        if let Some(occupant) = self.target.lookup(db, coll).await? {
            self.drop_view(db, coll, &occupant).await?;
        }
        self.clear_collection(db, coll, mine).await
    }

    /// Drops a view or time series, and never a collection that it hides. Buckets of the restore stay: either they outlived
    /// their series, or the oplog creates them once more, and makes them anew then.
    async fn drop_view(&mut self, db: &str, name: &str, occupant: &Occupant) -> Result<()> {
        if matches!(occupant, Occupant::Collection(_)) {
            return Ok(());
        }
        let id = format!("{db}.{name}");
        let delete = rawdoc! {"op": "d", "ns": format!("{db}.system.views"), "o": {"_id": id}};
        self.send(Mode::InitialSync, &delete).await?;
        if *occupant == Occupant::Timeseries {
            let buckets = format!("system.buckets.{name}");
            if !self.catalog.knows(&Key::name(db, &buckets)) {
                self.drop_name(db, &buckets).await?;
            }
        }
        Ok(())
    }

    /// Drops what has this name as the oplog does it: the command would take a bucket collection's name for its view's.
    async fn drop_name(&self, db: &str, coll: &str) -> Result<()> {
        self.send(Mode::InitialSync, &command_document(db, &Key::name(db, coll), &rawdoc! {"drop": coll})).await
    }

    async fn clear_collection(&mut self, db: &str, coll: &str, mine: Option<Uuid>) -> Result<()> {
        let there = match self.target.lookup(db, coll).await? {
            Some(Occupant::Collection(there)) if Some(there) != mine => there,
            _ => return Ok(()),
        };
        let key = Key::uuid(there);
        if !self.catalog.knows(&key) {
            tracing::info!(
                ns = format!("{db}.{coll}"),
                "dropping a collection that is not in the backup but has a name of it"
            );
            return self.target.drop(db, coll).await;
        }
        let aside = format!("{db}.{}", temporary_names::fresh());
        let rename = rawdoc! {"renameCollection": format!("{db}.{coll}"), "to": aside.as_str()};
        self.send(Mode::InitialSync, &command_document(db, &key, &rename)).await?;
        self.catalog.renamed(&key, &aside);
        self.aside.insert(there);
        Ok(())
    }

    async fn drop_foreign(&self, db: &str, coll: &str) -> Result<()> {
        tracing::info!(
            ns = format!("{db}.{coll}"),
            "dropping a collection that is not in the backup but has a name of it"
        );
        self.drop_name(db, coll).await
    }

    async fn drop_uuid(&mut self, db: &str, coll: &str, uuid: Uuid) -> Result<()> {
        let key = Key::uuid(uuid);
        self.catalog.forget(&key);
        self.aside.remove(&uuid);
        self.send(Mode::InitialSync, &command_document(db, &key, &rawdoc! {"drop": coll})).await
    }

    /// Handles the collections that were moved aside and did not get a name from the oplog again. If such a collection was in
    /// use before the replay, it is newer than the oplog and is dropped.
    ///
    /// # Errors
    /// One of these collections comes from the dump, which means that the dump and the oplog do not belong together.
    pub(super) async fn nothing_left_aside(&mut self) -> Result<()> {
        for uuid in std::mem::take(&mut self.aside) {
            let Some(collection) = self.catalog.get(&Key::uuid(uuid)) else { continue };
            let ns = collection.ns.clone();
            match ns.split_once('.') {
                Some((db, coll)) if collection.live.is_some() => {
                    tracing::info!(
                        uuid = uuid.to_string(),
                        "dropping a collection whose name the oplog gave to another one"
                    );
                    self.drop_uuid(db, coll, uuid).await.with_context(|| format!("drop {ns}"))?;
                }
                _ => bail!("{ns} was moved out of the way and the oplog gave it no name again"),
            }
        }
        Ok(())
    }

    async fn expect_at(&self, db: &str, coll: &str, uuid: Uuid) -> Result<()> {
        match self.target.lookup(db, coll).await? {
            Some(Occupant::Collection(there)) if there == uuid => Ok(()),
            other => bail!("{db}.{coll} should have the UUID {uuid} but is {other:?}"),
        }
    }

    async fn send(&self, mode: Mode, op: &RawDocument) -> Result<()> {
        let (applied, _) = self.target.apply_ops(mode, &[op]).await?;
        match applied.stopped {
            Some(stop) => bail!("error {}: {}", stop.code, stop.message),
            None if applied.missed.is_empty() => Ok(()),
            None => bail!("the server did not apply it"),
        }
    }
}

/// Deletes every document of a collection. Its name can't be used: a view of a later time may have it now.
async fn empty_by_uuid(target: &Target, ns: &str, uuid: [u8; 16]) -> Result<()> {
    const BATCH: usize = 1000;
    let db = ns.split_once('.').map_or(ns, |(db, _)| db);
    let ui = bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: uuid.to_vec() };
    loop {
        let find = doc! {"find": ui.clone(), "projection": {"_id": 1}, "limit": BATCH as i32, "singleBatch": true, "batchSize": BATCH as i32};
        let reply = run(target, db, find).await.context("find its documents")?;
        let batch = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
        let ops = batch.context("find its documents")?.iter().filter_map(Bson::as_document);
        let ops =
            ops.map(|id| RawDocumentBuf::try_from(&doc! {"op": "d", "ns": ns, "ui": ui.clone(), "o": id.clone()}));
        let ops = ops.collect::<Result<Vec<_>, _>>().context("write the deletes")?;
        if ops.is_empty() {
            return Ok(());
        }
        let batch: Vec<&RawDocument> = ops.iter().map(AsRef::as_ref).collect();
        let (applied, _) = target.apply_ops(Mode::InitialSync, &batch).await?;
        if let Some(stop) = applied.stopped {
            bail!("error {}: {}", stop.code, stop.message);
        }
    }
}
