//! The cgroup of a container, on machines with v1, with v2, and with both.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

const ROOT: &str = "/sys/fs/cgroup";
/// `statfs` type of a cgroup v2 mount.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Where a container's resources are accounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroup {
    /// The folder of each v1 controller.
    V1(BTreeMap<String, PathBuf>),
    V2(PathBuf),
}

/// Whether v2 is all there is.
pub fn is_unified() -> bool {
    rustix::fs::statfs(ROOT).is_ok_and(|fs| fs.f_type as u64 == CGROUP2_MAGIC)
}

impl Cgroup {
    /// The cgroup a process is in.
    pub fn of(pid: i32) -> io::Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let found = if is_unified() {
            parse_v2(&text, Path::new(ROOT)).map(Self::V2)
        } else {
            Some(parse_v1(&text, Path::new(ROOT)))
                .filter(|map| !map.is_empty())
                .map(Self::V1)
        };
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "cgroup path not found"))
    }

    /// The folder in which memory is accounted, and whether it is v2.
    pub fn memory(&self) -> Option<(PathBuf, bool)> {
        match self {
            Self::V1(map) => map.get("memory").map(|path| (path.clone(), false)),
            Self::V2(path) => Some((path.clone(), true)),
        }
    }
}

/// The line of hierarchy 0 names the v2 cgroup.
fn parse_v2(text: &str, root: &Path) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(root.join(path.trim_start_matches('/')))
}

/// `N:controller,controller:/path` for each v1 hierarchy.
fn parse_v1(text: &str, root: &Path) -> BTreeMap<String, PathBuf> {
    let mut map = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        for controller in controllers.split(',').filter(|name| !name.is_empty()) {
            let controller = controller.strip_prefix("name=").unwrap_or(controller);
            // A hierarchy is mounted under each controller's name, or under all of them joined.
            let mount = [controller, controllers]
                .into_iter()
                .map(|name| root.join(name))
                .find(|mount| mount.is_dir())
                .unwrap_or_else(|| root.join(controller));
            map.insert(
                controller.to_owned(),
                mount.join(path.trim_start_matches('/')),
            );
        }
    }
    map
}

/// Moves a process into a cgroup that exists, by the path an administrator gave.
pub fn join(path: &str, pid: i32) -> io::Result<()> {
    let relative = path.trim_start_matches('/');
    let named = |folder: &Path, e: io::Error| {
        io::Error::new(e.kind(), format!("cgroup {}: {e}", folder.display()))
    };
    let enter = |folder: PathBuf| {
        std::fs::write(folder.join("cgroup.procs"), pid.to_string()).map_err(|e| named(&folder, e))
    };
    if is_unified() {
        return enter(Path::new(ROOT).join(relative));
    }
    let own = std::fs::read_to_string("/proc/self/cgroup")?;
    let mut joined = false;
    for line in own.lines() {
        let controllers = line.split(':').nth(1).unwrap_or_default();
        let first = controllers.split(',').next().unwrap_or_default();
        let first = first.strip_prefix("name=").unwrap_or(first);
        let folder = Path::new(ROOT).join(first).join(relative);
        if !first.is_empty() && folder.is_dir() {
            enter(folder)?;
            joined = true;
        }
    }
    if joined {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("cgroup {path} does not exist"),
    ))
}

