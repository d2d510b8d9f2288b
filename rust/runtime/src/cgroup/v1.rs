//! Limits by the files of the v1 controllers.

use std::fs;
use std::path::Path;

use super::{Hierarchy, write};
use crate::error::{Class, Context, Error, Result};
use crate::spec::{Cpu, DeviceRule, Memory, Resources, ThrottleDevice};

/// A cpuset without processors and memory takes nobody: gets what is above it, from the top down.
pub fn fill_cpuset(top: &Path, path: &Path) -> Result<()> {
    if path == top {
        return Ok(());
    }
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    let empty = |file: &str| {
        let text = fs::read_to_string(path.join(file));
        text.is_ok_and(|text| text.trim().is_empty())
    };
    if !empty("cpuset.cpus") && !empty("cpuset.mems") {
        return Ok(());
    }
    fill_cpuset(top, parent)?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if empty(file) {
            let value = fs::read_to_string(parent.join(file))
                .context(|| parent.join(file).display().to_string())?;
            write(path, file, value.trim(), "cpu")?;
        }
    }
    Ok(())
}

struct Set<'a>(&'a [Hierarchy]);

impl Set<'_> {
    fn path(&self, controller: &str, field: &str) -> Result<&Path> {
        let found = self.0.iter().find(|h| h.has(controller));
        found.map(|h| h.path.as_path()).ok_or_else(|| {
            Error::new(
                Class::Unimplemented,
                format!("linux.resources.{field}: this host has no {controller} cgroup"),
            )
        })
    }

    fn write<V: ToString>(
        &self,
        controller: &str,
        file: &str,
        value: Option<V>,
        field: &str,
    ) -> Result<()> {
        match value {
            Some(value) => write(
                self.path(controller, field)?,
                file,
                &value.to_string(),
                field,
            ),
            None => Ok(()),
        }
    }
}

pub fn set(hierarchies: &[Hierarchy], resources: &Resources) -> Result<()> {
    let set = Set(hierarchies);
    if !resources.unified.is_empty() {
        return Err(Error::invalid(
            "linux.resources.unified: this host's cgroups are v1; unified is for v2",
        ));
    }
    if !resources.devices.is_empty() {
        let path = set.path("devices", "devices")?;
        for rule in with_defaults(&resources.devices) {
            let file = if rule.allow {
                "devices.allow"
            } else {
                "devices.deny"
            };
            write(path, file, &device_rule(&rule)?, "devices")?;
        }
    }
    if let Some(m) = &resources.memory {
        memory(&set, m)?;
    }
    if let Some(c) = &resources.cpu {
        cpu(&set, c)?;
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|p| p.limit) {
        let value = if limit > 0 {
            limit.to_string()
        } else {
            "max".into()
        };
        set.write("pids", "pids.max", Some(value), "pids.limit")?;
    }
    if let Some(b) = &resources.block_io {
        let path = || set.path("blkio", "blockIO");
        let weight_file = |leaf: &str, device: &str| -> Result<String> {
            let bfq = format!("blkio.bfq.{leaf}weight{device}");
            Ok(match path()?.join(&bfq).exists() {
                true => bfq,
                false => format!("blkio.{leaf}weight{device}"),
            })
        };
        for (value, leaf) in [(b.weight, ""), (b.leaf_weight, "leaf_")] {
            if let Some(value) = value.filter(|v| *v != 0) {
                write(
                    path()?,
                    &weight_file(leaf, "")?,
                    &value.to_string(),
                    "blockIO.weight",
                )?;
            }
        }
        for device in &b.weight_device {
            for (value, leaf) in [(device.weight, ""), (device.leaf_weight, "leaf_")] {
                if let Some(value) = value.filter(|v| *v != 0) {
                    let text = format!("{}:{} {value}", device.major, device.minor);
                    let file = weight_file(leaf, "_device")?;
                    write(path()?, &file, &text, "blockIO.weightDevice")?;
                }
            }
        }
        let throttles: [(&[ThrottleDevice], &str); 4] = [
            (&b.throttle_read_bps_device, "read_bps"),
            (&b.throttle_write_bps_device, "write_bps"),
            (&b.throttle_read_iops_device, "read_iops"),
            (&b.throttle_write_iops_device, "write_iops"),
        ];
        for (devices, name) in throttles {
            for device in devices {
                let text = format!("{}:{} {}", device.major, device.minor, device.rate);
                let file = format!("blkio.throttle.{name}_device");
                write(path()?, &file, &text, "blockIO.throttle")?;
            }
        }
    }
    for page in &resources.hugepage_limits {
        let file = format!("hugetlb.{}.limit_in_bytes", page.page_size);
        set.write("hugetlb", &file, Some(page.limit), "hugepageLimits")?;
        let reserved = format!("hugetlb.{}.rsvd.limit_in_bytes", page.page_size);
        if set
            .path("hugetlb", "hugepageLimits")?
            .join(&reserved)
            .exists()
        {
            set.write("hugetlb", &reserved, Some(page.limit), "hugepageLimits")?;
        }
    }
    if let Some(network) = &resources.network {
        let id = network.class_id.filter(|id| *id != 0);
        set.write("net_cls", "net_cls.classid", id, "network.classID")?;
        for p in &network.priorities {
            let text = Some(format!("{} {}", p.name, p.priority));
            set.write("net_prio", "net_prio.ifpriomap", text, "network.priorities")?;
        }
    }
    for (device, limits) in &resources.rdma {
        let text = super::v2::rdma(device, limits);
        set.write("rdma", "rdma.max", Some(text), "rdma")?;
    }
    Ok(())
}

