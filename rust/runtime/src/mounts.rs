//! From the specification's mounts to what the new process does with them.
//!
//! Binds are made here, as detached trees with all of their attributes: the container's side only puts
//! them in place. File systems that belong to its namespaces are made by itself.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use crate::error::{Context, Error, Result};
use crate::plan::{self, Guard, What};
use crate::spec::{IdMapping, Linux, Mount};
use crate::sys::{self, MountAttr};

const RDONLY: u64 = sys::MOUNT_ATTR_RDONLY;
const NOSUID: u64 = sys::MOUNT_ATTR_NOSUID;
const NODEV: u64 = sys::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = sys::MOUNT_ATTR_NOEXEC;
const ATIME: u64 = sys::MOUNT_ATTR_ATIME;
const NOATIME: u64 = sys::MOUNT_ATTR_NOATIME;
const STRICTATIME: u64 = sys::MOUNT_ATTR_STRICTATIME;
const NODIRATIME: u64 = sys::MOUNT_ATTR_NODIRATIME;
const NOSYMFOLLOW: u64 = sys::MOUNT_ATTR_NOSYMFOLLOW;

/// Options that are attributes of the mount: set, clear.
const ATTRIBUTES: [(&str, u64, u64); 17] = [
    ("ro", RDONLY, 0),
    ("rw", 0, RDONLY),
    ("suid", 0, NOSUID),
    ("nosuid", NOSUID, 0),
    ("dev", 0, NODEV),
    ("nodev", NODEV, 0),
    ("exec", 0, NOEXEC),
    ("noexec", NOEXEC, 0),
    ("diratime", 0, NODIRATIME),
    ("nodiratime", NODIRATIME, 0),
    ("atime", 0, ATIME),
    ("noatime", NOATIME, ATIME),
    ("relatime", 0, ATIME),
    ("norelatime", STRICTATIME, ATIME),
    ("strictatime", STRICTATIME, ATIME),
    ("nostrictatime", 0, ATIME),
    ("symfollow", 0, NOSYMFOLLOW),
];

/// Options of the file system: mount(2)'s flags to set and to clear.
const SUPER: [(&str, u64, u64); 12] = [
    ("sync", libc::MS_SYNCHRONOUS, 0),
    ("async", 0, libc::MS_SYNCHRONOUS),
    ("dirsync", libc::MS_DIRSYNC, 0),
    ("lazytime", MS_LAZYTIME, 0),
    ("nolazytime", 0, MS_LAZYTIME),
    ("mand", libc::MS_MANDLOCK, 0),
    ("nomand", 0, libc::MS_MANDLOCK),
    ("silent", libc::MS_SILENT, 0),
    ("loud", 0, libc::MS_SILENT),
    ("acl", libc::MS_POSIXACL, 0),
    ("noacl", 0, libc::MS_POSIXACL),
    ("iversion", libc::MS_I_VERSION, 0),
];
const MS_LAZYTIME: u64 = 1 << 25;
const MS_NOSYMFOLLOW: u64 = 256;
/// Flags that fsconfig has a parameter for.
const PARAMETERS: [(u64, &str); 4] = [
    (libc::MS_SYNCHRONOUS, "sync"),
    (libc::MS_DIRSYNC, "dirsync"),
    (MS_LAZYTIME, "lazytime"),
    (libc::MS_MANDLOCK, "mand"),
];
/// What fsconfig takes for one value, and mount(2) for all of them.
const LONGEST_VALUE: usize = 255;
const LONGEST_DATA: usize = 4095;

const PROPAGATION: [(&str, u64); 8] = [
    ("private", libc::MS_PRIVATE),
    ("shared", libc::MS_SHARED),
    ("slave", libc::MS_SLAVE),
    ("unbindable", libc::MS_UNBINDABLE),
    ("rprivate", libc::MS_PRIVATE | libc::MS_REC),
    ("rshared", libc::MS_SHARED | libc::MS_REC),
    ("rslave", libc::MS_SLAVE | libc::MS_REC),
    ("runbindable", libc::MS_UNBINDABLE | libc::MS_REC),
];

