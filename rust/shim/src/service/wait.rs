//! Wait for a process's exit. Waiting is an entry in a table, nothing more.

use crate::proto::containerd::task::v3::{WaitRequest, WaitResponse};
use crate::shim::Shim;
use crate::ttrpc::server::Reply;

impl Shim {
    pub(super) fn wait(&mut self, request: WaitRequest, reply: Reply) {
        let found = self
            .find(&request.id, &request.exec_id)
            .and_then(|id| self.process(id));
        match found {
            Err(status) => self.refuse(reply, status),
            Ok(p) if p.exit_published => {
                let response = WaitResponse {
                    exit_status: p.exit_status(),
                    exited_at: Some(p.exited_at()),
                };
                self.answer(reply, &response);
            }
            Ok(p) => p.waiters.push(reply),
        }
    }
}
