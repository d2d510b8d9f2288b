//! spec: a configuration to begin with.

use std::path::Path;

use runtime::{Error, Runtime};
use serde_json::{Value, json};

use super::flags::Flags;

pub fn write(_: &Runtime, flags: &Flags) -> Result<u8, Error> {
    let path = Path::new(flags.get("bundle").unwrap_or(".")).join("config.json");
    if path.exists() {
        return Err(Error::invalid(format!(
            "file {} exists. Remove it first",
            path.display()
        )));
    }
    let mut spec = example();
    if flags.is_set("rootless") {
        make_rootless(&mut spec);
    }
    std::fs::write(&path, format!("{spec:#}\n"))
        .map_err(|e| Error::failed(format!("{}: {e}", path.display())))?;
    Ok(0)
}

/// Whether the bundle's process wants a terminal. What is wrong with the file is said later.
pub fn terminal(bundle: &Path) -> Result<bool, Error> {
    let path = bundle.join("config.json");
    let text = std::fs::read(&path)
        .map_err(|e| Error::failed(format!("specification file {}: {e}", path.display())))?;
    let spec = runtime::spec::Spec::parse(&text)?;
    Ok(spec.process.is_some_and(|p| p.terminal))
}

/// For a user who has only a user namespace to give: no network of its own, no limits, the host's
/// `/sys`, and no owners but this one.
fn make_rootless(spec: &mut Value) {
    let linux = &mut spec["linux"];
    linux["namespaces"] = json!([
        {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"},
        {"type": "user"}
    ]);
    let (uid, gid) = runtime::sys::identity();
    linux["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
    linux["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    let Some(mounts) = spec["mounts"].as_array_mut() else {
        return;
    };
    for mount in mounts.iter_mut() {
        if mount["destination"] == "/sys" {
            let options = ["rbind", "nosuid", "noexec", "nodev", "ro"];
            *mount = json!({
                "destination": "/sys", "type": "none", "source": "/sys", "options": options
            });
        }
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| {
                let option = option.as_str().unwrap_or_default();
                !option.starts_with("uid=") && !option.starts_with("gid=")
            });
        }
    }
}

fn example() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    json!({
        "ociVersion": runtime::OCI_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm"
            ],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "container",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm",
                &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup",
                &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"}, {"type": "cgroup"}
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
                "/proc/scsi"
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"
            ]
        }
    })
}
