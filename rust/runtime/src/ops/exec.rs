//! exec: one more process in a running container.

use std::path::Path;

use crate::cgroup::{Cgroups, SubCgroup};
use crate::error::{Class, Context, Error, Result};
use crate::launch::{Meanwhile, launch};
use crate::plan::{Join, Plan, Rootfs};
use crate::spec::{NAMESPACES, Process, Spec};
use crate::state::{self, Place, Record, Status};
use crate::{ExecRequest, Runtime, Started, process, sys};

impl Runtime {
    /// Runs the process; it executes its program already when this returns. What it does not say of
    /// capabilities, limits and labels is the container's.
    pub fn exec(&self, request: ExecRequest<'_>) -> Result<Started> {
        let place = Place::of(&self.root, request.id)?;
        let record = place.load()?;
        let refused = |text| Err(Error::new(Class::State, text));
        match place.status(&record) {
            Status::Stopped => return refused("cannot exec in a stopped container"),
            Status::Paused if !request.ignore_paused => {
                return refused(
                    "cannot exec in a paused container (use --ignore-paused to override)",
                );
            }
            _ => {}
        }
        let spec = place.config()?;
        let process = completed(request.process, &spec);
        let mut plan = plan(&process, &spec, &record, &request.sub_cgroups)?;
        plan.patience = self.options.patience;
        super::create::finish_process(&mut plan.process, &process, request.stdio, self)?;
        plan.process.preserve_fds = request.preserve_fds;
        let mut meanwhile = Meanwhile {
            identity: &mut |_| Ok(()),
            before_pivot: &mut |_| Ok(()),
        };
        let launched = launch(&plan, &mut meanwhile).map_err(|e| e.during("exec failed"))?;
        Ok(Started {
            pid: launched.pid,
            console: launched.console,
        })
    }

    /// The container's own process, as a start for one that differs a little.
    pub fn process_of(&self, id: &str) -> Result<Process> {
        let place = Place::of(&self.root, id)?;
        place.load()?;
        Ok(place.config()?.process.unwrap_or_default())
    }
}

fn completed(mut process: Process, spec: &Spec) -> Process {
    let Some(own) = &spec.process else {
        return process;
    };
    if process.capabilities.is_none() {
        process.capabilities.clone_from(&own.capabilities);
    }
    if process.rlimits.is_empty() {
        process.rlimits.clone_from(&own.rlimits);
    }
    if process.apparmor_profile.is_empty() {
        process.apparmor_profile.clone_from(&own.apparmor_profile);
    }
    if process.selinux_label.is_empty() {
        process.selinux_label.clone_from(&own.selinux_label);
    }
    if process.oom_score_adj.is_none() {
        process.oom_score_adj = own.oom_score_adj;
    }
    if process.exec_cpu_affinity.is_none() {
        process.exec_cpu_affinity.clone_from(&own.exec_cpu_affinity);
    }
    process
}

fn plan(
    process: &Process,
    spec: &Spec,
    record: &Record,
    sub_cgroups: &[SubCgroup],
) -> Result<Plan> {
    let pid = record.init_process_pid;
    let init = sys::pidfd_open(pid).context(|| format!("the container's process {pid}"))?;
    let mut flags = 0;
    for (kind, flag, file) in NAMESPACES {
        let what = || format!("{kind} namespace of process {pid}");
        if differs(pid, file).context(what)? {
            flags |= flag;
        }
    }
    // Only now: what was read is the container's if its process was there all the while.
    if !state::alive(pid, record.init_process_start) {
        return Err(Error::new(
            Class::State,
            "cannot exec in a stopped container",
        ));
    }
    let mut plan = Plan {
        process: process::plan(process, spec.linux.seccomp.as_ref())?,
        proc: Some(super::create::proc()?),
        in_user_namespace: flags & libc::CLONE_NEWUSER as u64 != 0,
        keyring: match record.no_new_keyring {
            true => None,
            false => Some(crate::mounts::c_string(&format!("_ses.{}", record.id))?),
        },
        ..Plan::default()
    };
    process::finish(&mut plan.process, &spec.linux)?;
    if sub_cgroups.is_empty() {
        open_cgroups(&mut plan, &record.cgroups, pid)?;
    } else {
        let cgroups = record.cgroups.below(sub_cgroups)?;
        plan.attach = cgroups.open_tasks()?;
        plan.cgroup = cgroups.open_v2()?;
    }
    if let Some(group) = &record.rdt {
        plan.attach.extend(group.open_tasks()?);
    }
    if flags != 0 {
        plan.joins.push(Join {
            fd: init,
            flags: flags as i32,
            name: format!("of the container's process {pid}"),
        });
    }
    if flags & libc::CLONE_NEWNS as u64 == 0 {
        // Only its root makes it a process of the container.
        plan.rootfs = Some(Rootfs {
            path: crate::mounts::c_string(&record.rootfs.to_string_lossy())?,
            only_chroot: true,
            ..Rootfs::default()
        });
    }
    if let Some(affinity) = &process.exec_cpu_affinity {
        let field = "process.execCPUAffinity";
        plan.process.affinity = process::cpu_mask(&affinity.initial, field)?;
        plan.process.last_affinity = process::cpu_mask(&affinity.last, field)?;
    }
    plan.process.listener = super::create::listener(&spec.linux, &record.state("running"));
    Ok(plan)
}

fn differs(pid: i32, file: &str) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let own = std::fs::metadata(format!("/proc/self/ns/{file}"));
    let own = match own {
        // A kernel without this kind of namespace.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let other = std::fs::metadata(format!("/proc/{pid}/ns/{file}"))?;
    Ok((own.dev(), own.ino()) != (other.dev(), other.ino()))
}

/// On v2 the container may have moved its processes below: a cgroup with children takes none.
fn open_cgroups(plan: &mut Plan, cgroups: &Cgroups, pid: i32) -> Result<()> {
    plan.attach = cgroups.open_tasks()?;
    plan.cgroup = cgroups.open_v2()?;
    let Some(path) = cgroups.v2_path() else {
        return Ok(());
    };
    let delegated = std::fs::read_to_string(path.join("cgroup.subtree_control"));
    if delegated.is_ok_and(|text| !text.trim().is_empty())
        && let Some(mount) = path.ancestors().find(|p| !p.join("cgroup.events").exists())
    {
        let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .context(|| format!("/proc/{pid}/cgroup"))?;
        let place = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let directory: &Path = &mount.join(place.unwrap_or_default());
        let file =
            std::fs::File::open(directory).context(|| format!("cgroup {}", directory.display()))?;
        plan.cgroup = Some(file.into());
    }
    Ok(())
}
