//! Where the data files of a node lie, and whether this agent can copy them.

use crate::config::resolved::PhysicalSettings;
use crate::datafiles::{
    clone::{self, Spool},
    dbpath::{self, FoundFile, SPOOL, TURTLE},
};
use crate::model::{agent::Files, backup::Way};
use crate::mongo::admin;
use anyhow::{Context, Result, bail, ensure};
use bson::{Bson, Document, doc};
use mongodb::Client;
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// The server's defaults for its dbPath.
const DATA: &str = "/data/db";
const CONFIG_DATA: &str = "/data/configdb";

/// The data files of a node.
#[derive(Debug, Clone)]
pub struct Place {
    pub db_path: PathBuf,
    /// The settings that the files depend on (docs/format.md A.8.4).
    pub options: Document,
}

/// The refusal of a dbPath that is not the folder of this server.
pub(super) fn not_seen(db_path: &Path) -> String {
    format!(
        "the folder '{}' that this agent sees is not the dbPath of its mongod, but that of another host or container; run the \
         agent where its mongod runs, with the dbPath at the same path",
        db_path.display()
    )
}

impl Place {
    /// Asks the node, and checks that this agent sees its files and may read them.
    ///
    /// # Errors
    /// Why the files can't be copied.
    pub async fn find(client: &Client) -> Result<(Self, Vec<FoundFile>)> {
        let admin = client.database("admin");
        let parsed = admin.run_command(doc! { "getCmdLineOpts": 1 }).await.context("run getCmdLineOpts")?;
        let parsed = parsed.get_document("parsed").cloned().unwrap_or_default();
        let status = admin.run_command(doc! { "serverStatus": 1, "metrics": 0, "repl": 0 }).await;
        let status = status.context("run serverStatus")?;
        let engine =
            status.get_document("storageEngine").and_then(|engine| engine.get_str("name")).unwrap_or("unknown");
        ensure!(
            engine == "wiredTiger",
            "its storage engine is {engine}, and only the files of wiredTiger can be copied"
        );
        let process = number(status.get("pid"));
        let options = options(&parsed);
        check_encryption(&options)?;
        let db_path = db_path(&options, process)?;
        let place = Self { db_path: db_path.clone(), options };
        let files = tokio::task::spawn_blocking(move || look(&db_path, process));
        Ok((place, files.await.context("look at the data files")??))
    }

    /// The folder for clones and copies of this node's files. `node` tells it from other nodes' in a folder that they share.
    #[must_use]
    pub fn spool(&self, settings: &PhysicalSettings, node: &str) -> PathBuf {
        match &settings.spool {
            Some(folder) => folder.join(SPOOL).join(node.replace(':', ".")),
            None => self.db_path.join(SPOOL),
        }
    }

    /// Makes the server write a checkpoint, and checks that it is seen in the folder. Also makes the lock shorter, because the
    /// lock writes one, too.
    ///
    /// # Errors
    /// The folder is not that of this server, or the server can't write.
    pub async fn prove(&self, client: &Client) -> Result<()> {
        let before = dbpath::stamp(&self.db_path, TURTLE)?;
        client.database("admin").run_command(doc! { "fsync": 1 }).await.context("write a checkpoint (fsync)")?;
        let after = dbpath::stamp(&self.db_path, TURTLE)?;
        ensure!(after.is_some() && before != after, not_seen(&self.db_path));
        Ok(())
    }
}

/// Looks at the files without changing anything.
fn look(db_path: &Path, process: Option<i64>) -> Result<Vec<FoundFile>> {
    match fs::read_dir(db_path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => bail!(dbpath::no_rights(db_path)),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "this agent does not see the dbPath of its mongod: '{}' is not there; run the agent where its mongod runs, with \
             the dbPath at the same path",
            db_path.display()
        ),
        _ => {}
    }
    let files = dbpath::list(db_path)?;
    dbpath::check_readable(db_path, &files)?;
    // Another server's folder names another process, unless both are the only processes of their containers.
    let named = dbpath::server_process(db_path);
    ensure!(named.is_none() || process.is_none() || named == process, not_seen(db_path));
    Ok(files)
}

