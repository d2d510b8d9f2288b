//! Exec: notes a further process; Start runs it.

use serde_json::Value;

use crate::event_names as names;
use crate::process::{Phase, Process};
use crate::proto::containerd::events::TaskExecAdded;
use crate::proto::containerd::task::v3::ExecProcessRequest;
use crate::shim::Shim;
use crate::stdio::Stdio;
use crate::ttrpc::Status;
use crate::ttrpc::server::Reply;

impl Shim {
    pub(super) fn exec(&mut self, request: ExecProcessRequest, reply: Reply) {
        let (container_id, exec_id) = (request.id.clone(), request.exec_id.clone());
        match self.add_exec(request) {
            Err(status) => self.refuse(reply, status),
            Ok(()) => {
                let event = TaskExecAdded {
                    container_id,
                    exec_id,
                };
                self.publish(names::EXEC_ADDED, names::TASK_EXEC_ADDED, &event);
                self.answer(reply, &());
            }
        }
    }

    fn add_exec(&mut self, request: ExecProcessRequest) -> Result<(), Status> {
        let container = self.container(&request.id)?;
        let exec_id = &request.exec_id;
        // It names a file in the bundle.
        if exec_id.is_empty() || exec_id.contains('/') {
            return Err(Status::invalid_argument(format!("exec id {exec_id:?}")));
        }
        if container.execs.contains_key(exec_id) {
            return Err(Status::already_exists(format!("id {exec_id}")));
        }
        let init = container.init;
        // What has been told counts, as for containerd's clients: an init whose exit waits for execs
        // that are being started takes more of them, and those fail when they are started.
        match self
            .processes
            .get(&init)
            .map_or(Phase::Deleted, |init| init.phase)
        {
            Phase::Created | Phase::Running => {}
            Phase::CreatedFromCheckpoint => {
                return Err(Status::unknown("cannot exec in a created state"));
            }
            Phase::Paused => return Err(Status::unknown("cannot exec in a paused state")),
            Phase::Stopped => return Err(Status::unknown("cannot exec in a stopped state")),
            Phase::Deleted => return Err(Status::unknown("cannot exec in a deleted state")),
        }
        let spec = request.spec.map(|any| any.value).unwrap_or_default();
        let mut spec: Value = serde_json::from_slice(&spec)
            .map_err(|e| Status::invalid_argument(format!("process spec: {e}")))?;
        let Some(fields) = spec.as_object_mut() else {
            return Err(Status::invalid_argument("process spec: not a JSON object"));
        };
        fields.insert("terminal".into(), Value::Bool(request.terminal));
        let stdio = Stdio {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let mut process = Process::new(&request.id, &request.exec_id, stdio);
        process.spec = spec.to_string().into_bytes();
        let id = self.new_id();
        self.processes.insert(id, process);
        self.container(&request.id)?
            .execs
            .insert(request.exec_id, id);
        Ok(())
    }
}
