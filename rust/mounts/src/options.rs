//! Mount options in the manner of fstab, as they travel in `containerd.types.Mount`.
//!
//! Names that are flags of mount(2) become flags, the last one of a pair wins (`ro`, `rw`); what is left
//! over is data for the file system, in its order. Source: mount(8), "FILESYSTEM-INDEPENDENT MOUNT
//! OPTIONS"; containerd's `core/mount` for what is a flag there.

use rustix::mount::{MountFlags, MountPropagationFlags};

use crate::error::{Error, Result};
use crate::idmap::IdMap;

/// What a list of option strings asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Flags of mount(2) that are set.
    pub flags: MountFlags,
    /// Flags that an option named in order to clear them (`rw`, `suid`, `exec` …).
    pub cleared: MountFlags,
    /// Change what is mounted instead of mounting (`remount`).
    pub remount: bool,
    /// Propagation to give the mount; empty leaves the kernel's default.
    pub propagation: MountPropagationFlags,
    /// Put a loop device between the source, a file, and the file system (`loop`).
    pub loop_device: Option<LoopOptions>,
    /// Show the mount with other owners (`uidmap=` and `gidmap=`).
    pub id_map: Option<IdMap>,
    /// Left over for the file system.
    pub data: Vec<String>,
}

/// How to set up a loop device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoopOptions {
    /// Go around the page cache of the backing file (`direct-io`).
    pub direct_io: bool,
}

/// Flags that belong to one mount rather than to the file system: a bind can have its own.
pub(crate) const PER_MOUNT: MountFlags = MountFlags::RDONLY
    .union(MountFlags::NOSUID)
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC)
    .union(MountFlags::NOSYMFOLLOW)
    .union(ACCESS_TIMES)
    .union(MountFlags::NODIRATIME);

/// Flags of which a mount has exactly one.
pub(crate) const ACCESS_TIMES: MountFlags = MountFlags::NOATIME
    .union(MountFlags::RELATIME)
    .union(MountFlags::STRICTATIME);

enum Meaning {
    Set(MountFlags),
    Clear(MountFlags),
    Propagation(MountPropagationFlags),
    Remount,
    Nothing,
}

