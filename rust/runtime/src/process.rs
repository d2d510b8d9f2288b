//! From the specification's process to what the new process does with it.

use std::ffi::CString;

use crate::capabilities;
use crate::error::{Error, Result};
use crate::mounts::c_string;
use crate::plan;
use crate::seccomp;
use crate::spec::{Capabilities, Process, Seccomp};
use crate::sys::SchedAttr;

const RLIMITS: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

pub fn rlimit_name(number: u32) -> &'static str {
    RLIMITS.get(number as usize).copied().unwrap_or("RLIMIT_?")
}

/// Checks and prepares everything of a process but its streams.
pub fn plan(process: &Process, filter: Option<&Seccomp>) -> Result<plan::Process> {
    let Some(program) = process.args.first().filter(|name| !name.is_empty()) else {
        return Err(Error::invalid("process.args must not be empty"));
    };
    if process.cwd.is_empty() {
        return Err(Error::invalid("Cwd property must not be empty"));
    }
    if !process.cwd.starts_with('/') {
        return Err(Error::invalid("Cwd must be an absolute path"));
    }
    let none = Capabilities::default();
    let (sets, unknown) = capabilities::sets(process.capabilities.as_ref().unwrap_or(&none));
    if !unknown.is_empty() {
        crate::log::warning(&format!(
            "ignoring unknown or unavailable capabilities: {unknown:?}"
        ));
    }
    let (candidates, searched) = candidates(program, &process.env)?;
    let groups = process.user.additional_gids.clone();
    Ok(plan::Process {
        args: strings(&process.args)?,
        env: environment(&process.env)?,
        wants_home: !process
            .env
            .iter()
            .any(|e| e.starts_with("HOME=") && e != "HOME="),
        candidates,
        searched,
        cwd: c_string(&process.cwd)?,
        uid: process.user.uid,
        gid: process.user.gid,
        groups,
        keep_groups: false,
        umask: process.user.umask,
        capabilities: Some(sets),
        no_new_privileges: process.no_new_privileges,
        rlimits: rlimits(process)?,
        oom_score_adj: process.oom_score_adj,
        clamp_oom_score_adj: false,
        scheduler: scheduler(process)?,
        io_priority: io_priority(process)?,
        affinity: None,
        last_affinity: None,
        personality: None,
        memory_policy: None,
        seccomp: filter.map(seccomp::compile).transpose()?,
        listener: None,
        labels: labels(process)?,
        stdio: [None, None, None],
        preserve_fds: 0,
        terminal: process.terminal.then(|| {
            let size = process.console_size.clone().unwrap_or_default();
            plan::Terminal {
                rows: size.height as u16,
                columns: size.width as u16,
            }
        }),
    })
}

fn strings(list: &[String]) -> Result<Vec<CString>> {
    list.iter().map(|s| c_string(s)).collect()
}

/// The last of equal names counts, as execve's programs disagree about it.
fn environment(env: &[String]) -> Result<Vec<CString>> {
    let mut kept: Vec<&String> = Vec::with_capacity(env.len());
    for (index, entry) in env.iter().enumerate() {
        let Some((name, _)) = entry.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Error::invalid(format!(
                "invalid environment variable {entry:?}: it is NAME=value"
            )));
        };
        let again = |later: &String| later.split_once('=').is_some_and(|(n, _)| n == name);
        if entry != "HOME=" && !env[index + 1..].iter().any(again) {
            kept.push(entry);
        }
    }
    kept.into_iter().map(|s| c_string(s)).collect()
}

fn candidates(program: &str, env: &[String]) -> Result<(Vec<CString>, bool)> {
    if program.contains('/') {
        return Ok((vec![c_string(program)?], false));
    }
    let path = env
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or_default();
    let list: Result<Vec<_>> = path
        .split(':')
        // What is relative would depend on the working directory.
        .filter(|directory| directory.starts_with('/'))
        .map(|directory| c_string(&format!("{}/{program}", directory.trim_end_matches('/'))))
        .collect();
    Ok((list?, true))
}

