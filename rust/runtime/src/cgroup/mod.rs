//! The container's cgroups: v1 hierarchies (a v2 one beside them is left alone, as runc does), or v2.
//!
//! Only directories made here are ever removed; a cgroup that has processes of others is refused.

mod bpf;
mod discover;
mod freeze;
pub mod systemd;
mod v1;
mod v2;

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Class, Context, Error, Result};
use crate::spec::Resources;
use crate::sys;

/// How long the kernel is given to let go of a cgroup whose processes are dead.
const REMOVE_LIMIT: Duration = Duration::from_secs(5);

/// The container's directory in one v1 hierarchy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hierarchy {
    pub mountpoint: PathBuf,
    pub path: PathBuf,
    /// `cpu` and `cpuacct`, or `name=systemd`.
    pub controllers: Vec<String>,
    pub made: bool,
}

impl Hierarchy {
    /// How the host calls it: `cpu,cpuacct`, `systemd`.
    pub fn directory_name(&self) -> String {
        let name = self.mountpoint.file_name();
        name.map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    pub fn mount_option(&self) -> String {
        self.controllers.join(",")
    }

    /// Other names its controllers go by.
    pub fn aliases(&self) -> Vec<&str> {
        let name = self.directory_name();
        match self.controllers.len() {
            1 => Vec::new(),
            _ => self
                .controllers
                .iter()
                .map(String::as_str)
                .filter(|c| *c != name)
                .collect(),
        }
    }

    /// As people call it: `cpu`, `systemd`.
    fn is_called(&self, controller: &str) -> bool {
        let mut names = self.controllers.iter();
        names.any(|c| c.trim_start_matches("name=") == controller.trim_start_matches("name="))
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Unified {
    pub mountpoint: PathBuf,
    pub path: PathBuf,
    pub made: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cgroups {
    v1: Vec<Hierarchy>,
    v2: Option<Unified>,
    /// The unit of systemd's that it is.
    #[serde(default)]
    unit: Option<systemd::Place>,
}

/// A cgroup below the container's, which has to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubCgroup {
    /// Whose hierarchies; none is all of them.
    pub controllers: Vec<String>,
    pub path: String,
}

impl Cgroups {
    /// Where the container's cgroups are to be; nothing is made yet. An empty path is the id.
    pub fn locate(path: &str, id: &str) -> Result<Self> {
        let path = if path.is_empty() { id } else { path };
        let wrong = Path::new(path)
            .components()
            .any(|part| part == Component::ParentDir);
        if wrong {
            return Err(Error::invalid(format!(
                "linux.cgroupsPath {path:?}: has \"..\""
            )));
        }
        discover::locate(path)
    }

    /// As [`Cgroups::locate`], for a unit of systemd's.
    pub fn locate_unit(path: &str, id: &str) -> Result<Self> {
        let place = systemd::place(path, id)?;
        let mut cgroups = Self::locate(&place.path, id)?;
        cgroups.unit = Some(place);
        Ok(cgroups)
    }

    /// The same cgroups, or those below them that are named.
    pub fn below(&self, places: &[SubCgroup]) -> Result<Self> {
        let mut cgroups = self.clone();
        for place in places {
            let below = Path::new(&place.path);
            let parts = below.components();
            if place.path.is_empty() || parts.into_iter().any(|p| p == Component::ParentDir) {
                let text = format!("{} is not a sub cgroup path", place.path);
                return Err(Error::invalid(text));
            }
            let below = below.strip_prefix("/").unwrap_or(below);
            let all = place.controllers.is_empty();
            if let Some(v2) = &mut cgroups.v2 {
                if !all {
                    let text = format!(
                        "sub cgroup {}:{}: this host's cgroups are v2, which have no controller of their own",
                        place.controllers.join(","),
                        place.path
                    );
                    return Err(Error::invalid(text));
                }
                v2.path.push(below);
            }
            let unknown = |c: &&String| !self.v1.iter().any(|h| h.is_called(c));
            if let Some(unknown) = place.controllers.iter().find(unknown) {
                let text = format!(
                    "unknown controller {unknown:?} in sub cgroup: {}",
                    place.path
                );
                return Err(Error::invalid(text));
            }
            for (h, own) in cgroups.v1.iter_mut().zip(&self.v1) {
                if all || place.controllers.iter().any(|c| h.is_called(c)) {
                    h.path = own.path.join(below);
                }
            }
        }
        for (path, _) in cgroups.directories() {
            if !path.is_dir() {
                let text = format!("sub cgroup {}: it does not exist", path.display());
                return Err(Error::new(Class::NotFound, text));
            }
        }
        Ok(cgroups)
    }

    /// Leaves out where this user may make nothing.
    pub fn forgive(&mut self) {
        let possible = |path: &Path| {
            let there = path.ancestors().find(|path| path.exists());
            there.is_some_and(sys::is_writable)
        };
        self.v1.retain(|h| possible(&h.path));
        self.v2 = self.v2.take().filter(|v2| possible(&v2.path));
    }

    pub fn v1(&self) -> &[Hierarchy] {
        &self.v1
    }

    pub fn is_unified(&self) -> bool {
        self.v2.is_some()
    }

    pub fn v2_path(&self) -> Option<PathBuf> {
        self.v2.as_ref().map(|v2| v2.path.clone())
    }

    /// The directory whose state stops every process.
    pub fn freezer(&self) -> Option<PathBuf> {
        let v1 = self.v1.iter().find(|h| h.has("freezer"));
        v1.map(|h| h.path.clone()).or_else(|| self.v2_path())
    }

    /// Each controller (none for v2) and the container's place in its hierarchy.
    pub fn roots(&self) -> Vec<(String, String)> {
        let place = |mountpoint: &Path, path: &Path| {
            let below = path.strip_prefix(mountpoint).unwrap_or(path);
            format!("/{}", below.display())
        };
        let v1 = self.v1.iter().flat_map(|h| {
            let place = place(&h.mountpoint, &h.path);
            h.controllers
                .iter()
                .map(move |c| (c.clone(), place.clone()))
        });
        let v2 = self
            .v2
            .iter()
            .map(|u| (String::new(), place(&u.mountpoint, &u.path)));
        v1.chain(v2).collect()
    }

    fn directories(&self) -> impl Iterator<Item = (&Path, bool)> {
        let v1 = self.v1.iter().map(|h| (h.path.as_path(), h.made));
        v1.chain(self.v2.iter().map(|u| (u.path.as_path(), u.made)))
    }

    /// The names and paths that runc's state file has.
    pub fn paths(&self) -> impl Iterator<Item = (String, &Path)> {
        let v1 = self.v1.iter().flat_map(|h| {
            let names = h.controllers.iter();
            names.map(|c| (c.trim_start_matches("name=").to_owned(), h.path.as_path()))
        });
        v1.chain(self.v2.iter().map(|u| (String::new(), u.path.as_path())))
    }

    /// Makes the directories and sets the limits. What was made goes again if something fails. What comes
    /// back has to be kept until the container's process is in them.
    pub fn make(&mut self, resources: Option<&Resources>) -> Result<Option<systemd::StandIn>> {
        let unified = self.is_unified();
        let stand_in = match &mut self.unit {
            Some(unit) => {
                let stand_in = systemd::start(unit, resources, unified)?;
                unit.made = true;
                Some(stand_in)
            }
            None => None,
        };
        let result = self.make_directories().and_then(|()| match resources {
            Some(resources) => self.write_limits(resources),
            None => Ok(()),
        });
        let result = result.map(|()| stand_in);
        if result.is_err() {
            let _ = self.remove();
        }
        result
    }

    fn make_directories(&mut self) -> Result<()> {
        let units = self.unit.is_some();
        let make_directory = |path: &Path| match units {
            // Some are systemd's and have the process that stands in.
            true => fs::create_dir_all(path)
                .context(|| format!("cgroup {}", path.display()))
                .map(|()| true),
            false => make_directory(path),
        };
        for h in &mut self.v1 {
            h.made = make_directory(&h.path)?;
            if h.has("cpuset") {
                v1::fill_cpuset(&h.mountpoint, &h.path)?;
            }
        }
        if let Some(v2) = &mut self.v2 {
            v2::make_ancestors(&v2.mountpoint, &v2.path)?;
            v2.made = make_directory(&v2.path)?;
        }
        Ok(())
    }

    /// Sets what `resources` has and leaves the rest as it is.
    pub fn set(&self, resources: &Resources) -> Result<()> {
        if let Some(unit) = &self.unit {
            systemd::update(&unit.unit, resources, self.is_unified())?;
        }
        self.write_limits(resources)
    }

    fn write_limits(&self, resources: &Resources) -> Result<()> {
        match &self.v2 {
            Some(v2) => v2::set(&v2.path, resources),
            None => v1::set(&self.v1, resources),
        }
    }

    /// Makes the v2 cgroup a user's, with the files that one who is given a cgroup needs. v1 knows no
    /// safe way.
    pub fn give(&self, uid: u32) -> Result<()> {
        let Some(v2) = &self.v2 else { return Ok(()) };
        let list = fs::read_to_string("/sys/kernel/cgroup/delegate")
            .unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads".into());
        for name in list.lines().chain([""]) {
            let path = v2.path.join(name);
            match std::os::unix::fs::chown(&path, Some(uid), None) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                other => other.context(|| format!("owner of {}", path.display()))?,
            }
        }
        Ok(())
    }

    /// What a process needs to go into the v1 cgroups by itself.
    pub fn open_tasks(&self) -> Result<Vec<OwnedFd>> {
        let open = |h: &Hierarchy| {
            let file = h.path.join("tasks");
            let opened = fs::OpenOptions::new().write(true).open(&file);
            opened
                .map(OwnedFd::from)
                .context(|| file.display().to_string())
        };
        self.v1.iter().map(open).collect()
    }

    /// The directory to clone a process into.
    pub fn open_v2(&self) -> Result<Option<OwnedFd>> {
        let Some(v2) = &self.v2 else { return Ok(None) };
        let file = fs::File::open(&v2.path).context(|| v2.path.display().to_string())?;
        Ok(Some(file.into()))
    }

    /// The processes in the container's cgroups, those below them too.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let first = self.v1.iter().find(|h| h.has("pids") || h.has("devices"));
        let v1 = first.or(self.v1.first()).map(|h| h.path.as_path());
        let Some(path) = v1.or(self.v2.as_ref().map(|u| u.path.as_path())) else {
            return Ok(Vec::new());
        };
        let mut list = Vec::new();
        collect(path, &mut list)?;
        list.sort_unstable();
        list.dedup();
        Ok(list)
    }

    /// A file of a controller, if the host has it.
    pub fn read(&self, controller: &str, file: &str) -> Option<String> {
        let v1 = self.v1.iter().find(|h| h.has(controller)).map(|h| &h.path);
        let directory = v1.or(self.v2.as_ref().map(|u| &u.path))?;
        fs::read_to_string(directory.join(file)).ok()
    }

    /// Sends a signal to every process; SIGKILL in a way that a forking process cannot outrun.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL
            && let Some(v2) = &self.v2
            && fs::write(v2.path.join("cgroup.kill"), "1").is_ok()
        {
            return Ok(());
        }
        let stopped = signal == libc::SIGKILL && self.freeze(true).is_ok();
        let result = self.processes();
        for pid in result.as_deref().unwrap_or_default() {
            let _ = sys::kill(*pid, signal);
        }
        if stopped {
            self.freeze(false)?;
        }
        result.map(drop)
    }

