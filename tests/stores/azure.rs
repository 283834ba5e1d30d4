//! The Azure driver against Azurite.

use crate::support::azurite::{ACCOUNT, Azurite, CONTAINER, KEY, shared_access_signature};
use futures::{StreamExt, TryStreamExt, stream};
use pbmbox::storage::cloud::{AzureAccess, AzureSettings, CloudStorage};
use pbmbox::storage::parts::Cut;
use pbmbox::storage::patience::Patience;
use pbmbox::storage::{Error, SizeHint, Storage, contract, http, read_all, write_all};
use std::time::Duration;

const MIB: usize = 1 << 20;
const NAMES: contract::Names = contract::Names { backslashes: false, ..contract::Names::ANY };

fn open(azurite: &Azurite, prefix: &str, change: impl FnOnce(&mut AzureSettings)) -> CloudStorage {
    let mut settings = AzureSettings {
        account: ACCOUNT.to_owned(),
        container: CONTAINER.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: Some(azurite.endpoint.clone()),
        access: AzureAccess::Key(KEY.to_owned()),
        cut: Cut { part: 5 * MIB, most: 50_000, in_flight: 20 * MIB },
        patience: Patience {
            attempts: 3,
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(5),
            overall: Duration::from_secs(20),
            ..Patience::default()
        },
        http: http::Settings::default(),
    };
    change(&mut settings);
    CloudStorage::azure(settings).expect("open")
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_and_explains_refusals() {
    let azurite = Azurite::start().await;
    contract::check_with(&open(&azurite, "", |_| {}), NAMES).await;
    let store = open(&azurite, "some/folder", |_| {});
    contract::check_with(&store, NAMES).await;
    // Azurite answers 500 to deletions with a signature, which the driver sends as batches.
    let shared = open(&azurite, "", |it| it.access = AzureAccess::Sas(shared_access_signature()));
    let large = contract::pattern(12 * MIB, 5);
    shared.put("shared/a", contract::pieces(large.clone(), 100_000), SizeHint(None)).await.expect("put");
    assert!(read_all(&shared, "shared/a", large.len()).await.expect("read") == large);
    assert_eq!(shared.list("shared").try_collect::<Vec<_>>().await.expect("list").len(), 1);
    open(&azurite, "", |_| {}).delete_prefix("shared").await.expect("delete");

    // Parts of an upload whose source fails are no object.
    let body = contract::pieces(contract::pattern(12 * MIB, 1), 100_000);
    let broken = body.chain(stream::once(async { Err(std::io::Error::other("gone")) })).boxed();
    assert!(matches!(store.put("a", broken, SizeHint(None)).await, Err(Error::Source { .. })));
    assert_eq!(store.list("").try_collect::<Vec<_>>().await.expect("list"), []);
    let whole = contract::pattern(17 * MIB, 3);
    store.put("a", contract::pieces(whole.clone(), 100_000), SizeHint(None)).await.expect("put");
    assert!(read_all(&store, "a", whole.len()).await.expect("read") == whole);
    store.delete("a").await.expect("delete");

    let wrong = open(&azurite, "", |it| it.access = AzureAccess::Key(KEY.replace('E', "F")));
    let error = write_all(&wrong, "a", "x").await.expect_err("a wrong key");
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    let nowhere = open(&azurite, "", |it| it.container = "missing".to_owned());
    let error = write_all(&nowhere, "a", "x").await.expect_err("no container");
    assert!(!error.is_not_found() && error.to_string().contains("ContainerNotFound"), "{error}");
    let gone = open(&azurite, "", |it| it.endpoint = Some("http://127.0.0.1:1/devstoreaccount1".to_owned()));
    let error = gone.stat("a").await.expect_err("nobody there");
    assert!(error.is_retryable() && error.to_string().contains("can't connect"), "{error}");
}

/// The settings of a container, as they stand below `storage:`.
fn section(azurite: &Azurite) -> String {
    format!(
        "type: azure\n  azure:\n    account: {ACCOUNT}\n    container: {CONTAINER}\n    prefix: cluster/one\n    \
         endpointUrl: {}\n    credentials:\n      key: {KEY}\n",
        azurite.endpoint
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_on_azure() {
    let azurite = Azurite::start().await;
    let store = open(&azurite, "cluster/one", |_| {});
    let objects = async || store.list("").map_ok(|object| object.name).try_collect().await.expect("list");
    super::everything(&section(&azurite), objects).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_shards_on_azure() {
    let azurite = Azurite::start().await;
    let store = open(&azurite, "cluster/one", |_| {});
    let objects = async || store.list("").map_ok(|object| object.name).try_collect().await.expect("list");
    super::everything_sharded(&section(&azurite), objects).await;
}
