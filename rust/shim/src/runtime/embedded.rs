//! The runtime inside this process: the library `runtime`, without a program, a thread or a wait.
//!
//! What depends on somebody else may take any time: hooks, a seccomp agent, systemd, criu. Such
//! containers are handled by the same runtime as a program, on the same state folder, like any other
//! program's.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::runtime::spec::{Process, Resources, Spec};
use ::runtime::{Error, Stdio};

use super::cli::CliRuntime;
use super::{
    Call, CheckpointRequest, CreateRequest, ExecRequest, ProcessIo, RestoreRequest, Result,
    Runtime, RuntimeError, Started, Streams,
};
use crate::bundle;
use crate::options::Options;
use crate::spawn;

/// Where the state of containers is, below it one folder for each namespace.
const DEFAULT_ROOT: &str = "/run/containerd/hybrid";
/// The runtime's program, installed beside the shim.
const PROGRAM: &str = "containerd-hybrid-runtime";
/// Set to anything but nothing: a score that may not be lowered is left as it is, as for containerd's
/// `restrict_oom_score_adj`. (`env` of the plug-in `io.containerd.shim.v1.manager` sets it.)
const CLAMP: &str = "CONTAINERD_HYBRID_RESTRICT_OOM_SCORE_ADJ";

/// How long a process in the making may hold up everything else.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Embedded {
    runtime: ::runtime::Runtime,
    program: CliRuntime,
    root: PathBuf,
    bundle: PathBuf,
    systemd_cgroup: bool,
    needs_program: Cell<Option<bool>>,
}

impl Embedded {
    pub fn new(options: &Options, namespace: &str, bundle: &Path) -> Self {
        let root = match options.root.as_str() {
            "" => DEFAULT_ROOT,
            root => root,
        };
        let root = Path::new(root).join(namespace);
        let clamp = std::env::var_os(CLAMP).is_some_and(|value| !value.is_empty());
        let own = ::runtime::Options {
            clamp_oom_score_adj: clamp,
            nofile: spawn::original_file_limit(),
            forgive_cgroups: false,
            patience: Some(PATIENCE),
        };
        let mut program = CliRuntime::of_program(&program(), &root, bundle);
        for (flag, wanted) in [
            ("--restrict-oom-score-adj", clamp),
            ("--systemd-cgroup", options.systemd_cgroup),
        ] {
            if wanted {
                program.add_global(flag);
            }
        }
        Self {
            runtime: ::runtime::Runtime::new(root.clone(), own),
            program,
            root,
            bundle: bundle.into(),
            systemd_cgroup: options.systemd_cgroup,
            needs_program: Cell::new(None),
        }
    }

    /// Whether there may be anything of this container. A folder that another runtime made has no
    /// configuration beside its state.
    pub fn may_know(&self, id: &str) -> bool {
        let folder = self.root.join(id);
        folder.is_dir()
            && (folder.join("config.json").exists() || !folder.join("state.json").exists())
    }

    fn needs_program(&self) -> bool {
        if self.systemd_cgroup {
            return true;
        }
        if let Some(known) = self.needs_program.get() {
            return known;
        }
        let text = std::fs::read(self.bundle.join("config.json")).unwrap_or_default();
        let needed = depends_on_others(&text);
        self.needs_program.set(Some(needed));
        needed
    }

