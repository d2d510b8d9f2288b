//! Everything the new process needs, ready before it is made: strings, descriptors, numbers.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use crate::seccomp::Program;
use crate::sys::{MountAttr, SchedAttr};

/// The making of one process: a container's init, or one more in a container.
#[derive(Default)]
pub struct Plan {
    /// Namespaces to join, in order. Those refused for want of rights are tried again once the user
    /// namespace among them is joined.
    pub joins: Vec<Join>,
    /// Namespaces to make, as clone flags; a cgroup namespace is made by the process itself, once it
    /// is in its cgroups.
    pub clone_flags: u64,
    pub makes_cgroup_namespace: bool,
    /// In a user namespace other than ours: it has to become its root.
    pub in_user_namespace: bool,
    /// The host's /proc, which no mount namespace that is joined can stand in for.
    pub proc: Option<OwnedFd>,
    /// The content for `timens_offsets`, when a time namespace is made.
    pub time_offsets: Option<Vec<u8>>,
    /// `tasks` of every v1 hierarchy.
    pub attach: Vec<OwnedFd>,
    /// The directory of the v2 cgroup.
    pub cgroup: Option<OwnedFd>,
    pub keyring: Option<CString>,
    pub loopback: bool,
    pub net_devices: Vec<crate::netdev::Device>,
    pub hostname: Vec<u8>,
    pub domainname: Vec<u8>,
    /// Files below /proc and their content: `sys/…`.
    pub sysctls: Vec<(CString, Vec<u8>)>,
    pub rootfs: Option<Rootfs>,
    /// Whether the maker wants to run hooks before the root changes.
    pub pause_before_pivot: bool,
    pub create_container: Vec<Hook>,
    pub start_container: Vec<Hook>,
    /// The container's state as JSON, for hooks.
    pub state: Option<OwnedFd>,
    /// A listening socket: the process waits for a connection, then goes on. Without one it goes on
    /// at once.
    pub start: Option<OwnedFd>,
    /// How long its maker waits for a message of the process.
    pub patience: Option<std::time::Duration>,
    pub process: Process,
}

pub struct Join {
    pub fd: OwnedFd,
    pub flags: i32,
    /// What to call it in an error.
    pub name: String,
}

#[derive(Default)]
pub struct Process {
    pub args: Vec<CString>,
    /// `NAME=value`; `HOME` is added from the container's /etc/passwd if it is not there.
    pub env: Vec<CString>,
    pub wants_home: bool,
    /// Paths to try in order: one if the program was named by a path.
    pub candidates: Vec<CString>,
    pub searched: bool,
    pub cwd: CString,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Groups cannot be set where `setgroups` is denied.
    pub keep_groups: bool,
    pub umask: Option<u32>,
    pub capabilities: Option<CapabilitySets>,
    pub no_new_privileges: bool,
    pub rlimits: Vec<(u32, u64, u64)>,
    pub oom_score_adj: Option<i32>,
    /// What is refused is left as it is.
    pub clamp_oom_score_adj: bool,
    pub scheduler: Option<SchedAttr>,
    pub io_priority: Option<u32>,
    pub affinity: Option<Vec<u64>>,
    pub last_affinity: Option<Vec<u64>>,
    pub personality: Option<u64>,
    pub memory_policy: Option<MemoryPolicy>,
    pub seccomp: Option<Program>,
    pub listener: Option<Listener>,
    /// A file below /proc and what to write into it.
    pub labels: Vec<(CString, Vec<u8>)>,
    /// Standard input, output and error; what is not given is inherited.
    pub stdio: [Option<OwnedFd>; 3],
    /// How many descriptors from 3 on the program keeps.
    pub preserve_fds: u32,
    pub terminal: Option<Terminal>,
}

/// Mode with its flags, and nodes as a mask of words.
pub struct MemoryPolicy {
    pub mode: u32,
    pub nodes: Vec<u64>,
}

