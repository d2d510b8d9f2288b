//! Project quotas: a limit on what is stored in a folder.
//!
//! A folder is given a project, which everything made in it inherits; the file system counts by project
//! and refuses what would go beyond the project's limit (`EDQUOT`). XFS (mounted with `prjquota`) and ext4
//! (made with the feature `project`, mounted with `prjquota`) have them. Whoever may `CAP_SYS_RESOURCE` is
//! not limited, unless it writes through an overlay.
//!
//! Source: quotactl(2), ioctl_xfs_fsgetxattr(2), `linux/fs.h`, `linux/quota.h`.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result, check};
use crate::mountinfo::mountinfo;

const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801C_581F;
const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401C_5820;
const FS_XFLAG_PROJINHERIT: u32 = 0x200;
const PRJQUOTA: libc::c_int = 2;
/// Limits are in units of this many bytes, whatever the file system's blocks are.
const BLOCK: u64 = 1024;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// What a project uses and may use, in bytes; a limit of 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectUsage {
    /// Bytes allocated.
    pub bytes: u64,
    /// Files and folders.
    pub inodes: u64,
    /// Most bytes.
    pub limit: u64,
}

/// The project of the file or folder `path`; 0 is none.
pub fn project(path: &Path) -> Result<u32> {
    Ok(attributes(&open(path)?, path)?.projid)
}

/// Puts the folder `path` into a project. What is in it already stays where it was.
pub fn set_project(path: &Path, project: u32) -> Result<()> {
    let folder = open(path)?;
    let mut attributes = attributes(&folder, path)?;
    attributes.projid = project;
    attributes.xflags |= FS_XFLAG_PROJINHERIT;
    // SAFETY: the argument is a valid fsxattr that outlives the call.
    let result = unsafe {
        libc::ioctl(
            folder.as_raw_fd(),
            FS_IOC_FSSETXATTR as _,
            &raw const attributes,
        )
    };
    check(result).map_err(|e| failed("set the project of", path, e))
}

/// Limits a project of `path`'s file system to `bytes`, rounded up to KiB; 0 takes the limit away.
pub fn set_project_limit(path: &Path, project: u32, bytes: u64) -> Result<()> {
    let mut quota = empty_quota();
    quota.dqb_bhardlimit = bytes.div_ceil(BLOCK);
    quota.dqb_valid = libc::QIF_BLIMITS;
    quotactl(path, libc::Q_SETQUOTA, project, &mut quota)
        .map_err(|e| failed("set a project quota for", path, e))
}

/// What a project of `path`'s file system uses.
pub fn project_usage(path: &Path, project: u32) -> Result<ProjectUsage> {
    let mut quota = empty_quota();
    quotactl(path, libc::Q_GETQUOTA, project, &mut quota)
        .map_err(|e| failed("read a project quota of", path, e))?;
    Ok(ProjectUsage {
        bytes: quota.dqb_curspace,
        inodes: quota.dqb_curinodes,
        limit: quota.dqb_bhardlimit * BLOCK,
    })
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::io("open", path, e))
}

fn attributes(file: &File, path: &Path) -> Result<FsXattr> {
    let mut found = FsXattr::default();
    // SAFETY: the argument is a valid fsxattr that outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR as _, &raw mut found) };
    check(result).map_err(|e| failed("read the project of", path, e))?;
    Ok(found)
}

fn empty_quota() -> libc::dqblk {
    // SAFETY: all fields are numbers.
    unsafe { mem::zeroed() }
}

fn quotactl(
    path: &Path,
    command: libc::c_int,
    project: u32,
    quota: &mut libc::dqblk,
) -> io::Result<()> {
    let folder = File::open(path)?;
    let command = (command << 8) | PRJQUOTA;
    // SAFETY: the descriptor is open and the argument a valid dqblk that outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            folder.as_raw_fd(),
            command,
            project,
            &raw mut *quota,
        )
    };
    match check(result) {
        // Linux before 5.14, or a file system without any quotas: on what is no device they are absent.
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {
            by_device(&folder, command, project, quota).map_err(|second| {
                match second.raw_os_error() {
                    Some(libc::ENOTBLK | libc::ENOENT | libc::ENODEV) => e,
                    _ => second,
                }
            })
        }
        result => result,
    }
}

fn by_device(
    folder: &File,
    command: libc::c_int,
    project: u32,
    quota: &mut libc::dqblk,
) -> io::Result<()> {
    let device = device_of(folder)?;
    // SAFETY: the path is NUL-terminated and the argument a valid dqblk; both outlive the call.
    check(unsafe {
        libc::quotactl(
            command,
            device.as_ptr(),
            project as libc::c_int,
            (&raw mut *quota).cast(),
        )
    })
}

/// The block device that the file system of `file` is on.
fn device_of(file: &File) -> io::Result<CString> {
    let device = file.metadata()?.dev();
    let number = (libc::major(device), libc::minor(device));
    let mounts = mountinfo().map_err(io::Error::other)?;
    mounts
        .into_iter()
        .find(|mount| (mount.major, mount.minor) == number)
        .and_then(|mount| CString::new(mount.source.into_vec()).ok())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}

fn failed(op: &'static str, path: &Path, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(
            libc::ENOTTY
            | libc::EOPNOTSUPP
            | libc::ESRCH
            | libc::ENOSYS
            | libc::EINVAL
            | libc::ENODEV,
        ) => Error::NoProjectQuotas {
            path: path.to_owned(),
            error,
        },
        _ => Error::io(op, path, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_size() {
        assert_eq!(size_of::<FsXattr>(), 28);
        assert_eq!(size_of::<libc::dqblk>(), 72);
    }

    #[test]
    fn a_file_system_without_quotas_says_so() {
        // Whatever the kernel: proc has no quotas.
        let error = set_project_limit(Path::new("/proc"), 4711, 1 << 20).unwrap_err();
        assert!(
            error.to_string().contains("/proc has no project quotas"),
            "{error}"
        );
        assert!(matches!(
            set_project(Path::new("/proc"), 4711),
            Err(Error::NoProjectQuotas { .. })
        ));
    }

    #[test]
    fn what_is_not_there_is_not_a_matter_of_quotas() {
        let error = project(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
