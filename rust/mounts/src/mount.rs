//! Mounting: one mount, or a list of them or nothing.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, fstatvfs};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change, mount_remount, move_mount,
    open_tree,
};

use crate::error::{Error, FailedMount, Result};
use crate::idmap::IdMap;
use crate::loopdev::LoopDevice;
use crate::options::{ACCESS_TIMES, Options, PER_MOUNT};
use crate::place::Place;
use crate::{helper, overlay, sys, unmount};

/// One mount as it travels in the API (`containerd.types.Mount`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// File system, `bind`, or `fuse.NAME`/`fuse3.NAME` for a helper program.
    pub kind: String,
    /// Device, folder or file; whatever the file system takes.
    pub source: String,
    /// Folder below the place it is mounted on; it must exist there, or in a mount earlier in the list.
    pub target: String,
    /// In the manner of fstab, see [`Options`].
    pub options: Vec<String>,
}

/// File systems that are never written, whatever the options say.
const READ_ONLY_KINDS: [&str; 4] = ["erofs", "squashfs", "iso9660", "cramfs"];

/// Mounts all of `mounts` on `target` (or their own targets below it) in order.
///
/// Gives the mount points, links resolved; nothing for a `remount`. [`unmount_each`](crate::unmount_each)
/// takes back exactly what was mounted.
///
/// # Errors
/// Any [`Error`]; what was mounted before it is taken away again, and [`Error::Undo`] says so where that
/// was not possible. A `remount` is not undone.
pub fn mount_all(mounts: &[Mount], target: &Path) -> Result<Vec<PathBuf>> {
    let parsed = mounts
        .iter()
        .map(|mount| Ok((mount, mount.parse_options()?)))
        .collect::<Result<Vec<_>>>()?;
    let mut made = Vec::with_capacity(mounts.len());
    for (mount, options) in &parsed {
        match mount.apply(options, target) {
            Ok(path) => made.extend(path),
            Err(first) => return Err(undo(first, &made)),
        }
    }
    Ok(made)
}

/// Takes away what was mounted before `first` happened, which is the error to return.
fn undo(first: Error, made: &[PathBuf]) -> Error {
    match unmount::unmount_each(made) {
        Ok(()) => first,
        Err(second) => Error::Undo {
            first: Box::new(first),
            second: Box::new(second),
        },
    }
}

impl Mount {
    fn parse_options(&self) -> Result<Options> {
        let mut options = Options::parse(&self.options)?;
        if self.kind == "bind" && !options.flags.contains(MountFlags::BIND) {
            options.flags |= MountFlags::BIND;
        }
        if READ_ONLY_KINDS.contains(&self.kind.as_str()) {
            options.flags |= MountFlags::RDONLY;
        }
        Ok(options)
    }

    /// Mounts; gives the path of the new mount, or nothing where an existing one was changed.
    fn apply(&self, options: &Options, root: &Path) -> Result<Option<PathBuf>> {
        let place = Place::resolve(root, &self.target)?;
        if let Some((program, kind)) = helper::of(&self.kind) {
            helper::mount(program, kind, self, &place)?;
            return Ok(Some(place.path().to_owned()));
        }
        if options.remount {
            self.remount(options, &place)?;
            if !options.propagation.is_empty() {
                self.propagate(options, &place)?;
            }
            return Ok(None);
        }
        match &options.id_map {
            None => self.attach(options, &place)?,
            Some(map) => self.attach_mapped(options, map, &place)?,
        }
        Ok(Some(place.path().to_owned()))
    }

    /// Mounts on `place`, with the steps that mount(2) needs calls of their own for. All or nothing.
    fn attach(&self, options: &Options, place: &Place) -> Result<()> {
        let device = match options.loop_device {
            Some(setup) => {
                let read_only = options.flags.contains(MountFlags::RDONLY);
                Some(LoopDevice::attach(
                    Path::new(&self.source),
                    read_only,
                    setup,
                )?)
            }
            None => None,
        };
        let source = device
            .as_ref()
            .map_or(self.source.as_str(), LoopDevice::path);
        if self.kind == "overlay" && options.data().len() > sys::data_limit() {
            overlay::mount_long(self, options, place)?;
        } else {
            self.call(source, options, place)?;
        }
        self.finish(options, place)
            .map_err(|first| undo(first, &[place.path().to_owned()]))
    }

    fn call(&self, source: &str, options: &Options, place: &Place) -> Result<()> {
        let data = options.data();
        self.call_with(source, options.flags, &data, place)
    }

    /// mount(2) with everything it takes at once.
    pub(crate) fn call_with(
        &self,
        source: &str,
        flags: MountFlags,
        data: &str,
        place: &Place,
    ) -> Result<()> {
        if data.len() > sys::data_limit() {
            return Err(Error::OptionsTooLong {
                target: place.path().to_owned(),
                length: data.len(),
                limit: sys::data_limit(),
            });
        }
        let text = CString::new(data).expect("options with NUL bytes do not parse");
        mount(
            source,
            place.through_proc(),
            self.kind.as_str(),
            flags,
            text.as_c_str(),
        )
        .map_err(|e| self.failed(source, place.path(), flags, data, e, String::new()))
    }

