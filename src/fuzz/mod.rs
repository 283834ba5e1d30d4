//! Properties that must hold for any bytes from outside. For each kind of input there is one function, which panics if
//! a property does not hold.
//!
//! The module exists only in unit tests and in the programs of cargo-fuzz. A unit test calls every function with the
//! files in `fuzz/corpus` and with changed copies of them. The programs in `fuzz/fuzz_targets` call the same functions
//! with inputs that libFuzzer generates. `fuzz/README.md` describes how to run them.
//!
//! # What every function checks
//! - If an input is accepted, writing it again gives the same bytes, or other bytes with the same meaning.
//! - The result does not depend on the pieces in which a stream arrives.
//! - Memory stays within limits that do not depend on the input: the programs count it, and the unit test runs with a
//!   limit.
//! - If an input is refused, the error has an explanation and, where there is one, the place.

mod archive;
mod backup_json;
mod compress;
mod config;
mod extended_json;
mod layout;
mod legacy;
mod metadata;
mod names;
mod oplog;
mod raw;
#[cfg(test)]
mod tests;

use crate::storage::ByteStream;
use bytes::Bytes;
use futures::StreamExt as _;
use std::{fmt, future::Future, io};

/// One kind of input.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of the program, and of the folder with its corpus.
    pub name: &'static str,
    /// Panics if a property does not hold.
    pub check: fn(&[u8]),
}

pub const TARGETS: &[Target] = &[
    Target { name: "archive", check: archive::check },
    Target { name: "backup_json", check: backup_json::check },
    Target { name: "compress", check: compress::check },
    Target { name: "config", check: config::check },
    Target { name: "extended_json", check: extended_json::check },
    Target { name: "layout", check: layout::check },
    Target { name: "legacy", check: legacy::check },
    Target { name: "metadata", check: metadata::check },
    Target { name: "names", check: names::check },
    Target { name: "oplog", check: oplog::check },
    Target { name: "raw", check: raw::check },
];

/// Checks one input.
///
/// # Panics
/// A property does not hold, or no target has this name.
pub fn run(target: &str, input: &[u8]) {
    let found = TARGETS.iter().find(|it| it.name == target);
    (found.unwrap_or_else(|| panic!("there is no target '{target}'")).check)(input);
}

/// Runs a future to its end.
fn wait<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// Returns a stream of the bytes in pieces of this size.
fn pieces(bytes: &[u8], size: usize) -> ByteStream {
    let pieces: Vec<io::Result<Bytes>> =
        bytes.chunks(size.max(1)).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    futures::stream::iter(pieces).boxed()
}

/// Checks that an error explains something, and returns its text.
fn words(error: impl fmt::Display) -> String {
    let text = format!("{error:#}");
    assert!(text.split_whitespace().count() >= 2, "an error without words: '{text}'");
    // The pipeline reports this when a codec panics.
    assert!(!text.contains("ended unexpectedly"), "{text}");
    text
}

/// Splits the input at `\n--\n`.
fn two_parts(input: &[u8]) -> Option<(&[u8], &[u8])> {
    const BETWEEN: &[u8] = b"\n--\n";
    let at = input.windows(BETWEEN.len()).position(|window| window == BETWEEN)?;
    Some((&input[..at], &input[at + BETWEEN.len()..]))
}

/// Changes the first four bytes and the last byte so that the input has the frame of a document, if it is long enough.
fn framed(input: &[u8]) -> Option<Vec<u8>> {
    let length = i32::try_from(input.len()).ok().filter(|length| *length >= 5)?;
    let mut document = input.to_vec();
    document[..4].copy_from_slice(&length.to_le_bytes());
    document[input.len() - 1] = 0;
    Some(document)
}
