//! The cgroup of a container, on machines with v1, with v2, and with both.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

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
}
