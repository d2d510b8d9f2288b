//! From a recipe to the blob.

use std::fs::File;
use std::os::fd::BorrowedFd;

use super::header::{Encoding, Header};
use super::segments::{Reader, Segment, open, read_at};
use crate::CancelFlag;
use crate::diff::encode::{self, TarSink, Write};
use crate::diff::{DiffCompression, DiffOptions, Diffed};
use crate::digest::Algorithm;
use crate::error::{Error, Result};
use crate::pipeline::check;

/// Writes the blob of `recipe` to `sink` at its offset; what it is.
///
/// # Errors
/// [`Error::DigestMismatch`], [`Error::SizeMismatch`] when the files are not what they were, and
/// [`Error::UnexpectedEof`] when they are shorter or gone; [`Error::InvalidArchive`] for a damaged recipe;
/// [`Error::Io`], [`Error::Cancelled`].
pub fn rebuild(
    recipe: &File,
    folder: BorrowedFd<'_>,
    sink: &File,
    cancel: Option<&CancelFlag>,
) -> Result<Header> {
    let header = Header::read(recipe)?;
    let algorithm = header.digest.algorithm();
    let write = &mut encode::to_file(sink);
    let made = replay(recipe, folder, header.encoding, algorithm, write, cancel)?;
    if made.size != header.size {
        return Err(Error::SizeMismatch {
            expected: header.size,
            got: made.size,
        });
    }
    if made.digest != header.digest {
        return Err(Error::DigestMismatch {
            expected: header.digest,
            got: made.digest,
        });
    }
    Ok(header)
}

/// Hands to `write` what the body of `recipe` makes with the files of `folder`.
pub(super) fn replay(
    recipe: &File,
    folder: BorrowedFd<'_>,
    encoding: Encoding,
    algorithm: Algorithm,
    write: Write<'_>,
    cancel: Option<&CancelFlag>,
) -> Result<Diffed> {
    let (compression, level) = match encoding {
        Encoding::Plain => (DiffCompression::None, None),
        Encoding::GzipBlocks(level) => (DiffCompression::Gzip, Some(level.into())),
    };
    let options = DiffOptions {
        compression,
        level,
        algorithm,
        ..DiffOptions::default()
    };
    encode::run(write, &options, |sink| {
        archive(recipe, folder, sink, cancel)
    })
}

fn archive(
    recipe: &File,
    folder: BorrowedFd<'_>,
    mut sink: TarSink,
    cancel: Option<&CancelFlag>,
) -> Result<()> {
    let mut reader = Reader::new(recipe)?;
    loop {
        check(cancel)?;
        match reader.segment()? {
            Segment::Literal(mut left) => {
                while left > 0 {
                    let part = reader.bytes(left)?;
                    sink.put(part)?;
                    let n = part.len();
                    left -= n as u64;
                    reader.consume(n);
                }
            }
            Segment::File {
                path,
                offset,
                bytes,
            } => content(folder, &path, offset, bytes, &mut sink, cancel)?,
            Segment::End => return sink.finish(),
        }
    }
}

fn content(
    folder: BorrowedFd<'_>,
    path: &[u8],
    mut offset: u64,
    mut left: u64,
    sink: &mut TarSink,
    cancel: Option<&CancelFlag>,
) -> Result<()> {
    let name = || String::from_utf8_lossy(path).into_owned();
    let Some(file) = open(folder, path)? else {
        return Err(Error::UnexpectedEof(format!("{}: it is no file", name())));
    };
    while left > 0 {
        check(cancel)?;
        let spare = sink.spare();
        let most = usize::try_from(left).map_or(spare.len(), |left| left.min(spare.len()));
        let n = read_at(&file, &mut spare[..most], offset, path)?;
        if n < most {
            return Err(Error::UnexpectedEof(format!("{}: it is shorter", name())));
        }
        sink.filled(n)?;
        offset += n as u64;
        left -= n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    /// Recipes of earlier releases are only good as long as an encoder's bytes stay what they are. Whoever
    /// comes here because they changed: give the new encoder a new name in [`Encoding`], and keep the old.
    #[test]
    fn the_bytes_of_an_encoder_are_the_same_in_every_release() {
        let mut state = 7u64;
        let data: Vec<u8> = (0..300_000)
            .map(|n| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                (state >> 33) as u8 & if n % 3 == 0 { 0xff } else { 3 }
            })
            .collect();
        let made = (1..=9).map(|level| {
            let options = DiffOptions {
                compression: DiffCompression::Gzip,
                level: Some(level),
                ..DiffOptions::default()
            };
            let mut blob = Vec::new();
            let mut write = |piece: &[u8]| {
                blob.extend_from_slice(piece);
                Ok(())
            };
            encode::run(&mut write, &options, |mut sink| {
                sink.put(&data)?;
                sink.finish()
            })
            .unwrap();
            Digest::of(Algorithm::Sha256, &blob).hex()[..16].to_owned()
        });
        assert_eq!(made.collect::<Vec<_>>(), GZIP_BLOCKS_1);
    }

    const GZIP_BLOCKS_1: [&str; 9] = [
        "f84a69bd7a699cad",
        "6c4d888380c6c118",
        "06b247a4de508455",
        "aa7a54df6adffbba",
        "aa7a54df6adffbba",
        "aa7a54df6adffbba",
        "a16bde160bb6f3ca",
        "a16bde160bb6f3ca",
        "f857b7aafcec475d",
    ];
}
