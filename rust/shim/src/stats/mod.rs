//! Resource statistics of a cgroup, as containerd's clients decode them.

pub mod files;
mod v1;
mod v2;

use std::path::Path;

use prost::Message;
use prost_types::Any;

use crate::cgroup::Cgroup;

/// Reads what there is; what the kernel does not offer is zero or absent, as in containerd.
pub fn read(cgroup: &Cgroup) -> Any {
    match cgroup {
        Cgroup::V1(controllers) => Any {
            type_url: "io.containerd.cgroups.v1.Metrics".into(),
            value: v1::read(controllers, Path::new("/proc/partitions")).encode_to_vec(),
        },
        Cgroup::V2(path) => Any {
            type_url: "io.containerd.cgroups.v2.Metrics".into(),
            value: v2::read(path).encode_to_vec(),
        },
    }
}
