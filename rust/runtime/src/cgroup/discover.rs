//! Which hierarchies the host has, and where a path is in each.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::{Cgroups, Hierarchy, Unified};
use crate::error::{Context, Error, Result};
use crate::sys;

struct Mounted {
    /// The part of the hierarchy that the mount shows.
    root: String,
    mountpoint: PathBuf,
    unified: bool,
    controllers: Vec<String>,
}

pub fn locate(path: &str) -> Result<Cgroups> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").context(|| "mountinfo".into())?;
    let own = fs::read_to_string("/proc/self/cgroup").context(|| "/proc/self/cgroup".into())?;
    locate_in(path, &mountinfo, &own, is_visible)
}

/// Whether the mount is what its place shows: another may be on top of it.
fn is_visible(mount: &Mounted) -> bool {
    const CGROUP: i64 = 0x0027_e0eb;
    const CGROUP2: i64 = 0x6367_7270;
    let wanted = if mount.unified { CGROUP2 } else { CGROUP };
    let found = fs::File::open(&mount.mountpoint)
        .ok()
        .and_then(|file| sys::fs_magic(file.as_raw_fd()).ok());
    found == Some(wanted)
}

fn locate_in(
    path: &str,
    mountinfo: &str,
    own: &str,
    visible: fn(&Mounted) -> bool,
) -> Result<Cgroups> {
    let mounts: Vec<Mounted> = mountinfo
        .lines()
        .filter_map(mounted)
        .filter(visible)
        .collect();
    let v1: Vec<&Mounted> = mounts.iter().filter(|m| !m.unified).collect();
    let mut cgroups = Cgroups::default();
    for mount in &v1 {
        if cgroups
            .v1
            .iter()
            .any(|known| known.controllers == mount.controllers)
        {
            continue;
        }
        cgroups.v1.push(Hierarchy {
            path: place(mount, path, own),
            mountpoint: mount.mountpoint.clone(),
            controllers: mount.controllers.clone(),
            made: false,
        });
    }
    if v1.is_empty() {
        let Some(mount) = mounts.first() else {
            return Err(Error::failed(
                "no cgroup file system is mounted on this host",
            ));
        };
        cgroups.v2 = Some(Unified {
            path: place(mount, path, own),
            mountpoint: mount.mountpoint.clone(),
            made: false,
        });
    }
    Ok(cgroups)
}

fn mounted(line: &str) -> Option<Mounted> {
    const NO_CONTROLLERS: [&str; 9] = [
        "rw",
        "ro",
        "xattr",
        "none",
        "clone_children",
        "noprefix",
        "cpuset_v2_mode",
        "favordynmods",
        "release_agent",
    ];
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let root = left.nth(3)?;
    let mountpoint = left.next()?;
    let mut right = right.split(' ');
    let unified = match right.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let mut controllers: Vec<String> = right
        .nth(1)?
        .split(',')
        .filter(|o| !NO_CONTROLLERS.contains(&o.split('=').next().unwrap_or(o)))
        .map(str::to_owned)
        .collect();
    if unified {
        controllers.clear();
    }
    Some(Mounted {
        root: root.to_owned(),
        mountpoint: PathBuf::from(mountpoint.replace("\\040", " ")),
        unified,
        controllers,
    })
}

/// An absolute path is below the mount; another one below this process's own cgroup.
fn place(mount: &Mounted, path: &str, own: &str) -> PathBuf {
    if let Some(absolute) = path.strip_prefix('/') {
        return mount.mountpoint.join(absolute.trim_start_matches('/'));
    }
    let mine = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let list = fields.next()?;
        let place = fields.next()?;
        let same = match mount.unified {
            true => list.is_empty(),
            false => list.split(',').map(str::to_owned).collect::<Vec<_>>() == mount.controllers,
        };
        same.then_some(place)
    });
    let mine = Path::new(mine.unwrap_or("/"));
    let mine = mine
        .strip_prefix(&mount.root)
        .or_else(|_| mine.strip_prefix("/"))
        .unwrap_or(Path::new(""));
    mount.mountpoint.join(mine).join(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &str = "\
30 20 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
31 20 0:27 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
32 20 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate";

    #[test]
    fn hybrid_hosts_are_v1() {
        let own = "2:cpu,cpuacct:/me\n1:name=systemd:/sys\n0::/";
        let found = locate_in("a/b", MIXED, own, |_| true).unwrap();
        assert!(!found.is_unified());
        let paths: Vec<_> = found
            .v1()
            .iter()
            .map(|h| h.path.to_str().unwrap())
            .collect();
        assert_eq!(
            paths,
            [
                "/sys/fs/cgroup/cpu,cpuacct/me/a/b",
                "/sys/fs/cgroup/systemd/sys/a/b"
            ]
        );
        assert_eq!(found.v1()[0].aliases(), ["cpu", "cpuacct"]);
        assert_eq!(found.v1()[1].mount_option(), "name=systemd");
    }

    #[test]
    fn unified_hosts_are_v2() {
        let info = "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate";
        let found = locate_in("/a", info, "0::/init.scope", |_| true).unwrap();
        assert_eq!(found.v2_path().unwrap(), Path::new("/sys/fs/cgroup/a"));
        let found = locate_in("a", info, "0::/init.scope", |_| true).unwrap();
        assert_eq!(
            found.v2_path().unwrap(),
            Path::new("/sys/fs/cgroup/init.scope/a")
        );
        assert!(locate_in("a", "", "", |_| true).is_err());
    }

    #[test]
    fn a_path_that_goes_up_is_refused() {
        assert!(Cgroups::locate("/a/../b", "id").is_err());
    }
}
