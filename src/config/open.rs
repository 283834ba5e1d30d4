//! Opens a [`Storage`] from storage settings (driver, retries, size limit), and handles the mark of an initialised
//! storage.

use super::{
    ConfigError,
    key::{self, Limits},
    schema,
};
use crate::{
    layout,
    model::{config::StorageConf, names::PBM_VERSION, store::StoreKind},
    storage::{
        self, Error, Storage,
        blackhole::Blackhole,
        fs::{Buffers, FsStorage, Modes},
        patience::Patience,
        ranges::Downloads,
        rate::Pace,
        wrap::{
            limit::Limited,
            retry::Retry,
            split::{SMALLEST_LIMIT, Split},
        },
    },
};
use anyhow::{Context, bail};
use futures::future::BoxFuture;
use std::{path::Path, sync::Arc, time::Duration};

/// A kind of storage that this build can open.
struct Driver {
    kind: StoreKind,
    /// Checks the settings as far as that is possible without the storage.
    check: fn(&StorageConf) -> Result<(), ConfigError>,
    /// Opens the storage for the node with this `host:port`, because some settings differ by node.
    open: for<'a> fn(conf: &'a StorageConf, node: &'a str, How) -> BoxFuture<'a, anyhow::Result<Opened>>,
}

/// Parameters of opening that are not in the settings.
#[derive(Debug, Default)]
struct How {
    /// How requests are repeated. It replaces the value in the settings.
    patience: Option<Patience>,
    /// How fast objects are sent.
    pace: Option<Pace>,
    /// How objects are read.
    #[cfg_attr(not(feature = "stores"), expect(dead_code, reason = "files are not downloaded"))]
    downloads: Downloads,
    /// What to do about a folder that does not exist.
    root: Root,
}

/// What to do if a storage's folder does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Root {
    #[default]
    MakeIfMissing,
    /// Opening fails with the same error as for a missing object.
    MustExist,
}

/// A driver without its wrappers.
struct Opened {
    driver: Arc<dyn Storage>,
    /// `maxObjSizeGB` in the settings.
    max_obj_size_gb: Option<f64>,
}

/// The drivers that every build has.
const ALWAYS: &[Driver] = &[
    Driver {
        kind: StoreKind::Filesystem,
        check: check_filesystem,
        open: |conf, _, how| Box::pin(filesystem(conf, how)),
    },
    Driver { kind: StoreKind::Blackhole, check: |_| Ok(()), open: |_, _, _| Box::pin(blackhole()) },
];

fn drivers() -> impl Iterator<Item = &'static Driver> {
    ALWAYS.iter().chain(objects::DRIVERS)
}

/// Returns the driver of a storage type, if this build has it.
fn driver(kind: StoreKind) -> Result<&'static Driver, ConfigError> {
    drivers().find(|driver| driver.kind == kind).ok_or_else(|| ConfigError::NotInBuild(kind.name().to_owned()))
}

/// Checks the settings of a storage as far as that is possible without contacting it.
///
/// # Errors
/// The key and the reason, or a storage type that this build can't open.
pub fn check(kind: StoreKind, conf: &StorageConf) -> Result<(), ConfigError> {
    (driver(kind)?.check)(conf)
}

/// Opens the storage that `conf` describes, as the node `node` (`host:port`) sees it.
///
/// A missing directory is created. Nothing is written into it.
///
/// # Errors
/// The type is unknown or unsupported, settings are missing, or the driver fails.
pub async fn open(conf: &StorageConf, node: &str) -> anyhow::Result<Arc<dyn Storage>> {
    open_so(conf, node, How::default()).await
}

/// Does the same as [`open`], but limits the rate at which data is sent.
///
/// # Errors
/// As [`open`].
pub async fn open_paced(
    conf: &StorageConf,
    node: &str,
    pace: Option<Pace>,
    root: Root,
) -> anyhow::Result<Arc<dyn Storage>> {
    open_so(conf, node, How { pace, root, ..How::default() }).await
}

/// Does the same as [`open`], for a caller that reads large objects.
///
/// # Errors
/// As [`open`].
pub async fn open_to_read(conf: &StorageConf, node: &str, downloads: Downloads) -> anyhow::Result<Arc<dyn Storage>> {
    open_so(conf, node, How { downloads, root: Root::MustExist, ..How::default() }).await
}

/// Does the same as [`open`], for a user who waits for the answer: failed requests are repeated only for a few seconds.
///
/// # Errors
/// As [`open`].
pub async fn open_briefly(conf: &StorageConf, node: &str, root: Root) -> anyhow::Result<Arc<dyn Storage>> {
    let brief = Patience { attempts: 3, overall: Duration::from_secs(3), ..Patience::default() };
    open_so(conf, node, How { patience: Some(brief), root, ..How::default() }).await
}

