//! The bundle: files containerd puts there, and files it expects the shim to leave.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::Value;

/// The init process's id, written by the runtime.
pub const INIT_PID: &str = "init.pid";
/// The mount point of the root file system.
pub const ROOTFS: &str = "rootfs";
/// Where what the root file system is made of is mounted, if it comes in parts.
pub const PARTS: &str = "rootfs-parts";
/// In the bundle of a sandbox that runs: its pid and cgroup, a line each.
pub const SANDBOX: &str = "sandbox-state";
/// How init ended, if its shim left before anybody asked: status, seconds, nanoseconds.
pub const EXIT: &str = "exit";
/// A sandbox's `/dev/shm`.
pub const SHM: &str = "shm";
/// The shim's address, read by containerd 1.6 when it comes back.
pub const ADDRESS: &str = "address";
/// The serving shim's process id.
pub const SHIM_PID: &str = "shim.pid";

/// The file for an exec's process id. The prefix keeps an exec named `init` from init's file.
pub fn exec_pid_name(exec_id: &str) -> String {
    format!("exec-{exec_id}.pid")
}

/// What the shim needs to know of `config.json`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// The group whose containers share one shim, if the container is of one.
    pub group: Option<String>,
    /// Whether processes may outlive init: when it has no PID namespace of its own.
    pub kill_all_on_exit: bool,
    /// The cgroup asked for: a path, or, for systemd, three words.
    pub cgroups_path: String,
}

/// Annotations that name a group, the first that is present counts.
const GROUP_ANNOTATIONS: [&str; 2] = [
    "io.containerd.runc.v2.group",
    "io.kubernetes.cri.sandbox-id",
];

impl Spec {
    pub fn read(bundle: &Path) -> io::Result<Self> {
        let path = bundle.join("config.json");
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        let text = std::fs::read(&path).map_err(named)?;
        let value = serde_json::from_slice(&text).map_err(|e| named(io::Error::other(e)))?;
        Ok(Self::parse(&value))
    }

    /// Reads it, and writes it back if `change` says that it changed something.
    pub fn adapt(bundle: &Path, change: impl FnOnce(&mut Value) -> bool) -> io::Result<Self> {
        let path = bundle.join("config.json");
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        let text = std::fs::read(&path).map_err(named)?;
        let mut value = serde_json::from_slice(&text).map_err(|e| named(io::Error::other(e)))?;
        if change(&mut value) {
            write_atomic(&path, value.to_string().as_bytes()).map_err(named)?;
        }
        Ok(Self::parse(&value))
    }

    fn parse(value: &Value) -> Self {
        let annotations = &value["annotations"];
        let group = GROUP_ANNOTATIONS
            .iter()
            .find_map(|name| annotations[name].as_str());
        let namespaces = value["linux"]["namespaces"].as_array();
        let own_pid_namespace = namespaces.into_iter().flatten().any(|namespace| {
            namespace["type"] == "pid" && namespace["path"].as_str().unwrap_or_default().is_empty()
        });
        Self {
            group: group.map(Into::into),
            kill_all_on_exit: !own_pid_namespace,
            cgroups_path: value["linux"]["cgroupsPath"]
                .as_str()
                .unwrap_or_default()
                .into(),
        }
    }
}

pub fn read_pid(path: &Path) -> io::Result<i32> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    text.trim().parse().map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: not a pid: {text:?}", path.display()),
        )
    })
}

/// Notes how a container's init ended, for the `delete` of a later daemon.
pub fn write_exit(bundle: &Path, status: u32, at: prost_types::Timestamp) -> io::Result<()> {
    let text = format!("{status} {} {}\n", at.seconds, at.nanos);
    write_atomic(&bundle.join(EXIT), text.as_bytes())
}

pub fn read_exit(bundle: &Path) -> Option<(u32, prost_types::Timestamp)> {
    let text = std::fs::read_to_string(bundle.join(EXIT)).ok()?;
    let mut words = text.split_whitespace();
    let status = words.next()?.parse().ok()?;
    let seconds = words.next()?.parse().ok()?;
    let nanos = words.next()?.parse().ok()?;
    Some((status, prost_types::Timestamp { seconds, nanos }))
}

/// Writes a file only its owner may read.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)
}

/// Writes a file so that a reader sees all of it or none.
pub fn write_atomic(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    std::fs::write(&temporary, content)?;
    std::fs::rename(&temporary, path).inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_exit_is_kept() {
        let dir = std::env::temp_dir().join(format!("shim-exit-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert_eq!(read_exit(&dir), None);
        let at = prost_types::Timestamp {
            seconds: 7,
            nanos: 9,
        };
        write_exit(&dir, 42, at).unwrap();
        assert_eq!(read_exit(&dir), Some((42, at)));
        std::fs::write(dir.join(EXIT), "x").unwrap();
        assert_eq!(read_exit(&dir), None);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_group_and_the_pid_namespace() {
        let spec = Spec::parse(&json!({
            "annotations": {"io.kubernetes.cri.sandbox-id": "pod", "x": "y"},
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "network", "path": "/x"}],
                "cgroupsPath": "/a/b"
            }
        }));
        assert_eq!(
            spec,
            Spec {
                group: Some("pod".into()),
                kill_all_on_exit: false,
                cgroups_path: "/a/b".into(),
            }
        );

        let spec = Spec::parse(&json!({
            "annotations": {"io.kubernetes.cri.sandbox-id": "pod", "io.containerd.runc.v2.group": "g"},
            "linux": {"namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}]}
        }));
        assert_eq!(
            spec,
            Spec {
                group: Some("g".into()),
                kill_all_on_exit: true,
                cgroups_path: String::new(),
            }
        );

        assert_eq!(
            Spec::parse(&json!({})),
            Spec {
                group: None,
                kill_all_on_exit: true,
                cgroups_path: String::new(),
            }
        );
    }
}
