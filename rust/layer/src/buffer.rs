//! Recycled buffers: the pipeline allocates a handful once and passes them round.

use std::sync::{Arc, Mutex};

/// Keeps buffers of one size for reuse.
#[derive(Debug)]
pub(crate) struct Pool {
    size: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    pub(crate) fn new(size: usize) -> Arc<Self> {
        Arc::new(Self {
            size,
            free: Mutex::new(Vec::new()),
        })
    }

    /// An empty chunk with room for the pool's size. How many are out at once is bounded by the
    /// channels between the stages, not here.
    pub(crate) fn take(self: &Arc<Self>) -> Chunk {
        let recycled = self
            .free
            .lock()
            .expect("no panic while holding the lock")
            .pop();
        Chunk {
            room: recycled.unwrap_or_else(|| vec![0; self.size]),
            len: 0,
            pool: Arc::clone(self),
        }
    }
}

/// A buffer filled up to `len`; returns to its pool when dropped.
#[derive(Debug)]
pub(crate) struct Chunk {
    room: Vec<u8>,
    len: usize,
    pool: Arc<Pool>,
}

impl Chunk {
    /// What was filled in.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.room[..self.len]
    }

    /// What can still be filled in; call [`Chunk::filled`] afterwards.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        &mut self.room[self.len..]
    }

    /// Declares the first `n` bytes of [`Chunk::spare`] filled.
    pub(crate) fn filled(&mut self, n: usize) {
        self.len += n;
        assert!(
            self.len <= self.room.len(),
            "a stage claims more than it was given"
        );
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == self.room.len()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let room = std::mem::take(&mut self.room);
        if let Ok(mut free) = self.pool.free.lock() {
            free.push(room);
        }
    }
}
