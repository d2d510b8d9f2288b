//! The cgroup as a unit of systemd's, who then is the one to make and remove it.
//!
//! `linux.cgroupsPath` is `SLICE:PREFIX:NAME` for this driver. A scope needs a process to be made: one that
//! waits stands in, until the container's own process is there.

use std::os::fd::{AsRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::dbus::{Body, Connection, Value};
use crate::error::{Context, Error, Result};
use crate::spec::Resources;
use crate::sys;

const DEFAULT_SLICE: &str = "system.slice";
const DEFAULT_PREFIX: &str = "containerd-hybrid";

/// A unit, and its place in every hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub unit: String,
    pub slice: String,
    pub path: String,
    /// It was made here: what was there before is somebody else's.
    pub made: bool,
}

pub fn place(path: &str, id: &str) -> Result<Place> {
    let wrong = || {
        Error::invalid(format!(
            "linux.cgroupsPath {path:?}: with systemd it is SLICE:PREFIX:NAME, as in \
             system.slice:containerd:{id}"
        ))
    };
    let (slice, prefix, name) = match path.split(':').collect::<Vec<_>>().as_slice() {
        [""] => (DEFAULT_SLICE, DEFAULT_PREFIX, id),
        [slice, prefix, name] if !name.is_empty() => (*slice, *prefix, *name),
        _ => return Err(wrong()),
    };
    let slice = if slice.is_empty() {
        DEFAULT_SLICE
    } else {
        slice
    };
    let unit = match (prefix, name.ends_with(".slice")) {
        (_, true) => name.to_owned(),
        ("", false) => format!("{name}.scope"),
        (prefix, false) => format!("{prefix}-{name}.scope"),
    };
    let fine =
        |text: &str| !text.is_empty() && !text.starts_with('.') && !text.contains(['/', '\0']);
    if !fine(&unit) {
        return Err(wrong());
    }
    let folder = expand(slice).ok_or_else(wrong)?;
    Ok(Place {
        path: format!("{folder}/{unit}"),
        slice: slice.to_owned(),
        unit,
        made: false,
    })
}

/// `a-b.slice` is in `a.slice`.
fn expand(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(String::new());
    }
    if name.is_empty() || name.contains('/') || name.split('-').any(str::is_empty) {
        return None;
    }
    let ends = name.match_indices('-').map(|(at, _)| at);
    let parts = ends
        .chain([name.len()])
        .map(|end| format!("/{}.slice", &name[..end]));
    Some(parts.collect())
}

/// A process that stands in until the container's is there; gone with this.
pub struct StandIn {
    pid: i32,
    _ours: OwnedFd,
}

impl StandIn {
    fn make() -> Result<Self> {
        let what = || "a process for systemd's scope".to_owned();
        let (ours, theirs) = sys::socket_pair().context(what)?;
        // SAFETY: the child only waits for its end.
        let pid = unsafe { sys::clone3(0, None) }.context(what)?;
        if pid == 0 {
            let _ = sys::close_all_from(0, &mut [theirs.as_raw_fd()]);
            let _ = sys::read(theirs.as_raw_fd(), &mut [0]);
            sys::exit(0);
        }
        Ok(Self { pid, _ours: ours })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = sys::kill(self.pid, libc::SIGKILL);
        let _ = sys::wait(self.pid);
    }
}

/// Makes the unit with its limits.
pub fn start(place: &Place, resources: Option<&Resources>, unified: bool) -> Result<StandIn> {
    let stand_in = StandIn::make()?;
    let mut systemd = Connection::open()?;
    let is_slice = place.unit.ends_with(".slice");
    let mut list: Vec<(String, Value)> = Vec::new();
    let mut add = |name: &str, value| list.push((name.to_owned(), value));
    add(
        "Description",
        Value::Text(format!("container {}", place.unit)),
    );
    match is_slice {
        true => add("Wants", Value::Texts(vec![place.slice.clone()])),
        false => {
            add("Slice", Value::Text(place.slice.clone()));
            add("PIDs", Value::Numbers(vec![stand_in.pid as u32]));
            add("Delegate", Value::Flag(true));
        }
    }
    for name in ["MemoryAccounting", "CPUAccounting", "TasksAccounting"] {
        add(name, Value::Flag(true));
    }
    let io = if unified {
        "IOAccounting"
    } else {
        "BlockIOAccounting"
    };
    add(io, Value::Flag(true));
    add("DefaultDependencies", Value::Flag(false));
    if let Some(resources) = resources {
        list.extend(limits(resources, unified)?);
    }
    let body = Body::default()
        .text(&place.unit)
        .text("replace")
        .properties(&list)
        .no_units();
    // One that failed earlier is in the way of its name.
    let _ = systemd.call("ResetFailedUnit", Body::default().text(&place.unit));
    let answer = systemd.call("StartTransientUnit", body)?;
    let job = answer.first().map_or("", String::as_str);
    let failed = match systemd.job_result(job) {
        Ok(result) if result == "done" => return Ok(stand_in),
        Ok(other) => {
            let unit = &place.unit;
            Error::failed(format!("systemd: unit {unit} was not made: {other}"))
        }
        Err(e) => e,
    };
    // The first error counts, whatever becomes of the clean-up.
    let _ = stop_by(&mut systemd, &place.unit);
    Err(failed)
}

/// Ends the unit; one that is gone is fine.
pub fn stop(unit: &str) -> Result<()> {
    stop_by(&mut Connection::open()?, unit)
}

