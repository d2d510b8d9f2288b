//! From tar bytes to the sink, in threads:
//!
//! ```text
//! walk + tar ─┬─► diff ID
//!  (caller)   └─► compress (gzip: N workers, in order) ─► write + digest
//! ```
//!
//! gzip is cut into blocks of fixed size, each primed with the 32 KiB before it and ended at a byte
//! boundary, so that any number of threads gives the same single member.

use std::fs::File;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use zlib_rs::crc32::{crc32, crc32_combine};
use zlib_rs::{Deflate, DeflateFlush};
use zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, get_error_name};

use super::{DiffCompression, DiffOptions, Diffed};
use crate::buffer::{Chunk, Pool};
use crate::digest::Hasher;
use crate::error::{Error, Result};

/// Tar bytes per chunk, which is also the gzip block.
const CHUNK: usize = 256 * 1024;
/// Chunks waiting between two stages.
const DEPTH: usize = 4;
/// How far back deflate can refer.
const WINDOW: usize = 32 * 1024;

/// Where tar bytes go: gathers them into chunks and sends each to hash and compressor.
pub(crate) struct TarSink {
    pool: Arc<Pool>,
    chunk: Chunk,
    hash: SyncSender<Arc<Chunk>>,
    next: Next,
}

/// The stage behind the sink.
enum Next {
    Stream(SyncSender<Arc<Chunk>>),
    Blocks {
        jobs: SyncSender<Job>,
        ordered: SyncSender<Receiver<Block>>,
        previous: Option<Arc<Chunk>>,
    },
}

/// One gzip block to make.
struct Job {
    data: Arc<Chunk>,
    previous: Option<Arc<Chunk>>,
    done: SyncSender<Block>,
}

/// One gzip block: deflate data ending at a byte boundary.
struct Block {
    deflated: Vec<u8>,
    crc: u32,
    len: usize,
}

impl TarSink {
    /// Room for at least one byte; see [`TarSink::filled`].
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        self.chunk.spare()
    }

    /// Declares the first `n` bytes of [`TarSink::spare`] filled.
    pub(crate) fn filled(&mut self, n: usize) -> Result<()> {
        self.chunk.filled(n);
        match self.chunk.is_full() {
            true => self.send(),
            false => Ok(()),
        }
    }

    pub(crate) fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let spare = self.spare();
            let n = bytes.len().min(spare.len());
            spare[..n].copy_from_slice(&bytes[..n]);
            self.filled(n)?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        match self.chunk.bytes().is_empty() {
            true => Ok(()),
            false => self.send(),
        }
    }

    fn send(&mut self) -> Result<()> {
        let chunk = Arc::new(std::mem::replace(&mut self.chunk, self.pool.take()));
        let taken = self.hash.send(Arc::clone(&chunk)).is_ok()
            && match &mut self.next {
                Next::Stream(next) => next.send(chunk).is_ok(),
                Next::Blocks {
                    jobs,
                    ordered,
                    previous,
                } => {
                    let (done, block) = sync_channel(1);
                    let job = Job {
                        data: Arc::clone(&chunk),
                        previous: previous.replace(chunk),
                        done,
                    };
                    ordered.send(block).is_ok() && jobs.send(job).is_ok()
                }
            };
        // The stage that hung up has the real error, and that one is reported.
        taken.then_some(()).ok_or(Error::Cancelled)
    }
}

/// Where the result goes, in order.
pub(crate) type Write<'a> = &'a mut (dyn FnMut(&[u8]) -> Result<()> + Send);

/// Writes to a file at its offset.
pub(crate) fn to_file(file: &File) -> impl FnMut(&[u8]) -> Result<()> + Send {
    move |mut data| {
        while !data.is_empty() {
            match rustix::io::retry_on_intr(|| rustix::io::write(file, data)) {
                Ok(0) => return Err(Error::io("write", b"sink", std::io::ErrorKind::WriteZero)),
                Ok(n) => data = &data[n..],
                Err(e) => return Err(Error::io("write", b"sink", e)),
            }
        }
        Ok(())
    }
}

