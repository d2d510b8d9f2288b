//! From the blob to a recipe.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::fd::BorrowedFd;

use super::header::{Encoding, Header};
use super::rebuild::replay;
use super::segments::{MAX_PATH, Writer, open, read_at};
use crate::CancelFlag;
use crate::compression::Compression;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::pipeline::{self, Plan, Unpacked};
use crate::source::Source;
use crate::tar::{Entry, Kind, Reader, Stream};

/// A shorter file is cheaper in the recipe than its path.
const LEAST_FILE: u64 = 64;
/// What [`diff`](crate::diff()) begins its gzip with.
const OUR_GZIP: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The default first, then what else a caller may have chosen.
const LEVELS: [u8; 9] = [6, 1, 9, 2, 3, 4, 5, 7, 8];

/// Of what a recipe is made.
#[derive(Debug, Clone)]
pub struct MakeOptions {
    /// The blob's.
    pub digest: Digest,
    /// The blob's, in bytes.
    pub size: u64,
    /// What the header calls the folder; one line.
    pub folder: String,
    /// Put recipe and folder on stable storage before the call returns.
    pub sync: bool,
    /// Set to stop early.
    pub cancel: Option<CancelFlag>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// The recipe is whole: the blob was made from it, and came out the same.
    Recipe {
        /// Bytes of the recipe.
        bytes: u64,
        /// What makes the blob of the archive.
        encoding: Encoding,
    },
    /// The blob has to stay; why. What is in the sink is no recipe.
    Kept(&'static str),
}

/// Writes to the empty file `sink` a recipe for `blob`, whose files are in `folder`.
///
/// # Errors
/// [`Error::DigestMismatch`], [`Error::SizeMismatch`] when the blob is damaged; [`Error::InvalidArchive`]
/// when it is no layer; [`Error::Io`], [`Error::Cancelled`].
pub fn make(
    blob: &File,
    folder: BorrowedFd<'_>,
    sink: &File,
    options: &MakeOptions,
) -> Result<Made> {
    let mut head = [0; OUR_GZIP.len()];
    read_at(blob, &mut head, 0, b"layer")?;
    if head.starts_with(&ZSTD) || (head.starts_with(&OUR_GZIP[..2]) && head != OUR_GZIP) {
        return Ok(Made::Kept("it is compressed by another program"));
    }
    let Some((compression, bytes)) = record_all(blob, folder, sink, options)? else {
        return Ok(Made::Kept(
            "its files are not those of the folder, or too small",
        ));
    };
    let candidates: Vec<Encoding> = match compression {
        Compression::None => vec![Encoding::Plain],
        Compression::Gzip => LEVELS.map(Encoding::GzipBlocks).into(),
        _ => vec![],
    };
    for encoding in candidates {
        if gives(sink, folder, encoding, blob, options)? {
            let header = Header {
                digest: options.digest.clone(),
                size: options.size,
                encoding,
                folder: options.folder.clone(),
            };
            header.write(sink)?;
            if options.sync {
                rustix::fs::syncfs(folder).map_err(|e| Error::io("syncfs", b"folder", e))?;
                rustix::fs::fsync(sink).map_err(|e| Error::io("fsync", b"recipe", e))?;
            }
            return Ok(Made::Recipe { bytes, encoding });
        }
    }
    Ok(Made::Kept("it is compressed by another program"))
}

/// Writes the body; compression of the blob and bytes of the recipe, `None` when these are too many.
fn record_all(
    blob: &File,
    folder: BorrowedFd<'_>,
    sink: &File,
    options: &MakeOptions,
) -> Result<Option<(Compression, u64)>> {
    let plan = Plan {
        compression: Compression::Auto,
        expected_digest: Some(options.digest.clone()),
        expected_size: Some(options.size),
        expected_diff_id: None,
        max_unpacked: None,
        cancel: options.cancel.clone(),
    };
    let whole = blob
        .try_clone()
        .map_err(|e| Error::io("dup", b"layer", e))?;
    rustix::fs::seek(&whole, rustix::fs::SeekFrom::Start(0))
        .map_err(|e| Error::io("seek", b"layer", e))?;
    let passed = pipeline::run(Source::of(whole)?, &plan, |stream| {
        let mut writer = Writer::new(sink, options.size / 2)?;
        record(stream, folder, &mut writer)?;
        Ok(writer.len())
    });
    match passed {
        Ok(passed) => Ok(Some((passed.compression, passed.value))),
        Err(Error::LimitExceeded { what, .. }) if what == Writer::LIMITED => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the recipe's body, so encoded, is the blob.
fn gives(
    recipe: &File,
    folder: BorrowedFd<'_>,
    encoding: Encoding,
    blob: &File,
    options: &MakeOptions,
) -> Result<bool> {
    let (mut at, mut differs) = (0u64, false);
    let mut buffer = Vec::new();
    let mut compare = |data: &[u8]| -> Result<()> {
        buffer.resize(data.len(), 0);
        let n = read_at(blob, &mut buffer, at, b"layer")?;
        if buffer[..n] != *data {
            differs = true;
            return Err(Error::Cancelled);
        }
        at += n as u64;
        Ok(())
    };
    let algorithm = options.digest.algorithm();
    let cancel = options.cancel.as_ref();
    let made = replay(recipe, folder, encoding, algorithm, &mut compare, cancel);
    match made {
        _ if differs => Ok(false),
        Ok(made) => Ok(made.size == options.size && made.digest == options.digest),
        Err(error) => Err(error),
    }
}

/// What was read and is in no file; off while content is that a file has.
#[derive(Default)]
struct Tape {
    off: Cell<bool>,
    bytes: RefCell<Vec<u8>>,
}

struct Taped<'a> {
    stream: &'a mut Unpacked,
    tape: &'a Tape,
}

impl Stream for Taped<'_> {
    fn fill(&mut self) -> Result<&[u8]> {
        self.stream.fill()
    }

    fn consume(&mut self, n: usize) {
        if n > 0 && !self.tape.off.get() {
            // What was filled and not consumed is given again, without an error.
            if let Ok(bytes) = self.stream.fill() {
                self.tape.bytes.borrow_mut().extend_from_slice(&bytes[..n]);
            }
        }
        self.stream.consume(n);
    }
}

fn record(stream: &mut Unpacked, folder: BorrowedFd<'_>, writer: &mut Writer<'_>) -> Result<()> {
    let tape = Tape::default();
    let mut taped = Taped {
        stream,
        tape: &tape,
    };
    let mut reader = Reader::new(&mut taped);
    while let Some(entry) = reader.next_entry()? {
        writer.literal(&mut tape.bytes.borrow_mut())?;
        content(&mut reader, &entry, folder, &tape, writer)?;
    }
    // Behind the end mark, too.
    loop {
        let n = taped.fill()?.len();
        taped.consume(n);
        writer.literal(&mut tape.bytes.borrow_mut())?;
        if n == 0 {
            return writer.finish();
        }
    }
}

/// The content of an entry: as much as the file of its name begins with, then the rest.
fn content(
    reader: &mut Reader<&mut Taped<'_>>,
    entry: &Entry,
    folder: BorrowedFd<'_>,
    tape: &Tape,
    writer: &mut Writer<'_>,
) -> Result<()> {
    let has_file = entry.kind == Kind::File
        && entry.sparse.is_none()
        && entry.size >= LEAST_FILE
        && (1..=MAX_PATH).contains(&entry.path.len());
    let mut file = match has_file {
        true => open(folder, &entry.path)?,
        false => None,
    };
    let mut same = 0u64;
    let mut buffer = Vec::new();
    loop {
        let bytes = reader.content()?;
        let n = bytes.len();
        if n == 0 {
            break;
        }
        let is_there = match &file {
            Some(file) => {
                buffer.resize(n, 0);
                read_at(file, &mut buffer, same, &entry.path)? == n && buffer == bytes
            }
            None => false,
        };
        if is_there {
            same += n as u64;
        } else if file.take().is_some() && same > 0 {
            writer.file(&entry.path, same)?;
        }
        tape.off.set(is_there);
        reader.consume(n);
        tape.off.set(false);
        if !is_there {
            writer.literal(&mut tape.bytes.borrow_mut())?;
        }
    }
    match file.is_some() && same > 0 {
        true => writer.file(&entry.path, same),
        false => Ok(()),
    }
}
