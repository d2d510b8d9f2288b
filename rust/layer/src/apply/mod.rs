//! Applying a layer to a directory.

mod file;
mod link;
mod lower;
mod metadata;
mod name;
mod place;
mod tree;
mod whiteout;

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use crate::CancelFlag;
use crate::compression::Compression;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::growth::Growing;
use crate::pipeline::{self, Plan, Unpacked};
use crate::source::Source;
use crate::tar::Reader;

use lower::Lower;
use place::{Placed, Placer};
use tree::Tree;
use whiteout::Marks;

/// What a whiteout entry (`.wh.NAME`, `.wh..wh..opq`; OCI `layer.md`) does to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// The root is an overlay `upperdir`: write overlayfs' own marks, a character device 0/0 and the
    /// extended attribute `trusted.overlay.opaque`.
    Overlay {
        /// Use `user.overlay.opaque`, for overlays mounted with `userxattr` in a user namespace.
        userxattr: bool,
    },
    /// The root holds the parent layers' files (bind, native, any mount): delete there. What this
    /// same layer brought is kept, whatever the order of its entries.
    Remove,
}

/// Bounds against hostile archives; `None` means no bound beyond the kernel's.
///
/// Fixed bounds that are always in force: extended headers and sparse maps 1 MiB each, extended
/// attribute values as the kernel bounds them, zstd windows 128 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries in the archive, skipped ones included.
    pub max_entries: Option<u64>,
    /// Length of the uncompressed tar stream in bytes.
    pub max_unpacked_bytes: Option<u64>,
    /// Length of one path in bytes. Never more than the kernel's PATH_MAX (4095) is usable.
    pub max_path: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: None,
            max_unpacked_bytes: None,
            max_path: libc::PATH_MAX as usize - 1,
        }
    }
}

/// How to apply; `..Default::default()` gives: sniff, `Remove`, nothing expected, no limits, no sync.
#[derive(Debug, Clone)]
pub struct ApplyOptions {
    /// How the source is compressed.
    pub compression: Compression,
    /// What whiteouts do.
    pub whiteouts: Whiteouts,
    /// Lower directories of an overlay, nearest first. Ancestors an archive leaves out get their owner,
    /// mode, times and attributes from there, and a hard link's target that exists only there is
    /// copied up, as overlayfs would.
    pub parents: Vec<PathBuf>,
    /// The lower directories are not known yet: [`Error::NeedsParents`] as soon as they would matter.
    pub blind: bool,
    /// Digest of the source's bytes. Its algorithm is also the one that is computed (else sha256).
    pub expected_digest: Option<Digest>,
    /// Length of the source in bytes.
    pub expected_size: Option<u64>,
    /// Digest of the uncompressed tar. Its algorithm is also the one that is computed (else sha256).
    pub expected_diff_id: Option<Digest>,
    /// Bounds.
    pub limits: Limits,
    /// Flush the file system of the root before returning (`syncfs`).
    pub sync: bool,
    /// Give files the archive's owner and group; off, they belong to the caller.
    pub same_owner: bool,
    /// Set to stop early.
    pub cancel: Option<CancelFlag>,
}

impl Default for ApplyOptions {
    fn default() -> Self {
        Self {
            compression: Compression::Auto,
            whiteouts: Whiteouts::Remove,
            parents: Vec::new(),
            blind: false,
            expected_digest: None,
            expected_size: None,
            expected_diff_id: None,
            limits: Limits::default(),
            sync: false,
            same_owner: true,
            cancel: None,
        }
    }
}

/// What one pass over the layer found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Digest of the source's bytes; `None` after [`apply_growing`], whose writer has it.
    pub digest: Option<Digest>,
    /// Length of the source in bytes.
    pub size: u64,
    /// Digest of the uncompressed tar stream, trailing bytes included.
    pub diff_id: Digest,
    /// Length of the uncompressed tar stream in bytes.
    pub unpacked_bytes: u64,
    /// Entries in the archive, whiteouts and skipped ones included.
    pub entries: u64,
    /// What the source turned out to be (never `Auto`).
    pub compression: Compression,
    /// What was left out because this file system or kernel has no place for it; at most 32 messages.
    pub warnings: Vec<String>,
}

/// Applies the layer in `source`, read from its present offset to its end, to the directory `root`.
///
/// `source` may be a pipe or a socket. Blocks the calling thread; helper threads end before it returns,
/// whatever the outcome.
///
/// # Errors
/// Any [`Error`]. The directory then holds an arbitrary part of the layer: the caller removes it.
pub fn apply(source: File, root: BorrowedFd<'_>, options: ApplyOptions) -> Result<Applied> {
    apply_from(Source::of(source)?, root, &options)
}

/// Applies the layer in `source` while it is being written. Digest and size of the source are not looked
/// at: its writer does that, and the result must not be used before the writer is content.
///
/// # Errors
/// As [`apply`]; [`Error::Abandoned`] when the writer gave up.
pub fn apply_growing(
    source: Growing,
    root: BorrowedFd<'_>,
    mut options: ApplyOptions,
) -> Result<Applied> {
    options.expected_size = None;
    options.expected_digest = None;
    apply_from(Source::Growing(source), root, &options)
}

fn apply_from(source: Source, root: BorrowedFd<'_>, options: &ApplyOptions) -> Result<Applied> {
    let plan = Plan {
        compression: options.compression,
        expected_digest: options.expected_digest.clone(),
        expected_size: options.expected_size,
        expected_diff_id: options.expected_diff_id.clone(),
        max_unpacked: options.limits.max_unpacked_bytes,
        cancel: options.cancel.clone(),
    };
    let passed = pipeline::run(source, &plan, |stream| place_all(stream, root, options))?;
    if options.sync {
        let fd = tree::open_dir(root, b".", b".")?;
        rustix::fs::syncfs(fd).map_err(|e| Error::io("syncfs", b".", e))?;
    }
    Ok(Applied {
        digest: passed.digest,
        size: passed.size,
        diff_id: passed.diff_id,
        unpacked_bytes: passed.unpacked_bytes,
        entries: passed.value.entries,
        compression: passed.compression,
        warnings: passed.value.warnings,
    })
}

fn place_all(
    stream: &mut Unpacked,
    root: BorrowedFd<'_>,
    options: &ApplyOptions,
) -> Result<Placed> {
    own_umask();
    let lower = Lower::open(&options.parents)?;
    let tree = Tree::open(root, lower, Marks::new(options.whiteouts), options.blind)?;
    let mut placer = Placer::new(tree, options);
    let mut reader = Reader::new(stream);
    while let Some(entry) = reader.next_entry()? {
        placer.place(&entry, &mut reader)?;
    }
    placer.finish()
}

/// Gives the present thread, and only it, the umask 0, so that files get their mode when they are
/// created. Where that is refused, the mode is corrected afterwards like any other that differs.
fn own_umask() {
    // SAFETY: unsharing the file system attributes (cwd, root, umask) affects no memory and no file
    // descriptor; this thread was started for one layer and ends with it.
    let unshared = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) };
    if unshared.is_ok() {
        rustix::process::umask(rustix::fs::Mode::empty());
    }
}
