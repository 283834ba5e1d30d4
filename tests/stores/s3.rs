//! The S3 driver against s3s-fs, which verifies signatures, and against faults that no good server produces.

use crate::support::garage;
use crate::support::objects::{BUCKET, Fault, KEY, ObjectServer, SECRET};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures::{StreamExt, TryStreamExt, stream};
use pbmbox::storage::parts::Cut;
use pbmbox::storage::patience::Patience;
use pbmbox::storage::s3::{CustomerKey, Encryption, Keys, S3Storage, Settings, Signature};
use pbmbox::storage::{Error, SizeHint, Storage, contract, http, read_all, write_all};
use std::time::Duration;

const MIB: usize = 1 << 20;
/// s3s-fs keeps files with longer names beside objects.
const NAMES: contract::Names = contract::Names { longest: 80, backslashes: true };

fn settings(server: &ObjectServer) -> Settings {
    // Garage takes its time on a busy machine.
    let (stall, overall) = if garage::program().is_some() { (4000, 80) } else { (500, 20) };
    Settings {
        kind: "s3",
        region: "us-east-1".to_owned(),
        endpoint: server.endpoint(),
        path_style: true,
        bucket: BUCKET.to_owned(),
        prefix: String::new(),
        keys: Some(Keys { id: KEY.to_owned(), secret: SECRET.to_owned(), token: None }),
        signature: Signature::Current,
        encryption: Encryption::None,
        storage_class: None,
        cut: Cut { part: 5 * MIB, most: 10_000, in_flight: 20 * MIB },
        patience: Patience {
            attempts: 3,
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(5),
            overall: Duration::from_secs(overall),
            ..Patience::default()
        },
        http: http::Settings { stall: Duration::from_millis(stall), ..http::Settings::default() },
    }
}

