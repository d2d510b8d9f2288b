//! Update of a container's limits.

use crate::process::{Phase, ProcessId};
use crate::proto::containerd::task::v3::UpdateTaskRequest;
use crate::shim::Shim;
use crate::ttrpc::Status;
use crate::ttrpc::server::Reply;

impl Shim {
    pub(super) fn update(&mut self, request: UpdateTaskRequest, reply: Reply) {
        match self.find(&request.id, "") {
            Err(status) => self.refuse(reply, status),
            Ok(init) => self.lock(init, move |shim| shim.update_init(init, request, reply)),
        }
    }

    fn update_init(&mut self, init: ProcessId, request: UpdateTaskRequest, reply: Reply) {
        let resources = request.resources.map(|any| any.value).unwrap_or_default();
        let refusal = match self.process(init).map(|p| p.phase()) {
            Ok(Phase::Stopped) => Some(Status::unknown("cannot update a stopped container")),
            Ok(Phase::Deleted) | Err(_) => Some(Status::unknown("cannot update a deleted process")),
            Ok(_) => match serde_json::from_slice::<serde_json::Map<_, _>>(&resources) {
                Err(e) => Some(Status::invalid_argument(format!("resources: {e}"))),
                Ok(_) => None,
            },
        };
        let call = match (refusal, self.containers.get(&request.id)) {
            (None, Some(container)) => container.runtime.update(&request.id, &resources),
            (refusal, _) => {
                self.unlock(init);
                let gone = || Status::unknown("cannot update a deleted process");
                return self.refuse(reply, refusal.unwrap_or_else(gone));
            }
        };
        self.run(call, move |shim, result| {
            shim.unlock(init);
            let result = result.map_err(|e| Status::unknown(e.during("OCI runtime update failed")));
            shim.conclude(reply, result);
        });
    }
}
