//! Places inside of a container's root, found and made without ever leaving it.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::sys::{self, Errno, Result};

const LONGEST: usize = libc::PATH_MAX as usize;
const MOST_LINKS: usize = 40;

/// A path in a buffer of its own, for a process that must not allocate.
pub struct PathBuffer {
    bytes: [u8; LONGEST],
    length: usize,
}

impl PathBuffer {
    pub const fn new() -> Self {
        Self {
            bytes: [0; LONGEST],
            length: 0,
        }
    }

    pub fn push(&mut self, part: &[u8]) -> Result<()> {
        let end = self.length + part.len();
        if end >= LONGEST {
            return Err(Errno(libc::ENAMETOOLONG));
        }
        self.bytes[self.length..end].copy_from_slice(part);
        self.bytes[end] = 0;
        self.length = end;
        Ok(())
    }

    pub fn clear(&mut self) {
        self.length = 0;
        self.bytes[0] = 0;
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub fn as_c_str(&self) -> Result<&CStr> {
        CStr::from_bytes_with_nul(&self.bytes[..=self.length]).map_err(|_| Errno(libc::EINVAL))
    }
}

/// What to make of a path that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Make {
    Directory,
    File,
}

/// Opens (`O_PATH`) the place `path` below `root`; what is missing of it is made, through symbolic
/// links that lead nowhere yet too, as long as they stay inside.
pub fn make(root: RawFd, path: &CStr, what: Make) -> Result<OwnedFd> {
    match sys::open_in_root(root, path, libc::O_PATH) {
        Err(Errno(libc::ENOENT)) => {}
        other => return other,
    }
    let mut path = {
        let mut buffer = PathBuffer::new();
        buffer.push(path.to_bytes())?;
        buffer
    };
    for _ in 0..MOST_LINKS {
        match walk(root, &path, what)? {
            Walked::There(fd) => return Ok(fd),
            Walked::Link(next) => path = next,
        }
    }
    Err(Errno(libc::ELOOP))
}

// The larger one is on the stack on purpose: nothing here allocates.
#[allow(clippy::large_enum_variant)]
enum Walked {
    There(OwnedFd),
    /// A link stood in the way: the path with it replaced.
    Link(PathBuffer),
}

/// Goes along the path and makes what is missing. The parts before a missing one are resolved by the
/// kernel, below the root.
fn walk(root: RawFd, path: &PathBuffer, what: Make) -> Result<Walked> {
    let mut at = sys::open_in_root(root, c"/", libc::O_PATH | libc::O_DIRECTORY)?;
    let bytes = path.bytes();
    let mut done = PathBuffer::new();
    let mut from = 0;
    while from < bytes.len() {
        let to = bytes[from..]
            .iter()
            .position(|b| *b == b'/')
            .map_or(bytes.len(), |n| from + n);
        let part = &bytes[from..to];
        let last = bytes[to..].iter().all(|b| *b == b'/');
        from = to + 1;
        if part.is_empty() || part == b"." {
            continue;
        }
        let before = done.length;
        done.push(b"/")?;
        done.push(part)?;
        match sys::open_in_root(root, done.as_c_str()?, libc::O_PATH) {
            Ok(fd) => {
                at = fd;
                continue;
            }
            Err(Errno(libc::ENOENT)) if part != b".." => {}
            Err(e) => return Err(e),
        }
        let mut name = PathBuffer::new();
        name.push(part)?;
        let mut target = [0; LONGEST];
        if let Ok(n) = sys::readlinkat(at.as_raw_fd(), name.as_c_str()?, &mut target) {
            let mut next = PathBuffer::new();
            if target.first() != Some(&b'/') {
                next.push(&done.bytes()[..before])?;
                next.push(b"/")?;
            }
            next.push(&target[..n])?;
            next.push(b"/")?;
            next.push(bytes.get(from..).unwrap_or_default())?;
            return Ok(Walked::Link(next));
        }
        let fd = at.as_raw_fd();
        let made = match what {
            Make::File if last => sys::mknodat(fd, name.as_c_str()?, libc::S_IFREG | 0o644, 0),
            _ => sys::mkdirat(fd, name.as_c_str()?, 0o755),
        };
        match made {
            Ok(()) | Err(Errno(libc::EEXIST)) => {}
            Err(e) => return Err(e),
        }
        let resolve = sys::RESOLVE_BENEATH | sys::RESOLVE_NO_SYMLINKS;
        at = sys::openat2(
            fd,
            name.as_c_str()?,
            libc::O_PATH | libc::O_NOFOLLOW,
            resolve,
        )?;
    }
    Ok(Walked::There(at))
}

