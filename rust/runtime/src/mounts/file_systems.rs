//! File systems that the container's side makes, and remounts.

use std::ffi::CString;
use std::path::Path;

use super::options::{MS_LAZYTIME, Options, RDONLY, mount_flags};
use super::{c_string, step};
use crate::error::{Error, Result};
use crate::plan::{self, What};
use crate::spec::Mount;

/// Flags that fsconfig has a parameter for.
const PARAMETERS: [(u64, &str); 4] = [
    (libc::MS_SYNCHRONOUS, "sync"),
    (libc::MS_DIRSYNC, "dirsync"),
    (MS_LAZYTIME, "lazytime"),
    (libc::MS_MANDLOCK, "mand"),
];

/// What fsconfig takes for one value, and mount(2) for all of them.
const LONGEST_VALUE: usize = 255;
const LONGEST_DATA: usize = 4095;

pub(super) fn file_system(
    kind: &str,
    source: &str,
    options: &Options,
    label: &str,
) -> Result<plan::FileSystem> {
    let label =
        (!label.is_empty() && has_labels() && matches!(kind, "tmpfs" | "mqueue" | "devpts"))
            .then(|| format!("context=\"{label}\""));
    let data = || options.data.iter().chain(&label);
    let read_only = options.own.set & RDONLY != 0;
    let parts: Vec<&str> = data().flat_map(|data| split_data(data)).collect();
    let known = PARAMETERS.iter().fold(0, |all, (flag, _)| all | flag);
    let by_page = options.flags & !known != 0 || parts.iter().any(|p| p.len() > LONGEST_VALUE);
    let parameters = if by_page {
        let ro = if read_only { libc::MS_RDONLY } else { 0 };
        plan::Parameters::Page {
            source: c_string(source)?,
            flags: options.flags | ro,
            data: page(data())?,
        }
    } else {
        let mut list = Vec::new();
        let mut add = |key: &str, value: Option<&str>| -> Result<()> {
            list.push((c_string(key)?, value.map(c_string).transpose()?));
            Ok(())
        };
        if !source.is_empty() {
            add("source", Some(source))?;
        }
        if read_only && !matches!(kind, "sysfs" | "proc" | "cgroup" | "cgroup2") {
            add("ro", None)?;
        }
        for (flag, name) in PARAMETERS {
            if options.flags & flag != 0 {
                add(name, None)?;
            }
        }
        for data in parts {
            match data.split_once('=') {
                Some((key, value)) => add(key, Some(value.trim_matches('"')))?,
                None => add(data, None)?,
            }
        }
        plan::Parameters::Each(list)
    };
    Ok(plan::FileSystem {
        kind: c_string(kind)?,
        parameters,
        attributes: options.own.set,
        recursive: options.below,
        idmap: None,
    })
}

/// Whether this host's files have labels. Without them there is nothing that a label could protect.
pub fn has_labels() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Options as mount(2) takes them, which has room for a page.
pub(super) fn page<'a>(data: impl Iterator<Item = &'a String>) -> Result<CString> {
    let text = data.map(String::as_str).collect::<Vec<_>>().join(",");
    if text.len() > LONGEST_DATA {
        return Err(Error::invalid(format!(
            "mounts: the options have {} bytes, the kernel takes {LONGEST_DATA}",
            text.len()
        )));
    }
    c_string(&text)
}

/// Other options for what is mounted there by now: of the mount alone with `bind`, else of its file
/// system too, as mount(2) has it.
pub(super) fn remount(mount: &Mount, options: Options) -> Result<plan::Mount> {
    if options.idmap.is_some() || !mount.uid_mappings.is_empty() || options.copy_up {
        return Err(Error::invalid(format!(
            "mounts: {} is a remount: it takes neither an id mapping nor tmpcopyup",
            mount.destination
        )));
    }
    let superblock = match options.bind {
        true => None,
        false => Some((
            options.flags | mount_flags(options.own.set),
            page(options.data.iter())?,
        )),
    };
    let what = What::Remount {
        own: options.own,
        below: options.below,
        superblock,
    };
    step(mount, what, options.propagation)
}

/// Splits at commas outside of quotes.
pub(super) fn split_data(data: &str) -> Vec<&str> {
    let mut quoted = false;
    data.split(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
    .filter(|part| !part.is_empty())
    .collect()
}
