//! Puts one entry after the other into the tree.

use std::os::fd::AsFd;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::file;
use super::metadata::{self, Times, Wanted};
use super::name::{Purpose, clean, purpose, show};
use super::tree::{Dir, Tree, open_dir};
use super::whiteout;
use super::{ApplyOptions, Limits};
use crate::error::{Error, Result};
use crate::sys::{self, join, split};
use crate::tar::{Entry, Kind, Reader, Stream};

/// Messages kept for the caller.
const MAX_WARNINGS: usize = 32;

/// Applies entries to a tree; [`Placer::finish`] ends it.
pub(crate) struct Placer {
    tree: Tree,
    limits: Limits,
    same_owner: bool,
    /// Creating devices is not allowed in user namespaces; containerd skips them there, so do we.
    skip_devices: bool,
    /// Times of directories, set last: each file that is put into a directory changes them.
    times: Vec<(Vec<u8>, Times)>,
    pub entries: u64,
    pub warnings: Vec<String>,
}

impl Placer {
    pub(crate) fn new(tree: Tree, options: &ApplyOptions) -> Self {
        Self {
            tree,
            limits: options.limits,
            same_owner: options.same_owner,
            skip_devices: in_user_namespace(),
            times: Vec::new(),
            entries: 0,
            warnings: Vec::new(),
        }
    }

    /// Puts `entry` in its place, reading its content from `reader`.
    pub(crate) fn place<S: Stream>(&mut self, entry: &Entry, reader: &mut Reader<S>) -> Result<()> {
        self.entries += 1;
        if let Some(limit) = self.limits.max_entries.filter(|&max| self.entries > max) {
            let what = "entries";
            return Err(Error::LimitExceeded { what, limit });
        }
        let path = clean(&entry.path)?;
        if path.len() > self.limits.max_path {
            return Err(Error::LimitExceeded {
                what: "bytes of path",
                limit: self.limits.max_path as u64,
            });
        }
        if path.is_empty() {
            // The root itself belongs to the snapshotter, as with containerd.
            return Ok(());
        }
        let purpose = purpose(&path)?;
        if purpose == Purpose::Bookkeeping || self.is_skipped(entry) {
            return Ok(());
        }
        let (above, name) = split(&path);
        let times = &mut self.times;
        let dir = self
            .tree
            .find_or_make(above, &mut |path, t| times.push((path, t)))?;
        match purpose {
            Purpose::Bookkeeping => {}
            Purpose::Opaque => {
                let fd = open_dir(dir.as_fd(), b".", above)?;
                let real = self.tree.real_path(&dir, above)?;
                whiteout::make_opaque(&mut self.tree, fd, &real)?;
            }
            Purpose::Delete(target) => {
                let owner = self
                    .same_owner
                    .then(|| metadata::owner(entry))
                    .transpose()?;
                whiteout::delete(&mut self.tree, &dir, target, &join(above, target), owner)?;
            }
            Purpose::Create => {
                let at = Spot {
                    dir: &dir,
                    name,
                    path: &path,
                };
                self.create(entry, reader, &at)?;
                self.tree.bring(&dir, name);
            }
        }
        Ok(())
    }

