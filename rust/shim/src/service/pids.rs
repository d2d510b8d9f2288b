//! Pids: all processes of a container, execs with their ids.

use prost::Message;
use prost_types::Any;

use crate::proto::containerd::runc::v1::ProcessDetails;
use crate::proto::containerd::task::v3::{PidsRequest, PidsResponse};
use crate::proto::containerd::v1::types::ProcessInfo;
use crate::shim::Shim;
use crate::ttrpc::Status;
use crate::ttrpc::server::Reply;

impl Shim {
    pub(super) fn list_pids(&mut self, request: PidsRequest, reply: Reply) {
        let call = match self.container(&request.id) {
            Ok(container) => container.runtime.ps(&request.id),
            Err(status) => return self.refuse(reply, status),
        };
        self.run(call, move |shim, result| match result {
            Err(e) => shim.refuse(reply, Status::unknown(e.summary)),
            Ok(pids) => {
                let processes = pids.into_iter().map(|pid| shim.describe_pid(pid)).collect();
                shim.answer(reply, &PidsResponse { processes });
            }
        });
    }

    fn describe_pid(&self, pid: u32) -> ProcessInfo {
        let owner = i32::try_from(pid).ok().and_then(|pid| self.pids.get(&pid));
        let exec = owner
            .and_then(|id| self.processes.get(id))
            .filter(|p| !p.is_init());
        let info = exec.map(|p| Any {
            type_url: "containerd.runc.v1.ProcessDetails".into(),
            value: ProcessDetails {
                exec_id: p.exec_id.clone(),
            }
            .encode_to_vec(),
        });
        ProcessInfo { pid, info }
    }
}
