//! What the tests share: archives made field by field, trees as comparable values.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use layer::{Applied, ApplyOptions, Error, apply};
use tempfile::TempDir;

/// Owners, devices and `trusted.*` need it; on a developer's own account the test says so and passes.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// Memory where there is some: ext4 takes a second per thousand inodes it saw deleted just before.
pub fn fast_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

/// An archive under construction, header fields as the caller wants them.
#[derive(Default, Clone)]
pub struct Tar(pub Vec<u8>);

#[derive(Clone)]
pub struct Head<'a> {
    pub name: &'a [u8],
    pub flag: u8,
    pub link: &'a [u8],
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub size: u64,
    pub mtime: u64,
    pub device: (u64, u64),
    pub magic: &'a [u8; 8],
    pub prefix: &'a [u8],
}

impl Default for Head<'_> {
    fn default() -> Self {
        Self {
            name: b"",
            flag: b'0',
            link: b"",
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 1_600_000_000,
            device: (0, 0),
            magic: b"ustar\x0000",
            prefix: b"",
        }
    }
}

pub fn octal(field: &mut [u8], value: u64) {
    let text = format!("{value:0width$o}\0", width = field.len() - 1);
    field.copy_from_slice(text.as_bytes());
}

pub fn checksum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|&b| u64::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

impl Head<'_> {
    pub fn block(&self) -> [u8; 512] {
        let mut block = [0; 512];
        block[..self.name.len()].copy_from_slice(self.name);
        octal(&mut block[100..108], u64::from(self.mode));
        octal(&mut block[108..116], self.uid);
        octal(&mut block[116..124], self.gid);
        octal(&mut block[124..136], self.size);
        octal(&mut block[136..148], self.mtime);
        block[156] = self.flag;
        block[157..157 + self.link.len()].copy_from_slice(self.link);
        block[257..265].copy_from_slice(self.magic);
        octal(&mut block[329..337], self.device.0);
        octal(&mut block[337..345], self.device.1);
        block[345..345 + self.prefix.len()].copy_from_slice(self.prefix);
        checksum(&mut block);
        block
    }
}

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn raw(mut self, block: &[u8]) -> Self {
        self.0.extend_from_slice(block);
        self
    }

    pub fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn head(self, head: &Head<'_>) -> Self {
        self.raw(&head.block())
    }

    pub fn member(self, flag: u8, name: &str, data: &[u8]) -> Self {
        self.head(&Head {
            name: name.as_bytes(),
            flag,
            size: data.len() as u64,
            ..Head::default()
        })
        .data(data)
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.member(b'0', name, data)
    }

    pub fn dir(self, name: &str) -> Self {
        self.head(&Head {
            name: name.as_bytes(),
            flag: b'5',
            mode: 0o755,
            ..Head::default()
        })
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.link_of(b'2', name, target)
    }

    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.link_of(b'1', name, target)
    }

    fn link_of(self, flag: u8, name: &str, target: &str) -> Self {
        self.head(&Head {
            name: name.as_bytes(),
            flag,
            link: target.as_bytes(),
            mode: if flag == b'2' { 0o777 } else { 0o644 },
            ..Head::default()
        })
    }

    /// An extended header for the next member.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let data: Vec<u8> = records.iter().flat_map(|(k, v)| record(k, v)).collect();
        self.member(b'x', "pax", &data)
    }

    pub fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len += 1;
    }
    let mut out = format!("{len} {key}=").into_bytes();
    out.extend_from_slice(value);
    out.push(b'\n');
    out
}

/// An unlinked file with these bytes, at its start.
pub fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

pub fn apply_to(dir: &Path, archive: &[u8], options: ApplyOptions) -> Result<Applied, Error> {
    let root = File::open(dir).unwrap();
    apply(file_of(archive), root.as_fd(), options)
}

/// Applies to a new directory; fails the test on an error.
pub fn applied(archive: &[u8], options: ApplyOptions) -> (TempDir, Applied) {
    let dir = tempfile::tempdir().unwrap();
    let applied = apply_to(dir.path(), archive, options).unwrap();
    (dir, applied)
}

/// The error of applying to a new directory.
pub fn refused(archive: &[u8], options: ApplyOptions) -> Error {
    let dir = tempfile::tempdir().unwrap();
    apply_to(dir.path(), archive, options).expect_err("the archive must be refused")
}

/// One entry of a tree, as far as a layer can say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: &'static str,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: i64,
    pub content: Vec<u8>,
    pub device: u64,
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// First name of the same inode.
    pub first_name: PathBuf,
}

/// The tree below `root`, without `root` itself.
pub fn tree(root: &Path) -> BTreeMap<PathBuf, Node> {
    let mut nodes = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut pending = vec![root.to_path_buf()];
    let mut paths = Vec::new();
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                pending.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let meta = path.symlink_metadata().unwrap();
        let kind = meta.file_type();
        let name = path.strip_prefix(root).unwrap().to_path_buf();
        let (label, content) = if kind.is_symlink() {
            let target = std::fs::read_link(&path).unwrap().into_os_string();
            ("symlink", target.into_encoded_bytes())
        } else if kind.is_dir() {
            ("directory", Vec::new())
        } else if kind.is_file() {
            ("file", std::fs::read(&path).unwrap())
        } else if kind.is_fifo() {
            ("fifo", Vec::new())
        } else if kind.is_char_device() {
            ("char", Vec::new())
        } else if kind.is_block_device() {
            ("block", Vec::new())
        } else {
            ("socket", Vec::new())
        };
        let first_name = match label {
            "directory" => name.clone(),
            _ => inodes
                .entry(meta.ino())
                .or_insert_with(|| name.clone())
                .clone(),
        };
        let node = Node {
            kind: label,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            mtime: meta.mtime(),
            content,
            device: if matches!(label, "char" | "block") {
                meta.rdev()
            } else {
                0
            },
            xattrs: xattrs(&path),
            first_name,
        };
        nodes.insert(name, node);
    }
    nodes
}

pub fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 65536];
    let Ok(len) = rustix::fs::llistxattr(path, &mut names[..]) else {
        return Vec::new();
    };
    let mut found: Vec<_> = names[..len]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let name = String::from_utf8(name.to_vec()).unwrap();
            let mut value = vec![0; 65536];
            let len = rustix::fs::lgetxattr(path, &name, &mut value[..]).unwrap();
            value.truncate(len);
            (name, value)
        })
        .collect();
    found.sort();
    found
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// Names in a tree.
pub fn names(root: &Path) -> Vec<String> {
    tree(root)
        .keys()
        .map(|p| p.to_str().unwrap().to_owned())
        .collect()
}

/// Runs a program and returns what it prints; fails the test if it fails.
pub fn run(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    use std::process::{Command, Stdio};
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feed = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let mut output = Vec::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut output)
        .unwrap();
    feed.join().unwrap();
    assert!(child.wait().unwrap().success(), "{program} failed");
    output
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    run("gzip", &["-c"], data)
}

pub fn zstd(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; zstd_safe::compress_bound(data.len())];
    let n = zstd_safe::compress(&mut out[..], data, 3).unwrap();
    out.truncate(n);
    out
}
