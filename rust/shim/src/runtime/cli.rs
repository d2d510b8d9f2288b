//! A runtime that is a program with the OCI command line: runc, crun, youki, runsc.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::console::ConsoleSocket;
use super::error_log::Mark;
use super::{
    Call, CheckpointRequest, CreateRequest, ExecRequest, ProcessIo, RestoreRequest, Result,
    Runtime, RuntimeError, Started, Streams,
};
use crate::bundle;
use crate::options::Options;
use crate::spawn::{self, Spawn};

/// Where containerd keeps runc's state.
const DEFAULT_ROOT: &str = "/run/containerd/runc";
const DEFAULT_BINARY: &str = "runc";
/// What is read of a command's output at most, in bytes.
const OUTPUT_LIMIT: usize = 1 << 20;

pub struct CliRuntime {
    binary: String,
    root: PathBuf,
    bundle: PathBuf,
    log: PathBuf,
    globals: Vec<&'static str>,
}

impl CliRuntime {
    pub fn new(options: &Options, namespace: &str, bundle: &Path) -> Self {
        let or = |value: &str, default: &str| -> String {
            if value.is_empty() {
                default.into()
            } else {
                value.into()
            }
        };
        Self {
            binary: or(&options.binary_name, DEFAULT_BINARY),
            root: Path::new(&or(&options.root, DEFAULT_ROOT)).join(namespace),
            bundle: bundle.into(),
            log: bundle.join("log.json"),
            globals: match options.systemd_cgroup {
                true => vec!["--systemd-cgroup"],
                false => Vec::new(),
            },
        }
    }

    /// A program by its path, with the folder that its states are in.
    pub fn of_program(binary: &str, root: &Path, bundle: &Path) -> Self {
        Self {
            binary: binary.into(),
            root: root.into(),
            bundle: bundle.into(),
            log: bundle.join("log.json"),
            globals: Vec::new(),
        }
    }

    /// A flag in front of every command.
    pub fn add_global(&mut self, flag: &'static str) {
        self.globals.push(flag);
    }

