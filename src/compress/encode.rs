//! Push encoders: chunks in, compressed chunks out.

use super::s2;
use crate::model::compression::Compression;
use bytes::Bytes;
use flate2::write::GzEncoder;
use std::io::{self, Write};

/// Output is handed on in pieces of about this size.
const PIECE: usize = 256 * 1024;
/// Input of one gzip member written by pgzip, as the original's block size.
const PGZIP_BLOCK: usize = 1024 * 1024;

/// One stream being compressed.
pub trait Encoder: Send {
    /// Takes `input`; appends what is ready to `out`.
    fn push(&mut self, input: Bytes, out: &mut Vec<Bytes>) -> io::Result<()>;
    /// Ends the stream; appends the rest to `out`.
    fn finish(self: Box<Self>, out: &mut Vec<Bytes>) -> io::Result<()>;
}

/// Refuses levels that the codec does not have. Only gzip and pgzip have a fixed range; others take the nearest.
pub fn check_level(codec: Compression, level: Option<i32>) -> Result<(), String> {
    match (codec, level) {
        (Compression::Gzip | Compression::Pgzip, Some(level)) if !(-2..=9).contains(&level) => {
            Err(format!("{codec} has no level {level}; use -2 (Huffman only) to 9, or -1 for the default"))
        }
        _ => Ok(()),
    }
}

/// What a level that the codec does not have means, for whoever asked for it.
#[must_use]
pub fn level_remark(codec: Compression, level: Option<i32>) -> Option<String> {
    let level = level?;
    let levels = match codec {
        Compression::None | Compression::Snappy | Compression::Lz4 => {
            return Some(format!("{codec} has no levels, so level {level} changes nothing"));
        }
        Compression::S2 => 1..=4,
        Compression::Zstd => 1..=22,
        Compression::Gzip | Compression::Pgzip => -2..=9,
    };
    let meant = if codec == Compression::S2 { "its default is taken" } else { "the nearest is taken" };
    let (first, last) = (levels.start(), levels.end());
    (!levels.contains(&level)).then(|| format!("{codec} has no level {level} ({first} to {last}), so {meant}"))
}

/// An encoder for one object. `level` as in docs/format.md B.3; `None` is the codec's default.
///
/// # Errors
/// A level that the codec does not have.
pub fn encoder(codec: Compression, level: Option<i32>) -> io::Result<Box<dyn Encoder>> {
    check_level(codec, level).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    Ok(match codec {
        Compression::None => Box::new(Pass),
        Compression::Gzip => {
            Box::new(ByWrite { inner: GzEncoder::new(Vec::new(), gzip_level(level)), end: GzEncoder::finish })
        }
        Compression::Pgzip => Box::new(Pgzip { level: gzip_level(level), block: Vec::new() }),
        Compression::Snappy => Box::new(ByWrite { inner: snap::write::FrameEncoder::new(Vec::new()), end: snappy_end }),
        Compression::Lz4 => Box::new(ByWrite { inner: lz4(), end: lz4_end }),
        Compression::S2 => Box::new(s2::S2Encoder::new(level)),
        Compression::Zstd => Box::new(ByWrite { inner: zstd(level)?, end: zstd::stream::write::Encoder::finish }),
    })
}

/// No compression.
#[derive(Debug)]
pub struct Pass;

impl Encoder for Pass {
    fn push(&mut self, input: Bytes, out: &mut Vec<Bytes>) -> io::Result<()> {
        out.push(input);
        Ok(())
    }

    fn finish(self: Box<Self>, _: &mut Vec<Bytes>) -> io::Result<()> {
        Ok(())
    }
}

fn gzip_level(level: Option<i32>) -> flate2::Compression {
    match level.unwrap_or(-1) {
        // Huffman coding without matches is not to be had from this library; its fastest level is the nearest.
        -2 => flate2::Compression::fast(),
        level => u32::try_from(level).map_or_else(|_| flate2::Compression::default(), flate2::Compression::new),
    }
}