/// How the files are taken: what the operator set, else what the file system can do.
pub(super) fn way(place: &Place, settings: &PhysicalSettings, spool: Option<&Spool>, files: &[FoundFile]) -> Way {
    if settings.snapshot_command.is_some() {
        return Way::Snapshot;
    }
    let Some(spool) = spool else { return Way::UnderLock };
    if spool.can_clone(&place.db_path.join("WiredTiger")) {
        return Way::Reflink;
    }
    // The files grow while they are copied.
    let needed = files.iter().map(|file| file.size).sum::<u64>() / 10 * 11;
    if spool.free().is_some_and(|free| free > needed) { Way::TwoPasses } else { Way::UnderLock }
}

/// For the agent's line: can the files be copied, and how?
pub async fn describe(client: &Client, settings: &PhysicalSettings, node: &str) -> Files {
    match try_describe(client, settings, node).await {
        Ok(files) => files,
        Err(error) => Files { e: admin::explain(&error), ..Files::default() },
    }
}

async fn try_describe(client: &Client, settings: &PhysicalSettings, node: &str) -> Result<Files> {
    let (place, files) = Place::find(client).await?;
    let base = place.spool(settings, node);
    let settings = settings.clone();
    let bytes = files.iter().map(|file| file.size).sum::<u64>();
    let way = tokio::task::spawn_blocking(move || {
        // The name is not that of a backup, so the two can't disturb each other.
        let trial = Spool::create(&base, &format!("trial-{:08x}", rand::random::<u32>())).ok();
        way(&place, &settings, trial.as_deref(), &files)
    });
    let way = way.await.context("try how files can be copied")?;
    Ok(Files { e: String::new(), way: Some(way), bytes: i64::try_from(bytes).unwrap_or(i64::MAX) })
}

/// Removes copies that an agent of this node left when it was killed. To be called before the agent takes work.
///
/// # Errors
/// The node does not answer, or they can't be removed.
pub async fn clear_spool(client: &Client, settings: &PhysicalSettings, node: &str) -> Result<usize> {
    let (place, _) = Place::find(client).await?;
    let base = place.spool(settings, node);
    tokio::task::spawn_blocking(move || clone::clear(&base)).await.context("remove old copies of data files")?
}

fn number(value: Option<&Bson>) -> Option<i64> {
    match value? {
        Bson::Int64(number) => Some(*number),
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Double(number) => Some(*number as i64),
        _ => None,
    }
}

fn at<'a>(parsed: &'a Document, path: &str) -> Option<&'a Bson> {
    let (folders, name) = path.rsplit_once('.')?;
    let mut here = parsed;
    for folder in folders.split('.') {
        here = here.get_document(folder).ok()?;
    }
    here.get(name)
}

fn text(parsed: &Document, path: &str, default: &str) -> String {
    at(parsed, path).and_then(Bson::as_str).unwrap_or(default).to_owned()
}

fn flag(parsed: &Document, path: &str, default: bool) -> bool {
    at(parsed, path).and_then(Bson::as_bool).unwrap_or(default)
}

/// The settings that the files depend on, from the answer to `getCmdLineOpts`.
fn options(parsed: &Document) -> Document {
    let role = text(parsed, "sharding.clusterRole", "");
    let engine = "storage.wiredTiger.engineConfig";
    let default = if role == "configsvr" { CONFIG_DATA } else { DATA };
    let port = number(at(parsed, "net.port")).unwrap_or(27017);
    let mut options = doc! {
        "net": { "bindIp": text(parsed, "net.bindIp", ""), "port": port },
        "sharding": { "clusterRole": role },
        "storage": {
            "directoryPerDB": flag(parsed, "storage.directoryPerDB", false),
            "dbPath": text(parsed, "storage.dbPath", default),
            "wiredTiger": {
                "engineConfig": {
                    "journalCompressor": text(parsed, &format!("{engine}.journalCompressor"), "snappy"),
                    "directoryForIndexes": flag(parsed, &format!("{engine}.directoryForIndexes"), false),
                },
                "collectionConfig": {
                    "blockCompressor": text(parsed, "storage.wiredTiger.collectionConfig.blockCompressor", "snappy"),
                },
                "indexConfig": {
                    "prefixCompression": flag(parsed, "storage.wiredTiger.indexConfig.prefixCompression", true),
                },
            },
        },
    };
    let mut security = Document::new();
    for name in ["enableEncryption", "encryptionCipherMode", "encryptionKeyFile", "relaxPermChecks", "vault", "kmip"] {
        if let Some(value) = at(parsed, &format!("security.{name}")) {
            security.insert(name, value);
        }
    }
    if !security.is_empty() {
        options.insert("security", security);
    }
    options
}

