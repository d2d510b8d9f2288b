//! An OCI runtime (runtime-spec 1.2, Linux) in this process.
//!
//! [`Runtime`] has one method for each operation, in `ops/`. The way of a container: the specification
//! ([`spec`]) is checked ([`validate`]) and turned into a [`plan`]: every string, descriptor and number
//! that its first process needs. [`launch`] makes that process with one `clone3`; between it and
//! `execve` only [`child`] runs, which allocates nothing, so that the caller may be any program. Both
//! talk in the closed set of messages of [`wire`]. [`sys`] is the kernel, [`cgroup`] the limits,
//! [`state`] what is kept between calls.
//!
//! No operation waits for anything but the kernel and hooks: a single-threaded shim may call them.
//! Needs Linux 5.12 (`mount_setattr`).

mod capabilities;
mod cgroup;
mod child;
mod criu;
mod dbus;
mod error;
mod features;
mod hooks;
mod hostmounts;
mod launch;
mod listener;
pub mod log;
mod mounts;
mod netdev;
mod ops;
mod plan;
mod process;
pub mod protect;
mod rdt;
mod seccomp;
pub mod spec;
mod state;
pub mod sys;
mod validate;
mod wire;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

pub use cgroup::SubCgroup;
pub use error::{Class, Error, Result};
pub use features::features;
pub use ops::checkpoint::{CheckpointOptions, CriuOptions};
pub use ops::restore::RestoreOptions;
pub use state::{Record, Status, now};

/// The version of the specification that is written into states.
pub const OCI_VERSION: &str = "1.2.1";

/// Containers below one state directory.
#[derive(Clone, Debug)]
pub struct Runtime {
    root: PathBuf,
    options: Options,
    systemd_cgroup: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A score that may not be lowered is left as it is (containerd's `restrict_oom_score_adj`).
    pub clamp_oom_score_adj: bool,
    /// The limit (soft, hard) of open files for processes whose specification has none: what a caller
    /// that raised its own was given.
    pub nofile: Option<(u64, u64)>,
    /// Without the right to make a cgroup, containers that have no limits are made without one.
    pub forgive_cgroups: bool,
    /// How long a process in the making may say nothing, before it is killed. Processes of a hostile
    /// container can stop one that joins it. Without a limit hooks can take their time.
    pub patience: Option<std::time::Duration>,
}

/// The streams of a new process. With a terminal (`process.terminal`) they are not looked at.
#[derive(Default)]
pub enum Stdio {
    /// The caller's own.
    #[default]
    Inherit,
    /// These; what is not given is the null device.
    Streams([Option<OwnedFd>; 3]),
}

pub struct CreateRequest<'a> {
    pub id: &'a str,
    pub bundle: &'a Path,
    pub stdio: Stdio,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    /// How many of the caller's descriptors from 3 on the process gets.
    pub preserve_fds: u32,
}

pub struct ExecRequest<'a> {
    pub id: &'a str,
    pub process: spec::Process,
    pub stdio: Stdio,
    pub preserve_fds: u32,
    /// Whether a paused container is no reason to refuse; the process then waits too.
    pub ignore_paused: bool,
    /// Cgroups below the container's that the process goes into instead.
    pub sub_cgroups: Vec<SubCgroup>,
}

/// A process that was made: a child of the caller.
#[derive(Debug)]
pub struct Started {
    pub pid: i32,
    /// The master of its terminal.
    pub console: Option<OwnedFd>,
}

impl Runtime {
    pub fn new(root: impl Into<PathBuf>, options: Options) -> Self {
        let root = root.into();
        Self {
            root,
            options,
            systemd_cgroup: false,
        }
    }

    /// New containers' cgroups are units of systemd's; `linux.cgroupsPath` is `SLICE:PREFIX:NAME` then.
    pub fn with_systemd_cgroup(mut self) -> Self {
        self.systemd_cgroup = true;
        self
    }
}
