//! From the specification's mounts to what the new process does with them.
//!
//! Binds are made here, as detached trees with all of their attributes: the container's side only puts
//! them in place. File systems that belong to its namespaces are made by itself.

mod binds;
mod cgroups;
mod file_systems;
mod idmaps;
mod options;
#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use self::binds::bind;
use self::cgroups::cgroup_v1;
pub use self::file_systems::has_labels;
use self::file_systems::{file_system, remount};
use self::idmaps::idmap;
pub use self::idmaps::write_maps;
use self::options::parse;
pub use self::options::{known_options, propagation};
use crate::error::{Error, Result};
use crate::plan::{self, Guard, What};
use crate::spec::{Linux, Mount};
use crate::sys;

pub fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid(format!("a zero byte in {text:?}")))
}

/// What mounts depend on beside themselves.
pub struct Scene<'a> {
    pub bundle: &'a Path,
    pub linux: &'a Linux,
    pub cgroups: &'a crate::cgroup::Cgroups,
    /// mount(2)'s flags for what comes from the host.
    pub propagation: u64,
    pub rootfs: &'a Path,
}

/// The steps for one mount of the specification.
pub fn plan(mount: &Mount, scene: &Scene<'_>) -> Result<Vec<plan::Mount>> {
    let options = parse(mount)?;
    let context = || {
        format!(
            "error mounting {:?} to rootfs at {:?}",
            mount.source, mount.destination
        )
    };
    if !mount.destination.starts_with('/') && mount.destination.is_empty() {
        return Err(Error::invalid("mounts: a mount without a destination"));
    }
    if options.remount {
        return Ok(vec![remount(mount, options)?]);
    }
    if options.bind {
        if !options.data.is_empty() {
            crate::log::warning(&format!(
                "mounts: the bind mount {} has no file system of its own to give {:?} to",
                mount.destination, options.data
            ));
        }
        let source = scene.bundle.join(&mount.source);
        let (what, is_file) =
            bind(&source, mount, &options, scene).map_err(|e| e.during(context()))?;
        let mut step = step(mount, what, options.propagation)?;
        step.is_file = is_file;
        return Ok(vec![step]);
    }
    check_proc(mount, None)?;
    if options.copy_up && mount.kind != "tmpfs" {
        return Err(Error::invalid(format!(
            "mounts: tmpcopyup of {} works for tmpfs only",
            mount.destination
        )));
    }
    if mount.kind.is_empty() {
        return Err(Error::invalid(format!(
            "mounts: {} has neither a type nor the option bind",
            mount.destination
        )));
    }
    match (mount.kind.as_str(), scene.cgroups.is_unified()) {
        ("cgroup", false) if options.idmap.is_some() || !mount.uid_mappings.is_empty() => {
            return Err(Error::invalid(format!(
                "mounts: uidMappings of {}: cgroup v1 hierarchies cannot be idmapped",
                mount.destination
            )));
        }
        ("cgroup", false) => return cgroup_v1(mount, &options, scene),
        ("cgroup" | "cgroup2", true) if !scene.linux.makes("cgroup") => {
            let source = scene.cgroups.v2_path().unwrap_or_default();
            let (what, _) =
                bind(&source, mount, &options, scene).map_err(|e| e.during(context()))?;
            return Ok(vec![step(mount, what, options.propagation)?]);
        }
        _ => {}
    }
    let kind = match mount.kind.as_str() {
        "cgroup" => "cgroup2",
        other => other,
    };
    let mut fs = file_system(kind, &mount.source, &options, &scene.linux.mount_label)?;
    fs.idmap = idmap(mount, &options, scene)
        .map_err(|e| e.during(context()))?
        .map(|(userns, _)| userns);
    let mut step = step(mount, What::New(fs), options.propagation)?;
    step.copy_up = options.copy_up;
    Ok(vec![step])
}

fn step(mount: &Mount, what: What, propagation: Vec<u64>) -> Result<plan::Mount> {
    let kernels =
        matches!(&what, What::New(fs) if matches!(fs.kind.to_bytes(), b"proc" | b"sysfs"));
    Ok(plan::Mount {
        target: c_string(&mount.destination)?,
        guard: match kernels {
            true => Guard::NoLinks,
            false if in_proc(&mount.destination) => Guard::InProc,
            false => Guard::Plain,
        },
        what,
        is_file: false,
        copy_up: false,
        propagation,
    })
}

/// The files of a container's procfs that engines and lxcfs show their own of; all else in it is the
/// kernel's to say, and security depends on it.
fn in_proc(destination: &str) -> bool {
    const FILES: [&str; 11] = [
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "net/dev",
        "slabinfo",
        "stat",
        "swaps",
        "sys/crypto/fips_enabled",
        "sys/kernel/ns_last_pid",
        "uptime",
    ];
    let below = Path::new(destination).strip_prefix("/proc");
    below.is_ok_and(|path| FILES.iter().any(|file| path == Path::new(file)))
}

/// Only a procfs may be what a container has at /proc: labels, limits and masks are kept by it.
fn check_proc(mount: &Mount, source: Option<&OwnedFd>) -> Result<()> {
    const PROC: i64 = 0x9fa0;
    if Path::new(&mount.destination) != Path::new("/proc") {
        return Ok(());
    }
    let fine = match source {
        Some(source) => sys::fs_magic(source.as_raw_fd()).is_ok_and(|magic| magic == PROC),
        None => mount.kind == "proc",
    };
    match fine {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "mounts: {:?} cannot be mounted because it is not of type proc",
            mount.destination
        ))),
    }
}

/// The mounts whose content is not the container's own, with where it comes from: binds, and v1
/// hierarchies, which CRIU takes as they are.
pub fn from_outside<'a>(
    mounts: &'a [Mount],
    cgroups: &'a crate::cgroup::Cgroups,
) -> impl Iterator<Item = (String, String)> + 'a {
    mounts.iter().flat_map(|mount| {
        let has = |name: &str| mount.options.iter().any(|o| o == name);
        let destination = mount.destination.trim_end_matches('/');
        if mount.kind == "cgroup" && !cgroups.is_unified() {
            let each = |h: &crate::cgroup::Hierarchy| {
                let name = h.directory_name();
                let inside = format!("{destination}/{name}");
                (inside, h.path.to_string_lossy().into_owned())
            };
            return cgroups.v1().iter().map(each).collect();
        }
        let bind = mount.kind == "bind" || has("bind") || has("rbind");
        match bind && !has("remount") {
            true => vec![(destination.to_owned(), mount.source.clone())],
            false => Vec::new(),
        }
    })
}
