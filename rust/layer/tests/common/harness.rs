//! What the fuzz targets and the fuzz smoke test do with one input; `fuzz/` includes this file by its path.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use layer::tar::{Entry, Reader, Stream};
use layer::{
    ApplyOptions, Compression, DiffCompression, DiffOptions, Error, Limits, Whiteouts, apply, diff,
};
use tempfile::TempDir;

fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a scratch directory")
}

/// Hands out a slice in pieces of changing length.
struct Pieces<'a> {
    rest: &'a [u8],
    len: usize,
}

impl Stream for Pieces<'_> {
    fn fill(&mut self) -> Result<&[u8], Error> {
        Ok(&self.rest[..self.len.min(self.rest.len())])
    }

    fn consume(&mut self, n: usize) {
        self.rest = &self.rest[n..];
        self.len = self.len * 7 % 1021 + 1;
    }
}

type Members = (Vec<(Entry, Vec<u8>)>, Option<String>);

fn members(stream: impl Stream) -> Members {
    let mut reader = Reader::new(stream);
    let mut found = Vec::new();
    loop {
        let entry = match reader.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => return (found, None),
            Err(error) => return (found, Some(error.to_string())),
        };
        let mut content = Vec::new();
        loop {
            match reader.content() {
                Ok([]) => break,
                Ok(bytes) => {
                    content.extend_from_slice(bytes);
                    let n = bytes.len();
                    reader.consume(n);
                }
                Err(error) => return (found, Some(without_count(&error))),
            }
        }
        found.push((entry, content));
    }
}

