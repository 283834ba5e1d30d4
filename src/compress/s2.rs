//! S2 and Snappy streams: the framing is ours, blocks are `minlz`'s (docs/format.md B.2).
//!
//! A stream begins with an identifier chunk; data chunks hold one block and the masked CRC-32C of its content. S2 is
//! Snappy with larger blocks and repeat codes, so one reader takes both, which is also needed: files named `.snappy`
//! by old releases hold S2.

use super::Encoder;
use bytes::{Buf, Bytes};
use std::io::{self, BufRead};

/// Uncompressed bytes of a block that we write, as the original.
const BLOCK: usize = 1024 * 1024;
/// The largest block that a stream may hold.
const MAX_BLOCK: usize = 4 * 1024 * 1024;
const S2_STREAM: &[u8; 10] = b"\xff\x06\x00\x00S2sTwO";
const S2_IDENTIFIER: &[u8] = b"S2sTwO";
const SNAPPY_IDENTIFIER: &[u8] = b"sNaPpY";

const COMPRESSED: u8 = 0x00;
const UNCOMPRESSED: u8 = 0x01;
const IDENTIFIER: u8 = 0xff;
/// From here on chunks may be skipped.
const SKIPPABLE: u8 = 0x80;

fn masked_crc(content: &[u8]) -> u32 {
    let crc = crc32c::crc32c(content);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Writes an S2 stream.
pub(super) struct S2Encoder {
    effort: Effort,
    /// Keeps its tables from block to block.
    blocks: minlz::Encoder,
    block: Vec<u8>,
    begun: bool,
}

#[derive(Clone, Copy)]
enum Effort {
    Store,
    Default,
    Better,
    Best,
}

impl S2Encoder {
    pub fn new(level: Option<i32>) -> Self {
        let effort = match level {
            Some(1) => Effort::Store,
            Some(3) => Effort::Better,
            Some(4) => Effort::Best,
            _ => Effort::Default,
        };
        Self { effort, blocks: minlz::Encoder::new(), block: Vec::new(), begun: false }
    }

    fn begin(&mut self, out: &mut Vec<Bytes>) {
        if !self.begun {
            self.begun = true;
            out.push(Bytes::from_static(S2_STREAM));
        }
    }

    fn chunk(&mut self, content: &[u8], out: &mut Vec<Bytes>) {
        let encoded = match self.effort {
            Effort::Store => None,
            Effort::Default => Some(self.blocks.encode(content)),
            Effort::Better => Some(self.blocks.encode_better(content)),
            Effort::Best => Some(self.blocks.encode_best(content)),
        };
        // What does not shrink is stored, as the original does.
        let encoded = encoded.filter(|e| e.len() < content.len());
        let (kind, body) = match &encoded {
            Some(encoded) => (COMPRESSED, &encoded[..]),
            None => (UNCOMPRESSED, content),
        };
        let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_le_bytes();
        // Copied: the encoder's buffer is sized for the worst case, and would keep that memory on the way to the storage.
        let mut chunk = Vec::with_capacity(8 + body.len());
        chunk.extend_from_slice(&[kind, length[0], length[1], length[2]]);
        chunk.extend_from_slice(&masked_crc(content).to_le_bytes());
        chunk.extend_from_slice(body);
        out.push(chunk.into());
    }
}

impl Encoder for S2Encoder {
    fn push(&mut self, mut input: Bytes, out: &mut Vec<Bytes>) -> io::Result<()> {
        self.begin(out);
        if !self.block.is_empty() {
            let part = input.split_to(input.len().min(BLOCK - self.block.len()));
            self.block.extend_from_slice(&part);
            if self.block.len() < BLOCK {
                return Ok(());
            }
            let block = std::mem::take(&mut self.block);
            self.chunk(&block, out);
        }
        while input.len() >= BLOCK {
            self.chunk(&input.split_to(BLOCK), out);
        }
        if !input.is_empty() {
            self.block.reserve_exact(BLOCK);
            self.block.extend_from_slice(&input);
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, out: &mut Vec<Bytes>) -> io::Result<()> {
        self.begin(out);
        if !self.block.is_empty() {
            let block = std::mem::take(&mut self.block);
            self.chunk(&block, out);
        }
        Ok(())
    }
}

/// Reads an S2 or Snappy stream, block by block.
pub(super) struct S2Reader<R> {
    from: R,
    begun: bool,
    body: Vec<u8>,
}

fn corrupt(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("corrupt S2 or Snappy stream: {what}"))
}

impl<R: BufRead> S2Reader<R> {
    pub fn new(from: R) -> Self {
        Self { from, begun: false, body: Vec::new() }
    }

    /// The content of the next block; `None` at the end of a whole stream.
    pub fn next_block(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if self.from.fill_buf()?.is_empty() {
                // A stream without even its identifier is what a writer of nothing leaves; an object is never empty.
                return if self.begun { Ok(None) } else { Err(corrupt("it is empty")) };
            }
            let mut head = [0; 4];
            self.from.read_exact(&mut head).map_err(truncated)?;
            let kind = head[0];
            let length = u32::from_le_bytes([head[1], head[2], head[3], 0]) as usize;
            if !self.begun && kind != IDENTIFIER {
                return Err(corrupt("it does not begin with its identifier"));
            }
            if kind < SKIPPABLE && length > MAX_BLOCK + MAX_BLOCK / 6 + 64 {
                return Err(corrupt("a chunk is too long"));
            }
            self.body.resize(length, 0);
            self.from.read_exact(&mut self.body).map_err(truncated)?;
            match kind {
                IDENTIFIER => {
                    if self.body != S2_IDENTIFIER && self.body != SNAPPY_IDENTIFIER {
                        return Err(corrupt("unknown identifier"));
                    }
                    self.begun = true;
                }
                COMPRESSED | UNCOMPRESSED => return self.block(kind).map(Some),
                SKIPPABLE.. => {}
                _ => return Err(corrupt("unknown kind of chunk")),
            }
        }
    }

    fn block(&self, kind: u8) -> io::Result<Bytes> {
        if self.body.len() < 4 {
            return Err(corrupt("a chunk is too short"));
        }
        let mut body = self.body.as_slice();
        let crc = body.get_u32_le();
        let content = if kind == COMPRESSED {
            let (length, _) = minlz::decode_len(body).map_err(|e| corrupt(&e.to_string()))?;
            if length > MAX_BLOCK {
                return Err(corrupt("a block is too long"));
            }
            minlz::decode(body).map_err(|e| corrupt(&e.to_string()))?
        } else {
            body.to_vec()
        };
        if masked_crc(&content) != crc {
            return Err(corrupt("the checksum of a block is wrong"));
        }
        Ok(content.into())
    }
}

fn truncated(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        io::Error::new(error.kind(), "the stream is truncated")
    } else {
        error
    }
}
