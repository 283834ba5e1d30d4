//! What an upload of unknown length costs in memory, and how fast the S3 driver is when the store costs nothing.
//!
//! `cargo bench --bench objects [-- GIB...]` (1 and 10 by default) uploads and downloads that much through the driver, with
//! parts of 10 MiB, against a server in the same process that throws everything away, and prints the rate and the growth of
//! the process's peak memory, which includes the server's. All figures are of one run. `benches/sdk` compares the rate with that
//! of the AWS SDK.

#[path = "null_store.rs"]
mod null_store;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use pbmbox::storage::parts::Cut;
use pbmbox::storage::patience::Patience;
use pbmbox::storage::s3::{Encryption, Keys, S3Storage, Settings, Signature};
use pbmbox::storage::{SizeHint, Storage, http};
use std::time::Instant;

const MIB: usize = 1 << 20;

/// Peak resident memory of this process in MiB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("read the process's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").expect("reset the peak");
}

#[tokio::main]
async fn main() {
    let wanted: Vec<usize> = std::env::args().skip(1).filter_map(|it| it.parse().ok()).collect();
    let wanted = if wanted.is_empty() { vec![1, 10] } else { wanted };
    let address = null_store::serve().await;
    let store = S3Storage::open(Settings {
        kind: "s3",
        region: "us-east-1".to_owned(),
        endpoint: format!("http://{address}"),
        path_style: true,
        bucket: "b".to_owned(),
        prefix: String::new(),
        keys: Some(Keys { id: "i".to_owned(), secret: "s".to_owned(), token: None }),
        signature: Signature::Current,
        encryption: Encryption::None,
        storage_class: None,
        cut: Cut { part: 10 * MIB, most: 10_000, in_flight: 40 * MIB },
        patience: Patience::default(),
        http: http::Settings::default(),
    })
    .expect("open");
    println!("{:>5}  {:>12}  {:>12}  {:>14}  {:>14}", "GiB", "up MB/s", "down MB/s", "up peak MiB", "down peak MiB");
    for gib in wanted {
        let pieces = gib * 1024;
        let piece = Bytes::from(vec![7; MIB]);
        forget_peak();
        let before = peak();
        let begun = Instant::now();
        let body = stream::iter((0..pieces).map(move |_| Ok(piece.clone()))).boxed();
        let stored = store.put("x", body, SizeHint(None)).await.expect("put");
        let (up, up_peak) = (begun.elapsed(), peak() - before);
        assert_eq!(stored, (pieces * MIB) as u64);
        forget_peak();
        let before = peak();
        let begun = Instant::now();
        let read = store.get("x", None).await.expect("get");
        let read = read.try_fold(0_u64, async |sum, piece| Ok(sum + piece.len() as u64)).await.expect("read");
        let (down, down_peak) = (begun.elapsed(), peak() - before);
        assert_eq!(read, stored);
        let rate = |took: std::time::Duration| stored as f64 / 1e6 / took.as_secs_f64();
        println!("{gib:>5}  {:>12.0}  {:>12.0}  {up_peak:>14.0}  {down_peak:>14.0}", rate(up), rate(down));
    }
}
