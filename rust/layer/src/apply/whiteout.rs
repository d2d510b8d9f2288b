//! What deletions look like in the target tree, and carrying them out.

use std::ffi::{CStr, OsStr};
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

    /// Whether the tree is an overlay's upper directory.
    pub(crate) fn is_overlay(self) -> bool {
        matches!(self.0, Whiteouts::Overlay { .. })
    }

    /// Whether `stat` describes an overlay's whiteout: a character device 0/0.
    pub(crate) fn is_whiteout(self, stat: &Stat) -> bool {
        self.is_overlay() && is_whiteout(stat)
    }

    fn opaque_name(self) -> Option<&'static CStr> {
        match self.0 {
            Whiteouts::Remove => None,
            Whiteouts::Overlay { userxattr: false } => Some(c"trusted.overlay.opaque"),
            Whiteouts::Overlay { userxattr: true } => Some(c"user.overlay.opaque"),
        }
    }

    /// Whether this directory hides what the lower layers have in it.
    pub(crate) fn is_opaque(self, dir: BorrowedFd<'_>) -> bool {
        let mut value = [0; 2];
        self.opaque_name().is_some_and(|name| {
            rustix::fs::fgetxattr(dir, name, &mut value) == Ok(1) && value[0] == b'y'
        })
    }

    /// Hides what the lower layers have in this directory.
    pub(crate) fn set_opaque(self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
        let Some(name) = self.opaque_name() else {
            return Ok(());
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
        Ok(stat) if sys::is_dir(&stat) => {
            if tree.brought(dir, name) {
                return make_opaque(tree, open_dir(dir.as_fd(), name, path)?, path);
            }
            let fd = open_dir(dir.as_fd(), name, path)?;
            if purge(tree, fd.as_fd(), path)? {
                return tree.marks().set_opaque(fd.as_fd(), path);
            }
            rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
                .map_err(|e| Error::io("unlinkat", path, e))?;
        }
        Ok(stat) if tree.brought(dir, name) || tree.marks().is_whiteout(&stat) => return Ok(()),
        Ok(stat) => clear(tree, dir, name, path, &stat)?,
    }
    if !tree.marks().is_overlay() || !shows_through(tree, dir, name, path)? {
        return Ok(());
    }
    rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
        .map_err(|e| Error::io("mknodat", path, e))?;
    if let Some(owner) = owner.filter(|&owner| owner != (0, 0)) {
        metadata::chown_at(dir.as_fd(), name, owner, path)?;
    }
    tree.bring(dir, name);
    Ok(())
}

/// Whether a lower layer's `name` would be seen without a mark. A mark with nothing below it does harm:
/// in a directory that is not merged, overlayfs lists its own marks as names that cannot be opened.
fn shows_through(tree: &mut Tree, dir: &Dir, name: &[u8], path: &[u8]) -> Result<bool> {
    tree.look_below(path)?;
    if tree.lower().is_empty() {
        // Nobody told what is below.
        return Ok(true);
    }
    let real = tree.real_path(dir, path)?;
    Ok(tree.lower().find(&real, name, path)?.is_some() && !tree.hides(&real)?)
}

/// `.wh..wh..opq`: hides or deletes what the lower layers have in `dir`, at any depth.
pub(crate) fn make_opaque(tree: &mut Tree, dir: OwnedFd, path: &[u8]) -> Result<()> {
    purge(tree, dir.as_fd(), path)?;
    if !path.is_empty() || !tree.marks().is_overlay() {
        return tree.marks().set_opaque(dir.as_fd(), path);
    }
    tree.look_below(path)?;
    // The root of an overlay is always merged: each name below it needs a mark of its own.
    let root = tree.root();
    for name in tree.lower().names()? {
        delete(tree, &root, &name, &name, None)?;
    }
    Ok(())
}

/// A directory met by [`purge`].
struct Met {
    /// Path below the top.
    path: Vec<u8>,
    /// Index of its parent.
    parent: usize,
    /// This layer brought it, or something below it.
    stays: bool,
}

/// Empties a directory of all that is older than this layer, and of an overlay's marks, which mean
/// nothing below an opaque directory. True when something of this layer is left.
fn purge(tree: &mut Tree, top: BorrowedFd<'_>, path: &[u8]) -> Result<bool> {
    let marks = tree.marks();
    let mut met = vec![Met {
        path: Vec::new(),
        parent: 0,
        stays: false,
    }];
    let mut next = 0;
    while next < met.len() {
        let below = met[next].path.clone();
        let at = Dir::tracked(sys::open_dir_below(top, &below, true)?, path)?;
        let mut names = Vec::new();
        sys::for_each_name(at.as_fd(), path, |name, _| {
            names.push(name.to_bytes().to_vec());
            Ok(())
        })?;
        for name in names {
            let full = join(path, &join(&below, &name));
            let stat = rustix::fs::statat(&at, &name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| Error::io("fstatat", &full, e))?;
            let stays = tree.brought(&at, &name);
            if sys::is_dir(&stat) {
                met.push(Met {
                    path: join(&below, &name),
                    parent: next,
                    stays,
                });
            } else if stays && !marks.is_whiteout(&stat) {
                met[next].stays = true;
            } else {
                clear(tree, &at, &name, &full, &stat)?;
            }
        }
        next += 1;
    }
    for i in (1..met.len()).rev() {
        let Met {
            path: below,
            parent,
            stays,
        } = &met[i];
        let parent = *parent;
        if *stays {
            met[parent].stays = true;
            continue;
        }
        tree.forget();
        let (above, name) = sys::split(below);
        let at = sys::open_dir_below(top, above, true)?;
        rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR)
            .map_err(|e| Error::io("unlinkat", &join(path, below), e))?;
    }
    Ok(met[0].stays)
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
