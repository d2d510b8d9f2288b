//! The options of a mount, sorted by how the kernel takes them.

use crate::error::{Error, Result};
use crate::spec::Mount;
use crate::sys::{self, MountAttr};

pub(super) const RDONLY: u64 = sys::MOUNT_ATTR_RDONLY;
pub(super) const NOSUID: u64 = sys::MOUNT_ATTR_NOSUID;
const NODEV: u64 = sys::MOUNT_ATTR_NODEV;
pub(super) const NOEXEC: u64 = sys::MOUNT_ATTR_NOEXEC;
pub(super) const ATIME: u64 = sys::MOUNT_ATTR_ATIME;
const NOATIME: u64 = sys::MOUNT_ATTR_NOATIME;
const STRICTATIME: u64 = sys::MOUNT_ATTR_STRICTATIME;
const NODIRATIME: u64 = sys::MOUNT_ATTR_NODIRATIME;
const NOSYMFOLLOW: u64 = sys::MOUNT_ATTR_NOSYMFOLLOW;

/// Options that are attributes of the mount: set, clear.
const ATTRIBUTES: [(&str, u64, u64); 17] = [
    ("ro", RDONLY, 0),
    ("rw", 0, RDONLY),
    ("suid", 0, NOSUID),
    ("nosuid", NOSUID, 0),
    ("dev", 0, NODEV),
    ("nodev", NODEV, 0),
    ("exec", 0, NOEXEC),
    ("noexec", NOEXEC, 0),
    ("diratime", 0, NODIRATIME),
    ("nodiratime", NODIRATIME, 0),
    ("atime", 0, ATIME),
    ("noatime", NOATIME, ATIME),
    ("relatime", 0, ATIME),
    ("norelatime", STRICTATIME, ATIME),
    ("strictatime", STRICTATIME, ATIME),
    ("nostrictatime", 0, ATIME),
    ("symfollow", 0, NOSYMFOLLOW),
];

/// Options of the file system: mount(2)'s flags to set and to clear.
const SUPER: [(&str, u64, u64); 12] = [
    ("sync", libc::MS_SYNCHRONOUS, 0),
    ("async", 0, libc::MS_SYNCHRONOUS),
    ("dirsync", libc::MS_DIRSYNC, 0),
    ("lazytime", MS_LAZYTIME, 0),
    ("nolazytime", 0, MS_LAZYTIME),
    ("mand", libc::MS_MANDLOCK, 0),
    ("nomand", 0, libc::MS_MANDLOCK),
    ("silent", libc::MS_SILENT, 0),
    ("loud", 0, libc::MS_SILENT),
    ("acl", libc::MS_POSIXACL, 0),
    ("noacl", 0, libc::MS_POSIXACL),
    ("iversion", libc::MS_I_VERSION, 0),
];

pub(super) const MS_LAZYTIME: u64 = 1 << 25;
const MS_NOSYMFOLLOW: u64 = 256;

const PROPAGATION: [(&str, u64); 8] = [
    ("private", libc::MS_PRIVATE),
    ("shared", libc::MS_SHARED),
    ("slave", libc::MS_SLAVE),
    ("unbindable", libc::MS_UNBINDABLE),
    ("rprivate", libc::MS_PRIVATE | libc::MS_REC),
    ("rshared", libc::MS_SHARED | libc::MS_REC),
    ("rslave", libc::MS_SLAVE | libc::MS_REC),
    ("runbindable", libc::MS_UNBINDABLE | libc::MS_REC),
];

/// What `features` lists.
pub fn known_options() -> Vec<String> {
    let mut names: Vec<String> = ATTRIBUTES
        .iter()
        .flat_map(|(name, ..)| [(*name).to_owned(), format!("r{name}")])
        .chain(SUPER.iter().map(|(name, ..)| (*name).to_owned()))
        .chain(PROPAGATION.iter().map(|(name, _)| (*name).to_owned()))
        .collect();
    let more = [
        "bind",
        "rbind",
        "defaults",
        "noiversion",
        "remount",
        "idmap",
        "ridmap",
        "nosymfollow",
        "rnosymfollow",
        "tmpcopyup",
    ];
    names.extend(more.map(str::to_owned));
    names.sort();
    names
}

#[derive(Default)]
pub(super) struct Options {
    pub(super) bind: bool,
    pub(super) recursive: bool,
    pub(super) own: MountAttr,
    pub(super) below: MountAttr,
    pub(super) propagation: Vec<u64>,
    /// mount(2)'s flags for the file system.
    pub(super) flags: u64,
    pub(super) data: Vec<String>,
    pub(super) remount: bool,
    pub(super) copy_up: bool,
    /// Recursive or not.
    pub(super) idmap: Option<bool>,
}

fn change(attr: &mut MountAttr, set: u64, clear: u64) {
    attr.clear = attr.clear & !set | clear;
    attr.set = attr.set & !clear | set;
}

pub(super) fn parse(mount: &Mount) -> Result<Options> {
    let mut options = Options::default();
    for option in &mount.options {
        let attribute = |name: &str| -> Option<(u64, u64)> {
            if name == "nosymfollow" {
                return Some((NOSYMFOLLOW, 0));
            }
            let found = ATTRIBUTES.iter().find(|(known, ..)| *known == name);
            found.map(|(_, set, clear)| (*set, *clear))
        };
        if let Some((set, clear)) = attribute(option) {
            change(&mut options.own, set, clear);
        } else if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute) {
            change(&mut options.below, set, clear);
        } else if let Some((_, flags)) = PROPAGATION.iter().find(|(name, _)| name == option) {
            options.propagation.push(*flags);
        } else if let Some((_, set, clear)) = SUPER.iter().find(|(name, ..)| name == option) {
            options.flags = options.flags & !clear | set;
        } else {
            match option.as_str() {
                "bind" => options.bind = true,
                "rbind" => (options.bind, options.recursive) = (true, true),
                "defaults" | "" => {}
                "noiversion" => options.flags &= !libc::MS_I_VERSION,
                "tmpcopyup" => options.copy_up = true,
                "idmap" => options.idmap = Some(false),
                "ridmap" => options.idmap = Some(true),
                "remount" => options.remount = true,
                data => options.data.push(data.to_owned()),
            }
        }
    }
    options.bind |= mount.kind == "bind";
    Ok(options)
}

/// mount(2)'s flags for attributes.
pub(super) fn mount_flags(attributes: u64) -> u64 {
    const FLAGS: [(u64, u64); 8] = [
        (RDONLY, libc::MS_RDONLY),
        (NOSUID, libc::MS_NOSUID),
        (NODEV, libc::MS_NODEV),
        (NOEXEC, libc::MS_NOEXEC),
        (NOATIME, libc::MS_NOATIME),
        (STRICTATIME, libc::MS_STRICTATIME),
        (NODIRATIME, libc::MS_NODIRATIME),
        (NOSYMFOLLOW, MS_NOSYMFOLLOW),
    ];
    let set = |(attribute, _): &&(u64, u64)| attributes & attribute != 0;
    FLAGS
        .iter()
        .filter(set)
        .fold(0, |all, (_, flag)| all | flag)
}

/// mount(2)'s flags for `linux.rootfsPropagation`.
pub fn propagation(name: &str) -> Result<Option<u64>> {
    if name.is_empty() {
        return Ok(None);
    }
    PROPAGATION
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, flags)| Some(*flags))
        .ok_or_else(|| Error::invalid(format!("linux.rootfsPropagation: unknown {name:?}")))
}