/// Runs `produce` with a sink, compresses what it puts in, hands that to `write`.
pub(crate) fn run(
    write: Write<'_>,
    options: &DiffOptions,
    produce: impl FnOnce(TarSink) -> Result<()>,
) -> Result<Diffed> {
    let level = level(options)?;
    let threads = match options.threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        n => n.min(64),
    };
    let algorithm = options.algorithm;
    let (produced, hashed, written) = thread::scope(|scope| {
        let spawn = |name: &str| thread::Builder::new().name(name.into());
        let failed = |e| Error::io("spawn", b"thread", e);
        let (hash, hash_rx) = sync_channel::<Arc<Chunk>>(DEPTH);
        let hasher = spawn("diff-id").spawn_scoped(scope, move || {
            let mut hasher = Hasher::new(algorithm);
            for chunk in hash_rx {
                hasher.update(chunk.bytes());
            }
            hasher
        });
        let hasher = hasher.map_err(failed)?;
        let mut out = Out {
            write,
            hasher: (options.compression != DiffCompression::None).then(|| Hasher::new(algorithm)),
            len: 0,
        };
        let writer = spawn("diff-write");
        let (next, writer) = match options.compression {
            DiffCompression::Gzip => {
                let (jobs, jobs_rx) = sync_channel::<Job>(threads);
                let jobs_rx = Arc::new(Mutex::new(jobs_rx));
                for _ in 0..threads {
                    let jobs_rx = Arc::clone(&jobs_rx);
                    spawn("diff-gzip")
                        .spawn_scoped(scope, move || deflate_blocks(&jobs_rx, level))
                        .map_err(failed)?;
                }
                let (ordered, blocks) = sync_channel(threads + DEPTH);
                let next = Next::Blocks {
                    jobs,
                    ordered,
                    previous: None,
                };
                let write = move || out.gzip(blocks).map(|()| out);
                (next, writer.spawn_scoped(scope, write))
            }
            DiffCompression::Zstd => {
                let (next, chunks) = sync_channel(DEPTH);
                let write = move || out.zstd(chunks, level, threads).map(|()| out);
                (Next::Stream(next), writer.spawn_scoped(scope, write))
            }
            DiffCompression::None => {
                let (next, chunks) = sync_channel(DEPTH);
                let write = move || out.plain(chunks).map(|()| out);
                (Next::Stream(next), writer.spawn_scoped(scope, write))
            }
        };
        let writer = writer.map_err(failed)?;
        let pool = Pool::new(CHUNK);
        let produced = produce(TarSink {
            chunk: pool.take(),
            pool,
            hash,
            next,
        });
        let hashed = hasher
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let written = writer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((produced, hashed, written))
    })?;
    // A failed writer makes the producer fail too, with less to say.
    let out = written?;
    produced?;
    let unpacked_bytes = hashed.len();
    let diff_id = hashed.finish();
    Ok(Diffed {
        digest: out.hasher.map_or_else(|| diff_id.clone(), Hasher::finish),
        size: out.len,
        diff_id,
        unpacked_bytes,
    })
}

/// The level in the format's own scale.
fn level(options: &DiffOptions) -> Result<i32> {
    let (default, range) = match options.compression {
        DiffCompression::None => return Ok(0),
        DiffCompression::Gzip => (6, 1..=9),
        DiffCompression::Zstd => (3, zstd_safe::min_c_level()..=zstd_safe::max_c_level()),
    };
    let level = options.level.unwrap_or(default);
    range.contains(&level).then_some(level).ok_or_else(|| {
        Error::InvalidOption(format!(
            "compression level {level}: use {} … {}",
            range.start(),
            range.end()
        ))
    })
}

