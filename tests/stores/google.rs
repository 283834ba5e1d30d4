//! The driver of Google's store against a double of it: s3s-fs, and what clients look at besides.

use crate::support::objects::{BUCKET, Fault, ObjectServer};
use futures::{StreamExt, TryStreamExt, stream};
use pbmbox::storage::cloud::{CloudStorage, GcsAccess, GcsSettings};
use pbmbox::storage::parts::Cut;
use pbmbox::storage::patience::Patience;
use pbmbox::storage::{Error, SizeHint, Storage, contract, http, read_all, write_all};
use std::time::Duration;

const MIB: usize = 1 << 20;
/// s3s-fs keeps files with longer names beside objects.
const NAMES: contract::Names = contract::Names { longest: 80, backslashes: true };

fn google(server: &ObjectServer, prefix: &str) -> CloudStorage {
    let patience = Patience {
        attempts: 3,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(5),
        overall: Duration::from_secs(20),
        ..Patience::default()
    };
    google_with(server, prefix, patience)
}

fn google_with(server: &ObjectServer, prefix: &str, patience: Patience) -> CloudStorage {
    let document = serde_json::json!({
        "gcs_base_url": server.endpoint(), "disable_oauth": true, "client_email": "", "private_key": "",
        "private_key_id": "",
    });
    let settings = GcsSettings {
        bucket: BUCKET.to_owned(),
        prefix: prefix.to_owned(),
        access: GcsAccess::Document(document.to_string()),
        cut: Cut { part: 5 * MIB, most: 10_000, in_flight: 20 * MIB },
        patience,
        http: http::Settings { stall: Duration::from_millis(500), ..http::Settings::default() },
    };
    CloudStorage::gcs(settings).expect("open")
}

#[tokio::test(flavor = "multi_thread")]
async fn google_keeps_the_contract() {
    let server = ObjectServer::start_as_google().await;
    contract::check_with(&google(&server, ""), NAMES).await;
    contract::check_with(&google(&server, "some/folder"), NAMES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn google_survives_what_passes() {
    let server = ObjectServer::start_as_google().await;
    let store = google(&server, "");
    let whole = contract::pattern(12 * MIB, 3);
    for fault in [Fault::error(503, "SlowDown"), Fault::Reset, Fault::Stall, Fault::LoseAnswer] {
        server.fail("UploadPart", 2, fault.clone());
        let stored = store.put("a/b", contract::pieces(whole.clone(), 100_000), SizeHint(None)).await;
        assert_eq!(stored.unwrap_or_else(|error| panic!("{fault:?}: {error}")), whole.len() as u64);
        server.fail("GetObject", 2, fault.clone());
        assert!(read_all(&store, "a/b", whole.len()).await.expect("read") == whole, "{fault:?}");
    }
    server.fail("GetObject", 1, Fault::CutAfter(1000));
    assert!(read_all(&store, "a/b", whole.len()).await.expect("read") == whole);
}

/// `chunkRetryDeadline`: parts are given up earlier than everything else.
#[tokio::test(flavor = "multi_thread")]
async fn parts_have_a_deadline_of_their_own() {
    let server = ObjectServer::start_as_google().await;
    let patience = Patience { attempts: 40, longest_pause: Duration::from_millis(100), ..Patience::default() };
    let of = |part| google_with(&server, "", Patience { part, ..patience });
    let put = async |store: &CloudStorage| {
        server.fail("UploadPart", 60, Fault::error(503, "SlowDown"));
        let before = server.count("UploadPart");
        let body = contract::pieces(contract::pattern(7 * MIB, 1), 100_000);
        let stored = store.put("a", body, SizeHint(None)).await;
        (stored.is_ok(), server.count("UploadPart") - before)
    };
    let (stored, tries) = put(&of(Some(Duration::from_millis(300)))).await;
    assert!(!stored && tries < 40, "{tries} tries");
    let (stored, tries) = put(&of(None)).await;
    assert!(stored && tries > 60, "{tries} tries");
    // Pauses that don't grow, and a first one above the longest.
    let first_pause = Duration::from_millis(300);
    for it in [Patience { growth: 1.0, ..patience }, Patience { first_pause, ..patience }] {
        let store = google_with(&server, "", it);
        server.fail("GetObject", 5, Fault::error(503, "SlowDown"));
        assert_eq!(read_all(&store, "a", 7 * MIB).await.expect("read").len(), 7 * MIB, "{it:?}");
    }
    server.fail("GetObject", 20, Fault::error(503, "SlowDown"));
    let read = read_all(&of(Some(Duration::from_millis(300))), "a", 7 * MIB).await;
    assert_eq!(read.expect("reads have more time").len(), 7 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_sorted_and_leave_nothing() {
    let server = ObjectServer::start_as_google().await;
    let store = google(&server, "");
    let body = || contract::pieces(contract::pattern(12 * MIB, 1), 100_000);
    server.fail("UploadPart", 100, Fault::error(403, "AccessDenied"));
    assert!(matches!(store.put("a", body(), SizeHint(None)).await, Err(Error::Denied { .. })));
    server.fail("UploadPart", 100, Fault::error(503, "SlowDown"));
    assert!(store.put("a", body(), SizeHint(None)).await.expect_err("refused").is_retryable());
    server.rule(|_| None);
    let broken = body().chain(stream::once(async { Err(std::io::Error::other("gone")) })).boxed();
    assert!(matches!(store.put("a", broken, SizeHint(None)).await, Err(Error::Source { .. })));
    assert_eq!(server.count("AbortMultipartUpload"), server.count("CreateMultipartUpload"));
    assert_eq!(store.list("").try_collect::<Vec<_>>().await.expect("list"), []);
    server.fail("PutObject", 100, Fault::error(400, "InvalidArgument"));
    let error = write_all(&store, "a", "x").await.expect_err("refused");
    assert!(!error.is_retryable() && error.to_string().contains("InvalidArgument"), "{error}");
}
