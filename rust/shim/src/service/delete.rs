//! Delete of an exec, or of a container with all it holds.

use crate::bundle;
use crate::event_names as names;
use crate::log::warn;
use crate::mounts;
use crate::process::{Phase, ProcessId};
use crate::proto::containerd::events::TaskDelete;
use crate::proto::containerd::task::v3::{DeleteRequest, DeleteResponse};
use crate::runtime::RuntimeError;
use crate::shim::Shim;
use crate::ttrpc::Status;
use crate::ttrpc::server::Reply;

impl Shim {
    pub(crate) fn delete(&mut self, request: DeleteRequest, reply: Reply) {
        match self.find(&request.id, &request.exec_id) {
            Err(status) => self.refuse(reply, status),
            Ok(id) => self.lock(id, move |shim| shim.delete_locked(id, request, reply)),
        }
    }

    fn delete_locked(&mut self, id: ProcessId, request: DeleteRequest, reply: Reply) {
        let Ok(p) = self.process(id) else {
            return self.refuse(reply, Status::not_found("cannot delete a deleted process"));
        };
        let refusal = match p.phase() {
            Phase::Running => "cannot delete a running process",
            Phase::Paused => "cannot delete a paused process",
            Phase::Created | Phase::CreatedFromCheckpoint | Phase::Stopped | Phase::Deleted => "",
        };
        if !refusal.is_empty() {
            self.unlock(id);
            return self.refuse(reply, Status::unknown(refusal));
        }
        let is_init = p.is_init();
        let go_on = move |shim: &mut Shim| {
            shim.after_drain(id, move |shim| {
                if is_init {
                    shim.delete_container(id, request, reply);
                } else {
                    shim.close_streams(id, move |shim| shim.delete_exec(id, &request, reply));
                }
            });
        };
        // Its exit has to be told before its end.
        match self.processes.get_mut(&id) {
            Some(p) if p.exit.is_some() && !p.exit_published => {
                p.on_published.push(Box::new(go_on));
            }
            _ => go_on(self),
        }
    }

    fn delete_exec(&mut self, id: ProcessId, request: &DeleteRequest, reply: Reply) {
        let response = self.delete_response(id);
        if let Some(container) = self.containers.get_mut(&request.id) {
            container.execs.remove(&request.exec_id);
            let pid_file = container
                .bundle
                .join(bundle::exec_pid_name(&request.exec_id));
            let _ = std::fs::remove_file(pid_file);
        }
        self.remove_process(id);
        self.answer(reply, &response);
    }

    fn delete_container(&mut self, id: ProcessId, request: DeleteRequest, reply: Reply) {
        let Some(container) = self.containers.get(&request.id) else {
            self.unlock(id);
            return self.refuse(reply, Status::not_found("container not created"));
        };
        let call = container.runtime.delete(&request.id, false);
        self.run(call, move |shim, result| {
            // The runtime may have removed it already, after a checkpoint for example.
            let result = result.or_else(|e| {
                if e.mentions("does not exist") {
                    Ok(())
                } else {
                    Err(e)
                }
            });
            shim.close_streams(id, move |shim| shim.release(id, &request, reply, result));
        });
    }

    /// Gives back what the container holds; then it is gone, or, if that failed, can be deleted
    /// again.
    fn release(
        &mut self,
        id: ProcessId,
        request: &DeleteRequest,
        reply: Reply,
        deleted: Result<(), RuntimeError>,
    ) {
        let mut result = deleted.map_err(|e| Status::unknown(e.during("failed to delete task")));
        if let Some(container) = self.containers.get_mut(&request.id)
            && container.mounted
        {
            match mounts::unmount_rootfs(&container.bundle) {
                Ok(()) => container.mounted = false,
                Err(e) => {
                    warn!("failed to cleanup rootfs mount: {e}");
                    let failed = Err(Status::unknown(format!("failed rootfs umount: {e}")));
                    result = result.and(failed);
                }
            }
        }
        if let Err(status) = result {
            self.unlock(id);
            return self.refuse(reply, status);
        }
        let response = self.delete_response(id);
        self.stop_oom(&request.id);
        if let Some(container) = self.containers.remove(&request.id) {
            for exec in container.execs.into_values() {
                self.close_streams(exec, |_| ());
                self.remove_process(exec);
            }
        }
        self.remove_process(id);
        let event = TaskDelete {
            container_id: request.id.clone(),
            pid: response.pid,
            exit_status: response.exit_status,
            exited_at: response.exited_at,
            id: String::new(),
        };
        self.publish(names::DELETE, names::TASK_DELETE, &event);
        self.answer(reply, &response);
        self.sandbox_progress();
    }

    fn delete_response(&self, id: ProcessId) -> DeleteResponse {
        let Some(p) = self.processes.get(&id) else {
            return DeleteResponse::default();
        };
        DeleteResponse {
            pid: p.wire_pid(),
            exit_status: p.exit_status(),
            exited_at: Some(p.exited_at()),
        }
    }
}
