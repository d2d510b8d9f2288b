//! Bytes written and hashed at once, and files hashed where they lie.

use std::fs::File;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use layer::{Algorithm, Growth, Hasher};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::fs::SeekFrom;

use crate::failure::{Class, Failure};
use crate::receive::HttpBody;
use crate::{descriptor, without_gil};

const CHUNK: usize = 256 * 1024;

/// The writing end of an ingest: a file, and the digest of all that is in it.
///
/// The file ends at `offset` at all times, a failed write not counted.
#[pyclass(frozen, module = "containerd_hybrid._native")]
pub struct Ingest {
    /// Never waited for: a second writer is an error of the caller's.
    state: Mutex<Option<State>>,
    /// How far it is, for those who read behind the writer.
    growth: Mutex<Arc<Growth>>,
}

/// The reading end of an ingest that is still being written.
#[pyclass(frozen, module = "containerd_hybrid._native")]
pub struct Growing {
    path: PathBuf,
    growth: Arc<Growth>,
    total: u64,
}

impl Growing {
    /// For one reader. No descriptor is kept between: it would keep the bytes of what was given up.
    pub fn reader(&self) -> Result<layer::Growing, Failure> {
        let file = File::open(&self.path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Failure::new(Class::Aborted, "the ingest has its name no more")
            }
            _ => Failure::os(e, format_args!("open {}", self.path.display())),
        });
        Ok(layer::Growing {
            file: file?,
            growth: Arc::clone(&self.growth),
            total: self.total,
        })
    }
}

struct State {
    file: File,
    /// Has seen every byte of the file; its length is the offset.
    hasher: Hasher,
}

impl State {
    /// Resumes `file` at `offset`, dropping what lies behind.
    fn resume(file: File, algorithm: Algorithm, offset: u64) -> Result<Self, Failure> {
        let length = file
            .metadata()
            .map_err(|e| Failure::os(e, "stat ingest"))?
            .len();
        if length < offset {
            return Err(Failure::new(
                Class::OutOfRange,
                format!("resume ingest at {offset}: its file has {length} bytes"),
            ));
        }
        if length > offset {
            file.set_len(offset)
                .map_err(|e| Failure::os(e, "truncate ingest"))?;
        }
        let hasher = hash(&file, algorithm, Some(offset))?;
        Ok(Self { file, hasher })
    }

    fn write(&mut self, data: &[u8], growth: &Growth) -> Result<u64, Failure> {
        // In pieces that are still in the processor's cache when they are hashed.
        for piece in data.chunks(CHUNK) {
            let mut rest = piece;
            while !rest.is_empty() {
                match self.file.write_at(rest, self.hasher.len()) {
                    Ok(0) => {
                        return Err(Failure::new(
                            Class::Unknown,
                            "write to ingest: nothing was written",
                        ));
                    }
                    Ok(written) => {
                        self.hasher.update(&rest[..written]);
                        growth.reached(self.hasher.len());
                        rest = &rest[written..];
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(Failure::os(e, "write to ingest")),
                }
            }
        }
        Ok(self.hasher.len())
    }

    fn splice(&mut self, source: &File, length: Option<u64>) -> Result<u64, Failure> {
        rustix::fs::seek(&self.file, SeekFrom::Start(self.hasher.len()))
            .map_err(|e| Failure::os(e, "seek in ingest"))?;
        layer::copy_and_hash(source.as_fd(), self.file.as_fd(), length, &mut self.hasher).map_err(
            |error| {
                let failure = match &error {
                    // A peer that went away; what it sent is kept, and more can be asked for.
                    layer::Error::UnexpectedEof(_) => {
                        Failure::new(Class::Unavailable, error.to_string())
                    }
                    _ => error.into(),
                };
                failure.while_doing("copy to ingest")
            },
        )
    }

    fn truncate(&mut self) -> Result<(), Failure> {
        self.file
            .set_len(0)
            .map_err(|e| Failure::os(e, "truncate ingest"))?;
        self.hasher = Hasher::new(self.hasher.algorithm());
        Ok(())
    }

    fn rehash(&mut self, algorithm: Option<&str>) -> Result<String, Failure> {
        let algorithm = match algorithm {
            Some(name) => name.parse()?,
            None => self.hasher.algorithm(),
        };
        self.hasher = hash(&self.file, algorithm, Some(self.hasher.len()))?;
        Ok(self.hasher.digest().to_string())
    }
}

#[pymethods]
impl Ingest {
    #[new]
    #[pyo3(signature = (fd, algorithm = "sha256", offset = 0))]
    fn new(py: Python<'_>, fd: RawFd, algorithm: &str, offset: u64) -> PyResult<Self> {
        let state = without_gil(py, || {
            State::resume(descriptor::duplicate(fd)?, algorithm.parse()?, offset)
        })?;
        Ok(Self {
            state: Mutex::new(Some(state)),
            growth: Mutex::new(Growth::new(offset)),
        })
    }

