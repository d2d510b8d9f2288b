//! create: the container's namespaces, cgroups, file system and first process, which then waits.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::cgroup::Cgroups;
use crate::error::{Context, Error, Result};
use crate::launch::{Meanwhile, launch};
use crate::mounts::{self, Scene, c_string};
use crate::plan::{self, Join, Plan, Rootfs};
use crate::spec::{Device, Linux, NAMESPACES, Process, Spec};
use crate::state::{self, Place, Record};
use crate::{
    CreateRequest, Runtime, Started, Stdio, hooks, hostmounts, netdev, process, rdt, sys, validate,
};

impl Runtime {
    /// Makes the container. Its process waits for [`Runtime::start`]. On failure nothing is left.
    pub fn create(&self, request: CreateRequest<'_>) -> Result<Started> {
        let place = Place::of(&self.root, request.id)?;
        let (bundle, text, spec) = read_bundle(request.bundle)?;
        let rootfs = rootfs_path(&spec, &bundle)?;
        let shared = spec.linux.namespace("mount").is_none();
        let mounts_before = shared.then(|| hostmounts::below(&rootfs));
        place.make()?;
        let mut record = Record {
            no_new_keyring: request.no_new_keyring,
            mounts_before,
            ..new_record(request.id, &spec, bundle, rootfs)
        };
        let result = self.make(request, &spec, &text, &place, &mut record);
        if result.is_err() {
            // The first error counts, whatever becomes of the clean-up.
            let _ = hostmounts::remove(&record);
            let _ = record.remove_groups();
            let _ = place.remove();
        }
        result
    }

    fn make(
        &self,
        request: CreateRequest<'_>,
        spec: &Spec,
        text: &[u8],
        place: &Place,
        record: &mut Record,
    ) -> Result<Started> {
        record.cgroups = self.locate_cgroups(spec, request.id)?;
        let _stand_in = record.cgroups.make(spec.linux.resources.as_ref())?;
        if let Some(owner) = cgroup_owner(spec) {
            record.cgroups.give(owner)?;
        }
        if let Some(rdt) = &spec.linux.intel_rdt {
            record.rdt = Some(rdt::Group::make(rdt, request.id)?);
        }
        record.cgroup_paths = record
            .cgroups
            .paths()
            .map(|(name, path)| (name, path.to_owned()))
            .collect();
        place.save_config(text)?;
        // Whoever finds a half-made container can take it away.
        place.save(record)?;
        let mut plan = self.plan(request, spec, record)?;
        plan.start = Some(listen(place)?);
        plan.patience = self.options.patience;

        let memory = plan.state.as_ref().map(|fd| fd.try_clone());
        let memory = memory.transpose().context(|| "a descriptor".into())?;
        let mut record_now = record.clone();
        let linux = &spec.linux;
        let mut meanwhile = Meanwhile {
            identity: &mut |pid| mounts::write_maps(pid, &linux.uid_mappings, &linux.gid_mappings),
            before_pivot: &mut |pid| {
                record_now.init_process_pid = pid;
                let state = record_now.state("creating");
                if let Some(memory) = &memory {
                    rewrite(memory, &state)?;
                }
                hooks::run_all("prestart", &spec.hooks.prestart, &state)?;
                hooks::run_all("createRuntime", &spec.hooks.create_runtime, &state)
            },
        };
        let launched = launch(&plan, &mut meanwhile)?;
        record.init_process_pid = launched.pid;
        record.init_process_start = state::start_time(launched.pid).unwrap_or_default();
        let given = launched.given.map(netdev::Given::devices);
        record.net_devices = given.unwrap_or_default();
        let kept = match &plan.state {
            Some(memory) => rewrite(memory, &record.state("created")),
            None => Ok(()),
        };
        if let Err(e) = kept.and_then(|()| place.save(record)) {
            record.take_devices_back();
            let _ = sys::kill(launched.pid, libc::SIGKILL);
            let _ = sys::wait(launched.pid);
            return Err(e);
        }
        Ok(Started {
            pid: launched.pid,
            console: launched.console,
        })
    }

    pub(crate) fn locate_cgroups(&self, spec: &Spec, id: &str) -> Result<Cgroups> {
        let mut cgroups = match self.systemd_cgroup {
            true => Cgroups::locate_unit(&spec.linux.cgroups_path, id),
            false => Cgroups::locate(&spec.linux.cgroups_path, id),
        }?;
        if self.options.forgive_cgroups {
            cgroups.forgive();
        }
        Ok(cgroups)
    }

