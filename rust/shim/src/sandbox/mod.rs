//! A sandbox: what the containers of a pod share, and the process that keeps it.
//!
//! One shim has at most one, made through `containerd.runtime.sandbox.v1.Sandbox`; every container
//! made in that shim is a member. What is shared is said by the caller, in one of three ways: CRI's
//! pod configuration as options; the namespaces of a spec in the bundle; or not at all, which gives
//! the sandbox IPC, UTS and PID namespaces of its own. The network is the namespace the caller made,
//! or the host's.

pub mod cri;
pub mod member;
pub mod pause;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use prost::Message;
use prost_types::Any;
use serde_json::Value;

use crate::cgroup::Cgroup;
use crate::options;
use crate::process::Exit;
use crate::shim::Step;
use crate::ttrpc::server::Reply;

pub const READY: &str = "SANDBOX_READY";
pub const NOT_READY: &str = "SANDBOX_NOTREADY";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Created,
    Running,
    /// Members are being ended.
    Stopping,
    Stopped,
}

pub struct Sandbox {
    pub id: String,
    pub bundle: PathBuf,
    pub phase: Phase,
    pub wish: Wish,
    /// The network namespace, held for as long as the sandbox is there.
    pub network: Option<Network>,
    /// Whether mounts of ours are on the bundle's rootfs.
    pub mounted: bool,
    /// The folder that members see as `/dev/shm`.
    pub shm: Option<PathBuf>,
    pub pid: i32,
    pub cgroup: Option<Cgroup>,
    pub created_at: SystemTime,
    pub exit: Option<Exit>,
    /// Calls of WaitSandbox.
    pub waiters: Vec<Reply>,
    /// Calls of StopSandbox.
    pub stoppers: Vec<Reply>,
    /// What goes on once it has stopped.
    pub on_stopped: Vec<Step>,
    /// ShutdownSandbox has been called.
    pub leaving: Option<Reply>,
}

/// What the caller wants of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Namespaces of its own, by their OCI names.
    pub own: Vec<&'static str>,
    /// Empty: the shim's.
    pub hostname: String,
    pub sysctls: BTreeMap<String, String>,
    /// The cgroup of the process that keeps the namespaces; empty: the shim's.
    pub cgroup: String,
    /// The network namespace of the spec.
    pub netns: String,
}

/// Namespaces a sandbox can have of its own, as OCI names them.
pub const KINDS: [&str; 3] = ["ipc", "uts", "pid"];

impl Wish {
    /// What options and bundle say; see the module.
    pub fn read(
        options: Option<&Any>,
        bundle: &Path,
        id: &str,
        namespace: &str,
    ) -> io::Result<Self> {
        let all = || KINDS.to_vec();
        let default_cgroup = format!("/{namespace}-{id}");
        if let Some(any) = options
            && options::type_name(any) == cri::POD_CONFIG
        {
            let config = cri::PodSandboxConfig::decode(&*any.value).map_err(io::Error::other)?;
            let mut wish = config.wish();
            if !wish.cgroup.is_empty() {
                wish.cgroup = format!("{}/{id}", wish.cgroup.trim_end_matches('/'));
            } else {
                wish.cgroup = default_cgroup;
            }
            return Ok(wish);
        }
        let spec = match std::fs::read(bundle.join("config.json")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Value::Null,
            read => serde_json::from_slice(&read?)
                .map_err(|e| io::Error::other(format!("config.json: {e}")))?,
        };
        let linux = &spec["linux"];
        let mut wish = Self {
            own: all(),
            hostname: spec["hostname"].as_str().unwrap_or_default().into(),
            cgroup: linux["cgroupsPath"].as_str().unwrap_or_default().into(),
            ..Self::default()
        };
        if wish.cgroup.is_empty() {
            wish.cgroup = default_cgroup;
        }
        for (name, value) in linux["sysctl"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default();
            wish.sysctls.insert(name.clone(), value.into());
        }
        if let Some(namespaces) = linux["namespaces"].as_array() {
            let entry = |kind: &str| namespaces.iter().find(|entry| entry["type"] == kind);
            let path = |kind| entry(kind).and_then(|entry| entry["path"].as_str());
            if let Some(kind) = KINDS.into_iter().find(|kind| path(kind).is_some()) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!(
                        "config.json: the {kind} namespace of a sandbox cannot be joined by path; \
                         leave the path out for one of its own, or the entry for the host's"
                    ),
                ));
            }
            wish.own.retain(|kind| entry(kind).is_some());
            wish.netns = path("network").unwrap_or_default().into();
        }
        Ok(wish)
    }

    pub fn owns(&self, kind: &str) -> bool {
        self.own.contains(&kind)
    }
}

