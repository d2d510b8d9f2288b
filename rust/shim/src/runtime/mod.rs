//! The OCI runtime behind one trait.
//!
//! No operation may wait. Each returns a [`Call`]: either finished already (a runtime inside this
//! process), or a child process whose exit finishes it (a command-line runtime). The service runs
//! calls of many containers side by side and goes on when they finish.

pub mod cli;
mod console;
pub mod embedded;
mod error_log;
#[cfg(test)]
pub mod fake;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use crate::options::Options;

pub type Result<T> = std::result::Result<T, RuntimeError>;

/// An operation under way.
pub enum Call<T> {
    Ready(Result<T>),
    /// Finished by the exit of the child `pid`; `finish` is given its wait status.
    Child {
        pid: i32,
        finish: Box<dyn FnOnce(i32) -> Result<T>>,
    },
}

/// Why the runtime failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeError {
    /// How the call went, with what the program printed.
    pub summary: String,
    /// The error the runtime wrote to its log during this call.
    pub logged: Option<String>,
}

impl RuntimeError {
    pub fn new(summary: impl Into<String>) -> Self {
        Self {
            summary: summary.into(),
            logged: None,
        }
    }

    /// The message for clients: what failed, then the runtime's own words if it left any.
    pub fn during(&self, what: &str) -> String {
        format!("{what}: {}", self.logged.as_ref().unwrap_or(&self.summary))
    }

    /// Whether the runtime's words contain `text` (ASCII case ignored).
    pub fn mentions(&self, text: &str) -> bool {
        let has = |s: &str| s.to_ascii_lowercase().contains(&text.to_ascii_lowercase());
        has(&self.summary) || self.logged.as_deref().is_some_and(has)
    }
}

/// What a new process gets for its standard streams.
pub enum ProcessIo {
    /// A new pseudo-terminal; its master comes back in [`Started::console`].
    Terminal,
    Pipes(Streams),
}

/// The process's own ends. `None` is the null device.
#[derive(Default)]
pub struct Streams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// A process the runtime made: a container's init, waiting to be started, or a running exec.
#[derive(Debug)]
pub struct Started {
    pub pid: i32,
    pub console: Option<OwnedFd>,
}

pub struct CreateRequest<'a> {
    pub id: &'a str,
    pub io: ProcessIo,
    pub no_pivot_root: bool,
    pub no_new_keyring: bool,
}

pub struct RestoreRequest<'a> {
    pub id: &'a str,
    pub io: ProcessIo,
    pub no_pivot_root: bool,
    pub image_path: &'a str,
    pub work_path: &'a str,
    pub parent_path: &'a str,
}

pub struct ExecRequest<'a> {
    pub id: &'a str,
    pub exec_id: &'a str,
    /// The OCI `Process` as JSON.
    pub spec: &'a [u8],
    pub io: ProcessIo,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointRequest {
    pub image_path: String,
    pub work_path: String,
    pub parent_path: String,
    pub leave_running: bool,
    pub open_tcp: bool,
    pub external_unix_sockets: bool,
    pub terminal: bool,
    pub file_locks: bool,
    pub cgroups_mode: String,
    pub empty_namespaces: Vec<String>,
}

/// OCI runtime operations on the containers of one bundle.
pub trait Runtime {
    /// Makes the container; its init waits for [`Runtime::start`].
    fn create(&self, request: CreateRequest<'_>) -> Call<Started>;
    /// Makes and runs the container from a checkpoint.
    fn restore(&self, request: RestoreRequest<'_>) -> Call<Started>;
    fn start(&self, id: &str) -> Call<()>;
    /// Runs one more process in the container.
    fn exec(&self, request: ExecRequest<'_>) -> Call<Started>;
    fn kill(&self, id: &str, signal: u32, all: bool) -> Call<()>;
    /// Removes the container; `force` kills it first if it runs.
    fn delete(&self, id: &str, force: bool) -> Call<()>;
    fn pause(&self, id: &str) -> Call<()>;
    fn resume(&self, id: &str) -> Call<()>;
    /// Changes limits; `resources` is OCI `LinuxResources` as JSON.
    fn update(&self, id: &str, resources: &[u8]) -> Call<()>;
    /// The ids of all processes in the container.
    fn ps(&self, id: &str) -> Call<Vec<u32>>;
    fn checkpoint(&self, id: &str, request: &CheckpointRequest) -> Call<()>;
}

/// Makes the runtime for a bundle, as the container's options ask for it.
pub type Factory = Box<dyn Fn(&Options, &Path) -> Rc<dyn Runtime>>;

/// The program that is named, else the runtime of this process.
pub fn make(options: &Options, namespace: &str, bundle: &Path) -> Rc<dyn Runtime> {
    if options.binary_name.is_empty() {
        Rc::new(embedded::Embedded::new(options, namespace, bundle))
    } else {
        Rc::new(cli::CliRuntime::new(options, namespace, bundle))
    }
}

/// As [`make`], for a container of a shim that is gone; nothing if no runtime has anything of it.
pub fn that_knows(
    id: &str,
    options: &Options,
    namespace: &str,
    bundle: &Path,
) -> Option<Rc<dyn Runtime>> {
    if options.binary_name.is_empty() {
        let embedded = embedded::Embedded::new(options, namespace, bundle);
        if embedded.may_know(id) {
            return Some(Rc::new(embedded));
        }
    }
    // Shims up to version 0.1 ran runc where no program was named.
    let program = cli::CliRuntime::new(options, namespace, bundle);
    program
        .may_know(id)
        .then(|| Rc::new(program) as Rc<dyn Runtime>)
}