/// Rows and columns; 0 is left to the terminal's user.
#[derive(Clone, Copy, Default)]
pub struct Terminal {
    pub rows: u16,
    pub columns: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
    /// The last capability the kernel knows.
    pub last: u32,
}

pub struct Hook {
    pub path: CString,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    pub timeout_ms: Option<i32>,
}

#[derive(Default)]
pub struct Rootfs {
    /// Where the root is on the host.
    pub path: CString,
    /// A detached copy of the tree there.
    pub tree: Option<OwnedFd>,
    pub readonly: bool,
    /// mount(2)'s propagation flags for the host's tree as the container's namespace has it.
    pub propagation: u64,
    /// The propagation the container's root gets in the end, if the specification says one.
    pub last_propagation: Option<u64>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    /// The links and /dev/ptmx below /dev, which is the container's own.
    pub own_dev: bool,
    pub readonly_paths: Vec<CString>,
    pub masked_paths: Vec<CString>,
    /// Options of the file systems that mask directories.
    pub mask_label: Option<CString>,
    pub no_pivot: bool,
    /// Without a mount namespace of its own the container has only the directory as its root.
    pub only_chroot: bool,
    /// Whether a terminal is shown as /dev/console.
    pub console: bool,
}

pub struct Mount {
    /// Below the root.
    pub target: CString,
    pub what: What,
    /// The source is not a directory.
    pub is_file: bool,
    /// Contents of the root's directory are copied into the new file system.
    pub copy_up: bool,
    /// Propagation to give in order: mount(2)'s flags.
    pub propagation: Vec<u64>,
    pub guard: Guard,
}

/// What a mount's target has to be, so that no image can lead it elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// Anything but a place inside of a procfs.
    #[default]
    Plain,
    /// Reached without a symbolic link: where a procfs or sysfs goes.
    NoLinks,
    /// One of procfs's files that engines show their own of.
    InProc,
}

pub enum What {
    /// A detached mount, complete.
    Tree(OwnedFd),
    /// What the host has at a path without links, bound in its turn: the kernel lists mounts by when
    /// they were made.
    Bind(Bind),
    /// A file system to be made in the container's namespaces.
    New(FileSystem),
    /// Other options for what is mounted there by now: of the mount, and mount(2)'s flags and data for
    /// its file system.
    Remount {
        own: MountAttr,
        below: MountAttr,
        superblock: Option<(u64, CString)>,
    },
    /// Attributes for what is mounted there by now.
    Attributes(u64),
    /// A symbolic link to this, instead of a mount.
    Link(CString),
}

pub struct Bind {
    pub source: CString,
    pub recursive: bool,
    /// mount(2)'s propagation for all of it, or 0.
    pub propagation: u64,
    pub below: MountAttr,
    pub own: MountAttr,
}

pub struct FileSystem {
    pub kind: CString,
    pub parameters: Parameters,
    pub attributes: u64,
    pub recursive: MountAttr,
    /// The user namespace whose maps the mount gets.
    pub idmap: Option<OwnedFd>,
}

/// How a file system hears of its options.
pub enum Parameters {
    /// One by one: fsconfig's keys and values.
    Each(Vec<(CString, Option<CString>)>),
    /// By mount(2), for flags and lengths that fsconfig does not take.
    Page {
        source: CString,
        flags: u64,
        data: CString,
    },
}

pub struct Device {
    /// Below the root.
    pub path: CString,
    /// File type and permissions.
    pub mode: u32,
    pub dev: u64,
    pub uid: u32,
    pub gid: u32,
    /// In a user namespace nobody can make devices: the host's is mounted.
    pub tree: Option<OwnedFd>,
}

/// Where the descriptor of a filter that notifies goes.
pub struct Listener {
    /// A UNIX socket.
    pub path: String,
    /// The `ContainerProcessState` without the process's ids.
    pub metadata: String,
    /// The container's state, as JSON.
    pub state: serde_json::Value,
}
