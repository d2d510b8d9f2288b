//! The part of CRI's pod configuration that makes a sandbox what it is (`api.proto`,
//! `PodSandboxConfig`), which containerd's CRI hands over as the options of CreateSandbox.

use std::collections::HashMap;

use super::{KINDS, Wish};

pub const POD_CONFIG: &str = "runtime.v1.PodSandboxConfig";

/// `NamespaceMode.NODE`: the host's.
pub const NODE: i32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxConfig {
    #[prost(string, tag = "2")]
    pub hostname: String,
    #[prost(message, optional, tag = "8")]
    pub linux: Option<Linux>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Linux {
    #[prost(string, tag = "1")]
    pub cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    pub security_context: Option<SecurityContext>,
    #[prost(map = "string, string", tag = "3")]
    pub sysctls: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SecurityContext {
    #[prost(message, optional, tag = "1")]
    pub namespace_options: Option<NamespaceOption>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct NamespaceOption {
    #[prost(int32, tag = "1")]
    pub network: i32,
    #[prost(int32, tag = "2")]
    pub pid: i32,
    #[prost(int32, tag = "3")]
    pub ipc: i32,
}

impl PodSandboxConfig {
    pub fn wish(self) -> Wish {
        let linux = self.linux.unwrap_or_default();
        let modes = linux
            .security_context
            .and_then(|context| context.namespace_options)
            .unwrap_or_default();
        // A pod on the host's network has the host's name, as Kubernetes has it.
        let shared = [
            ("ipc", modes.ipc),
            ("uts", modes.network),
            ("pid", modes.pid),
        ];
        let own: Vec<&'static str> = KINDS
            .into_iter()
            .filter(|kind| !shared.contains(&(kind, NODE)))
            .collect();
        Wish {
            hostname: match own.contains(&"uts") {
                true => self.hostname,
                false => String::new(),
            },
            own,
            sysctls: linux.sysctls.into_iter().collect(),
            cgroup: linux.cgroup_parent,
            netns: String::new(),
        }
    }
}
