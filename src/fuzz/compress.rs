//! Compressed streams.

use super::{pieces, wait, words};
use crate::{
    compress::{decode, encode},
    model::compression::Compression,
    storage::ByteStream,
};
use futures::TryStreamExt as _;

/// Content after this many bytes is not read, because a few compressed bytes can contain very much.
const ENOUGH: usize = 4 << 20;
/// The largest piece that a decoder returns: a block of an S2 stream.
const LARGEST_PIECE: usize = 4 << 20;

/// The first byte chooses the codec.
pub fn check(input: &[u8]) {
    let Some((codec, stream)) = codec(input) else { return };
    let whole = decoded(stream, stream.len(), codec);
    let step = 1 + stream.len() / 7;
    let stepwise = decoded(stream, step, codec);
    match whole {
        Read::All(content) => {
            assert!(stepwise == Read::All(content.clone()), "{codec}: other content in pieces of {step}");
            compressed_again(codec, &content);
        }
        Read::Part => assert!(stepwise == Read::Part, "{codec}: an end in pieces of {step}"),
        Read::Failed(why) => {
            // The library compares a frame's content with the size in its header only if it gets the frame at once. The
            // content itself has a checksum, and is compared with what the backup's metadata say.
            let size_is_wrong = codec == Compression::Zstd && matches!(stepwise, Read::All(_));
            let is_refused = matches!(stepwise, Read::Failed(_));
            assert!(is_refused || size_is_wrong, "{codec}: accepted in pieces of {step}: {why}");
        }
    }
    same_as_the_library(codec, stream);
}

pub(super) fn codec(input: &[u8]) -> Option<(Compression, &[u8])> {
    let (first, stream) = input.split_first()?;
    Some((Compression::ALL[usize::from(*first) % Compression::ALL.len()], stream))
}

#[derive(Debug, PartialEq)]
enum Read {
    All(Vec<u8>),
    Failed(String),
    /// The stream is longer than [`ENOUGH`].
    Part,
}

fn decoded(stream: &[u8], step: usize, codec: Compression) -> Read {
    wait(async { read(decode(pieces(stream, step), codec)).await })
}

async fn read(mut stream: ByteStream) -> Read {
    let mut content = Vec::new();
    loop {
        match stream.try_next().await {
            Ok(Some(piece)) => {
                assert!(!piece.is_empty() && piece.len() <= LARGEST_PIECE.max(content.len() + 1), "{}", piece.len());
                content.extend_from_slice(&piece);
                if content.len() > ENOUGH {
                    return Read::Part;
                }
            }
            Ok(None) => return Read::All(content),
            Err(error) => return Read::Failed(words(error)),
        }
    }
}

fn compressed_again(codec: Compression, content: &[u8]) {
    let step = 1 + content.len() / 3;
    let encoded = wait(async { read(encode(pieces(content, step), codec, None).expect("the usual level")).await });
    let Read::All(encoded) = encoded else { panic!("{codec}: not compressed") };
    let again = decoded(&encoded, 1 + encoded.len() / 3, codec);
    assert!(again == Read::All(content.to_vec()), "{codec}: other content");
    if codec != Compression::None {
        for cut in [0, encoded.len() / 2, encoded.len() - 1] {
            let part = decoded(&encoded[..cut], ENOUGH, codec);
            // These streams have no end mark, so a cut between two blocks is only visible in the size of the content.
            let between_blocks = cut > 0 && matches!(codec, Compression::S2 | Compression::Snappy);
            let is_beginning = matches!(&part, Read::All(part) if between_blocks && content.starts_with(part));
            assert!(matches!(part, Read::Failed(_)) || is_beginning, "{codec}: cut at {cut}");
        }
    }
}

/// Our reader of Snappy streams and the library's reader give the same result.
fn same_as_the_library(codec: Compression, stream: &[u8]) {
    if codec != Compression::Snappy {
        return;
    }
    let mut content = Vec::new();
    let from = snap::read::FrameDecoder::new(stream);
    if stream.is_empty()
        || std::io::Read::read_to_end(&mut std::io::Read::take(from, ENOUGH as u64), &mut content).is_err()
    {
        return;
    }
    match decoded(stream, ENOUGH, codec) {
        Read::All(ours) => assert!(ours == content, "other content than the library's"),
        Read::Part => {}
        Read::Failed(why) => panic!("the library reads it: {why}"),
    }
}