/// Splits off the last part of a path below the root and opens (making it) the directory before it.
pub fn parent(root: RawFd, path: &CStr) -> Result<(OwnedFd, &CStr)> {
    let bytes = path.to_bytes();
    let at = bytes.iter().rposition(|b| *b == b'/').map_or(0, |n| n + 1);
    let mut directory = PathBuffer::new();
    directory.push(b"/")?;
    directory.push(&bytes[..at])?;
    let fd = make(root, directory.as_c_str()?, Make::Directory)?;
    let name = CStr::from_bytes_with_nul(&path.to_bytes_with_nul()[at..])
        .map_err(|_| Errno(libc::EINVAL))?;
    Ok((fd, name))
}

/// How deep a tree is copied.
const DEEPEST: usize = 32;

/// Copies directories, files and links with their owners and modes; `from` and `to` are directories.
pub fn copy_tree(from: RawFd, to: RawFd, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(Errno(libc::ELOOP));
    }
    let stat = sys::fstat(from)?;
    sys::fchownat(to, c"", stat.st_uid, stat.st_gid, libc::AT_EMPTY_PATH)?;
    sys::fchmodat(to, c".", stat.st_mode & 0o7777)?;
    let mut entries = [0_u64; 512];
    loop {
        let length = sys::directory_entries(from, &mut entries)?;
        if length == 0 {
            return Ok(());
        }
        let mut at = 0;
        while at < length {
            let (name, next) = sys::directory_entry(&entries, at)?;
            at = next;
            if name != c"." && name != c".." {
                copy_entry(from, to, name, depth)?;
            }
        }
    }
}

fn copy_entry(from: RawFd, to: RawFd, name: &CStr, depth: usize) -> Result<()> {
    let entry = sys::openat(from, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    let stat = sys::fstat(entry.as_raw_fd())?;
    let mode = stat.st_mode & 0o7777;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            sys::mkdirat(to, name, 0o700)?;
            let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let (from, to) = (
                sys::openat(from, name, flags, 0)?,
                sys::openat(to, name, flags, 0)?,
            );
            return copy_tree(from.as_raw_fd(), to.as_raw_fd(), depth + 1);
        }
        libc::S_IFLNK => {
            let mut target = [0; LONGEST];
            let length = sys::readlinkat(from, name, &mut target[..LONGEST - 1])?;
            let target =
                CStr::from_bytes_with_nul(&target[..=length]).map_err(|_| Errno(libc::EINVAL))?;
            sys::symlinkat(target, to, name)?;
        }
        libc::S_IFREG => {
            let source = sys::openat(from, name, libc::O_RDONLY | libc::O_NOFOLLOW, 0)?;
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
            let target = sys::openat(to, name, flags, 0o600)?;
            let mut buffer = [0; 16 << 10];
            loop {
                let n = sys::read(source.as_raw_fd(), &mut buffer)?;
                if n == 0 {
                    break;
                }
                let mut done = 0;
                while done < n {
                    done += sys::write(target.as_raw_fd(), &buffer[done..n])?;
                }
            }
        }
        _ => sys::mknodat(to, name, stat.st_mode, stat.st_rdev)?,
    }
    let no_follow = libc::AT_SYMLINK_NOFOLLOW;
    sys::fchownat(to, name, stat.st_uid, stat.st_gid, no_follow)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFLNK {
        return Ok(());
    }
    sys::fchmodat(to, name, mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Tree(std::path::PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("place-{name}-{}", std::process::id()));
            std::fs::create_dir_all(path.join("root")).unwrap();
            Self(path)
        }

        fn root(&self) -> OwnedFd {
            std::fs::File::open(self.0.join("root")).unwrap().into()
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn missing_directories_and_files_are_made() {
        let tree = Tree::new("made");
        let root = tree.root();
        make(root.as_raw_fd(), c"/a/b/c", Make::Directory).unwrap();
        make(root.as_raw_fd(), c"a/b/d/file", Make::File).unwrap();
        assert!(tree.0.join("root/a/b/c").is_dir());
        assert!(tree.0.join("root/a/b/d/file").is_file());
    }

    #[test]
    fn links_lead_nowhere_but_inside() {
        let tree = Tree::new("links");
        std::fs::create_dir(tree.0.join("outside")).unwrap();
        let at = |p: &str| tree.0.join("root").join(p);
        symlink(tree.0.join("outside"), at("abs")).unwrap();
        symlink("../../../../outside", at("up")).unwrap();
        symlink("run/x/resolv.conf", at("dangling")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let root = tree.root();
        let fd = root.as_raw_fd();
        make(fd, c"/abs/one", Make::Directory).unwrap();
        make(fd, c"/up/two", Make::File).unwrap();
        make(fd, c"/dangling", Make::File).unwrap();
        assert!(at("run/x/resolv.conf").is_file());
        assert!(at("outside/two").is_file());
        let count = std::fs::read_dir(tree.0.join("outside")).unwrap().count();
        assert_eq!(count, 0);
        assert_eq!(make(fd, c"/loop/x", Make::File).unwrap_err().0, libc::ELOOP);
    }
}
