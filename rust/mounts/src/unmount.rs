//! Unmounting: one mount, or everything on a folder and below it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::error::{Error, Result};
use crate::helper;
use crate::mountinfo::{MountInfo, mountinfo};

/// How long to wait for users of a mount, and what then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Time to try again while it is busy.
    pub wait: Duration,
    /// Then detach it: gone from the tree at once, cleaned up by the kernel when its last user is gone.
    pub lazy: bool,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(1),
            lazy: true,
        }
    }
}

/// Unmounts what is topmost on `target`.
///
/// # Errors
/// [`Error::Io`] with the kernel's answer: EINVAL where nothing is mounted, EBUSY while it is used.
pub fn unmount(target: &Path, flags: UnmountFlags) -> Result<()> {
    match rustix::mount::unmount(target, flags) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) if is_fuse(target) => helper::unmount_fuse(target),
        Err(e) => Err(Error::io("unmount", target, e)),
    }
}

fn is_fuse(target: &Path) -> bool {
    let top = |mounts: Vec<MountInfo>| {
        mounts
            .into_iter()
            .rfind(|mount| mount.mount_point == target)
    };
    mountinfo()
        .ok()
        .and_then(top)
        .is_some_and(|mount| mount.kind == "fuse" || mount.kind.starts_with("fuse."))
}

/// Takes away the topmost mount of each path, the last path first, detaching what is in use already:
/// the way back from [`mount_all`](crate::mount_all).
///
/// # Errors
/// The first [`Error::Io`]; all are tried.
pub fn unmount_each(mount_points: &[PathBuf]) -> Result<()> {
    let mut result = Ok(());
    for point in mount_points.iter().rev() {
        let outcome = match unmount(point, UnmountFlags::NOFOLLOW) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                unmount(point, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
            }
            outcome => outcome,
        };
        result = result.and(outcome);
    }
    result
}

/// Unmounts everything on `target`, however often it is stacked, and everything below it.
///
/// No error when nothing is mounted or `target` does not exist.
///
/// # Errors
/// [`Error::Io`]: something stays mounted. [`Error::Refused`]: `target` is `/`.
pub fn unmount_all(target: &Path, patience: Patience) -> Result<()> {
    let Some(target) = canonical(target)? else {
        return Ok(());
    };
    if target == Path::new("/") {
        return Err(Error::Refused(
            "unmount /: refused, everything is below it".into(),
        ));
    }
    let deadline = Instant::now() + patience.wait;
    let mut pause = Duration::from_millis(2);
    loop {
        let points = mount_points_below(&target)?;
        if points.is_empty() {
            return Ok(());
        }
        let Some(failure) = sweep(&points, UnmountFlags::NOFOLLOW) else {
            continue;
        };
        let busy = failure.raw_os_error() == Some(libc::EBUSY);
        if busy && Instant::now() < deadline {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        } else if !patience.lazy {
            return Err(failure);
        } else if let Some(failure) = sweep(&points, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
        {
            return Err(failure);
        }
    }
}

/// Unmounts each of `points` once; a failure when not one of them could be.
fn sweep(points: &[PathBuf], flags: UnmountFlags) -> Option<Error> {
    let mut failure: Option<Error> = None;
    let mut progress = false;
    for point in points {
        match unmount(point, flags) {
            Ok(()) => progress = true,
            // Taken away meanwhile by somebody else, or with what it was mounted on.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {
                failure.get_or_insert(e);
            }
            Err(e) => failure = Some(e),
        }
    }
    failure.filter(|_| !progress)
}

/// Mount points on and below `target` that can be reached, the deepest first. Those that something is
/// mounted over come to light when that is gone.
fn mount_points_below(target: &Path) -> Result<Vec<PathBuf>> {
    let mut mounts = mountinfo()?;
    mounts.retain(|mount| mount.mount_point.starts_with(target));
    let points: BTreeSet<&Path> = mounts
        .iter()
        .map(|mount| mount.mount_point.as_path())
        .collect();
    let mut points: Vec<_> = points
        .into_iter()
        .filter(|point| is_visible(point, &mounts))
        .map(Path::to_owned)
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().len()));
    Ok(points)
}

/// Whether the path leads to one of the mounts that are listed for it, and not, over a link that was
/// mounted above them, to some other folder of the host.
fn is_visible(point: &Path, mounts: &[MountInfo]) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let fd = match openat2(CWD, point, flags, Mode::empty(), resolve) {
        Ok(fd) => fd,
        Err(e) => return !matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::LOOP),
    };
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    match statx(&fd, "", flags, StatxFlags::MNT_ID) {
        Ok(stat) if stat.stx_mask & StatxFlags::MNT_ID.bits() != 0 => mounts
            .iter()
            .any(|mount| mount.id == stat.stx_mnt_id && mount.mount_point == point),
        // Its server is gone; that the path has no link in it is all there is to know.
        _ => true,
    }
}

/// `path` without links, as mountinfo names it; `None` when it does not exist.
pub(crate) fn canonical(path: &Path) -> Result<Option<PathBuf>> {
    let missing = |e: &std::io::Error| {
        matches!(
            e.kind(),
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
        )
    };
    let error = match path.canonicalize() {
        Ok(path) => return Ok(Some(path)),
        Err(e) if missing(&e) => return Ok(None),
        Err(e) => e,
    };
    // A mount whose server is gone cannot be looked at, but what it is mounted on can.
    match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => Ok(Some(parent.join(name))),
        _ => Err(Error::io("resolve", path, error)),
    }
}
