//! `delete`: cleans up what a dead shim left: the runtime's container, mounts, the socket.
//!
//! containerd runs it after every shim, well-behaved ones too, and waits for it (five seconds at
//! most): so it looks before it starts a program, and never waits without a limit.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use prost::Message;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{farewell, socket};
use crate::bundle;
use crate::cgroup;
use crate::clock;
use crate::flags::Flags;
use crate::log::{self, warn};
use crate::mounts;
use crate::options;
use crate::proto::containerd::task::v3::DeleteResponse;
use crate::runtime::{self, Call, Result as RuntimeResult, RuntimeError};

/// How long the runtime may take.
const RUNTIME_LIMIT: Duration = Duration::from_secs(3);
/// How long a dying shim may take.
const DEATH_LIMIT: Duration = Duration::from_millis(500);
/// How long a shim that lives may take to forget the container.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);
/// How long a sandbox's shim may take to end its members and itself.
const SANDBOX_LIMIT: Duration = Duration::from_secs(3);
/// How long the processes of a leftover cgroup may take to end.
const LEFTOVER_LIMIT: Duration = Duration::from_millis(300);
/// What a process ends with that was killed with its shim.
const KILLED: u32 = 128 + libc::SIGKILL as u32;

pub fn run(flags: &Flags) -> Result<(), String> {
    log::init(flags.debug, None);
    if flags.id.is_empty() {
        return Err("the container's id is missing: -id".into());
    }
    let cwd = super::bundle_path(flags)?;
    // Of a group's containers, the working directory may be another's.
    let bundle = cwd.parent().unwrap_or(Path::new("/")).join(&flags.id);
    let bundle = if bundle.is_dir() { bundle } else { cwd };

    let sandbox = std::fs::read_to_string(bundle.join(bundle::SANDBOX)).ok();
    if sandbox.is_some() && farewell::end_sandbox(&bundle, &flags.id, SANDBOX_LIMIT) {
        await_death(&bundle, DEATH_LIMIT);
    }
    let socket = dead_socket(&bundle);
    if socket.is_some() {
        await_death(&bundle, DEATH_LIMIT);
    }
    let pid = bundle::read_pid(&bundle.join(bundle::INIT_PID)).unwrap_or(0);
    match options::load(&bundle) {
        Err(e) => warn!("options of {}: {e}", flags.id),
        Ok(options) => {
            let runtime = runtime::that_knows(&flags.id, &options, &flags.namespace, &bundle);
            if let Some(runtime) = runtime
                && let Err(e) = within(runtime.delete(&flags.id, true), RUNTIME_LIMIT)
                && !e.mentions("does not exist")
            {
                warn!(
                    "failed to remove runtime container: {}",
                    e.during(&flags.id)
                );
                kill_leftover(pid, &flags.id);
            }
        }
    }
    if let Err(e) = mounts::unmount_rootfs(&bundle) {
        warn!("failed to cleanup rootfs mount: {e}");
    }
    if let Err(e) = mounts::unmount_all(&bundle.join(bundle::SHM)) {
        warn!("failed to cleanup the sandbox's shm: {e}");
    }
    if let Ok(spec) = bundle::Spec::read(&bundle) {
        cgroup::remove_leftover(&spec.cgroups_path, &flags.id, LEFTOVER_LIMIT);
    }
    if let Some(cgroup) = sandbox.as_ref().and_then(|state| state.lines().nth(1)) {
        cgroup::remove_leftover(cgroup, &flags.id, LEFTOVER_LIMIT);
    }
    // A shim that was killed could not remove it.
    if let Some(path) = socket {
        let _ = std::fs::remove_file(path);
    }
    farewell::let_go(&bundle, &flags.id, FAREWELL_LIMIT);
    let (exit_status, exited_at) = match bundle::read_exit(&bundle) {
        Some((status, at)) => (status, at),
        None => (KILLED, clock::timestamp(SystemTime::now())),
    };
    let response = DeleteResponse {
        pid: u32::try_from(pid).unwrap_or(0),
        exit_status,
        exited_at: Some(exited_at),
    };
    std::io::stdout()
        .write_all(&response.encode_to_vec())
        .map_err(|e| format!("stdout: {e}"))
}

