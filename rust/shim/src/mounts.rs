//! The root file system's mounts.

use std::io;
use std::path::Path;
use std::time::Duration;

use ::mounts::{Mount, Patience};

use crate::proto::containerd::types;

/// Mounts all on `target`, in order, or none.
pub fn mount_all(mounts: &[types::Mount], target: &Path) -> io::Result<()> {
    let mounts: Vec<Mount> = mounts
        .iter()
        .map(|mount| Mount {
            kind: mount.r#type.clone(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            options: mount.options.clone(),
        })
        .collect();
    ::mounts::mount_all(&mounts, target)
        .map(drop)
        .map_err(io::Error::other)
}

/// Takes down everything mounted at `target`; nothing mounted there is fine.
///
/// What is still in use is detached rather than waited for: nothing may hold up the event loop, and
/// the kernel finishes when the last user is gone.
pub fn unmount_all(target: &Path) -> io::Result<()> {
    let patience = Patience {
        wait: Duration::ZERO,
        lazy: true,
    };
    ::mounts::unmount_all(target, patience).map_err(io::Error::other)
}
