//! What is wrong with a specification, or not served, is said before anything is made.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::spec::{Linux, NAMESPACES, Spec};
use crate::{hooks, netdev, rdt};

pub fn validate(spec: &Spec) -> Result<()> {
    if !spec.oci_version.starts_with("1.") {
        return Err(Error::invalid(format!(
            "ociVersion {:?}: this runtime serves version 1",
            spec.oci_version
        )));
    }
    netdev::validate(&spec.linux.net_devices)?;
    if let Some(rdt) = &spec.linux.intel_rdt {
        rdt::validate(rdt)?;
    }
    if spec.root.as_ref().is_none_or(|root| root.path.is_empty()) {
        return Err(Error::invalid("root.path is needed"));
    }
    if spec.process.is_none() {
        return Err(Error::invalid("process property must not be empty"));
    }
    namespaces(spec)?;
    for name in spec.linux.sysctl.keys() {
        sysctl(name, spec)?;
    }
    for (kind, list) in [
        ("prestart", &spec.hooks.prestart),
        ("createRuntime", &spec.hooks.create_runtime),
        ("createContainer", &spec.hooks.create_container),
        ("startContainer", &spec.hooks.start_container),
        ("poststart", &spec.hooks.poststart),
        ("poststop", &spec.hooks.poststop),
    ] {
        hooks::validate(kind, list)?;
    }
    Ok(())
}

fn namespaces(spec: &Spec) -> Result<()> {
    let linux = &spec.linux;
    let mut seen = BTreeSet::new();
    for namespace in &linux.namespaces {
        if !NAMESPACES.iter().any(|(name, ..)| *name == namespace.kind) {
            return Err(Error::invalid(format!(
                "namespace {:?} does not exist",
                namespace.kind
            )));
        }
        if !seen.insert(&namespace.kind) {
            return Err(Error::invalid(format!(
                "malformed spec file: duplicated ns {:?}",
                namespace.kind
            )));
        }
        if !namespace.path.is_empty() && !namespace.path.starts_with('/') {
            return Err(Error::invalid(format!(
                "linux.namespaces: path {:?} is not absolute",
                namespace.path
            )));
        }
    }
    let has = |kind: &str| linux.namespace(kind).is_some();
    if !linux.net_devices.is_empty() && !has("network") {
        return Err(Error::invalid(
            "linux.netDevices: the container has no network namespace of its own to move devices to",
        ));
    }
    if !spec.hostname.is_empty() && !has("uts") {
        return Err(Error::invalid(
            "unable to set hostname without a private UTS namespace",
        ));
    }
    if !spec.domainname.is_empty() && !has("uts") {
        return Err(Error::invalid(
            "unable to set domainname without a private UTS namespace",
        ));
    }
    if !has("mount") {
        for (field, there) in [
            ("linux.maskedPaths", !linux.masked_paths.is_empty()),
            ("linux.readonlyPaths", !linux.readonly_paths.is_empty()),
            (
                "root.readonly",
                spec.root.as_ref().is_some_and(|r| r.readonly),
            ),
        ] {
            if there {
                return Err(Error::invalid(format!(
                    "{field} needs a mount namespace: without one it would change the host's"
                )));
            }
        }
    }
    let mapped = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
    if mapped && !has("user") {
        return Err(Error::invalid(
            "user namespace mappings specified, but USER namespace isn't enabled in the config",
        ));
    }
    if linux.makes("user") && (linux.uid_mappings.is_empty() || linux.gid_mappings.is_empty()) {
        return Err(Error::invalid(
            "a new user namespace needs linux.uidMappings and linux.gidMappings",
        ));
    }
    if !linux.time_offsets.is_empty() && !linux.makes("time") {
        return Err(Error::invalid(
            "linux.timeOffsets needs a new time namespace in linux.namespaces",
        ));
    }
    for clock in linux.time_offsets.keys() {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(Error::invalid(format!(
                "linux.timeOffsets: unknown clock {clock:?}"
            )));
        }
    }
    Ok(())
}

/// Only what belongs to a namespace of the container; the rest is the host's.
fn sysctl(name: &str, spec: &Spec) -> Result<()> {
    const IPC: [&str; 10] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.auto_msgmni",
        "kernel.msg_next_id",
    ];
    let dotted = dotted(name);
    let needs = if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        "ipc"
    } else if dotted.starts_with("net.") {
        "network"
    } else if dotted == "kernel.domainname" {
        "uts"
    } else if dotted == "kernel.hostname" {
        return Err(Error::invalid(
            "sysctl \"kernel.hostname\" conflicts with the hostname property: use that",
        ));
    } else {
        return Err(Error::invalid(format!(
            "sysctl {name:?} is not in a separate kernel namespace"
        )));
    };
    if dotted.contains("..") || dotted.contains("//") || name.contains('\0') {
        return Err(Error::invalid(format!("sysctl {name:?}: no such name")));
    }
    let linux: &Linux = &spec.linux;
    if linux.namespace(needs).is_none() {
        return Err(Error::invalid(format!(
            "sysctl {name:?} is not allowed: the container has no {needs} namespace of its own"
        )));
    }
    Ok(())
}

/// `net/ipv4/conf/eth0.1/x` and `net.ipv4.conf.eth0/1.x` name the same: whichever of `.` and `/`
/// comes first separates.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => swap(name),
        _ => name.to_owned(),
    }
}

fn swap(name: &str) -> String {
    let swapped = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swapped).collect()
}

/// The file of a sysctl, below /proc.
pub fn sysctl_path(name: &str) -> String {
    format!("sys/{}", swap(&dotted(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: serde_json::Value) -> String {
        let mut spec = serde_json::json!({
            "ociVersion": "1.2.0", "root": {"path": "rootfs"},
            "process": {"args": ["x"], "cwd": "/"},
            "linux": {"namespaces": [{"type": "mount"}, {"type": "network"}]},
        });
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        validate(&serde_json::from_value(spec).unwrap())
            .unwrap_err()
            .message
    }

    #[test]
    fn refusals_name_the_field() {
        use serde_json::json;
        assert!(refused(json!({"ociVersion": "2.0"})).contains("2.0"));
        assert!(refused(json!({"hostname": "x"})).contains("UTS"));
        let linux = |value: serde_json::Value| refused(json!({"linux": value}));
        assert!(linux(json!({"netDevices": {"eth0": {}}})).contains("linux.netDevices"));
        assert!(linux(json!({"intelRdt": {"closID": ".."}})).contains("linux.intelRdt"));
        assert!(linux(json!({"namespaces": [{"type": "moon"}]})).contains("moon"));
        assert!(linux(json!({"maskedPaths": ["/x"]})).contains("maskedPaths"));
        assert!(linux(json!({"sysctl": {"kernel.panic": "1"}})).contains("kernel.panic"));
        assert!(linux(json!({"sysctl": {"net.ipv4.ip_forward": "1"}})).contains("network"));
        let up = json!({"sysctl": {"net/../kernel/panic": "1"},
            "namespaces": [{"type": "network"}]});
        assert!(linux(up).contains("no such name"));
    }

    #[test]
    fn sysctls_have_two_spellings() {
        for name in [
            "net.ipv4.conf.eth0/1.forwarding",
            "net/ipv4/conf/eth0.1/forwarding",
        ] {
            assert_eq!(sysctl_path(name), "sys/net/ipv4/conf/eth0.1/forwarding");
        }
    }
}