async fn open_so(conf: &StorageConf, node: &str, how: How) -> anyhow::Result<Arc<dyn Storage>> {
    if let Some(why) = &conf.unusable {
        bail!(
            "the storage is not used, because its settings can't be read: {why}; correct it with `pbm config --set`, that \
             of a profile with `pbm profile add`"
        );
    }
    let Some(kind) = conf.store_kind() else {
        if conf.kind.is_empty() {
            bail!(
                "no storage is configured: set `storage.type` and its settings, for example with `pbm config --file`"
            );
        }
        let usable = drivers().map(|driver| driver.kind).filter(|kind| *kind != StoreKind::Blackhole);
        let usable: Vec<_> = usable.map(StoreKind::name).collect();
        bail!("storage type '{}' is unknown; use {}", conf.kind, usable.join(", "))
    };
    let driver = driver(kind)?;
    let patience = how.patience.unwrap_or_default();
    let opened = (driver.open)(conf, node, how).await.with_context(|| format!("open the {} storage", kind.name()))?;
    let retrying = Arc::new(Retry::new(opened.driver, patience));
    Ok(Arc::new(Split::new(retrying, limit(kind, opened.max_obj_size_gb))))
}

/// Returns the size limit in bytes. Values below the smallest allowed one are ignored, as in the original.
fn limit(kind: StoreKind, configured: Option<f64>) -> u64 {
    match configured {
        Some(gib) if gib >= 1.0 => {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive; saturates")]
            let bytes = (gib * SMALLEST_LIMIT as f64) as u64;
            bytes
        }
        _ => kind.limit_gib() * SMALLEST_LIMIT,
    }
}

fn check_filesystem(conf: &StorageConf) -> Result<(), ConfigError> {
    const KEY: &str = "storage.filesystem.path";
    match conf.filesystem.as_ref().map(|conf| conf.path.as_str()) {
        None | Some("") => Err(ConfigError::setting(KEY, "must be given for the storage type filesystem")),
        Some(path) if !path.starts_with('/') => {
            Err(ConfigError::setting(KEY, format!("'{path}' is not an absolute path")))
        }
        Some(_) => Ok(()),
    }
}

async fn filesystem(conf: &StorageConf, how: How) -> anyhow::Result<Opened> {
    let conf = conf.filesystem.as_ref().filter(|conf| !conf.path.is_empty());
    let conf = conf.context("`storage.filesystem.path` is not set")?;
    let default = Buffers::default();
    let buffer = |set: Option<i32>, default| {
        set.and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0).unwrap_or(default)
    };
    let buffers = Buffers {
        write: buffer(conf.backup_buff_size, default.write),
        read: buffer(conf.restore_buff_size, default.read),
    };
    let mode = |key, text: &Option<String>| match (schema::find(key).map(|key| key.limits), text) {
        (Some(Limits::Mode { needed, allowed }), Some(text)) => key::mode(text, needed, allowed).ok(),
        _ => None,
    };
    let modes = Modes {
        file: mode("storage.filesystem.fileMode", &conf.file_mode),
        folder: mode("storage.filesystem.dirMode", &conf.dir_mode),
    };
    let path = Path::new(&conf.path);
    let driver = match how.root {
        Root::MakeIfMissing => FsStorage::open_with(path, buffers, modes).await?,
        Root::MustExist => FsStorage::open_existing(path, buffers, modes).await.map_err(|error| {
            let missing = error.is_not_found();
            let error = anyhow::Error::from(error);
            let said = || format!("the folder {} is not there; is a mount missing?", path.display());
            if missing { error.context(said()) } else { error }
        })?,
    };
    let driver = Arc::new(driver);
    let driver: Arc<dyn Storage> = match how.pace {
        Some(pace) => Arc::new(Limited::new(driver, pace)),
        None => driver,
    };
    Ok(Opened { driver, max_obj_size_gb: conf.max_obj_size_gb })
}

async fn blackhole() -> anyhow::Result<Opened> {
    Ok(Opened { driver: Arc::new(Blackhole), max_obj_size_gb: None })
}

/// Object stores.
#[cfg(feature = "stores")]
mod objects {
    use super::{Driver, How, Opened};
    use crate::{
        config::stores::{self, cloud::Gcs},
        model::{config::StorageConf, store::StoreKind},
        storage::{
            Storage,
            cloud::CloudStorage,
            s3::{self, S3Storage},
        },
    };
    use std::sync::Arc;