    fn plan(&self, request: CreateRequest<'_>, spec: &Spec, record: &Record) -> Result<Plan> {
        let linux = &spec.linux;
        let own_process = spec.process.clone().unwrap_or_default();
        let mut plan = Plan {
            process: process::plan(&own_process, linux.seccomp.as_ref())?,
            attach: record.cgroups.open_tasks()?,
            cgroup: record.cgroups.open_v2()?,
            proc: Some(proc()?),
            hostname: spec.hostname.clone().into_bytes(),
            domainname: spec.domainname.clone().into_bytes(),
            loopback: linux.makes("network"),
            makes_cgroup_namespace: linux.makes("cgroup"),
            in_user_namespace: linux.namespace("user").is_some(),
            create_container: hooks::plan(&spec.hooks.create_container)?,
            start_container: hooks::plan(&spec.hooks.start_container)?,
            ..Plan::default()
        };
        if !request.no_new_keyring {
            plan.keyring = Some(c_string(&format!("_ses.{}", request.id))?);
        }
        finish_process(&mut plan.process, &own_process, request.stdio, self)?;
        plan.process.preserve_fds = request.preserve_fds;
        plan.process.listener = listener(linux, &record.state("creating"));
        process::finish(&mut plan.process, linux)?;
        if let Some(group) = &record.rdt {
            plan.attach.extend(group.open_tasks()?);
        }
        for (name, value) in &linux.sysctl {
            let path = c_string(&validate::sysctl_path(name))?;
            plan.sysctls.push((path, value.clone().into_bytes()));
        }
        namespaces(&mut plan, linux)?;
        plan.net_devices = netdev::plan(&linux.net_devices)?;
        let h = &spec.hooks;
        let inside = !h.create_container.is_empty() || !h.start_container.is_empty();
        plan.pause_before_pivot = inside || !h.prestart.is_empty() || !h.create_runtime.is_empty();
        if inside {
            let memory = sys::memory_file(c"state", b"").context(|| "a file in memory".into())?;
            plan.state = Some(memory);
        }
        plan.rootfs = Some(rootfs(spec, record, request.no_pivot)?);
        Ok(plan)
    }
}

/// The host's /proc, if it is one.
pub fn proc() -> Result<OwnedFd> {
    const PROC: i64 = 0x9fa0;
    let what = || "/proc of the host".to_owned();
    let file = sys::open(c"/proc", libc::O_PATH | libc::O_DIRECTORY).context(what)?;
    match sys::fs_magic(file.as_raw_fd()).context(what)? {
        PROC => Ok(file),
        _ => Err(Error::failed("/proc of the host is not a procfs")),
    }
}

/// In the shape of libcontainer's `Config`; its cgroup managers want a resource to be there.
fn runcs_config(spec: &Spec) -> serde_json::Value {
    let kinds = spec.linux.namespaces.iter();
    let namespaces: Vec<_> = kinds
        .map(|n| match n.kind.as_str() {
            "mount" => serde_json::json!({"type": "NEWNS", "path": n.path}),
            "network" => serde_json::json!({"type": "NEWNET", "path": n.path}),
            kind => serde_json::json!({
                "type": format!("NEW{}", kind.to_ascii_uppercase()),
                "path": n.path,
            }),
        })
        .collect();
    serde_json::json!({
        "namespaces": namespaces,
        "cgroups": {"path": spec.linux.cgroups_path, "memory": 0},
    })
}

/// What init and exec have in common.
pub fn finish_process(
    plan: &mut plan::Process,
    spec: &Process,
    stdio: Stdio,
    runtime: &Runtime,
) -> Result<()> {
    plan.clamp_oom_score_adj = runtime.options.clamp_oom_score_adj;
    let limited = |limit: &(u32, u64, u64)| limit.0 == libc::RLIMIT_NOFILE;
    if let Some((soft, hard)) = runtime.options.nofile
        && !plan.rlimits.iter().any(limited)
    {
        plan.rlimits.push((libc::RLIMIT_NOFILE, soft, hard));
    }
    if spec.terminal {
        return Ok(());
    }
    if let Stdio::Streams(streams) = stdio {
        for (place, stream) in plan.stdio.iter_mut().zip(streams) {
            *place = Some(match stream {
                Some(fd) => fd,
                None => sys::open(c"/dev/null", libc::O_RDWR).context(|| "/dev/null".into())?,
            });
        }
    }
    Ok(())
}

pub fn listener(linux: &Linux, state: &serde_json::Value) -> Option<plan::Listener> {
    let seccomp = linux.seccomp.as_ref()?;
    (!seccomp.listener_path.is_empty()).then(|| plan::Listener {
        path: seccomp.listener_path.clone(),
        metadata: seccomp.listener_metadata.clone(),
        state: state.clone(),
    })
}