    /// Whether the runtime may have anything of this container. Its state folder has an entry that
    /// begins with the id (`ID` for runc, crun and youki, `ID_…` for runsc) as long as it does.
    pub fn may_know(&self, id: &str) -> bool {
        match std::fs::read_dir(&self.root) {
            Ok(entries) => entries
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().starts_with(id)),
            Err(e) => e.kind() != io::ErrorKind::NotFound,
        }
    }

    fn command(&self) -> io::Result<Spawn> {
        let mut spawn = Spawn::new(&self.binary)?;
        spawn
            .arg("--root")?
            .arg(&self.root)?
            .arg("--log")?
            .arg(&self.log)?;
        spawn.args(["--log-format", "json"])?;
        spawn.args(&self.globals)?;
        // A half-made container of a dead shim is cleaned up by `delete`: nobody else may still be
        // making it then.
        spawn.kill_with_parent();
        Ok(spawn)
    }

    /// Runs a command whose output is its own, and hands it to `read` if it succeeds.
    fn run<T: 'static>(
        &self,
        args: &[&str],
        stdin: Option<&[u8]>,
        read: impl FnOnce(&[u8]) -> Result<T> + 'static,
    ) -> Call<T> {
        let start = || -> io::Result<(i32, File, File)> {
            let mut spawn = self.command()?;
            spawn.args(args)?;
            let (out, err) = (scratch("stdout")?, scratch("stderr")?);
            spawn.fd(1, &out)?.fd(2, &err)?;
            if let Some(input) = stdin {
                spawn.fd(0, filled("stdin", input)?)?;
            }
            Ok((spawn.spawn()?, out, err))
        };
        let mark = Mark::at_end_of(&self.log);
        let binary = self.binary.clone();
        match start() {
            Err(e) => Call::Ready(Err(RuntimeError::new(e.to_string()))),
            Ok((pid, out, err)) => Call::Child {
                pid,
                finish: Box::new(move |status| {
                    let output = contents(&out);
                    if status == 0 {
                        return read(&output);
                    }
                    Err(failure(
                        &binary,
                        status,
                        &[output, contents(&err)].concat(),
                        &mark,
                    ))
                }),
            },
        }
    }

    fn simple(&self, args: &[&str]) -> Call<()> {
        self.run(args, None, |_| Ok(()))
    }

    /// Runs a command that makes a process with the given streams and writes its id to `pid_file`.
    fn make(
        &self,
        args: Vec<String>,
        id: &str,
        pid_file: PathBuf,
        io: ProcessIo,
        keep: Option<File>,
    ) -> Call<Started> {
        let start = || -> io::Result<(i32, Option<ConsoleSocket>, File)> {
            let mut spawn = self.command()?;
            spawn.args(&args)?.arg("--pid-file")?.arg(&pid_file)?;
            let err = scratch("stderr")?;
            let console = match &io {
                ProcessIo::Terminal => {
                    let socket = ConsoleSocket::in_bundle(&self.bundle)?;
                    spawn.arg("--console-socket")?.arg(socket.path())?;
                    spawn.fd(1, &err)?.fd(2, &err)?;
                    Some(socket)
                }
                ProcessIo::Pipes(Streams {
                    stdin,
                    stdout,
                    stderr,
                }) => {
                    for (target, fd) in [(0, stdin), (1, stdout), (2, stderr)] {
                        if let Some(fd) = fd {
                            spawn.fd(target, fd)?;
                        }
                    }
                    None
                }
            };
            spawn.arg(id)?;
            Ok((spawn.spawn()?, console, err))
        };
        let _ = std::fs::remove_file(&pid_file);
        let mark = Mark::at_end_of(&self.log);
        let binary = self.binary.clone();
        let started = start();
        // The process has its own copies now. Ours must go: the pipes end when the process does.
        drop(io);
        match started {
            Err(e) => Call::Ready(Err(RuntimeError::new(e.to_string()))),
            Ok((pid, console, err)) => Call::Child {
                pid,
                finish: Box::new(move |status| {
                    drop(keep);
                    if status != 0 {
                        return Err(failure(&binary, status, &contents(&err), &mark));
                    }
                    let pid = bundle::read_pid(&pid_file).map_err(|e| {
                        RuntimeError::new(format!(
                            "failed to retrieve OCI runtime container pid: {e}"
                        ))
                    })?;
                    let console =
                        console
                            .map(|socket| socket.receive())
                            .transpose()
                            .map_err(|e| {
                                RuntimeError::new(format!("failed to retrieve console master: {e}"))
                            })?;
                    Ok(Started { pid, console })
                }),
            },
        }
    }
}

impl Runtime for CliRuntime {
    fn create(&self, request: CreateRequest<'_>) -> Call<Started> {
        let mut args = strings(&["create", "--bundle", &self.bundle.to_string_lossy()]);
        if request.no_pivot_root {
            args.push("--no-pivot".into());
        }
        if request.no_new_keyring {
            args.push("--no-new-keyring".into());
        }
        self.make(
            args,
            request.id,
            self.bundle.join(bundle::INIT_PID),
            request.io,
            None,
        )
    }

    fn restore(&self, request: RestoreRequest<'_>) -> Call<Started> {
        let mut args = strings(&[
            "restore",
            "--bundle",
            &self.bundle.to_string_lossy(),
            "--detach",
        ]);
        args.extend(strings(&[
            "--no-subreaper",
            "--image-path",
            request.image_path,
        ]));
        for (flag, value) in [
            ("--work-path", request.work_path),
            ("--parent-path", request.parent_path),
        ] {
            if !value.is_empty() {
                args.extend(strings(&[flag, value]));
            }
        }
        if request.no_pivot_root {
            args.push("--no-pivot".into());
        }
        self.make(
            args,
            request.id,
            self.bundle.join(bundle::INIT_PID),
            request.io,
            None,
        )
    }

    fn start(&self, id: &str) -> Call<()> {
        self.simple(&["start", id])
    }

