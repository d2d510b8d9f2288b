//! One function for each command.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use runtime::spec::{Box2, Capabilities, Process};
use runtime::{CreateRequest, Error, ExecRequest, Runtime, Started, Stdio, SubCgroup};

use super::flags::{Flags, Known};
use super::{Command, criu, foreground, signals, spec, stats, update};

pub const HELP: Known = (&["help", "h"], false);

const CREATE: &[Known] = &[
    HELP,
    (&["bundle", "b"], true),
    (&["console-socket"], true),
    (&["pid-file"], true),
    (&["pidfd-socket"], true),
    (&["no-pivot"], false),
    (&["no-new-keyring"], false),
    (&["preserve-fds"], true),
];
const RUN: &[Known] = &[
    HELP,
    (&["bundle", "b"], true),
    (&["console-socket"], true),
    (&["pid-file"], true),
    (&["pidfd-socket"], true),
    (&["no-pivot"], false),
    (&["no-new-keyring"], false),
    (&["preserve-fds"], true),
    (&["detach", "d"], false),
    (&["keep"], false),
    (&["no-subreaper"], false),
];
const EXEC: &[Known] = &[
    HELP,
    (&["console-socket"], true),
    (&["pidfd-socket"], true),
    (&["cwd"], true),
    (&["env", "e"], true),
    (&["tty", "t"], false),
    (&["user", "u"], true),
    (&["additional-gids", "g"], true),
    (&["process", "p"], true),
    (&["detach", "d"], false),
    (&["pid-file"], true),
    (&["process-label"], true),
    (&["apparmor"], true),
    (&["no-new-privs"], false),
    (&["cap", "c"], true),
    (&["preserve-fds"], true),
    (&["ignore-paused"], false),
    (&["cgroup"], true),
];
pub const ALL: &[Command] = &[
    command("create", "[options] ID", CREATE, create, true),
    command("start", "ID", &[HELP], start, false),
    command("run", "[options] ID", RUN, run, true),
    command("exec", "[options] ID COMMAND [ARG …]", EXEC, exec, true),
    command("state", "ID", &[HELP], state, false),
    command(
        "kill",
        "[--all] ID [SIGNAL]",
        &[HELP, (&["all", "a"], false)],
        kill,
        false,
    ),
    command(
        "delete",
        "[--force] ID",
        &[HELP, (&["force", "f"], false)],
        delete,
        false,
    ),
    command("pause", "ID", &[HELP], pause, false),
    command("resume", "ID", &[HELP], resume, false),
    command(
        "update",
        "[options] ID",
        update::FLAGS,
        update::update,
        false,
    ),
    command(
        "ps",
        "[--format json] ID",
        &[HELP, (&["format", "f"], true)],
        ps,
        false,
    ),
    command(
        "list",
        "[--format json] [--quiet]",
        &[HELP, (&["format", "f"], true), (&["quiet", "q"], false)],
        list,
        false,
    ),
    command(
        "events",
        "[--stats] [--interval SECONDS] ID",
        &[HELP, (&["stats"], false), (&["interval"], true)],
        stats::events,
        false,
    ),
    command("features", "", &[HELP], features, false),
    command(
        "spec",
        "[--bundle DIR] [--rootless]",
        &[HELP, (&["bundle", "b"], true), (&["rootless"], false)],
        spec::write,
        false,
    ),
    command(
        "checkpoint",
        "[options] ID",
        criu::CHECKPOINT,
        criu::checkpoint,
        false,
    ),
    command(
        "restore",
        "[options] ID",
        criu::RESTORE,
        criu::restore,
        false,
    ),
];

type Run = fn(&Runtime, &Flags) -> Result<u8, Error>;

const fn command(
    name: &'static str,
    usage: &'static str,
    flags: &'static [Known],
    run: Run,
    makes: bool,
) -> Command {
    Command {
        name,
        usage,
        flags,
        run,
        makes,
    }
}

pub fn io(what: &str, e: impl std::fmt::Display) -> Error {
    Error::failed(format!("{what}: {e}"))
}

pub fn id(flags: &Flags) -> Result<&str, Error> {
    match flags.rest.first() {
        Some(id) if !id.is_empty() => Ok(id),
        _ => Err(Error::invalid("container id cannot be empty")),
    }
}

