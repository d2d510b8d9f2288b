//! What a container's configuration becomes in a sandbox.
//!
//! A member joins the sandbox's network, always. Of the other namespaces it joins those that its
//! configuration gives a path for: the sandbox's own, or, as the wish for them of a caller who does
//! not know them, the host's. (Who wants the host's leaves the entry out.) With the IPC namespace it
//! shares `/dev/shm`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{KINDS, Sandbox};

/// What members join.
pub struct Shared {
    pid: i32,
    own: Vec<&'static str>,
    netns: Option<String>,
    shm: Option<PathBuf>,
}

impl Shared {
    /// Of a sandbox that runs.
    pub fn of(sandbox: &Sandbox) -> Self {
        let network = sandbox.network.as_ref();
        Self {
            pid: sandbox.pid,
            own: sandbox.wish.own.clone(),
            netns: network
                .filter(|network| network.enterable)
                .map(|network| network.path.clone()),
            shm: sandbox.shm.clone(),
        }
    }

    /// Changes a container's configuration; whether there was anything to change.
    pub fn adapt(&self, spec: &mut Value) -> bool {
        let mut changed = false;
        let Some(top) = spec.as_object_mut() else {
            return false;
        };
        let linux = top.entry("linux").or_insert_with(|| json!({}));
        let Some(linux) = linux.as_object_mut() else {
            return false;
        };
        let namespaces = linux.entry("namespaces").or_insert_with(|| json!([]));
        let Some(namespaces) = namespaces.as_array_mut() else {
            return false;
        };
        for entry in namespaces.iter_mut() {
            changed |= self.adapt_namespace(entry);
        }
        if let Some(netns) = &self.netns
            && !namespaces.iter().any(|entry| entry["type"] == "network")
        {
            namespaces.push(json!({"type": "network", "path": netns}));
            changed = true;
        }
        let shares_ipc = namespaces.iter().any(|entry| {
            entry["type"] == "ipc"
                && entry["path"]
                    .as_str()
                    .is_some_and(|path| same(path, &self.namespace("ipc")))
        });
        if shares_ipc && let Some(shm) = &self.shm {
            for mount in top["mounts"].as_array_mut().into_iter().flatten() {
                changed |= adapt_shm(mount, shm);
            }
        }
        changed
    }

    fn adapt_namespace(&self, entry: &mut Value) -> bool {
        let kind = entry["type"].as_str().unwrap_or_default().to_owned();
        let path = entry["path"].as_str().unwrap_or_default().to_owned();
        if kind == "network" {
            return match &self.netns {
                Some(netns) if path.is_empty() => {
                    entry["path"] = json!(netns);
                    true
                }
                _ => false,
            };
        }
        let Some(kind) = KINDS.into_iter().find(|known| *known == kind) else {
            return false;
        };
        let hosts = ["/proc/self/ns/", "/proc/1/ns/"];
        let asked = !path.is_empty()
            && hosts
                .iter()
                .any(|host| same(&path, &format!("{host}{kind}")));
        if asked && self.own.contains(&kind) {
            entry["path"] = json!(self.namespace(kind));
        }
        asked && self.own.contains(&kind)
    }

    fn namespace(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.pid)
    }
}

/// Whether two paths lead to one namespace.
fn same(one: &str, other: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &str| Path::new(path).metadata().map(|m| (m.dev(), m.ino())).ok();
    one == other || id(one).is_some_and(|found| id(other) == Some(found))
}

fn adapt_shm(mount: &mut Value, shm: &Path) -> bool {
    if mount["destination"] != "/dev/shm" || mount["type"] != "tmpfs" {
        return false;
    }
    *mount = json!({
        "destination": "/dev/shm",
        "type": "bind",
        "source": shm,
        "options": ["rbind", "nosuid", "noexec", "nodev", "rw"],
    });
    true
}

/// Mounts of type `uds`, a socket of the host's, are bind mounts to the kernel.
pub fn adapt_sockets(spec: &mut Value) -> bool {
    let mut changed = false;
    for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
        if mount["type"] == "uds" {
            mount["type"] = json!("bind");
            mount["options"] = json!(["bind", "rw"]);
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(own: &[&'static str], netns: Option<&str>) -> Shared {
        Shared {
            pid: 4_000_000,
            own: own.to_vec(),
            netns: netns.map(Into::into),
            shm: Some("/bundle/shm".into()),
        }
    }

    #[test]
    fn the_network_is_joined_always() {
        let sandbox = shared(&KINDS, Some("/run/netns/pod"));
        let joined = json!({"type": "network", "path": "/run/netns/pod"});
        for mut spec in [
            json!({}),
            json!({"linux": {"namespaces": [{"type": "network"}]}}),
        ] {
            assert!(sandbox.adapt(&mut spec));
            assert_eq!(spec["linux"]["namespaces"], json!([joined]));
        }
        let other = json!({"linux": {"namespaces": [{"type": "network", "path": "/other"}]}});
        let mut spec = other.clone();
        assert!(!sandbox.adapt(&mut spec), "somebody knows what they want");
        assert_eq!(spec, other);
        // The host's network: there is nothing to join.
        assert!(!shared(&KINDS, None).adapt(&mut json!({})));
    }

    #[test]
    fn other_namespaces_are_joined_on_demand() {
        let sandbox = shared(&["ipc", "pid"], None);
        let shm = json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm"});
        let mut spec = json!({
            "mounts": [shm],
            "linux": {"namespaces": [
                {"type": "ipc", "path": "/proc/1/ns/ipc"},
                {"type": "pid"},
                {"type": "uts", "path": "/proc/self/ns/uts"},
                {"type": "mount"},
            ]},
        });
        assert!(sandbox.adapt(&mut spec));
        assert_eq!(
            spec["linux"]["namespaces"],
            json!([
                {"type": "ipc", "path": "/proc/4000000/ns/ipc"},
                {"type": "pid"},
                {"type": "uts", "path": "/proc/self/ns/uts"},
                {"type": "mount"},
            ])
        );
        assert_eq!(spec["mounts"][0]["source"], "/bundle/shm");
        assert_eq!(spec["mounts"][0]["type"], "bind");

        // An IPC namespace of its own has a /dev/shm of its own.
        let alone = json!({
            "mounts": [shm],
            "linux": {"namespaces": [{"type": "ipc"}]},
        });
        let mut spec = alone.clone();
        assert!(!sandbox.adapt(&mut spec));
        assert_eq!(spec, alone);
    }

    #[test]
    fn sockets_are_bound() {
        let mut spec = json!({"mounts": [{"type": "uds", "source": "/s", "destination": "/d"}]});
        assert!(adapt_sockets(&mut spec));
        assert_eq!(spec["mounts"][0]["type"], "bind");
        assert!(!adapt_sockets(&mut spec));
        assert!(!adapt_sockets(&mut json!({})));
    }
}
