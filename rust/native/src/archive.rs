//! Layers applied and made.

use std::os::fd::{AsFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use layer::{ApplyOptions, Compression, DiffCompression, DiffOptions, Limits, Whiteouts};
use pyo3::prelude::*;

use crate::failure::{Class, Failure};
use crate::ingest::Growing;
use crate::{descriptor, without_gil};

/// Makes the call it is given to end soon, with CallCancelledError. From any thread, at any time.
#[pyclass(frozen, module = "containerd_hybrid._native")]
#[derive(Default)]
pub struct CancelToken {
    flag: Arc<AtomicBool>,
}

#[pymethods]
impl CancelToken {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    fn cancel(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }

    #[getter]
    fn cancelled(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }
}

impl CancelToken {
    /// The flag itself, for what runs without the GIL.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }
}

fn flag(token: Option<&CancelToken>) -> Option<layer::CancelFlag> {
    token.map(CancelToken::flag)
}

/// What was found while a layer was applied. Sizes in bytes.
#[pyclass(frozen, get_all, module = "containerd_hybrid._native")]
pub struct AppliedLayer {
    digest: Option<String>,
    size: u64,
    diff_id: String,
    unpacked_size: u64,
    entries: u64,
    compression: String,
    warnings: Vec<String>,
}

/// Where a layer comes from.
#[derive(FromPyObject)]
pub enum LayerSource<'py> {
    Growing(PyRef<'py, Growing>),
    Descriptor(RawFd),
}

/// Applies the layer that is read from `source` to the folder `target`, in one pass.
#[pyfunction]
#[pyo3(
    signature = (
        source, target, *, compression = "auto", whiteouts = "overlay", parents = vec![], blind = false, digest = None,
        size = None, diff_id = None, max_unpacked = None, max_entries = None, sync = false, cancel = None,
    ),
    text_signature = "(source, target, *, compression='auto', whiteouts='overlay', parents=(), blind=False, digest=None, \
        size=None, diff_id=None, max_unpacked=None, max_entries=None, sync=False, cancel=None)"
)]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub fn apply_layer(
    py: Python<'_>,
    source: LayerSource<'_>,
    target: PathBuf,
    compression: &str,
    whiteouts: &str,
    parents: Vec<PathBuf>,
    blind: bool,
    digest: Option<&str>,
    size: Option<u64>,
    diff_id: Option<&str>,
    max_unpacked: Option<u64>,
    max_entries: Option<u64>,
    sync: bool,
    cancel: Option<&CancelToken>,
) -> PyResult<AppliedLayer> {
    let cancel = flag(cancel);
    let source = match source {
        LayerSource::Growing(growing) => Ok(growing.reader()?),
        LayerSource::Descriptor(fd) => Err(fd),
    };
    without_gil(py, || {
        let options = ApplyOptions {
            compression: match compression {
                "auto" => Compression::Auto,
                "none" => Compression::None,
                "gzip" => Compression::Gzip,
                "zstd" => Compression::Zstd,
                other => return Err(not_one_of("compression", other, "auto, none, gzip, zstd")),
            },
            whiteouts: match whiteouts {
                "overlay" => Whiteouts::Overlay { userxattr: false },
                "overlay-userxattr" => Whiteouts::Overlay { userxattr: true },
                "remove" => Whiteouts::Remove,
                other => {
                    let names = "overlay, overlay-userxattr, remove";
                    return Err(not_one_of("whiteouts", other, names));
                }
            },
            parents,
            blind,
            expected_digest: digest.map(str::parse).transpose()?,
            expected_size: size,
            expected_diff_id: diff_id.map(str::parse).transpose()?,
            limits: Limits {
                max_entries,
                max_unpacked_bytes: max_unpacked,
                ..Limits::default()
            },
            sync,
            cancel,
            ..ApplyOptions::default()
        };
        let root = descriptor::folder(&target)?;
        let applied = match source {
            Ok(growing) => layer::apply_growing(growing, root.as_fd(), options),
            Err(fd) => layer::apply(descriptor::duplicate(fd)?, root.as_fd(), options),
        };
        let applied = applied.map_err(|e| {
            Failure::from(e).while_doing(format_args!("apply layer to {}", target.display()))
        })?;
        Ok(AppliedLayer {
            digest: applied.digest.map(|digest| digest.to_string()),
            size: applied.size,
            diff_id: applied.diff_id.to_string(),
            unpacked_size: applied.unpacked_bytes,
            entries: applied.entries,
            compression: applied.compression.to_string(),
            warnings: applied.warnings,
        })
    })
}

/// The layer that was written. Sizes in bytes.
#[pyclass(frozen, get_all, module = "containerd_hybrid._native")]
pub struct DiffedLayer {
    digest: String,
    size: u64,
    diff_id: String,
    unpacked_size: u64,
}

/// Writes to `fd` the layer that makes `upper` of `lower`.
#[pyfunction]
#[pyo3(signature = (lower, upper, fd, *, compression, level = None, source_date_epoch = None, cancel = None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub fn diff_layers(
    py: Python<'_>,
    lower: Option<PathBuf>,
    upper: PathBuf,
    fd: RawFd,
    compression: &str,
    level: Option<i32>,
    source_date_epoch: Option<i64>,
    cancel: Option<&CancelToken>,
) -> PyResult<DiffedLayer> {
    let cancel = flag(cancel);
    without_gil(py, || {
        let options = DiffOptions {
            compression: match compression {
                "none" => DiffCompression::None,
                "gzip" => DiffCompression::Gzip,
                "zstd" => DiffCompression::Zstd,
                other => return Err(not_one_of("compression", other, "none, gzip, zstd")),
            },
            level,
            source_date_epoch,
            cancel,
            ..DiffOptions::default()
        };
        let sink = descriptor::duplicate(fd)?;
        let below = lower.as_deref().map(descriptor::folder).transpose()?;
        let above = descriptor::folder(&upper)?;
        let below = below.as_ref().map(AsFd::as_fd);
        let diffed = layer::diff(below, above.as_fd(), sink, options).map_err(|e| {
            Failure::from(e).while_doing(format_args!("diff of {}", upper.display()))
        })?;
        Ok(DiffedLayer {
            digest: diffed.digest.to_string(),
            size: diffed.size,
            diff_id: diffed.diff_id.to_string(),
            unpacked_size: diffed.unpacked_bytes,
        })
    })
}

fn not_one_of(what: &str, got: &str, names: &str) -> Failure {
    Failure::new(
        Class::InvalidArgument,
        format!("invalid {what} {got:?}: expected one of {names}"),
    )
}

/// The library that decompresses gzip.
#[pyfunction]
pub fn gzip_backend() -> &'static str {
    layer::gzip_backend()
}