/// How much is missing depends on where the pieces end.
fn without_count(error: &Error) -> String {
    error
        .to_string()
        .split(',')
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Reading ends, and says the same however the bytes arrive.
pub fn read_archive(data: &[u8]) {
    let whole = members(data);
    let pieces = members(Pieces { rest: data, len: 1 });
    assert_eq!(whole, pieces);
    let stored: usize = whole.0.iter().map(|(_, content)| content.len()).sum();
    assert!(
        stored <= data.len(),
        "more content than the archive has bytes"
    );
    for (entry, _) in &whole.0 {
        if let Some(map) = &entry.sparse {
            assert!(map.iter().all(|s| s.offset + s.len <= entry.size));
        }
    }
}

/// Makes every header's checksum right: a fuzzer cannot, and would see nothing behind it.
pub fn fix_checksums(archive: &mut [u8]) {
    for block in archive.as_chunks_mut::<512>().0 {
        if block[156] != 0 || &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

/// Whatever the archive says, nothing outside the root changes and a helper thread never panics.
pub fn apply_archive(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else {
        return;
    };
    let mut data = data.to_vec();
    if how & 1 != 0 {
        fix_checksums(&mut data);
    }
    let scratch = scratch();
    let at = |name: &str| scratch.path().join(name);
    for dir in ["root", "outside", "lower/d/sub", "root/old/deep"] {
        std::fs::create_dir_all(at(dir)).expect("a directory");
    }
    for file in ["outside/secret", "lower/d/file", "root/old/file"] {
        std::fs::write(at(file), file).expect("a file");
    }
    std::os::unix::fs::symlink("../outside", at("root/out")).expect("a link");
    let before = print(&at("outside"));
    let (root, parents) = match how & 2 {
        0 => (at("root"), Vec::new()),
        _ => {
            std::fs::create_dir(at("upper")).expect("a directory");
            (at("upper"), vec![at("lower")])
        }
    };
    let options = ApplyOptions {
        whiteouts: match how & 2 {
            0 => Whiteouts::Remove,
            _ => Whiteouts::Overlay {
                userxattr: how & 4 != 0,
            },
        },
        parents,
        limits: Limits {
            max_entries: Some(1000),
            max_unpacked_bytes: Some(4 << 20),
            ..Limits::default()
        },
        ..ApplyOptions::default()
    };
    let mut source = tempfile::tempfile_in(scratch.path()).expect("a file");
    source.write_all(&data).expect("a write");
    source.seek(SeekFrom::Start(0)).expect("a seek");
    let root = File::open(root).expect("the root");
    // Refused or not is the archive's affair.
    let _ = apply(source, root.as_fd(), options);
    assert_eq!(print(&at("outside")), before);
    assert_eq!(print(&at("lower")).len(), 3);
    let mut names: Vec<_> = std::fs::read_dir(scratch.path())
        .expect("the scratch directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.retain(|name| name != "upper");
    names.sort();
    assert_eq!(names, ["lower", "outside", "root"]);
    // Modes an archive sets may keep an unprivileged caller from removing the scratch directory.
    let parent = File::open(scratch.path()).expect("the scratch directory");
    for name in ["root", "upper"] {
        let _ = layer::remove_tree(parent.as_fd(), name.as_ref());
    }
}

/// Compressed bytes that a fuzzer makes up, behind a right beginning or none: refused, or all of it read.
pub fn apply_compressed(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else {
        return;
    };
    let (compression, magic): (_, &[u8]) = match how & 1 {
        0 => (Compression::Gzip, &[0x1f, 0x8b, 8]),
        _ => (Compression::Zstd, &[0x28, 0xb5, 0x2f, 0xfd]),
    };
    let magic = if how & 2 == 0 { magic } else { &[] };
    let scratch = scratch();
    let mut source = tempfile::tempfile_in(scratch.path()).expect("a file");
    source.write_all(magic).expect("a write");
    source.write_all(data).expect("a write");
    source.seek(SeekFrom::Start(0)).expect("a seek");
    std::fs::create_dir(scratch.path().join("root")).expect("a directory");
    let root = File::open(scratch.path().join("root")).expect("the root");
    let options = ApplyOptions {
        compression,
        limits: Limits {
            max_entries: Some(1000),
            max_unpacked_bytes: Some(4 << 20),
            ..Limits::default()
        },
        ..ApplyOptions::default()
    };
    if let Ok(applied) = apply(source, root.as_fd(), options) {
        assert_eq!(applied.size, (magic.len() + data.len()) as u64);
        assert!(applied.unpacked_bytes <= 4 << 20);
    }
}

/// Records that a fuzzer makes up, in an extended header before a file, local or global.
pub fn read_records(data: &[u8]) {
    let Some((&how, records)) = data.split_first() else {
        return;
    };
    let header = |name: &str, flag: u8, size: usize| {
        let mut block = [0u8; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..108].copy_from_slice(b"0000644\0");
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        block[156] = flag;
        block[257..265].copy_from_slice(b"ustar\x0000");
        block
    };
    let mut archive = Vec::new();
    let flag = if how & 1 == 0 { b'x' } else { b'g' };
    archive.extend(header("records", flag, records.len()));
    archive.extend(records);
    archive.resize(archive.len().next_multiple_of(512), 0);
    archive.extend(header("file", b'0', 4));
    archive.extend(b"data");
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    fix_checksums(&mut archive);
    read_archive(&archive);
    let mut input = vec![how & 6];
    input.extend(archive);
    apply_archive(&input);
}

type Print = BTreeMap<PathBuf, (u32, u64, i64, i64, Vec<u8>)>;

/// Everything about a tree that tampering would change.
fn print(root: &Path) -> Print {
    let mut found = Print::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let meta = path.symlink_metadata().expect("metadata");
            let content = match meta.is_file() {
                true => std::fs::read(&path).expect("a file"),
                false => Vec::new(),
            };
            if meta.is_dir() {
                pending.push(path.clone());
            }
            let facts = (
                meta.mode(),
                meta.nlink(),
                meta.ctime(),
                meta.ctime_nsec(),
                content,
            );
            found.insert(path, facts);
        }
    }
    found
}

/// A tree grown from the input, made a layer and applied again, is the same tree; so is a second tree
/// reached over the difference.
pub fn round_trip(data: &[u8]) {
    let scratch = scratch();
    let (first, second) = data.split_at(data.len() / 2);
    let at = |name: &str| {
        let path = scratch.path().join(name);
        std::fs::create_dir_all(&path).expect("a directory");
        path
    };
    let (old, new, copy) = (at("old"), at("new"), at("copy"));
    grow(&old, first);
    grow(&new, first);
    grow(&new, second);
    apply_diff(None, &old, &copy, first.len());
    assert_eq!(shape(&copy), shape(&old));
    apply_diff(Some(&old), &new, &copy, second.len());
    assert_eq!(shape(&copy), shape(&new));
}

fn apply_diff(lower: Option<&Path>, upper: &Path, target: &Path, seed: usize) {
    let lower = lower.map(|path| File::open(path).expect("lower"));
    let upper = File::open(upper).expect("upper");
    let mut layer = tempfile::tempfile().expect("a file");
    let options = DiffOptions {
        compression: match seed % 3 {
            0 => DiffCompression::None,
            1 => DiffCompression::Gzip,
            _ => DiffCompression::Zstd,
        },
        ..DiffOptions::default()
    };
    let sink = layer.try_clone().expect("a file");
    let lower = lower.as_ref().map(AsFd::as_fd);
    let diffed = diff(lower, upper.as_fd(), sink, options).expect("a diff");
    layer.seek(SeekFrom::Start(0)).expect("a seek");
    let options = ApplyOptions {
        expected_digest: Some(diffed.digest),
        expected_size: Some(diffed.size),
        expected_diff_id: Some(diffed.diff_id),
        ..ApplyOptions::default()
    };
    let target = File::open(target).expect("target");
    apply(layer, target.as_fd(), options).expect("the layer applies");
}

/// Five bytes an operation: which one, two names, a number. Operations that cannot be done are skipped.
fn grow(root: &Path, data: &[u8]) {
    for (i, op) in data.as_chunks::<5>().0.iter().enumerate() {
        let [what, a, b, c, n] = *op;
        let name = |x: u8| ["a", "b", "c", "é", "n\n", "-"][usize::from(x) % 6];
        let path = match b & 1 {
            0 => root.join(name(a)),
            _ => root.join(name(a)).join(name(b >> 1)),
        };
        let other = root.join(name(c));
        let done = match what % 8 {
            0 | 1 => std::fs::create_dir(&path),
            2 => std::fs::write(&path, vec![n; usize::from(n) * usize::from(c)]),
            3 => std::os::unix::fs::symlink(name(c), &path),
            4 if other.is_file() => std::fs::hard_link(&other, &path),
            5 => std::fs::remove_file(&path),
            6 => std::fs::remove_dir_all(&path),
            7 if path.symlink_metadata().is_ok_and(|m| !m.is_symlink()) => {
                let mode = 0o600 | u32::from(n & 0o177);
                std::fs::set_permissions(&path, PermissionsExt::from_mode(mode | 0o700))
            }
            _ => Ok(()),
        };
        // Whole seconds, as unpacked layers have them: then a diff compares content, not clocks.
        if done.is_ok() && path.symlink_metadata().is_ok_and(|m| !m.is_dir()) {
            let time = rustix::fs::Timespec {
                tv_sec: 1_000_000_000 + i as i64,
                tv_nsec: 0,
            };
            let times = rustix::fs::Timestamps {
                last_access: time,
                last_modification: time,
            };
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(rustix::fs::CWD, &path, &times, flags).expect("a new time");
        }
    }
}

type Shape = BTreeMap<PathBuf, (u32, Vec<u8>, u64)>;

/// Kind, mode and content of each path, and how many names it has.
fn shape(root: &Path) -> Shape {
    let mut found = Shape::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let meta = path.symlink_metadata().expect("metadata");
            let content = if meta.is_symlink() {
                std::fs::read_link(&path)
                    .expect("a link")
                    .into_os_string()
                    .into_encoded_bytes()
            } else if meta.is_file() {
                std::fs::read(&path).expect("a file")
            } else {
                Vec::new()
            };
            let names = if meta.is_dir() { 0 } else { meta.nlink() };
            if meta.is_dir() {
                pending.push(path.clone());
            }
            let name = path
                .strip_prefix(root)
                .expect("below the root")
                .to_path_buf();
            found.insert(name, (meta.mode(), content, names));
        }
    }
    found
}
