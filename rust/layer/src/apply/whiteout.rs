//! What deletions look like in the target tree, and carrying them out.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, Stat, XattrFlags};
use rustix::io::Errno;

use super::tree::{Dir, Tree, open_dir};
use super::{Whiteouts, metadata};
use crate::error::{Error, Result};
use crate::remove::remove_tree;
use crate::sys::{self, join};

/// How the target tree marks deletions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marks(Whiteouts);

impl Marks {
    pub(crate) fn new(whiteouts: Whiteouts) -> Self {
        Self(whiteouts)
    }

    /// Whether an archive or a lower directory may not bring this attribute: `trusted.*` belongs to
    /// the host's administrator, and an overlay's own attributes steer the overlay.
    pub(crate) fn reserves(self, xattr: &[u8]) -> bool {
        let userxattr = matches!(self.0, Whiteouts::Overlay { userxattr: true });
        xattr.starts_with(b"trusted.") || (userxattr && xattr.starts_with(b"user.overlay."))
    }

    /// Whether `name` in `dir` is an overlay's whiteout.
    pub(crate) fn is_whiteout(self, dir: BorrowedFd<'_>, name: &[u8]) -> bool {
        matches!(self.0, Whiteouts::Overlay { .. })
            && rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| is_whiteout(&stat))
    }

    /// Hides what the lower layers have in this directory.
    pub(crate) fn set_opaque(self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
        let name = match self.0 {
            Whiteouts::Remove => return Ok(()),
            Whiteouts::Overlay { userxattr: false } => c"trusted.overlay.opaque",
            Whiteouts::Overlay { userxattr: true } => c"user.overlay.opaque",
        };
        rustix::fs::fsetxattr(dir, name, b"y", XattrFlags::empty())
            .map_err(|e| Error::io("fsetxattr", path, e))
    }
}

/// overlayfs' whiteout: a character device 0/0.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    sys::file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// `.wh.NAME`: hides or deletes `name` of the lower layers. What this layer brought under that name
/// stays (OCI `layer.md`: a whiteout applies to lower layers only). `path` is the name's full path.
pub(crate) fn delete(
    tree: &mut Tree,
    dir: &Dir,
    name: &[u8],
    path: &[u8],
    owner: Option<(u32, u32)>,
) -> Result<()> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => {}
        Err(e) => return Err(Error::io("fstatat", path, e)),
        Ok(stat) if tree.brought(dir, name) => {
            return match sys::is_dir(&stat) {
                true => make_opaque(tree, open_dir(dir.as_fd(), name, path)?, path),
                false => Ok(()),
            };
        }
        Ok(stat) => clear(tree, dir, name, path, &stat)?,
    }
    if let Whiteouts::Overlay { .. } = tree.marks().0 {
        rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
            .map_err(|e| Error::io("mknodat", path, e))?;
        if let Some(owner) = owner.filter(|&owner| owner != (0, 0)) {
            metadata::chown_at(dir.as_fd(), name, owner, path)?;
        }
        tree.bring(dir, name);
    }
    Ok(())
}

/// `.wh..wh..opq`: hides or deletes what the lower layers have in `dir`, at any depth.
pub(crate) fn make_opaque(tree: &mut Tree, dir: OwnedFd, path: &[u8]) -> Result<()> {
    tree.marks().set_opaque(dir.as_fd(), path)?;
    if !tree.has_older() {
        return Ok(());
    }
    let mut pending = vec![Vec::new()];
    while let Some(below) = pending.pop() {
        let fd = sys::open_dir_below(dir.as_fd(), &below, true)?;
        let at = Dir::tracked(fd, path)?;
        let mut names = Vec::new();
        sys::for_each_name(at.as_fd(), path, |name, _| {
            names.push(name.to_owned());
            Ok(())
        })?;
        for name in names {
            let name = name.as_bytes();
            let stat = rustix::fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| Error::io("fstatat", &join(path, name), e))?;
            if !tree.brought(&at, name) {
                clear(tree, &at, name, &join(path, name), &stat)?;
            } else if sys::is_dir(&stat) {
                pending.push(join(&below, name));
            }
        }
    }
    Ok(())
}

/// Removes `name`, whatever `stat` says it is, with all below it.
pub(crate) fn clear(
    tree: &mut Tree,
    dir: &Dir,
    name: &[u8],
    path: &[u8],
    stat: &Stat,
) -> Result<()> {
    match sys::file_type(stat) {
        FileType::Directory => {
            tree.forget();
            remove_tree(dir.as_fd(), OsStr::from_bytes(name))?;
            return Ok(());
        }
        FileType::Symlink => tree.forget(),
        _ => {}
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::io("unlinkat", path, e)),
    }
}
