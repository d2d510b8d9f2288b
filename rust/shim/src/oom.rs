//! Out-of-memory notices of the containers' cgroups.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::EventfdFlags;
use rustix::fs::inotify;

use crate::cgroup::Cgroup;
use crate::event_loop::{EventLoop, Registration, Token};
use crate::event_names as names;
use crate::log::warn;
use crate::process::ProcessId;
use crate::proto::containerd::events::TaskOom;
use crate::shim::Shim;
use crate::stats::files;

/// A cgroup being watched.
pub struct Watch {
    fd: OwnedFd,
    registration: Registration,
    cgroup: PathBuf,
    /// v2 counts its kills in a file; v1 signals each one.
    kills: Option<u64>,
}

impl Watch {
    pub fn start(
        events: &mut EventLoop,
        cgroup: &Cgroup,
        process: ProcessId,
    ) -> io::Result<Option<Self>> {
        let Some((path, unified)) = cgroup.memory() else {
            return Ok(None);
        };
        let (fd, kills) = if unified {
            (watch_v2(&path)?, Some(kills(&path)))
        } else {
            (watch_v1(&path)?, None)
        };
        let registration = events.add(&fd, Token::Oom(process))?;
        Ok(Some(Self {
            fd,
            registration,
            cgroup: path,
            kills,
        }))
    }

    /// Reads a notice; whether the kernel killed something since the last one.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let mut any = false;
        while rustix::io::read(&self.fd, &mut buffer).is_ok_and(|n| n > 0) {
            any = true;
        }
        match &mut self.kills {
            Some(before) => {
                let now = kills(&self.cgroup);
                std::mem::replace(before, now) < now
            }
            // The cgroup's removal signals too.
            None => any && self.cgroup.exists(),
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// cgroup v1: an eventfd is registered with the memory controller.
fn watch_v1(path: &Path) -> io::Result<OwnedFd> {
    let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let control = File::open(path.join("memory.oom_control"))?;
    let line = format!("{} {}", eventfd.as_raw_fd(), control.as_raw_fd());
    std::fs::write(path.join("cgroup.event_control"), line)?;
    Ok(eventfd)
}

/// cgroup v2: `memory.events` is modified when its counts change.
fn watch_v2(path: &Path) -> io::Result<OwnedFd> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&fd, path.join("memory.events"), inotify::WatchFlags::MODIFY)?;
    Ok(fd)
}

fn kills(cgroup: &Path) -> u64 {
    files::pairs(&cgroup.join("memory.events"))
        .get("oom_kill")
        .copied()
        .unwrap_or(0)
}

impl Shim {
    pub fn watch_oom(&mut self, name: &str) {
        let Some(container) = self.containers.get_mut(name) else {
            return;
        };
        let Some(cgroup) = &container.cgroup else {
            return;
        };
        match Watch::start(&mut self.events, cgroup, container.init) {
            Ok(watch) => container.oom = watch,
            Err(e) => warn!("{name}: out-of-memory events cannot be watched: {e}"),
        }
    }

    pub fn on_oom(&mut self, init: ProcessId) {
        let Some(name) = self.processes.get(&init).map(|p| p.container.clone()) else {
            return;
        };
        let killed = match self.containers.get_mut(&name).and_then(|c| c.oom.as_mut()) {
            Some(watch) => watch.read(),
            None => false,
        };
        if killed {
            self.publish(names::OOM, names::TASK_OOM, &TaskOom { container_id: name });
        }
    }

    /// Looks once more, so that a kill that ended the container is told before its exit.
    pub fn stop_oom(&mut self, name: &str) {
        let Some(container) = self.containers.get(name) else {
            return;
        };
        self.on_oom(container.init);
        let Some(container) = self.containers.get_mut(name) else {
            return;
        };
        if let Some(watch) = container.oom.take() {
            self.events.remove(&watch, watch.registration);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_kill_in_a_v2_cgroup_is_noticed_once() {
        let path = std::env::temp_dir().join(format!("shim-oom-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let write = |text: &str| std::fs::write(path.join("memory.events"), text).unwrap();
        write("oom 0\noom_kill 3\n");
        let mut events = EventLoop::new().unwrap();
        let cgroup = Cgroup::V2(path.clone());
        let mut watch = Watch::start(&mut events, &cgroup, 7).unwrap().unwrap();
        assert!(!watch.read());
        write("oom 1\noom_kill 3\n");
        assert_eq!(
            events.wait(Some(Duration::from_secs(5))).unwrap().0,
            [Token::Oom(7)]
        );
        assert!(!watch.read(), "a limit was hit, nothing was killed");
        write("oom 1\noom_kill 4\n");
        assert_eq!(
            events.wait(Some(Duration::from_secs(5))).unwrap().0,
            [Token::Oom(7)]
        );
        assert!(watch.read());
        assert!(!watch.read());
        std::fs::remove_dir_all(path).unwrap();
    }
}