fn memory(set: &Set<'_>, m: &Memory) -> Result<()> {
    const LIMIT: &str = "memory.limit_in_bytes";
    const SWAP: &str = "memory.memsw.limit_in_bytes";
    let write = |file: &str, value: Option<i64>, field: &str| {
        set.write("memory", file, value.filter(|v| *v != 0), field)
    };
    if m.check_before_update == Some(true)
        && let Some(limit) = m.limit.filter(|l| *l > 0)
    {
        let path = set
            .path("memory", "memory.limit")?
            .join("memory.usage_in_bytes");
        let used = fs::read_to_string(path)
            .ok()
            .and_then(|t| t.trim().parse::<i64>().ok());
        if used.is_some_and(|used| used > limit) {
            return Err(Error::failed(format!(
                "rejecting memory limit {limit}: usage is {}",
                used.unwrap_or_default()
            )));
        }
    }
    // An unlimited memory wants an unlimited sum first; any limit must stay below the sum.
    let swap = match (m.limit, m.swap) {
        (Some(-1), None | Some(0)) => {
            let path = set.path("memory", "memory.limit")?;
            path.join(SWAP).exists().then_some(-1)
        }
        (_, swap) => swap,
    };
    match write(LIMIT, m.limit, "memory.limit") {
        Err(_) if swap.is_some_and(|s| s != 0) => {
            write(SWAP, swap, "memory.swap")?;
            write(LIMIT, m.limit, "memory.limit")?;
        }
        result => {
            result?;
            write(SWAP, swap, "memory.swap")?;
        }
    }
    write(
        "memory.soft_limit_in_bytes",
        m.reservation,
        "memory.reservation",
    )?;
    if m.kernel.is_some_and(|k| k != 0) {
        crate::log::warning("linux.resources.memory.kernel: the kernel has no such limit any more");
    }
    write(
        "memory.kmem.tcp.limit_in_bytes",
        m.kernel_tcp,
        "memory.kernelTCP",
    )?;
    set.write(
        "memory",
        "memory.swappiness",
        m.swappiness,
        "memory.swappiness",
    )?;
    let disable = m.disable_oom_killer.filter(|d| *d).map(|_| 1);
    set.write(
        "memory",
        "memory.oom_control",
        disable,
        "memory.disableOOMKiller",
    )?;
    let hierarchy = m.use_hierarchy.filter(|u| *u).map(|_| 1);
    set.write(
        "memory",
        "memory.use_hierarchy",
        hierarchy,
        "memory.useHierarchy",
    )
}