fn preserve_fds(flags: &Flags) -> Result<u32, Error> {
    let Some(text) = flags.get("preserve-fds") else {
        return Ok(0);
    };
    let wrong = || {
        Error::invalid(format!(
            "--preserve-fds {text}: it is a number of descriptors"
        ))
    };
    let count: u32 = text.parse().map_err(|_| wrong())?;
    for fd in 3..3 + count {
        if !Path::new(&format!("/proc/self/fd/{fd}")).exists() {
            return Err(Error::invalid(format!(
                "please check that preserved-fd {} (of {count}) is present",
                fd - 3
            )));
        }
    }
    Ok(count)
}

pub fn bundle(flags: &Flags) -> Result<PathBuf, Error> {
    std::path::absolute(flags.get("bundle").unwrap_or(".")).map_err(|e| io("--bundle", e))
}

/// Checks that a terminal has a socket to go to, or the other way round, before anything is made.
pub fn check_console(flags: &Flags, terminal: bool, detached: bool) -> Result<(), Error> {
    match (flags.get("console-socket"), terminal) {
        (Some(_), false) => Err(Error::invalid(
            "cannot use console socket if runc will not detach or allocate tty",
        )),
        (None, true) if detached => Err(Error::invalid(
            "cannot allocate tty if runc will detach without setting console socket",
        )),
        _ => Ok(()),
    }
}

fn send_console(flags: &Flags, started: &mut Started) -> Result<(), Error> {
    let Some(path) = flags.get("console-socket") else {
        return Ok(());
    };
    let Some(master) = started.console.take() else {
        return Ok(());
    };
    let what = format!("console socket {path}");
    let socket = UnixStream::connect(path).map_err(|e| io(&what, e))?;
    runtime::sys::send(socket.as_raw_fd(), b"/dev/ptmx", Some(master.as_raw_fd()))
        .map_err(|e| io(&what, e))
}

/// `kind` goes with the descriptor: runc says so how the process was made.
fn send_pidfd(flags: &Flags, pid: i32, kind: &str) -> Result<(), Error> {
    let Some(path) = flags.get("pidfd-socket") else {
        return Ok(());
    };
    let what = format!("pidfd socket {path}");
    let socket = UnixStream::connect(path).map_err(|e| io(&what, e))?;
    let pidfd = runtime::sys::pidfd_open(pid).map_err(|e| io(&what, e))?;
    runtime::sys::send(socket.as_raw_fd(), kind.as_bytes(), Some(pidfd.as_raw_fd()))
        .map_err(|e| io(&what, e))
}

/// `[CONTROLLER[,CONTROLLER…]:]PATH`; without controllers there may be one only.
fn sub_cgroups(words: &[String]) -> Result<Vec<SubCgroup>, Error> {
    let parse = |word: &String| {
        let (controllers, path) = word.split_once(':').unwrap_or(("", word));
        let wrong = path.is_empty() || path.contains(':') || word.starts_with(':');
        if wrong {
            return Err(Error::invalid(format!("invalid --cgroup argument: {word}")));
        }
        if controllers.is_empty() && words.len() > 1 {
            return Err(Error::invalid(format!(
                "invalid --cgroup argument: {word} (missing <controller>: prefix)"
            )));
        }
        let names = controllers.split(',').filter(|name| !name.is_empty());
        Ok(SubCgroup {
            controllers: names.map(str::to_owned).collect(),
            path: path.to_owned(),
        })
    };
    words.iter().map(parse).collect()
}

fn write_pid_file(flags: &Flags, pid: i32) -> Result<(), Error> {
    let Some(path) = flags.get("pid-file") else {
        return Ok(());
    };
    let what = format!("--pid-file {path}");
    let path = PathBuf::from(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}"));
    fs::write(&new, pid.to_string())
        .and_then(|()| fs::rename(&new, &path))
        .map_err(|e| io(&what, e))
}

fn make(runtime: &Runtime, flags: &Flags, detached: bool) -> Result<Started, Error> {
    let id = id(flags)?;
    let preserve_fds = preserve_fds(flags)?;
    let bundle = bundle(flags)?;
    check_console(flags, spec::terminal(&bundle)?, detached)?;
    let mut started = runtime.create(CreateRequest {
        id,
        bundle: &bundle,
        stdio: Stdio::Inherit,
        no_pivot: flags.is_set("no-pivot"),
        no_new_keyring: flags.is_set("no-new-keyring"),
        preserve_fds,
    })?;
    hand_over(runtime, flags, id, &mut started)?;
    Ok(started)
}

