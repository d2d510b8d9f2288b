//! delete: what a container has left goes: its processes, cgroups, state.

use std::os::fd::AsRawFd;

use crate::error::{Class, Context, Error, Result};
use crate::state::{self, Place, Record, Status};
use crate::{Runtime, hooks, hostmounts, sys};

/// How long a killed process may take to be gone.
const DEATH_LIMIT_MS: i32 = 10_000;

impl Runtime {
    /// `force` kills what runs, and is content with a container that does not exist.
    pub fn delete(&self, id: &str, force: bool) -> Result<()> {
        let place = Place::of(&self.root, id)?;
        let record = match place.load() {
            Ok(record) => record,
            Err(e) if e.class == Class::NotFound && force => return place.remove(),
            Err(e) if e.class == Class::NotFound && place.exists() => {
                // Its maker died before anything else was made.
                return place.remove();
            }
            Err(e) => return Err(e),
        };
        match place.status(&record) {
            Status::Stopped => {}
            Status::Created => {
                record.take_devices_back();
                self.end(&record)?;
            }
            _ if force => self.end(&record)?,
            status => {
                let name = status.name();
                return Err(Error::new(
                    Class::State,
                    format!("cannot delete container {id} that is not stopped: {name}"),
                ));
            }
        }
        if record.shares_pid_namespace || force {
            record.cgroups.signal_all(libc::SIGKILL)?;
        }
        hostmounts::remove(&record)?;
        record.remove_groups()?;
        let hooks = place.config().map(|spec| spec.hooks.poststop);
        place.remove()?;
        for hook in hooks.unwrap_or_default() {
            // The specification wants a warning, and the other hooks run.
            let state = record.state("stopped");
            if let Err(e) = hooks::run_all("poststop", std::slice::from_ref(&hook), &state) {
                crate::log::warning(&e.message);
            }
        }
        Ok(())
    }

    fn end(&self, record: &Record) -> Result<()> {
        let pid = record.init_process_pid;
        let process = sys::pidfd_open(pid);
        match self.kill_record(record, libc::SIGKILL, false) {
            Err(e) if e.class == Class::State => return Ok(()),
            other => other?,
        }
        let Ok(process) = process else { return Ok(()) };
        let gone = sys::poll_in(process.as_raw_fd(), Some(DEATH_LIMIT_MS))
            .context(|| "waiting for the container's end".into())?;
        if !gone && state::alive(pid, record.init_process_start) {
            return Err(Error::failed("container init still running"));
        }
        Ok(())
    }
}
