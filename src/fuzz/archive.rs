//! Streams of mongodump archives: their list of namespaces, their blocks, and cutting them at documents.

use super::{pieces, wait, words};
use crate::archive::{
    crc::Crc64,
    demux::{Archive, Error, Frame},
    frame::{self, Cutter},
    meta::read_prelude,
    prelude::{Prelude, PreludeEntry},
};
use bytes::Bytes;

pub fn check(input: &[u8]) {
    let whole = wait(read(input, input.len()));
    let step = 1 + input.len() / 7;
    let stepwise = wait(read(input, step));
    assert!(whole == stepwise, "in pieces of {step}: {stepwise:?} in place of {whole:?}");
    match whole {
        Ok(contents) => accepted(&contents),
        Err(why) => assert!(why.contains("damaged at its byte"), "{why}"),
    }
    documents_are_cut_the_same(input);
}

/// What an archive contains.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Contents {
    prelude: Prelude,
    /// Database, collection and documents. The documents are `None` if the archive has no block that ends them.
    namespaces: Vec<(String, String, Option<Vec<u8>>)>,
}

async fn read(input: &[u8], step: usize) -> Result<Contents, String> {
    let mut archive = Archive::open(pieces(input, step)).await.map_err(|error| refused(&error, input))?;
    let mut found: Vec<(Vec<u8>, bool)> = vec![(Vec::new(), false); archive.names().len()];
    while let Some(frame) = archive.next().await.map_err(|error| refused(&error, input))? {
        match frame {
            Frame::Part { ns, bytes } => {
                assert!(!bytes.is_empty() && !found[ns].1, "nothing follows the end");
                found[ns].0.extend_from_slice(&bytes);
            }
            Frame::BlockEnd { ns } => assert!(whole_documents(&found[ns].0), "a block ends behind a document"),
            Frame::End { ns, size, crc } => {
                let (bytes, ended) = &mut found[ns];
                assert_eq!((size, crc), (bytes.len() as u64, checksum(bytes)));
                *ended = true;
            }
        }
    }
    assert!(matches!(archive.next().await, Ok(None)), "the end stays the end");
    let namespaces = archive.names().iter().zip(found).map(|((db, coll), (bytes, ended))| {
        assert!(ended || bytes.is_empty(), "documents of '{db}.{coll}' without an end");
        (db.clone(), coll.clone(), ended.then_some(bytes))
    });
    Ok(Contents { namespaces: namespaces.collect(), prelude: archive.prelude().clone() })
}

fn refused(error: &Error, input: &[u8]) -> String {
    let Error::Damaged { at, .. } = error else { panic!("{error}") };
    assert!(usize::try_from(*at).is_ok_and(|at| at <= input.len()), "byte {at} of {}", input.len());
    words(error)
}

fn checksum(bytes: &[u8]) -> i64 {
    let mut crc = Crc64::new();
    crc.update(bytes);
    crc.value()
}

fn whole_documents(bytes: &[u8]) -> bool {
    let mut cutter = Cutter::default();
    cutter.push(bytes).is_ok() && !cutter.is_within_document()
}

/// If we write the contents again, reading them gives the same contents.
fn accepted(contents: &Contents) {
    let written = written(contents);
    let read = wait(read(&written, 1 + written.len() / 3)).expect("an archive that was written");
    assert_eq!(&read, contents);
    match read_prelude(&contents.prelude) {
        Ok(namespaces) => {
            let again = Prelude { entries: namespaces.iter().map(PreludeEntry::of).collect(), ..Prelude::default() };
            let twice = read_prelude(&again).expect("descriptions that were written");
            // NaN is not equal to itself, so the descriptions are compared as texts.
            let texts = |prelude: &Prelude| -> Vec<PreludeEntry> { prelude.entries.clone() };
            let written = Prelude { entries: twice.iter().map(PreludeEntry::of).collect(), ..Prelude::default() };
            assert_eq!(texts(&written), texts(&again));
        }
        Err(error) => {
            words(error);
        }
    }
}

fn written(contents: &Contents) -> Vec<u8> {
    let mut out = frame::head(&contents.prelude);
    for (db, coll, bytes) in &contents.namespaces {
        let Some(bytes) = bytes else { continue };
        if !bytes.is_empty() {
            out.extend(frame::block(db, coll, Bytes::copy_from_slice(bytes)).concat());
        }
        out.extend_from_slice(&frame::end(db, coll, checksum(bytes)));
    }
    out
}

fn documents_are_cut_the_same(input: &[u8]) {
    let cut = |step: usize| -> Result<(Vec<u8>, bool), String> {
        let (mut cutter, mut out) = (Cutter::default(), Vec::new());
        for piece in input.chunks(step.max(1)) {
            cutter.push(piece)?;
            out.extend_from_slice(&cutter.take(1).unwrap_or_default());
        }
        Ok((out, cutter.is_within_document()))
    };
    let (whole, stepwise) = (cut(input.len()), cut(1 + input.len() / 7));
    assert_eq!(whole, stepwise);
    match whole {
        Ok((out, within)) => {
            assert!(input.starts_with(&out) && within == (out.len() < input.len()));
            assert!(whole_documents(&out), "whole documents");
        }
        Err(why) => {
            words(why);
        }
    }
}
