//! Pause and Resume of a container.

use crate::event_names as names;
use crate::process::{Phase, ProcessId};
use crate::proto::containerd::events::{TaskPaused, TaskResumed};
use crate::proto::containerd::task::v3::{PauseRequest, ResumeRequest};
use crate::shim::Shim;
use crate::ttrpc::Status;
use crate::ttrpc::server::Reply;

impl Shim {
    pub(super) fn pause(&mut self, request: PauseRequest, reply: Reply) {
        match self.find(&request.id, "") {
            Err(status) => self.refuse(reply, status),
            Ok(init) => self.lock(init, move |shim| shim.pause_init(init, request.id, reply)),
        }
    }

    fn pause_init(&mut self, init: ProcessId, name: String, reply: Reply) {
        let refusal = match self.process(init).map(|p| p.phase()) {
            Ok(Phase::Running) => None,
            Ok(Phase::Created | Phase::CreatedFromCheckpoint) => {
                Some("cannot pause task in created state")
            }
            Ok(Phase::Paused) => Some("cannot pause a paused container"),
            Ok(Phase::Stopped) => Some("cannot pause a stopped container"),
            Ok(Phase::Deleted) | Err(_) => Some("cannot pause a deleted process"),
        };
        let call = match (refusal, self.containers.get_mut(&name)) {
            (None, Some(container)) => {
                container.pausing = true;
                container.runtime.pause(&name)
            }
            (refusal, _) => {
                self.unlock(init);
                let text = refusal.unwrap_or("cannot pause a deleted process");
                return self.refuse(reply, Status::unknown(text));
            }
        };
        self.run(call, move |shim, result| {
            if let Some(container) = shim.containers.get_mut(&name) {
                container.pausing = false;
            }
            let result = result.map_err(|e| Status::unknown(e.during("OCI runtime pause failed")));
            if result.is_ok() {
                shim.change_phase(init, Phase::Paused);
                let event = TaskPaused { container_id: name };
                shim.publish(names::PAUSED, names::TASK_PAUSED, &event);
            }
            shim.unlock(init);
            shim.conclude(reply, result);
        });
    }

    pub(super) fn resume(&mut self, request: ResumeRequest, reply: Reply) {
        match self.find(&request.id, "") {
            Err(status) => self.refuse(reply, status),
            Ok(init) => self.lock(init, move |shim| shim.resume_init(init, request.id, reply)),
        }
    }

    fn resume_init(&mut self, init: ProcessId, name: String, reply: Reply) {
        let refusal = match self.process(init).map(|p| p.phase()) {
            Ok(Phase::Paused) => None,
            Ok(Phase::Created | Phase::CreatedFromCheckpoint) => {
                Some("cannot resume task in created state")
            }
            Ok(Phase::Running) => Some("cannot resume a running process"),
            Ok(Phase::Stopped) => Some("cannot resume a stopped container"),
            Ok(Phase::Deleted) | Err(_) => Some("cannot resume a deleted process"),
        };
        let call = match (refusal, self.containers.get(&name)) {
            (None, Some(container)) => container.runtime.resume(&name),
            (refusal, _) => {
                self.unlock(init);
                let text = refusal.unwrap_or("cannot resume a deleted process");
                return self.refuse(reply, Status::unknown(text));
            }
        };
        self.run(call, move |shim, result| {
            let result = result.map_err(|e| Status::unknown(e.during("OCI runtime resume failed")));
            if result.is_ok() {
                shim.change_phase(init, Phase::Running);
                let event = TaskResumed { container_id: name };
                shim.publish(names::RESUMED, names::TASK_RESUMED, &event);
            }
            shim.unlock(init);
            shim.conclude(reply, result);
        });
    }

    fn change_phase(&mut self, id: ProcessId, phase: Phase) {
        if let Some(p) = self.processes.get_mut(&id)
            && p.exit.is_none()
        {
            p.phase = phase;
        }
    }
}
