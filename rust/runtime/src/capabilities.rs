//! Capability names and numbers.

use crate::plan::CapabilitySets;
use crate::spec::Capabilities;

/// By number, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// All names this runtime knows.
pub fn names() -> Vec<String> {
    NAMES.iter().map(|name| format!("CAP_{name}")).collect()
}

fn number(name: &str) -> Option<u32> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let index = NAMES.iter().position(|known| *known == bare)?;
    u32::try_from(index).ok()
}

/// The last capability of the running kernel.
fn last() -> u32 {
    let known = NAMES.len() as u32 - 1;
    std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .map_or(known, |last: u32| last.min(62))
}

/// The sets as bits, and the names that nobody here knows: they are ignored, with a warning, so that
/// a specification made for a newer kernel runs.
pub fn sets(capabilities: &Capabilities) -> (CapabilitySets, Vec<String>) {
    let last = last();
    let mut unknown = Vec::new();
    let mut bits = |names: &[String]| {
        let mut set = 0_u64;
        for name in names {
            match number(name).filter(|n| *n <= last) {
                Some(n) => set |= 1 << n,
                None => unknown.push(name.clone()),
            }
        }
        set
    };
    let sets = CapabilitySets {
        bounding: bits(&capabilities.bounding),
        effective: bits(&capabilities.effective),
        permitted: bits(&capabilities.permitted),
        inheritable: bits(&capabilities.inheritable),
        ambient: bits(&capabilities.ambient),
        last,
    };
    unknown.sort();
    unknown.dedup();
    (sets, unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bits_and_the_unknown_is_told() {
        let capabilities = Capabilities {
            effective: vec![
                "CAP_CHOWN".into(),
                "cap_sys_admin".into(),
                "CAP_NEVER".into(),
            ],
            ..Default::default()
        };
        let (sets, unknown) = super::sets(&capabilities);
        assert_eq!(sets.effective, 1 | 1 << 21);
        assert_eq!(unknown, ["CAP_NEVER"]);
    }
}