fn cpu(set: &Set<'_>, c: &Cpu) -> Result<()> {
    let write = |file: &str, value: Option<i64>, field: &str| {
        set.write("cpu", file, value.filter(|v| *v != 0), field)
    };
    let signed = |value: Option<u64>| value.and_then(|v| i64::try_from(v).ok());
    write("cpu.shares", signed(c.shares), "cpu.shares")?;
    let period = || write("cpu.cfs_period_us", signed(c.period), "cpu.period");
    let quota = || write("cpu.cfs_quota_us", c.quota, "cpu.quota");
    if c.burst.is_some() {
        // The old burst may be more than a new quota allows.
        write_zero_burst(set)?;
    }
    // A shorter period may be refused until the quota is smaller too.
    if period().is_err() {
        quota()?;
        period()?;
    }
    quota()?;
    write("cpu.cfs_burst_us", signed(c.burst), "cpu.burst")?;
    write(
        "cpu.rt_period_us",
        signed(c.realtime_period),
        "cpu.realtimePeriod",
    )?;
    write(
        "cpu.rt_runtime_us",
        c.realtime_runtime,
        "cpu.realtimeRuntime",
    )?;
    set.write("cpu", "cpu.idle", c.idle, "cpu.idle")?;
    let list = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    set.write("cpuset", "cpuset.cpus", list(&c.cpus), "cpu.cpus")?;
    set.write("cpuset", "cpuset.mems", list(&c.mems), "cpu.mems")
}

fn write_zero_burst(set: &Set<'_>) -> Result<()> {
    set.write("cpu", "cpu.cfs_burst_us", Some(0), "cpu.burst")
}

/// What every container may have: to make nodes of any device, and the harmless ones.
pub fn with_defaults(rules: &[DeviceRule]) -> Vec<DeviceRule> {
    const DEFAULTS: [(&str, Option<i64>, Option<i64>, &str); 11] = [
        ("c", None, None, "m"),
        ("b", None, None, "m"),
        ("c", Some(1), Some(3), "rwm"),
        ("c", Some(1), Some(8), "rwm"),
        ("c", Some(1), Some(7), "rwm"),
        ("c", Some(5), Some(0), "rwm"),
        ("c", Some(1), Some(5), "rwm"),
        ("c", Some(1), Some(9), "rwm"),
        ("c", Some(136), None, "rwm"),
        ("c", Some(5), Some(2), "rwm"),
        ("c", Some(5), Some(1), "rwm"),
    ];
    let defaults = DEFAULTS.map(|(kind, major, minor, access)| DeviceRule {
        allow: true,
        kind: kind.into(),
        major,
        minor,
        access: access.into(),
    });
    rules.iter().cloned().chain(defaults).collect()
}

pub fn is_wildcard(rule: &DeviceRule) -> bool {
    matches!(rule.kind.as_str(), "" | "a")
}

fn device_rule(rule: &DeviceRule) -> Result<String> {
    if is_wildcard(rule) {
        // The kernel knows no narrower one.
        return Ok("a".into());
    }
    if !matches!(rule.kind.as_str(), "b" | "c") {
        return Err(Error::invalid(format!(
            "linux.resources.devices: unknown type {:?}",
            rule.kind
        )));
    }
    let number = |n: Option<i64>| match n {
        Some(n) if n >= 0 => n.to_string(),
        _ => "*".into(),
    };
    let access = if rule.access.is_empty() {
        "rwm"
    } else {
        &rule.access
    };
    Ok(format!(
        "{} {}:{} {access}",
        rule.kind,
        number(rule.major),
        number(rule.minor)
    ))
}
