//! Exits: from the reaper to the waiters and the event.
//!
//! An exit is told when three things are true, in this order of cause: the start was told before it;
//! for an init, all execs of its container were told before it (those without a PID namespace to
//! take them down are killed first); and the output has been passed on. An exec that cannot be ended,
//! or whose start never returns, is not waited for without a limit ([`EXEC_LIMIT`]).

use std::time::{Duration, SystemTime};

use crate::clock;
use crate::container::KillAll;
use crate::event_loop::Timer;
use crate::event_names as names;
use crate::log::warn;
use crate::process::{Exit, Phase, ProcessId, UNKNOWN_EXIT_STATUS};
use crate::proto::containerd::events::TaskExit;
use crate::proto::containerd::task::v3::WaitResponse;
use crate::shim::Shim;
use crate::spawn;

/// How long execs may outlive their container's init.
const EXEC_LIMIT: Duration = Duration::from_secs(2);

impl Shim {
    pub fn process_exited(&mut self, id: ProcessId, status: i32, at: SystemTime) {
        let Some(p) = self.processes.get_mut(&id) else {
            return;
        };
        p.exit = Some(Exit {
            status: spawn::exit_code(status),
            at,
        });
        self.pids.remove(&p.pid);
        self.stop_input(id);
        self.settle_exit(id);
    }

    /// Tells the exit if it is time; whoever brings that time nearer calls this again.
    pub fn settle_exit(&mut self, id: ProcessId) {
        let Some(p) = self.processes.get(&id) else {
            return;
        };
        if p.exit.is_none() || p.exit_published || p.starting {
            return;
        }
        if p.is_init() && !self.others_are_gone(id) {
            return;
        }
        if self.drained(id) {
            self.publish_exit(id);
        }
    }

    /// Whether all execs have been told; starts the killing of those that live on.
    fn others_are_gone(&mut self, init: ProcessId) -> bool {
        let Some(p) = self.processes.get(&init) else {
            return true;
        };
        let (name, paused) = (p.container.clone(), p.phase == Phase::Paused);
        let Some(container) = self.containers.get_mut(&name) else {
            return true;
        };
        let runtime = container.runtime.clone();
        match container.kill_all {
            KillAll::Needed => {
                container.kill_all = KillAll::UnderWay;
                let call = runtime.kill(&name, libc::SIGKILL as u32, true);
                self.run(call, move |shim, result| {
                    if let Err(e) = result {
                        warn!(
                            "failed to kill init's children: {}",
                            e.during("OCI runtime killall failed")
                        );
                    }
                    if let Some(container) = shim.containers.get_mut(&name) {
                        container.kill_all = KillAll::Done;
                    }
                    shim.settle_exit(init);
                });
                if paused {
                    self.thaw(init);
                }
                false
            }
            KillAll::UnderWay => false,
            KillAll::NotNeeded | KillAll::Done if container.running_execs == 0 => true,
            KillAll::NotNeeded | KillAll::Done => {
                if !std::mem::replace(&mut container.counting, true) {
                    self.events.arm(EXEC_LIMIT, Timer::Execs(init));
                }
                false
            }
        }
    }

