//! Checkpoint of a running container.

use crate::event_names as names;
use crate::options;
use crate::process::{Phase, ProcessId};
use crate::proto::containerd::events::TaskCheckpointed;
use crate::proto::containerd::task::v3::CheckpointTaskRequest;
use crate::runtime::{CheckpointRequest, RuntimeError};
use crate::shim::Shim;
use crate::ttrpc::Status;
use crate::ttrpc::server::Reply;

impl Shim {
    pub(super) fn checkpoint(&mut self, request: CheckpointTaskRequest, reply: Reply) {
        match self.find(&request.id, "") {
            Err(status) => self.refuse(reply, status),
            Ok(init) => self.lock(init, move |shim| shim.checkpoint_init(init, request, reply)),
        }
    }

    fn checkpoint_init(&mut self, init: ProcessId, request: CheckpointTaskRequest, reply: Reply) {
        let allowed = match self.process(init).map(|p| p.phase()) {
            Ok(Phase::Running | Phase::Paused) => {
                options::decode_checkpoint(request.options.as_ref())
            }
            Ok(Phase::Created | Phase::CreatedFromCheckpoint) => {
                Err(Status::unknown("cannot checkpoint a task in created state"))
            }
            Ok(Phase::Stopped) => Err(Status::unknown("cannot checkpoint a stopped container")),
            Ok(Phase::Deleted) | Err(_) => {
                Err(Status::unknown("cannot checkpoint a deleted process"))
            }
        };
        let prepared = allowed.and_then(|o| Ok((o, self.container(&request.id)?)));
        let (options, container) = match prepared {
            Ok(prepared) => prepared,
            Err(status) => {
                self.unlock(init);
                return self.refuse(reply, status);
            }
        };
        let temporary = options.work_path.is_empty();
        let work = match options.work_path.as_str() {
            "" => container.bundle.join("work/criu-work"),
            path => path.into(),
        };
        let dump_log = container.bundle.join("criu-dump.log");
        let call = container.runtime.checkpoint(
            &request.id,
            &CheckpointRequest {
                image_path: request.path.clone(),
                work_path: work.to_string_lossy().into_owned(),
                parent_path: options.parent_path,
                leave_running: !options.exit,
                open_tcp: options.open_tcp,
                external_unix_sockets: options.external_unix_sockets,
                terminal: options.terminal,
                file_locks: options.file_locks,
                cgroups_mode: options.cgroups_mode,
                empty_namespaces: options.empty_namespaces,
            },
        );
        self.run(call, move |shim, result| {
            let result = result.map_err(|e| {
                let _ = std::fs::copy(work.join("dump.log"), &dump_log);
                let text = format!("{} path= {}", first_line(&e), dump_log.display());
                // Told apart, since installing it helps, and trying again does not.
                if e.mentions("criu") && (e.mentions("not found") || e.mentions("no such file")) {
                    Status::failed_precondition(text)
                } else {
                    Status::unknown(text)
                }
            });
            if temporary {
                let _ = std::fs::remove_dir_all(&work);
            }
            if result.is_ok() {
                let event = TaskCheckpointed {
                    container_id: request.id,
                    checkpoint: request.path,
                };
                shim.publish(names::CHECKPOINTED, names::TASK_CHECKPOINTED, &event);
            }
            shim.unlock(init);
            shim.conclude(reply, result);
        });
    }
}

/// CRIU's errors go on for pages; the first line says what, the log says why.
fn first_line(error: &RuntimeError) -> String {
    error
        .during("OCI runtime checkpoint failed")
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}
