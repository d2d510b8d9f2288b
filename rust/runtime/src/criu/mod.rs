//! CRIU, the program that saves and restores processes, by its RPC: `criu swrk FD`.
//!
//! What is asked and how is what CRIU's own documentation has for container engines: mounts that came
//! from outside are told by their places, pipes of the standard streams by what they were called, and
//! the namespaces' set-up and the restored process are told by notifications.

mod message;

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use message::Response;
pub use message::Writer;

use crate::error::{Class, Context, Error, Result};
use crate::sys;

/// What a request wants (`criu_req_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    Version = 10,
}

/// Older ones lack notifications and cgroup roots as they are used here.
const OLDEST: u64 = 30_000;
const LONGEST_MESSAGE: usize = 1 << 20;
/// How much of a log goes into an error, from its end.
const LOG_TAIL: usize = 1200;

/// Something CRIU says while it works, to be answered.
pub struct Notice<'a> {
    pub script: &'a str,
    pub pid: i32,
    /// The master of a terminal that nobody has.
    pub fd: Option<OwnedFd>,
}

pub struct Criu {
    program: PathBuf,
}

/// A request with what the program needs beside it.
pub struct Request<'a> {
    pub kind: Kind,
    pub options: Writer,
    /// Descriptors that it has by their numbers here.
    pub inherited: Vec<RawFd>,
    /// Run in the program before it executes.
    pub attach: &'a [OwnedFd],
    /// Where its log is, to tell of a failure.
    pub log: PathBuf,
}

impl Criu {
    /// `program` is a path, or a name to be found in PATH.
    pub fn new(program: Option<&str>) -> Result<Self> {
        let name = program.filter(|p| !p.is_empty()).unwrap_or("criu");
        let found = match name.contains('/') {
            true => Some(PathBuf::from(name)),
            false => std::env::var_os("PATH").and_then(|path| {
                let mut places = std::env::split_paths(&path).map(|folder| folder.join(name));
                places.find(|place| executable(place))
            }),
        };
        match found.filter(|program| executable(program)) {
            Some(program) => Ok(Self { program }),
            None => Err(Error::new(
                Class::Unimplemented,
                format!(
                    "checkpoint and restore need CRIU: {name} not found; install criu 3.0 or newer, \
                     or name it by --criu"
                ),
            )),
        }
    }

    /// Refuses a program that is too old, or is none.
    pub fn check(&self) -> Result<()> {
        let request = Request {
            kind: Kind::Version,
            options: Writer::default(),
            inherited: Vec::new(),
            attach: &[],
            log: PathBuf::new(),
        };
        let version = self.call(&request, &mut |_| Ok(()))?.version;
        match version >= OLDEST {
            true => Ok(()),
            false => Err(Error::new(
                Class::Unimplemented,
                format!(
                    "{} is CRIU {}.{}: 3.0 or newer is needed",
                    self.program.display(),
                    version / 10_000,
                    version / 100 % 100
                ),
            )),
        }
    }