fn meaning(option: &str) -> Option<Meaning> {
    use Meaning::{Clear, Nothing, Propagation, Remount, Set};
    let recursive = MountPropagationFlags::REC;
    Some(match option {
        "defaults" => Nothing,
        "remount" => Remount,
        "bind" => Set(MountFlags::BIND),
        "rbind" => Set(MountFlags::BIND | MountFlags::REC),
        "ro" => Set(MountFlags::RDONLY),
        "rw" => Clear(MountFlags::RDONLY),
        "nosuid" => Set(MountFlags::NOSUID),
        "suid" => Clear(MountFlags::NOSUID),
        "nodev" => Set(MountFlags::NODEV),
        "dev" => Clear(MountFlags::NODEV),
        "noexec" => Set(MountFlags::NOEXEC),
        "exec" => Clear(MountFlags::NOEXEC),
        "sync" => Set(MountFlags::SYNCHRONOUS),
        "async" => Clear(MountFlags::SYNCHRONOUS),
        "dirsync" => Set(MountFlags::DIRSYNC),
        "mand" => Set(MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
        "nomand" => Clear(MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
        "noatime" => Set(MountFlags::NOATIME),
        "atime" => Clear(MountFlags::NOATIME),
        "nodiratime" => Set(MountFlags::NODIRATIME),
        "diratime" => Clear(MountFlags::NODIRATIME),
        "relatime" => Set(MountFlags::RELATIME),
        "norelatime" => Clear(MountFlags::RELATIME),
        "strictatime" => Set(MountFlags::STRICTATIME),
        "nostrictatime" => Clear(MountFlags::STRICTATIME),
        "nosymfollow" => Set(MountFlags::NOSYMFOLLOW),
        "symfollow" => Clear(MountFlags::NOSYMFOLLOW),
        "lazytime" => Set(MountFlags::LAZYTIME),
        "nolazytime" => Clear(MountFlags::LAZYTIME),
        "silent" => Set(MountFlags::SILENT),
        "loud" => Clear(MountFlags::SILENT),
        "private" => Propagation(MountPropagationFlags::PRIVATE),
        "rprivate" => Propagation(MountPropagationFlags::PRIVATE | recursive),
        "shared" => Propagation(MountPropagationFlags::SHARED),
        "rshared" => Propagation(MountPropagationFlags::SHARED | recursive),
        "slave" => Propagation(MountPropagationFlags::DOWNSTREAM),
        "rslave" => Propagation(MountPropagationFlags::DOWNSTREAM | recursive),
        "unbindable" => Propagation(MountPropagationFlags::UNBINDABLE),
        "runbindable" => Propagation(MountPropagationFlags::UNBINDABLE | recursive),
        _ => return None,
    })
}

impl Options {
    /// Reads a list of option strings.
    ///
    /// # Errors
    /// [`Error::InvalidOption`]: an `X-containerd.*` option, which only the mount manager understands; an
    /// ID mapping that cannot be read, or only one of the two; a NUL byte.
    pub fn parse<S: AsRef<str>>(options: &[S]) -> Result<Self> {
        let mut parsed = Self::default();
        let mut direct_io = false;
        let (mut uids, mut gids) = (None, None);
        for option in options.iter().map(AsRef::as_ref) {
            if option.contains('\0') {
                return Err(Error::option(option, "contains a NUL byte"));
            }
            if option.starts_with("X-containerd.") {
                return Err(Error::option(
                    option,
                    "it is internal and was not consumed by the mount manager",
                ));
            }
            match meaning(option) {
                Some(Meaning::Set(flags)) => {
                    parsed.flags |= flags;
                    parsed.cleared -= flags;
                }
                Some(Meaning::Clear(flags)) => {
                    parsed.flags -= flags;
                    parsed.cleared |= flags;
                }
                // Two types at once are refused by the kernel: the last one wins, as with flags.
                Some(Meaning::Propagation(change)) => parsed.propagation = change,
                Some(Meaning::Remount) => parsed.remount = true,
                Some(Meaning::Nothing) => {}
                None if option == "loop" => parsed.loop_device = Some(LoopOptions::default()),
                None if option == "direct-io" => direct_io = true,
                None => match option.split_once('=') {
                    Some(("uidmap", map)) => uids = Some(map),
                    Some(("gidmap", map)) => gids = Some(map),
                    _ => parsed.data.push(option.to_owned()),
                },
            }
        }
        match &mut parsed.loop_device {
            Some(device) => device.direct_io = direct_io,
            None if direct_io => parsed.data.push("direct-io".to_owned()),
            None => {}
        }
        parsed.id_map = match (uids, gids) {
            (None, None) => None,
            (Some(uids), Some(gids)) => Some(IdMap::parse(uids, gids)?),
            (Some(map), None) => {
                return Err(Error::option(
                    format!("uidmap={map}"),
                    "needs gidmap= beside it",
                ));
            }
            (None, Some(map)) => {
                return Err(Error::option(
                    format!("gidmap={map}"),
                    "needs uidmap= beside it",
                ));
            }
        };
        Ok(parsed)
    }

    /// What the file system is told: the data, joined.
    pub(crate) fn data(&self) -> String {
        self.data.join(",")
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            flags: MountFlags::empty(),
            cleared: MountFlags::empty(),
            remount: false,
            propagation: MountPropagationFlags::empty(),
            loop_device: None,
            id_map: None,
            data: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> Options {
        Options::parse(&options.split(' ').collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn flags_are_flags_and_the_rest_is_data_in_its_order() {
        let options = parse("nosuid index=off ro lowerdir=/a:/b nodev userxattr");
        assert_eq!(
            options.flags,
            MountFlags::NOSUID | MountFlags::RDONLY | MountFlags::NODEV
        );
        assert_eq!(options.data(), "index=off,lowerdir=/a:/b,userxattr");
    }

    #[test]
    fn the_last_of_a_pair_wins() {
        let options = parse("ro rw");
        assert_eq!(
            (options.flags, options.cleared),
            (MountFlags::empty(), MountFlags::RDONLY)
        );
        let options = parse("rw ro");
        assert_eq!(
            (options.flags, options.cleared),
            (MountFlags::RDONLY, MountFlags::empty())
        );
        let recursive = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        assert_eq!(parse("rbind shared rprivate").propagation, recursive);
    }

    #[test]
    fn rbind_is_recursive_and_defaults_says_nothing() {
        assert_eq!(parse("rbind").flags, MountFlags::BIND | MountFlags::REC);
        assert_eq!(parse("defaults"), Options::default());
        assert!(parse("remount").remount);
    }

    #[test]
    fn direct_io_belongs_to_the_loop_device_when_there_is_one() {
        assert_eq!(
            parse("direct-io loop").loop_device,
            Some(LoopOptions { direct_io: true })
        );
        let without = parse("direct-io");
        assert_eq!(
            (without.loop_device, without.data()),
            (None, "direct-io".into())
        );
    }

    #[test]
    fn id_maps_come_in_pairs() {
        let options = parse("uidmap=0:1000:1,1:100000:65535 gidmap=0:1000:1");
        assert_eq!(options.id_map.unwrap().uids.len(), 2);
        assert!(options.data.is_empty());
        for lone in ["uidmap=0:1000:1", "gidmap=0:1000:1"] {
            let error = Options::parse(&[lone]).unwrap_err().to_string();
            assert!(
                error.contains(lone) && error.contains("beside it"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_only_the_mount_manager_understands_is_refused() {
        let error = Options::parse(&["X-containerd.mkdir.path=/x"]).unwrap_err();
        assert!(
            error.to_string().contains("X-containerd.mkdir.path=/x"),
            "{error}"
        );
    }
}
