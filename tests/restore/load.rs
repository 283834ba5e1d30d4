use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures::TryStreamExt;
use mongodb::bson::{Document, RawDocumentBuf, Timestamp, doc};
use pbmbox::snapshot::batch::InsertInto;
use pbmbox::snapshot::load::{Error, Goal, LoadItem, LoadOptions, LoadProgress, load};
use tokio_util::sync::CancellationToken;

use super::Server;
use super::store::Store;
use crate::support::cluster::Options;

const SMALL: LoadOptions =
    LoadOptions { collections: 2, workers: 3, batch_documents: 100_000, batch_bytes: 4000, in_flight: 20_000 };

async fn item(store: &Store, coll: &str, ordered: bool, documents: &[Document]) -> LoadItem {
    LoadItem {
        data: store.documents("shop", coll, documents).await,
        goal: Goal {
            into: InsertInto { db: "shop".to_owned(), coll: coll.to_owned(), ordered, bypass_validation: true },
            series: None,
        },
    }
}

async fn run(server: &Server, store: &Store, items: Vec<LoadItem>) -> Result<Arc<LoadProgress>, Error> {
    let progress = Arc::new(LoadProgress::default());
    let cancel = CancellationToken::new();
    load(store.storage.clone(), &server.client, items, SMALL, progress.clone(), &cancel).await.map(|_| progress)
}

async fn raw(server: &Server, coll: &str) -> Vec<RawDocumentBuf> {
    let found = server.client.database("shop").collection::<RawDocumentBuf>(coll).find(doc! {}).await;
    found.unwrap().try_collect().await.unwrap()
}

fn bytes(documents: &[Document]) -> Vec<Vec<u8>> {
    documents.iter().map(|document| document.to_vec().unwrap()).collect()
}