    /// Sends the request and hears notices until its answer. The process of the answer comes back.
    pub fn run(
        &self,
        request: &Request<'_>,
        hear: &mut dyn FnMut(Notice<'_>) -> Result<()>,
    ) -> Result<i32> {
        self.call(request, hear).map(|response| response.pid)
    }

    fn call(
        &self,
        request: &Request<'_>,
        hear: &mut dyn FnMut(Notice<'_>) -> Result<()>,
    ) -> Result<Response> {
        let (ours, theirs) = sys::socket_pair().context(|| "a pair of sockets".into())?;
        let mut child = self.spawn(request, &theirs)?;
        drop(theirs);
        let result = self.converse(request, &ours, hear);
        drop(ours);
        if result.is_err() {
            // It has heard of the end, and may be waiting for somebody else.
            let _ = child.kill();
        }
        let ended = child.wait();
        let response = result?;
        let ended = ended.context(|| "waiting for criu".into())?;
        match ended.success() {
            true => Ok(response),
            false => Err(self.failure(request, &format!("it ended with {ended}"))),
        }
    }

    fn spawn(&self, request: &Request<'_>, socket: &OwnedFd) -> Result<Child> {
        let number = socket.as_raw_fd();
        let mut keep: Vec<RawFd> = request.inherited.clone();
        keep.push(number);
        let attach: Vec<RawFd> = request.attach.iter().map(AsRawFd::as_raw_fd).collect();
        let mut command = Command::new(&self.program);
        command.args(["swrk", &number.to_string()]);
        if request.inherited.is_empty() {
            command.stdin(Stdio::null());
        }
        // SAFETY: system calls on what is prepared here.
        unsafe {
            command.pre_exec(move || {
                for tasks in &attach {
                    sys::write(*tasks, b"0")?;
                }
                sys::close_on_exec_from(3)?;
                for fd in keep.iter().filter(|fd| **fd >= 3) {
                    sys::dup_to(*fd, *fd)?;
                }
                Ok(())
            });
        }
        command
            .spawn()
            .context(|| format!("starting {}", self.program.display()))
    }

    fn converse(
        &self,
        request: &Request<'_>,
        socket: &OwnedFd,
        hear: &mut dyn FnMut(Notice<'_>) -> Result<()>,
    ) -> Result<Response> {
        let lost = || format!("talking to {}", self.program.display());
        let mut first = Writer::default();
        first
            .number(1, request.kind as u64)
            .message(2, &request.options);
        sys::send(socket.as_raw_fd(), first.as_bytes(), None).context(lost)?;
        let mut buffer = vec![0; LONGEST_MESSAGE];
        loop {
            let (length, fd) = sys::receive(socket.as_raw_fd(), &mut buffer).context(lost)?;
            if length == 0 {
                return Err(self.failure(request, "it ended without an answer"));
            }
            let Some(response) = Response::parse(&buffer[..length]) else {
                return Err(self.failure(request, "its answer is no message of CRIU's"));
            };
            if response.kind != Kind::Notify as u64 {
                if response.success && response.kind == request.kind as u64 {
                    return Ok(response);
                }
                let text = match (response.message.as_str(), response.errno) {
                    ("", 0) => "it did not succeed".into(),
                    ("", errno) => sys::Errno(errno).to_string(),
                    (text, _) => text.to_owned(),
                };
                return Err(self.failure(request, &text));
            }
            hear(Notice {
                script: &response.script,
                pid: response.pid,
                fd,
            })?;
            let mut go_on = Writer::default();
            go_on.number(1, Kind::Notify as u64).flag(3, true);
            sys::send(socket.as_raw_fd(), go_on.as_bytes(), None).context(lost)?;
        }
    }

    fn failure(&self, request: &Request<'_>, why: &str) -> Error {
        let what = match request.kind {
            Kind::Dump | Kind::PreDump => "dump",
            Kind::Restore => "restore",
            Kind::Version => "version",
            Kind::Notify => "notify",
        };
        let mut text = format!("criu failed: type {what}: {why}");
        if !request.log.as_os_str().is_empty() {
            text = format!("{text}\nlog file: {}", request.log.display());
            if let Some(tail) = tail(&request.log) {
                text = format!("{text}\n{tail}");
            }
        }
        Error::failed(text)
    }
}

/// The lines that say what went wrong, or the last ones.
fn tail(log: &Path) -> Option<String> {
    let text = std::fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text);
    let errors: Vec<&str> = text.lines().filter(|l| l.contains("Error")).collect();
    let text = match errors.is_empty() {
        true => text.trim().to_owned(),
        false => errors.join("\n"),
    };
    let from = text.len().saturating_sub(LOG_TAIL);
    let from = (from..text.len()).find(|at| text.is_char_boundary(*at))?;
    Some(text[from..].to_owned())
}

fn executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
