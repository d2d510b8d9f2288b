//! A container: its init, its execs, and what it holds on the machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use crate::cgroup::Cgroup;
use crate::oom::Watch;
use crate::options::Options;
use crate::process::ProcessId;
use crate::runtime::Runtime;

/// What is done about the processes that outlive an init without a PID namespace of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillAll {
    /// The kernel does it with the PID namespace.
    NotNeeded,
    Needed,
    UnderWay,
    Done,
}

pub struct Container {
    pub bundle: PathBuf,
    pub options: Options,
    pub runtime: Rc<dyn Runtime>,
    pub init: ProcessId,
    pub execs: BTreeMap<String, ProcessId>,
    /// Execs that are being started or run; init's exit is told after theirs.
    pub running_execs: usize,
    /// Whether the time that execs have to end after init is being counted.
    pub counting: bool,
    pub kill_all: KillAll,
    pub pausing: bool,
    /// Whether mounts of ours are on the bundle's rootfs.
    pub mounted: bool,
    pub checkpoint: Option<Checkpoint>,
    pub cgroup: Option<Cgroup>,
    pub oom: Option<Watch>,
}

/// What a container is restored from.
pub struct Checkpoint {
    pub path: String,
    pub parent: String,
    /// The streams, made at creation and used at the start.
    pub prepared: crate::stdio::Prepared,
}
