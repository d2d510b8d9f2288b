//! The container's file system: mounts, devices, what is hidden, and the change of the root.
//!
//! Targets are resolved below the root's descriptor for each use; no path is walked twice.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::place::{self, Make, PathBuffer};
use super::{At, Outcome, hook, process};
use crate::plan::{Bind, Device, FileSystem, Guard, Mount, Parameters, Plan, Rootfs, What};
use crate::sys::{self, Errno, MountAttr};
use crate::wire::{self, Message, Step};

pub fn set_up(plan: &Plan, root: &Rootfs, at: RawFd, maker: RawFd) -> Outcome<()> {
    sys::umask(0o022);
    for (index, mount) in root.mounts.iter().enumerate() {
        apply(at, mount, index)?;
    }
    for (index, device) in root.devices.iter().enumerate() {
        make_device(at, device).at_item(Step::Device, index)?;
    }
    if root.own_dev {
        links(at).at(Step::DeviceLink)?;
    }
    if plan.pause_before_pivot {
        Message::BeforePivot.send(maker, None).at(Step::Handshake)?;
        wire::wait_for_answer(maker).at(Step::Handshake)?;
    }
    hook::run_all(plan, &plan.create_container, Step::CreateContainerHook)?;
    for (index, path) in root.readonly_paths.iter().enumerate() {
        make_readonly(at, path).at_item(Step::ReadonlyPath, index)?;
    }
    for (index, path) in root.masked_paths.iter().enumerate() {
        mask(at, path, root.mask_label.as_deref()).at_item(Step::MaskedPath, index)?;
    }
    let labels = process::open_labels(plan)?;
    if let Some(size) = plan.process.terminal {
        let slave = process::open_terminal(at, size, plan, maker)?;
        if root.console {
            console(at, &slave).at(Step::Console)?;
        }
        process::take_terminal(&slave)?;
    }
    if root.readonly {
        read_only(at).at(Step::ReadonlyRoot)?;
    }
    change_root(at, root)?;
    if let Some(flags) = root.last_propagation {
        sys::remount(c"/", flags).at(Step::RootPropagation)?;
    }
    process::write_labels(plan, labels)
}

/// Puts the root's tree in its place. Done as the host's user still, who may go everywhere there.
pub fn attach(root: &Rootfs) -> Outcome<OwnedFd> {
    if root.only_chroot {
        return sys::open(&root.path, libc::O_PATH | libc::O_DIRECTORY).at(Step::Rootfs);
    }
    sys::remount(c"/", root.propagation).at(Step::RootPropagation)?;
    let place = sys::open(&root.path, libc::O_PATH | libc::O_DIRECTORY).at(Step::Rootfs)?;
    let Some(tree) = &root.tree else {
        return Err(Errno(libc::EINVAL)).at(Step::Rootfs);
    };
    // pivot_root wants the mount it is on to be private, whatever the container asks for.
    private_parent(&root.path).at(Step::RootPropagation)?;
    sys::move_mount(tree.as_raw_fd(), place.as_raw_fd()).at(Step::Rootfs)?;
    // The tree's descriptor stands for the mount's root.
    sys::openat(tree.as_raw_fd(), c".", libc::O_PATH | libc::O_DIRECTORY, 0).at(Step::Rootfs)
}

/// Makes the mount that `path` lies on private: the nearest place above that is a mount.
fn private_parent(path: &CStr) -> sys::Result<()> {
    let mut buffer = PathBuffer::new();
    let mut length = path.to_bytes().len();
    loop {
        buffer.clear();
        buffer.push(&path.to_bytes()[..length])?;
        match sys::remount(buffer.as_c_str()?, libc::MS_PRIVATE) {
            Err(Errno(libc::EINVAL)) if length > 1 => {}
            other => return other,
        }
        let above = &path.to_bytes()[..length];
        length = above.iter().rposition(|b| *b == b'/').unwrap_or(0).max(1);
    }
}