/// Tells of a new container where the flags say. If that fails, it is gone.
pub fn hand_over(
    runtime: &Runtime,
    flags: &Flags,
    id: &str,
    started: &mut Started,
) -> Result<(), Error> {
    let handed = send_console(flags, started)
        .and_then(|()| send_pidfd(flags, started.pid, "standard"))
        .and_then(|()| write_pid_file(flags, started.pid));
    handed.inspect_err(|_| {
        let _ = runtime.delete(id, true);
    })
}

fn create(runtime: &Runtime, flags: &Flags) -> Result<u8, Error> {
    make(runtime, flags, true).map(|_| 0)
}

fn start(runtime: &Runtime, flags: &Flags) -> Result<u8, Error> {
    runtime.start(id(flags)?).map(|()| 0)
}

fn run(runtime: &Runtime, flags: &Flags) -> Result<u8, Error> {
    let id = id(flags)?;
    let detached = flags.is_set("detach");
    let started = make(runtime, flags, detached)?;
    if let Err(e) = runtime.start(id) {
        let _ = runtime.delete(id, true);
        return Err(e);
    }
    if detached {
        return Ok(0);
    }
    let code = foreground::attend(started.pid, started.console);
    if !flags.is_set("keep") {
        runtime.delete(id, true)?;
    }
    code
}

fn exec(runtime: &Runtime, flags: &Flags) -> Result<u8, Error> {
    let id = id(flags)?;
    let preserve_fds = preserve_fds(flags)?;
    let sub_cgroups = sub_cgroups(flags.all("cgroup"))?;
    let process = exec_process(runtime, id, flags)?;
    let detached = flags.is_set("detach");
    check_console(flags, process.terminal, detached)?;
    let mut started = runtime.exec(ExecRequest {
        id,
        process,
        stdio: Stdio::Inherit,
        preserve_fds,
        ignore_paused: flags.is_set("ignore-paused"),
        sub_cgroups,
    })?;
    let handed = send_console(flags, &mut started)
        .and_then(|()| send_pidfd(flags, started.pid, "setns"))
        .and_then(|()| write_pid_file(flags, started.pid));
    if let Err(e) = handed {
        let _ = runtime::sys::kill(started.pid, libc::SIGKILL);
        return Err(e);
    }
    if detached {
        return Ok(0);
    }
    foreground::attend(started.pid, started.console)
}

fn exec_process(runtime: &Runtime, id: &str, flags: &Flags) -> Result<Process, Error> {
    if let Some(path) = flags.get("process") {
        let text = fs::read(path).map_err(|e| io(&format!("--process {path}"), e))?;
        return serde_json::from_slice(&text).map_err(|e| io(&format!("--process {path}"), e));
    }
    let mut process = runtime.process_of(id)?;
    process.args = flags.rest[1..].to_vec();
    if process.args.is_empty() {
        return Err(Error::invalid("process args cannot be empty"));
    }
    if let Some(cwd) = flags.get("cwd") {
        process.cwd = cwd.into();
    }
    process.env.extend_from_slice(flags.all("env"));
    process.terminal = flags.is_set("tty");
    process.console_size = process
        .terminal
        .then(foreground::window_size)
        .flatten()
        .map(|(height, width)| Box2 { height, width });
    if flags.is_set("no-new-privs") {
        process.no_new_privileges = true;
    }
    for (flag, field) in [
        ("process-label", &mut process.selinux_label),
        ("apparmor", &mut process.apparmor_profile),
    ] {
        if let Some(label) = flags.get(flag) {
            *field = label.into();
        }
    }
    if let Some(user) = flags.get("user") {
        let wrong = |_| Error::invalid(format!("--user {user}: it is UID[:GID], as numbers"));
        let (uid, gid) = user.split_once(':').unwrap_or((user, ""));
        process.user.uid = uid.parse().map_err(wrong)?;
        if !gid.is_empty() {
            process.user.gid = gid.parse().map_err(wrong)?;
        }
    }
    for gid in flags.all("additional-gids") {
        let wrong = |_| Error::invalid(format!("--additional-gids {gid}: it is a number"));
        process
            .user
            .additional_gids
            .push(gid.parse().map_err(wrong)?);
    }
    let more = flags.all("cap");
    if !more.is_empty() {
        let sets = process
            .capabilities
            .get_or_insert_with(Capabilities::default);
        for list in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            list.extend_from_slice(more);
        }
    }
    Ok(process)
}

