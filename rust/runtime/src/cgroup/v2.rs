//! Limits by the files of the v2 controllers.

use std::fs;
use std::path::Path;

use super::{bpf, write};
use crate::error::{Context, Error, Result};
use crate::spec::{Rdma, Resources, ThrottleDevice};

/// Makes the directories above the container's and lets every controller through.
pub fn make_ancestors(top: &Path, path: &Path) -> Result<()> {
    let mut above: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .take_while(|p| p.starts_with(top))
        .collect();
    above.reverse();
    for directory in above {
        fs::create_dir_all(directory).context(|| format!("cgroup {}", directory.display()))?;
        let Ok(controllers) = fs::read_to_string(directory.join("cgroup.controllers")) else {
            continue;
        };
        let all: Vec<String> = controllers
            .split_whitespace()
            .map(|c| format!("+{c}"))
            .collect();
        let file = directory.join("cgroup.subtree_control");
        if fs::write(&file, all.join(" ")).is_err() {
            // One that is refused must not take the others with it; a limit that then has no file
            // is an error of its own.
            for one in all {
                let _ = fs::write(&file, one);
            }
        }
    }
    Ok(())
}

fn limit(value: i64) -> String {
    match value {
        -1 => "max".into(),
        n => n.to_string(),
    }
}

/// Shares (2 to 262144) as a weight (1 to 10000).
pub fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// A blkio weight (10 to 1000) as an io weight (1 to 10000).
fn io_weight(weight: u64) -> u64 {
    1 + (weight.clamp(10, 1000) - 10) * 9999 / 990
}

pub fn rdma(device: &str, limits: &Rdma) -> String {
    let part = |name: &str, value: Option<u32>| value.map(|v| format!(" {name}={v}"));
    let handles = part("hca_handle", limits.hca_handles).unwrap_or_default();
    let objects = part("hca_object", limits.hca_objects).unwrap_or_default();
    format!("{device}{handles}{objects}")
}

pub fn set(path: &Path, resources: &Resources) -> Result<()> {
    check_memory(path, resources)?;
    for (file, value, field) in settings(path, resources)? {
        write(path, &file, &value, field)?;
    }
    if !resources.devices.is_empty() {
        bpf::attach(path, &super::v1::with_defaults(&resources.devices))?;
    }
    Ok(())
}

/// The kernel would kill for a limit below what is used; a caller may ask for a refusal instead.
fn check_memory(path: &Path, resources: &Resources) -> Result<()> {
    let Some(m) = resources.memory.as_ref() else {
        return Ok(());
    };
    let Some(limit) = m
        .limit
        .filter(|l| *l > 0 && m.check_before_update == Some(true))
    else {
        return Ok(());
    };
    let used = fs::read_to_string(path.join("memory.current")).ok();
    match used.and_then(|text| text.trim().parse::<i64>().ok()) {
        Some(used) if used > limit => Err(Error::failed(format!(
            "rejecting memory limit {limit}: usage is {used}"
        ))),
        _ => Ok(()),
    }
}

