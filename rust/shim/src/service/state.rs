//! State of a process.

use crate::clock;
use crate::process::Phase;
use crate::proto::containerd::task::v3::{StateRequest, StateResponse};
use crate::proto::containerd::v1::types::Status as TaskStatus;
use crate::shim::Shim;
use crate::ttrpc::Status;
use crate::ttrpc::server::Reply;

impl Shim {
    pub(super) fn state(&mut self, request: StateRequest, reply: Reply) {
        match self.describe(&request) {
            Ok(response) => self.answer(reply, &response),
            Err(status) => self.refuse(reply, status),
        }
    }

    fn describe(&mut self, request: &StateRequest) -> Result<StateResponse, Status> {
        let id = self.find(&request.id, &request.exec_id)?;
        let container = self.container(&request.id)?;
        let (bundle, pausing) = (
            container.bundle.to_string_lossy().into_owned(),
            container.pausing,
        );
        let init = container.init;
        let frozen = self
            .processes
            .get(&init)
            .is_some_and(|p| p.phase() == Phase::Paused);
        let p = self.process(id)?;
        let status = match p.phase() {
            // An exec whose start failed never ran; it is still what it was.
            Phase::Stopped if p.never_ran() => TaskStatus::Created,
            // As the container goes, so do all of its processes.
            Phase::Stopped | Phase::Deleted => TaskStatus::Stopped,
            _ if pausing => TaskStatus::Pausing,
            _ if frozen => TaskStatus::Paused,
            Phase::Created | Phase::CreatedFromCheckpoint => TaskStatus::Created,
            Phase::Running => TaskStatus::Running,
            Phase::Paused => TaskStatus::Paused,
        };
        Ok(StateResponse {
            id: p.id().into(),
            bundle,
            pid: p.wire_pid(),
            status: status.into(),
            stdin: p.stdio.stdin.clone(),
            stdout: p.stdio.stdout.clone(),
            stderr: p.stdio.stderr.clone(),
            terminal: p.stdio.terminal,
            exit_status: if p.never_ran() { 0 } else { p.exit_status() },
            exited_at: Some(if p.never_ran() {
                clock::NEVER
            } else {
                p.exited_at()
            }),
            exec_id: request.exec_id.clone(),
        })
    }
}
