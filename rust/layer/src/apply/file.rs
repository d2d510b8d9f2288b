//! Writing the content of regular files.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::tar::{Reader, Segment, Stream};

/// Runs of zeros at least this long become holes; shorter ones are not worth a fragment.
const HOLE: usize = 64 * 1024;

/// Writes the entry's content to the new, empty file `fd`. Holes of sparse entries stay holes.
pub(crate) fn write_content<S: Stream>(
    fd: BorrowedFd<'_>,
    reader: &mut Reader<S>,
    size: u64,
    sparse: Option<&[Segment]>,
    path: &[u8],
) -> Result<()> {
    let whole = [Segment {
        offset: 0,
        len: size,
    }];
    let mut out = Output {
        fd,
        written: 0,
        path,
    };
    for segment in sparse.unwrap_or(&whole) {
        let mut offset = segment.offset;
        let end = segment.offset + segment.len;
        while offset < end {
            let bytes = reader.content()?;
            let n = usize::try_from(end - offset).map_or(bytes.len(), |left| left.min(bytes.len()));
            out.put(offset, &bytes[..n])?;
            reader.consume(n);
            offset += n as u64;
        }
    }
    out.finish(size)
}

/// A file being written front to back.
pub(crate) struct Output<'a> {
    pub fd: BorrowedFd<'a>,
    /// End of the last write.
    pub written: u64,
    pub path: &'a [u8],
}

impl Output<'_> {
    /// Writes `data` at `offset`, leaving out long runs of zeros.
    pub(crate) fn put(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let mut start = 0;
        let mut at = 0;
        for piece in data.chunks(HOLE) {
            if piece.len() == HOLE && piece.iter().all(|&b| b == 0) {
                self.write(offset + start as u64, &data[start..at])?;
                start = at + HOLE;
            }
            at += piece.len();
        }
        self.write(offset + start as u64, &data[start..])
    }

    /// Gives the file its size, which a hole at the end leaves to be done.
    pub(crate) fn finish(&self, size: u64) -> Result<()> {
        if self.written == size {
            return Ok(());
        }
        rustix::fs::ftruncate(self.fd, size).map_err(|e| Error::io("ftruncate", self.path, e))
    }

    fn write(&mut self, mut offset: u64, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let done = match rustix::io::pwrite(self.fd, data, offset) {
                Ok(0) => return Err(Error::io("write", self.path, Errno::IO)),
                Ok(n) => n,
                Err(Errno::INTR) => continue,
                Err(e) => return Err(Error::io("write", self.path, e)),
            };
            data = &data[done..];
            offset += done as u64;
            self.written = offset;
        }
        Ok(())
    }
}