type Setting = (String, String, &'static str);

fn settings(path: &Path, resources: &Resources) -> Result<Vec<Setting>> {
    let mut list: Vec<Setting> = Vec::new();
    let mut add = |file: &str, value: String, field| list.push((file.into(), value, field));
    if let Some(m) = &resources.memory {
        let swap = match (m.swap, m.limit) {
            (None | Some(0), _) => None,
            (Some(-1), _) => Some("max".to_owned()),
            (Some(swap), Some(limit)) if limit > 0 && swap >= limit => {
                Some((swap - limit).to_string())
            }
            (Some(swap), _) => {
                return Err(Error::invalid(format!(
                    "linux.resources.memory.swap {swap} is memory and swap together: \
                     it needs a limit that is not larger"
                )));
            }
        };
        if let Some(swap) = swap {
            add("memory.swap.max", swap, "memory.swap");
        }
        if let Some(value) = m.limit.filter(|v| *v != 0) {
            add("memory.max", limit(value), "memory.limit");
        }
        if let Some(value) = m.reservation.filter(|v| *v != 0) {
            add("memory.low", limit(value), "memory.reservation");
        }
        if m.swappiness.is_some() {
            crate::log::warning("linux.resources.memory.swappiness: cgroup v2 has no such file");
        }
        if m.disable_oom_killer == Some(true) {
            return Err(Error::invalid(
                "linux.resources.memory.disableOOMKiller: cgroup v2 cannot",
            ));
        }
    }
    if let Some(c) = &resources.cpu {
        if c.realtime_runtime.is_some() || c.realtime_period.is_some() {
            return Err(Error::invalid(
                "linux.resources.cpu.realtimeRuntime and realtimePeriod: cgroup v2 has none",
            ));
        }
        if let Some(idle) = c.idle {
            add("cpu.idle", idle.to_string(), "cpu.idle");
        }
        if let Some(shares) = c.shares.filter(|s| *s != 0) {
            add("cpu.weight", cpu_weight(shares).to_string(), "cpu.shares");
        }
        if c.quota.is_some() || c.period.is_some() {
            let quota = match c.quota {
                Some(q) if q > 0 => q.to_string(),
                _ => "max".into(),
            };
            let period = c.period.filter(|p| *p != 0).unwrap_or(100_000);
            add("cpu.max", format!("{quota} {period}"), "cpu.quota");
        }
        if let Some(burst) = c.burst {
            add("cpu.max.burst", burst.to_string(), "cpu.burst");
        }
        if !c.cpus.is_empty() {
            add("cpuset.cpus", c.cpus.clone(), "cpu.cpus");
        }
        if !c.mems.is_empty() {
            add("cpuset.mems", c.mems.clone(), "cpu.mems");
        }
    }
    if let Some(value) = resources.pids.as_ref().and_then(|p| p.limit) {
        add(
            "pids.max",
            limit(if value > 0 { value } else { -1 }),
            "pids.limit",
        );
    }
    if let Some(b) = &resources.block_io {
        let bfq = path.join("io.bfq.weight").exists();
        if let Some(weight) = b.weight.filter(|w| *w != 0) {
            match bfq {
                true => add("io.bfq.weight", weight.to_string(), "blockIO.weight"),
                false => {
                    let weight = io_weight(weight.into());
                    add("io.weight", format!("default {weight}"), "blockIO.weight");
                }
            }
        }
        for d in &b.weight_device {
            if let Some(weight) = d.weight.filter(|w| *w != 0) {
                let (file, weight) = match bfq {
                    true => ("io.bfq.weight", u64::from(weight)),
                    false => ("io.weight", io_weight(weight.into())),
                };
                let text = format!("{}:{} {weight}", d.major, d.minor);
                add(file, text, "blockIO.weightDevice");
            }
        }
        if b.leaf_weight.is_some_and(|w| w != 0) {
            return Err(Error::invalid(
                "linux.resources.blockIO.leafWeight: cgroup v2 has none",
            ));
        }
        let throttles: [(&[ThrottleDevice], &str); 4] = [
            (&b.throttle_read_bps_device, "rbps"),
            (&b.throttle_write_bps_device, "wbps"),
            (&b.throttle_read_iops_device, "riops"),
            (&b.throttle_write_iops_device, "wiops"),
        ];
        for (devices, key) in throttles {
            for d in devices {
                let text = format!("{}:{} {key}={}", d.major, d.minor, d.rate);
                add("io.max", text, "blockIO.throttle");
            }
        }
    }
    for page in &resources.hugepage_limits {
        let value = page.limit.to_string();
        add(
            &format!("hugetlb.{}.max", page.page_size),
            value.clone(),
            "hugepageLimits",
        );
        let reserved = format!("hugetlb.{}.rsvd.max", page.page_size);
        if path.join(&reserved).exists() {
            add(&reserved, value, "hugepageLimits");
        }
    }
    if resources.network.is_some() {
        return Err(Error::invalid(
            "linux.resources.network: net_cls and net_prio are of cgroup v1; this host has v2",
        ));
    }
    for (device, limits) in &resources.rdma {
        add("rdma.max", rdma(device, limits), "rdma");
    }
    for (file, value) in &resources.unified {
        if file.is_empty() || file.contains('/') {
            return Err(Error::invalid(format!(
                "linux.resources.unified: {file:?} is no file"
            )));
        }
        add(file, value.clone(), "unified");
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_of(text: &str) -> Vec<(String, String)> {
        let resources = serde_json::from_str(text).unwrap();
        let list = settings(Path::new("/nowhere"), &resources).unwrap();
        list.into_iter()
            .map(|(file, value, _)| (file, value))
            .collect()
    }

    fn has(text: &str, file: &str, value: &str) {
        assert!(
            set_of(text).contains(&(file.into(), value.into())),
            "{:?}",
            set_of(text)
        );
    }

    #[test]
    fn limits_in_the_terms_of_v2() {
        has(r#"{"cpu":{"shares":1024}}"#, "cpu.weight", "39");
        has(r#"{"cpu":{"quota":50000}}"#, "cpu.max", "50000 100000");
        has(
            r#"{"cpu":{"period":1000,"quota":-1}}"#,
            "cpu.max",
            "max 1000",
        );
        has(
            r#"{"memory":{"limit":100,"swap":150}}"#,
            "memory.swap.max",
            "50",
        );
        has(r#"{"memory":{"limit":-1,"swap":-1}}"#, "memory.max", "max");
        has(r#"{"pids":{"limit":7}}"#, "pids.max", "7");
        has(
            r#"{"blockIO":{"weight":1000}}"#,
            "io.weight",
            "default 10000",
        );
        has(
            r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":9}]}}"#,
            "io.max",
            "8:0 rbps=9",
        );
        has(r#"{"unified":{"memory.high":"5"}}"#, "memory.high", "5");
    }

    #[test]
    fn what_v2_cannot_is_refused() {
        for text in [
            r#"{"memory":{"disableOOMKiller":true}}"#,
            r#"{"cpu":{"realtimePeriod":5}}"#,
            r#"{"network":{"classID":5}}"#,
            r#"{"unified":{"../x":"5"}}"#,
            r#"{"memory":{"swap":5}}"#,
        ] {
            let resources = serde_json::from_str(text).unwrap();
            assert!(
                settings(Path::new("/nowhere"), &resources).is_err(),
                "{text}"
            );
        }
    }
}
