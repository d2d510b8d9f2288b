//! The root file system's mounts.
//!
//! The last of them is the root file system; those before it may be what it is made of. A type
//! `format/TYPE` takes templates filled in with where the earlier ones are mounted, `mkdir/TYPE`
//! takes folders to make first: containerd's mount manager has resolved both before a shim hears of
//! a mount, but a client may speak to the shim itself. See [`crate::mount_format`].

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::mounts::{Mount, Patience};

use crate::bundle;
use crate::mount_format::{self, Active};
use crate::proto::containerd::types;

/// Mounts all for the bundle's root file system, in order, or none.
pub fn mount_rootfs(mounts: &[types::Mount], bundle: &Path) -> io::Result<()> {
    let rootfs = bundle.join(bundle::ROOTFS);
    make_folder(&rootfs)?;
    let mounts: Vec<Mount> = mounts.iter().map(from_wire).collect();
    if !mounts
        .iter()
        .any(|mount| mount_format::is_special(&mount.kind))
    {
        return ::mounts::mount_all(&mounts, &rootfs)
            .map(drop)
            .map_err(io::Error::other);
    }
    assemble(&mounts, bundle, &rootfs).inspect_err(|_| {
        let _ = unmount_rootfs(bundle);
    })
}

/// Takes down the root file system, then what it was made of; nothing mounted there is fine.
pub fn unmount_rootfs(bundle: &Path) -> io::Result<()> {
    unmount_all(&bundle.join(bundle::ROOTFS))?;
    let parts = bundle.join(bundle::PARTS);
    let Ok(entries) = std::fs::read_dir(&parts) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        unmount_all(&entry.path())?;
        std::fs::remove_dir(entry.path())?;
    }
    std::fs::remove_dir(&parts)
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

/// Mounts one thing at `target`.
pub fn mount_one(mount: Mount, target: &Path) -> io::Result<()> {
    ::mounts::mount_all(&[mount], target)
        .map(drop)
        .map_err(io::Error::other)
}

fn assemble(mounts: &[Mount], bundle: &Path, rootfs: &Path) -> io::Result<()> {
    let mut active: Vec<Active> = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        let mount = mount_format::resolve(mount, &active)?;
        let last = index + 1 == mounts.len();
        let place = if last {
            rootfs.to_owned()
        } else {
            let place = bundle.join(bundle::PARTS).join(index.to_string());
            std::fs::create_dir_all(&place)?;
            place
        };
        mount_one(mount.clone(), &place)?;
        active.push(Active { mount, place });
    }
    Ok(())
}

fn from_wire(mount: &types::Mount) -> Mount {
    Mount {
        kind: mount.r#type.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

fn make_folder(path: &PathBuf) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o711).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}
