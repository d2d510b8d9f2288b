//! The directory a layer is applied to: resolves parents inside it, and remembers open directories.
//!
//! The kernel resolves every parent path with `RESOLVE_IN_ROOT`: links inside the root lead where they
//! would after a `chroot`, none leads out. The last component is never followed.
//!
//! Invariant: a cached descriptor is what resolving its path would give now. Creating entries cannot
//! break that; removing or replacing a directory or a link can, so each such place calls
//! [`Tree::forget`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::lower::Lower;
use super::metadata;
use super::name::show;
use super::whiteout::Marks;
use crate::error::{Error, Result};
use crate::sys::{self, join, openat2, split};

/// Open directories kept. Archives come in depth-first order, so few are in use at a time; many layers
/// are applied at once, so each must leave descriptors to the others.
const MAX_CACHED: usize = 48;

/// As many links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// An open directory inside the root.
pub(crate) struct Dir {
    fd: OwnedFd,
    /// Device and inode number; zeros when nothing is tracked.
    id: (u64, u64),
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Names by device and inode number of their directory.
type Names = HashMap<(u64, u64), HashSet<Box<[u8]>>>;

pub(crate) struct Tree {
    root: Rc<Dir>,
    cache: HashMap<Vec<u8>, Rc<Dir>>,
    lower: Lower,
    marks: Marks,
    /// Names this layer brought, by directory; `None` when the root was empty at the start, so that
    /// all there is comes from this layer.
    brought: Option<Names>,
    blind: bool,
    /// Some directory was removed or replaced.
    pub forgot: bool,
}

impl Tree {
    pub(crate) fn open(
        root: BorrowedFd<'_>,
        lower: Lower,
        marks: Marks,
        blind: bool,
    ) -> Result<Self> {
        let listing = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(root, ".", listing, Mode::empty())
            .map_err(|e| Error::io("openat", b".", e))?;
        let mut empty = true;
        sys::for_each_name(fd.as_fd(), b".", |_, _| {
            empty = false;
            Ok(())
        })?;
        let brought = (!empty).then(HashMap::new);
        Ok(Self {
            root: Rc::new(Dir::new(fd, brought.is_some(), b".")?),
            cache: HashMap::new(),
            lower,
            marks,
            brought,
            blind,
            forgot: false,
        })
    }

    pub(crate) fn root(&self) -> Rc<Dir> {
        Rc::clone(&self.root)
    }

    pub(crate) fn lower(&self) -> &Lower {
        &self.lower
    }

    /// To be called where what the lower layers have at `path` changes the result.
    pub(crate) fn look_below(&self, path: &[u8]) -> Result<()> {
        match self.blind {
            true => Err(Error::NeedsParents(show(path))),
            false => Ok(()),
        }
    }

    pub(crate) fn marks(&self) -> Marks {
        self.marks
    }

    /// The directory `path` (cleaned), if it exists.
    pub(crate) fn find(&mut self, path: &[u8]) -> Result<Option<Rc<Dir>>> {
        if path.is_empty() {
            return Ok(Some(self.root()));
        }
        if let Some(dir) = self.cache.get(path) {
            return Ok(Some(Rc::clone(dir)));
        }
        if path.len() > sys::PATH_MAX {
            return Err(Error::io("openat2", path, Errno::NAMETOOLONG));
        }
        match openat2(self.root.as_fd(), path, DIRECTORY, Mode::empty(), INSIDE) {
            Ok(fd) => self.remember(path, fd).map(Some),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(Error::io("openat2", path, e)),
        }
    }

    /// The directory `path` (cleaned), made with its ancestors where missing. What is made looks like
    /// the same directory of the nearest lower layer. `made` is told each new directory's path.
    pub(crate) fn find_or_make(
        &mut self,
        path: &[u8],
        made: &mut dyn FnMut(Vec<u8>, metadata::Times),
    ) -> Result<Rc<Dir>> {
        match self.find(path)? {
            Some(dir) => Ok(dir),
            None => self.make(path, made),
        }
    }

    /// Keeps a directory that was just opened at `path`.
    pub(crate) fn remember(&mut self, path: &[u8], fd: OwnedFd) -> Result<Rc<Dir>> {
        let dir = Rc::new(Dir::new(fd, self.brought.is_some(), path)?);
        self.cache(path, &dir);
        Ok(dir)
    }

    fn cache(&mut self, path: &[u8], dir: &Rc<Dir>) {
        if self.cache.len() >= MAX_CACHED {
            self.cache.clear();
        }
        self.cache.insert(path.to_vec(), Rc::clone(dir));
    }

    /// To be called when a directory or a link was removed: see the invariant above.
    pub(crate) fn forget(&mut self) {
        self.cache.clear();
        self.forgot = true;
    }

    /// Notes that `name` in `dir` comes from this layer.
    pub(crate) fn bring(&mut self, dir: &Dir, name: &[u8]) {
        if let Some(brought) = &mut self.brought {
            brought.entry(dir.id).or_default().insert(name.into());
        }
    }

