//! Subvolumes of btrfs: made, copied, taken away.
//!
//! Source: `linux/btrfs.h`, btrfs-ioctl(2).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::fstatfs;

use crate::error::{Error, Result, check};

const BTRFS_IOC_SUBVOL_CREATE: libc::c_ulong = 0x5000_940E;
const BTRFS_IOC_SNAP_DESTROY: libc::c_ulong = 0x5000_940F;
const BTRFS_IOC_INO_LOOKUP: libc::c_ulong = 0xD000_9412;
const BTRFS_IOC_SNAP_CREATE_V2: libc::c_ulong = 0x5000_9417;
const BTRFS_IOC_SUBVOL_GETFLAGS: libc::c_ulong = 0x8008_9419;
const BTRFS_IOC_SUBVOL_SETFLAGS: libc::c_ulong = 0x4008_941A;
const BTRFS_SUBVOL_RDONLY: u64 = 2;
const BTRFS_SUPER_MAGIC: u64 = 0x9123_683E;
/// The inode of every subvolume's top folder.
const FIRST_INODE: u64 = 256;
const NAME_MAX: usize = 255;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct InoLookup {
    treeid: u64,
    objectid: u64,
    name: [u8; 4080],
}

/// Makes an empty subvolume at `path`, mode 0755.
pub fn create_subvolume(path: &Path) -> Result<()> {
    by_name(path, BTRFS_IOC_SUBVOL_CREATE, "make the subvolume")
}

/// Makes a subvolume at `path` with what the subvolume `source` has now.
pub fn snapshot_subvolume(source: &Path, path: &Path, read_only: bool) -> Result<()> {
    let from = open(source)?;
    let (parent, name) = place(path)?;
    let mut args = VolArgsV2 {
        fd: from.as_raw_fd().into(),
        transid: 0,
        flags: if read_only { BTRFS_SUBVOL_RDONLY } else { 0 },
        unused: [0; 4],
        name: [0; 4040],
    };
    args.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the argument is a valid btrfs_ioctl_vol_args_v2 with a terminated name; it outlives the call.
    let result = unsafe {
        libc::ioctl(
            parent.as_raw_fd(),
            BTRFS_IOC_SNAP_CREATE_V2 as _,
            &raw const args,
        )
    };
    check(result).map_err(|e| Error::io("make the snapshot", path, e))
}

/// Takes the subvolume `path` away, read-only or not. It must have no subvolumes in it.
pub fn delete_subvolume(path: &Path) -> Result<()> {
    by_name(path, BTRFS_IOC_SNAP_DESTROY, "delete the subvolume")
}

/// Lets the subvolume `path` be written, or not.
pub fn set_subvolume_read_only(path: &Path, read_only: bool) -> Result<()> {
    let folder = open(path)?;
    let failed = |e| Error::io("change the flags of the subvolume", path, e);
    let mut flags = 0_u64;
    // SAFETY: the argument is a number that outlives the call.
    let got = unsafe {
        libc::ioctl(
            folder.as_raw_fd(),
            BTRFS_IOC_SUBVOL_GETFLAGS as _,
            &raw mut flags,
        )
    };
    check(got).map_err(failed)?;
    let wanted = if read_only {
        flags | BTRFS_SUBVOL_RDONLY
    } else {
        flags & !BTRFS_SUBVOL_RDONLY
    };
    if wanted == flags {
        return Ok(());
    }
    // SAFETY: the argument is a number that outlives the call.
    let set = unsafe {
        libc::ioctl(
            folder.as_raw_fd(),
            BTRFS_IOC_SUBVOL_SETFLAGS as _,
            &raw const wanted,
        )
    };
    check(set).map_err(failed)
}

/// The number of the subvolume `path`, for the mount option `subvolid`; nothing for other folders.
pub fn subvolume_id(path: &Path) -> Result<Option<u64>> {
    let folder = open(path)?;
    let failed = |e: io::Error| Error::io("look up the subvolume", path, e);
    let kind = fstatfs(&folder).map_err(|e| failed(e.into()))?.f_type;
    if kind as u64 != BTRFS_SUPER_MAGIC || folder.metadata().map_err(failed)?.ino() != FIRST_INODE {
        return Ok(None);
    }
    let mut args = InoLookup {
        treeid: 0,
        objectid: FIRST_INODE,
        name: [0; 4080],
    };
    // SAFETY: the argument is a valid btrfs_ioctl_ino_lookup_args that outlives the call.
    let result =
        unsafe { libc::ioctl(folder.as_raw_fd(), BTRFS_IOC_INO_LOOKUP as _, &raw mut args) };
    check(result).map_err(failed)?;
    Ok(Some(args.treeid))
}

/// A request to the folder of `path` about its name there.
fn by_name(path: &Path, request: libc::c_ulong, doing: &'static str) -> Result<()> {
    let (parent, name) = place(path)?;
    let mut args = VolArgs {
        fd: 0,
        name: [0; 4088],
    };
    args.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the argument is a valid btrfs_ioctl_vol_args with a terminated name; it outlives the call.
    let result = unsafe { libc::ioctl(parent.as_raw_fd(), request as _, &raw const args) };
    check(result).map_err(|e| Error::io(doing, path, e))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::io("open", path, e))
}

/// The folder that `path` is in, and its name there.
fn place(path: &Path) -> Result<(File, &OsStr)> {
    let invalid = || {
        let error = io::Error::from_raw_os_error(libc::EINVAL);
        Error::io("name the subvolume", path, error)
    };
    let name = path.file_name().ok_or_else(invalid)?;
    let parent = path.parent().ok_or_else(invalid)?;
    if name.len() > NAME_MAX {
        return Err(invalid());
    }
    Ok((open(parent)?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_size() {
        assert_eq!(size_of::<VolArgs>(), 4096);
        assert_eq!(size_of::<VolArgsV2>(), 4096);
        assert_eq!(size_of::<InoLookup>(), 4096);
    }

    #[test]
    fn other_file_systems_have_no_subvolumes() {
        let folder = Path::new("/proc");
        assert_eq!(subvolume_id(folder).unwrap(), None);
        let error = create_subvolume(&folder.join("new")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("make the subvolume /proc/new: "),
            "{error}"
        );
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        let long = Path::new("/proc").join("x".repeat(256));
        for path in [Path::new("/"), &long] {
            assert_eq!(
                create_subvolume(path).unwrap_err().raw_os_error(),
                Some(libc::EINVAL)
            );
        }
    }
}
