//! Blobs made again from what they were unpacked to.

use std::os::fd::{AsFd, RawFd};
use std::path::PathBuf;

use layer::recipe::{Made, MakeOptions, make, rebuild};
use pyo3::prelude::*;

use crate::archive::CancelToken;
use crate::{descriptor, without_gil};

/// Writes to the empty file `sink` a recipe for the blob in `fd`, whose files are in `folder`.
#[pyfunction]
#[pyo3(signature = (fd, folder, sink, *, digest, size, place, sync = false, cancel = None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub fn make_recipe(
    py: Python<'_>,
    fd: RawFd,
    folder: PathBuf,
    sink: RawFd,
    digest: &str,
    size: u64,
    place: String,
    sync: bool,
    cancel: Option<&CancelToken>,
) -> PyResult<(bool, String)> {
    let cancel = cancel.map(CancelToken::flag);
    without_gil(py, || {
        let options = MakeOptions {
            digest: digest.parse()?,
            size,
            folder: place,
            sync,
            cancel,
        };
        let made = make(
            &descriptor::duplicate(fd)?,
            descriptor::folder(&folder)?.as_fd(),
            &descriptor::duplicate(sink)?,
            &options,
        )?;
        Ok(match made {
            Made::Recipe { encoding, .. } => (true, encoding.to_string()),
            Made::Kept(why) => (false, why.to_owned()),
        })
    })
}

/// Writes to `sink` the blob that the recipe in `fd` makes with the files of `folder`.
#[pyfunction]
#[pyo3(signature = (fd, folder, sink, *, cancel = None))]
pub fn rebuild_blob(
    py: Python<'_>,
    fd: RawFd,
    folder: PathBuf,
    sink: RawFd,
    cancel: Option<&CancelToken>,
) -> PyResult<()> {
    let cancel = cancel.map(CancelToken::flag);
    without_gil(py, || {
        rebuild(
            &descriptor::duplicate(fd)?,
            descriptor::folder(&folder)?.as_fd(),
            &descriptor::duplicate(sink)?,
            cancel.as_ref(),
        )?;
        Ok(())
    })
}

/// Digest, size and place of the recipe in `fd`.
#[pyfunction]
pub fn read_recipe(py: Python<'_>, fd: RawFd) -> PyResult<(String, u64, String)> {
    without_gil(py, || {
        let header = layer::recipe::Header::read(&descriptor::duplicate(fd)?)?;
        Ok((header.digest.to_string(), header.size, header.folder))
    })
}