/// The network namespace that a sandbox was given.
pub struct Network {
    pub path: String,
    pub file: File,
    /// Whether it can be entered: a caller may name a file that is none, and gets it held all the
    /// same.
    pub enterable: bool,
}

impl Network {
    pub fn open(path: &str) -> io::Result<Self> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("netns_path {path}: {e}"));
        let file = File::open(path).map_err(named)?;
        Ok(Self {
            path: path.into(),
            enterable: is_network_namespace(&file),
            file,
        })
    }
}

fn is_network_namespace(file: impl AsFd) -> bool {
    use std::os::fd::AsRawFd;
    // <linux/nsfs.h>: the type of namespace, as a CLONE_ flag.
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: asks for a number; no memory is passed.
    unsafe { libc::ioctl(file.as_fd().as_raw_fd(), NS_GET_NSTYPE) == libc::CLONE_NEWNET }
}

impl Sandbox {
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Whether it has ended, or never began.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Stopped
    }

    pub fn state(&self) -> &'static str {
        if self.is_ready() { READY } else { NOT_READY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(name: &str, spec: Option<&str>) -> io::Result<Wish> {
        let dir = std::env::temp_dir().join(format!("shim-wish-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        if let Some(spec) = spec {
            std::fs::write(dir.join("config.json"), spec).unwrap();
        }
        let wish = Wish::read(None, &dir, "pod", "ns");
        std::fs::remove_dir_all(dir).unwrap();
        wish
    }

    #[test]
    fn without_a_word_everything_is_its_own() {
        for (name, spec) in [("none", None), ("bare", Some(r#"{"ociVersion":"1.0.2"}"#))] {
            let wish = wish(name, spec).unwrap();
            assert_eq!(wish.own, ["ipc", "uts", "pid"]);
            assert_eq!((wish.cgroup.as_str(), wish.netns.as_str()), ("/ns-pod", ""));
        }
    }

    #[test]
    fn a_spec_says_which() {
        let spec = r#"{"hostname":"h","linux":{"cgroupsPath":"/c","sysctl":{"kernel.msgmax":"1"},
            "namespaces":[{"type":"uts"},{"type":"network","path":"/n"}]}}"#;
        let got = wish("spec", Some(spec)).unwrap();
        assert_eq!(got.own, ["uts"]);
        assert_eq!((got.hostname.as_str(), got.netns.as_str()), ("h", "/n"));
        assert_eq!(
            (got.cgroup.as_str(), got.sysctls["kernel.msgmax"].as_str()),
            ("/c", "1")
        );

        let spec = r#"{"linux":{"namespaces":[{"type":"ipc","path":"/x"}]}}"#;
        let error = wish("path", Some(spec)).unwrap_err();
        assert!(error.to_string().contains("the ipc namespace"), "{error}");
    }

    #[test]
    fn a_pod_says_which() {
        let config = cri::PodSandboxConfig {
            hostname: "web".into(),
            linux: Some(cri::Linux {
                cgroup_parent: "/pods/a/".into(),
                security_context: Some(cri::SecurityContext {
                    namespace_options: Some(cri::NamespaceOption {
                        network: cri::NODE,
                        pid: 1,
                        ipc: cri::NODE,
                    }),
                }),
                sysctls: BTreeMap::from([("kernel.shmmax".to_owned(), "5".to_owned())])
                    .into_iter()
                    .collect(),
            }),
        };
        let any = Any {
            type_url: "runtime.v1.PodSandboxConfig".into(),
            value: config.encode_to_vec(),
        };
        let wish = Wish::read(Some(&any), Path::new("/nowhere"), "pod", "k8s.io").unwrap();
        assert_eq!(wish.own, ["pid"], "a host network has the host's name");
        assert_eq!(wish.cgroup, "/pods/a/pod");
        assert_eq!(wish.sysctls["kernel.shmmax"], "5");
        assert!(wish.hostname.is_empty());
    }

    #[test]
    fn what_a_network_namespace_is() {
        assert!(Network::open("/proc/self/ns/net").unwrap().enterable);
        assert!(!Network::open("/proc/self/ns/uts").unwrap().enterable);
        assert!(!Network::open("/dev/null").unwrap().enterable);
        let error = Network::open("/no/such").err().unwrap();
        assert!(error.to_string().contains("/no/such"));
    }
}