    pub const DRIVERS: &[Driver] = &[
        Driver {
            kind: StoreKind::S3,
            check: |conf| stores::s3::s3(conf, "").map(drop),
            open: |conf, node, how| Box::pin(async move { bucket(conf, how, stores::s3::s3(conf, node)?) }),
        },
        Driver {
            kind: StoreKind::Minio,
            check: |conf| stores::s3::minio(conf, "").map(drop),
            open: |conf, node, how| Box::pin(async move { bucket(conf, how, stores::s3::minio(conf, node)?) }),
        },
        Driver {
            kind: StoreKind::Oss,
            check: |conf| stores::s3::oss(conf).map(drop),
            open: |conf, _, how| Box::pin(async move { bucket(conf, how, stores::s3::oss(conf)?) }),
        },
        Driver {
            kind: StoreKind::Oci,
            check: |conf| stores::s3::oci(conf).map(drop),
            open: |conf, _, how| Box::pin(async move { bucket(conf, how, stores::s3::oci(conf)?) }),
        },
        Driver {
            kind: StoreKind::Azure,
            check: |conf| stores::cloud::azure(conf, "").map(drop),
            open: |conf, node, how| Box::pin(azure(conf, node, how)),
        },
        Driver {
            kind: StoreKind::Gcs,
            check: |conf| stores::cloud::gcs(conf).map(drop),
            open: |conf, _, how| Box::pin(gcs(conf, how)),
        },
    ];

    fn bucket(conf: &StorageConf, how: How, mut settings: s3::Settings) -> anyhow::Result<Opened> {
        settings.patience = how.patience.unwrap_or(settings.patience);
        settings.http.pace = how.pace;
        let driver = S3Storage::open(settings)?.downloading(how.downloads);
        Ok(Opened { driver: Arc::new(driver), max_obj_size_gb: stores::max_obj_size_gb(conf) })
    }

    async fn azure(conf: &StorageConf, node: &str, how: How) -> anyhow::Result<Opened> {
        let mut settings = stores::cloud::azure(conf, node)?;
        settings.patience = how.patience.unwrap_or(settings.patience);
        settings.http.pace = how.pace;
        let driver = CloudStorage::azure(settings)?.downloading(how.downloads);
        Ok(Opened { driver: Arc::new(driver), max_obj_size_gb: stores::max_obj_size_gb(conf) })
    }

    async fn gcs(conf: &StorageConf, how: How) -> anyhow::Result<Opened> {
        let driver: Arc<dyn Storage> = match stores::cloud::gcs(conf)? {
            Gcs::Own(mut settings) => {
                settings.patience = how.patience.unwrap_or(settings.patience);
                settings.http.pace = how.pace;
                Arc::new(CloudStorage::gcs(*settings)?.downloading(how.downloads))
            }
            Gcs::ByS3(settings) => return bucket(conf, how, *settings),
        };
        Ok(Opened { driver, max_obj_size_gb: stores::max_obj_size_gb(conf) })
    }
}

/// A build without drivers for object stores.
#[cfg(not(feature = "stores"))]
mod objects {
    pub const DRIVERS: &[super::Driver] = &[];
}

/// The result of [`probe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Probe {
    Initialised,
    /// This storage is not initialised.
    Missing,
}

/// Reads the mark of an initialised storage, which proves that this node can read there.
///
/// # Errors
/// The errors of the storage, and [`Error::Invalid`] if the mark is empty, which the original treats as damage.
pub async fn probe(store: &dyn Storage) -> storage::Result<Probe> {
    /// The original reads the same number of bytes. The content is never interpreted.
    const ENOUGH: u64 = 10;
    let size = match store.stat(layout::INIT).await {
        Err(error) if error.is_not_found() => return Ok(Probe::Missing),
        found => found?.size,
    };
    if size == 0 {
        let reason = format!("'{}' is empty; remove it, then run `pbm config --force-resync`", layout::INIT);
        return Err(Error::Invalid { store: store.to_string(), reason });
    }
    let mut mark = store.get(layout::INIT, Some(0..ENOUGH)).await?;
    match futures::StreamExt::next(&mut mark).await {
        Some(Err(error)) => Err(Error::Failed {
            store: store.to_string(),
            action: "reading",
            name: layout::INIT.to_owned(),
            reason: error.to_string(),
            retryable: true,
        }),
        _ => Ok(Probe::Initialised),
    }
}

/// Writes the mark of an initialised storage: the version, without a newline (docs/format.md A.1.1).
///
/// # Errors
/// The storage's own.
pub async fn write_init(store: &dyn Storage) -> storage::Result<()> {
    storage::write_all(store, layout::INIT, PBM_VERSION).await.map(drop)
}

/// Makes sure that the storage is initialised.
///
/// # Errors
/// The errors of [`probe`] and [`write_init`].
pub async fn initialise(store: &dyn Storage) -> storage::Result<()> {
    match probe(store).await? {
        Probe::Initialised => Ok(()),
        Probe::Missing => write_init(store).await,
    }
}