/// A gzip worker: makes blocks until no more jobs come or nobody wants them.
fn deflate_blocks(jobs: &Mutex<Receiver<Job>>, level: i32) {
    loop {
        let job = jobs.lock().expect("receiving does not panic").recv();
        let Ok(Job {
            data,
            previous,
            done,
        }) = job
        else {
            return;
        };
        // A fresh state for each block: one that was reset finds other matches than a new one (zlib-rs
        // 0.6), and the result must not depend on which worker made which block.
        let mut deflate = Deflate::new(level, false, 15);
        if let Some(previous) = previous {
            let bytes = previous.bytes();
            let window = &bytes[bytes.len().saturating_sub(WINDOW)..];
            deflate
                .set_dictionary(window)
                .expect("a fresh raw stream takes a dictionary");
        }
        let data = data.bytes();
        // Never grows in practice: deflate's worst case is stored blocks, plus the flush mark.
        let mut deflated = vec![0; data.len() + data.len() / 8 + 1024];
        loop {
            let (used, made) = (deflate.total_in() as usize, deflate.total_out() as usize);
            deflate
                .compress(
                    &data[used..],
                    &mut deflated[made..],
                    DeflateFlush::SyncFlush,
                )
                .expect("the stream is valid and has room");
            if (deflate.total_out() as usize) < deflated.len() {
                break;
            }
            deflated.resize(deflated.len() * 2, 0);
        }
        deflated.truncate(deflate.total_out() as usize);
        let block = Block {
            deflated,
            crc: crc32(0, data),
            len: data.len(),
        };
        // The writer is gone when writing failed.
        let _ = done.send(block);
    }
}

/// The end of the line.
struct Out<'a> {
    write: Write<'a>,
    hasher: Option<Hasher>,
    len: u64,
}

impl Out<'_> {
    fn plain(&mut self, chunks: Receiver<Arc<Chunk>>) -> Result<()> {
        chunks
            .into_iter()
            .try_for_each(|chunk| self.write(chunk.bytes()))
    }

    fn gzip(&mut self, blocks: Receiver<Receiver<Block>>) -> Result<()> {
        // Deflate, no name, no time, no hint, made on Unix.
        self.write(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3])?;
        let (mut crc, mut len) = (0, 0u32);
        for block in blocks {
            // A worker ends without its block only by a panic, which the scope passes on.
            let Ok(block) = block.recv() else { break };
            self.write(&block.deflated)?;
            crc = crc32_combine(crc, block.crc, block.len as u64);
            len = len.wrapping_add(block.len as u32);
        }
        // An empty last block ends the stream.
        self.write(&[0x03, 0x00])?;
        self.write(&crc.to_le_bytes())?;
        self.write(&len.to_le_bytes())
    }

    fn zstd(&mut self, chunks: Receiver<Arc<Chunk>>, level: i32, threads: usize) -> Result<()> {
        let failed = |code| {
            let text = std::io::Error::other(get_error_name(code));
            Error::io("zstd", b"sink", text)
        };
        let mut context = CCtx::try_create()
            .ok_or_else(|| Error::io("zstd", b"sink", std::io::ErrorKind::OutOfMemory))?;
        for parameter in [
            CParameter::CompressionLevel(level),
            CParameter::ChecksumFlag(true),
            // One worker already cuts the input as many would, so the bytes are the same.
            CParameter::NbWorkers(threads as u32),
        ] {
            context.set_parameter(parameter).map_err(failed)?;
        }
        let mut buffer = vec![0; CHUNK];
        let mut step = |data: &[u8], mode: ZSTD_EndDirective| -> Result<()> {
            let mut input = InBuffer::around(data);
            loop {
                let mut output = OutBuffer::around(&mut buffer[..]);
                let left = context
                    .compress_stream2(&mut output, &mut input, mode)
                    .map_err(failed)?;
                let made = output.pos();
                self.write(&buffer[..made])?;
                let done = match mode {
                    ZSTD_EndDirective::ZSTD_e_end => left == 0,
                    _ => input.pos() == data.len(),
                };
                if done {
                    return Ok(());
                }
            }
        };
        for chunk in chunks {
            step(chunk.bytes(), ZSTD_EndDirective::ZSTD_e_continue)?;
        }
        step(&[], ZSTD_EndDirective::ZSTD_e_end)
    }

    fn write(&mut self, data: &[u8]) -> Result<()> {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(data);
        }
        self.len += data.len() as u64;
        (self.write)(data)
    }
}