    /// Sets the directories' times and hands out the warnings.
    pub(crate) fn finish(mut self) -> Result<Placed> {
        for (path, times) in std::mem::take(&mut self.times) {
            let (above, name) = split(&path);
            let dir = match self.tree.find(above) {
                Ok(Some(dir)) => dir,
                // What led there was replaced, perhaps by links in a circle.
                Ok(None) => continue,
                Err(_) if self.tree.forgot => continue,
                Err(error) => return Err(error),
            };
            // Later entries may have put something else here, with times of its own.
            if self.tree.forgot
                && !rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| sys::is_dir(&stat))
            {
                continue;
            }
            metadata::set_times_at(dir.as_fd(), name, &times, &path)?;
        }
        Ok(Placed {
            entries: self.entries,
            warnings: self.warnings,
        })
    }

    fn is_skipped(&mut self, entry: &Entry) -> bool {
        let why = match entry.kind {
            Kind::Other(b'V' | b'M' | b'N') => return true,
            Kind::Other(flag) => format!("entry type {:?} is unknown", char::from(flag)),
            Kind::Char | Kind::Block if self.skip_devices => {
                "devices cannot be made in a user namespace".to_owned()
            }
            _ => return false,
        };
        self.warn(format!("{} left out: {why}", show(&entry.path)));
        true
    }

    fn warn(&mut self, message: String) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(message);
        }
    }

    fn create<S: Stream>(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<S>,
        at: &Spot<'_>,
    ) -> Result<()> {
        let wanted = Wanted::of(entry, self.same_owner, self.tree.marks())?;
        let warnings = &mut self.warnings;
        let mut warn = |message| {
            if warnings.len() < MAX_WARNINGS {
                warnings.push(message);
            }
        };
        let (dir, name, path) = (at.dir, at.name, at.path);
        match entry.kind {
            Kind::File => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let mode = Mode::from_raw_mode(entry.mode & 0o777);
                let fd = at.retry(&mut self.tree, "openat", || {
                    rustix::fs::openat(dir, name, flags, mode)
                })?;
                file::write_content(
                    fd.as_fd(),
                    reader,
                    entry.size,
                    entry.sparse.as_deref(),
                    path,
                )?;
                wanted.set(fd.as_fd(), path, &mut warn)?;
                metadata::set_times(fd.as_fd(), &wanted.times, path)
            }
            Kind::Directory => {
                let fd = at.make_directory(&mut self.tree, entry.mode)?;
                wanted.set(fd.as_fd(), path, &mut warn)?;
                self.tree.remember(path, fd)?;
                self.times.push((path.to_vec(), wanted.times));
                Ok(())
            }
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return Err(Error::invalid(format!(
                        "symbolic link {} leads nowhere",
                        show(path)
                    )));
                }
                at.retry(&mut self.tree, "symlinkat", || {
                    rustix::fs::symlinkat(&entry.link[..], dir, name)
                })?;
                wanted.set_at(dir.as_fd(), name, path, &mut warn)
            }
            Kind::HardLink => {
                at.make_link(&mut self.tree, &entry.link, &mut self.times)?;
                wanted.set_at(dir.as_fd(), name, path, &mut warn)
            }
            Kind::Char | Kind::Block | Kind::Fifo => {
                let (kind, device) = match entry.kind {
                    Kind::Char => (FileType::CharacterDevice, device(entry)?),
                    Kind::Block => (FileType::BlockDevice, device(entry)?),
                    _ => (FileType::Fifo, 0),
                };
                let mode = Mode::from_raw_mode(entry.mode);
                at.retry(&mut self.tree, "mknodat", || {
                    rustix::fs::mknodat(dir, name, kind, mode, device)
                })?;
                wanted.set_at(dir.as_fd(), name, path, &mut warn)
            }
            Kind::Other(_) => Ok(()),
        }
    }
}

/// What applying left behind besides the tree.
pub(crate) struct Placed {
    pub entries: u64,
    pub warnings: Vec<String>,
}

/// Where an entry goes.
pub(super) struct Spot<'a> {
    pub dir: &'a Rc<Dir>,
    pub name: &'a [u8],
    pub path: &'a [u8],
}

impl Spot<'_> {
    /// Runs `make`, which must fail if the name is taken; then clears the way and runs it once more.
    /// Most names are free, so nobody looks first.
    pub(super) fn retry<T>(
        &self,
        tree: &mut Tree,
        op: &'static str,
        mut make: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T> {
        match make() {
            Err(Errno::EXIST) => {
                let stat = self.stat()?;
                whiteout::clear(tree, self.dir, self.name, self.path, &stat)?;
                make()
            }
            other => other,
        }
        .map_err(|e| Error::io(op, self.path, e))
    }

    pub(super) fn stat(&self) -> Result<rustix::fs::Stat> {
        rustix::fs::statat(self.dir, self.name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| Error::io("fstatat", self.path, e))
    }

    /// Makes the directory, or takes the one that is there. One that takes the place of a whiteout or a
    /// file must not show what that hid.
    fn make_directory(&self, tree: &mut Tree, mode: u32) -> Result<std::os::fd::OwnedFd> {
        let mode = Mode::from_raw_mode(mode & 0o777);
        let make = || rustix::fs::mkdirat(self.dir, self.name, mode);
        let mut replaces = false;
        match make() {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = self.stat()?;
                if !sys::is_dir(&stat) {
                    replaces = true;
                    whiteout::clear(tree, self.dir, self.name, self.path, &stat)?;
                    make().map_err(|e| Error::io("mkdirat", self.path, e))?;
                }
            }
            Err(e) => return Err(Error::io("mkdirat", self.path, e)),
        }
        let fd = open_dir(self.dir.as_fd(), self.name, self.path)?;
        if replaces {
            tree.marks().set_opaque(fd.as_fd(), self.path)?;
        }
        Ok(fd)
    }
}

/// Device number of an entry; each half must fit the kernel's 32 bits before it is packed.
fn device(entry: &Entry) -> Result<u64> {
    let half = |value: i64| {
        u32::try_from(value).map_err(|_| {
            Error::invalid(format!(
                "device number {}:{} of {} is out of range",
                entry.device.0,
                entry.device.1,
                show(&entry.path)
            ))
        })
    };
    Ok(rustix::fs::makedev(
        half(entry.device.0)?,
        half(entry.device.1)?,
    ))
}

/// Only the initial user namespace maps all IDs to themselves.
fn in_user_namespace() -> bool {
    let Ok(map) = std::fs::read_to_string("/proc/self/uid_map") else {
        return false;
    };
    let numbers: Vec<&str> = map.split_whitespace().collect();
    numbers != ["0", "0", "4294967295"]
}
