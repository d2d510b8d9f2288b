//! stats: what a container uses, from the files of its cgroups.

use serde_json::{Map, Value, json};

use crate::Runtime;
use crate::error::Result;

impl Runtime {
    /// In the shape of runc's `events --stats`, as far as the host's controllers tell.
    pub fn stats(&self, id: &str) -> Result<Value> {
        let (record, _) = self.inspect(id)?;
        let cgroups = &record.cgroups;
        let mut data = Map::new();
        let read = |controller: &str, file: &str| cgroups.read(controller, file);
        let number = |controller: &str, file: &str| -> Option<u64> {
            match read(controller, file)?.trim() {
                "max" => Some(u64::MAX),
                text => text.parse().ok(),
            }
        };
        let field = |controller: &str, file: &str, key: &str| -> Option<u64> {
            let text = read(controller, file)?;
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().parse().ok()
        };
        let pids = json!({
            "current": number("pids", "pids.current"),
            "limit": number("pids", "pids.max").filter(|l| *l != u64::MAX).unwrap_or(0),
        });
        data.insert("pids".into(), pids);
        let (memory, cpu) = if cgroups.is_unified() {
            let usec = |key| field("cpu", "cpu.stat", key).map(|n| n * 1000);
            (
                json!({"usage": {
                    "usage": number("memory", "memory.current"),
                    "limit": number("memory", "memory.max"),
                    "max": number("memory", "memory.peak"),
                }}),
                json!({"usage": {
                    "total": usec("usage_usec "),
                    "kernel": usec("system_usec "),
                    "user": usec("user_usec "),
                }}),
            )
        } else {
            (
                json!({"usage": {
                    "usage": number("memory", "memory.usage_in_bytes"),
                    "limit": number("memory", "memory.limit_in_bytes"),
                    "max": number("memory", "memory.max_usage_in_bytes"),
                    "failcnt": number("memory", "memory.failcnt"),
                }, "cache": field("memory", "memory.stat", "total_cache ")}),
                json!({"usage": {
                    "total": number("cpuacct", "cpuacct.usage"),
                    "kernel": number("cpuacct", "cpuacct.usage_sys"),
                    "user": number("cpuacct", "cpuacct.usage_user"),
                }, "throttling": {
                    "periods": field("cpu", "cpu.stat", "nr_periods "),
                    "throttledPeriods": field("cpu", "cpu.stat", "nr_throttled "),
                    "throttledTime": field("cpu", "cpu.stat", "throttled_time "),
                }}),
            )
        };
        data.insert("memory".into(), memory);
        data.insert("cpu".into(), cpu);
        Ok(Value::Object(data))
    }
}