    /// What remains to be done to the mount that is now on top.
    fn finish(&self, options: &Options, place: &Place) -> Result<()> {
        let rebind = options.flags.contains(MountFlags::BIND)
            && (options.flags | options.cleared).intersects(PER_MOUNT);
        if options.propagation.is_empty() && !rebind {
            return Ok(());
        }
        let top = place.reopen()?;
        if !options.propagation.is_empty() {
            self.propagate(options, &top)?;
        }
        if rebind {
            self.rebind(options, &top)?;
        }
        Ok(())
    }

    fn propagate(&self, options: &Options, top: &Place) -> Result<()> {
        mount_change(top.through_proc(), options.propagation).map_err(|e| {
            let flags = MountFlags::from_bits_retain(options.propagation.bits());
            self.failed("", top.path(), flags, "", e, "propagation".into())
        })
    }

    /// A bind takes over the flags of its source; this changes those that the options name and no other.
    fn rebind(&self, options: &Options, top: &Place) -> Result<()> {
        let present = fstatvfs(top).map_err(|e| Error::io("statvfs", top.path(), e))?;
        let flags = bind_flags(options, present.f_flag) | MountFlags::BIND;
        mount_remount(top.through_proc(), flags, "")
            .map_err(|e| self.failed("", top.path(), flags, "", e, "flags of the bind".into()))
    }

    fn remount(&self, options: &Options, place: &Place) -> Result<()> {
        if options.flags.contains(MountFlags::BIND) {
            return self.rebind(options, place);
        }
        let data = options.data();
        mount_remount(place.through_proc(), options.flags, data.as_str()).map_err(|e| {
            let detail = "remount".into();
            self.failed(&self.source, place.path(), options.flags, &data, e, detail)
        })
    }

    /// Mounts where nobody sees it, maps the owners, and moves the result to `place`: the mount appears
    /// with its mapping or not at all. An overlay has its lower layers mapped instead of itself, which
    /// would be refused; its upper layer is written as it is.
    fn attach_mapped(&self, options: &Options, map: &IdMap, place: &Place) -> Result<()> {
        let user_ns = map.user_namespace()?;
        let detached = sys::with_own_mounts(|| {
            if self.kind == "overlay" {
                overlay::map_lower_layers(options, user_ns.as_fd())?;
            }
            // `place` belongs to the namespace we left.
            let here = place.reopen()?;
            self.attach(options, &here)?;
            let top = here.reopen()?;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH
                | OpenTreeFlags::AT_RECURSIVE;
            let tree =
                open_tree(&top, "", flags).map_err(|e| Error::io("open_tree", top.path(), e))?;
            if self.kind != "overlay" {
                sys::map_ids(tree.as_fd(), user_ns.as_fd(), 0).map_err(|error| {
                    let detail = format!("{map}: this file system or kernel cannot map owners");
                    let flags = options.flags;
                    self.failed(
                        &self.source,
                        top.path(),
                        flags,
                        &options.data(),
                        error,
                        detail,
                    )
                })?;
            }
            Ok(tree)
        })?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&detached, "", place, "", flags).map_err(|e| {
            let detail = "move_mount".into();
            self.failed(
                &self.source,
                place.path(),
                options.flags,
                &options.data(),
                e,
                detail,
            )
        })
    }

    pub(crate) fn failed(
        &self,
        device: &str,
        target: &Path,
        flags: MountFlags,
        data: &str,
        error: impl Into<io::Error>,
        detail: String,
    ) -> Error {
        Error::Mount(Box::new(FailedMount {
            device: device.to_owned(),
            target: target.to_owned(),
            kind: self.kind.clone(),
            flags: flags.bits(),
            data: data.to_owned(),
            error: error.into(),
            detail,
        }))
    }
}

fn bind_flags(options: &Options, present: StatVfsMountFlags) -> MountFlags {
    let mut flags = MountFlags::empty();
    for (has, flag) in [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
        (NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
    ] {
        if present.contains(has) {
            flags |= flag;
        }
    }
    if options.flags.intersects(ACCESS_TIMES) {
        flags -= ACCESS_TIMES;
    }
    (flags | (options.flags & PER_MOUNT)) - options.cleared
}

/// `ST_NOSYMFOLLOW`, which rustix has no name for.
const NOSYMFOLLOW: StatVfsMountFlags = StatVfsMountFlags::from_bits_retain(0x2000);

/// Whether a newer system call is absent, or refused by a sandbox that does not know it.
pub(crate) fn is_unsupported(error: Errno) -> bool {
    matches!(error, Errno::NOSYS | Errno::PERM | Errno::OPNOTSUPP)
}
