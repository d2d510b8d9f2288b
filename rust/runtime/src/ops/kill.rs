//! kill: a signal for the container's init, or for all of its processes.

use std::os::fd::AsRawFd;

use crate::error::{Class, Context, Error, Result};
use crate::state::{self, Place, Record, Status};
use crate::{Runtime, sys};

impl Runtime {
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        let place = Place::of(&self.root, id)?;
        let record = place.load()?;
        if !all && place.status(&record) == Status::Stopped {
            return Err(not_running());
        }
        self.kill_record(&record, signal, all)
    }

    pub(crate) fn kill_record(&self, record: &Record, signal: i32, all: bool) -> Result<()> {
        if !(0..=64).contains(&signal) {
            return Err(Error::invalid(format!("unknown signal {signal}")));
        }
        if all {
            return record.cgroups.signal_all(signal);
        }
        let pid = record.init_process_pid;
        let process = sys::pidfd_open(pid).map_err(|_| not_running())?;
        // The descriptor is of the process that has this start time, or of nobody of ours.
        if !state::alive(pid, record.init_process_start) {
            return Err(not_running());
        }
        match sys::pidfd_send_signal(process.as_raw_fd(), signal) {
            Err(sys::Errno(libc::ESRCH)) => return Err(not_running()),
            other => other.context(|| format!("signal {signal}"))?,
        }
        if signal == libc::SIGKILL && record.cgroups.is_frozen() {
            // A frozen process would die only once it is thawed.
            record.cgroups.freeze(false)?;
        }
        Ok(())
    }
}

fn not_running() -> Error {
    Error::new(Class::State, "container not running")
}
