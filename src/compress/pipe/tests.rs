use super::*;
use crate::storage::body;
use futures::TryStreamExt;

fn data() -> Vec<(&'static str, Vec<u8>)> {
    let text: Vec<u8> =
        (0..300_000u32).flat_map(|i| format!("order {} of user {}\n", i, i % 977).into_bytes()).collect();
    let mut state = 88_172_645_463_325_252_u64;
    let noise: Vec<u8> = (0..3_000_000)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect();
    let long = vec![7; 20 << 20];
    vec![("one byte", vec![1]), ("text", text), ("noise", noise), ("long", long)]
}

fn chunked(data: &[u8], size: usize) -> ByteStream {
    let chunks: Vec<io::Result<Bytes>> = data.chunks(size).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    futures::stream::iter(chunks).boxed()
}

async fn collect(stream: ByteStream) -> io::Result<Vec<u8>> {
    let parts: Vec<Bytes> = stream.try_collect().await?;
    Ok(parts.concat())
}

#[tokio::test]
async fn every_codec_and_level_round_trips() {
    for codec in Compression::ALL {
        let levels: &[Option<i32>] = match codec {
            Compression::S2 => &[None, Some(1), Some(2), Some(3), Some(4)],
            Compression::Zstd => &[None, Some(1), Some(6), Some(10)],
            Compression::Gzip | Compression::Pgzip => &[None, Some(-2), Some(-1), Some(0), Some(9)],
            _ => &[None],
        };
        for &level in levels {
            for (name, data) in data() {
                if name == "long" && level.is_some() {
                    continue;
                }
                for size in [data.len().max(1), 70_001] {
                    let encoded =
                        collect(encode(chunked(&data, size), codec, level).expect("level")).await.expect("encode");
                    let decoded = collect(decode(chunked(&encoded, 9_999), codec)).await.expect("decode");
                    assert!(decoded == data, "{codec} level {level:?} on {name} in chunks of {size}");
                }
            }
        }
    }
}

#[tokio::test]
async fn truncated_and_flipped_streams_are_errors() {
    let (_, data) = data().swap_remove(1);
    for codec in Compression::ALL.into_iter().filter(|c| *c != Compression::None) {
        let encoded = collect(encode(chunked(&data, 100_000), codec, None).expect("level")).await.expect("encode");
        for cut in [1, 5, encoded.len() / 2] {
            let short = &encoded[..encoded.len() - cut];
            assert!(
                collect(decode(chunked(short, 10_000), codec)).await.is_err(),
                "{codec} without its last {cut} bytes"
            );
        }
        for at in [2, encoded.len() / 2, encoded.len() - 2] {
            let mut flipped = encoded.clone();
            flipped[at] ^= 0x10;
            let got = collect(decode(chunked(&flipped, 10_000), codec)).await;
            assert!(got.is_err(), "{codec} with a flipped bit in byte {at} of {}", encoded.len());
        }
        let mut longer = encoded.clone();
        longer.extend_from_slice(b"garbage behind the end");
        assert!(collect(decode(chunked(&longer, 10_000), codec)).await.is_err(), "{codec} with garbage at its end");
    }
}

#[tokio::test]
async fn a_damaged_lz4_stream_is_named() {
    let mut encoded = collect(encode(body("x"), Compression::Lz4, None).expect("level")).await.expect("encode");
    encoded[4] = 0x24;
    let error = collect(decode(chunked(&encoded, 10_000), Compression::Lz4)).await.expect_err("another version");
    assert_eq!(error.to_string(), "corrupt LZ4 stream: UnsupportedVersion(0)");
}

#[tokio::test]
async fn heads_are_what_the_original_reads() {
    let head = async |codec| {
        let all =
            collect(encode(chunked(&[5; 5_000_000], 100_000), codec, None).expect("level")).await.expect("encode");
        all[..16].to_vec()
    };
    assert_eq!(head(Compression::Gzip).await[..10], *b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff");
    assert_eq!(head(Compression::Snappy).await[..10], *b"\xff\x06\x00\x00sNaPpY");
    assert_eq!(head(Compression::S2).await[..11], *b"\xff\x06\x00\x00S2sTwO\x00");
    // Version 1, independent blocks, content checksum, 4 MiB blocks.
    assert_eq!(head(Compression::Lz4).await[..6], *b"\x04\x22\x4d\x18\x64\x70");
    let zstd = head(Compression::Zstd).await;
    assert_eq!(zstd[..4], *b"\x28\xb5\x2f\xfd");
    assert_eq!(zstd[4] & 0b0000_0100, 0b100, "checksum flag");
    let window = 10 + (zstd[5] >> 3);
    assert!(window <= 23, "window of 2^{window}");
}

#[tokio::test]
async fn gzip_levels_are_checked() {
    assert!(encode(body("x"), Compression::Gzip, Some(10)).is_err());
    assert!(encode(body("x"), Compression::Pgzip, Some(-3)).is_err());
    assert!(encode(body("x"), Compression::Zstd, Some(99)).is_ok());
}

#[tokio::test]
async fn an_error_of_the_source_arrives() {
    for codec in Compression::ALL {
        let failing = || {
            futures::stream::iter([Ok(Bytes::from_static(b"some")), Err(io::Error::other("the node is gone"))]).boxed()
        };
        let error = collect(encode(failing(), codec, None).expect("level")).await.expect_err("encode");
        assert!(error.to_string().contains("the node is gone"), "{codec}: {error}");
    }
}

#[tokio::test]
async fn several_streams_in_a_row_are_one() {
    for codec in [Compression::Gzip, Compression::Lz4, Compression::S2, Compression::Zstd, Compression::Snappy] {
        let mut both = collect(encode(body("one "), codec, None).expect("level")).await.expect("encode");
        both.extend(collect(encode(body("two"), codec, None).expect("level")).await.expect("encode"));
        assert_eq!(collect(decode(chunked(&both, 3), codec)).await.expect("decode"), b"one two", "{codec}");
    }
}
