//! Hard links, and the copy up of what they link to in a lower layer.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::file::Output;
use super::lower::{self, Found};
use super::metadata::{self, Times};
use super::name::{clean, show};
use super::place::Spot;
use super::tree::{Dir, Tree};
use crate::error::{Error, Result};
use crate::sys::{self, split};

impl Spot<'_> {
    /// Links the entry's name to `link`, a name in the tree or else in a lower layer.
    pub(super) fn make_link(
        &self,
        tree: &mut Tree,
        link: &[u8],
        times: &mut Vec<(Vec<u8>, Times)>,
    ) -> Result<()> {
        let target = clean(link)?;
        let missing = || {
            Error::invalid(format!(
                "hard link {} to {}, which is not there",
                show(self.path),
                show(link)
            ))
        };
        let (above, name) = split(&target);
        if name.is_empty() {
            return Err(missing());
        }
        if let Some(from) = tree.find(above)?
            && self.link_from(tree, &from, name, link)?
        {
            return Ok(());
        }
        tree.look_below(&target)?;
        let found = tree.lower().find(above, name, &target)?;
        let Some(found) = found.filter(|_| !tree.hides(&target).unwrap_or(true)) else {
            return Err(missing());
        };
        if !lower::can_be_linked(&found.stat) {
            return Err(self.link_to_directory(link));
        }
        let mut made = |path, t| times.push((path, t));
        let dir = tree.find_or_make(&found.real_dir, &mut made)?;
        copy_up(tree, &found, &dir, name, &target)?;
        match self.link_from(tree, &dir, name, link)? {
            true => Ok(()),
            false => Err(missing()),
        }
    }

    /// False when there is nothing to link to.
    fn link_from(&self, tree: &mut Tree, from: &Dir, name: &[u8], link: &[u8]) -> Result<bool> {
        let stat = match rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if sys::is_dir(&stat) => return Err(self.link_to_directory(link)),
            Ok(stat) if tree.marks().is_whiteout(&stat) => return Ok(false),
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(e) => return Err(Error::io("fstatat", self.path, e)),
        };
        // A name linked to itself, or made twice, is there already; clearing it would lose the file.
        if let Ok(present) = self.stat()
            && (present.st_dev, present.st_ino) == (stat.st_dev, stat.st_ino)
        {
            return Ok(true);
        }
        self.retry(tree, "linkat", || {
            rustix::fs::linkat(from, name, self.dir, self.name, AtFlags::empty())
        })?;
        Ok(true)
    }

    fn link_to_directory(&self, link: &[u8]) -> Error {
        Error::invalid(format!(
            "hard link {} to the directory {}",
            show(self.path),
            show(link)
        ))
    }
}

/// Copies a lower layer's file up, as overlayfs does before it links one.
fn copy_up(tree: &mut Tree, found: &Found, dir: &Dir, name: &[u8], path: &[u8]) -> Result<()> {
    let stat = &found.stat;
    let fail = |op| move |e: Errno| Error::io(op, path, e);
    let times = lower::times(stat);
    let kind = sys::file_type(stat);
    match kind {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source = rustix::fs::openat(&found.dir, name, flags, Mode::empty())
                .map_err(fail("openat"))?;
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let target = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))
                .map_err(fail("openat"))?;
            let mut out = Output {
                fd: target.as_fd(),
                written: 0,
                path,
            };
            let mut buffer = vec![0; 256 * 1024];
            let mut offset = 0;
            loop {
                let n =
                    rustix::io::pread(&source, &mut buffer[..], offset).map_err(fail("read"))?;
                if n == 0 {
                    break;
                }
                out.put(offset, &buffer[..n])?;
                offset += n as u64;
            }
            out.finish(offset)?;
            lower::copy_metadata(source.as_fd(), stat, target.as_fd(), path, tree.marks())?;
            metadata::set_times(target.as_fd(), &times, path)?;
        }
        FileType::Symlink => {
            let link =
                rustix::fs::readlinkat(&found.dir, name, Vec::new()).map_err(fail("readlinkat"))?;
            rustix::fs::symlinkat(&link, dir, name).map_err(fail("symlinkat"))?;
            metadata::chown_at(dir.as_fd(), name, (stat.st_uid, stat.st_gid), path)?;
            metadata::set_times_at(dir.as_fd(), name, &times, path)?;
        }
        _ => {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::mknodat(dir, name, kind, mode, stat.st_rdev).map_err(fail("mknodat"))?;
            metadata::chown_at(dir.as_fd(), name, (stat.st_uid, stat.st_gid), path)?;
            metadata::set_times_at(dir.as_fd(), name, &times, path)?;
        }
    }
    tree.bring(dir, name);
    Ok(())
}
