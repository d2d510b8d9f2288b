//! The first stage: reads the source and computes the digest of its bytes.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;

use crate::buffer::{Chunk, Pool};
use crate::compression::SNIFF_LEN;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, Result};
use crate::growth::Growing;
use crate::pipeline::{Item, Plan, check};

const CHUNK: usize = 64 * 1024;

/// What reading found.
pub(crate) struct Read {
    pub hasher: Hasher,
    pub size: u64,
    /// The source was read to its end.
    pub complete: bool,
}

/// Where the bytes come from.
pub(crate) enum Source {
    /// A file, read to its end.
    Whole(File),
    /// A pipe, socket or device.
    Stream(File),
    /// A file that another thread writes, who also hashes and measures it.
    Growing(Growing),
}

impl Source {
    pub(crate) fn of(file: File) -> Result<Self> {
        let stat = rustix::fs::fstat(&file).map_err(|e| Error::io("fstat", b"layer", e))?;
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Self::Whole(file),
            _ => Self::Stream(file),
        })
    }

    pub(crate) fn is_growing(&self) -> bool {
        matches!(self, Self::Growing(_))
    }
}

pub(crate) struct Reader<'a> {
    source: Source,
    pool: Arc<Pool>,
    pub hasher: Hasher,
    /// Off when a later stage hashes the same bytes anyway.
    pub hash: bool,
    size: u64,
    plan: &'a Plan,
    stop: &'a AtomicBool,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(source: Source, plan: &'a Plan, stop: &'a AtomicBool) -> Self {
        let algorithm = plan
            .expected_digest
            .as_ref()
            .map_or(Algorithm::Sha256, Digest::algorithm);
        Self {
            source,
            pool: Pool::new(CHUNK),
            hasher: Hasher::new(algorithm),
            hash: true,
            size: 0,
            plan,
            stop,
        }
    }

    /// The first chunk, long enough to tell the compression.
    pub(crate) fn read_head(&mut self) -> Result<Chunk> {
        let mut head = self.pool.take();
        while head.bytes().len() < SNIFF_LEN && self.read(&mut head)? {}
        Ok(head)
    }

    /// Whether, after the consumer gave up, reading on can still tell a damaged blob from a bad archive.
    pub(crate) fn worth_draining(&self) -> bool {
        matches!(self.source, Source::Whole(_))
            && (self.plan.expected_digest.is_some() || self.plan.expected_size.is_some())
    }

    /// Reads on until the end or until nobody listens, and sends every chunk down.
    pub(crate) fn run(mut self, head: Chunk, mut send: impl FnMut(Item) -> bool) -> Read {
        let worth_draining = self.hash && self.worth_draining();
        let mut listening = true;
        let mut chunk = head;
        let mut complete = false;
        loop {
            if self.hash {
                self.hasher.update(chunk.bytes());
            }
            if listening && !chunk.bytes().is_empty() {
                listening = send(Ok(Arc::new(chunk)));
            }
            if !listening && !worth_draining {
                break;
            }
            chunk = self.pool.take();
            match self.read(&mut chunk) {
                Ok(true) => {}
                Ok(false) => {
                    complete = true;
                    break;
                }
                Err(error) => {
                    if listening {
                        send(Err(error));
                    }
                    break;
                }
            }
        }
        Read {
            hasher: self.hasher,
            size: self.size,
            complete,
        }
    }

    /// Appends one read to `chunk`; false at the end of the source.
    fn read(&mut self, chunk: &mut Chunk) -> Result<bool> {
        let go_on = || {
            check(self.plan.cancel.as_ref())?;
            match self.stop.load(Relaxed) {
                true => Err(Error::Cancelled),
                false => Ok(()),
            }
        };
        go_on()?;
        let n = match &self.source {
            Source::Growing(growing) => growing.read(self.size, chunk.spare(), &go_on)?,
            Source::Whole(file) => read(file, chunk.spare())?,
            Source::Stream(file) => {
                wait(file, &go_on)?;
                read(file, chunk.spare())?
            }
        };
        chunk.filled(n);
        self.size += n as u64;
        match self.plan.expected_size {
            // Only an endless stream needs to be stopped here; a file is read whole for its true size.
            Some(expected) if self.size > expected && !matches!(self.source, Source::Whole(_)) => {
                Err(Error::SizeMismatch {
                    expected,
                    got: self.size,
                })
            }
            _ => Ok(n > 0),
        }
    }
}

fn read(file: &File, buffer: &mut [u8]) -> Result<usize> {
    rustix::io::retry_on_intr(|| rustix::io::read(file, &mut *buffer))
        .map_err(|e| Error::io("read", b"layer", e))
}

/// Waits for a pipe or socket in slices, so that a cancel is seen although nobody writes.
fn wait(file: &File, go_on: &dyn Fn() -> Result<()>) -> Result<()> {
    let slice = Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    loop {
        let mut fds = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&slice)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return go_on(),
            Err(e) => return Err(Error::io("poll", b"layer", e)),
        }
        go_on()?;
    }
}