/// Blocks must be independent: the original's reader refuses linked ones.
fn lz4() -> lz4_flex::frame::FrameEncoder<Vec<u8>> {
    let info = lz4_flex::frame::FrameInfo::new()
        .block_mode(lz4_flex::frame::BlockMode::Independent)
        .block_size(lz4_flex::frame::BlockSize::Max4MB)
        .content_checksum(true);
    lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new())
}

fn lz4_end(encoder: lz4_flex::frame::FrameEncoder<Vec<u8>>) -> io::Result<Vec<u8>> {
    encoder.finish().map_err(io::Error::other)
}

fn snappy_end(encoder: snap::write::FrameEncoder<Vec<u8>>) -> io::Result<Vec<u8>> {
    encoder.into_inner().map_err(|e| io::Error::new(e.error().kind(), e.error().to_string()))
}

/// The original knows four speeds. Windows at these levels are 4 MiB at most, far below the 512 MiB its reader takes.
fn zstd(level: Option<i32>) -> io::Result<zstd::stream::write::Encoder<'static, Vec<u8>>> {
    let level = match level {
        None | Some(3..=5) => 3,
        Some(i32::MIN..=2) => 1,
        Some(6..=9) => 6,
        Some(10..) => 9,
    };
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}

/// A library encoder that writes into a buffer of ours.
struct ByWrite<W> {
    inner: W,
    end: fn(W) -> io::Result<Vec<u8>>,
}

/// Library encoders that let us at the buffer they write into.
trait HasBuffer: Write + Send {
    fn buffer(&mut self) -> &mut Vec<u8>;
}

impl HasBuffer for GzEncoder<Vec<u8>> {
    fn buffer(&mut self) -> &mut Vec<u8> {
        self.get_mut()
    }
}

impl HasBuffer for snap::write::FrameEncoder<Vec<u8>> {
    fn buffer(&mut self) -> &mut Vec<u8> {
        self.get_mut()
    }
}

impl HasBuffer for lz4_flex::frame::FrameEncoder<Vec<u8>> {
    fn buffer(&mut self) -> &mut Vec<u8> {
        self.get_mut()
    }
}

impl HasBuffer for zstd::stream::write::Encoder<'static, Vec<u8>> {
    fn buffer(&mut self) -> &mut Vec<u8> {
        self.get_mut()
    }
}

impl<W: HasBuffer> Encoder for ByWrite<W> {
    fn push(&mut self, input: Bytes, out: &mut Vec<Bytes>) -> io::Result<()> {
        self.inner.write_all(&input)?;
        let buffer = self.inner.buffer();
        if buffer.len() >= PIECE {
            let full = std::mem::replace(buffer, Vec::with_capacity(PIECE + PIECE / 4));
            out.push(full.into());
        }
        Ok(())
    }

    fn finish(self: Box<Self>, out: &mut Vec<Bytes>) -> io::Result<()> {
        out.push((self.end)(self.inner)?.into());
        Ok(())
    }
}

/// gzip whose members hold 1 MiB of input each, so that readers can work in parallel. Any gzip reader takes them as one
/// stream. Blocks are compressed by the stream's own thread: collections already run in parallel.
struct Pgzip {
    level: flate2::Compression,
    block: Vec<u8>,
}

impl Pgzip {
    fn member(&mut self, out: &mut Vec<Bytes>) -> io::Result<()> {
        let mut encoder = GzEncoder::new(Vec::with_capacity(PGZIP_BLOCK / 3), self.level);
        encoder.write_all(&self.block)?;
        out.push(encoder.finish()?.into());
        self.block.clear();
        Ok(())
    }
}

impl Encoder for Pgzip {
    fn push(&mut self, mut input: Bytes, out: &mut Vec<Bytes>) -> io::Result<()> {
        while !input.is_empty() {
            let part = input.split_to(input.len().min(PGZIP_BLOCK - self.block.len()));
            self.block.extend_from_slice(&part);
            if self.block.len() == PGZIP_BLOCK {
                self.member(out)?;
            }
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, out: &mut Vec<Bytes>) -> io::Result<()> {
        self.member(out)
    }
}
