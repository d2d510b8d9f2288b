//! Start: of a container's init, of an exec, of a container restored from a checkpoint.

use crate::cgroup::Cgroup;
use crate::event_names as names;
use crate::process::{Phase, ProcessId};
use crate::proto::containerd::events::{TaskExecStarted, TaskStart};
use crate::proto::containerd::task::v3::{StartRequest, StartResponse};
use crate::runtime::{ExecRequest, ProcessIo, RestoreRequest, RuntimeError, Started};
use crate::shim::Shim;
use crate::stdio::Prepared;
use crate::ttrpc::Status;
use crate::ttrpc::server::Reply;

impl Shim {
    pub(super) fn start(&mut self, request: StartRequest, reply: Reply) {
        match self.find(&request.id, &request.exec_id) {
            Err(status) => self.refuse(reply, status),
            Ok(process) if request.exec_id.is_empty() => {
                self.lock(process, move |shim| {
                    shim.start_init(process, &request.id, reply)
                });
            }
            Ok(process) => {
                self.lock(process, move |shim| {
                    shim.start_exec(process, request, reply)
                });
            }
        }
    }

    fn start_init(&mut self, id: ProcessId, name: &str, reply: Reply) {
        let phase = match self.process(id) {
            Ok(p) => p.phase(),
            Err(status) => return self.refuse(reply, status),
        };
        let refusal = match phase {
            Phase::Created => {
                self.mark_starting(id, true);
                let call = match self.container(name) {
                    Ok(container) => container.runtime.start(name),
                    Err(status) => return self.finish_start(id, reply, Err(status)),
                };
                self.run(call, move |shim, result| {
                    let result =
                        result.map_err(|e| Status::unknown(e.during("OCI runtime start failed")));
                    shim.finish_start(id, reply, result);
                });
                return;
            }
            Phase::CreatedFromCheckpoint => return self.restore(id, name, reply),
            Phase::Running => "cannot start a running process",
            Phase::Paused => "cannot start a paused process",
            Phase::Stopped => "cannot start a stopped process",
            Phase::Deleted => "cannot start a deleted process",
        };
        self.unlock(id);
        self.refuse(reply, Status::unknown(refusal));
    }

    fn restore(&mut self, id: ProcessId, name: &str, reply: Reply) {
        let Some(container) = self.containers.get_mut(name) else {
            return self.finish_start(id, reply, Err(Status::not_found("container not created")));
        };
        let Some(mut checkpoint) = container.checkpoint.take() else {
            let status = Status::unknown("the restore failed before; delete the task");
            return self.finish_start(id, reply, Err(status));
        };
        let work = match container.options.criu_work_path.as_str() {
            "" => container.bundle.join("work").to_string_lossy().into_owned(),
            path => path.to_owned(),
        };
        let call = container.runtime.restore(RestoreRequest {
            id: name,
            io: std::mem::replace(&mut checkpoint.prepared.io, ProcessIo::Terminal),
            no_pivot_root: container.options.no_pivot_root,
            image_path: &checkpoint.path,
            work_path: &work,
            parent_path: &checkpoint.parent,
        });
        self.mark_starting(id, true);
        let name = name.to_owned();
        let key = reply.key();
        self.run_making(call, key, move |shim, result| {
            let result = match result {
                Err(e) => {
                    // There will never be a process to wait for.
                    shim.start_failed(id);
                    Err(Status::unknown(e.during("OCI runtime restore failed")))
                }
                Ok(started) => {
                    if let Some(container) = shim.containers.get_mut(&name) {
                        container.cgroup = Cgroup::of(started.pid).ok();
                    }
                    shim.watch_oom(&name);
                    shim.take_up(id, checkpoint.prepared, started)
                }
            };
            shim.finish_start(id, reply, result);
        });
    }

    /// A process that the runtime made during its start: its streams run, its exit is its own.
    fn take_up(
        &mut self,
        id: ProcessId,
        prepared: Prepared,
        started: Started,
    ) -> Result<(), Status> {
        let Some(p) = self.processes.get_mut(&id) else {
            return Ok(());
        };
        p.pid = started.pid;
        let logger = p.streams.logger;
        let attached = self.attach(id, prepared, started.console, logger);
        self.track(id, started.pid);
        attached.map_err(|e| Status::unknown(format!("failed to start io pipe copy: {e}")))
    }

    fn finish_start(&mut self, id: ProcessId, reply: Reply, result: Result<(), Status>) {
        if let Some(p) = self.processes.get_mut(&id)
            && result.is_ok()
        {
            p.phase = Phase::Running;
            let (pid, container_id) = (p.wire_pid(), p.container.clone());
            self.publish(
                names::START,
                names::TASK_START,
                &TaskStart { container_id, pid },
            );
            self.meet_client(id);
            self.answer(reply, &StartResponse { pid });
        } else {
            self.refuse(
                reply,
                result.err().unwrap_or_else(|| Status::not_found("process")),
            );
        }
        self.mark_starting(id, false);
        self.unlock(id);
        self.settle_exit(id);
    }