fn state(runtime: &Runtime, flags: &Flags) -> Result<u8, Error> {
    let id = id(flags)?;
    let (record, status) = runtime.inspect(id)?;
    let mut state = record.state(status.name());
    state["rootfs"] = record.rootfs.to_string_lossy().into();
    state["created"] = record.created.into();
    state["owner"] = "".into();
    println!("{state:#}");
    Ok(0)
}

fn kill(runtime: &Runtime, flags: &Flags) -> Result<u8, Error> {
    let signal = signals::parse(flags.rest.get(1).map_or("SIGTERM", String::as_str))?;
    runtime
        .kill(id(flags)?, signal, flags.is_set("all"))
        .map(|()| 0)
}

fn delete(runtime: &Runtime, flags: &Flags) -> Result<u8, Error> {
    // Go's flags may come after the id as well: `delete ID --force` is what some tools say.
    let force = flags.is_set("force")
        || flags.rest[1.min(flags.rest.len())..]
            .iter()
            .any(|w| w == "--force" || w == "-f");
    runtime.delete(id(flags)?, force).map(|()| 0)
}

fn pause(runtime: &Runtime, flags: &Flags) -> Result<u8, Error> {
    runtime.pause(id(flags)?).map(|()| 0)
}

fn resume(runtime: &Runtime, flags: &Flags) -> Result<u8, Error> {
    runtime.resume(id(flags)?).map(|()| 0)
}

fn ps(runtime: &Runtime, flags: &Flags) -> Result<u8, Error> {
    let pids = runtime.ps(id(flags)?)?;
    match flags.get("format").unwrap_or("table") {
        "json" => println!("{}", serde_json::json!(pids)),
        "table" => {
            let options = &flags.rest[1..];
            let options = if options.is_empty() {
                &["-ef".to_owned()][..]
            } else {
                options
            };
            let output = std::process::Command::new("ps").args(options).output();
            let output = output.map_err(|e| io("ps", e))?;
            let text = String::from_utf8_lossy(&output.stdout);
            let mut lines = text.lines();
            let header = lines.next().unwrap_or_default();
            let Some(column) = header.split_whitespace().position(|name| name == "PID") else {
                return Err(Error::failed("couldn't find PID field in ps output"));
            };
            println!("{header}");
            for line in lines {
                let pid = line
                    .split_whitespace()
                    .nth(column)
                    .and_then(|p| p.parse().ok());
                if pid.is_some_and(|pid: i32| pids.contains(&pid)) {
                    println!("{line}");
                }
            }
        }
        other => return Err(Error::invalid(format!("invalid format option {other:?}"))),
    }
    Ok(0)
}

fn list(runtime: &Runtime, flags: &Flags) -> Result<u8, Error> {
    let containers = runtime.list()?;
    if flags.is_set("quiet") {
        for (record, _) in &containers {
            println!("{}", record.id);
        }
        return Ok(0);
    }
    match flags.get("format").unwrap_or("table") {
        "json" => {
            let rows: Vec<_> = containers
                .iter()
                .map(|(record, status)| {
                    let mut state = record.state(status.name());
                    state["rootfs"] = record.rootfs.to_string_lossy().into();
                    state["created"] = record.created.clone().into();
                    state
                })
                .collect();
            println!("{}", serde_json::json!(rows));
        }
        "table" => {
            println!(
                "{:<30} {:<11} {:<11} {:<40} CREATED",
                "ID", "PID", "STATUS", "BUNDLE"
            );
            for (r, status) in &containers {
                let pid = if status.name() == "stopped" {
                    0
                } else {
                    r.init_process_pid
                };
                let bundle = r.bundle.display().to_string();
                println!(
                    "{:<30} {pid:<11} {:<11} {bundle:<40} {}",
                    r.id,
                    status.name(),
                    r.created
                );
            }
        }
        other => return Err(Error::invalid(format!("invalid format option {other:?}"))),
    }
    Ok(0)
}

fn features(_: &Runtime, _: &Flags) -> Result<u8, Error> {
    println!("{:#}", runtime::features());
    Ok(0)
}

/// Keeps a descriptor's type in one place for the modules beside this one.
pub fn is_terminal(fd: impl AsFd) -> bool {
    std::io::IsTerminal::is_terminal(&fd.as_fd())
}

pub type Console = Option<OwnedFd>;