fn apply(root: RawFd, mount: &Mount, index: usize) -> Outcome<()> {
    if let What::Link(target) = &mount.what {
        let (directory, name) = place::parent(root, &mount.target).at_item(Step::Mount, index)?;
        return match sys::symlinkat(target, directory.as_raw_fd(), name) {
            Err(Errno(libc::EEXIST)) => Ok(()),
            other => other.at_item(Step::Mount, index),
        };
    }
    if let What::Remount {
        own,
        below,
        superblock,
    } = &mount.what
    {
        let target = sys::open_in_root(root, &mount.target, libc::O_PATH)
            .at_item(Step::MountTarget, index)?;
        let fd = target.as_raw_fd();
        match superblock {
            Some((flags, data)) => remount(fd, *flags, data).at_item(Step::Mount, index)?,
            None => change(fd, false, own).at_item(Step::MountAttributes, index)?,
        }
        change(fd, true, below).at_item(Step::MountAttributes, index)?;
        return propagate(fd, &mount.propagation, index);
    }
    let make = if mount.is_file {
        Make::File
    } else {
        Make::Directory
    };
    let target = place::make(root, &mount.target, make).at_item(Step::MountTarget, index)?;
    guard(root, &target, mount).at_item(Step::MountGuard, index)?;
    let made;
    let tree: RawFd = match &mount.what {
        What::Tree(tree) => tree.as_raw_fd(),
        What::Bind(bind) => {
            made = bound(bind).at_item(Step::Mount, index)?;
            let fd = made.as_raw_fd();
            propagate_all(fd, bind.propagation).at_item(Step::MountAttributes, index)?;
            change(fd, true, &bind.below).at_item(Step::MountAttributes, index)?;
            change(fd, false, &bind.own).at_item(Step::MountAttributes, index)?;
            fd
        }
        What::New(fs) => {
            made = file_system(root, fs).at_item(Step::Mount, index)?;
            let fd = made.as_raw_fd();
            change(fd, true, &fs.recursive).at_item(Step::MountAttributes, index)?;
            if let Some(userns) = &fs.idmap {
                let attr = MountAttr {
                    set: sys::MOUNT_ATTR_IDMAP,
                    userns_fd: userns.as_raw_fd() as u64,
                    ..Default::default()
                };
                change(fd, false, &attr).at_item(Step::MountAttributes, index)?;
            }
            fd
        }
        What::Attributes(set) => {
            let attr = MountAttr {
                set: *set,
                ..Default::default()
            };
            return change(target.as_raw_fd(), false, &attr).at_item(Step::MountAttributes, index);
        }
        What::Link(_) | What::Remount { .. } => return Ok(()),
    };
    if mount.copy_up {
        copy_up(target.as_raw_fd(), tree).at_item(Step::CopyUp, index)?;
    }
    sys::move_mount(tree, target.as_raw_fd()).at_item(Step::Mount, index)?;
    propagate(tree, &mount.propagation, index)
}

/// Refuses a target that an image chose so that what is mounted there, or covered by it, misleads.
fn guard(root: RawFd, target: &OwnedFd, mount: &Mount) -> sys::Result<()> {
    const PROC: i64 = 0x9fa0;
    if mount.guard == Guard::NoLinks {
        let resolve = sys::RESOLVE_IN_ROOT | sys::RESOLVE_NO_SYMLINKS;
        return sys::openat2(root, &mount.target, libc::O_PATH, resolve).map(drop);
    }
    let own_tree = |what: &What| match what {
        // Another view of processes over the first.
        What::New(fs) => fs.kind.as_c_str() == c"proc",
        What::Tree(tree) => sys::fs_magic(tree.as_raw_fd()).is_ok_and(|magic| magic == PROC),
        What::Attributes(_) => true,
        What::Bind(_) | What::Link(_) | What::Remount { .. } => false,
    };
    let inside = sys::fs_magic(target.as_raw_fd())? == PROC;
    match inside && mount.guard != Guard::InProc && !own_tree(&mount.what) {
        true => Err(Errno(libc::EPERM)),
        false => Ok(()),
    }
}

fn bound(bind: &Bind) -> sys::Result<OwnedFd> {
    // The path is real already: a link in it now was put there since.
    let resolve = sys::RESOLVE_NO_SYMLINKS;
    let source = sys::openat2(libc::AT_FDCWD, &bind.source, libc::O_PATH, resolve)?;
    sys::open_tree(source.as_raw_fd(), c"", bind.recursive)
}

fn propagate_all(mount: RawFd, propagation: u64) -> sys::Result<()> {
    let attr = MountAttr {
        propagation,
        ..Default::default()
    };
    match propagation {
        0 => Ok(()),
        _ => sys::mount_setattr(mount, true, &attr),
    }
}

fn change(mount: RawFd, recursive: bool, attr: &MountAttr) -> sys::Result<()> {
    match attr.set | attr.clear {
        0 => Ok(()),
        _ => sys::mount_setattr(mount, recursive, attr),
    }
}

fn propagate(mount: RawFd, list: &[u64], index: usize) -> Outcome<()> {
    for flags in list {
        let attr = MountAttr {
            propagation: flags & !libc::MS_REC,
            ..Default::default()
        };
        sys::mount_setattr(mount, flags & libc::MS_REC != 0, &attr)
            .at_item(Step::MountAttributes, index)?;
    }
    Ok(())
}

