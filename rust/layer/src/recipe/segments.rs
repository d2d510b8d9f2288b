//! The body of a recipe: what the archive consists of, in order.
//!
//! ```text
//! 0  length: u32                                  so many bytes follow
//! 1  length: u16, offset: u64, bytes: u64         a path follows; so many bytes of that file from there
//! 2                                               the end
//! ```
//!
//! Numbers are little-endian, the whole is one zstd frame.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd_safe::{CCtx, CParameter, DCtx, InBuffer, OutBuffer, get_error_name};

use super::header::PAGE;
use crate::error::{Error, Result};
use crate::sys;

const BUFFER: usize = 128 * 1024;
/// Literal bytes that are gathered before they are compressed.
const GATHERED: usize = 64 * 1024;
/// Longest path of a file in a recipe.
pub(super) const MAX_PATH: usize = sys::PATH_MAX;
const LITERAL: u8 = 0;
const FILE: u8 = 1;
const END: u8 = 2;

fn zstd(code: usize) -> Error {
    Error::invalid(format!("recipe: zstd: {}", get_error_name(code)))
}

/// Writes a body behind the first page.
pub(super) struct Writer<'a> {
    file: &'a File,
    context: CCtx<'static>,
    buffer: Vec<u8>,
    literal: Vec<u8>,
    at: u64,
    limit: u64,
}

impl<'a> Writer<'a> {
    /// What an [`Error::LimitExceeded`] of a writer is about.
    pub(super) const LIMITED: &'static str = "bytes of a recipe";

    /// The whole file may have `limit` bytes.
    pub(super) fn new(file: &'a File, limit: u64) -> Result<Self> {
        let mut context = CCtx::try_create()
            .ok_or_else(|| Error::io("zstd", b"recipe", std::io::ErrorKind::OutOfMemory))?;
        context
            .set_parameter(CParameter::ChecksumFlag(true))
            .map_err(zstd)?;
        Ok(Self {
            file,
            context,
            buffer: vec![0; BUFFER],
            literal: Vec::new(),
            at: PAGE as u64,
            limit,
        })
    }

    /// Bytes of the file so far.
    pub(super) fn len(&self) -> u64 {
        self.at
    }

    /// Bytes that no file has; taken out of `bytes`.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] when the file becomes too large.
    pub(super) fn literal(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        self.literal.append(bytes);
        match self.literal.len() < GATHERED {
            true => Ok(()),
            false => self.flush(),
        }
    }

    /// The first `bytes` of the file `path`.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] when the file becomes too large.
    pub(super) fn file(&mut self, path: &[u8], bytes: u64) -> Result<()> {
        self.flush()?;
        let mut head = vec![FILE];
        head.extend_from_slice(&(path.len() as u16).to_le_bytes());
        head.extend_from_slice(&0u64.to_le_bytes());
        head.extend_from_slice(&bytes.to_le_bytes());
        head.extend_from_slice(path);
        self.put(&head, ZSTD_EndDirective::ZSTD_e_continue)
    }

    /// Ends the body.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.flush()?;
        self.put(&[END], ZSTD_EndDirective::ZSTD_e_end)
    }

    fn flush(&mut self) -> Result<()> {
        let literal = std::mem::take(&mut self.literal);
        for piece in literal.chunks(u32::MAX as usize) {
            let mut head = vec![LITERAL];
            head.extend_from_slice(&(piece.len() as u32).to_le_bytes());
            self.put(&head, ZSTD_EndDirective::ZSTD_e_continue)?;
            self.put(piece, ZSTD_EndDirective::ZSTD_e_continue)?;
        }
        self.literal = literal;
        self.literal.clear();
        Ok(())
    }

    fn put(&mut self, data: &[u8], mode: ZSTD_EndDirective) -> Result<()> {
        let mut input = InBuffer::around(data);
        loop {
            let mut output = OutBuffer::around(&mut self.buffer[..]);
            let left = self
                .context
                .compress_stream2(&mut output, &mut input, mode)
                .map_err(zstd)?;
            let made = output.pos();
            let mut written = 0;
            while written < made {
                let rest = &self.buffer[written..made];
                let at = self.at;
                let n = rustix::io::retry_on_intr(|| rustix::io::pwrite(self.file, rest, at))
                    .map_err(|e| Error::io("write", b"recipe", e))?;
                written += n;
                self.at += n as u64;
            }
            if self.at > self.limit {
                return Err(Error::LimitExceeded {
                    what: Self::LIMITED,
                    limit: self.limit,
                });
            }
            let done = match mode {
                ZSTD_EndDirective::ZSTD_e_end => left == 0,
                _ => input.pos() == data.len(),
            };
            if done {
                return Ok(());
            }
        }
    }
}

