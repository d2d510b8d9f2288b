//! Bodies of answers, received by Rust: only heads are seen by Python.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::archive::CancelToken;
use crate::failure::{Class, Failure};
use crate::without_gil;

/// Bytes gathered before they are handed on, and how long at most they wait for more.
const PIECE: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_millis(50);
const BUFFER: usize = 128 * 1024;

/// Whom to trust and who we are, for connections that share it.
#[pyclass(frozen, module = "containerd_hybrid._native")]
pub struct TlsSettings {
    tls: fetch::Tls,
}

#[pymethods]
impl TlsSettings {
    #[new]
    #[pyo3(signature = (authorities, client = None, *, verify = true))]
    fn new(
        py: Python<'_>,
        authorities: Vec<Vec<u8>>,
        client: Option<(Vec<u8>, Vec<u8>)>,
        verify: bool,
    ) -> PyResult<Self> {
        let files = fetch::TlsFiles {
            authorities,
            client,
            verify,
        };
        without_gil(py, || {
            let tls = fetch::Tls::new(&files).map_err(|e| opening(&e))?;
            Ok(Self { tls })
        })
    }
}

/// Connections for bodies; idle ones are used again.
#[pyclass(frozen, module = "containerd_hybrid._native")]
#[derive(Default)]
pub struct HttpClient {
    client: Arc<fetch::Client>,
}

#[pymethods]
impl HttpClient {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Sends a request and reads the head of its answer.
    #[pyo3(signature = (method, host, port, target, headers, *, body = None, tls = None, proxy = None, dial, idle, slow, slow_bytes, cancel))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn request(
        &self,
        py: Python<'_>,
        method: &str,
        host: String,
        port: u16,
        target: &str,
        headers: Vec<(String, String)>,
        body: Option<Vec<u8>>,
        tls: Option<&TlsSettings>,
        proxy: Option<(String, u16, String)>,
        dial: f64,
        idle: f64,
        slow: f64,
        slow_bytes: u64,
        cancel: &CancelToken,
    ) -> PyResult<HttpBody> {
        let place = fetch::Place {
            host,
            port,
            tls: tls.map(|settings| settings.tls.clone()),
            proxy: proxy.map(|(host, port, authorization)| fetch::Proxy {
                host,
                port,
                authorization,
            }),
        };
        let cancel = cancel.flag();
        without_gil(py, || {
            let limits = fetch::Limits {
                dial: seconds(dial)?,
                idle: seconds(idle)?,
                slow: seconds(slow)?,
                slow_bytes,
            };
            let request = fetch::Request {
                method,
                target,
                headers: &headers,
                body: body.as_deref(),
            };
            let response = self
                .client
                .send(&place, &request, limits, &cancel)
                .map_err(|e| opening(&e))?;
            Ok(HttpBody {
                status: response.status(),
                headers: response.headers().to_vec(),
                response: Mutex::new(Some(response)),
                cancel,
            })
        })
    }

    /// Ends all idle connections.
    fn close(&self) {
        self.client.close();
    }
}

/// An answer whose body is still to be received.
#[pyclass(frozen, module = "containerd_hybrid._native")]
pub struct HttpBody {
    #[pyo3(get)]
    status: u16,
    #[pyo3(get)]
    headers: Vec<(String, String)>,
    /// Never waited for: a second reader is an error of the caller's.
    response: Mutex<Option<fetch::Response>>,
    cancel: fetch::CancelFlag,
}

#[pymethods]
impl HttpBody {
    /// Some bytes of the body, at most `size`; empty at its end.
    fn read<'py>(&self, py: Python<'py>, size: usize) -> PyResult<Bound<'py, PyBytes>> {
        let mut response = self.lock()?;
        let response = open(&mut response)?;
        let data = without_gil(py, || {
            let mut buffer = vec![0; size.min(BUFFER)];
            let read = response.read(&mut buffer);
            buffer.truncate(read.map_err(|e| reading(&e))?);
            Ok(buffer)
        })?;
        Ok(PyBytes::new(py, &data))
    }

    /// Ends a call that is running, and the connection. From any thread, at any time.
    fn close(&self) {
        self.cancel.store(true, Ordering::Relaxed);
        if let Ok(mut response) = self.response.try_lock() {
            response.take();
        }
    }
}

impl HttpBody {
    fn lock(&self) -> Result<MutexGuard<'_, Option<fetch::Response>>, Failure> {
        match self.response.try_lock() {
            Ok(guard) => Ok(guard),
            Err(TryLockError::Poisoned(guard)) => Ok(guard.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Failure::new(
                Class::Unavailable,
                "the body is being read by another thread",
            )),
        }
    }

    /// Hands the body to `take`, piece by piece, what came before a failure included.
    ///
    /// More than `limit` bytes are an error, and not handed on.
    pub fn receive(
        &self,
        limit: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<u64, Failure> {
        let mut response = self.lock()?;
        let response = open(&mut response)?;
        let mut buffer = vec![0; BUFFER];
        let (mut received, mut filled) = (0, 0);
        let mut since = Instant::now();
        loop {
            let read = response.read(&mut buffer[filled..]);
            filled += *read.as_ref().unwrap_or(&0);
            let over = received + filled as u64 > limit;
            if over {
                filled = usize::try_from(limit - received).unwrap_or(filled);
            }
            let ended = !matches!(read, Ok(1..)) || over;
            if filled > 0 && (ended || filled >= PIECE || since.elapsed() >= PATIENCE) {
                take(&buffer[..filled])?;
                received += filled as u64;
                filled = 0;
                since = Instant::now();
            }
            if over {
                let message = format!("more than {limit} bytes came");
                return Err(Failure::new(Class::SizeMismatch, message));
            }
            match read {
                Ok(0) => return Ok(received),
                Ok(_) => {}
                Err(error) => return Err(reading(&error)),
            }
        }
    }
}

fn open(response: &mut Option<fetch::Response>) -> Result<&mut fetch::Response, Failure> {
    response
        .as_mut()
        .ok_or_else(|| Failure::new(Class::Cancelled, "the body is closed"))
}

fn seconds(value: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(value).map_err(|e| {
        Failure::new(
            Class::InvalidArgument,
            format!("invalid seconds {value}: {e}"),
        )
    })
}

/// Before the body: what another TLS library may do better is told apart.
fn opening(error: &fetch::Error) -> Failure {
    let class = match error {
        fetch::Error::Tls(_) | fetch::Error::Certificate(_) | fetch::Error::Protocol(_) => {
            Class::FailedPrecondition
        }
        fetch::Error::Cancelled => Class::Cancelled,
        _ => Class::Unavailable,
    };
    Failure::new(class, error.to_string())
}

fn reading(error: &fetch::Error) -> Failure {
    let class = match error {
        fetch::Error::Cancelled => Class::Cancelled,
        _ => Class::Unavailable,
    };
    Failure::new(class, error.to_string())
}