fn chain(error: Error) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_arrive_as_they_were() {
    let (server, store) = (Server::start(Options::default()).await, Store::new());
    let zero = Timestamp { time: 0, increment: 0 };
    let many: Vec<_> = (0..5000).map(|i| doc! { "_id": i, "s": "x".repeat(i as usize % 97) }).collect();
    let mut odd: Vec<_> =
        (0..30).map(|i| doc! { "_id": i, "a": 1, "z.z": zero, "in": { "z": zero }, "b": i }).collect();
    odd.push(doc! { "_id": zero, "$x": zero });
    // As large as documents can be, larger than the budget of all batches.
    let huge: Vec<_> = (0..3).map(|i| doc! { "_id": i, "s": "h".repeat(16 * 1024 * 1024 - 22) }).collect();
    let ring: Vec<_> = (0..2000).rev().map(|i| doc! { "_id": i, "s": "c".repeat(i as usize % 61) }).collect();
    server.run("shop", doc! { "create": "ring", "capped": true, "size": 16 << 20 }).await.unwrap();
    server.run("shop", doc! { "create": "valid", "validator": { "no": "such" } }).await.unwrap();
    let items = vec![
        item(&store, "many", false, &many).await,
        item(&store, "odd", false, &odd).await,
        item(&store, "huge", false, &huge).await,
        item(&store, "ring", true, &ring).await,
        item(&store, "valid", false, &many[..9]).await,
    ];
    assert_eq!(huge[0].to_vec().unwrap().len(), 16 * 1024 * 1024);
    let total: u64 = items.iter().map(|item| item.data.size).sum();
    let progress = run(&server, &store, items).await.unwrap();
    assert_eq!(progress.bytes.load(Relaxed), total);
    assert_eq!(progress.total.load(Relaxed), total);
    assert_eq!(progress.documents.load(Relaxed), 5000 + 31 + 3 + 2000 + 9);
    for (coll, documents, in_order) in [
        ("many", &many[..], false),
        ("odd", &odd[..], false),
        ("huge", &huge[..], false),
        ("ring", &ring[..], true),
        ("valid", &many[..9], false),
    ] {
        let mut found: Vec<_> = raw(&server, coll).await.into_iter().map(RawDocumentBuf::into_bytes).collect();
        let mut wanted = bytes(documents);
        if !in_order {
            found.sort();
            wanted.sort();
        }
        assert!(found == wanted, "{coll} is different");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_is_named() {
    let (server, store) = (Server::start(Options::default()).await, Store::new());
    let many: Vec<_> = (0..500).map(|i| doc! { "_id": i, "s": "x".repeat(97) }).collect();
    let good = item(&store, "a", false, &many).await;

    let mut damaged = good.clone();
    damaged.data.crc += 1;
    damaged.goal.into.coll = "b".to_owned();
    let error = chain(run(&server, &store, vec![damaged]).await.unwrap_err());
    let wanted =
        format!("'b/rs0/shop.a' is damaged: its checksum is {} in place of {}", good.data.crc, good.data.crc + 1);
    assert!(error.contains("load 'shop.b'") && error.contains(&wanted), "{error}");

    let mut shorter = good.clone();
    shorter.data.size += 1;
    shorter.goal.into.coll = "c".to_owned();
    let error = chain(run(&server, &store, vec![shorter]).await.unwrap_err());
    assert!(error.contains(&format!("holds {} bytes in place of", good.data.size)), "{error}");

    let mut missing = good.clone();
    missing.data.object = "nowhere".to_owned();
    let error = chain(run(&server, &store, vec![missing]).await.unwrap_err());
    assert!(error.contains("open 'nowhere'") && error.contains("does not exist"), "{error}");

    // A scan meets a document twice when it is deleted and inserted again meanwhile; the oplog settles it.
    server.client.database("shop").collection("a").insert_one(doc! { "_id": 321 }).await.unwrap();
    run(&server, &store, vec![good]).await.unwrap();
    // The server's message names the `_id`, and the BSON library can't decode this one.
    let strange = b"\x18\0\0\0\x03_id\0\x0e\0\0\0\x02a\0\x02\0\0\0\xff\0\0\0";
    let mut twice = item(&store, "strange", false, &[]).await;
    let content = [&strange[..], strange].concat();
    let mut digest = crc64fast::Digest::new();
    digest.write(&content);
    (twice.data.size, twice.data.crc) = (content.len() as u64, digest.sum64().cast_signed());
    store.put(&twice.data.object, content).await;
    run(&server, &store, vec![twice]).await.unwrap();
    let found: Vec<_> = raw(&server, "strange").await.into_iter().map(RawDocumentBuf::into_bytes).collect();
    assert_eq!(found, [strange]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_documents_are_refused() {
    let (server, store) = (Server::start(Options::default()).await, Store::new());
    let good = doc! { "_id": 1 }.to_vec().unwrap();
    for (number, (tail, part)) in [
        (&b"\x07\0\0"[..], "the object ends within it"),
        (b"\x07\0\0\0", "the object ends within it"),
        (b"\x04\0\0\0\0", "a length of 4 bytes is impossible"),
        (b"\xff\xff\xff\x7f\0", "a length of 2147483647 bytes is impossible"),
        (b"\x05\0\0\0\x01", "document number 2"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut item = item(&store, &format!("c{number}"), false, &[]).await;
        let content = [&good[..], tail].concat();
        let mut digest = crc64fast::Digest::new();
        digest.write(&content);
        (item.data.size, item.data.crc) = (content.len() as u64, digest.sum64().cast_signed());
        store.put(&item.data.object, content).await;
        let error = chain(run(&server, &store, vec![item]).await.unwrap_err());
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_load_stops() {
    let (server, store) = (Server::start(Options::default()).await, Store::new());
    let items = vec![item(&store, "a", false, &[doc! { "_id": 1 }]).await];
    let cancel = CancellationToken::new();
    cancel.cancel();
    let result = load(store.storage.clone(), &server.client, items, SMALL, Arc::default(), &cancel).await;
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
}