/// One part of the archive.
pub(super) enum Segment {
    /// So many bytes follow, for [`Reader::bytes`].
    Literal(u64),
    /// Bytes of a file.
    File {
        path: Vec<u8>,
        offset: u64,
        bytes: u64,
    },
    End,
}

/// Reads a body.
pub(super) struct Reader<'a> {
    file: &'a File,
    context: DCtx<'static>,
    at: u64,
    input: Vec<u8>,
    used: usize,
    output: Vec<u8>,
    /// What of `output` was made, and given back.
    made: usize,
    taken: usize,
    /// The frame's end and its checksum were seen.
    ended: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a File) -> Result<Self> {
        let context = DCtx::try_create()
            .ok_or_else(|| Error::io("zstd", b"recipe", std::io::ErrorKind::OutOfMemory))?;
        Ok(Self {
            file,
            context,
            at: PAGE as u64,
            input: Vec::new(),
            used: 0,
            output: vec![0; BUFFER],
            made: 0,
            taken: 0,
            ended: false,
        })
    }

    pub(super) fn segment(&mut self) -> Result<Segment> {
        match self.array::<1>()? {
            [LITERAL] => Ok(Segment::Literal(u32::from_le_bytes(self.array()?).into())),
            [FILE] => {
                let length = usize::from(u16::from_le_bytes(self.array()?));
                let offset = u64::from_le_bytes(self.array()?);
                let bytes = u64::from_le_bytes(self.array()?);
                let mut path = Vec::with_capacity(length);
                while path.len() < length {
                    let part = self.bytes((length - path.len()) as u64)?;
                    path.extend_from_slice(part);
                    let n = part.len();
                    self.consume(n);
                }
                Ok(Segment::File {
                    path,
                    offset,
                    bytes,
                })
            }
            [END] => {
                while !self.ended {
                    self.step()?;
                }
                Ok(Segment::End)
            }
            [other] => Err(Error::invalid(format!("recipe: segment of kind {other}"))),
        }
    }

    /// Decompresses some more.
    fn step(&mut self) -> Result<()> {
        // A step that filled all its output may have more without further input.
        if self.used == self.input.len() && self.made < BUFFER {
            self.input.resize(BUFFER, 0);
            let n = read_at(self.file, &mut self.input, self.at, b"recipe")?;
            self.input.truncate(n);
            self.used = 0;
            self.at += n as u64;
            if n == 0 {
                return Err(Error::UnexpectedEof("recipe".into()));
            }
        }
        let mut input = InBuffer::around(&self.input[self.used..]);
        let mut output = OutBuffer::around(&mut self.output[..]);
        let left = self
            .context
            .decompress_stream(&mut output, &mut input)
            .map_err(zstd)?;
        self.ended = left == 0;
        (self.made, self.taken) = (output.pos(), 0);
        self.used += input.pos();
        Ok(())
    }

    /// Some of the next `most` bytes, at least one; to be given back by [`Reader::consume`].
    pub(super) fn bytes(&mut self, most: u64) -> Result<&[u8]> {
        while self.taken == self.made {
            self.step()?;
        }
        let rest = &self.output[self.taken..self.made];
        let n = usize::try_from(most).map_or(rest.len(), |most| most.min(rest.len()));
        Ok(&rest[..n])
    }

    pub(super) fn consume(&mut self, n: usize) {
        self.taken += n;
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        let mut at = 0;
        while at < N {
            let part = self.bytes((N - at) as u64)?;
            let n = part.len();
            array[at..at + n].copy_from_slice(part);
            self.consume(n);
            at += n;
        }
        Ok(array)
    }
}

/// A regular file of the folder, whatever links lead to it inside; `None` when there is none.
pub(super) fn open(folder: BorrowedFd<'_>, path: &[u8]) -> Result<Option<OwnedFd>> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let Ok(file) = sys::openat2(folder, path, flags, Mode::empty(), resolve) else {
        return Ok(None);
    };
    let stat = rustix::fs::fstat(&file).map_err(|e| Error::io("fstat", path, e))?;
    Ok((sys::file_type(&stat) == FileType::RegularFile).then_some(file))
}

/// Fills `buffer` from an offset as far as the file goes; how far.
pub(super) fn read_at(
    file: impl AsFd,
    buffer: &mut [u8],
    offset: u64,
    path: &[u8],
) -> Result<usize> {
    let mut at = 0;
    while at < buffer.len() {
        let from = offset + at as u64;
        match rustix::io::retry_on_intr(|| rustix::io::pread(&file, &mut buffer[at..], from)) {
            Ok(0) => break,
            Ok(n) => at += n,
            Err(e) => return Err(Error::io("read", path, e)),
        }
    }
    Ok(at)
}
