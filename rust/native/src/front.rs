//! A gRPC connection for Python: events are tuples whose first item is their kind.

use std::sync::Arc;

use front::{Call, Connection, Event, Limits, Routes};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyList, PyString, PyTuple};

/// The methods of a server, by their place in the list.
#[pyclass(frozen, module = "containerd_hybrid._native")]
pub struct FrontRoutes(Arc<Routes>);

#[pymethods]
impl FrontRoutes {
    #[new]
    fn new(methods: Vec<(String, bool)>) -> Self {
        Self(Arc::new(Routes::new(methods)))
    }
}

/// See the crate `front`.
#[pyclass(module = "containerd_hybrid._native")]
pub struct FrontConnection(Connection);

#[pymethods]
impl FrontConnection {
    #[new]
    fn new(routes: &FrontRoutes, max_receive: usize) -> Self {
        let limits = Limits {
            max_receive,
            partial: (4 * max_receive).max(Limits::default().partial),
            ..Limits::default()
        };
        Self(Connection::new(Arc::clone(&routes.0), limits))
    }

    fn feed<'py>(
        &mut self,
        py: Python<'py>,
        buffer: &Bound<'py, PyByteArray>,
        length: usize,
        now: f64,
    ) -> PyResult<Bound<'py, PyList>> {
        // SAFETY: the interpreter's lock is held and no Python code runs while the slice is used, so
        // nobody resizes or writes the array.
        let bytes = unsafe { buffer.as_bytes() };
        let bytes = bytes
            .get(..length)
            .ok_or_else(|| PyValueError::new_err("longer than the buffer"))?;
        let events = self.0.feed(bytes, now);
        tuples(py, events)
    }

    #[pyo3(signature = (stream, message, initial=None, trailing=None))]
    fn respond(
        &mut self,
        stream: u32,
        message: &[u8],
        initial: Option<Vec<(String, String)>>,
        trailing: Option<Vec<(String, String)>>,
    ) {
        self.0.respond(
            stream,
            &borrowed(initial.as_ref()),
            message,
            &borrowed(trailing.as_ref()),
        );
    }

    #[pyo3(signature = (stream, message, initial=None))]
    fn send(
        &mut self,
        stream: u32,
        message: &[u8],
        initial: Option<Vec<(String, String)>>,
    ) -> bool {
        self.0.send(stream, &borrowed(initial.as_ref()), message)
    }

    #[pyo3(signature = (stream, code, message, initial=None, trailing=None))]
    fn finish(
        &mut self,
        stream: u32,
        code: u32,
        message: &str,
        initial: Option<Vec<(String, String)>>,
        trailing: Option<Vec<(String, String)>>,
    ) {
        let (initial, trailing) = (borrowed(initial.as_ref()), borrowed(trailing.as_ref()));
        self.0.finish(stream, &initial, code, message, &trailing);
    }

    fn consumed(&mut self, stream: u32, length: usize) {
        self.0.consumed(stream, length);
    }

    fn forget(&mut self) {
        self.0.forget();
    }

    fn drain(&mut self) {
        self.0.drain();
    }

    fn output<'py>(
        &mut self,
        py: Python<'py>,
        limit: usize,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyList>)> {
        let (bytes, events) = self.0.output(limit);
        Ok((PyBytes::new(py, &bytes), tuples(py, events)?))
    }

    #[getter]
    fn closed(&self) -> bool {
        self.0.is_closed()
    }

    #[getter]
    fn idle(&self) -> bool {
        self.0.is_idle()
    }
}

fn borrowed(fields: Option<&Vec<(String, String)>>) -> Vec<(&str, &str)> {
    let fields = fields.map(Vec::as_slice).unwrap_or_default();
    fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

fn tuples(py: Python<'_>, events: Vec<Event>) -> PyResult<Bound<'_, PyList>> {
    let tuples: Vec<_> = events
        .into_iter()
        .map(|event| tuple(py, event))
        .collect::<PyResult<_>>()?;
    PyList::new(py, tuples)
}

/// The kinds are those of `rpc/front/events.py`.
fn tuple(py: Python<'_>, event: Event) -> PyResult<Bound<'_, PyTuple>> {
    match event {
        Event::Call(call) => call_tuple(py, call),
        Event::Unknown { stream, path } => (1, stream, path).into_pyobject(py),
        Event::Message { stream, message } => (
            2,
            stream,
            PyBytes::new(py, &message.bytes),
            message.compressed,
        )
            .into_pyobject(py),
        Event::HalfClosed { stream } => (3, stream).into_pyobject(py),
        Event::Reset { stream } => (4, stream).into_pyobject(py),
        Event::Writable { stream } => (5, stream).into_pyobject(py),
        Event::Closed { reason } => (6, reason).into_pyobject(py),
    }
}

fn call_tuple(py: Python<'_>, call: Call) -> PyResult<Bound<'_, PyTuple>> {
    let metadata = PyDict::new(py);
    for (name, value) in &call.metadata {
        metadata.set_item(PyString::new(py, name), PyString::new(py, value))?;
    }
    let timeout = call.timeout.map(|timeout| timeout.as_secs_f64());
    let (payload, compressed) = match &call.message {
        Some(message) => (Some(PyBytes::new(py, &message.bytes)), message.compressed),
        None => (None, false),
    };
    (
        0,
        call.stream,
        call.method,
        metadata,
        timeout,
        payload,
        compressed,
    )
        .into_pyobject(py)
}
