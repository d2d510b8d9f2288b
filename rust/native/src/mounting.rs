//! Mounts made, taken away, and listed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use mounts::{Mount, Patience, TempMount};
use pyo3::prelude::*;

use crate::failure::{Class, Failure};
use crate::without_gil;

/// Type, source, target, options.
type MountTuple = (String, String, String, Vec<String>);

fn of_tuples(tuples: Vec<MountTuple>) -> Vec<Mount> {
    tuples
        .into_iter()
        .map(|(kind, source, target, options)| Mount {
            kind,
            source,
            target,
            options,
        })
        .collect()
}

/// Mounts all of `mounts` on `target` in order, or nothing; gives the mount points.
#[pyfunction]
pub fn mount_all(
    py: Python<'_>,
    mounts: Vec<MountTuple>,
    target: PathBuf,
) -> PyResult<Vec<OsString>> {
    let mounts = of_tuples(mounts);
    without_gil(py, || {
        let made = mounts::mount_all(&mounts, &target)?;
        Ok(made.into_iter().map(PathBuf::into_os_string).collect())
    })
}

/// Takes back what `mount_all` made, and nothing else.
#[pyfunction]
pub fn unmount_each(py: Python<'_>, mount_points: Vec<PathBuf>) -> PyResult<()> {
    without_gil(py, || Ok(mounts::unmount_each(&mount_points)?))
}

/// Unmounts everything on `target` and below it.
#[pyfunction]
#[pyo3(signature = (target, *, lazy = true, patience = 1.0))]
pub fn unmount_all(py: Python<'_>, target: PathBuf, lazy: bool, patience: f64) -> PyResult<()> {
    without_gil(py, || {
        let wait = Duration::try_from_secs_f64(patience).map_err(|e| {
            Failure::new(
                Class::InvalidArgument,
                format!("invalid patience {patience}: {e}"),
            )
        })?;
        Ok(mounts::unmount_all(&target, Patience { wait, lazy })?)
    })
}

/// Mounts on a new folder below `base`, whose path it gives.
#[pyfunction]
#[pyo3(signature = (mounts, base, prefix = "mount-"))]
pub fn mount_temporary(
    py: Python<'_>,
    mounts: Vec<MountTuple>,
    base: PathBuf,
    prefix: &str,
) -> PyResult<OsString> {
    let mounts = of_tuples(mounts);
    without_gil(py, || {
        Ok(TempMount::new(&mounts, &base, prefix)?
            .keep()
            .into_os_string())
    })
}

/// Takes away what `mount_temporary` made.
#[pyfunction]
pub fn unmount_temporary(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    without_gil(py, || Ok(mounts::remove_temporary(&path)?))
}

/// Whether something is mounted on `path`.
#[pyfunction]
pub fn mounted(py: Python<'_>, path: PathBuf) -> PyResult<bool> {
    without_gil(py, || Ok(mounts::is_mountpoint(&path)?))
}

/// One mount, as /proc/self/mountinfo has it.
#[pyclass(frozen, get_all, module = "containerd_hybrid._native")]
pub struct MountInfo {
    id: u64,
    parent: u64,
    major: u32,
    minor: u32,
    root: OsString,
    mount_point: OsString,
    options: String,
    propagation: Vec<String>,
    r#type: String,
    source: OsString,
    super_options: OsString,
}

/// All mounts of this process, in the kernel's order.
#[pyfunction]
pub fn mountinfo(py: Python<'_>) -> PyResult<Vec<MountInfo>> {
    without_gil(py, || {
        let mounts = mounts::mountinfo()?;
        Ok(mounts.into_iter().map(MountInfo::from).collect())
    })
}

impl From<mounts::MountInfo> for MountInfo {
    fn from(info: mounts::MountInfo) -> Self {
        Self {
            id: info.id,
            parent: info.parent,
            major: info.major,
            minor: info.minor,
            root: info.root.into_os_string(),
            mount_point: info.mount_point.into_os_string(),
            options: info.options,
            propagation: info.propagation,
            r#type: info.kind,
            source: info.source,
            super_options: info.super_options,
        }
    }
}
