//! Runs codecs on blocking threads between two byte streams.

use super::{encode::encoder, s2::S2Reader};
use crate::model::compression::Compression;
use crate::storage::ByteStream;
use bytes::{Buf, Bytes};
use futures::{StreamExt, TryStreamExt};
use std::io::{self, BufRead, Read};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Chunks waiting on either side of a codec's thread.
const WAITING: usize = 2;
/// Input chunks are cut to this size, so that what waits is bounded whatever a source hands over.
const LARGEST: usize = 1024 * 1024;
/// Decoded data is handed on in pieces of this size.
const PIECE: usize = 256 * 1024;

/// What goes through a channel. That a channel is closed does not mean that everything went through it: only
/// [`Item::End`] does, so that a task that dies can't make a stream look whole.
enum Item {
    Data(Bytes),
    Failed(io::Error),
    End,
}

fn died() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "a part of the pipeline ended unexpectedly")
}

/// Compresses a stream. An error of `source` is the last item of the result. Dropping the result ends the thread.
///
/// What comes out shares no memory with `source`, so that holding on to it holds on to nothing else.
///
/// # Errors
/// A level that the codec does not have, at once.
pub fn encode(source: ByteStream, codec: Compression, level: Option<i32>) -> io::Result<ByteStream> {
    let mut encoder = encoder(codec, level)?;
    if codec == Compression::None {
        // Copied, as every codec does: storages keep pieces for as long as a whole upload takes, and what a source gives may
        // be a small part of a large answer, whose memory is counted until its last part is dropped.
        return Ok(source.map_ok(|piece| Bytes::copy_from_slice(&piece)).boxed());
    }
    Ok(run(source, move |mut input, output| {
        let mut out = Vec::new();
        while let Some(chunk) = input.next_chunk()? {
            encoder.push(chunk, &mut out)?;
            if !hand_on(&mut out, output) {
                return Ok(());
            }
        }
        encoder.finish(&mut out)?;
        hand_on(&mut out, output);
        Ok(())
    }))
}

/// Decompresses a stream. Errors of `source` and of the format are the last item of the result.
#[must_use]
pub fn decode(source: ByteStream, codec: Compression) -> ByteStream {
    match codec {
        Compression::None => source,
        Compression::Gzip | Compression::Pgzip => {
            run(source, |input, output| copy(flate2::bufread::MultiGzDecoder::new(input), output))
        }
        Compression::Snappy | Compression::S2 => run(source, |input, output| {
            let mut reader = S2Reader::new(input);
            while let Some(block) = reader.next_block()? {
                if output.blocking_send(Item::Data(block)).is_err() {
                    break;
                }
            }
            Ok(())
        }),
        Compression::Lz4 => run(source, |mut input, output| {
            // One reader per frame: it stops at the end mark, and several frames in a row are one stream.
            loop {
                let mut tail = Tail { from: &mut input, flags: None, read: 0, last: [0xff; 8] };
                let decoded = copy_hashed(&mut lz4_flex::frame::FrameDecoder::new(&mut tail), output);
                let checksum = decoded.map_err(with_words)?;
                tail.check_end(checksum)?;
                if input.fill_buf()?.is_empty() {
                    return Ok(());
                }
            }
        }),
        Compression::Zstd => run(source, |input, output| {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(29)?;
            copy(decoder, output)
        }),
    }
}

fn hand_on(out: &mut Vec<Bytes>, output: &mpsc::Sender<Item>) -> bool {
    out.drain(..).all(|piece| piece.is_empty() || output.blocking_send(Item::Data(piece)).is_ok())
}

fn copy(mut from: impl Read, output: &mpsc::Sender<Item>) -> io::Result<()> {
    copy_all(&mut from, output)
}

