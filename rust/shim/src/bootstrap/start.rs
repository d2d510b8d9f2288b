//! `start`: makes the serving shim of a container, or finds the one of its group.

use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::params::{Environment, Params};
use super::socket::{self, Made};
use crate::bundle::{self, Spec};
use crate::cgroup;
use crate::flags::Flags;
use crate::spawn::Spawn;

/// What is read of stdin at most, in bytes.
const INPUT_LIMIT: u64 = 10 << 20;

pub fn run(flags: &Flags) -> Result<(), String> {
    if flags.id.is_empty() {
        return Err("the container's id is missing: -id".into());
    }
    let bundle = super::bundle_path(flags)?;
    let env = Environment {
        ttrpc_address: std::env::var("TTRPC_ADDRESS").unwrap_or_default(),
        max_shim_version: std::env::var("MAX_SHIM_VERSION").ok(),
    };
    let params = Params::read(&read_input()?, flags, env).map_err(|e| e.message)?;
    let spec = match Spec::read(&bundle) {
        // A sandbox may have none.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Spec::default(),
        read => read.map_err(|e| e.to_string())?,
    };
    let group = spec.group.as_deref().unwrap_or(&flags.id);
    let dir = params.socket_dir.as_deref().unwrap_or(socket::DEFAULT_DIR);
    let path = socket::path(
        Path::new(dir),
        &params.grpc_address,
        &flags.namespace,
        group,
    );
    let address = format!("unix://{}", path.display());

    if let Made::New(listener) = socket::make(&path).map_err(|e| e.to_string())? {
        let started = launch(flags, &params, &listener, &bundle).inspect_err(|_| {
            let _ = std::fs::remove_file(&path);
        })?;
        // containerd up to 1.4 looks for it, and `delete`.
        let _ = bundle::write_atomic(
            &bundle.join(bundle::SHIM_PID),
            started.to_string().as_bytes(),
        );
    }
    // containerd 1.6 reads it when it comes back; `delete` looks there for a dead shim's socket.
    bundle::write_atomic(&bundle.join(bundle::ADDRESS), address.as_bytes())
        .map_err(|e| format!("address file: {e}"))?;
    std::io::stdout()
        .write_all(&params.answer.encode(&address))
        .map_err(|e| format!("answer on stdout: {e}"))
}

fn read_input() -> Result<Vec<u8>, String> {
    let mut input = Vec::new();
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        stdin
            .take(INPUT_LIMIT)
            .read_to_end(&mut input)
            .map_err(|e| format!("stdin: {e}"))?;
    }
    Ok(input)
}

/// Starts the serving process in a session of its own; it listens already, so it can be connected
/// to at once. Returns its pid.
fn launch(
    flags: &Flags,
    params: &Params,
    listener: &UnixListener,
    bundle: &Path,
) -> Result<i32, String> {
    // The processes of containers are copies of the shim until they execute their programs.
    let protected = ::runtime::protect::protected().map_err(|e| e.message)?;
    let start = || -> std::io::Result<i32> {
        let program = std::env::current_exe()?;
        let mut spawn = Spawn::new(&program.to_string_lossy())?;
        spawn.args(["-namespace", &flags.namespace, "-id", &flags.id])?;
        spawn.args(["-address", &params.grpc_address])?;
        if !params.containerd_binary.is_empty() {
            spawn.args(["-publish-binary", &params.containerd_binary])?;
        }
        if params.debug {
            spawn.arg("-debug")?;
        }
        spawn.set_env("TTRPC_ADDRESS", &params.ttrpc_address)?;
        spawn.set_env(::runtime::protect::MARK, "1")?;
        spawn.image(&protected)?;
        spawn.core_scheduling(std::env::var("SCHED_CORE").is_ok_and(|v| !v.is_empty()));
        spawn.new_session().fd(3, listener.as_fd())?;
        spawn.spawn()
    };
    std::env::set_current_dir(bundle).map_err(|e| format!("bundle {}: {e}", bundle.display()))?;
    let pid = start().map_err(|e| format!("shim process: {e}"))?;
    let placed = place(pid, params);
    if placed.is_err() {
        // SAFETY: ends the child just started, which has not been waited for; no memory is passed.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    placed.map(|()| pid)
}

/// Puts the shim into the cgroup the options name, and above its daemon in the kernel's choice of
/// victims.
fn place(pid: i32, params: &Params) -> Result<(), String> {
    if !params.options.shim_cgroup.is_empty() {
        cgroup::join(&params.options.shim_cgroup, pid)
            .map_err(|e| format!("failed to join {e}; the option shim_cgroup has to name one"))?;
    }
    let read = |path: String| {
        std::fs::read_to_string(path)
            .ok()?
            .trim()
            .parse::<i32>()
            .ok()
    };
    let parent = std::os::unix::process::parent_id();
    if let Some(daemon) = read(format!("/proc/{parent}/oom_score_adj")) {
        let score = (daemon + 1).min(1000);
        // Lowering needs a capability that is not everywhere; the score is a preference.
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string());
    }
    Ok(())
}