/// Waits for a call, with a limit after which its program is killed.
fn within(call: Call<()>, limit: Duration) -> RuntimeResult<()> {
    let (pid, finish) = match call {
        Call::Ready(result) => return result,
        Call::Child { pid, finish } => (pid, finish),
    };
    let failed = |e: rustix::io::Errno| RuntimeError::new(format!("waiting for the runtime: {e}"));
    let handle = Pid::from_raw(pid).ok_or_else(|| RuntimeError::new("no pid"))?;
    let handle = pidfd_open(handle, PidfdFlags::empty()).map_err(failed)?;
    let deadline = Instant::now() + limit;
    let timed_out = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = rustix::event::Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&left)) {
            Ok(0) => break true,
            Ok(_) => break false,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(failed(e)),
        }
    };
    let mut status = 0;
    // SAFETY: signals and reaps the child of this process; the status is a live integer.
    unsafe {
        if timed_out {
            libc::kill(pid, libc::SIGKILL);
        }
        libc::waitpid(pid, &raw mut status, 0);
    }
    if timed_out {
        return Err(RuntimeError::new(
            "the runtime did not finish in time and was killed",
        ));
    }
    finish(status)
}

/// Kills an init the runtime could not; only if its cgroup shows that it is still this container's.
fn kill_leftover(pid: i32, id: &str) {
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    if pid > 1 && cgroups.lines().any(|line| line.contains(id)) {
        // SAFETY: sends a signal; no memory is passed.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

/// The bundle's socket if nobody serves it. A group's may be served still, for others.
///
/// A killed shim's connections may close before its listener does: what still accepts then is nobody.
fn dead_socket(bundle: &Path) -> Option<PathBuf> {
    let address = std::fs::read_to_string(bundle.join(bundle::ADDRESS)).ok()?;
    let path = PathBuf::from(address.trim().strip_prefix("unix://")?);
    let dead = || {
        ShimState::of(bundle) == ShimState::Dying
            || socket::is_served(&path).is_ok_and(|served| !served)
    };
    (path.exists() && dead()).then_some(path)
}

/// Waits until a dying shim is gone. Its socket closes early in its death, the runtime programs it
/// was running are killed late in it; before that they could go on making what is cleaned up here.
fn await_death(bundle: &Path, limit: Duration) {
    let deadline = Instant::now() + limit;
    while ShimState::of(bundle) != ShimState::Gone && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What the kernel tells of the shim whose number is in a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ShimState {
    Lives,
    Dying,
    /// A zombie too, which has told its children; and where the number is another program's by now.
    Gone,
}

impl ShimState {
    fn of(bundle: &Path) -> Self {
        match bundle::read_pid(&bundle.join(bundle::SHIM_PID)) {
            Ok(pid) => Self::told_by(
                &std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default(),
            ),
            Err(_) => Self::Gone,
        }
    }

    /// From a line of `/proc/PID/stat`, see proc(5).
    fn told_by(stat: &str) -> Self {
        /// The kernel's flag of a task that ends; it is set before the first descriptor is closed.
        const PF_EXITING: u64 = 0x4;
        let Some((name, rest)) = stat.rsplit_once(") ") else {
            return Self::Gone;
        };
        let mut fields = rest.split(' ');
        if !name.contains("(containerd-shim") || matches!(fields.next(), Some("Z" | "X")) {
            return Self::Gone;
        }
        // After the state: parent, group, session, terminal, its foreground group, flags.
        match fields.nth(5).and_then(|flags| flags.parse::<u64>().ok()) {
            Some(flags) if flags & PF_EXITING != 0 => Self::Dying,
            _ => Self::Lives,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ShimState;

    #[test]
    fn a_shim_that_is_being_killed_is_told_from_one_that_lives() {
        let line = |name: &str, state: &str, flags: u64| {
            format!("7 ({name}) {state} 1 7 7 0 -1 {flags} 120 0 0 0\n")
        };
        let shim = "containerd-shim";
        assert_eq!(
            ShimState::told_by(&line(shim, "S", 0x400100)),
            ShimState::Lives
        );
        assert_eq!(
            ShimState::told_by(&line(shim, "R", 0x400104)),
            ShimState::Dying
        );
        assert_eq!(
            ShimState::told_by(&line(shim, "Z", 0x40010c)),
            ShimState::Gone
        );
        assert_eq!(
            ShimState::told_by(&line("a) S (b", "S", 0)),
            ShimState::Gone
        );
        assert_eq!(ShimState::told_by(""), ShimState::Gone);
    }

    #[test]
    fn flags_are_where_the_kernel_writes_them() {
        // A zombie's: it has ended, nobody has waited for it, and its line has the flag.
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let path = format!("/proc/{}/stat", child.id());
        let ended = |stat: &str| stat.contains(") Z ");
        let mut stat = std::fs::read_to_string(&path).unwrap();
        while !ended(&stat) {
            std::thread::sleep(std::time::Duration::from_millis(2));
            stat = std::fs::read_to_string(&path).unwrap();
        }
        child.wait().unwrap();
        let as_shim = stat
            .replace("(true)", "(containerd-shim)")
            .replace(") Z ", ") S ");
        assert_eq!(ShimState::told_by(&as_shim), ShimState::Dying);
    }
}