    /// Removes what was made here. Its processes must be dead; the kernel may need a moment for them.
    pub fn remove(&self) -> Result<()> {
        let stopped = match &self.unit {
            Some(unit) if unit.made => match systemd::stop(&unit.unit) {
                // Without systemd there is no unit.
                Err(e) if e.class == Class::Unimplemented => {
                    crate::log::warning(&e.message);
                    Ok(())
                }
                other => other,
            },
            _ => Ok(()),
        };
        let end = Instant::now() + REMOVE_LIMIT;
        for (path, made) in self.directories() {
            if made {
                remove(path, end)?;
            }
        }
        stopped
    }
}

/// Whether the directory was made: false if it was there, without processes.
fn make_directory(path: &Path) -> Result<bool> {
    let what = || format!("cgroup {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).context(what)?;
    }
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let mut list = Vec::new();
            collect(path, &mut list)?;
            match list.len() {
                0 => Ok(false),
                n => Err(Error::new(
                    Class::State,
                    format!(
                        "container's cgroup is not empty: {n} process(es) found in {}; \
                         set another linux.cgroupsPath",
                        path.display()
                    ),
                )),
            }
        }
        Err(e) => Err(e).context(what),
    }
}

fn collect(path: &Path, list: &mut Vec<i32>) -> Result<()> {
    let what = || path.join("cgroup.procs").display().to_string();
    match fs::read_to_string(path.join("cgroup.procs")) {
        Ok(text) => list.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        // A threaded cgroup's processes are listed above it; a removed one has none.
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
        Err(e) => return Err(e).context(what),
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), list)?;
        }
    }
    Ok(())
}

fn remove(path: &Path, end: Instant) -> Result<()> {
    let mut pause = Duration::from_micros(100);
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() != Some(libc::EBUSY) || Instant::now() > end => {
                return Err(e).context(|| format!("removing cgroup {}", path.display()));
            }
            Err(_) => {}
        }
        // What the container made inside goes first.
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path(), end)?;
            }
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Writes one value, in words that name the file and the field it is for.
fn write(directory: &Path, file: &str, value: &str, field: &str) -> Result<()> {
    fs::write(directory.join(file), value).context(|| {
        format!(
            "linux.resources.{field}: write {value:?} to {}/{file}",
            directory.display()
        )
    })
}