/// Whose the cgroup is: the host's id of the container's user, if the container gets the cgroup to
/// write in a namespace of its own.
fn cgroup_owner(spec: &Spec) -> Option<u32> {
    let uid = spec.process.as_ref()?.user.uid;
    let writable = spec.mounts.iter().any(|m| {
        matches!(m.kind.as_str(), "cgroup" | "cgroup2")
            && m.destination.trim_end_matches('/') == "/sys/fs/cgroup"
            && !m.options.iter().any(|o| o == "ro" || o == "rro")
    });
    if !writable || !spec.linux.makes("cgroup") {
        return None;
    }
    if !spec.linux.makes("user") {
        return (uid != 0).then_some(uid);
    }
    let inside =
        |m: &&crate::spec::IdMapping| uid.checked_sub(m.container_id).is_some_and(|n| n < m.size);
    let map = spec.linux.uid_mappings.iter().find(inside)?;
    Some(map.host_id + (uid - map.container_id))
}

/// The bundle's real path, and its specification as text and checked.
pub fn read_bundle(bundle: &Path) -> Result<(PathBuf, Vec<u8>, Spec)> {
    let bundle = bundle
        .canonicalize()
        .context(|| format!("bundle {}", bundle.display()))?;
    let path = bundle.join("config.json");
    let text = fs::read(&path).context(|| format!("specification file {}", path.display()))?;
    let spec = Spec::parse(&text)?;
    validate::validate(&spec)?;
    Ok((bundle, text, spec))
}

/// What is kept of a container before there is anything of it.
pub fn new_record(id: &str, spec: &Spec, bundle: PathBuf, rootfs: PathBuf) -> Record {
    Record {
        id: id.into(),
        oci_version: spec.oci_version.clone(),
        bundle,
        rootfs,
        created: state::now(),
        init_process_pid: 0,
        init_process_start: 0,
        annotations: spec.annotations.clone(),
        cgroup_paths: BTreeMap::new(),
        cgroups: Cgroups::default(),
        rdt: None,
        config: runcs_config(spec),
        shares_pid_namespace: !spec.linux.makes("pid"),
        no_new_keyring: false,
        net_devices: Vec::new(),
        mounts_before: None,
    }
}

pub fn rootfs_path(spec: &Spec, bundle: &Path) -> Result<PathBuf> {
    let path = spec
        .root
        .as_ref()
        .map(|r| r.path.as_str())
        .unwrap_or_default();
    let path = bundle.join(path);
    path.canonicalize()
        .context(|| format!("invalid rootfs: stat {}", path.display()))
}

/// The socket a start is told by. The path may be longer than an address can be.
fn listen(place: &Place) -> Result<OwnedFd> {
    let what = || format!("{}/{}", place.path().display(), state::START);
    let directory = fs::File::open(place.path()).context(what)?;
    let path = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), state::START);
    UnixListener::bind(path).map(OwnedFd::from).context(what)
}

/// Puts the state into the hooks' file in memory.
fn rewrite(memory: &OwnedFd, state: &serde_json::Value) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let what = || "the state for hooks".to_owned();
    let file = fs::File::from(memory.try_clone().context(what)?);
    file.set_len(0).context(what)?;
    file.write_all_at(state.to_string().as_bytes(), 0)
        .context(what)
}

fn namespaces(plan: &mut Plan, linux: &Linux) -> Result<()> {
    for (kind, flag, _) in NAMESPACES {
        let Some(namespace) = linux.namespace(kind) else {
            continue;
        };
        if !namespace.path.is_empty() {
            let path = &namespace.path;
            let what = || format!("linux.namespaces: {kind} namespace {path}");
            let file = fs::File::open(path).context(what)?;
            if kind == "network" && !linux.net_devices.is_empty() {
                netdev::check_namespace(&file)?;
            }
            plan.joins.push(Join {
                fd: file.into(),
                flags: flag as i32,
                name: format!("{kind} ({path})"),
            });
        } else if kind == "time" {
            // Made by the process between, whose children are in it.
            let line = |(clock, offset): (&String, &crate::spec::TimeOffset)| {
                format!("{clock} {} {}\n", offset.secs, offset.nanosecs)
            };
            let text: String = linux.time_offsets.iter().map(line).collect();
            plan.time_offsets = Some(text.into_bytes());
        } else if kind != "cgroup" {
            plan.clone_flags |= flag;
        }
    }
    Ok(())
}