/// A copy of an encrypted dbPath is as encrypted as the dbPath. Who restores it must know where its key is.
fn check_encryption(options: &Document) -> Result<()> {
    let Ok(security) = options.get_document("security") else { return Ok(()) };
    let has_key = ["encryptionKeyFile", "vault", "kmip"].iter().any(|name| security.contains_key(name));
    ensure!(
        has_key || !security.get_bool("enableEncryption").unwrap_or(false),
        "the data files are encrypted, and the server's settings do not tell where the key is (encryptionKeyFile, vault or kmip)"
    );
    Ok(())
}

/// The absolute dbPath. A relative one is seen from the folder in which the server was started.
fn db_path(options: &Document, process: Option<i64>) -> Result<PathBuf> {
    let path = PathBuf::from(text(options, "storage.dbPath", DATA));
    if path.is_absolute() {
        return Ok(path);
    }
    let folder = process.and_then(|process| fs::read_link(format!("/proc/{process}/cwd")).ok());
    let folder = folder.with_context(|| {
        format!("its dbPath '{}' is relative, and this agent does not see from which folder", path.display())
    })?;
    Ok(folder.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_has_the_servers_defaults() {
        let plain = options(&doc! { "net": { "bindIp": "127.0.0.1", "port": 27018 }, "storage": { "dbPath": "/d" } });
        let expected = doc! {
            "net": { "bindIp": "127.0.0.1", "port": 27018_i64 }, "sharding": { "clusterRole": "" },
            "storage": { "directoryPerDB": false, "dbPath": "/d", "wiredTiger": {
                "engineConfig": { "journalCompressor": "snappy", "directoryForIndexes": false },
                "collectionConfig": { "blockCompressor": "snappy" }, "indexConfig": { "prefixCompression": true },
            } },
        };
        assert_eq!(plain, expected);
        let set = options(&doc! {
            "sharding": { "clusterRole": "configsvr" },
            "storage": { "directoryPerDB": true, "wiredTiger": {
                "engineConfig": { "directoryForIndexes": true, "journalCompressor": "zstd", "cacheSizeGB": 1.0 },
            } },
            "security": { "authorization": "enabled", "enableEncryption": true, "kmip": { "serverName": "k" } },
        });
        assert_eq!(at(&set, "storage.dbPath").and_then(Bson::as_str), Some(CONFIG_DATA));
        assert!(flag(&set, "storage.wiredTiger.engineConfig.directoryForIndexes", false));
        let security = doc! { "enableEncryption": true, "kmip": { "serverName": "k" } };
        assert_eq!(set.get_document("security").ok(), Some(&security));
        check_encryption(&set).expect("the key is known");
        let hidden = options(&doc! { "security": { "enableEncryption": true } });
        assert!(check_encryption(&hidden).is_err());
    }

    #[test]
    fn a_relative_path_is_seen_from_the_servers_folder() {
        let relative = doc! { "storage": { "dbPath": "data" } };
        let me = i64::from(std::process::id());
        let here = std::env::current_dir().expect("a folder");
        assert_eq!(db_path(&relative, Some(me)).expect("a path"), here.join("data"));
        assert!(db_path(&relative, Some(i64::MAX)).is_err());
        assert_eq!(db_path(&doc! {}, None).expect("a path"), PathBuf::from(DATA));
    }
}
