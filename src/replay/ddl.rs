//! Applies commands of the oplog to the target and to the catalogue.

use anyhow::{Context, Result, bail};
use bson::{Bson, Document, RawDocument, RawDocumentBuf, Uuid, doc, rawdoc};

use crate::model::names::BUCKETS;
use crate::model::selection::Selection;
use crate::mongo::code;
use crate::oplog::entry::{Command, Entry};
use crate::raw::text;
use crate::replay::filter::SWITCHES;
use crate::replay::key::{Key, is_found_by_name, lasting_uuid};
use crate::replay::names::Names;
use crate::replay::op::{command_document, uuid_binary};
use crate::replay::state::State;
use crate::replay::target::{Mode, Occupant, Target};
use crate::replay::temporary_names;

/// The commands of the oplog that create, change, rename and drop collections.
#[derive(Debug)]
pub(super) struct Ddl {
    target: Target,
    names: Names,
    /// The selection of the restore. A collection whose name is not selected gets a temporary name.
    selection: Selection,
}

impl Ddl {
    pub(super) fn new(target: Target, selection: Selection) -> Self {
        Self { names: Names::new(target.clone()), target, selection }
    }

    /// Applies one command. All document operations before it must have been applied.
    pub(super) async fn apply(&mut self, entry: &Entry<'_>, command: &Command<'_>, state: &mut State) -> Result<()> {
        let db = entry.split_ns().0;
        match command {
            Command::Create { coll } => match lasting_uuid(db, coll, entry.ui) {
                Some(uuid) => self.create(db, coll, uuid, entry.o, state).await,
                None => self.create_by_name(db, coll, entry.o, state).await,
            },
            Command::Drop { coll } => self.drop_collection(db, coll, entry, state).await,
            Command::DropDatabase => {
                state.catalog.forget_database(db);
                self.names.forget_views(db);
                self.drop_database(db, entry.o).await
            }
            Command::Rename { from, to, drop_target } => self.rename(from, to, *drop_target, entry, state).await,
            Command::CollMod { coll } => self.modify(db, coll, entry, state).await,
            Command::IndexesBuilt { coll, specs } => {
                let key = state.key(db, coll, entry.ui);
                specs.iter().for_each(|spec| state.catalog.add_index(&key, spec.clone()));
                Ok(())
            }
            Command::IndexesDropped { coll, names } => self.drop_indexes(db, coll, names, entry, state).await,
            Command::EmptyCapped { coll } => self.empty(db, coll, entry, state).await,
            Command::Unknown(name) => bail!("this version does not know what `{name}` does, so it cannot restore it"),
            Command::ApplyOps(_) | Command::Harmless | Command::ShardRouting(_) => Ok(()),
        }
    }

    /// Does what must be done before a document is inserted into `system.views`.
    pub(super) async fn make_room_for_view(&mut self, db: &str, insert: &Entry<'_>, state: &State) -> Result<()> {
        self.names.make_room_for_view(&state.catalog, db, insert).await
    }

    /// Drops the collections that still have a temporary name at the end of the oplog.
    ///
    /// # Errors
    /// The dump and the oplog do not belong together.
    pub(super) async fn finish(&mut self, state: &mut State) -> Result<()> {
        self.names.drop_displaced(&mut state.catalog).await?;
        self.drop_unselected(state).await
    }

    async fn create(&mut self, db: &str, coll: &str, uuid: Uuid, o: &RawDocument, state: &mut State) -> Result<()> {
        let key = Key::uuid(uuid);
        if is_from_later(&key, state) {
            // The oplog repeats everything that happened to the collection after its creation, so the collection must begin
            // empty.
            self.names.drop_by_uuid(&mut state.catalog, db, coll, uuid).await?;
        }
        let temporary = self.temporary_name(db, coll);
        let coll = temporary.as_deref().unwrap_or(coll);
        self.names.free(&mut state.catalog, db, coll, uuid).await?;
        state.catalog.forget(&Key::name(db, coll));
        let mut options = text::decode(o).context("read the options")?;
        state.catalog.adapt(db, &mut options);
        options.insert("create", coll);
        let command = state.catalog.create(key.clone(), format!("{db}.{coll}"), &options);
        self.names.forget_displaced(uuid);
        self.names.send(db, &key, &encode(&command)?).await?;
        self.names.expect(db, coll, uuid).await
    }

    /// Creates a collection that has no lasting UUID. A bucket collection is always replaced, because the oplog repeats
    /// everything that happened to it. The other collections are the server's own and stay if they exist.
    async fn create_by_name(&mut self, db: &str, coll: &str, o: &RawDocument, state: &mut State) -> Result<()> {
        let key = Key::name(db, coll);
        if !is_found_by_name(db, coll) || coll.starts_with(BUCKETS) {
            self.names.drop_by_name(db, coll).await?;
        } else if self.target.lookup(db, coll).await?.is_some() {
            return Ok(());
        }
        let mut options = text::decode(o).context("read the options")?;
        state.catalog.adapt(db, &mut options);
        let command = state.catalog.create(key.clone(), format!("{db}.{coll}"), &options);
        self.names.send(db, &key, &encode(&command)?).await?;
        match self.target.lookup(db, coll).await? {
            Some(Occupant::Collection(_)) => Ok(()),
            other => bail!("{db}.{coll} was created but is {other:?}"),
        }
    }

