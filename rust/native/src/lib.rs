//! `containerd_hybrid._native`: thin functions over the crates `layer`, `mounts` and `front`.
//!
//! Every function takes descriptors instead of bytes where there are any, does its work without the
//! GIL, and raises exceptions of `containerd_hybrid.errors`. `_native.pyi` mirrors it.

use pyo3::prelude::*;

mod archive;
mod cached;
mod descriptor;
mod encode;
mod exceptions;
mod failure;
mod front;
mod ingest;
mod memory;
mod mounting;
mod pattern;
mod receive;
mod recipes;
mod tree;
mod unpacking;
mod volumes;

#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::archive::{
        AppliedLayer, CancelToken, DiffedLayer, apply_layer, diff_layers, gzip_backend,
    };
    #[pymodule_export]
    use crate::cached::read_cached;
    #[pymodule_export]
    use crate::encode::WirePlan;
    #[pymodule_export]
    use crate::front::{FrontConnection, FrontRoutes};
    #[pymodule_export]
    use crate::ingest::{Growing, Ingest, hash_file};
    #[pymodule_export]
    use crate::memory::keep_memory_low;
    #[pymodule_export]
    use crate::mounting::{
        MountInfo, mount_all, mount_temporary, mounted, mountinfo, unmount_all, unmount_each,
        unmount_temporary,
    };
    #[pymodule_export]
    use crate::pattern::Pattern;
    #[pymodule_export]
    use crate::receive::{HttpBody, HttpClient, TlsSettings};
    #[pymodule_export]
    use crate::recipes::{make_recipe, read_recipe, rebuild_blob};
    #[pymodule_export]
    use crate::tree::{disk_usage, remove_tree};
    #[pymodule_export]
    use crate::unpacking::unpack_layer;
    #[pymodule_export]
    use crate::volumes::{
        create_subvolume, delete_subvolume, project_id, project_usage, set_project_id,
        set_project_limit, set_subvolume_read_only, subvolume_id,
    };
}

/// Does `work` without the GIL; a failure, and be it a panic, becomes an exception.
fn without_gil<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, failure::Failure> + Send,
) -> PyResult<T> {
    Ok(py.detach(|| failure::guard(work))?)
}
