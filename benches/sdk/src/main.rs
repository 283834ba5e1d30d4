//! How fast the S3 driver is beside the AWS SDK for Rust: the same server, the same bytes, one run.
//!
//! `cargo run --release --manifest-path benches/sdk/Cargo.toml [-- GIB]` sends and reads 4 GiB (by default) in parts and
//! ranges, four at a time, three times with each client in turn, and prints the medians and their ratio. The server is in this
//! process and costs next to nothing; `S3_ENDPOINT`, `S3_KEY`, `S3_SECRET` and `S3_BUCKET` name another one.
//!
//! Two settings of the SDK: as it is by default (it signs the content and adds a checksum), and without either, which sends
//! what nobody verifies. Ours always signs the SHA-256 of the content.

#[path = "../../null_store.rs"]
mod null_store;

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation},
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use pbmbox::storage::{
    SizeHint, Storage, http,
    parts::Cut,
    patience::Patience,
    s3::{Encryption, Keys, S3Storage, Settings},
};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const PART: usize = 10 * MIB;
const RANGE: usize = 8 * MIB;
const AT_ONCE: usize = 4;

struct Place {
    endpoint: String,
    key: String,
    secret: String,
    bucket: String,
}

fn ours(at: &Place) -> S3Storage {
    S3Storage::open(Settings {
        kind: "s3",
        region: "us-east-1".to_owned(),
        endpoint: at.endpoint.clone(),
        path_style: true,
        bucket: at.bucket.clone(),
        prefix: String::new(),
        keys: Some(Keys { id: at.key.clone(), secret: at.secret.clone(), token: None }),
        encryption: Encryption::None,
        storage_class: None,
        cut: Cut { part: PART, most: 10_000, in_flight: AT_ONCE * PART },
        patience: Patience::default(),
        http: http::Settings::default(),
    })
    .expect("open")
}

fn sdk(at: &Place, checked: bool) -> Client {
    let (request, response) = if checked {
        (RequestChecksumCalculation::WhenSupported, ResponseChecksumValidation::WhenSupported)
    } else {
        (RequestChecksumCalculation::WhenRequired, ResponseChecksumValidation::WhenRequired)
    };
    let config = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(&at.endpoint)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(&at.key, &at.secret, None, None, "fixed"))
        .force_path_style(true)
        .request_checksum_calculation(request)
        .response_checksum_validation(response);
    Client::from_conf(config.build())
}

async fn sdk_up(client: &Client, bucket: &str, content: &Bytes, total: usize, signed: bool) {
    let begun = client.create_multipart_upload().bucket(bucket).key("sdk").send().await.expect("create");
    let id = begun.upload_id().expect("an id").to_owned();
    let parts = (0..total / PART).map(|number| {
        let (client, id, content) = (client.clone(), id.clone(), content.clone());
        async move {
            let number = i32::try_from(number + 1).expect("few");
            let request = client.upload_part().bucket(bucket).key("sdk").upload_id(id).part_number(number);
            let request = request.body(ByteStream::from(content)).customize();
            let sent = if signed { request.send().await } else { request.disable_payload_signing().send().await };
            let tag = sent.expect("a part").e_tag().map(str::to_owned);
            CompletedPart::builder().set_e_tag(tag).part_number(number).build()
        }
    });
    let parts: Vec<CompletedPart> = stream::iter(parts).buffered(AT_ONCE).collect().await;
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let done = client.complete_multipart_upload().bucket(bucket).key("sdk").upload_id(id).multipart_upload(parts);
    done.send().await.expect("complete");
}

/// Ranges, in order, as whoever decompresses needs them.
async fn sdk_down(client: &Client, bucket: &str, total: usize) -> usize {
    let ranges = (0..total.div_ceil(RANGE)).map(|number| {
        let (from, to) = (number * RANGE, ((number + 1) * RANGE).min(total) - 1);
        let range = format!("bytes={from}-{to}");
        async move {
            let got = client.get_object().bucket(bucket).key("sdk").range(range).send().await.expect("a range");
            got.body.collect().await.expect("its bytes").into_bytes().len()
        }
    });
    stream::iter(ranges).buffered(AT_ONCE).fold(0, async |sum, size| sum + size).await
}

async fn timed<T>(work: impl Future<Output = T>) -> Duration {
    let begun = Instant::now();
    work.await;
    begun.elapsed()
}

#[tokio::main]
async fn main() {
    let gib: usize = std::env::args().nth(1).map_or(4, |it| it.parse().expect("GiB"));
    let set = |name: &str| std::env::var(name).ok();
    let at = Place {
        endpoint: match set("S3_ENDPOINT") {
            Some(endpoint) => endpoint,
            None => format!("http://{}", null_store::serve().await),
        },
        key: set("S3_KEY").unwrap_or_else(|| "i".to_owned()),
        secret: set("S3_SECRET").unwrap_or_else(|| "s".to_owned()),
        bucket: set("S3_BUCKET").unwrap_or_else(|| "b".to_owned()),
    };
    let total = gib * 1024 * MIB / PART * PART;
    // No two pieces alike, for stores that keep equal ones once.
    let content: Bytes = (0..PART as u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
    let store = ours(&at);
    let mut clients = vec![("sdk, by default", sdk(&at, true), true), ("sdk, unsigned", sdk(&at, false), false)];
    if set("S3_ENDPOINT").is_some() {
        clients.truncate(1);
    }
    let mut took: Vec<[Vec<Duration>; 2]> = vec![Default::default(); clients.len() + 1];
    for _ in 0..3 {
        let piece = content.clone();
        let body = stream::iter((0..total / PART).map(move |_| Ok(piece.clone()))).boxed();
        took[0][0].push(timed(async { store.put("ours", body, SizeHint(None)).await.expect("put") }).await);
        took[0][1].push(
            timed(async {
                let read = store.get("ours", None).await.expect("get");
                let size = read.try_fold(0, async |sum, piece: Bytes| Ok(sum + piece.len())).await.expect("read");
                assert_eq!(size, total);
            })
            .await,
        );
        for (number, (_, client, signed)) in clients.iter().enumerate() {
            took[number + 1][0].push(timed(sdk_up(client, &at.bucket, &content, total, *signed)).await);
            took[number + 1][1]
                .push(timed(async { assert_eq!(sdk_down(client, &at.bucket, total).await, total) }).await);
        }
    }
    let rate = |times: &mut Vec<Duration>| {
        times.sort();
        total as f64 / 1e6 / times[times.len() / 2].as_secs_f64()
    };
    println!("{gib} GiB to {}, parts of 10 MiB, ranges of 8 MiB, {AT_ONCE} at a time, medians of 3", at.endpoint);
    println!("{:<18} {:>10} {:>10} {:>10} {:>10}", "", "up MB/s", "down MB/s", "ours/up", "ours/down");
    let [up, down] = &mut took[0];
    let (our_up, our_down) = (rate(up), rate(down));
    println!("{:<18} {our_up:>10.0} {our_down:>10.0}", "ours");
    for ((name, ..), [up, down]) in clients.iter().zip(&mut took[1..]) {
        let (up, down) = (rate(up), rate(down));
        println!("{name:<18} {up:>10.0} {down:>10.0} {:>10.2} {:>10.2}", our_up / up, our_down / down);
    }
}
