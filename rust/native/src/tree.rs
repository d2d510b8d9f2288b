//! Whole trees: measured, removed.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use pyo3::prelude::*;

use crate::failure::{Class, Failure};
use crate::{descriptor, without_gil};

/// Allocated bytes and inodes of the folder `path` and all below it.
#[pyfunction]
pub fn disk_usage(py: Python<'_>, path: PathBuf) -> PyResult<(u64, u64)> {
    without_gil(py, || {
        let dir = descriptor::folder(&path)?;
        let usage = layer::disk_usage(dir.as_fd()).map_err(|e| {
            Failure::from(e).while_doing(format_args!("disk usage of {}", path.display()))
        })?;
        Ok((usage.bytes, usage.inodes))
    })
}

/// Removes `path` and all below it; says whether there was something.
#[pyfunction]
pub fn remove_tree(py: Python<'_>, path: PathBuf) -> PyResult<bool> {
    without_gil(py, || {
        let Some(name) = path.file_name() else {
            let message = format!("remove {}: it has no name of its own", path.display());
            return Err(Failure::new(Class::InvalidArgument, message));
        };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let parent = match descriptor::folder(parent) {
            Err(failure) if failure.class == Class::NotFound => return Ok(false),
            opened => opened?,
        };
        layer::remove_tree(parent.as_fd(), name)
            .map_err(|e| Failure::from(e).while_doing(format_args!("remove {}", path.display())))
    })
}