    async fn drop_collection(&mut self, db: &str, coll: &str, entry: &Entry<'_>, state: &mut State) -> Result<()> {
        if coll == "system.views" {
            // When the source created this collection, its database had no view and no time series. The server refuses
            // to drop the collection while one exists.
            for (name, occupant) in self.target.list(db, doc! {}).await? {
                if self.selection.wants(db, &name) {
                    self.names.drop_view(&state.catalog, db, &name, &occupant).await?;
                }
            }
            if !self.selection.wants_database(db) {
                // The collection also contains views that are not selected, so it stays.
                return Ok(());
            }
            self.names.forget_views(db);
        }
        if (db, coll) == ("config", "settings") {
            // The cluster is in use, so the settings of its balancer stay. All other settings are deleted.
            let others = doc! { "q": { "_id": { "$nin": &SWITCHES[..] } }, "limit": 0 };
            let delete = doc! { "delete": coll, "deletes": [others], "writeConcern": { "w": "majority" } };
            return self.target.run_with_retries(db, delete).await.map(drop).context("empty config.settings");
        }
        let key = state.key(db, coll, entry.ui);
        match (&key, entry.ui) {
            (Key::Uuid(_), Some(uuid)) => self.names.drop_by_uuid(&mut state.catalog, db, coll, uuid).await,
            _ => {
                state.catalog.forget(&key);
                self.names.drop_by_name(db, coll).await
            }
        }
    }

    /// Drops a database. The oplog has dropped its collections one by one before that, so nothing is left to do if the target
    /// has a collection that must stay because no backup holds it.
    async fn drop_database(&self, db: &str, o: &RawDocument) -> Result<()> {
        let all = self.target.list(db, doc! {}).await?;
        if all.iter().any(|(name, _)| text::is_made_of_bytes(name)) {
            return Ok(());
        }
        self.names.send(db, &Key::name(db, ""), o).await
    }

    async fn rename(
        &mut self,
        from: &str,
        to: &str,
        drop_target: Option<Uuid>,
        entry: &Entry<'_>,
        state: &mut State,
    ) -> Result<()> {
        let (Some((from_db, from_coll)), Some((to_db, to_coll))) = (from.split_once('.'), to.split_once('.')) else {
            bail!("`{from}` or `{to}` is no namespace")
        };
        if let Some(uuid) = drop_target
            && state.catalog.knows(&Key::uuid(uuid))
        {
            // The rename would drop whichever collection has the name now. That may be a different collection, so the
            // intended one is dropped by UUID.
            self.names.drop_by_uuid(&mut state.catalog, to_db, to_coll, uuid).await?;
        }
        let key = state.key(from_db, from_coll, entry.ui);
        let (Key::Uuid(_), Some(uuid)) = (&key, entry.ui) else {
            state.catalog.rename_by_name(&key, &Key::name(to_db, to_coll), to);
            let command =
                doc! {"renameCollection": from, "to": to, "dropTarget": true, "writeConcern": {"w": "majority"}};
            self.target.run_with_retries("admin", command).await.context("rename")?;
            return Ok(());
        };
        if !state.catalog.knows(&key) {
            return state.count_missing_collection(entry.ts);
        }
        if let Some(temporary) = self.temporary_name(to_db, to_coll) {
            return self.hide(&key, to_db, &temporary, state).await;
        }
        self.names.free(&mut state.catalog, to_db, to_coll, uuid).await?;
        self.names.rename(&mut state.catalog, &key, entry.o, (from_db, to)).await?;
        self.names.forget_displaced(uuid);
        self.names.expect(to_db, to_coll, uuid).await
    }

    /// Returns a temporary name if `db.coll` is not selected: the target may have another collection of that name.
    fn temporary_name(&self, db: &str, coll: &str) -> Option<String> {
        (!self.selection.wants(db, coll)).then(temporary_names::generate)
    }

    /// Gives a temporary name to a collection whose new name is not selected. A later rename can give it a selected
    /// name.
    async fn hide(&mut self, key: &Key, db: &str, temporary: &str, state: &mut State) -> Result<()> {
        let Some(collection) = state.catalog.get(key) else { return Ok(()) };
        let from = collection.ns.clone();
        if from.split_once('.').is_some_and(|(db, coll)| !self.selection.wants(db, coll)) {
            return Ok(());
        }
        let to = format!("{db}.{temporary}");
        let rename = rawdoc! {"renameCollection": from.as_str(), "to": to.as_str(), "stayTemp": false};
        self.names.rename(&mut state.catalog, key, &rename, (db, &to)).await
    }

