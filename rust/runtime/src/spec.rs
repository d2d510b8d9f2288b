//! `config.json`: the OCI runtime specification 1.2 (and what 1.3 added) for Linux.
//!
//! Fields keep the specification's names. What is not served here is still read, so that
//! [`crate::validate`] can refuse it by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Go writes absent lists and maps as null.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

macro_rules! spec {
    ($($(#[$meta:meta])* $name:ident { $($(#[$fm:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name { $(
            $(#[$fm])*
            #[serde(deserialize_with = "or_default")]
            pub $field: $type,
        )* }
    )*};
}

spec! {
    Spec {
        oci_version: String,
        process: Option<Process>,
        root: Option<Root>,
        hostname: String,
        domainname: String,
        mounts: Vec<Mount>,
        hooks: Hooks,
        annotations: BTreeMap<String, String>,
        linux: Linux,
        solaris: Option<Value>,
        windows: Option<Value>,
        vm: Option<Value>,
        zos: Option<Value>,
    }
    Root { path: String, readonly: bool, }
    Process {
        terminal: bool,
        console_size: Option<Box2>,
        user: User,
        args: Vec<String>,
        env: Vec<String>,
        cwd: String,
        capabilities: Option<Capabilities>,
        rlimits: Vec<Rlimit>,
        no_new_privileges: bool,
        apparmor_profile: String,
        oom_score_adj: Option<i32>,
        scheduler: Option<Scheduler>,
        selinux_label: String,
        io_priority: Option<IoPriority>,
        #[serde(rename = "execCPUAffinity")]
        exec_cpu_affinity: Option<CpuAffinity>,
    }
    /// Rows and columns of a terminal.
    Box2 { height: u32, width: u32, }
    User {
        uid: u32,
        gid: u32,
        umask: Option<u32>,
        additional_gids: Vec<u32>,
    }
    Capabilities {
        bounding: Vec<String>,
        effective: Vec<String>,
        inheritable: Vec<String>,
        permitted: Vec<String>,
        ambient: Vec<String>,
    }
    Rlimit { #[serde(rename = "type")] kind: String, hard: u64, soft: u64, }
    Scheduler {
        policy: String,
        nice: i32,
        priority: i32,
        flags: Vec<String>,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    IoPriority { class: String, priority: i32, }
    CpuAffinity { initial: String, #[serde(rename = "final")] last: String, }
    Mount {
        destination: String,
        #[serde(rename = "type")]
        kind: String,
        source: String,
        options: Vec<String>,
        uid_mappings: Vec<IdMapping>,
        gid_mappings: Vec<IdMapping>,
    }
    Hook {
        path: String,
        args: Vec<String>,
        env: Vec<String>,
        timeout: Option<i64>,
    }
    Hooks {
        prestart: Vec<Hook>,
        create_runtime: Vec<Hook>,
        create_container: Vec<Hook>,
        start_container: Vec<Hook>,
        poststart: Vec<Hook>,
        poststop: Vec<Hook>,
    }
    Linux {
        uid_mappings: Vec<IdMapping>,
        gid_mappings: Vec<IdMapping>,
        sysctl: BTreeMap<String, String>,
        resources: Option<Resources>,
        cgroups_path: String,
        namespaces: Vec<Namespace>,
        devices: Vec<Device>,
        net_devices: BTreeMap<String, NetDevice>,
        seccomp: Option<Seccomp>,
        rootfs_propagation: String,
        masked_paths: Vec<String>,
        readonly_paths: Vec<String>,
        mount_label: String,
        intel_rdt: Option<IntelRdt>,
        memory_policy: Option<MemoryPolicy>,
        personality: Option<Personality>,
        time_offsets: BTreeMap<String, TimeOffset>,
    }
    #[derive(PartialEq, Eq)]
    IdMapping {
        #[serde(rename = "containerID")]
        container_id: u32,
        #[serde(rename = "hostID")]
        host_id: u32,
        size: u32,
    }
    Namespace { #[serde(rename = "type")] kind: String, path: String, }
    Device {
        path: String,
        #[serde(rename = "type")]
        kind: String,
        major: i64,
        minor: i64,
        file_mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
    }
    NetDevice { name: String, }
    IntelRdt {
        #[serde(rename = "closID")]
        clos_id: String,
        l3_cache_schema: String,
        mem_bw_schema: String,
        schemata: Vec<String>,
        enable_monitoring: bool,
    }
    MemoryPolicy { mode: String, nodes: String, flags: Vec<String>, }
    Personality { domain: String, flags: Vec<String>, }
    TimeOffset { secs: i64, nanosecs: u32, }
    Seccomp {
        default_action: String,
        default_errno_ret: Option<u32>,
        architectures: Vec<String>,
        flags: Vec<String>,
        listener_path: String,
        listener_metadata: String,
        syscalls: Vec<Syscall>,
    }
    Syscall {
        names: Vec<String>,
        action: String,
        errno_ret: Option<u32>,
        args: Vec<SyscallArg>,
    }
    SyscallArg { index: u32, value: u64, value_two: u64, op: String, }
    Resources {
        devices: Vec<DeviceRule>,
        memory: Option<Memory>,
        cpu: Option<Cpu>,
        pids: Option<Pids>,
        #[serde(rename = "blockIO")]
        block_io: Option<BlockIo>,
        hugepage_limits: Vec<HugepageLimit>,
        network: Option<Network>,
        rdma: BTreeMap<String, Rdma>,
        unified: BTreeMap<String, String>,
    }
    DeviceRule {
        allow: bool,
        #[serde(rename = "type")]
        kind: String,
        major: Option<i64>,
        minor: Option<i64>,
        access: String,
    }
    Memory {
        limit: Option<i64>,
        reservation: Option<i64>,
        swap: Option<i64>,
        kernel: Option<i64>,
        #[serde(rename = "kernelTCP")]
        kernel_tcp: Option<i64>,
        swappiness: Option<u64>,
        #[serde(rename = "disableOOMKiller")]
        disable_oom_killer: Option<bool>,
        use_hierarchy: Option<bool>,
        check_before_update: Option<bool>,
    }
    Cpu {
        shares: Option<u64>,
        quota: Option<i64>,
        burst: Option<u64>,
        period: Option<u64>,
        realtime_runtime: Option<i64>,
        realtime_period: Option<u64>,
        cpus: String,
        mems: String,
        idle: Option<i64>,
    }
    Pids { limit: Option<i64>, }
    BlockIo {
        weight: Option<u16>,
        leaf_weight: Option<u16>,
        weight_device: Vec<WeightDevice>,
        throttle_read_bps_device: Vec<ThrottleDevice>,
        throttle_write_bps_device: Vec<ThrottleDevice>,
        #[serde(rename = "throttleReadIOPSDevice")]
        throttle_read_iops_device: Vec<ThrottleDevice>,
        #[serde(rename = "throttleWriteIOPSDevice")]
        throttle_write_iops_device: Vec<ThrottleDevice>,
    }
    WeightDevice { major: i64, minor: i64, weight: Option<u16>, leaf_weight: Option<u16>, }
    ThrottleDevice { major: i64, minor: i64, rate: u64, }
    HugepageLimit { page_size: String, limit: u64, }
    Network {
        #[serde(rename = "classID")]
        class_id: Option<u32>,
        priorities: Vec<InterfacePriority>,
    }
    InterfacePriority { name: String, priority: u32, }
    Rdma { hca_handles: Option<u32>, hca_objects: Option<u32>, }
}

/// The kinds of namespaces with their clone flags and names below `/proc/PID/ns`.
pub const NAMESPACES: [(&str, u64, &str); 8] = [
    ("user", libc::CLONE_NEWUSER as u64, "user"),
    ("mount", libc::CLONE_NEWNS as u64, "mnt"),
    ("uts", libc::CLONE_NEWUTS as u64, "uts"),
    ("ipc", libc::CLONE_NEWIPC as u64, "ipc"),
    ("pid", libc::CLONE_NEWPID as u64, "pid"),
    ("network", libc::CLONE_NEWNET as u64, "net"),
    ("cgroup", libc::CLONE_NEWCGROUP as u64, "cgroup"),
    ("time", crate::sys::CLONE_NEWTIME, "time"),
];

impl Linux {
    pub fn namespace(&self, kind: &str) -> Option<&Namespace> {
        self.namespaces.iter().find(|n| n.kind == kind)
    }

    /// Whether a namespace of this kind is made for the container.
    pub fn makes(&self, kind: &str) -> bool {
        self.namespace(kind).is_some_and(|n| n.path.is_empty())
    }
}

impl Spec {
    pub fn parse(text: &[u8]) -> crate::error::Result<Self> {
        serde_json::from_slice(text)
            .map_err(|e| crate::error::Error::invalid(format!("config.json: {e}")))
    }
}