/// A new file system on a detached mount.
fn file_system(root: RawFd, new: &FileSystem) -> sys::Result<OwnedFd> {
    let options = match &new.parameters {
        Parameters::Each(options) => options,
        Parameters::Page {
            source,
            flags,
            data,
        } => {
            let tree = by_page(root, source, &new.kind, *flags, data)?;
            let attr = MountAttr {
                set: new.attributes,
                clear: match new.attributes & sys::MOUNT_ATTR_ATIME {
                    0 => 0,
                    _ => sys::MOUNT_ATTR_ATIME,
                },
                ..Default::default()
            };
            change(tree.as_raw_fd(), false, &attr)?;
            return Ok(tree);
        }
    };
    let fs = sys::fsopen(&new.kind)?;
    for (key, value) in options {
        match sys::fsconfig(fs.as_raw_fd(), key, value.as_deref()) {
            // The kernel's own sysfs and the like know no read-only superblock; the mount is.
            Err(Errno(libc::EINVAL)) if key.as_c_str() == c"ro" => {}
            other => other?,
        }
    }
    sys::fsmount(fs.as_raw_fd(), new.attributes)
}

/// mount(2) needs a place: one on a file system of nobody else, on the root's private mount, that is
/// gone before anything else happens there. What it mounted stays as a detached copy.
fn by_page(
    root: RawFd,
    source: &CStr,
    kind: &CStr,
    flags: u64,
    data: &CStr,
) -> sys::Result<OwnedFd> {
    let here = sys::open(c".", libc::O_PATH | libc::O_DIRECTORY)?;
    let fs = sys::fsopen(c"tmpfs")?;
    let stage = sys::fsmount(fs.as_raw_fd(), 0)?;
    sys::mkdirat(stage.as_raw_fd(), c"at", 0o700)?;
    sys::move_mount(stage.as_raw_fd(), root)?;
    sys::fchdir(stage.as_raw_fd())?;
    let made = sys::mount(source, c"at", kind, flags, data)
        .and_then(|()| sys::open_tree(libc::AT_FDCWD, c"at", false));
    let gone = sys::umount(c".", libc::MNT_DETACH);
    sys::fchdir(here.as_raw_fd())?;
    gone.and(made)
}

fn remount(mount: RawFd, flags: u64, data: &CStr) -> sys::Result<()> {
    let here = sys::open(c".", libc::O_PATH | libc::O_DIRECTORY)?;
    sys::fchdir(mount)?;
    let done = sys::mount(c"", c".", c"", flags | libc::MS_REMOUNT, data);
    sys::fchdir(here.as_raw_fd())?;
    done
}

/// Copies what the root has at the place of a new file system into it: directories, files, links.
fn copy_up(from: RawFd, tree: RawFd) -> sys::Result<()> {
    let from = sys::openat2(
        from,
        c".",
        libc::O_RDONLY | libc::O_DIRECTORY,
        sys::RESOLVE_BENEATH,
    )?;
    let to = sys::openat2(
        tree,
        c".",
        libc::O_RDONLY | libc::O_DIRECTORY,
        sys::RESOLVE_BENEATH,
    )?;
    super::place::copy_tree(from.as_raw_fd(), to.as_raw_fd(), 0)
}

