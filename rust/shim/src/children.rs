//! Runtime calls and other children: what goes on when they end.

use std::time::SystemTime;

use crate::log::{debug, info};
use crate::process::ProcessId;
use crate::runtime::{self, Call};
use crate::shim::Shim;
use crate::ttrpc::server::ReplyKey;

impl Shim {
    /// Goes on with `then` when the call is finished; the child's pid if there is one.
    pub fn run<T: 'static>(
        &mut self,
        call: Call<T>,
        then: impl FnOnce(&mut Shim, runtime::Result<T>) + 'static,
    ) -> Option<i32> {
        match call {
            Call::Ready(result) => {
                self.defer(move |shim| then(shim, result));
                None
            }
            Call::Child { pid, finish } => {
                self.children.insert(
                    pid,
                    Box::new(move |shim, status| {
                        let result = finish(status);
                        then(shim, result);
                    }),
                );
                Some(pid)
            }
        }
    }

    /// As [`Shim::run`], for calls that make a process. If the request's deadline passes first,
    /// the runtime program is killed, so that the call fails rather than finish unseen.
    pub fn run_making<T: 'static>(
        &mut self,
        call: Call<T>,
        key: ReplyKey,
        then: impl FnOnce(&mut Shim, runtime::Result<T>) + 'static,
    ) -> Option<i32> {
        self.making += 1;
        let pid = self.run(call, move |shim, result| {
            shim.server.forget_child(key);
            then(shim, result);
            shim.making -= 1;
            if shim.making == 0 {
                shim.early_exits.clear();
            }
        });
        if let Some(pid) = pid {
            self.server.kill_at_deadline(key, pid);
        }
        pid
    }

    pub fn on_child_exit(&mut self, pid: i32, then: impl FnOnce(&mut Shim, i32) + 'static) {
        self.children.insert(pid, Box::new(then));
    }

    /// A child of this process was reaped.
    pub fn child_exited(&mut self, pid: i32, status: i32, at: SystemTime) {
        if let Some(step) = self.children.remove(&pid) {
            step(self, status);
        } else if let Some(process) = self.pids.get(&pid) {
            self.process_exited(*process, status, at);
        } else if self.making > 0 {
            self.early_exits.insert(pid, (status, at));
        } else {
            debug!("reaped {pid}, an orphan of a container");
        }
    }

    /// From now on the exit of `pid` is this process's, and so is one already reaped.
    pub fn track(&mut self, process: ProcessId, pid: i32) {
        self.pids.insert(pid, process);
        if let Some((status, at)) = self.early_exits.remove(&pid) {
            self.process_exited(process, status, at);
        }
    }

    pub fn on_signals(&mut self) {
        let Some((fd, _)) = &self.signals else { return };
        for signal in crate::reaper::drain_signals(fd) {
            match signal {
                libc::SIGTERM | libc::SIGINT => {
                    info!("caught signal {signal}: leaving");
                    self.leave();
                }
                libc::SIGUSR1 => info!(
                    "{} containers, {} processes, {} copies, {} children, {} events queued",
                    self.containers.len(),
                    self.processes.len(),
                    self.pumps.len(),
                    self.children.len(),
                    self.publisher.queued()
                ),
                _ => {}
            }
        }
        // Signals merge: one SIGCHLD may stand for many exits.
        while let Some((pid, status)) = crate::reaper::reap_one() {
            self.child_exited(pid, status, SystemTime::now());
            self.run_deferred();
        }
    }
}
