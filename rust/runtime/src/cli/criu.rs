//! checkpoint and restore.

use std::path::PathBuf;

use runtime::{CheckpointOptions, CriuOptions, Error, RestoreOptions, Runtime};

use super::commands::{self, HELP, id, io};
use super::flags::{Flags, Known};
use super::foreground;

pub const CHECKPOINT: &[Known] = &[
    HELP,
    (&["image-path"], true),
    (&["work-path"], true),
    (&["parent-path"], true),
    (&["leave-running"], false),
    (&["tcp-established"], false),
    (&["ext-unix-sk"], false),
    (&["shell-job"], false),
    (&["lazy-pages"], false),
    (&["status-fd"], true),
    (&["page-server"], true),
    (&["file-locks"], false),
    (&["pre-dump"], false),
    (&["manage-cgroups-mode"], true),
    (&["empty-ns"], true),
    (&["auto-dedup"], false),
];

pub const RESTORE: &[Known] = &[
    HELP,
    (&["console-socket"], true),
    (&["pidfd-socket"], true),
    (&["image-path"], true),
    (&["work-path"], true),
    // containerd's shims say it; the images know their parent.
    (&["parent-path"], true),
    (&["tcp-established"], false),
    (&["ext-unix-sk"], false),
    (&["shell-job"], false),
    (&["file-locks"], false),
    (&["manage-cgroups-mode"], true),
    (&["bundle", "b"], true),
    (&["detach", "d"], false),
    (&["pid-file"], true),
    (&["no-subreaper"], false),
    (&["no-pivot"], false),
    (&["empty-ns"], true),
    (&["auto-dedup"], false),
    (&["lazy-pages"], false),
    (&["lsm-profile"], true),
    (&["lsm-mount-context"], true),
];

const IMAGES: &str = "checkpoint";

fn options(flags: &Flags) -> Result<CriuOptions, Error> {
    let path = |flag: &str| -> Result<Option<PathBuf>, Error> {
        let absolute = |path| std::path::absolute(path).map_err(|e| io(&format!("--{flag}"), e));
        flags
            .get(flag)
            .filter(|p| !p.is_empty())
            .map(absolute)
            .transpose()
    };
    let images = match path("image-path")? {
        Some(path) => path,
        None => std::path::absolute(IMAGES).map_err(|e| io("--image-path", e))?,
    };
    Ok(CriuOptions {
        program: flags.get("criu").map(str::to_owned),
        image_path: images,
        work_path: path("work-path")?,
        tcp_established: flags.is_set("tcp-established"),
        ext_unix_sk: flags.is_set("ext-unix-sk"),
        shell_job: flags.is_set("shell-job"),
        file_locks: flags.is_set("file-locks"),
        auto_dedup: flags.is_set("auto-dedup"),
        lazy_pages: flags.is_set("lazy-pages"),
        manage_cgroups: flags.get("manage-cgroups-mode").unwrap_or_default().into(),
        empty_namespaces: flags.all("empty-ns").to_vec(),
    })
}

fn page_server(text: &str) -> Result<(String, u16), Error> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    parts
        .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
        .ok_or_else(|| Error::invalid(format!("--page-server {text}: it is ADDRESS:PORT")))
}

pub fn checkpoint(runtime: &Runtime, flags: &Flags) -> Result<u8, Error> {
    let id = id(flags)?;
    let status_fd = match flags.get("status-fd") {
        None => None,
        Some(text) => {
            let fd: i32 = text
                .parse()
                .map_err(|_| Error::invalid(format!("--status-fd {text}: it is a number")))?;
            if !std::path::Path::new(&format!("/proc/self/fd/{fd}")).exists() {
                return Err(Error::invalid(format!("--status-fd {fd} is not open")));
            }
            Some(fd)
        }
    };
    let leave_running = flags.is_set("leave-running");
    let pre_dump = flags.is_set("pre-dump");
    let options = CheckpointOptions {
        criu: options(flags)?,
        parent_path: flags
            .get("parent-path")
            .filter(|p| !p.is_empty())
            .map(str::to_owned),
        leave_running,
        pre_dump,
        status_fd,
        page_server: flags.get("page-server").map(page_server).transpose()?,
    };
    runtime.checkpoint(id, &options)?;
    if !leave_running && !pre_dump {
        runtime.delete(id, true)?;
    }
    Ok(0)
}

pub fn restore(runtime: &Runtime, flags: &Flags) -> Result<u8, Error> {
    let id = id(flags)?;
    let detached = flags.is_set("detach");
    let bundle = commands::bundle(flags)?;
    commands::check_console(flags, super::spec::terminal(&bundle)?, detached)?;
    let options = RestoreOptions {
        criu: options(flags)?,
        lsm_profile: flags.get("lsm-profile").unwrap_or_default().into(),
        lsm_mount_context: flags.get("lsm-mount-context").unwrap_or_default().into(),
    };
    let mut started = runtime.restore(id, &bundle, &options)?;
    commands::hand_over(runtime, flags, id, &mut started)?;
    if detached {
        return Ok(0);
    }
    let code = foreground::attend(started.pid, started.console);
    runtime.delete(id, true)?;
    code
}