pub fn rlimits(process: &Process) -> Result<Vec<(u32, u64, u64)>> {
    let mut list: Vec<(u32, u64, u64)> = Vec::new();
    for limit in &process.rlimits {
        let Some(number) = RLIMITS.iter().position(|name| *name == limit.kind) else {
            return Err(Error::invalid(format!(
                "process.rlimits: unknown {:?}",
                limit.kind
            )));
        };
        let number = number as u32;
        if list.iter().any(|known| known.0 == number) {
            return Err(Error::invalid(format!(
                "process.rlimits: {} twice",
                limit.kind
            )));
        }
        list.push((number, limit.soft, limit.hard));
    }
    Ok(list)
}

fn scheduler(process: &Process) -> Result<Option<SchedAttr>> {
    let Some(spec) = &process.scheduler else {
        return Ok(None);
    };
    const POLICIES: [(&str, u32); 7] = [
        ("SCHED_OTHER", 0),
        ("SCHED_FIFO", 1),
        ("SCHED_RR", 2),
        ("SCHED_BATCH", 3),
        ("SCHED_ISO", 4),
        ("SCHED_IDLE", 5),
        ("SCHED_DEADLINE", 6),
    ];
    const FLAGS: [(&str, u64); 7] = [
        ("SCHED_FLAG_RESET_ON_FORK", 0x01),
        ("SCHED_FLAG_RECLAIM", 0x02),
        ("SCHED_FLAG_DL_OVERRUN", 0x04),
        ("SCHED_FLAG_KEEP_POLICY", 0x08),
        ("SCHED_FLAG_KEEP_PARAMS", 0x10),
        ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
        ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
    ];
    let policy = number_of(&POLICIES, &spec.policy, "process.scheduler.policy")?;
    let mut flags = 0;
    for name in &spec.flags {
        flags |= number_of(&FLAGS, name, "process.scheduler.flags")?;
    }
    Ok(Some(SchedAttr {
        size: std::mem::size_of::<SchedAttr>() as u32,
        policy,
        flags,
        nice: spec.nice,
        priority: spec.priority as u32,
        runtime: spec.runtime,
        deadline: spec.deadline,
        period: spec.period,
    }))
}

fn number_of<N: Copy>(table: &[(&str, N)], name: &str, field: &str) -> Result<N> {
    table
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
        .ok_or_else(|| Error::invalid(format!("{field}: unknown {name:?}")))
}

fn io_priority(process: &Process) -> Result<Option<u32>> {
    let Some(spec) = &process.io_priority else {
        return Ok(None);
    };
    const CLASSES: [(&str, u32); 3] = [
        ("IOPRIO_CLASS_RT", 1),
        ("IOPRIO_CLASS_BE", 2),
        ("IOPRIO_CLASS_IDLE", 3),
    ];
    let class = number_of(&CLASSES, &spec.class, "process.ioPriority.class")?;
    if !(0..8).contains(&spec.priority) {
        return Err(Error::invalid(format!(
            "process.ioPriority.priority: {} (it is 0 to 7)",
            spec.priority
        )));
    }
    Ok(Some(class << 13 | spec.priority as u32))
}

/// A list like `0-3,8` as a mask of words.
pub fn cpu_mask(list: &str, field: &str) -> Result<Option<Vec<u64>>> {
    if list.is_empty() {
        return Ok(None);
    }
    const MOST: usize = 8192;
    let bad = || Error::invalid(format!("{field}: {list:?} is no list of numbers"));
    let mut mask = vec![0_u64; 2];
    for part in list.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let from: usize = from.trim().parse().map_err(|_| bad())?;
        let to: usize = to.trim().parse().map_err(|_| bad())?;
        if from > to || to >= MOST {
            return Err(bad());
        }
        mask.resize(mask.len().max(to / 64 + 1), 0);
        for cpu in from..=to {
            mask[cpu / 64] |= 1 << (cpu % 64);
        }
    }
    Ok(Some(mask))
}