/// Stops at the first end that `from` reports: an LZ4 decoder would go on with the next frame if it were asked again.
fn copy_all(from: &mut impl Read, output: &mpsc::Sender<Item>) -> io::Result<()> {
    let mut ended = false;
    while !ended {
        let mut piece = vec![0; PIECE];
        let mut filled = 0;
        while filled < PIECE && !ended {
            match from.read(&mut piece[filled..]) {
                Ok(0) => ended = true,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        piece.truncate(filled);
        if filled > 0 && output.blocking_send(Item::Data(piece.into())).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// `work` gets the source as a blocking reader and sends what it makes.
fn run(
    mut source: ByteStream,
    work: impl FnOnce(Input, &mpsc::Sender<Item>) -> io::Result<()> + Send + 'static,
) -> ByteStream {
    let (give, input) = mpsc::channel::<Item>(WAITING);
    let (output, take) = mpsc::channel::<Item>(WAITING);
    // Ends when the thread has dropped its end, or with the result.
    let feeder = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(chunk) = source.next().await {
            match chunk {
                Ok(mut chunk) => {
                    while !chunk.is_empty() {
                        let part = chunk.split_to(chunk.len().min(LARGEST));
                        if give.send(Item::Data(part)).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => {
                    let _ = give.send(Item::Failed(error)).await;
                    return;
                }
            }
        }
        // A reader that has gone needs no end.
        let _ = give.send(Item::End).await;
    }));
    tokio::task::spawn_blocking(move || {
        let last = match work(Input { from: input, chunk: Bytes::new(), ended: false }, &output) {
            Ok(()) => Item::End,
            Err(error) => Item::Failed(error),
        };
        // Nobody listens any more: nothing to tell.
        let _ = output.blocking_send(last);
    });
    let state = Some((take, feeder));
    futures::stream::unfold(state, |state| async move {
        let (mut take, feeder) = state?;
        match take.recv().await {
            Some(Item::Data(bytes)) => Some((Ok(bytes), Some((take, feeder)))),
            Some(Item::Failed(error)) => Some((Err(error), None)),
            Some(Item::End) => None,
            None => Some((Err(died()), None)),
        }
    })
    // Readers may look once more after the end.
    .fuse()
    .boxed()
}

/// The source's chunks, for a blocking thread.
struct Input {
    from: mpsc::Receiver<Item>,
    chunk: Bytes,
    ended: bool,
}

impl Input {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        match self.from.blocking_recv() {
            Some(Item::Data(bytes)) => Ok(Some(bytes)),
            Some(Item::Failed(error)) => Err(error),
            Some(Item::End) => {
                self.ended = true;
                Ok(None)
            }
            None => Err(died()),
        }
    }
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(into.len());
        into[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.chunk.is_empty() {
            match self.next_chunk()? {
                Some(chunk) => self.chunk = chunk,
                None => break,
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, n: usize) {
        self.chunk.advance(n);
    }
}

/// As [`copy_all`]; gives the checksum that an LZ4 frame has of its content.
fn copy_hashed(from: &mut impl Read, output: &mpsc::Sender<Item>) -> io::Result<u32> {
    struct Hashed<'a, R>(&'a mut R, twox_hash::XxHash32);
    impl<R: Read> Read for Hashed<'_, R> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let n = self.0.read(into)?;
            std::hash::Hasher::write(&mut self.1, &into[..n]);
            Ok(n)
        }
    }
    let mut hashed = Hashed(from, twox_hash::XxHash32::with_seed(0));
    copy_all(&mut hashed, output)?;
    Ok(hashed.1.finish_32())
}

/// Errors of the LZ4 library are names of its own; errors of the source stay as they are.
fn with_words(error: io::Error) -> io::Error {
    if error.get_ref().is_some_and(|inner| inner.is::<lz4_flex::frame::Error>()) {
        return io::Error::new(error.kind(), format!("corrupt LZ4 stream: {error}"));
    }
    error
}

/// Watches a frame being read: the LZ4 library takes the end of its input for the end of the frame, also in front of
/// the frame's end mark and checksum.
struct Tail<R> {
    from: R,
    /// The frame descriptor's first byte.
    flags: Option<u8>,
    read: u64,
    last: [u8; 8],
}

/// Where the flags stand in a frame, and the flag of a checksum at its end.
const FLAGS_AT: u64 = 4;
const CONTENT_CHECKSUM: u8 = 0b100;

impl<R: Read> Read for Tail<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(into)?;
        if self.flags.is_none() && self.read + n as u64 > FLAGS_AT {
            self.flags = usize::try_from(FLAGS_AT - self.read).ok().and_then(|at| into.get(at).copied());
        }
        self.read += n as u64;
        let kept = n.min(8);
        self.last.copy_within(kept.., 0);
        self.last[8 - kept..].copy_from_slice(&into[n - kept..n]);
        Ok(n)
    }
}

impl<R> Tail<R> {
    /// A frame ends with four zero bytes, and with a checksum of its content behind them if its flags say so.
    fn check_end(&self, checksum: u32) -> io::Result<()> {
        let whole = if self.flags.is_some_and(|flags| flags & CONTENT_CHECKSUM != 0) {
            self.last[..4] == [0; 4] && self.last[4..] == checksum.to_le_bytes()
        } else {
            self.last[4..] == [0; 4]
        };
        if whole {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the LZ4 stream is truncated"))
    }
}

#[cfg(test)]
mod tests;