fn stop_by(systemd: &mut Connection, unit: &str) -> Result<()> {
    let gone = |e: &Error| e.message.contains("NoSuchUnit");
    match systemd.call("StopUnit", Body::default().text(unit).text("replace")) {
        Ok(answer) => {
            let job = answer.first().map_or("", String::as_str);
            systemd.job_result(job)?;
        }
        Err(e) if gone(&e) => {}
        Err(e) => return Err(e),
    }
    match systemd.call("ResetFailedUnit", Body::default().text(unit)) {
        Err(e) if !gone(&e) => Err(e),
        _ => Ok(()),
    }
}

/// Tells systemd of other limits, or it would set its own again.
pub fn update(unit: &str, resources: &Resources, unified: bool) -> Result<()> {
    let list = limits(resources, unified)?;
    if list.is_empty() {
        return Ok(());
    }
    let body = Body::default().text(unit).flag(true).properties(&list);
    Connection::open()?
        .call("SetUnitProperties", body)
        .map(drop)
}

/// The limits that systemd has properties for; all of them are written to the files too.
fn limits(resources: &Resources, unified: bool) -> Result<Vec<(String, Value)>> {
    let mut list = Vec::new();
    let mut add = |name: &str, value| list.push((name.to_owned(), value));
    let unlimited = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
    if let Some(memory) = &resources.memory {
        if let Some(limit) = memory.limit.filter(|l| *l != 0) {
            let name = if unified { "MemoryMax" } else { "MemoryLimit" };
            add(name, Value::Number(unlimited(limit)));
        }
        if let Some(low) = memory.reservation.filter(|_| unified) {
            add("MemoryLow", Value::Number(unlimited(low)));
        }
        if let (Some(swap), Some(limit), true) = (memory.swap, memory.limit, unified) {
            let own = if swap < 0 { -1 } else { swap - limit };
            add("MemorySwapMax", Value::Number(unlimited(own)));
        }
    }
    if let Some(cpu) = &resources.cpu {
        if let Some(shares) = cpu.shares.filter(|s| *s != 0) {
            match unified {
                true => add("CPUWeight", Value::Number(super::v2::cpu_weight(shares))),
                false => add("CPUShares", Value::Number(shares)),
            }
        }
        if let Some(quota) = cpu.quota {
            let period = cpu.period.filter(|p| *p != 0).unwrap_or(100_000);
            add(
                "CPUQuotaPerSecUSec",
                Value::Number(per_second(quota, period)),
            );
        }
        for (name, text) in [
            ("AllowedCPUs", &cpu.cpus),
            ("AllowedMemoryNodes", &cpu.mems),
        ] {
            if let Some(mask) = crate::process::cpu_mask(text, "linux.resources.cpu")?
                && unified
            {
                add(name, Value::Bytes(bytes(&mask)));
            }
        }
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|p| p.limit) {
        let limit = if limit > 0 { limit as u64 } else { u64::MAX };
        add("TasksMax", Value::Number(limit));
    }
    Ok(list)
}

/// Microseconds of a second, in whole hundredths of a processor as systemd counts.
fn per_second(quota: i64, period: u64) -> u64 {
    match u64::try_from(quota) {
        Ok(quota) if quota > 0 => (quota * 1_000_000 / period).next_multiple_of(10_000),
        _ => u64::MAX,
    }
}

fn bytes(mask: &[u64]) -> Vec<u8> {
    let mut bytes: Vec<u8> = mask.iter().flat_map(|word| word.to_le_bytes()).collect();
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_have_their_places() {
        let found = |path| place(path, "id").map(|p| (p.unit, p.path));
        let unit = |unit: &str, path: &str| Ok((unit.to_owned(), path.to_owned()));
        assert_eq!(
            found(""),
            unit(
                "containerd-hybrid-id.scope",
                "/system.slice/containerd-hybrid-id.scope"
            )
        );
        assert_eq!(
            found("a-b.slice:cri:x"),
            unit("cri-x.scope", "/a.slice/a-b.slice/cri-x.scope")
        );
        assert_eq!(found("-.slice::x"), unit("x.scope", "/x.scope"));
        assert_eq!(
            found("a.slice:x:a-pod.slice"),
            unit("a-pod.slice", "/a.slice/a-pod.slice")
        );
        for wrong in [
            "/a/b",
            "a:b",
            "a.slice:b:",
            "a.slice:b:../c",
            "a--b.slice:c:d",
            "a:b:c",
        ] {
            assert!(place(wrong, "id").is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_are_in_systemds_units() {
        let resources = serde_json::from_value(serde_json::json!({
            "memory": {"limit": 5000, "swap": 8000},
            "cpu": {"quota": 25_500, "period": 100_000, "cpus": "0,9"},
            "pids": {"limit": -1},
        }));
        let list = limits(&resources.unwrap(), true).unwrap();
        let value = |name| list.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        assert_eq!(value("MemoryMax"), Some(Value::Number(5000)));
        assert_eq!(value("MemorySwapMax"), Some(Value::Number(3000)));
        assert_eq!(value("CPUQuotaPerSecUSec"), Some(Value::Number(260_000)));
        assert_eq!(value("AllowedCPUs"), Some(Value::Bytes(vec![1, 2])));
        assert_eq!(value("TasksMax"), Some(Value::Number(u64::MAX)));
    }
}