fn rootfs(spec: &Spec, record: &Record, no_pivot: bool) -> Result<Rootfs> {
    let linux = &spec.linux;
    let path = c_string(&record.rootfs.to_string_lossy())?;
    let wanted = mounts::propagation(&linux.rootfs_propagation)?;
    let only_chroot = linux.namespace("mount").is_none();
    let propagation = match wanted {
        // As runc: what is unbindable is so at the end only.
        None => libc::MS_SLAVE | libc::MS_REC,
        Some(flags) if flags & libc::MS_UNBINDABLE != 0 => libc::MS_PRIVATE | libc::MS_REC,
        Some(flags) => flags,
    };
    let mut root = Rootfs {
        path,
        readonly: spec.root.as_ref().is_some_and(|r| r.readonly),
        propagation,
        last_propagation: wanted,
        no_pivot,
        only_chroot,
        console: true,
        ..Rootfs::default()
    };
    if !only_chroot {
        root.tree = Some(root_tree(record, propagation)?);
    }
    let scene = Scene {
        bundle: &record.bundle,
        linux,
        cgroups: &record.cgroups,
        propagation,
        rootfs: &record.rootfs,
    };
    for mount in &spec.mounts {
        root.mounts.extend(mounts::plan(mount, &scene)?);
    }
    let host_dev = spec.mounts.iter().any(|m| {
        let bind = m.kind == "bind" || m.options.iter().any(|o| o == "bind" || o == "rbind");
        bind && m.destination.trim_end_matches('/') == "/dev"
    });
    if !host_dev {
        root.own_dev = true;
        root.devices = devices(linux)?;
    }
    let strings = |list: &[String]| list.iter().map(|s| c_string(s)).collect::<Result<Vec<_>>>();
    root.readonly_paths = strings(&linux.readonly_paths)?;
    root.masked_paths = strings(&linux.masked_paths)?;
    if !linux.mount_label.is_empty() {
        if mounts::has_labels() {
            root.mask_label = Some(c_string(&linux.mount_label)?);
        } else {
            crate::log::warning("linux.mountLabel: SELinux is not enabled on this host");
        }
    }
    Ok(root)
}

/// A detached copy of the root and what is mounted below it.
fn root_tree(record: &Record, propagation: u64) -> Result<OwnedFd> {
    let what = || format!("error preparing rootfs {}", record.rootfs.display());
    let path = c_string(&record.rootfs.to_string_lossy())?;
    let tree = sys::open_tree(libc::AT_FDCWD, &path, true).context(what)?;
    let mut attr = sys::MountAttr {
        propagation: propagation & !libc::MS_REC,
        ..Default::default()
    };
    if propagation & libc::MS_SHARED == 0 {
        sys::mount_setattr(tree.as_raw_fd(), true, &attr).context(what)?;
    }
    // pivot_root takes no shared mount.
    attr.propagation = libc::MS_PRIVATE;
    sys::mount_setattr(tree.as_raw_fd(), false, &attr).context(what)?;
    Ok(tree)
}

/// The specification's devices, and those every container has.
fn devices(linux: &Linux) -> Result<Vec<plan::Device>> {
    const EVERY: [(&str, i64, i64); 6] = [
        ("/dev/null", 1, 3),
        ("/dev/zero", 1, 5),
        ("/dev/full", 1, 7),
        ("/dev/tty", 5, 0),
        ("/dev/random", 1, 8),
        ("/dev/urandom", 1, 9),
    ];
    let mut list: Vec<Device> = EVERY
        .iter()
        .filter(|(path, ..)| !linux.devices.iter().any(|d| d.path == *path))
        .map(|(path, major, minor)| Device {
            path: (*path).into(),
            kind: "c".into(),
            major: *major,
            minor: *minor,
            file_mode: Some(0o666),
            uid: None,
            gid: None,
        })
        .collect();
    list.extend(linux.devices.iter().cloned());
    list.iter().map(|d| device(d, linux)).collect()
}

fn device(device: &Device, linux: &Linux) -> Result<plan::Device> {
    let Device { path, kind, .. } = device;
    if !path.starts_with('/') {
        return Err(Error::invalid(format!(
            "linux.devices: path {path:?} is not absolute"
        )));
    }
    let file_type = match kind.as_str() {
        "c" | "u" => libc::S_IFCHR,
        "b" => libc::S_IFBLK,
        "p" => libc::S_IFIFO,
        other => {
            return Err(Error::invalid(format!(
                "linux.devices: unknown type {other:?} of {path}"
            )));
        }
    };
    let tree = match linux.namespace("user") {
        None => None,
        Some(_) => {
            let tree = sys::open_tree(libc::AT_FDCWD, &c_string(path)?, false);
            Some(tree.context(|| format!("linux.devices: {path} of the host"))?)
        }
    };
    let dev = match kind.as_str() {
        "p" => 0,
        _ => libc::makedev(device.major as u32, device.minor as u32),
    };
    Ok(plan::Device {
        path: c_string(path)?,
        mode: file_type | device.file_mode.unwrap_or(0o666) & 0o7777,
        dev,
        uid: device.uid.unwrap_or(0),
        gid: device.gid.unwrap_or(0),
        tree,
    })
}
