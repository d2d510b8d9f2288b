//! Mounts on fresh private folders.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::mount::{Mount, mount_all};
use crate::unmount::{Patience, unmount_all};

/// What is mounted on a fresh folder until this value is closed or dropped.
#[derive(Debug)]
pub struct TempMount {
    path: PathBuf,
    kept: bool,
}

impl TempMount {
    /// Mounts `mounts` on a new folder below `base`, which is made (for its owner only) if it is absent.
    /// The folder's name begins with `prefix`, so that leftovers of a crash can be told from other folders.
    ///
    /// # Errors
    /// Any [`Error`]; neither mount nor folder is left.
    pub fn new(mounts: &[Mount], base: &Path, prefix: &str) -> Result<Self> {
        let made = Self {
            path: fresh_folder(base, prefix)?,
            kept: false,
        };
        // On failure `made` is dropped, and the folder goes with it.
        mount_all(mounts, &made.path)?;
        Ok(made)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it mounted; the caller hands the path to [`remove_temporary`] later.
    pub fn keep(mut self) -> PathBuf {
        self.kept = true;
        std::mem::take(&mut self.path)
    }

    /// Unmounts, and removes the folder.
    ///
    /// # Errors
    /// As [`remove_temporary`].
    pub fn close(self) -> Result<()> {
        remove_temporary(&self.keep())
    }
}

impl Drop for TempMount {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be taken away now is found by its prefix at the next start.
            let _ = remove_temporary(&self.path);
        }
    }
}

/// Unmounts everything on `path` and removes the folder, which must be empty then: nothing that was
/// reached through the mount is ever deleted. No error when it is gone already.
///
/// # Errors
/// Any [`Error`].
pub fn remove_temporary(path: &Path) -> Result<()> {
    unmount_all(path, Patience::default())?;
    match std::fs::remove_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("rmdir", path, e)),
        _ => Ok(()),
    }
}

fn fresh_folder(base: &Path, prefix: &str) -> Result<PathBuf> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(base)
        .map_err(|e| Error::io("mkdir", base, e))?;
    loop {
        // Another process may have had our number: mkdir decides who owns a name.
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("{prefix}{}-{count}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("mkdir", &path, e)),
        }
    }
}
