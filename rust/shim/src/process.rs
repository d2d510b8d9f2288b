//! A process of a container: its init, or one run with exec.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Instant, SystemTime};

use crate::shim::Step;
use crate::stdio::{Stdin, Stdio};
use crate::ttrpc::server::Reply;

/// Processes have numbers that are never used twice.
pub type ProcessId = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Created,
    /// Made from a checkpoint: exists only once it is started.
    CreatedFromCheckpoint,
    Running,
    Paused,
    Stopped,
    Deleted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub status: u32,
    pub at: SystemTime,
}

/// The status of a process that could not be started at all.
pub const UNKNOWN_EXIT_STATUS: u32 = 255;

/// What is open for a process's streams.
#[derive(Default)]
pub struct Streams {
    pub stdin: Option<Stdin>,
    pub input: Option<u32>,
    pub outputs: Vec<u32>,
    pub console: Option<OwnedFd>,
    /// The logging program's pid while it lives.
    pub logger: Option<i32>,
    /// Whether it was sent SIGTERM already.
    pub logger_told: bool,
}

pub struct Process {
    pub container: String,
    /// Empty for init.
    pub exec_id: String,
    pub stdio: Stdio,
    /// The OCI process of an exec, as JSON.
    pub spec: Vec<u8>,
    /// 0 until the runtime has made the process.
    pub pid: i32,
    pub phase: Phase,
    /// Set the moment it is reaped.
    pub exit: Option<Exit>,
    /// Whether the exit has been told: after the start was, and after the output was passed on.
    pub exit_published: bool,
    /// A start is under way; an exit has to wait for its event.
    pub starting: bool,
    /// The runtime's program that makes it, while there is one.
    pub maker: i32,
    /// An exec that its container's end no longer waits for.
    pub forsaken: bool,
    /// Its end was forced once its container's init had ended.
    pub pressed: bool,
    pub streams: Streams,
    /// Since when output is waited for without progress.
    pub drain_since: Option<Instant>,
    /// Whether a timer for that is armed.
    pub drain_timer: bool,
    /// Calls of Wait.
    pub waiters: Vec<Reply>,
    /// What goes on once the exit is published.
    pub on_published: Vec<Step>,
    /// What goes on once the output has been passed on for the last time.
    pub on_drained: Option<Step>,
    /// What goes on once the logging program is gone.
    pub on_logger_exit: Option<Step>,
    /// Operations that change the process run one after the other.
    pub busy: bool,
    pub queue: VecDeque<Step>,
}

impl Process {
    pub fn new(container: &str, exec_id: &str, stdio: Stdio) -> Self {
        Self {
            container: container.into(),
            exec_id: exec_id.into(),
            stdio,
            spec: Vec::new(),
            pid: 0,
            phase: Phase::Created,
            exit: None,
            exit_published: false,
            starting: false,
            maker: 0,
            forsaken: false,
            pressed: false,
            streams: Streams::default(),
            drain_since: None,
            drain_timer: false,
            waiters: Vec::new(),
            on_published: Vec::new(),
            on_drained: None,
            on_logger_exit: None,
            busy: false,
            queue: VecDeque::new(),
        }
    }

    pub fn is_init(&self) -> bool {
        self.exec_id.is_empty()
    }

    /// The id events name it by: an init has its container's.
    pub fn id(&self) -> &str {
        if self.is_init() {
            &self.container
        } else {
            &self.exec_id
        }
    }

    /// The phase, with an exit counted as soon as it is known.
    pub fn phase(&self) -> Phase {
        match self.exit {
            Some(_) if self.phase != Phase::Deleted => Phase::Stopped,
            _ => self.phase,
        }
    }

    /// Whether it is an exec that ended without having had a process.
    pub fn never_ran(&self) -> bool {
        !self.is_init() && self.pid == 0 && self.exit.is_some()
    }

    pub fn exit_status(&self) -> u32 {
        self.exit.map_or(0, |exit| exit.status)
    }

    pub fn exited_at(&self) -> prost_types::Timestamp {
        self.exit
            .map_or(crate::clock::NEVER, |exit| crate::clock::timestamp(exit.at))
    }

    pub fn wire_pid(&self) -> u32 {
        u32::try_from(self.pid).unwrap_or(0)
    }
}