    /// Drops the collections that have no selected name at the end, because they are not part of the restore.
    async fn drop_unselected(&mut self, state: &mut State) -> Result<()> {
        if self.selection.is_everything() {
            return Ok(());
        }
        let split = |ns: &str| ns.split_once('.').map(|(db, coll)| (db.to_owned(), coll.to_owned()));
        let unselected: Vec<(Uuid, String, String)> = state
            .catalog
            .iter()
            .filter_map(|(key, collection)| match (key, split(&collection.ns)) {
                (Key::Uuid(uuid), Some((db, coll))) if !self.selection.wants(&db, &coll) => {
                    Some((Uuid::from_bytes(*uuid), db, coll))
                }
                _ => None,
            })
            .collect();
        for (uuid, db, coll) in unselected {
            let dropped = self.names.drop_by_uuid(&mut state.catalog, &db, &coll, uuid).await;
            dropped.with_context(|| format!("drop {db}.{coll}"))?;
        }
        Ok(())
    }

    async fn modify(&mut self, db: &str, coll: &str, entry: &Entry<'_>, state: &mut State) -> Result<()> {
        let key = state.key(db, coll, entry.ui);
        let mut command = text::decode(entry.o).context("read the options")?;
        state.catalog.adapt(db, &mut command);
        let Some(command) = state.catalog.modify(&key, &command) else { return Ok(()) };
        let changes_granularity = command.contains_key("timeseries");
        let command = encode(&command)?;
        if matches!(key, Key::Uuid(_)) && !state.catalog.knows(&key) {
            return state.count_missing_collection(entry.ts);
        }
        let op = command_document(db, &key, &command);
        let reply = self.target.apply_ops(Mode::ApplyOps, &[&op]).await?;
        match &reply.refusal {
            // The granularity can only become coarser, so the dump already contains a coarser one.
            Some(refusal)
                if refusal.code == code::INVALID_OPTIONS
                    && changes_granularity
                    && state.tolerance.includes(entry.ts) =>
            {
                state.stats.superseded += 1;
                Ok(())
            }
            _ => reply.expect_all(),
        }
    }

    async fn drop_indexes(
        &self,
        db: &str,
        coll: &str,
        names: &[String],
        entry: &Entry<'_>,
        state: &mut State,
    ) -> Result<()> {
        let key = state.key(db, coll, entry.ui);
        let existing: Vec<String> = names.iter().flat_map(|name| state.catalog.remove_index(&key, name)).collect();
        match state.catalog.get(&key).and_then(|collection| collection.ns.split_once('.')) {
            Some((db, coll)) if !existing.is_empty() => self.target.drop_indexes(db, coll, &existing).await,
            _ => Ok(()),
        }
    }

    async fn empty(&self, db: &str, coll: &str, entry: &Entry<'_>, state: &State) -> Result<()> {
        let key = state.key(db, coll, entry.ui);
        let Some(ns) = state.catalog.get(&key).map(|collection| collection.ns.as_str()) else { return Ok(()) };
        match &key {
            Key::Uuid(uuid) => delete_by_uuid(&self.target, ns, *uuid).await,
            Key::Name(_) => {
                let coll = ns.split_once('.').map_or(coll, |(_, coll)| coll);
                let command =
                    doc! {"delete": coll, "deletes": [{"q": {}, "limit": 0}], "writeConcern": {"w": "majority"}};
                self.target.run_with_retries(db, command).await.map(drop).map_err(Into::into)
            }
        }
        .context("empty the collection")
    }
}

/// Whether the target has a collection with this UUID that this restore did not load. The state of such a collection is
/// later than this entry.
fn is_from_later(key: &Key, state: &State) -> bool {
    state.catalog.get(key).is_none_or(|collection| collection.existing_indexes.is_some())
}

fn encode(command: &Document) -> Result<RawDocumentBuf> {
    text::encode(command).context("write the options")
}

/// Deletes every document of a collection. It finds the collection by its UUID, because a view that was created later
/// may have the same name.
async fn delete_by_uuid(target: &Target, ns: &str, uuid: [u8; 16]) -> Result<()> {
    const BATCH: usize = 1000;
    let db = ns.split_once('.').map_or(ns, |(db, _)| db);
    let ui = uuid_binary(uuid);
    loop {
        let find = doc! {"find": ui.clone(), "projection": {"_id": 1}, "limit": BATCH as i32, "singleBatch": true, "batchSize": BATCH as i32};
        let reply = target.run_with_retries(db, find).await.context("find its documents")?;
        let batch = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
        let ops = batch.context("find its documents")?.iter().filter_map(Bson::as_document);
        let ops =
            ops.map(|id| RawDocumentBuf::try_from(&doc! {"op": "d", "ns": ns, "ui": ui.clone(), "o": id.clone()}));
        let ops = ops.collect::<Result<Vec<_>, _>>().context("write the deletes")?;
        if ops.is_empty() {
            return Ok(());
        }
        let batch: Vec<&RawDocument> = ops.iter().map(AsRef::as_ref).collect();
        target.apply_all(Mode::InitialSync, &batch).await?;
    }
}