    /// Appends `data`; gives the new offset.
    fn write(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<u64> {
        let mut state = self.lock()?;
        let state = open(&mut state)?;
        let growth = self.growth();
        if let Ok(bytes) = data.cast::<PyBytes>() {
            let bytes = bytes.as_bytes();
            return without_gil(py, || state.write(bytes, &growth));
        }
        // Anything else may be changed by its owner while we hash it: the file has to have what was hashed.
        let copy = PyBuffer::<u8>::get(data)?.to_vec(py)?;
        without_gil(py, || state.write(&copy, &growth))
    }

    /// Appends what is read from `fd`, `length` bytes or all there is; gives the number of bytes.
    #[pyo3(signature = (fd, length = None))]
    fn splice_from(&self, py: Python<'_>, fd: RawFd, length: Option<u64>) -> PyResult<u64> {
        let mut state = self.lock()?;
        let state = open(&mut state)?;
        let spliced = without_gil(py, || state.splice(&descriptor::duplicate(fd)?, length));
        self.growth().reached(state.hasher.len());
        spliced
    }

    /// Appends the body, which may have `limit` bytes; gives the number of bytes.
    fn receive(&self, py: Python<'_>, body: &HttpBody, limit: u64) -> PyResult<u64> {
        let mut state = self.lock()?;
        let state = open(&mut state)?;
        let growth = self.growth();
        without_gil(py, || {
            body.receive(limit, |data| state.write(data, &growth).map(drop))
        })
    }

    /// Something to read the ingest from while it is written, up to its end at `total`; `path` is its file.
    fn growing(&self, path: PathBuf, total: u64) -> Growing {
        Growing {
            path,
            growth: self.growth(),
            total,
        }
    }

    /// How much has arrived; also while another thread is writing.
    #[getter]
    fn arrived(&self) -> u64 {
        self.growth().len()
    }

    /// Hashes anew what is on disk; gives the digest.
    #[pyo3(signature = (algorithm = None))]
    fn rehash(&self, py: Python<'_>, algorithm: Option<&str>) -> PyResult<String> {
        let mut state = self.lock()?;
        let state = open(&mut state)?;
        without_gil(py, || state.rehash(algorithm))
    }

    /// Drops everything written.
    fn truncate(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.lock()?;
        let state = open(&mut state)?;
        self.renew(0);
        without_gil(py, || state.truncate())
    }

    /// The digest of everything written so far.
    fn digest(&self) -> PyResult<String> {
        let mut state = self.lock()?;
        Ok(open(&mut state)?.hasher.digest().to_string())
    }

    /// Puts everything written on stable storage.
    fn sync(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.lock()?;
        let state = open(&mut state)?;
        without_gil(py, || {
            state
                .file
                .sync_all()
                .map_err(|e| Failure::os(e, "sync ingest"))
        })
    }

    /// Lets go of the file; nothing but `close` is possible afterwards.
    fn close(&self) -> PyResult<()> {
        self.lock()?.take();
        self.growth().abandon();
        Ok(())
    }

    #[getter]
    fn offset(&self) -> PyResult<u64> {
        let mut state = self.lock()?;
        Ok(open(&mut state)?.hasher.len())
    }

    #[getter]
    fn algorithm(&self) -> PyResult<&'static str> {
        let mut state = self.lock()?;
        Ok(open(&mut state)?.hasher.algorithm().as_str())
    }
}

impl Ingest {
    fn growth(&self) -> Arc<Growth> {
        let growth = self.growth.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&growth)
    }

    /// Whoever reads what was there is told that it is no more.
    fn renew(&self, len: u64) {
        let mut growth = self.growth.lock().unwrap_or_else(PoisonError::into_inner);
        growth.abandon();
        *growth = Growth::new(len);
    }

    fn lock(&self) -> Result<MutexGuard<'_, Option<State>>, Failure> {
        match self.state.try_lock() {
            Ok(guard) => Ok(guard),
            // Panics are caught while the lock is held; the state is sound after each of its steps.
            Err(TryLockError::Poisoned(guard)) => Ok(guard.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Failure::new(
                Class::Unavailable,
                "ingest is in use by another thread",
            )),
        }
    }
}

fn open(state: &mut Option<State>) -> Result<&mut State, Failure> {
    state
        .as_mut()
        .ok_or_else(|| Failure::new(Class::FailedPrecondition, "ingest is closed"))
}

/// The digest of a whole file, whatever its offset, which stays as it is.
#[pyfunction]
#[pyo3(signature = (fd, algorithm = "sha256"))]
pub fn hash_file(py: Python<'_>, fd: RawFd, algorithm: &str) -> PyResult<String> {
    without_gil(py, || {
        let file = descriptor::duplicate(fd)?;
        Ok(hash(&file, algorithm.parse()?, None)?.finish().to_string())
    })
}

/// Hashes `file` from its beginning: `length` bytes, which must be there, or all of it.
fn hash(file: &File, algorithm: Algorithm, length: Option<u64>) -> Result<Hasher, Failure> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; CHUNK];
    loop {
        let left = length.map_or(CHUNK as u64, |length| length - hasher.len());
        let want = left.min(CHUNK as u64) as usize;
        if want == 0 {
            return Ok(hasher);
        }
        match file.read_at(&mut buffer[..want], hasher.len()) {
            Ok(0) => match length {
                None => return Ok(hasher),
                Some(length) => {
                    let message =
                        format!("hash file: it ends at {} of {length} bytes", hasher.len());
                    return Err(Failure::new(Class::DataLoss, message));
                }
            },
            Ok(read) => hasher.update(&buffer[..read]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Failure::os(e, "read file to hash")),
        }
    }
}
