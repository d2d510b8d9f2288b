//! From the specification's mounts to what the new process does with them.
//!
//! Binds are made here, as detached trees with all of their attributes: the container's side only puts
//! them in place. File systems that belong to its namespaces are made by itself.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use crate::error::{Context, Error, Result};
use crate::plan::{self, What};
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

/// Options of the file system: the kernel's own flag for it.
const SUPER: [(&str, &str); 10] = [
    ("sync", "sync"),
    ("async", "async"),
    ("dirsync", "dirsync"),
    ("lazytime", "lazytime"),
    ("nolazytime", "nolazytime"),
    ("mand", "mand"),
    ("nomand", "nomand"),
    ("silent", "silent"),
    ("acl", "acl"),
    ("noacl", "noacl"),
];

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
        .chain(SUPER.iter().map(|(name, _)| (*name).to_owned()))
        .chain(PROPAGATION.iter().map(|(name, _)| (*name).to_owned()))
        .collect();
    let more = [
        "bind",
        "rbind",
        "defaults",
        "loud",
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
    super_flags: Vec<&'static str>,
    data: Vec<String>,
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
        } else if let Some((_, flag)) = SUPER.iter().find(|(name, _)| name == option) {
            options.super_flags.push(flag);
        } else {
            match option.as_str() {
                "bind" => options.bind = true,
                "rbind" => (options.bind, options.recursive) = (true, true),
                "defaults" | "loud" | "" => {}
                "tmpcopyup" => options.copy_up = true,
                "idmap" => options.idmap = Some(false),
                "ridmap" => options.idmap = Some(true),
                "remount" => {
                    return Err(Error::unimplemented(format!(
                        "mounts: option \"remount\" of {}",
                        mount.destination
                    )));
                }
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
    let idmapped = options.idmap.is_some() || !mount.uid_mappings.is_empty();
    if options.bind {
        let source = scene.bundle.join(&mount.source);
        let (tree, is_file) =
            bind(&source, mount, &options, scene).map_err(|e| e.during(context()))?;
        return Ok(vec![plan::Mount {
            target: c_string(&mount.destination)?,
            what: What::Tree(tree),
            is_file,
            copy_up: false,
            propagation: options.propagation,
        }]);
    }
    if idmapped {
        return Err(Error::unimplemented(format!(
            "mounts: uidMappings of {} (type {:?}; only binds are idmapped)",
            mount.destination, mount.kind
        )));
    }
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
        ("cgroup", false) => return cgroup_v1(mount, &options, scene),
        ("cgroup" | "cgroup2", true) if !scene.linux.makes("cgroup") => {
            let source = scene.cgroups.v2_path().unwrap_or_default();
            let (tree, _) =
                bind(&source, mount, &options, scene).map_err(|e| e.during(context()))?;
            return Ok(vec![step(mount, What::Tree(tree), options.propagation)?]);
        }
        _ => {}
    }
    let kind = match mount.kind.as_str() {
        "cgroup" => "cgroup2",
        other => other,
    };
    let what = file_system(kind, &mount.source, &options, &scene.linux.mount_label)?;
    let mut step = step(mount, what, options.propagation)?;
    step.copy_up = options.copy_up;
    Ok(vec![step])
}

fn step(mount: &Mount, what: What, propagation: Vec<u64>) -> Result<plan::Mount> {
    Ok(plan::Mount {
        target: c_string(&mount.destination)?,
        what,
        is_file: false,
        copy_up: false,
        propagation,
    })
}

fn file_system(kind: &str, source: &str, options: &Options, label: &str) -> Result<What> {
    let mut list = Vec::new();
    let mut add = |key: &str, value: Option<&str>| -> Result<()> {
        list.push((c_string(key)?, value.map(c_string).transpose()?));
        Ok(())
    };
    if !source.is_empty() {
        add("source", Some(source))?;
    }
    if options.own.set & RDONLY != 0 && !matches!(kind, "sysfs" | "proc" | "cgroup" | "cgroup2") {
        add("ro", None)?;
    }
    for flag in &options.super_flags {
        // These were never anything but the absence of another.
        if !matches!(*flag, "acl" | "noacl" | "nomand" | "mand" | "silent") {
            add(flag, None)?;
        }
    }
    for data in options.data.iter().flat_map(|data| split_data(data)) {
        match data.split_once('=') {
            Some((key, value)) => add(key, Some(value.trim_matches('"')))?,
            None => add(data, None)?,
        }
    }
    if !label.is_empty() && matches!(kind, "tmpfs" | "mqueue" | "devpts") {
        add("context", Some(label))?;
    }
    Ok(What::New {
        kind: c_string(kind)?,
        options: list,
        attributes: options.own.set,
        recursive: options.below,
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

/// A detached copy of what is at `source`, and whether it is something else than a directory.
fn bind(
    source: &Path,
    mount: &Mount,
    options: &Options,
    scene: &Scene<'_>,
) -> Result<(OwnedFd, bool)> {
    let path = c_string(&source.to_string_lossy())?;
    let stat = sys::stat(&path).context(|| format!("stat {}", source.display()))?;
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
    let recursive = options.idmap.unwrap_or(false);
    if options.idmap.is_some() || !mount.uid_mappings.is_empty() {
        let (uids, gids) = match mount.uid_mappings.is_empty() {
            false => (&mount.uid_mappings, &mount.gid_mappings),
            true => (&scene.linux.uid_mappings, &scene.linux.gid_mappings),
        };
        if uids.is_empty() || gids.is_empty() {
            return Err(Error::invalid(
                "an idmapped mount needs uidMappings and gidMappings, its own or the container's",
            ));
        }
        let userns = user_namespace(uids, gids)?;
        let attr = MountAttr {
            set: sys::MOUNT_ATTR_IDMAP,
            userns_fd: userns.as_raw_fd() as u64,
            ..Default::default()
        };
        set(&attr, recursive, "the id mapping")?;
    }
    Ok((tree, stat.st_mode & libc::S_IFMT != libc::S_IFDIR))
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
    let what = file_system("tmpfs", "tmpfs", &tmpfs, label)?;
    let mut steps = vec![step(&base, what, Vec::new())?];
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
            file_system("cgroup", "cgroup", &own, "")?
        } else {
            let (tree, _) = bind(&hierarchy.path, mount, options, scene)?;
            What::Tree(tree)
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
    fn remount_is_refused_by_name() {
        let mount = Mount {
            destination: "/x".into(),
            options: vec!["remount".into()],
            ..Default::default()
        };
        let error = parse(&mount).err().unwrap();
        assert!(error.message.contains("remount"), "{error}");
    }
}
