//! Layers uncompressed for programs that read tar.

use std::os::fd::RawFd;

use layer::{Compression, UnpackOptions};
use pyo3::prelude::*;

use crate::archive::CancelToken;
use crate::failure::{Class, Failure};
use crate::{descriptor, without_gil};

/// Writes the uncompressed bytes of the layer in `fd` to `sink`; gives diff ID and size.
#[pyfunction]
#[pyo3(signature = (fd, sink, *, compression = "auto", digest = None, size = None, cancel = None))]
pub fn unpack_layer(
    py: Python<'_>,
    fd: RawFd,
    sink: RawFd,
    compression: &str,
    digest: Option<&str>,
    size: Option<u64>,
    cancel: Option<&CancelToken>,
) -> PyResult<(String, u64)> {
    let cancel = cancel.map(CancelToken::flag);
    without_gil(py, || {
        let options = UnpackOptions {
            compression: match compression {
                "auto" => Compression::Auto,
                "none" => Compression::None,
                "gzip" => Compression::Gzip,
                "zstd" => Compression::Zstd,
                other => {
                    let message =
                        format!("compression {other:?} is none of auto, none, gzip, zstd");
                    return Err(Failure::new(Class::InvalidArgument, message));
                }
            },
            expected_digest: digest.map(str::parse).transpose()?,
            expected_size: size,
            cancel,
        };
        let unpacked = layer::unpack(
            descriptor::duplicate(fd)?,
            &descriptor::duplicate(sink)?,
            &options,
        )?;
        Ok((unpacked.diff_id.to_string(), unpacked.bytes))
    })
}