fn make_device(root: RawFd, device: &Device) -> sys::Result<()> {
    if let Some(tree) = &device.tree {
        let place = place::make(root, &device.path, Make::File)?;
        return sys::move_mount(tree.as_raw_fd(), place.as_raw_fd());
    }
    let (directory, name) = place::parent(root, &device.path)?;
    let at = directory.as_raw_fd();
    match sys::mknodat(at, name, device.mode, device.dev) {
        Err(Errno(libc::EEXIST)) => {
            // What the image brought is no matter: the device is what the specification says.
            let there = sys::openat(at, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
            let stat = sys::fstat(there.as_raw_fd())?;
            let same_kind = stat.st_mode & libc::S_IFMT == device.mode & libc::S_IFMT;
            let same = same_kind
                && (stat.st_rdev == device.dev || device.mode & libc::S_IFMT == libc::S_IFIFO);
            if !same {
                return Err(Errno(libc::EEXIST));
            }
        }
        other => other?,
    }
    // mknod's mode passes the umask.
    sys::fchmodat(at, name, device.mode & 0o7777)?;
    sys::fchownat(at, name, device.uid, device.gid, libc::AT_SYMLINK_NOFOLLOW)
}

fn links(root: RawFd) -> sys::Result<()> {
    let dev = place::make(root, c"/dev", Make::Directory)?;
    let at = dev.as_raw_fd();
    let links = [
        (c"/proc/self/fd", c"fd"),
        (c"/proc/self/fd/0", c"stdin"),
        (c"/proc/self/fd/1", c"stdout"),
        (c"/proc/self/fd/2", c"stderr"),
        (c"/proc/kcore", c"core"),
    ];
    let has_core = sys::open_in_root(root, c"/proc/kcore", libc::O_PATH).is_ok();
    for (target, name) in links {
        if name == c"core" && !has_core {
            continue;
        }
        match sys::symlinkat(target, at, name) {
            Ok(()) | Err(Errno(libc::EEXIST)) => {}
            Err(e) => return Err(e),
        }
    }
    match sys::unlinkat(at, c"ptmx", 0) {
        Ok(()) | Err(Errno(libc::ENOENT)) => {}
        Err(e) => return Err(e),
    }
    sys::symlinkat(c"pts/ptmx", at, c"ptmx")
}

const READ_ONLY: MountAttr = MountAttr {
    set: sys::MOUNT_ATTR_RDONLY,
    clear: 0,
    propagation: 0,
    userns_fd: 0,
};

fn missing(e: Errno) -> bool {
    matches!(e.0, libc::ENOENT | libc::ENOTDIR)
}

fn make_readonly(root: RawFd, path: &CStr) -> sys::Result<()> {
    let place = match sys::open_in_root(root, path, libc::O_PATH) {
        Err(e) if missing(e) => return Ok(()),
        other => other?,
    };
    let tree = sys::open_tree(place.as_raw_fd(), c"", true)?;
    sys::mount_setattr(tree.as_raw_fd(), false, &READ_ONLY)?;
    sys::move_mount(tree.as_raw_fd(), place.as_raw_fd())
}

/// A directory is hidden by an empty one, anything else by the null device: the host's, which no
/// image can have replaced.
fn mask(root: RawFd, path: &CStr, label: Option<&CStr>) -> sys::Result<()> {
    let place = match sys::open_in_root(root, path, libc::O_PATH) {
        Err(e) if missing(e) => return Ok(()),
        other => other?,
    };
    let stat = sys::fstat(place.as_raw_fd())?;
    let cover = if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        let fs = sys::fsopen(c"tmpfs")?;
        if let Some(label) = label {
            sys::fsconfig(fs.as_raw_fd(), c"context", Some(label))?;
        }
        sys::fsconfig(fs.as_raw_fd(), c"ro", None)?;
        sys::fsmount(fs.as_raw_fd(), sys::MOUNT_ATTR_RDONLY)?
    } else {
        let null = sys::open_tree(libc::AT_FDCWD, c"/dev/null", false)?;
        let stat = sys::fstat(null.as_raw_fd())?;
        if stat.st_rdev != libc::makedev(1, 3) || stat.st_mode & libc::S_IFMT != libc::S_IFCHR {
            return Err(Errno(libc::ENODEV));
        }
        null
    };
    sys::move_mount(cover.as_raw_fd(), place.as_raw_fd())
}

/// Shows the terminal as /dev/console.
fn console(root: RawFd, slave: &OwnedFd) -> sys::Result<()> {
    let (dev, name) = place::parent(root, c"/dev/console")?;
    match sys::mknodat(dev.as_raw_fd(), name, libc::S_IFREG | 0o666, 0) {
        Ok(()) | Err(Errno(libc::EEXIST)) => {}
        Err(e) => return Err(e),
    }
    let place = sys::openat(dev.as_raw_fd(), name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    let tree = sys::open_tree(slave.as_raw_fd(), c"", false)?;
    sys::move_mount(tree.as_raw_fd(), place.as_raw_fd())
}

fn read_only(root: RawFd) -> sys::Result<()> {
    sys::mount_setattr(root, false, &READ_ONLY)
}

fn change_root(fd: RawFd, root: &Rootfs) -> Outcome<()> {
    sys::fchdir(fd).at(Step::Pivot)?;
    if root.only_chroot {
        sys::chroot(c".").at(Step::Pivot)?;
        return sys::chdir(c"/").at(Step::Pivot);
    }
    if root.no_pivot {
        let old = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY).at(Step::Pivot)?;
        sys::move_mount(fd, old.as_raw_fd()).at(Step::Pivot)?;
        sys::chroot(c".").at(Step::Pivot)?;
        return sys::chdir(c"/").at(Step::Pivot);
    }
    let old = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY).at(Step::Pivot)?;
    // Both on the same place: the old root ends up on top of the new one, and goes, without taking
    // anything of the host's along.
    sys::pivot_root(c".", c".").at(Step::Pivot)?;
    sys::fchdir(old.as_raw_fd()).at(Step::Pivot)?;
    sys::remount(c".", libc::MS_SLAVE | libc::MS_REC).at(Step::Pivot)?;
    sys::umount(c".", libc::MNT_DETACH).at(Step::Pivot)?;
    sys::chdir(c"/").at(Step::Pivot)
}
