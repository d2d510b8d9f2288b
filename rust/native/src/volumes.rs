//! What single file systems have for snapshotters: project quotas, subvolumes of btrfs.

use std::path::PathBuf;

use pyo3::prelude::*;

use crate::without_gil;

/// The project of a file or folder.
#[pyfunction]
pub fn project_id(py: Python<'_>, path: PathBuf) -> PyResult<u32> {
    without_gil(py, || Ok(mounts::project(&path)?))
}

/// Puts a folder, and what will be made in it, into a project.
#[pyfunction]
pub fn set_project_id(py: Python<'_>, path: PathBuf, project: u32) -> PyResult<()> {
    without_gil(py, || Ok(mounts::set_project(&path, project)?))
}

/// Limits a project to so many bytes.
#[pyfunction]
pub fn set_project_limit(py: Python<'_>, path: PathBuf, project: u32, bytes: u64) -> PyResult<()> {
    without_gil(py, || Ok(mounts::set_project_limit(&path, project, bytes)?))
}

/// Bytes, inodes and limit of a project.
#[pyfunction]
pub fn project_usage(py: Python<'_>, path: PathBuf, project: u32) -> PyResult<(u64, u64, u64)> {
    without_gil(py, || {
        let usage = mounts::project_usage(&path, project)?;
        Ok((usage.bytes, usage.inodes, usage.limit))
    })
}

/// Makes an empty subvolume, or one with what `source` has.
#[pyfunction]
#[pyo3(signature = (path, source = None, *, read_only = false))]
pub fn create_subvolume(
    py: Python<'_>,
    path: PathBuf,
    source: Option<PathBuf>,
    read_only: bool,
) -> PyResult<()> {
    without_gil(py, || {
        match source {
            Some(source) => mounts::snapshot_subvolume(&source, &path, read_only)?,
            None => {
                mounts::create_subvolume(&path)?;
                if read_only {
                    mounts::set_subvolume_read_only(&path, true)?;
                }
            }
        }
        Ok(())
    })
}

/// Takes a subvolume away.
#[pyfunction]
pub fn delete_subvolume(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    without_gil(py, || Ok(mounts::delete_subvolume(&path)?))
}

/// Lets a subvolume be written, or not.
#[pyfunction]
pub fn set_subvolume_read_only(py: Python<'_>, path: PathBuf, read_only: bool) -> PyResult<()> {
    without_gil(py, || {
        Ok(mounts::set_subvolume_read_only(&path, read_only)?)
    })
}

/// The number of a subvolume; nothing for other folders.
#[pyfunction]
pub fn subvolume_id(py: Python<'_>, path: PathBuf) -> PyResult<Option<u64>> {
    without_gil(py, || Ok(mounts::subvolume_id(&path)?))
}