/// What `features` lists.
pub fn known_options() -> Vec<String> {
    let mut names: Vec<String> = ATTRIBUTES
        .iter()
        .flat_map(|(name, ..)| [(*name).to_owned(), format!("r{name}")])
        .chain(SUPER.iter().map(|(name, ..)| (*name).to_owned()))
        .chain(PROPAGATION.iter().map(|(name, _)| (*name).to_owned()))
        .collect();
    let more = [
        "bind",
        "rbind",
        "defaults",
        "noiversion",
        "remount",
        "idmap",
        "ridmap",
        "nosymfollow",
        "rnosymfollow",
        "tmpcopyup",
    ];
    names.extend(more.map(str::to_owned));
    names.sort();
    names
}

#[derive(Default)]
struct Options {
    bind: bool,
    recursive: bool,
    own: MountAttr,
    below: MountAttr,
    propagation: Vec<u64>,
    /// mount(2)'s flags for the file system.
    flags: u64,
    data: Vec<String>,
    remount: bool,
    copy_up: bool,
    /// Recursive or not.
    idmap: Option<bool>,
}

fn change(attr: &mut MountAttr, set: u64, clear: u64) {
    attr.clear = attr.clear & !set | clear;
    attr.set = attr.set & !clear | set;
}

fn parse(mount: &Mount) -> Result<Options> {
    let mut options = Options::default();
    for option in &mount.options {
        let attribute = |name: &str| -> Option<(u64, u64)> {
            if name == "nosymfollow" {
                return Some((NOSYMFOLLOW, 0));
            }
            let found = ATTRIBUTES.iter().find(|(known, ..)| *known == name);
            found.map(|(_, set, clear)| (*set, *clear))
        };
        if let Some((set, clear)) = attribute(option) {
            change(&mut options.own, set, clear);
        } else if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute) {
            change(&mut options.below, set, clear);
        } else if let Some((_, flags)) = PROPAGATION.iter().find(|(name, _)| name == option) {
            options.propagation.push(*flags);
        } else if let Some((_, set, clear)) = SUPER.iter().find(|(name, ..)| name == option) {
            options.flags = options.flags & !clear | set;
        } else {
            match option.as_str() {
                "bind" => options.bind = true,
                "rbind" => (options.bind, options.recursive) = (true, true),
                "defaults" | "" => {}
                "noiversion" => options.flags &= !libc::MS_I_VERSION,
                "tmpcopyup" => options.copy_up = true,
                "idmap" => options.idmap = Some(false),
                "ridmap" => options.idmap = Some(true),
                "remount" => options.remount = true,
                data => options.data.push(data.to_owned()),
            }
        }
    }
    options.bind |= mount.kind == "bind";
    Ok(options)
}

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

fn file_system(
    kind: &str,
    source: &str,
    options: &Options,
    label: &str,
) -> Result<plan::FileSystem> {
    let label =
        (!label.is_empty() && has_labels() && matches!(kind, "tmpfs" | "mqueue" | "devpts"))
            .then(|| format!("context=\"{label}\""));
    let data = || options.data.iter().chain(&label);
    let read_only = options.own.set & RDONLY != 0;
    let parts: Vec<&str> = data().flat_map(|data| split_data(data)).collect();
    let known = PARAMETERS.iter().fold(0, |all, (flag, _)| all | flag);
    let by_page = options.flags & !known != 0 || parts.iter().any(|p| p.len() > LONGEST_VALUE);
    let parameters = if by_page {
        let ro = if read_only { libc::MS_RDONLY } else { 0 };
        plan::Parameters::Page {
            source: c_string(source)?,
            flags: options.flags | ro,
            data: page(data())?,
        }
    } else {
        let mut list = Vec::new();
        let mut add = |key: &str, value: Option<&str>| -> Result<()> {
            list.push((c_string(key)?, value.map(c_string).transpose()?));
            Ok(())
        };
        if !source.is_empty() {
            add("source", Some(source))?;
        }
        if read_only && !matches!(kind, "sysfs" | "proc" | "cgroup" | "cgroup2") {
            add("ro", None)?;
        }
        for (flag, name) in PARAMETERS {
            if options.flags & flag != 0 {
                add(name, None)?;
            }
        }
        for data in parts {
            match data.split_once('=') {
                Some((key, value)) => add(key, Some(value.trim_matches('"')))?,
                None => add(data, None)?,
            }
        }
        plan::Parameters::Each(list)
    };
    Ok(plan::FileSystem {
        kind: c_string(kind)?,
        parameters,
        attributes: options.own.set,
        recursive: options.below,
        idmap: None,
    })
}

