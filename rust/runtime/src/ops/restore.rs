//! restore: a container from what a checkpoint saved, by CRIU.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::checkpoint::{CriuOptions, DESCRIPTORS, Folders, OUTER_NETWORK, common};
use crate::criu::{Criu, Kind, Notice, Request, Writer};
use crate::error::{Context, Error, Result};
use crate::mounts::{self, c_string};
use crate::spec::Spec;
use crate::state::{self, Place, Record};
use crate::{Runtime, Started, hooks, sys};

/// Where CRIU finds the root as a mount of its own, below the container's state.
const ROOT: &str = "criu-root";

#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    pub criu: CriuOptions,
    /// Other security labels than the saved ones.
    pub lsm_profile: String,
    pub lsm_mount_context: String,
}

impl Runtime {
    /// Makes the container `id` of `bundle` with the processes that were saved. They run when this
    /// returns; the first of them is a child of the caller. On failure nothing is left.
    pub fn restore(&self, id: &str, bundle: &Path, options: &RestoreOptions) -> Result<Started> {
        let place = Place::of(&self.root, id)?;
        let (bundle, text, spec) = super::create::read_bundle(bundle)?;
        if spec.linux.namespace("mount").is_none() {
            return Err(Error::invalid(
                "restore: the container has no mount namespace of its own",
            ));
        }
        let rootfs = super::create::rootfs_path(&spec, &bundle)?;
        let criu = Criu::new(options.criu.program.as_deref())?;
        criu.check()?;
        let folders = Folders::open(&options.criu)?;
        place.make()?;
        let mut record = super::create::new_record(id, &spec, bundle, rootfs);
        let result = restored(
            self,
            &criu,
            &folders,
            &spec,
            &text,
            options,
            &place,
            &mut record,
        );
        if result.is_err() {
            // The first error counts, whatever becomes of the clean-up.
            if record.init_process_pid > 0 {
                let _ = sys::kill(record.init_process_pid, libc::SIGKILL);
                let _ = sys::wait(record.init_process_pid);
            }
            let _ = record.cgroups.signal_all(libc::SIGKILL);
            let _ = record.remove_groups();
            let _ = place.remove();
        }
        result
    }
}

#[allow(clippy::too_many_arguments)]
fn restored(
    runtime: &Runtime,
    criu: &Criu,
    folders: &Folders,
    spec: &Spec,
    text: &[u8],
    options: &RestoreOptions,
    place: &Place,
    record: &mut Record,
) -> Result<Started> {
    record.cgroups = runtime.locate_cgroups(spec, &record.id)?;
    let _stand_in = record.cgroups.make(spec.linux.resources.as_ref())?;
    record.cgroup_paths = record
        .cgroups
        .paths()
        .map(|(name, path)| (name, path.to_owned()))
        .collect();
    place.save_config(text)?;
    place.save(record)?;
    let root = BoundRoot::make(&record.rootfs, place.path().join(ROOT))?;
    let mut wanted = common(&options.criu, spec, folders, "restore.log")?;
    wanted
        .text(13, &root.path.to_string_lossy())
        .flag(26, true)
        .some(53, &options.lsm_profile)
        .some(66, &options.lsm_mount_context);
    for (inside, source) in mounts::from_outside(&spec.mounts, &record.cgroups) {
        wanted.message(23, Writer::default().text(1, &inside).text(2, &source));
    }
    if !spec.linux.masked_paths.is_empty() {
        let mut null = Writer::default();
        wanted.message(23, null.text(1, "/dev/null").text(2, "/dev/null"));
    }
    for (controller, path) in record.cgroups.roots() {
        let mut root = Writer::default();
        wanted.message(25, root.some(1, &controller).text(2, &path));
    }
    let mut inherited = folders.numbers();
    for (number, name) in streams(&options.criu.image_path)?.iter().enumerate() {
        if name.contains("pipe:") {
            let mut stream = Writer::default();
            wanted.message(27, stream.text(1, name).number(2, number as u64));
            inherited.push(number as i32);
        }
    }
    let outer = outer_network(spec)?;
    if let Some(outer) = &outer {
        let mut network = Writer::default();
        network.text(1, OUTER_NETWORK);
        wanted.message(27, network.number(2, outer.as_raw_fd() as u64));
        inherited.push(outer.as_raw_fd());
    }
    let attach = record.cgroups.open_tasks()?;
    let request = Request {
        kind: Kind::Restore,
        options: wanted,
        inherited,
        attach: &attach,
        log: folders.log("restore.log"),
    };
    let mut console = None;
    let mut init = 0;
    let answered = criu.run(&request, &mut |notice: Notice<'_>| {
        match notice.script {
            "setup-namespaces" => {
                record.init_process_pid = notice.pid;
                let state = record.state("creating");
                hooks::run_all("prestart", &spec.hooks.prestart, &state)?;
                hooks::run_all("createRuntime", &spec.hooks.create_runtime, &state)?;
            }
            "post-restore" => init = notice.pid,
            "orphan-pts-master" => console = notice.fd,
            _ => {}
        }
        Ok(())
    });
    record.init_process_pid = match (&answered, init) {
        (Ok(pid), 0) => *pid,
        (_, pid) => pid,
    };
    answered?;
    drop(root);
    let start = state::start_time(record.init_process_pid);
    record.init_process_start = start.ok_or_else(|| {
        Error::failed(format!(
            "criu restored process {}, which is not there",
            record.init_process_pid
        ))
    })?;
    place.save(record)?;
    Ok(Started {
        pid: record.init_process_pid,
        console,
    })
}

fn streams(images: &Path) -> Result<Vec<String>> {
    let path = images.join(DESCRIPTORS);
    let text = fs::read(&path)
        .context(|| format!("{} of a checkpoint of this runtime or runc", path.display()))?;
    serde_json::from_slice(&text).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))
}

fn outer_network(spec: &Spec) -> Result<Option<OwnedFd>> {
    let path = match spec.linux.namespace("network") {
        Some(namespace) if namespace.path.is_empty() => return Ok(None),
        Some(namespace) => namespace.path.as_str(),
        None => "/proc/self/ns/net",
    };
    let file = fs::File::open(path).context(|| format!("network namespace {path}"))?;
    Ok(Some(file.into()))
}

/// The root as a mount of its own, which CRIU wants; gone with this.
struct BoundRoot {
    path: PathBuf,
}

impl BoundRoot {
    fn make(rootfs: &Path, path: PathBuf) -> Result<Self> {
        let what = || format!("the root for criu at {}", path.display());
        fs::create_dir(&path).context(what)?;
        let tree = sys::open_tree(libc::AT_FDCWD, &c_string(&rootfs.to_string_lossy())?, true);
        let tree = tree.context(what)?;
        let private = sys::MountAttr {
            propagation: libc::MS_PRIVATE,
            ..Default::default()
        };
        sys::mount_setattr(tree.as_raw_fd(), true, &private).context(what)?;
        let place = sys::open(&c_string(&path.to_string_lossy())?, libc::O_PATH).context(what)?;
        sys::move_mount(tree.as_raw_fd(), place.as_raw_fd()).context(what)?;
        Ok(Self { path })
    }
}

impl Drop for BoundRoot {
    fn drop(&mut self) {
        if let Ok(path) = c_string(&self.path.to_string_lossy()) {
            let _ = sys::umount(&path, libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW);
        }
        let _ = fs::remove_dir(&self.path);
    }
}
