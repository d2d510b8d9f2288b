//! One pass over a layer's bytes by four threads with bounded, recycled buffers:
//!
//! ```text
//! read + digest ─► inflate ─┬─► consumer (tar, apply)
//!  (caller)                 └─► diff ID
//! ```
//!
//! A plain tar has no inflate stage, and one hash serves as digest and diff ID.
//!
//! Ending early: an error travels down the channel as the last item, so the consumer sees all bytes
//! before it. A consumer that gives up drops its receiver and each stage above ends at its next send.
//! All threads are scoped: none outlives [`run`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::CancelFlag;
use crate::buffer::{Chunk, Pool};
use crate::compression::Compression;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, Result};
use crate::inflate::Decoder;
use crate::source::{Read, Reader, Source};

/// A multiple of the tar block, so that headers are never cut by a chunk's end.
const TAR_CHUNK: usize = 64 * 1024;
/// Chunks waiting between two stages.
const DEPTH: usize = 3;

pub(crate) type Item = Result<Arc<Chunk>>;

/// What the pass should compute and check.
pub(crate) struct Plan {
    pub compression: Compression,
    pub expected_digest: Option<Digest>,
    pub expected_size: Option<u64>,
    pub expected_diff_id: Option<Digest>,
    pub max_unpacked: Option<u64>,
    pub cancel: Option<CancelFlag>,
}

/// What the pass found, all expectations met.
pub(crate) struct Passed<T> {
    /// `None` when the writer of a growing source sees to it.
    pub digest: Option<Digest>,
    pub size: u64,
    pub diff_id: Digest,
    pub unpacked_bytes: u64,
    pub compression: Compression,
    pub value: T,
}

/// The uncompressed bytes, as the consumer meets them.
pub(crate) struct Unpacked {
    items: Receiver<Item>,
    current: Option<Arc<Chunk>>,
    at: usize,
    cancel: Option<CancelFlag>,
}

impl Unpacked {
    /// Bytes not yet consumed; empty only at the end of the stream.
    pub(crate) fn fill(&mut self) -> Result<&[u8]> {
        while self
            .current
            .as_ref()
            .is_none_or(|c| self.at == c.bytes().len())
        {
            check(self.cancel.as_ref())?;
            self.at = 0;
            self.current = None;
            match self.items.recv() {
                Ok(item) => self.current = Some(item?),
                Err(_) => return Ok(&[]),
            }
        }
        Ok(self.current.as_ref().map_or(&[], |c| &c.bytes()[self.at..]))
    }

    /// Gives back the first `n` bytes of what [`Unpacked::fill`] returned.
    pub(crate) fn consume(&mut self, n: usize) {
        self.at += n;
    }

    fn drain(&mut self) -> Result<()> {
        loop {
            let n = self.fill()?.len();
            if n == 0 {
                return Ok(());
            }
            self.consume(n);
        }
    }
}

/// [`Error::Cancelled`] once the flag is set.
pub(crate) fn check(cancel: Option<&CancelFlag>) -> Result<()> {
    match cancel {
        Some(flag) if flag.load(Relaxed) => Err(Error::Cancelled),
        _ => Ok(()),
    }
}