/// Deletes the mark and writes it again, which proves that this node can write and delete there. A resync uses this.
///
/// # Errors
/// The storage's own.
pub async fn reinitialise(store: &dyn Storage) -> storage::Result<()> {
    store.delete(layout::INIT).await?;
    write_init(store).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::config::FilesystemConf,
        storage::{
            memory::Memory,
            read_all,
            wrap::faulty::{Call, Fault, Faulty},
        },
    };

    fn conf(kind: &str) -> StorageConf {
        StorageConf { kind: kind.to_owned(), ..StorageConf::default() }
    }

    async fn refusal(conf: &StorageConf) -> String {
        format!("{:#}", open(conf, "h:27017").await.expect_err("must be refused"))
    }

    #[tokio::test]
    async fn refuses_what_it_cannot_open() {
        for (kind, words) in [
            ("", "no storage is configured"),
            #[cfg(feature = "stores")]
            ("s3", "storage.s3: must be given"),
            #[cfg(feature = "stores")]
            ("oci", "storage.oci: must be given"),
            #[cfg(not(feature = "stores"))]
            ("s3", "'s3' is not in this build"),
            ("tape", "'tape' is unknown; use filesystem"),
            ("filesystem", "`storage.filesystem.path` is not set"),
        ] {
            let refusal = refusal(&conf(kind)).await;
            assert!(refusal.contains(words), "'{kind}': {refusal}");
        }
    }

    #[tokio::test]
    async fn opens_a_directory() {
        let path = std::env::temp_dir().join(format!("pbmbox-open-{:08x}", rand::random::<u32>()));
        let filesystem = FilesystemConf {
            path: path.to_string_lossy().into_owned(),
            max_obj_size_gb: Some(0.5),
            backup_buff_size: Some(65536),
            ..FilesystemConf::default()
        };
        let conf = StorageConf { filesystem: Some(filesystem), ..conf("filesystem") };
        let store = open(&conf, "h:27017").await.expect("open");
        assert_eq!(probe(&*store).await.expect("probe"), Probe::Missing);
        initialise(&*store).await.expect("initialise");
        assert_eq!(std::fs::read(path.join(".pbm.init")).expect("the mark"), PBM_VERSION.as_bytes());
        std::fs::remove_dir_all(&path).expect("clean up");
        assert!(open(&self::conf("blackhole"), "").await.is_ok());
    }

    #[tokio::test]
    async fn marks_a_storage() {
        let store = Memory::new();
        assert_eq!(probe(&store).await.expect("probe"), Probe::Missing);
        write_init(&store).await.expect("write");
        assert_eq!(probe(&store).await.expect("probe"), Probe::Initialised);
        storage::write_all(&store, layout::INIT, "0.1").await.expect("put");
        initialise(&store).await.expect("initialise");
        assert_eq!(read_all(&store, layout::INIT, 99).await.expect("get"), "0.1", "a mark is left alone");
        let store = Faulty::new(Arc::new(store));
        store.fail(Call::Delete, 1, Fault::Denied);
        assert!(matches!(reinitialise(&store).await, Err(Error::Denied { .. })), "it tries to delete");
        reinitialise(&store).await.expect("reinitialise");
        assert_eq!(read_all(&store, layout::INIT, 99).await.expect("get"), PBM_VERSION);
        storage::write_all(&store, layout::INIT, "").await.expect("put");
        assert!(matches!(probe(&store).await, Err(Error::Invalid { .. })));
    }

    #[cfg(feature = "stores")]
    #[test]
    fn a_whole_build_opens_every_kind() {
        for kind in StoreKind::ALL {
            assert!(driver(kind).is_ok(), "{kind:?}");
        }
    }

    #[cfg(not(feature = "stores"))]
    #[test]
    fn a_build_without_object_stores_refuses_them_by_name() {
        for kind in StoreKind::ALL {
            match driver(kind) {
                Ok(_) => assert!(matches!(kind, StoreKind::Filesystem | StoreKind::Blackhole), "{kind:?}"),
                Err(refusal) => assert_eq!(refusal, ConfigError::NotInBuild(kind.name().to_owned())),
            }
        }
    }

    #[test]
    fn limits() {
        let gib = 1_u64 << 30;
        for (kind, set, want) in [
            (StoreKind::Filesystem, None, 5018 * gib),
            (StoreKind::Azure, None, 194_560 * gib),
            (StoreKind::S3, Some(0.9), 5018 * gib),
            (StoreKind::S3, Some(-3.0), 5018 * gib),
            (StoreKind::S3, Some(f64::NAN), 5018 * gib),
            (StoreKind::Filesystem, Some(1.0), gib),
            (StoreKind::Filesystem, Some(1.5), gib + gib / 2),
            (StoreKind::Filesystem, Some(f64::INFINITY), u64::MAX),
        ] {
            assert_eq!(limit(kind, set), want, "{kind:?} {set:?}");
        }
    }
}
