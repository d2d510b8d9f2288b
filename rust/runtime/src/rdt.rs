//! Intel RDT: the container's group in the `resctrl` file system, where one is mounted.
//!
//! Without `closID` the group has the container's id and goes with it; a group that a `closID` names
//! stays. The container's processes enter by themselves, as they do their cgroups.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Class, Context, Error, Result};
use crate::spec::IntelRdt;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Group {
    path: PathBuf,
    /// Whether it goes with the container.
    own: bool,
    monitor: Option<PathBuf>,
}

impl Group {
    pub fn make(spec: &IntelRdt, id: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context(|| "mountinfo".into())?;
        let root = mounts.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let place = left.split(' ').nth(4)?;
            right.starts_with("resctrl ").then(|| PathBuf::from(place))
        });
        let Some(root) = root else {
            return Err(Error::new(
                Class::Unimplemented,
                "linux.intelRdt: no resctrl file system is mounted on this host; mount one at \
                 /sys/fs/resctrl (the processor and the kernel need Resource Director Technology)",
            ));
        };
        Self::make_in(&root, spec, id)
    }

    fn make_in(root: &Path, spec: &IntelRdt, id: &str) -> Result<Self> {
        let name = match spec.clos_id.as_str() {
            "" => id,
            other => other,
        };
        let path = match name {
            "/" => root.to_owned(),
            name => root.join(name),
        };
        let wanted = schemata(spec);
        let exists = path.is_dir();
        if !exists && !spec.clos_id.is_empty() && wanted.is_empty() {
            return Err(Error::invalid(format!(
                "linux.intelRdt.closID {name:?}: there is no such group below {}, and no schema to \
                 make one of",
                root.display()
            )));
        }
        if exists && !spec.clos_id.is_empty() {
            agree(&path, &wanted)?;
        }
        let mut group = Self {
            path,
            own: spec.clos_id.is_empty() && !exists,
            monitor: None,
        };
        let made = group.fill(spec, id, exists, &wanted);
        if made.is_err() {
            let _ = group.remove();
            if !exists {
                let _ = fs::remove_dir(&group.path);
            }
        }
        made.map(|()| group)
    }

    fn fill(&mut self, spec: &IntelRdt, id: &str, exists: bool, wanted: &[&str]) -> Result<()> {
        if !exists {
            fs::create_dir(&self.path)
                .context(|| format!("linux.intelRdt: group {}", self.path.display()))?;
        }
        if !exists || spec.clos_id.is_empty() {
            self.update(wanted)?;
        }
        if spec.enable_monitoring {
            let path = self.path.join("mon_groups").join(id);
            fs::create_dir(&path)
                .context(|| format!("linux.intelRdt: monitoring group {}", path.display()))?;
            self.monitor = Some(path);
        }
        Ok(())
    }

    pub fn update(&self, lines: &[&str]) -> Result<()> {
        for line in lines.iter().filter(|line| !line.is_empty()) {
            let file = self.path.join("schemata");
            fs::write(&file, format!("{line}\n"))
                .context(|| format!("linux.intelRdt: write {line:?} to {}", file.display()))?;
        }
        Ok(())
    }

    /// What a process writes itself into, in this order.
    pub fn open_tasks(&self) -> Result<Vec<OwnedFd>> {
        let open = |directory: &PathBuf| {
            let file = directory.join("tasks");
            let opened = fs::OpenOptions::new().write(true).open(&file);
            opened
                .map(OwnedFd::from)
                .context(|| format!("linux.intelRdt: {}", file.display()))
        };
        [&self.path]
            .into_iter()
            .chain(&self.monitor)
            .map(open)
            .collect()
    }

    pub fn remove(&self) -> Result<()> {
        let own = self.own.then_some(&self.path);
        for path in self.monitor.iter().chain(own) {
            match fs::remove_dir(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(e).context(|| format!("removing {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The lines to write, in the specification's order.
fn schemata(spec: &IntelRdt) -> Vec<&str> {
    [&spec.l3_cache_schema, &spec.mem_bw_schema]
        .into_iter()
        .chain(&spec.schemata)
        .map(String::as_str)
        .filter(|line| !line.is_empty())
        .collect()
}

/// A line `L3:0=7ff;1=7ff` as its resource and, by domain, values without leading zeros.
fn parse(line: &str) -> Option<(&str, Vec<(&str, String)>)> {
    let (resource, rest) = line.trim().split_once(':')?;
    let domains = rest.split(';').filter_map(|part| part.split_once('='));
    let value = |v: &str| v.trim().trim_start_matches('0').to_ascii_lowercase();
    let list = domains.map(|(id, v)| (id.trim(), value(v))).collect();
    Some((resource.trim(), list))
}

/// A group that is there already must have what the specification says.
fn agree(path: &Path, wanted: &[&str]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let file = path.join("schemata");
    let text =
        fs::read_to_string(&file).context(|| format!("linux.intelRdt: {}", file.display()))?;
    let there: Vec<_> = text.lines().filter_map(parse).collect();
    for line in wanted {
        let same = parse(line).is_some_and(|(resource, domains)| {
            let has = |domain| {
                there
                    .iter()
                    .any(|(name, list)| *name == resource && list.contains(domain))
            };
            domains.iter().all(has)
        });
        if !same {
            return Err(Error::invalid(format!(
                "linux.intelRdt: {line:?} is not what the group that is there has in {}",
                file.display()
            )));
        }
    }
    Ok(())
}

pub fn validate(spec: &IntelRdt) -> Result<()> {
    let id = spec.clos_id.as_str();
    const RESERVED: [&str; 5] = [".", "..", "info", "mon_groups", "mon_data"];
    if id != "/" && (id.contains('/') || RESERVED.contains(&id)) {
        return Err(Error::invalid(format!(
            "linux.intelRdt.closID {id:?}: it is the name of a group, or /"
        )));
    }
    if let Some(line) = schemata(spec).iter().find(|line| line.contains('\n')) {
        return Err(Error::invalid(format!(
            "linux.intelRdt: {line:?} has more than one line"
        )));
    }
    if !spec.mem_bw_schema.is_empty() && !spec.mem_bw_schema.starts_with("MB:") {
        return Err(Error::invalid(format!(
            "linux.intelRdt.memBwSchema {:?}: it begins with MB:",
            spec.mem_bw_schema
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that stands for resctrl, whose groups have the files of it.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("rdt-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn group(&self, name: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir_all(path.join("mon_groups")).unwrap();
            fs::write(
                path.join("schemata"),
                "    L3:0=07ff;1=7ff\n    MB:0=100;1=100\n",
            )
            .unwrap();
            fs::write(path.join("tasks"), "").unwrap();
            path
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn spec(text: &str) -> IntelRdt {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_named_group_must_be_there_or_have_a_schema() {
        let root = Root::new("named");
        let missing = Group::make_in(&root.0, &spec(r#"{"closID": "gold"}"#), "box");
        assert!(missing.unwrap_err().message.contains("gold"));
        let new = spec(r#"{"closID": "gold", "l3CacheSchema": "L3:0=f"}"#);
        let group = Group::make_in(&root.0, &new, "box").unwrap();
        let schemata = root.0.join("gold/schemata");
        assert_eq!(fs::read_to_string(&schemata).unwrap(), "L3:0=f\n");
        fs::remove_file(schemata).unwrap();
        group.remove().unwrap();
        assert!(root.0.join("gold").is_dir(), "a named group stays");
    }

    #[test]
    fn a_group_that_is_there_must_agree() {
        let root = Root::new("agree");
        root.group("gold");
        let fine = spec(r#"{"closID": "gold", "schemata": ["L3:1=7FF", "MB:0=100"]}"#);
        Group::make_in(&root.0, &fine, "box").unwrap();
        let other = spec(r#"{"closID": "gold", "memBwSchema": "MB:0=50"}"#);
        let refused = Group::make_in(&root.0, &other, "box").unwrap_err();
        assert!(refused.message.contains("MB:0=50"), "{refused}");
    }

    #[test]
    fn the_containers_own_group_and_monitor_go_with_it() {
        let root = Root::new("own");
        let group = Group::make_in(&root.0, &spec("{}"), "box").unwrap();
        assert!(root.0.join("box").is_dir());
        group.update(&["", "MB:0=50"]).unwrap();
        let schemata = root.0.join("box/schemata");
        assert_eq!(fs::read_to_string(&schemata).unwrap(), "MB:0=50\n");
        fs::remove_file(schemata).unwrap();
        group.remove().unwrap();
        assert!(!root.0.join("box").exists());

        let gold = root.group("gold");
        let monitored = spec(r#"{"closID": "gold", "enableMonitoring": true}"#);
        let group = Group::make_in(&root.0, &monitored, "box").unwrap();
        let monitor = gold.join("mon_groups/box");
        fs::write(monitor.join("tasks"), "").unwrap();
        assert_eq!(group.open_tasks().unwrap().len(), 2);
        assert!(
            Group::make_in(&root.0, &monitored, "box").is_err(),
            "once only"
        );
        fs::remove_file(monitor.join("tasks")).unwrap();
        group.remove().unwrap();
        assert!(!monitor.exists() && gold.is_dir());
    }

    #[test]
    fn names_and_lines_are_checked() {
        for text in [
            r#"{"closID": "a/b"}"#,
            r#"{"closID": ".."}"#,
            r#"{"schemata": ["L3:0=f\nMB:0=1"]}"#,
            r#"{"memBwSchema": "L3:0=f"}"#,
        ] {
            assert!(validate(&spec(text)).is_err(), "{text}");
        }
        validate(&spec(r#"{"closID": "/"}"#)).unwrap();
    }
}