/// Whether this host's files have labels. Without them there is nothing that a label could protect.
pub fn has_labels() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Options as mount(2) takes them, which has room for a page.
fn page<'a>(data: impl Iterator<Item = &'a String>) -> Result<CString> {
    let text = data.map(String::as_str).collect::<Vec<_>>().join(",");
    if text.len() > LONGEST_DATA {
        return Err(Error::invalid(format!(
            "mounts: the options have {} bytes, the kernel takes {LONGEST_DATA}",
            text.len()
        )));
    }
    c_string(&text)
}

/// Other options for what is mounted there by now: of the mount alone with `bind`, else of its file
/// system too, as mount(2) has it.
fn remount(mount: &Mount, options: Options) -> Result<plan::Mount> {
    if options.idmap.is_some() || !mount.uid_mappings.is_empty() || options.copy_up {
        return Err(Error::invalid(format!(
            "mounts: {} is a remount: it takes neither an id mapping nor tmpcopyup",
            mount.destination
        )));
    }
    let superblock = match options.bind {
        true => None,
        false => Some((
            options.flags | mount_flags(options.own.set),
            page(options.data.iter())?,
        )),
    };
    let what = What::Remount {
        own: options.own,
        below: options.below,
        superblock,
    };
    step(mount, what, options.propagation)
}