    /// After a call of this result nothing stays of a namespace without containers.
    fn tidied<T: 'static>(&self, call: Call<T>, when: fn(&Result<T>) -> bool) -> Call<T> {
        let root = self.root.clone();
        let tidy = move |result: Result<T>| {
            if when(&result) {
                // It is in use if that fails.
                let _ = std::fs::remove_dir(root);
            }
            result
        };
        match call {
            Call::Ready(result) => Call::Ready(tidy(result)),
            Call::Child { pid, finish } => Call::Child {
                pid,
                finish: Box::new(move |status| tidy(finish(status))),
            },
        }
    }

    fn create_here(&self, request: CreateRequest<'_>) -> Result<Started> {
        let terminal = matches!(request.io, ProcessIo::Terminal);
        let started = self.runtime.create(::runtime::CreateRequest {
            id: request.id,
            bundle: &self.bundle,
            stdio: stdio(request.io),
            no_pivot: request.no_pivot_root,
            no_new_keyring: request.no_new_keyring,
            preserve_fds: 0,
        });
        let started = started.map_err(|e| refusal(&e))?;
        let told = check_console(terminal, started.console.is_some())
            .and_then(|()| self.write_pid(started.pid));
        if let Err(e) = told {
            // The first error counts, whatever becomes of the clean-up.
            let _ = self.runtime.delete(request.id, true);
            return Err(e);
        }
        Ok(Started {
            pid: started.pid,
            console: started.console,
        })
    }

    /// For `delete` of a later process, and for whoever looks.
    fn write_pid(&self, pid: i32) -> Result<()> {
        let path = self.bundle.join(bundle::INIT_PID);
        bundle::write_atomic(&path, pid.to_string().as_bytes())
            .map_err(|e| RuntimeError::new(format!("{}: {e}", path.display())))
    }

    fn exec_here(&self, request: ExecRequest<'_>) -> Result<Started> {
        let process: Process = serde_json::from_slice(request.spec)
            .map_err(|e| RuntimeError::new(format!("process spec: {e}")))?;
        let started = self.runtime.exec(::runtime::ExecRequest {
            id: request.id,
            process,
            stdio: stdio(request.io),
            preserve_fds: 0,
            ignore_paused: false,
            sub_cgroups: Vec::new(),
        });
        let started = started.map_err(|e| refusal(&e))?;
        Ok(Started {
            pid: started.pid,
            console: started.console,
        })
    }
}

impl Runtime for Embedded {
    fn create(&self, request: CreateRequest<'_>) -> Call<Started> {
        let call = match self.needs_program() {
            true => self.program.create(request),
            false => Call::Ready(self.create_here(request)),
        };
        self.tidied(call, Result::is_err)
    }

    fn restore(&self, request: RestoreRequest<'_>) -> Call<Started> {
        self.program.restore(request)
    }

    fn start(&self, id: &str) -> Call<()> {
        if self.needs_program() {
            return self.program.start(id);
        }
        ready(self.runtime.start(id))
    }

    fn exec(&self, request: ExecRequest<'_>) -> Call<Started> {
        if self.needs_program() {
            return self.program.exec(request);
        }
        Call::Ready(self.exec_here(request))
    }

    fn kill(&self, id: &str, signal: u32, all: bool) -> Call<()> {
        ready(
            self.runtime
                .kill(id, i32::try_from(signal).unwrap_or(-1), all),
        )
    }

    fn delete(&self, id: &str, force: bool) -> Call<()> {
        let call = match self.needs_program() {
            true => self.program.delete(id, force),
            false => ready(self.runtime.delete(id, force)),
        };
        self.tidied(call, |_| true)
    }

    fn pause(&self, id: &str) -> Call<()> {
        ready(self.runtime.pause(id))
    }

    fn resume(&self, id: &str) -> Call<()> {
        ready(self.runtime.resume(id))
    }

    fn update(&self, id: &str, resources: &[u8]) -> Call<()> {
        if self.systemd_cgroup {
            return self.program.update(id, resources);
        }
        match serde_json::from_slice::<Resources>(resources) {
            Ok(resources) => ready(self.runtime.update(id, &resources)),
            Err(e) => Call::Ready(Err(RuntimeError::new(format!("resources: {e}")))),
        }
    }

    fn ps(&self, id: &str) -> Call<Vec<u32>> {
        let list = self.runtime.ps(id);
        ready(list.map(|list| list.into_iter().map(i32::unsigned_abs).collect()))
    }

    fn checkpoint(&self, id: &str, request: &CheckpointRequest) -> Call<()> {
        self.program.checkpoint(id, request)
    }
}

fn ready<T>(result: ::runtime::Result<T>) -> Call<T> {
    Call::Ready(result.map_err(|e| refusal(&e)))
}

fn refusal(error: &Error) -> RuntimeError {
    RuntimeError::new(error.message.as_str())
}

