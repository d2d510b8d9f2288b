//! A file that is still being written, and whoever reads behind the writer.

use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};

/// How long a reader waits at most before it looks whether it was told to stop.
const SLICE: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct State {
    len: u64,
    abandoned: bool,
}

/// How far a file is written; shared by its writer and its readers.
#[derive(Debug)]
pub struct Growth {
    state: Mutex<State>,
    changed: Condvar,
}

impl Growth {
    /// Of a file whose first `len` bytes are there.
    pub fn new(len: u64) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                len,
                abandoned: false,
            }),
            changed: Condvar::new(),
        })
    }

    /// The first `len` bytes are there now, and will not change.
    pub fn reached(&self, len: u64) {
        self.lock().len = len;
        self.changed.notify_all();
    }

    /// How many bytes are there.
    pub fn len(&self) -> u64 {
        self.lock().len
    }

    /// Whether nothing is there yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nothing more comes, or what came is taken back.
    pub fn abandon(&self) {
        self.lock().abandoned = true;
        self.changed.notify_all();
    }

    /// How many bytes are there once there are more than `at`; asks `check` while it waits.
    fn beyond(&self, at: u64, check: &dyn Fn() -> Result<()>) -> Result<u64> {
        let mut state = self.lock();
        while state.len <= at {
            if state.abandoned {
                return Err(Error::Abandoned);
            }
            state = self
                .changed
                .wait_timeout(state, SLICE)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            check()?;
        }
        Ok(state.len)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reading end: a file that will have `total` bytes.
#[derive(Debug)]
pub struct Growing {
    /// Read by position; its offset does not matter.
    pub file: File,
    /// How far its writer is.
    pub growth: Arc<Growth>,
    /// Where its writer will end.
    pub total: u64,
}

impl Growing {
    /// Reads at `at` what is there, at most a buffer full; 0 at the end.
    pub(crate) fn read(
        &self,
        at: u64,
        buffer: &mut [u8],
        check: &dyn Fn() -> Result<()>,
    ) -> Result<usize> {
        if at >= self.total {
            return Ok(0);
        }
        let there = self.growth.beyond(at, check)?.min(self.total) - at;
        let want = buffer
            .len()
            .min(usize::try_from(there).unwrap_or(usize::MAX));
        let read =
            rustix::io::retry_on_intr(|| rustix::io::pread(&self.file, &mut buffer[..want], at))
                .map_err(|e| Error::io("read", b"layer", e))?;
        if read == 0 {
            return Err(Error::Abandoned); // cut off behind our back, which a writer does that begins anew
        }
        Ok(read)
    }
}
