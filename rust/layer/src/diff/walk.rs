//! Two trees side by side, in path order.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Stat};

use super::compare;
use crate::CancelFlag;
use crate::error::{Error, Result};
use crate::pipeline::check;
use crate::sys::{self, join};

/// Directories deeper than this keep no descriptor while what is below them is walked.
const MAX_OPEN: usize = 64;

/// One path at which the trees differ, or which the writer must know all the same.
pub(crate) enum Change<'a> {
    /// In `lower` only. Nothing is told about what was below it.
    Deleted { path: &'a [u8] },
    /// New or different in `upper`.
    Changed { at: Location<'a> },
    /// Equal, but one of several names of its inode: other names may be new.
    LinkedUnchanged { at: Location<'a> },
}

/// An entry of `upper`.
#[derive(Clone, Copy)]
pub(crate) struct Location<'a> {
    pub dir: BorrowedFd<'a>,
    pub name: &'a [u8],
    pub path: &'a [u8],
    pub stat: &'a Stat,
}

/// A directory being walked in both trees or in one.
struct Frame {
    path: Vec<u8>,
    sides: [Side; 2],
    /// Names still to visit, last first, and on which sides they are.
    names: Vec<(CString, [bool; 2])>,
}

/// Whether a tree has the directory at all, and its descriptor while it is kept.
#[derive(Default)]
struct Side {
    present: bool,
    fd: Option<OwnedFd>,
}

const LOWER: usize = 0;
const UPPER: usize = 1;

/// Tells `visit` about each change from `lower` to `upper`, parents before children, names in byte order.
pub(crate) fn walk(
    lower: Option<BorrowedFd<'_>>,
    upper: BorrowedFd<'_>,
    cancel: Option<&CancelFlag>,
    visit: &mut dyn FnMut(Change<'_>) -> Result<()>,
) -> Result<()> {
    let roots = [lower, Some(upper)];
    let overlay = lower.is_some_and(|lower| compare::both_overlay(lower, upper));
    let mut stack = vec![Frame::open(roots, Vec::new(), [lower.is_some(), true])?];
    while let Some(depth) = stack.len().checked_sub(1) {
        check(cancel)?;
        let frame = &mut stack[depth];
        let Some((name, on)) = frame.names.pop() else {
            stack.pop();
            continue;
        };
        let path = join(&frame.path, name.to_bytes());
        if !on[UPPER] {
            visit(Change::Deleted { path: &path })?;
            continue;
        }
        frame.reopen(roots)?;
        let stat_on = |side: usize| match (&frame.sides[side].fd, on[side]) {
            (Some(dir), true) => rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)
                .map(Some)
                .map_err(|e| Error::io("fstatat", &path, e)),
            _ => Ok(None),
        };
        let (old, new) = (stat_on(LOWER)?, stat_on(UPPER)?);
        let (Some(dir), Some(new)) = (&frame.sides[UPPER].fd, new) else {
            continue;
        };
        let at = Location {
            dir: dir.as_fd(),
            name: name.to_bytes(),
            path: &path,
            stat: &new,
        };
        let same = match (&old, &frame.sides[LOWER].fd) {
            (Some(old), Some(old_dir)) => compare::same(old_dir.as_fd(), old, at, overlay)?,
            _ => false,
        };
        if sys::file_type(&new) == FileType::Socket {
            // No layer can hold a socket; what it stands in place of is gone all the same.
            if old.is_some() && !same {
                visit(Change::Deleted { path: &path })?;
            }
            continue;
        }
        if !same {
            visit(Change::Changed { at })?;
        } else if !sys::is_dir(&new) && new.st_nlink > 1 {
            visit(Change::LinkedUnchanged { at })?;
        }
        if sys::is_dir(&new) {
            let both = [old.is_some_and(|old| sys::is_dir(&old)), true];
            let child = Frame::open(roots, path, both)?;
            if depth > MAX_OPEN {
                frame.sides.iter_mut().for_each(|side| side.fd = None);
            }
            stack.push(child);
        }
    }
    Ok(())
}

impl Frame {
    fn open(roots: [Option<BorrowedFd<'_>>; 2], path: Vec<u8>, present: [bool; 2]) -> Result<Self> {
        let mut frame = Self {
            path,
            sides: present.map(|present| Side { present, fd: None }),
            names: Vec::new(),
        };
        frame.reopen(roots)?;
        let mut names: BTreeMap<CString, [bool; 2]> = BTreeMap::new();
        for (side, Side { fd, .. }) in frame.sides.iter().enumerate() {
            if let Some(fd) = fd {
                sys::for_each_name(fd.as_fd(), &frame.path, |name, _| {
                    names.entry(name.to_owned()).or_default()[side] = true;
                    Ok(())
                })?;
            }
        }
        frame.names = names.into_iter().rev().collect();
        Ok(frame)
    }

    fn reopen(&mut self, roots: [Option<BorrowedFd<'_>>; 2]) -> Result<()> {
        for (side, root) in self.sides.iter_mut().zip(roots) {
            if let (true, None, Some(root)) = (side.present, &side.fd, root) {
                side.fd = Some(sys::open_dir_below(root, &self.path, false)?);
            }
        }
        Ok(())
    }
}
