//! What is known of a container between calls: a directory by its id below the root.
//!
//! `state.json` has the fields of runc's that tools read; `config.json` is the specification the
//! container was made of, whatever happens to the bundle's; `start.sock` is there until the start.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cgroup::Cgroups;
use crate::error::{Class, Context, Error, Result};
use crate::netdev;
use crate::spec::Spec;

const STATE: &str = "state.json";
const CONFIG: &str = "config.json";
pub const START: &str = "start.sock";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub oci_version: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// RFC 3339.
    pub created: String,
    /// 0 while the container is made.
    pub init_process_pid: i32,
    /// In clock ticks after boot: a pid used again has another.
    pub init_process_start: u64,
    pub annotations: BTreeMap<String, String>,
    pub cgroup_paths: BTreeMap<String, PathBuf>,
    pub cgroups: Cgroups,
    #[serde(default)]
    pub rdt: Option<crate::rdt::Group>,
    /// As much of runc's own as lets `runc delete` end the container: the namespaces and the cgroup.
    #[serde(default)]
    pub config: serde_json::Value,
    /// Processes outlive the init: it has no pid namespace of its own.
    pub shares_pid_namespace: bool,
    /// Its processes have the keyring of whoever makes them.
    #[serde(default)]
    pub no_new_keyring: bool,
    /// Network devices that were moved into it, with their numbers there.
    #[serde(default)]
    pub net_devices: Vec<(netdev::Device, u32)>,
    /// What was mounted below the root before, if the container has no mount namespace: what is more
    /// is the container's.
    pub mounts_before: Option<Vec<PathBuf>>,
}

/// A container's directory.
#[derive(Clone, Debug)]
pub struct Place(PathBuf);

/// Names of letters, digits and `_+-.`, as runc takes them.
pub fn check_id(id: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() || id == "." || id == ".." || id.len() > 1024 || !id.chars().all(fine) {
        return Err(Error::invalid(format!(
            "invalid container ID format: {id:?}"
        )));
    }
    Ok(())
}

impl Place {
    pub fn of(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        Ok(Self(root.join(id)))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Takes the id: nobody else can until [`Place::remove`].
    pub fn make(&self) -> Result<()> {
        const TRIES: u32 = 100;
        let mut tries = 0;
        loop {
            match fs::DirBuilder::new().mode(0o711).create(&self.0) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    return Err(Error::new(
                        Class::AlreadyExists,
                        "container with given ID already exists",
                    ));
                }
                // The last container's end may take the root away before the id is in it.
                Err(e) if e.kind() == ErrorKind::NotFound && tries < TRIES => tries += 1,
                other => return other.context(|| self.what()),
            }
            if let Some(root) = self.0.parent() {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(root)
                    .context(|| self.what())?;
            }
        }
    }

    fn what(&self) -> String {
        format!("state directory {}", self.0.display())
    }

    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e).context(|| self.what()),
            _ => Ok(()),
        }
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        use std::io::Write;
        let (path, new) = (self.0.join(name), self.0.join(format!("{name}.new")));
        let written = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(content))
            .and_then(|()| fs::rename(&new, &path));
        written.context(|| path.display().to_string())
    }

    pub fn save_config(&self, config: &[u8]) -> Result<()> {
        self.write(CONFIG, config)
    }

    pub fn save(&self, record: &Record) -> Result<()> {
        let text =
            serde_json::to_vec(record).map_err(|e| Error::failed(format!("{STATE}: {e}")))?;
        self.write(STATE, &text)
    }

    pub fn load(&self) -> Result<Record> {
        let path = self.0.join(STATE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|e| Error::failed(format!("{}: {e}", path.display()))),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(Error::new(Class::NotFound, "container does not exist"))
            }
            Err(e) => Err(e).context(|| path.display().to_string()),
        }
    }

    pub fn exists(&self) -> bool {
        self.0.is_dir()
    }

    pub fn config(&self) -> Result<Spec> {
        let path = self.0.join(CONFIG);
        Spec::parse(&fs::read(&path).context(|| path.display().to_string())?)
    }

    /// The container's status, by its init process and what is in the directory.
    pub fn status(&self, record: &Record) -> Status {
        if !alive(record.init_process_pid, record.init_process_start) {
            Status::Stopped
        } else if self.0.join(START).exists() {
            Status::Created
        } else if record.cgroups.is_frozen() {
            Status::Paused
        } else {
            Status::Running
        }
    }
}

impl Record {
    /// Removes what the container's processes were grouped by.
    pub fn remove_groups(&self) -> Result<()> {
        let cgroups = self.cgroups.remove();
        self.rdt.as_ref().map_or(Ok(()), |rdt| rdt.remove())?;
        cgroups
    }

    /// Brings the network devices of a container that never ran back to where they came from.
    pub fn take_devices_back(&self) {
        if self.net_devices.is_empty() {
            return;
        }
        let given = netdev::Given::known(self.init_process_pid, &self.net_devices);
        if let Err(e) = given.and_then(netdev::Given::take_back) {
            crate::log::warning(&e.message);
        }
    }

    /// The state as the specification has it.
    pub fn state(&self, status: &str) -> serde_json::Value {
        let pid = if status == "stopped" {
            0
        } else {
            self.init_process_pid
        };
        json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "status": status,
            "pid": pid,
            "bundle": self.bundle,
            "annotations": self.annotations,
        })
    }
}

/// The start time of a process that lives (a zombie does not).
pub fn start_time(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may have anything in it.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

pub fn alive(pid: i32, start: u64) -> bool {
    pid > 0 && start_time(pid) == Some(start)
}

/// The time now, as RFC 3339 in UTC.
pub fn now() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format_time(since.as_secs(), since.subsec_nanos())
}

fn format_time(seconds: u64, nanoseconds: u32) -> String {
    // SAFETY: a zeroed tm is valid, and gmtime_r only writes to it.
    let tm = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        let time = seconds as libc::time_t;
        libc::gmtime_r(&raw const time, &raw mut tm);
        tm
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{nanoseconds:09}Z",
        tm.tm_year + 1900,
        tm.tm_mon + 1,
        tm.tm_mday,
        tm.tm_hour,
        tm.tm_min,
        tm.tm_sec
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(
            format_time(951_782_400, 5),
            "2000-02-29T00:00:00.000000005Z"
        );
    }

    #[test]
    fn ids_cannot_leave_the_root() {
        for id in ["", ".", "..", "a/b", "a b", "ä"] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
        assert!(check_id("a_b-c.1+").is_ok());
    }

    #[test]
    fn this_process_lives_since_its_start() {
        let pid = std::process::id() as i32;
        let start = start_time(pid).unwrap();
        assert!(alive(pid, start));
        assert!(!alive(pid, start + 1));
        assert!(!alive(0, start));
    }
}
