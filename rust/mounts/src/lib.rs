//! Mounting what snapshotters describe.
//!
//! A [`Mount`] is `containerd.types.Mount`: a file system or `bind`, a source, options in the manner of
//! fstab, and a folder below the place it is mounted on. [`mount_all`] mounts a list of them or nothing;
//! [`unmount_all`] takes away whatever is on a folder and below it.
//!
//! * [`Options`]: option strings to flags, propagation, data and what the kernel has no string for
//!   (`loop`, `uidmap=`/`gidmap=`).
//! * [`TempMount`]: a mount on a fresh private folder, gone when dropped.
//! * [`mountinfo`], [`is_mountpoint`]: what is mounted now, in the mount namespace of the calling thread.
//!
//! Beside them, what snapshotters need of single file systems: [`create_subvolume`] and the like of btrfs,
//! [`set_project_limit`] of those with project quotas.
//!
//! Needs Linux 5.8 (`openat2`, mount IDs of `statx`); idmapped mounts need 5.12, idmapped overlays 5.19.
//! Everything newer is tried first and has a fallback. `/proc` must be mounted.

mod btrfs;
mod error;
mod helper;
mod idmap;
mod loopdev;
mod mount;
mod mountinfo;
mod options;
mod overlay;
mod place;
mod quota;
mod sys;
mod temp;
mod unmount;

pub use btrfs::{
    create_subvolume, delete_subvolume, set_subvolume_read_only, snapshot_subvolume, subvolume_id,
};
pub use error::{Error, FailedMount, Result};
pub use idmap::{IdMap, IdRange};
pub use mount::{Mount, mount_all};
pub use mountinfo::{MountInfo, is_mountpoint, mountinfo, parse_mountinfo};
pub use options::{LoopOptions, Options};
pub use quota::{ProjectUsage, project, project_usage, set_project, set_project_limit};
pub use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
pub use temp::{TempMount, remove_temporary};
pub use unmount::{Patience, unmount, unmount_all, unmount_each};