/// Makes a cgroup for accounting; the files to which a process writes 0 to join it.
pub fn make(path: &str) -> io::Result<Vec<File>> {
    // Systemd's form is not a path, and its units are its own to make.
    if path.contains(':') || path.ends_with(".slice") {
        return Ok(Vec::new());
    }
    let relative = Path::new(path.trim_start_matches('/'));
    if relative
        .components()
        .any(|part| part == Component::ParentDir)
    {
        let text = format!("cgroup {path}: no path of cgroups has .. in it");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let open = |folder: PathBuf, name: &str| {
        std::fs::create_dir_all(&folder)?;
        File::options().write(true).open(folder.join(name))
    };
    if is_unified() {
        let mut above = PathBuf::from(ROOT);
        for part in relative {
            // What is not to be had, or is on already, is no reason to have nothing.
            for controller in ["cpu", "memory", "pids", "io"] {
                let _ = std::fs::write(
                    above.join("cgroup.subtree_control"),
                    format!("+{controller}"),
                );
            }
            above.push(part);
        }
        return Ok(vec![open(above, "cgroup.procs")?]);
    }
    let mut files = Vec::new();
    // One folder a hierarchy, which several names may lead to.
    let mut known = Vec::new();
    for controller in ["memory", "cpuacct", "pids", "blkio"] {
        if let Ok(hierarchy) = Path::new(ROOT).join(controller).canonicalize()
            && hierarchy.join("tasks").exists()
            && !known.contains(&hierarchy)
        {
            files.push(open(hierarchy.join(relative), "tasks")?);
            known.push(hierarchy);
        }
    }
    Ok(files)
}

/// Removes the cgroups of a container whose runtime was killed before it knew them, or after it had
/// forgotten them.
///
/// `path` is what the configuration asks for. Processes in it are killed, but only if its name shows
/// that it is this container's own, and given `limit` to end; a cgroup still in use then stays.
pub fn remove_leftover(path: &str, id: &str, limit: Duration) {
    // Systemd's form is not a path; its units end with their last process.
    if path.trim_matches('/').is_empty() || path.contains(':') {
        return;
    }
    let own = Path::new(path)
        .file_name()
        .is_some_and(|name| name.to_string_lossy().contains(id));
    let deadline = Instant::now() + limit;
    loop {
        let folders = folders_of(Path::new(ROOT), path);
        if own {
            folders.iter().for_each(|folder| kill_all(folder));
        }
        let left = folders.iter().filter(|folder| !remove_tree(folder)).count();
        if left == 0 || Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Removes a cgroup that has no processes; one that has stays.
pub fn remove(path: &str) {
    if path.trim_matches('/').is_empty() || path.contains(':') {
        return;
    }
    for folder in folders_of(Path::new(ROOT), path) {
        remove_tree(&folder);
    }
}

/// The folders a cgroup has: one in each v1 hierarchy, or the one of v2.
fn folders_of(root: &Path, path: &str) -> Vec<PathBuf> {
    let relative = path.trim_start_matches('/');
    let mut hierarchies = vec![root.to_owned()];
    if !is_unified() {
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        // Links are other names of the same hierarchies.
        hierarchies = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
    }
    hierarchies
        .into_iter()
        .map(|hierarchy| hierarchy.join(relative))
        .filter(|folder| folder.is_dir())
        .collect()
}

fn kill_all(folder: &Path) {
    let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in text
        .lines()
        .filter_map(|line| line.parse::<i32>().ok())
        .filter(|pid| *pid > 1)
    {
        // SAFETY: sends a signal; no memory is passed.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

/// Removes a cgroup and those below it; whether nothing of it is left.
fn remove_tree(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    std::fs::remove_dir(folder).is_ok() || !folder.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_and_hybrid() {
        let root = std::env::temp_dir().join(format!("shim-cgroup-{}", std::process::id()));
        std::fs::create_dir_all(root.join("cpu,cpuacct")).unwrap();
        let text = "3:cpu,cpuacct:/a/b\n2:memory:/a/b\n1:name=systemd:/s:x\n0::/\n";
        let map = parse_v1(text, &root);
        assert_eq!(map["cpu"], root.join("cpu,cpuacct/a/b"));
        assert_eq!(map["cpuacct"], root.join("cpu,cpuacct/a/b"));
        assert_eq!(map["memory"], root.join("memory/a/b"));
        assert_eq!(map["systemd"], root.join("systemd/s:x"));
        assert_eq!(map.len(), 4);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn v2() {
        let root = Path::new("/cg");
        assert_eq!(parse_v2("0::/a/b\n", root), Some("/cg/a/b".into()));
        assert_eq!(parse_v2("1:cpu:/x\n", root), None);
    }

    #[test]
    fn a_leftover_is_removed_with_what_is_below_it() {
        let name = format!("shim-test-{}", std::process::id());
        let path = format!("/{name}/box");
        let hierarchy = match Cgroup::of(std::process::id() as i32) {
            Ok(Cgroup::V1(_)) => Path::new(ROOT).join("pids"),
            _ => PathBuf::from(ROOT),
        };
        let parent = hierarchy.join(&name);
        if std::fs::create_dir_all(parent.join("box/below")).is_err() {
            // Not root, or no cgroup file system to write to: nothing to show here.
            return;
        }
        let mut spawn = crate::spawn::Spawn::new("sleep").unwrap();
        spawn.arg("1000").unwrap();
        let pid = spawn.spawn().unwrap();
        std::fs::write(parent.join("box/below/cgroup.procs"), pid.to_string()).unwrap();
        // A process below is nobody's to kill: the cgroup stays.
        remove_leftover(&path, "other", Duration::ZERO);
        assert!(parent.join("box/below").exists());
        std::fs::write(parent.join("box/cgroup.procs"), pid.to_string()).unwrap();
        // SAFETY: reaps the child of this test as soon as it is killed.
        let reaper = std::thread::spawn(move || unsafe {
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        });
        remove_leftover(&path, "box", Duration::from_secs(120));
        reaper.join().unwrap();
        assert!(!parent.join("box").exists());
        std::fs::remove_dir(parent).unwrap();
    }
}