    fn exec(&self, request: ExecRequest<'_>) -> Call<Started> {
        // The process may carry secrets in its environment: memory, not a file somebody could find.
        let spec = match filled("process", request.spec) {
            Ok(file) => file,
            Err(e) => return Call::Ready(Err(RuntimeError::new(format!("process spec: {e}")))),
        };
        let path = format!("/proc/{}/fd/{}", std::process::id(), spec.as_raw_fd());
        let args = strings(&["exec", "--process", &path, "--detach"]);
        let pid_file = self.bundle.join(bundle::exec_pid_name(request.exec_id));
        self.make(args, request.id, pid_file, request.io, Some(spec))
    }

    fn kill(&self, id: &str, signal: u32, all: bool) -> Call<()> {
        let signal = signal.to_string();
        let mut args = vec!["kill"];
        if all {
            args.push("--all");
        }
        args.extend([id, &signal]);
        self.simple(&args)
    }

    fn delete(&self, id: &str, force: bool) -> Call<()> {
        if force {
            self.simple(&["delete", "--force", id])
        } else {
            self.simple(&["delete", id])
        }
    }

    fn pause(&self, id: &str) -> Call<()> {
        self.simple(&["pause", id])
    }

    fn resume(&self, id: &str) -> Call<()> {
        self.simple(&["resume", id])
    }

    fn update(&self, id: &str, resources: &[u8]) -> Call<()> {
        self.run(&["update", "--resources", "-", id], Some(resources), |_| {
            Ok(())
        })
    }

    fn ps(&self, id: &str) -> Call<Vec<u32>> {
        self.run(&["ps", "--format", "json", id], None, |output| {
            let value: serde_json::Value = serde_json::from_slice(output)
                .map_err(|e| RuntimeError::new(format!("the runtime's process list: {e}")))?;
            let ids = value.as_array().map(Vec::as_slice).unwrap_or_default();
            Ok(ids
                .iter()
                .filter_map(|id| u32::try_from(id.as_u64()?).ok())
                .collect())
        })
    }

    fn checkpoint(&self, id: &str, request: &CheckpointRequest) -> Call<()> {
        let mut args = vec!["checkpoint"];
        for (flag, value) in [
            ("--image-path", &request.image_path),
            ("--work-path", &request.work_path),
            ("--parent-path", &request.parent_path),
            ("--manage-cgroups-mode", &request.cgroups_mode),
        ] {
            if !value.is_empty() {
                args.extend([flag, value.as_str()]);
            }
        }
        for (flag, on) in [
            ("--tcp-established", request.open_tcp),
            ("--ext-unix-sk", request.external_unix_sockets),
            ("--shell-job", request.terminal),
            ("--file-locks", request.file_locks),
            ("--leave-running", request.leave_running),
        ] {
            if on {
                args.push(flag);
            }
        }
        for namespace in &request.empty_namespaces {
            args.extend(["--empty-ns", namespace.as_str()]);
        }
        args.push(id);
        self.simple(&args)
    }
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|s| (*s).to_owned()).collect()
}

fn failure(binary: &str, status: i32, output: &[u8], mark: &Mark) -> RuntimeError {
    let code = spawn::exit_code(status);
    let output = String::from_utf8_lossy(output);
    let mut summary = format!("{binary} did not terminate successfully: exit status {code}");
    if !output.trim().is_empty() {
        summary = format!("{summary}: {}", output.trim());
    }
    RuntimeError {
        summary,
        logged: mark.last_error(),
    }
}

/// A file in memory, for a command to write to.
fn scratch(name: &str) -> io::Result<File> {
    let fd: OwnedFd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?;
    Ok(File::from(fd))
}

/// A file in memory with content, for a command to read from.
fn filled(name: &str, content: &[u8]) -> io::Result<File> {
    let mut file = scratch(name)?;
    file.write_all(content)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

fn contents(file: &File) -> Vec<u8> {
    let length = file.metadata().map_or(0, |m| m.len()) as usize;
    let mut bytes = vec![0; length.min(OUTPUT_LIMIT)];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}