/// Sends `source` through the stages and hands the uncompressed bytes to `consumer`, which runs in a
/// thread of its own. What it leaves unread is read and hashed all the same.
pub(crate) fn run<T: Send>(
    source: Source,
    plan: &Plan,
    consumer: impl FnOnce(&mut Unpacked) -> Result<T> + Send,
) -> Result<Passed<T>> {
    let stop = AtomicBool::new(false);
    let growing = source.is_growing();
    let mut reader = Reader::new(source, plan, &stop);
    let head = reader.read_head()?;
    let compression = match plan.compression {
        Compression::Auto => Compression::sniff(head.bytes()),
        named => named,
    };
    let mut decoder = Decoder::new(compression)?;
    let foreign = Compression::foreign(head.bytes()).filter(|_| decoder.is_none());
    let diff_algorithm = plan
        .expected_diff_id
        .as_ref()
        .map_or(Algorithm::Sha256, Digest::algorithm);
    // For plain tar with one algorithm the diff ID's hash is the digest as well.
    let shared_hash = decoder.is_none() && diff_algorithm == reader.hasher.algorithm();
    reader.hash = !shared_hash && !growing;

    let (outcome, read, hashed) = thread::scope(|scope| {
        let spawn = |name: &str| thread::Builder::new().name(name.into());
        let failed = |e| Error::io("spawn", b"thread", e);
        let (tar_tx, tar_rx) = sync_channel::<Item>(DEPTH);
        let (hash_tx, hash_rx) = sync_channel::<Arc<Chunk>>(DEPTH);
        let fan = Fan {
            tar: tar_tx,
            hash: hash_tx,
            passed: 0,
            limit: plan.max_unpacked,
            hash_on: shared_hash && reader.worth_draining(),
        };

        let consume = spawn("layer-apply").spawn_scoped(scope, || {
            let mut stream = Unpacked {
                items: tar_rx,
                current: None,
                at: 0,
                cancel: plan.cancel.clone(),
            };
            let outcome = consumer(&mut stream).and_then(|value| stream.drain().map(|()| value));
            // Reading on helps only to tell a damaged blob by its digest. The flag is set before the
            // receiver is dropped, so the stages above find it when their send fails.
            if outcome.as_ref().is_err_and(|e| !e.blames_content()) {
                stop.store(true, Relaxed);
            }
            outcome
        });
        let consume = consume.map_err(failed)?;
        let hash = spawn("layer-diffid").spawn_scoped(scope, move || {
            let mut hasher = Hasher::new(diff_algorithm);
            for chunk in hash_rx {
                hasher.update(chunk.bytes());
            }
            hasher
        });
        let hash = hash.map_err(failed)?;

        let read = match decoder.take() {
            None => {
                let mut fan = fan;
                reader.run(head, |item| fan.send(item))
            }
            Some(decoder) => {
                let (raw_tx, raw_rx) = sync_channel::<Item>(DEPTH);
                spawn("layer-inflate")
                    .spawn_scoped(scope, move || inflate(&raw_rx, decoder, fan))
                    .map_err(failed)?;
                reader.run(head, |item| raw_tx.send(item).is_ok())
            }
        };
        let outcome = consume
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let hashed = hash
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((outcome, read, hashed))
    })?;

    let unpacked_bytes = hashed.len();
    let diff_id = hashed.finish();
    let Read {
        hasher,
        size,
        complete,
    } = read;
    let digest = match (growing, shared_hash) {
        (true, _) => None,
        (false, true) => Some(diff_id.clone()),
        (false, false) => Some(hasher.finish()),
    };
    match &outcome {
        Err(error) if !(complete && error.blames_content()) => {}
        _ => expect_source(plan, digest.as_ref(), size)?,
    }
    let value = match outcome {
        Err(Error::InvalidArchive(_)) if foreign.is_some() => {
            let name = foreign.unwrap_or_default();
            return Err(Error::UnsupportedCompression(name.into()));
        }
        outcome => outcome?,
    };
    match &plan.expected_diff_id {
        Some(expected) if *expected != diff_id => Err(Error::DiffIdMismatch {
            expected: expected.clone(),
            got: diff_id,
        }),
        _ => Ok(Passed {
            digest,
            size,
            diff_id,
            unpacked_bytes,
            compression,
            value,
        }),
    }
}

/// Compares what was read with the descriptor.
fn expect_source(plan: &Plan, digest: Option<&Digest>, size: u64) -> Result<()> {
    if let Some(expected) = plan.expected_size.filter(|&expected| expected != size) {
        return Err(Error::SizeMismatch {
            expected,
            got: size,
        });
    }
    match (&plan.expected_digest, digest) {
        (Some(expected), Some(digest)) if expected != digest => Err(Error::DigestMismatch {
            expected: expected.clone(),
            got: digest.clone(),
        }),
        _ => Ok(()),
    }
}

/// The end of the decompressing part: each chunk goes to the consumer and to the diff ID.
struct Fan {
    tar: SyncSender<Item>,
    hash: SyncSender<Arc<Chunk>>,
    passed: u64,
    limit: Option<u64>,
    /// Hash on after the consumer gave up.
    hash_on: bool,
}

impl Fan {
    /// False when nobody listens any more.
    fn send(&mut self, item: Item) -> bool {
        let chunk = match item {
            Ok(chunk) => chunk,
            Err(error) => {
                // The receiver may be gone; then it has an error of its own.
                let _ = self.tar.send(Err(error));
                return false;
            }
        };
        self.passed += chunk.bytes().len() as u64;
        if let Some(limit) = self.limit.filter(|&limit| self.passed > limit) {
            let what = "unpacked bytes";
            let _ = self.tar.send(Err(Error::LimitExceeded { what, limit }));
            return false;
        }
        self.hash.send(Arc::clone(&chunk)).is_ok()
            && (self.tar.send(Ok(chunk)).is_ok() || self.hash_on)
    }
}

fn inflate(raw: &Receiver<Item>, mut decoder: Decoder, mut fan: Fan) {
    let pool = Pool::new(TAR_CHUNK);
    let mut chunk = pool.take();
    let mut decode = |input: &[u8], fan: &mut Fan| -> Result<bool> {
        let mut at = 0;
        loop {
            let (used, made) = decoder.step(&input[at..], chunk.spare())?;
            at += used;
            chunk.filled(made);
            if chunk.is_full() {
                // The decoder may hold more output even when the input is used up: ask again.
                let full = std::mem::replace(&mut chunk, pool.take());
                if !fan.send(Ok(Arc::new(full))) {
                    return Ok(false);
                }
            } else if at == input.len() {
                return Ok(true);
            }
        }
    };
    for item in raw {
        match item.and_then(|input| decode(input.bytes(), &mut fan)) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                fan.send(Err(error));
                return;
            }
        }
    }
    let end = decoder.finish();
    if !chunk.bytes().is_empty() && !fan.send(Ok(Arc::new(chunk))) {
        return;
    }
    if let Err(error) = end {
        fan.send(Err(error));
    }
}