pub async fn store(server: &ObjectServer, change: impl FnOnce(&mut Settings)) -> S3Storage {
    let mut settings = settings(server);
    change(&mut settings);
    S3Storage::open(settings).expect("open")
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let server = ObjectServer::start().await;
    contract::check_with(&store(&server, |_| {}).await, NAMES).await;
    let below = store(&server, |it| it.prefix = "some/folder".to_owned()).await;
    contract::check_with(&below, NAMES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_with_the_bucket_in_the_host_name() {
    let server = ObjectServer::start().await;
    let endpoint = format!("http://localhost:{}", server.address.port());
    let store = store(&server, |it| {
        it.path_style = false;
        it.endpoint = endpoint;
    })
    .await;
    contract::check_with(&store, NAMES).await;
    let asked = server.asked();
    let host = |name: &str| asked.iter().any(|it| it.headers["host"].as_bytes().starts_with(name.as_bytes()));
    assert!(host("backups.localhost"), "the bucket is not in the host name");
    assert!(asked.iter().all(|it| !it.path.starts_with("/backups")), "the bucket is in a path");
}

/// The server verifies these signatures, too.
#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_with_old_signatures() {
    // Garage knows no old signatures; the other mode has a server that does.
    if garage::program().is_some() {
        return;
    }
    let server = ObjectServer::start().await;
    contract::check_with(&store(&server, |it| it.signature = Signature::Old).await, NAMES).await;
    let endpoint = format!("http://localhost:{}", server.address.port());
    let by_host = store(&server, |it| {
        it.signature = Signature::Old;
        it.path_style = false;
        it.endpoint = endpoint;
    })
    .await;
    let whole = contract::pattern(12 * MIB, 5);
    write_all(&by_host, "in/parts", whole.clone()).await.expect("put");
    assert!(read_all(&by_host, "in/parts", 99 << 20).await.expect("get") == whole);
    let asked = server.asked();
    let old = |it: &crate::support::objects::Asked| it.headers["authorization"].as_bytes().starts_with(b"AWS GK");
    assert!(asked.iter().all(old), "a request has another signature");
    assert!(asked.iter().any(|it| it.operation() == "UploadPart"));
    let sent = asked.iter().filter(|it| it.operation() == "UploadPart");
    assert!(sent.clone().all(|it| it.headers.contains_key("content-md5")), "a part's content is not covered");
    let wrong = store(&server, |it| {
        it.signature = Signature::Old;
        it.keys = Some(Keys { id: KEY.to_owned(), secret: "wrong".to_owned(), token: None });
    })
    .await;
    assert!(matches!(wrong.stat("in/parts").await, Err(Error::Denied { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_repeated_and_whole() {
    let server = ObjectServer::start().await;
    let store = store(&server, |_| {}).await;
    let whole = contract::pattern(17 * MIB, 3);
    for fault in [
        Fault::error(503, "SlowDown"),
        Fault::error(500, "InternalError"),
        Fault::Reset,
        Fault::Stall,
        Fault::LoseAnswer,
        Fault::Replace(200, String::new()),
    ] {
        server.fail("UploadPart", 2, fault.clone());
        let body = contract::pieces(whole.clone(), 100_000);
        let stored = store.put("a/b", body, SizeHint(None)).await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(stored, whole.len() as u64);
        assert!(read_all(&store, "a/b", whole.len()).await.expect("read") == whole, "{fault:?}");
    }
}

/// Nothing of an upload remains in the store, finished or not.
async fn nothing_remains(server: &ObjectServer, store: &S3Storage) {
    assert_eq!(store.list("").try_collect::<Vec<_>>().await.expect("list"), []);
    let begun = server.count("CreateMultipartUpload");
    let ended = async || (server.count("AbortMultipartUpload") >= begun).then_some(());
    for _ in 0..500 {
        if ended().await.is_some() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{begun} uploads were begun, {} aborted", server.count("AbortMultipartUpload"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_leaves_nothing() {
    let server = ObjectServer::start().await;
    let store = store(&server, |_| {}).await;
    let body = || contract::pieces(contract::pattern(12 * MIB, 1), 100_000);
    server.fail("UploadPart", 100, Fault::error(503, "SlowDown"));
    let error = store.put("a/b", body(), SizeHint(None)).await.expect_err("only refusals");
    assert!(error.is_retryable() && error.to_string().contains("SlowDown"), "{error}");
    nothing_remains(&server, &store).await;
    server.fail("UploadPart", 1, Fault::error(403, "AccessDenied"));
    let error = store.put("a/b", body(), SizeHint(None)).await.expect_err("denied");
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    nothing_remains(&server, &store).await;
    let broken = body().chain(stream::once(async { Err(std::io::Error::other("gone")) })).boxed();
    assert!(matches!(store.put("a/b", broken, SizeHint(None)).await, Err(Error::Source { .. })));
    nothing_remains(&server, &store).await;
}

/// Success with an error in the body, and an answer that was lost after the work was done.
#[tokio::test(flavor = "multi_thread")]
async fn completing_is_believed_only_with_proof() {
    let server = ObjectServer::start().await;
    let store = store(&server, |_| {}).await;
    let whole = contract::pattern(12 * MIB, 1);
    let body = || contract::pieces(whole.clone(), 100_000);
    let Fault::Answer(_, xml) = Fault::error(200, "InternalError") else { unreachable!("an answer") };
    server.fail("CompleteMultipartUpload", 1, Fault::Answer(200, xml.clone()));
    assert_eq!(store.put("a", body(), SizeHint(None)).await.expect("the second try"), whole.len() as u64);
    server.fail("CompleteMultipartUpload", 100, Fault::Answer(200, xml));
    let error = store.put("b", body(), SizeHint(None)).await.expect_err("never completed");
    assert!(error.is_retryable(), "{error}");
    assert!(store.stat("b").await.expect_err("nothing there").is_not_found());
    server.fail("CompleteMultipartUpload", 1, Fault::LoseAnswer);
    assert_eq!(store.put("c", body(), SizeHint(None)).await.expect("it is there"), whole.len() as u64);
    assert!(read_all(&store, "c", whole.len()).await.expect("read") == whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_goes_on_after_a_break() {
    let server = ObjectServer::start().await;
    let store = store(&server, |_| {}).await;
    let whole = contract::pattern(20 * MIB, 7);
    write_all(&store, "x", whole.clone()).await.expect("put");
    for fault in [Fault::CutAfter(1000), Fault::CutAfter(0), Fault::Reset, Fault::error(503, "SlowDown"), Fault::Stall]
    {
        server.fail("GetObject", 2, fault.clone());
        assert!(read_all(&store, "x", whole.len()).await.expect("read") == whole, "{fault:?}");
    }
    server.fail("GetObject", 100, Fault::CutAfter(1000));
    assert!(read_all(&store, "x", whole.len()).await.is_err());
    // Replaced under a reader: an error, never a mixture.
    server.rule(|_| None);
    let mut reader = store.get("x", None).await.expect("get");
    let first = reader.next().await.expect("a piece").expect("a good one");
    assert_eq!(first, whole.slice(..first.len()));
    write_all(&store, "x", contract::pattern(20 * MIB, 8)).await.expect("put");
    let rest = reader.try_collect::<Vec<_>>().await;
    assert!(rest.is_err() || rest.expect("read").concat() == whole.slice(first.len()..), "a mixture");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_to_do() {
    let server = ObjectServer::start().await;
    let wrong = store(&server, |it| it.keys.as_mut().expect("keys").secret = "wrong".to_owned()).await;
    let error = write_all(&wrong, "a", "x").await.expect_err("a wrong secret");
    assert!(matches!(&error, Error::Denied { reason, .. } if reason.contains("secret key")), "{error}");
    let good = store(&server, |_| {}).await;
    // s3s-fs makes a missing bucket.
    server.fail("PutObject", 1, Fault::error(404, "NoSuchBucket"));
    let error = write_all(&good, "a", "x").await.expect_err("no bucket");
    assert!(error.to_string().contains("bucket does not exist") && !error.is_not_found(), "{error}");
    server.fail("PutObject", 1, Fault::error(403, "RequestTimeTooSkewed"));
    assert!(write_all(&good, "a", "x").await.expect_err("skewed").to_string().contains("clock"));
    server.fail("PutObject", 1, Fault::error(400, "ExpiredToken"));
    assert!(write_all(&good, "a", "x").await.expect_err("expired").to_string().contains("token"));
    server.fail("PutObject", 1, Fault::error(507, "InsufficientStorage"));
    assert!(matches!(write_all(&good, "a", "x").await, Err(Error::Full { .. })));
    server.fail("HeadObject", 1, Fault::Answer(404, String::new()));
    assert!(good.stat("a").await.expect_err("missing").is_not_found());
    // May write, but not delete.
    write_all(&good, "d/a", "x").await.expect("put");
    server.rule(|asked| asked.operation().starts_with("Delete").then(|| Fault::error(403, "AccessDenied")));
    assert!(matches!(good.delete("d/a").await, Err(Error::Denied { .. })));
    assert!(matches!(good.delete_prefix("d").await, Err(Error::Denied { .. })));
    // A server that is not there, one that never answers.
    let gone = store(&server, |it| it.endpoint = "http://127.0.0.1:1".to_owned()).await;
    let error = gone.stat("a").await.expect_err("nobody there");
    assert!(error.is_retryable() && error.to_string().contains("can't connect"), "{error}");
    server.fail("HeadObject", 1, Fault::Stall);
    let error = good.stat("a").await.expect_err("no answer");
    assert!(error.is_retryable() && error.to_string().contains("did not answer"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_travel_in_headers() {
    let server = ObjectServer::start().await;
    let heads = |operation: &str, name: &str| -> Vec<String> {
        let asked = server.asked().into_iter().filter(|it| it.operation() == operation);
        asked.filter_map(|it| it.headers.get(name).map(|value| value.to_str().expect("text").to_owned())).collect()
    };
    // Answered without the store, which refuses what it can't do.
    server.rule(|asked| matches!(asked.operation(), "PutObject").then(|| Fault::Answer(200, String::new())));
    let key = BASE64_STANDARD.encode([7; 32]);
    for (encryption, header, value) in [
        (Encryption::StoreKeys { algorithm: "AES256".into() }, "x-amz-server-side-encryption", "AES256".to_owned()),
        (
            Encryption::Kms { algorithm: "aws:kms".into(), key: "k1".into() },
            "x-amz-server-side-encryption-aws-kms-key-id",
            "k1".to_owned(),
        ),
        (
            Encryption::Customer(CustomerKey::new("AES256", &key).expect("a key")),
            "x-amz-server-side-encryption-customer-key",
            key.clone(),
        ),
    ] {
        let store = store(&server, |it| {
            it.encryption = encryption;
            it.storage_class = Some("STANDARD_IA".to_owned());
            it.keys.as_mut().expect("keys").token = Some("session".to_owned());
        })
        .await;
        write_all(&store, "a", "x").await.expect("put");
        assert!(heads("PutObject", header).contains(&value), "{header}");
    }
    assert_eq!(heads("PutObject", "x-amz-storage-class"), ["STANDARD_IA"; 3]);
    assert_eq!(heads("PutObject", "x-amz-security-token"), ["session"; 3]);
    // The signature covers the content.
    let sums = heads("PutObject", "x-amz-content-sha256");
    assert!(sums.iter().all(|sum| sum.len() == 64), "{sums:?}");
    assert!(CustomerKey::new("AES256", "c2hvcnQ=").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_objects_come_page_by_page() {
    const MANY: usize = 10_000;
    let server = ObjectServer::start().await;
    // s3s-fs looks at all files for every page.
    let store = store(&server, |it| {
        it.prefix = "p".to_owned();
        it.http = http::Settings::default();
    })
    .await;
    if let Some(folder) = server.folder() {
        std::fs::create_dir_all(folder.join("p/many")).expect("a folder");
        for number in 0..MANY {
            std::fs::write(folder.join(format!("p/many/{number:05}")), "x").expect("an object");
        }
    } else {
        let puts = (0..MANY).map(|number| {
            let store = &store;
            async move { write_all(store, &format!("many/{number:05}"), "x").await.expect("put") }
        });
        stream::iter(puts).buffer_unordered(16).count().await;
    }
    let begun = std::time::Instant::now();
    let mut names: Vec<String> = store.list("many").map_ok(|object| object.name).try_collect().await.expect("list");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), MANY);
    assert!(server.count("ListObjectsV2") >= 10, "the pages are of 1000");
    eprintln!("{MANY} objects listed after {:?}", begun.elapsed());
    store.delete_prefix("many").await.expect("delete");
    eprintln!("deleted after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert_eq!(store.list("").try_collect::<Vec<_>>().await.expect("list"), []);
    assert!(server.count("DeleteObject") < 30, "one by one");
}
