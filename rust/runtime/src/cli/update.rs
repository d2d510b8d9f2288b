//! update: other limits, from a file or from flags.

use std::fs;
use std::io::Read;

use runtime::spec::Resources;
use runtime::{Error, Runtime};

use super::commands::{HELP, id, io};
use super::flags::{Flags, Known};

pub const FLAGS: &[Known] = &[
    HELP,
    (&["resources", "r"], true),
    (&["blkio-weight"], true),
    (&["cpu-period"], true),
    (&["cpu-quota"], true),
    (&["cpu-burst"], true),
    (&["cpu-share"], true),
    (&["cpu-rt-period"], true),
    (&["cpu-rt-runtime"], true),
    (&["cpuset-cpus"], true),
    (&["cpuset-mems"], true),
    (&["cpu-idle"], true),
    (&["memory"], true),
    (&["memory-reservation"], true),
    (&["memory-swap"], true),
    (&["pids-limit"], true),
    (&["l3-cache-schema"], true),
    (&["mem-bw-schema"], true),
];

pub fn update(runtime: &Runtime, flags: &Flags) -> Result<u8, Error> {
    let id = id(flags)?;
    let mut schemata = Vec::new();
    let resources: Resources = match flags.get("resources") {
        Some(path) => {
            let mut text = Vec::new();
            let read = match path {
                "-" => std::io::stdin().read_to_end(&mut text).map(drop),
                path => fs::read(path).map(|content| text = content),
            };
            read.map_err(|e| io(&format!("--resources {path}"), e))?;
            serde_json::from_slice(&text).map_err(|e| io(&format!("--resources {path}"), e))?
        }
        None => {
            let lines = ["l3-cache-schema", "mem-bw-schema"].map(|flag| flags.get(flag));
            schemata.extend(lines.into_iter().flatten());
            resources(flags)?
        }
    };
    runtime.update(id, &resources)?;
    if !schemata.is_empty() {
        runtime.update_rdt(id, &schemata)?;
    }
    Ok(0)
}

fn resources(flags: &Flags) -> Result<Resources, Error> {
    let mut value = serde_json::json!({"cpu": {}, "memory": {}});
    let mut number = |flag: &str, group: &str, field: &str| -> Result<(), Error> {
        if let Some(text) = flags.get(flag) {
            let wrong = |_| Error::invalid(format!("--{flag} {text}: it is a number"));
            value[group][field] = text.parse::<i64>().map_err(wrong)?.into();
        }
        Ok(())
    };
    number("cpu-period", "cpu", "period")?;
    number("cpu-quota", "cpu", "quota")?;
    number("cpu-burst", "cpu", "burst")?;
    number("cpu-share", "cpu", "shares")?;
    number("cpu-rt-period", "cpu", "realtimePeriod")?;
    number("cpu-rt-runtime", "cpu", "realtimeRuntime")?;
    number("cpu-idle", "cpu", "idle")?;
    number("pids-limit", "pids", "limit")?;
    number("blkio-weight", "blockIO", "weight")?;
    for (flag, field) in [
        ("memory", "limit"),
        ("memory-reservation", "reservation"),
        ("memory-swap", "swap"),
    ] {
        if let Some(text) = flags.get(flag) {
            value["memory"][field] = bytes(text)
                .ok_or_else(|| Error::invalid(format!("--{flag} {text}: it is a size")))?
                .into();
        }
    }
    for (flag, field) in [("cpuset-cpus", "cpus"), ("cpuset-mems", "mems")] {
        if let Some(text) = flags.get(flag) {
            value["cpu"][field] = text.into();
        }
    }
    serde_json::from_value(value).map_err(|e| Error::invalid(e.to_string()))
}

/// `64m` in bytes; -1 is no limit.
fn bytes(text: &str) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches('b');
    let shift = match digits.chars().last()? {
        'k' => 10,
        'm' => 20,
        'g' => 30,
        't' => 40,
        _ => 0,
    };
    let number = digits.trim_end_matches(['k', 'm', 'g', 't']);
    number.parse::<i64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("64m"), Some(64 << 20));
        assert_eq!(bytes("1Gb"), Some(1 << 30));
        assert_eq!(bytes("-1"), Some(-1));
        assert_eq!(bytes("5"), Some(5));
        assert_eq!(bytes("x"), None);
    }
}
