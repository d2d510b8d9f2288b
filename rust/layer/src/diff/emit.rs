//! Changes as tar entries (OCI image spec, `layer.md`).

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Stat};

use super::compare::{archived_xattrs, open};
use super::encode::TarSink;
use super::walk::{Change, Location};
use crate::error::{Error, Result};
use crate::sys::{self, join, split};
use crate::tar::{END_MARK, Kind, WriteEntry, padding, write_header};

pub(crate) struct Emitter<'a> {
    upper: BorrowedFd<'a>,
    sink: TarSink,
    newest: Option<i64>,
    /// Directories that have an entry.
    written: HashSet<Vec<u8>>,
    /// First archived name of each inode with several names.
    sources: HashMap<(u64, u64), Vec<u8>>,
    /// Unchanged names of such inodes, met before any changed one.
    waiting: HashMap<(u64, u64), Vec<Vec<u8>>>,
    blocks: Vec<u8>,
}

impl<'a> Emitter<'a> {
    /// `newest` bounds modification times (seconds).
    pub(crate) fn new(upper: BorrowedFd<'a>, sink: TarSink, newest: Option<i64>) -> Self {
        Self {
            upper,
            sink,
            newest,
            written: HashSet::new(),
            sources: HashMap::new(),
            waiting: HashMap::new(),
            blocks: Vec::new(),
        }
    }

    pub(crate) fn change(&mut self, change: Change<'_>) -> Result<()> {
        match change {
            Change::Deleted { path } => self.whiteout(path),
            Change::LinkedUnchanged { at } => {
                let id = (at.stat.st_dev, at.stat.st_ino);
                match self.sources.get(&id).cloned() {
                    Some(source) => self.link(at, at.path, &source),
                    None => {
                        self.waiting.entry(id).or_default().push(at.path.to_vec());
                        Ok(())
                    }
                }
            }
            Change::Changed { at } => self.entry(at),
        }
    }

    /// Writes the end mark and hands the last bytes on.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.sink.put(&END_MARK)?;
        self.sink.finish()
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        let (above, name) = split(path);
        self.parents(above)?;
        let path = join(above, &[b".wh.", name].concat());
        self.header(&WriteEntry {
            kind: Kind::File,
            path: &path,
            link: b"",
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            device: (0, 0),
            xattrs: &[],
        })
    }

    fn entry(&mut self, at: Location<'_>) -> Result<()> {
        let stat = at.stat;
        let kind = match sys::file_type(stat) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::Char,
            FileType::BlockDevice => Kind::Block,
            FileType::Fifo => Kind::Fifo,
            // The walk leaves sockets out.
            _ => return Ok(()),
        };
        if kind == Kind::Directory && self.written.contains(at.path) {
            return Ok(());
        }
        let id = (stat.st_dev, stat.st_ino);
        let mut waiting = Vec::new();
        if kind != Kind::Directory && stat.st_nlink > 1 {
            if let Some(source) = self.sources.get(&id).cloned() {
                return self.link(at, at.path, &source);
            }
            self.sources.insert(id, at.path.to_vec());
            waiting = self.waiting.remove(&id).unwrap_or_default();
        }
        self.parents(split(at.path).0)?;
        let link = match kind {
            Kind::Symlink => rustix::fs::readlinkat(at.dir, at.name, Vec::new())
                .map_err(|e| Error::io("readlinkat", at.path, e))?
                .into_bytes(),
            _ => Vec::new(),
        };
        let mut path = at.path.to_vec();
        if kind == Kind::Directory {
            self.written.insert(path.clone());
            path.push(b'/');
        }
        let size = if kind == Kind::File {
            stat.st_size as u64
        } else {
            0
        };
        let xattrs = archived_xattrs(at.dir, at.name, sys::file_type(stat), at.path)?;
        self.header(&WriteEntry {
            link: &link,
            size,
            xattrs: &xattrs,
            ..self.like(stat, kind, &path)
        })?;
        if size > 0 {
            self.content(at, size)?;
        }
        for other in waiting {
            self.link(at, &other, at.path)?;
        }
        Ok(())
    }

    /// A hard link `path` to `source`; `at` is any name of the inode.
    fn link(&mut self, at: Location<'_>, path: &[u8], source: &[u8]) -> Result<()> {
        self.parents(split(path).0)?;
        let xattrs = archived_xattrs(at.dir, at.name, sys::file_type(at.stat), at.path)?;
        self.header(&WriteEntry {
            link: source,
            xattrs: &xattrs,
            ..self.like(at.stat, Kind::HardLink, path)
        })
    }

    /// What every entry has of its inode.
    fn like<'b>(&self, stat: &Stat, kind: Kind, path: &'b [u8]) -> WriteEntry<'b> {
        let is_device = matches!(
            sys::file_type(stat),
            FileType::CharacterDevice | FileType::BlockDevice
        );
        WriteEntry {
            kind,
            path,
            link: b"",
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: 0,
            mtime: self
                .newest
                .map_or(stat.st_mtime, |newest| stat.st_mtime.min(newest)),
            device: match is_device {
                true => (
                    rustix::fs::major(stat.st_rdev),
                    rustix::fs::minor(stat.st_rdev),
                ),
                false => (0, 0),
            },
            xattrs: &[],
        }
    }

    /// Entries for the directories above, which a reader must not have to invent.
    fn parents(&mut self, path: &[u8]) -> Result<()> {
        if path.is_empty() || self.written.contains(path) {
            return Ok(());
        }
        let (above, name) = split(path);
        let dir = sys::open_dir_below(self.upper, above, false)?;
        let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| Error::io("fstatat", path, e))?;
        self.entry(Location {
            dir: dir.as_fd(),
            name,
            path,
            stat: &stat,
        })
    }

    fn header(&mut self, entry: &WriteEntry<'_>) -> Result<()> {
        self.blocks.clear();
        write_header(entry, &mut self.blocks);
        self.sink.put(&self.blocks)
    }

    /// Exactly `size` bytes of the file, and the blanks behind it.
    fn content(&mut self, at: Location<'_>, size: u64) -> Result<()> {
        let file = open(at.dir, at.name, at.path)?;
        let mut left = size;
        while left > 0 {
            let spare = self.sink.spare();
            let n = usize::try_from(left).map_or(spare.len(), |left| left.min(spare.len()));
            let n = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut spare[..n]))
                .map_err(|e| Error::io("read", at.path, e))?;
            if n == 0 {
                let name = String::from_utf8_lossy(at.path);
                return Err(Error::UnexpectedEof(format!(
                    "file {name:?}: it became shorter while it was read"
                )));
            }
            self.sink.filled(n)?;
            left -= n as u64;
        }
        self.sink.put(&END_MARK[..padding(size) as usize])
    }
}