    /// Init has been gone for a while, and execs of its container have not been told: they cannot go
    /// on without it. Their end is forced; should that take as long again, init's is told before.
    pub fn press_execs(&mut self, init: ProcessId) {
        let Some(name) = self.processes.get(&init).map(|p| p.container.clone()) else {
            return;
        };
        let Some(container) = self.containers.get(&name) else {
            return;
        };
        let execs: Vec<ProcessId> = container.execs.values().copied().collect();
        let mut forsaken = 0;
        for id in execs {
            let Some(exec) = self.processes.get_mut(&id) else {
                continue;
            };
            // One that has ended waits for its output alone, which has a limit of its own.
            let goes_on = exec.starting || exec.pid != 0;
            if !goes_on || exec.exit.is_some() || exec.forsaken {
                continue;
            }
            if exec.pressed {
                warn!(
                    "{name}: exec {} does not end; no longer waiting",
                    exec.exec_id
                );
                exec.forsaken = true;
                forsaken += 1;
                continue;
            }
            exec.pressed = true;
            let pid = if exec.pid != 0 { exec.pid } else { exec.maker };
            if pid > 0 {
                warn!(
                    "{name}: init is gone, its exec {} is not: SIGKILL",
                    exec.exec_id
                );
                // SAFETY: signals a child that has not been reaped; no memory is passed.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
        if let Some(container) = self.containers.get_mut(&name) {
            container.running_execs = container.running_execs.saturating_sub(forsaken);
            if container.running_execs > 0 {
                self.events.arm(EXEC_LIMIT, Timer::Execs(init));
            }
        }
        self.settle_exit(init);
    }

    /// A frozen container's processes die only once it is thawed.
    fn thaw(&mut self, init: ProcessId) {
        let Some(p) = self.processes.get_mut(&init) else {
            return;
        };
        p.phase = Phase::Running;
        let name = p.container.clone();
        let Some(container) = self.containers.get(&name) else {
            return;
        };
        let call = container.runtime.resume(&name);
        self.run(call, |_, result| {
            if let Err(e) = result {
                warn!("resuming exited container from paused state: {}", e.summary);
            }
        });
    }

    fn publish_exit(&mut self, id: ProcessId) {
        let Some(p) = self.processes.get_mut(&id) else {
            return;
        };
        let Some(exit) = p.exit else { return };
        p.exit_published = true;
        let was_paused = p.phase == Phase::Paused;
        p.phase = Phase::Stopped;
        let (waiters, steps) = (
            std::mem::take(&mut p.waiters),
            std::mem::take(&mut p.on_published),
        );
        let event = TaskExit {
            container_id: p.container.clone(),
            id: p.id().into(),
            pid: p.wire_pid(),
            exit_status: exit.status,
            exited_at: Some(clock::timestamp(exit.at)),
        };
        let (is_init, name) = (p.is_init(), p.container.clone());
        if is_init {
            self.stop_oom(&name);
            if was_paused {
                self.thaw(id);
                if let Some(p) = self.processes.get_mut(&id) {
                    p.phase = Phase::Stopped;
                }
            }
        }
        let response = WaitResponse {
            exit_status: exit.status,
            exited_at: Some(clock::timestamp(exit.at)),
        };
        for waiter in waiters {
            self.answer(waiter, &response);
        }
        self.publish(names::EXIT, names::TASK_EXIT, &event);
        for step in steps {
            self.defer(step);
        }
        if is_init {
            self.sandbox_progress();
            self.watch_idleness();
        } else {
            self.exec_is_gone(id, &name);
        }
    }

    /// One exec fewer holds up its container's exit.
    pub fn exec_is_gone(&mut self, exec: ProcessId, container: &str) {
        let forsaken = self.processes.get(&exec).is_some_and(|p| p.forsaken);
        if forsaken {
            return;
        }
        let Some(container) = self.containers.get_mut(container) else {
            return;
        };
        container.running_execs = container.running_execs.saturating_sub(1);
        let init = container.init;
        self.settle_exit(init);
    }

    /// A process that never ran: who waits for it is told that nothing is known of its end.
    pub fn start_failed(&mut self, id: ProcessId) {
        let Some(p) = self.processes.get_mut(&id) else {
            return;
        };
        let at = SystemTime::now();
        p.exit = Some(Exit {
            status: UNKNOWN_EXIT_STATUS,
            at,
        });
        p.exit_published = true;
        p.phase = Phase::Stopped;
        let waiters = std::mem::take(&mut p.waiters);
        let response = WaitResponse {
            exit_status: UNKNOWN_EXIT_STATUS,
            exited_at: Some(clock::timestamp(at)),
        };
        for waiter in waiters {
            self.answer(waiter, &response);
        }
    }
}