    /// Whether `name` in `dir` comes from this layer.
    pub(crate) fn brought(&self, dir: &Dir, name: &[u8]) -> bool {
        self.brought.as_ref().is_none_or(|brought| {
            brought
                .get(&dir.id)
                .is_some_and(|names| names.contains(name))
        })
    }

    /// Where `dir` lies below the root, all links resolved.
    pub(crate) fn real_path(&self, dir: &Dir, path: &[u8]) -> Result<Vec<u8>> {
        sys::real_path(self.root.as_fd(), dir.as_fd(), path)
    }

    /// Whether the overlay's own marks hide what the lower layers have at `path` (cleaned, no links).
    pub(crate) fn hides(&mut self, path: &[u8]) -> Result<bool> {
        let mut at = self.root();
        for name in components(path) {
            match rustix::fs::statat(&at, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if sys::is_dir(&stat) => {}
                Ok(stat) => return Ok(self.marks.is_whiteout(&stat)),
                Err(Errno::NOENT) => return Ok(false),
                Err(e) => return Err(Error::io("fstatat", path, e)),
            }
            let fd = open_dir(at.as_fd(), &name, path)?;
            if self.marks.is_opaque(fd.as_fd()) {
                return Ok(true);
            }
            at = Rc::new(Dir { fd, id: (0, 0) });
        }
        Ok(false)
    }

    /// Walks component by component, links included, and makes what is missing.
    fn make(
        &mut self,
        path: &[u8],
        made: &mut dyn FnMut(Vec<u8>, metadata::Times),
    ) -> Result<Rc<Dir>> {
        let mut at = self.root();
        // Where `at` really is, all links resolved.
        let mut real: Vec<u8> = Vec::new();
        let mut todo: VecDeque<Vec<u8>> = components(path).collect();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == b".." {
                real.truncate(split(&real).0.len());
                at = self
                    .find(&real)?
                    .ok_or_else(|| Error::io("openat2", &real, Errno::NOENT))?;
                continue;
            }
            let here = join(&real, &name);
            match rustix::fs::openat(&at, &name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(fd) => at = Rc::new(Dir::new(fd, self.brought.is_some(), &here)?),
                Err(Errno::NOENT) => at = self.make_one(&at, &name, &here, false, made)?,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let stat = rustix::fs::statat(&at, &name, AtFlags::SYMLINK_NOFOLLOW);
                    if stat.is_ok_and(|stat| self.marks.is_whiteout(&stat)) {
                        at = self.make_one(&at, &name, &here, true, made)?;
                        real = here;
                        continue;
                    }
                    let target = match rustix::fs::readlinkat(&at, &name, Vec::new()) {
                        Ok(target) => target.into_bytes(),
                        Err(_) => return Err(Error::io("mkdir", &here, Errno::NOTDIR)),
                    };
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Error::io("mkdir", path, Errno::LOOP));
                    }
                    if target.starts_with(b"/") {
                        at = self.root();
                        real.clear();
                    }
                    for component in components(&target).collect::<Vec<_>>().into_iter().rev() {
                        todo.push_front(component);
                    }
                    continue;
                }
                Err(e) => return Err(Error::io("openat", &here, e)),
            }
            real = here;
        }
        self.cache(path, &at);
        Ok(at)
    }

    /// Makes the directory `name` in `at`, whose real path is `path`.
    fn make_one(
        &mut self,
        at: &Dir,
        name: &[u8],
        path: &[u8],
        replaces_whiteout: bool,
        made: &mut dyn FnMut(Vec<u8>, metadata::Times),
    ) -> Result<Rc<Dir>> {
        if !replaces_whiteout {
            self.look_below(path)?;
        } else {
            rustix::fs::unlinkat(at, name, AtFlags::empty())
                .map_err(|e| Error::io("unlinkat", path, e))?;
        }
        rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o755))
            .map_err(|e| Error::io("mkdirat", path, e))?;
        let fd = open_dir(at.as_fd(), name, path)?;
        metadata::set_mode(fd.as_fd(), 0o755, path)?;
        if replaces_whiteout {
            self.marks.set_opaque(fd.as_fd(), path)?;
        } else if let Some(times) = self.lower.lend_metadata(path, fd.as_fd(), self.marks)? {
            made(path.to_vec(), times);
        }
        self.bring(at, name);
        self.remember(path, fd)
    }
}

impl Dir {
    fn new(fd: OwnedFd, with_id: bool, path: &[u8]) -> Result<Self> {
        let id = match with_id {
            true => dir_id(fd.as_fd(), path)?,
            false => (0, 0),
        };
        Ok(Self { fd, id })
    }

    /// A directory found while walking below another; for [`Tree::brought`].
    pub(crate) fn tracked(fd: OwnedFd, path: &[u8]) -> Result<Self> {
        Self::new(fd, true, path)
    }
}

fn dir_id(fd: BorrowedFd<'_>, path: &[u8]) -> Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd).map_err(|e| Error::io("fstat", path, e))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Opens the directory `name` of `at` so that its metadata can be set; never follows a link.
pub(crate) fn open_dir(at: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty()).map_err(|e| Error::io("openat", path, e))
}

fn components(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|&b| b == b'/')
        .filter(|c| !matches!(*c, b"" | b"."))
        .map(<[u8]>::to_vec)
}