fn labels(process: &Process) -> Result<Vec<(CString, Vec<u8>)>> {
    let mut labels = Vec::new();
    if !process.apparmor_profile.is_empty() {
        let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled");
        if !enabled.is_ok_and(|text| text.starts_with(b"Y")) {
            return Err(Error::new(
                crate::error::Class::Unimplemented,
                format!(
                    "apparmor: unable to apply profile {}: AppArmor is not enabled on this host",
                    process.apparmor_profile
                ),
            ));
        }
        let path = match crate::sys::stat(c"/proc/thread-self/attr/apparmor/exec") {
            Ok(_) => c"thread-self/attr/apparmor/exec",
            Err(_) => c"thread-self/attr/exec",
        };
        let text = format!("exec {}", process.apparmor_profile);
        labels.push((path.to_owned(), text.into_bytes()));
    }
    if !process.selinux_label.is_empty() {
        if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
            return Err(Error::new(
                crate::error::Class::Unimplemented,
                "process.selinuxLabel is set, but SELinux is disabled or not supported on this host",
            ));
        }
        let path = c"thread-self/attr/exec".to_owned();
        labels.push((path, process.selinux_label.clone().into_bytes()));
    }
    Ok(labels)
}

/// The persona of `linux.personality`.
fn personality(spec: &crate::spec::Personality) -> Result<u64> {
    if !spec.flags.is_empty() {
        return Err(Error::invalid(format!(
            "linux.personality.flags {:?}: the specification knows none",
            spec.flags
        )));
    }
    match spec.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(Error::invalid(format!(
            "linux.personality.domain: unknown {other:?}"
        ))),
    }
}

pub const MEMORY_POLICIES: [(&str, u32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];
pub const MEMORY_POLICY_FLAGS: [(&str, u32); 3] = [
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ("MPOL_F_RELATIVE_NODES", 1 << 14),
    ("MPOL_F_STATIC_NODES", 1 << 15),
];

/// set_mempolicy(2)'s mode and nodes of `linux.memoryPolicy`.
fn memory_policy(spec: &crate::spec::MemoryPolicy) -> Result<plan::MemoryPolicy> {
    let mut mode = number_of(&MEMORY_POLICIES, &spec.mode, "linux.memoryPolicy.mode")?;
    for flag in &spec.flags {
        mode |= number_of(&MEMORY_POLICY_FLAGS, flag, "linux.memoryPolicy.flags")?;
    }
    let nodes = cpu_mask(&spec.nodes, "linux.memoryPolicy.nodes")?.unwrap_or_default();
    match (spec.mode.as_str(), nodes.is_empty()) {
        ("MPOL_DEFAULT" | "MPOL_LOCAL", false) => Err(Error::invalid(format!(
            "linux.memoryPolicy: {} takes no nodes",
            spec.mode
        ))),
        (
            "MPOL_BIND" | "MPOL_INTERLEAVE" | "MPOL_WEIGHTED_INTERLEAVE" | "MPOL_PREFERRED_MANY",
            true,
        ) => Err(Error::invalid(format!(
            "linux.memoryPolicy: {} needs nodes",
            spec.mode
        ))),
        _ => Ok(plan::MemoryPolicy { mode, nodes }),
    }
}

/// What every process of the container has of `linux`.
pub fn finish(plan: &mut plan::Process, linux: &crate::spec::Linux) -> Result<()> {
    plan.personality = linux.personality.as_ref().map(personality).transpose()?;
    plan.memory_policy = linux
        .memory_policy
        .as_ref()
        .map(memory_policy)
        .transpose()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_in_the_containers_path() {
        let env = vec!["PATH=/bin:relative:/usr/bin/".to_owned()];
        let (list, searched) = candidates("sh", &env).unwrap();
        assert!(searched);
        assert_eq!(list, [c"/bin/sh".to_owned(), c"/usr/bin/sh".to_owned()]);
        let (list, searched) = candidates("./run", &env).unwrap();
        assert!(!searched);
        assert_eq!(list, [c"./run".to_owned()]);
    }

    #[test]
    fn the_last_of_equal_variables_counts() {
        let env = ["A=1", "B=2", "A=3"].map(str::to_owned);
        let kept = environment(&env).unwrap();
        assert_eq!(kept, [c"B=2".to_owned(), c"A=3".to_owned()]);
        assert!(environment(&["bad".to_owned()]).is_err());
    }

    #[test]
    fn processors_as_a_mask() {
        assert_eq!(cpu_mask("0-2,5", "f").unwrap().unwrap()[0], 0b10_0111);
        assert_eq!(cpu_mask("64", "f").unwrap().unwrap()[1], 1);
        assert!(cpu_mask("3-1", "f").is_err());
        assert!(cpu_mask("x", "f").is_err());
        assert_eq!(cpu_mask("", "f").unwrap(), None);
    }
}