fn stdio(io: ProcessIo) -> Stdio {
    match io {
        // Not looked at: the process has a terminal.
        ProcessIo::Terminal => Stdio::Inherit,
        ProcessIo::Pipes(Streams {
            stdin,
            stdout,
            stderr,
        }) => Stdio::Streams([stdin, stdout, stderr]),
    }
}

/// The request and the specification have to agree on a terminal.
fn check_console(asked: bool, given: bool) -> Result<()> {
    match (asked, given) {
        (true, false) => Err(RuntimeError::new(
            "a terminal is asked for, but process.terminal of the specification is false",
        )),
        (false, true) => Err(RuntimeError::new(
            "process.terminal of the specification is true, but no terminal is asked for",
        )),
        _ => Ok(()),
    }
}

/// Whether making, starting or deleting the container waits for programs of others.
fn depends_on_others(config: &[u8]) -> bool {
    // Most have neither word, and need not be read twice.
    let has = |word: &[u8]| config.windows(word.len()).any(|part| part == word);
    if !has(b"\"hooks\"") && !has(b"\"listenerPath\"") {
        return false;
    }
    let Ok(spec) = Spec::parse(config) else {
        return false;
    };
    let h = &spec.hooks;
    let hooks = [
        &h.prestart,
        &h.create_runtime,
        &h.create_container,
        &h.start_container,
        &h.poststart,
        &h.poststop,
    ];
    let seccomp = spec.linux.seccomp.as_ref();
    hooks.iter().any(|list| !list.is_empty())
        || seccomp.is_some_and(|s| !s.listener_path.is_empty())
}

/// The runtime's program: beside the shim's own, else what PATH has. (A protected shim runs from a
/// mount without a path; the name it was called by is its file's.)
fn program() -> String {
    let own = std::env::args_os().next().unwrap_or_default();
    let beside = std::fs::canonicalize(own)
        .ok()
        .and_then(|path| Some(path.parent()?.join(PROGRAM)))
        .filter(|path| path.is_file());
    beside.map_or(PROGRAM.into(), |path| path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_waits_for_others_needs_the_program() {
        for config in [
            "{}",
            r#"{"ociVersion":"1.0.0","hooks":{}}"#,
            r#"{"ociVersion":"1.0.0","hooks":{"poststop":[]}}"#,
            r#"{"ociVersion":"1.0.0","process":{"cwd":"/","args":["\"hooks\""]}}"#,
            "no json, \"hooks\"",
        ] {
            assert!(!depends_on_others(config.as_bytes()), "{config}");
        }
        for config in [
            r#"{"ociVersion":"1.0.0","hooks":{"poststop":[{"path":"/bin/true"}]}}"#,
            r#"{"ociVersion":"1.0.0","hooks":{"createRuntime":[{"path":"/bin/true"}]}}"#,
            r#"{"ociVersion":"1.0.0","linux":{"seccomp":
                {"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/agent"}}}"#,
        ] {
            assert!(depends_on_others(config.as_bytes()), "{config}");
        }
    }

    #[test]
    fn a_terminal_has_to_be_asked_for_twice() {
        assert!(check_console(true, true).is_ok() && check_console(false, false).is_ok());
        assert!(check_console(true, false).is_err() && check_console(false, true).is_err());
    }

    #[test]
    fn a_folder_of_another_runtime_is_not_ours() {
        let root = std::env::temp_dir().join(format!("shim-embedded-{}", std::process::id()));
        let options = Options {
            root: root.to_string_lossy().into_owned(),
            ..Options::default()
        };
        let runtime = Embedded::new(&options, "ns", Path::new("/no/bundle"));
        assert!(!runtime.may_know("box"));
        std::fs::create_dir_all(root.join("ns/box")).unwrap();
        assert!(runtime.may_know("box"), "half made");
        std::fs::write(root.join("ns/box/state.json"), "{}").unwrap();
        assert!(!runtime.may_know("box"), "runc's");
        std::fs::write(root.join("ns/box/config.json"), "{}").unwrap();
        assert!(runtime.may_know("box"));
        std::fs::remove_dir_all(root).unwrap();
    }
}