    fn start_exec(&mut self, id: ProcessId, request: StartRequest, reply: Reply) {
        let refusal = match self.process(id).map(|p| p.phase()) {
            Ok(Phase::Created) => None,
            Ok(Phase::Deleted) => Some(Status::unknown("cannot start a deleted process")),
            Ok(Phase::Stopped) => Some(Status::unknown("cannot start a stopped process")),
            Ok(_) => Some(Status::unknown("cannot start a running process")),
            Err(status) => Some(status),
        };
        let refusal = refusal.or_else(|| {
            let init = self.find(&request.id, "").ok()?;
            let gone = self.processes.get(&init).is_none_or(|p| p.exit.is_some());
            let text = format!("container {} init process is not running", request.id);
            gone.then(|| Status::failed_precondition(text))
        });
        if let Some(status) = refusal {
            self.unlock(id);
            return self.refuse(reply, status);
        }
        if let Some(container) = self.containers.get_mut(&request.id) {
            container.running_execs += 1;
        }
        self.mark_starting(id, true);
        let prepared = self.prepare_exec(id, &request.id);
        let mut prepared = match prepared {
            Ok(prepared) => prepared,
            Err(status) => return self.exec_not_started(id, reply, status, false),
        };
        match prepared.logger.take() {
            None => self.exec_with(id, request, prepared, reply),
            Some((uri, pipes)) => {
                let exec_id = request.exec_id.clone();
                self.start_logger(
                    &uri,
                    pipes,
                    &exec_id,
                    Box::new(move |shim, result| match result {
                        Ok(pid) => {
                            if let Some(p) = shim.processes.get_mut(&id) {
                                p.streams.logger = Some(pid);
                            }
                            shim.exec_with(id, request, prepared, reply);
                        }
                        Err(e) => {
                            let text = format!("failed to create exec process I/O: {e}");
                            shim.exec_not_started(id, reply, Status::unknown(text), false);
                        }
                    }),
                );
            }
        }
    }

    fn prepare_exec(&mut self, id: ProcessId, name: &str) -> Result<Prepared, Status> {
        let options = &self.container(name)?.options;
        let owner = (options.io_uid, options.io_gid);
        let stdio = self.process(id)?.stdio.clone();
        Prepared::open(&stdio, owner, &self.byte_streams)
            .map_err(|e| Status::unknown(format!("failed to create exec process I/O: {e}")))
    }

    fn exec_with(
        &mut self,
        id: ProcessId,
        request: StartRequest,
        mut prepared: Prepared,
        reply: Reply,
    ) {
        let (Some(container), Some(p)) = (
            self.containers.get(&request.id),
            self.processes.get_mut(&id),
        ) else {
            return self.exec_not_started(
                id,
                reply,
                Status::not_found("container not created"),
                false,
            );
        };
        let call = container.runtime.exec(ExecRequest {
            id: &request.id,
            exec_id: &request.exec_id,
            spec: &p.spec,
            io: std::mem::replace(&mut prepared.io, ProcessIo::Terminal),
        });
        let key = reply.key();
        let maker = self.run_making(call, key, move |shim, result| {
            if let Some(p) = shim.processes.get_mut(&id) {
                p.maker = 0;
            }
            match result {
                Ok(started) => shim.exec_started(id, prepared, started, reply),
                Err(e) => shim.exec_failed(id, reply, &e),
            }
        });
        if let (Some(p), Some(pid)) = (self.processes.get_mut(&id), maker) {
            p.maker = pid;
        }
    }

    fn exec_started(&mut self, id: ProcessId, prepared: Prepared, started: Started, reply: Reply) {
        let logger = self.processes.get(&id).and_then(|p| p.streams.logger);
        if let Err(status) = self.take_up(id, prepared, started) {
            self.complain("exec", &status);
        }
        if let Some(pid) = logger {
            self.follow_logger(id, pid);
        }
        if let Some(p) = self.processes.get_mut(&id) {
            p.phase = Phase::Running;
            // It runs once; a long environment need not stay.
            p.spec = Vec::new();
            let event = TaskExecStarted {
                container_id: p.container.clone(),
                exec_id: p.exec_id.clone(),
                pid: p.wire_pid(),
            };
            self.publish(names::EXEC_STARTED, names::TASK_EXEC_STARTED, &event);
            self.meet_client(id);
            self.answer(reply, &StartResponse { pid: event.pid });
        }
        self.mark_starting(id, false);
        self.unlock(id);
        self.settle_exit(id);
    }

    fn exec_failed(&mut self, id: ProcessId, reply: Reply, error: &RuntimeError) {
        let status = Status::unknown(error.during("OCI runtime exec failed"));
        self.exec_not_started(id, reply, status, true);
    }

    /// `final_`: the runtime tried; nobody may wait for the process any more.
    fn exec_not_started(&mut self, id: ProcessId, reply: Reply, status: Status, final_: bool) {
        let mut container = String::new();
        if let Some(p) = self.processes.get_mut(&id) {
            container.clone_from(&p.container);
            let logger = p.streams.logger.take();
            self.discard_logger(logger);
        }
        if final_ {
            self.start_failed(id);
        }
        self.refuse(reply, status);
        self.mark_starting(id, false);
        self.unlock(id);
        self.exec_is_gone(id, &container);
    }

    fn mark_starting(&mut self, id: ProcessId, starting: bool) {
        if let Some(p) = self.processes.get_mut(&id) {
            p.starting = starting;
        }
    }
}