/// mount(2)'s flags for attributes.
fn mount_flags(attributes: u64) -> u64 {
    const FLAGS: [(u64, u64); 8] = [
        (RDONLY, libc::MS_RDONLY),
        (NOSUID, libc::MS_NOSUID),
        (NODEV, libc::MS_NODEV),
        (NOEXEC, libc::MS_NOEXEC),
        (NOATIME, libc::MS_NOATIME),
        (STRICTATIME, libc::MS_STRICTATIME),
        (NODIRATIME, libc::MS_NODIRATIME),
        (NOSYMFOLLOW, MS_NOSYMFOLLOW),
    ];
    let set = |(attribute, _): &&(u64, u64)| attributes & attribute != 0;
    FLAGS
        .iter()
        .filter(set)
        .fold(0, |all, (_, flag)| all | flag)
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

/// Splits at commas outside of quotes.
fn split_data(data: &str) -> Vec<&str> {
    let mut quoted = false;
    data.split(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
    .filter(|part| !part.is_empty())
    .collect()
}

/// The host's `source` as a mount, and whether it is something else than a directory.
fn bind(
    source: &Path,
    mount: &Mount,
    options: &Options,
    scene: &Scene<'_>,
) -> Result<(What, bool)> {
    let path = c_string(&source.to_string_lossy())?;
    let place = sys::open(&path, libc::O_PATH).context(|| format!("stat {}", source.display()))?;
    let stat = sys::fstat(place.as_raw_fd()).context(|| format!("stat {}", source.display()))?;
    let is_file = stat.st_mode & libc::S_IFMT != libc::S_IFDIR;
    check_proc(mount, Some(&place))?;
    if let Some(source) = bound_in_turn(source, mount, options, scene) {
        let propagation = match scene.propagation & libc::MS_SHARED {
            0 => scene.propagation & !libc::MS_REC,
            _ => 0,
        };
        let bind = plan::Bind {
            source: c_string(&source.to_string_lossy())?,
            recursive: options.recursive,
            propagation,
            below: options.below,
            own: options.own,
        };
        return Ok((What::Bind(bind), is_file));
    }
    let tree = sys::open_tree(libc::AT_FDCWD, &path, options.recursive)
        .context(|| format!("open_tree {}", source.display()))?;
    let set = |attr: &MountAttr, recursive: bool, what: &str| {
        if attr.set | attr.clear | attr.propagation == 0 {
            return Ok(());
        }
        sys::mount_setattr(tree.as_raw_fd(), recursive, attr)
            .context(|| format!("setting {what} of {}", source.display()))
    };
    if scene.propagation & libc::MS_SHARED == 0 {
        // What the host's tree becomes in the container's namespace, its copy becomes too.
        let attr = MountAttr {
            propagation: scene.propagation & !libc::MS_REC,
            ..Default::default()
        };
        set(&attr, true, "the propagation")?;
    }
    set(&options.below, true, "recursive attributes")?;
    set(&options.own, false, "attributes")?;
    if let Some((userns, recursive)) = idmap(mount, options, scene)? {
        let attr = MountAttr {
            set: sys::MOUNT_ATTR_IDMAP,
            userns_fd: userns.as_raw_fd() as u64,
            ..Default::default()
        };
        set(&attr, recursive, "the id mapping")?;
    }
    Ok((What::Tree(tree), is_file))
}

/// The real path of a source that the new process finds as well as this one: it sees the same tree with
/// the same rights, and nothing of it is the container's root.
fn bound_in_turn(
    source: &Path,
    mount: &Mount,
    options: &Options,
    scene: &Scene<'_>,
) -> Option<std::path::PathBuf> {
    let mapped =
        options.idmap.is_some() || !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    if mapped || scene.linux.namespace("user").is_some() || !scene.linux.makes("mount") {
        return None;
    }
    let own = |path: &Path| {
        path.starts_with("/proc") || path.starts_with("/dev/fd") || path.to_str().is_none()
    };
    if own(source) {
        return None;
    }
    let real = source.canonicalize().ok()?;
    let root = scene.rootfs;
    (!own(&real) && !real.starts_with(root) && !root.starts_with(&real)).then_some(real)
}

/// The user namespace whose maps the mount gets, and whether those below it do too.
fn idmap(mount: &Mount, options: &Options, scene: &Scene<'_>) -> Result<Option<(OwnedFd, bool)>> {
    if options.idmap.is_none() && mount.uid_mappings.is_empty() && mount.gid_mappings.is_empty() {
        return Ok(None);
    }
    let own = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    let (uids, gids) = match own {
        true => (&mount.uid_mappings, &mount.gid_mappings),
        false => (&scene.linux.uid_mappings, &scene.linux.gid_mappings),
    };
    if uids.is_empty() || gids.is_empty() {
        return Err(Error::invalid(
            "an idmapped mount needs uidMappings and gidMappings, its own or the container's",
        ));
    }
    let userns = user_namespace(uids, gids)?;
    Ok(Some((userns, options.idmap.unwrap_or(false))))
}

/// A user namespace with these maps, held by its descriptor only.
fn user_namespace(uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd> {
    let what = || "a user namespace for an idmapped mount".to_owned();
    let (ours, theirs) = sys::socket_pair().context(what)?;
    // SAFETY: the child only waits for its end.
    let pid = unsafe { sys::clone3(libc::CLONE_NEWUSER as u64, None) }.context(what)?;
    if pid == 0 {
        sys::close(ours.as_raw_fd());
        let _ = sys::read(theirs.as_raw_fd(), &mut [0]);
        sys::exit(0);
    }
    let result = write_maps(pid, uids, gids).and_then(|()| {
        std::fs::File::open(format!("/proc/{pid}/ns/user"))
            .map(OwnedFd::from)
            .context(what)
    });
    drop(ours);
    let _ = sys::kill(pid, libc::SIGKILL);
    let _ = sys::wait(pid);
    result
}

/// Writes the maps of the user namespace that process `pid` is in.
pub fn write_maps(pid: i32, uids: &[IdMapping], gids: &[IdMapping]) -> Result<()> {
    for (file, maps) in [("uid_map", uids), ("gid_map", gids)] {
        if maps.is_empty() {
            continue;
        }
        let lines: String = maps
            .iter()
            .map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size))
            .collect();
        std::fs::write(format!("/proc/{pid}/{file}"), lines)
            .context(|| format!("write {file} ({maps:?})"))?;
    }
    Ok(())
}

/// The v1 hierarchies below a tmpfs, each at its place as the host has it.
fn cgroup_v1(mount: &Mount, options: &Options, scene: &Scene<'_>) -> Result<Vec<plan::Mount>> {
    let base = Mount {
        destination: mount.destination.clone(),
        ..Default::default()
    };
    let tmpfs = Options {
        own: MountAttr {
            set: options.own.set & !RDONLY,
            ..Default::default()
        },
        data: vec!["mode=755".into()],
        ..Default::default()
    };
    let label = &scene.linux.mount_label;
    let fs = file_system("tmpfs", "tmpfs", &tmpfs, label)?;
    let mut steps = vec![step(&base, What::New(fs), Vec::new())?];
    for hierarchy in scene.cgroups.v1() {
        let name = hierarchy.directory_name();
        let at = Mount {
            destination: format!("{}/{name}", mount.destination.trim_end_matches('/')),
            ..Default::default()
        };
        let what = if scene.linux.makes("cgroup") {
            let own = Options {
                own: options.own,
                data: vec![hierarchy.mount_option()],
                ..Default::default()
            };
            What::New(file_system("cgroup", "cgroup", &own, "")?)
        } else {
            bind(&hierarchy.path, mount, options, scene)?.0
        };
        steps.push(step(&at, what, options.propagation.clone())?);
        for alias in hierarchy.aliases() {
            let link = Mount {
                destination: format!("{}/{alias}", mount.destination.trim_end_matches('/')),
                ..Default::default()
            };
            steps.push(step(&link, What::Link(c_string(&name)?), Vec::new())?);
        }
    }
    if options.own.set & RDONLY != 0 {
        steps.push(step(&base, What::Attributes(RDONLY), Vec::new())?);
    }
    Ok(steps)
}

/// mount(2)'s flags for `linux.rootfsPropagation`.
pub fn propagation(name: &str) -> Result<Option<u64>> {
    if name.is_empty() {
        return Ok(None);
    }
    PROPAGATION
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, flags)| Some(*flags))
        .ok_or_else(|| Error::invalid(format!("linux.rootfsPropagation: unknown {name:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Options {
        let mount = Mount {
            options: list.iter().map(|s| (*s).to_owned()).collect(),
            ..Default::default()
        };
        parse(&mount).unwrap()
    }

    #[test]
    fn the_last_of_contradicting_options_counts() {
        let o = options(&["ro", "rw", "nosuid", "noatime", "relatime"]);
        assert_eq!(o.own.set, NOSUID);
        assert_eq!(o.own.clear, RDONLY | ATIME);
        let o = options(&["rbind", "rro", "rnoexec", "rprivate"]);
        assert!(o.bind && o.recursive);
        assert_eq!(o.below.set, RDONLY | NOEXEC);
        assert_eq!(o.propagation, [libc::MS_PRIVATE | libc::MS_REC]);
    }

    #[test]
    fn data_is_split_outside_of_quotes() {
        assert_eq!(split_data(r#"a=1,b="x,y",c"#), ["a=1", r#"b="x,y""#, "c"]);
    }

    #[test]
    fn every_option_has_its_way_to_the_kernel() {
        let each = |list: &[&str]| match file_system("tmpfs", "x", &options(list), "").unwrap() {
            plan::FileSystem {
                parameters: plan::Parameters::Each(list),
                ..
            } => list
                .into_iter()
                .map(|(key, _)| key.into_string().unwrap())
                .collect::<Vec<_>>(),
            _ => panic!("by mount(2)"),
        };
        assert_eq!(
            each(&["sync", "mand", "lazytime", "nolazytime", "what=ever", "new"]),
            ["source", "sync", "mand", "what", "new"]
        );
        let page = |list: &[&str]| match file_system("tmpfs", "x", &options(list), "").unwrap() {
            plan::FileSystem {
                parameters: plan::Parameters::Page { flags, data, .. },
                ..
            } => (flags, data.into_string().unwrap()),
            _ => panic!("by fsconfig"),
        };
        assert_eq!(page(&["silent"]).0, libc::MS_SILENT);
        assert_eq!(page(&["acl", "ro"]).0, libc::MS_POSIXACL | libc::MS_RDONLY);
        assert_eq!(
            page(&["iversion", "size=5"]),
            (libc::MS_I_VERSION, "size=5".into())
        );
        let long = format!("lowerdir={}", "/x".repeat(200));
        assert_eq!(page(&[&long, "a=1"]).1, format!("{long},a=1"));
        let tmpfs = |list: &[&str]| file_system("tmpfs", "x", &options(list), "");
        assert!(tmpfs(&[&"x".repeat(5000)]).is_err());
    }

    #[test]
    fn a_remount_is_of_the_mount_or_of_the_file_system() {
        let step = |list: &[&str]| {
            let mount = Mount {
                destination: "/x".into(),
                options: list.iter().map(|s| (*s).to_owned()).collect(),
                ..Default::default()
            };
            remount(&mount, parse(&mount).unwrap()).unwrap().what
        };
        let What::Remount {
            own, superblock, ..
        } = step(&["remount", "bind", "ro"])
        else {
            panic!()
        };
        assert_eq!((own.set, superblock), (RDONLY, None));
        let What::Remount { superblock, .. } = step(&["remount", "nosuid", "sync", "size=9"])
        else {
            panic!()
        };
        let flags = libc::MS_NOSUID | libc::MS_SYNCHRONOUS;
        assert_eq!(superblock, Some((flags, c"size=9".to_owned())));
    }
}
