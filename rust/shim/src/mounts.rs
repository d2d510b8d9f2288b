//! The root file system's mounts.

use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::proto::containerd::types::Mount;

/// Mounts all on `target`, in order; on an error what was mounted is taken down again.
pub fn mount_all(mounts: &[Mount], target: &Path) -> io::Result<()> {
    for mount in mounts {
        if let Err(e) = mount_one(mount, target) {
            let _ = unmount_all(target);
            let text = format!(
                "mount {} {} on {}: {e}",
                mount.r#type,
                mount.source,
                target.display()
            );
            return Err(io::Error::new(e.kind(), text));
        }
    }
    Ok(())
}

fn mount_one(mount: &Mount, target: &Path) -> io::Result<()> {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for option in &mount.options {
        match option.as_str() {
            "ro" => flags |= MountFlags::RDONLY,
            "rw" => {}
            "bind" => flags |= MountFlags::BIND,
            "rbind" => flags |= MountFlags::BIND | MountFlags::REC,
            other => data.push(other),
        }
    }
    if flags.contains(MountFlags::BIND) {
        rustix::mount::mount(
            &mount.source,
            target,
            "",
            flags - MountFlags::RDONLY,
            None::<&std::ffi::CStr>,
        )?;
        if flags.contains(MountFlags::RDONLY) {
            rustix::mount::mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, "")?;
        }
        return Ok(());
    }
    let data = std::ffi::CString::new(data.join(","))?;
    rustix::mount::mount(
        &mount.source,
        target,
        &mount.r#type,
        flags,
        Some(data.as_c_str()),
    )?;
    let _ = MountPropagationFlags::PRIVATE;
    Ok(())
}

/// Takes down everything mounted at `target`; nothing mounted there is fine.
pub fn unmount_all(target: &Path) -> io::Result<()> {
    loop {
        match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}
