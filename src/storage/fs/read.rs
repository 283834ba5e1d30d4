//! Files as streams.

use super::{super::ByteStream, blocking, joined};
use bytes::Bytes;
use futures::{StreamExt, stream};
use std::{
    fs::{File, Metadata},
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};
use tokio::task::{JoinHandle, spawn_blocking};

/// Size of the object in `path`.
pub(super) fn size(path: &Path) -> io::Result<u64> {
    object(path.metadata()).map(|metadata| metadata.len())
}

/// Opens the object in `path`; `None` if there is none.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path).and_then(|file| object(file.metadata()).map(|_| file)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        // On the way to it stands a file: nothing can be below.
        Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(None),
        Err(error) => Err(error),
    }
}

/// A folder is no object, and below a file is none.
fn object(metadata: io::Result<Metadata>) -> io::Result<Metadata> {
    match metadata {
        Ok(metadata) if metadata.is_dir() => Err(ErrorKind::NotFound.into()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => Err(ErrorKind::NotFound.into()),
        other => other,
    }
}

/// Streams `range` of the file in pieces of at most `piece` bytes, always reading one piece ahead.
///
/// No thread is held between pieces, so any number of streams can wait for slow readers.
pub(super) async fn get(path: PathBuf, range: Option<Range<u64>>, piece: usize) -> io::Result<ByteStream> {
    let first = blocking(move || {
        let mut file = open(&path)?.ok_or(ErrorKind::NotFound)?;
        let size = file.metadata()?.len();
        let range = range.map_or(0..size, |range| range.start.min(size)..range.end.min(size));
        if range.start > 0 {
            file.seek(SeekFrom::Start(range.start))?;
        }
        Reader { file, left: range.end.saturating_sub(range.start), piece }.next()
    })
    .await?;
    Ok(stream::try_unfold(Ahead::Read(first), async |ahead| {
        let next = match ahead {
            Ahead::Read(next) => next,
            Ahead::Reading(work) => joined(work).await?,
        };
        Ok(next.map(|(bytes, reader)| (bytes, Ahead::Reading(spawn_blocking(move || reader.next())))))
    })
    .boxed())
}

/// A piece and whoever reads the next one; `None` at the end.
type Next = Option<(Bytes, Reader)>;

enum Ahead {
    Read(Next),
    Reading(JoinHandle<io::Result<Next>>),
}

struct Reader {
    file: File,
    left: u64,
    piece: usize,
}

impl Reader {
    fn next(mut self) -> io::Result<Next> {
        if self.left == 0 {
            return Ok(None);
        }
        let want = self.left.min(self.piece as u64);
        let mut bytes = Vec::with_capacity(usize::try_from(want).unwrap_or(self.piece));
        let got = self.file.by_ref().take(want).read_to_end(&mut bytes)?;
        if got as u64 != want {
            let reason = format!("the file lost {} bytes while it was read", self.left - got as u64);
            return Err(io::Error::new(ErrorKind::UnexpectedEof, reason));
        }
        self.left -= want;
        Ok(Some((bytes.into(), self)))
    }
}
