//! The task service: `containerd.task.v2.Task` and `containerd.task.v3.Task`, one implementation;
//! the sandbox service ([`sandbox`]); and the streaming service ([`streaming`]).
//!
//! The two versions have the same messages on the wire. Each operation has its file; each ends in
//! exactly one answer to its [`Reply`].

mod checkpoint;
mod create;
mod delete;
mod exec;
mod io;
mod kill;
mod pause;
mod pids;
mod sandbox;
mod start;
mod state;
pub mod streaming;
#[cfg(test)]
mod tests;
mod update;
mod wait;

use prost::Message;

use crate::container::Container;
use crate::log::debug;
use crate::process::{Process, ProcessId};
use crate::proto::containerd::task::v3;
use crate::shim::Shim;
use crate::ttrpc::server::{Call, Reply};
use crate::ttrpc::{Code, Status};

pub use self::sandbox::SERVICE as SANDBOX_SERVICE;

const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

impl Shim {
    /// Starts the operation a call asks for.
    pub fn dispatch(&mut self, call: Call) {
        let Call {
            reply,
            service,
            method,
            payload,
        } = call;
        debug!("{service}/{method}");
        if service == sandbox::SERVICE {
            return self.dispatch_sandbox(reply, &method, &payload);
        }
        if (service.as_str(), method.as_str()) == (streaming::SERVICE, streaming::METHOD) {
            return self.open_call(reply, &payload);
        }
        if !SERVICES.contains(&service.as_str()) {
            let status = Status::new(Code::Unimplemented, format!("service {service}"));
            return self.refuse(reply, status);
        }
        match method.as_str() {
            "State" => self.call(reply, &payload, Self::state),
            "Create" => self.call(reply, &payload, Self::create),
            "Start" => self.call(reply, &payload, Self::start),
            "Delete" => self.call(reply, &payload, Self::delete),
            "Pids" => self.call(reply, &payload, Self::list_pids),
            "Pause" => self.call(reply, &payload, Self::pause),
            "Resume" => self.call(reply, &payload, Self::resume),
            "Checkpoint" => self.call(reply, &payload, Self::checkpoint),
            "Kill" => self.call(reply, &payload, Self::kill),
            "Exec" => self.call(reply, &payload, Self::exec),
            "ResizePty" => self.call(reply, &payload, Self::resize_pty),
            "CloseIO" => self.call(reply, &payload, Self::close_io),
            "Update" => self.call(reply, &payload, Self::update),
            "Wait" => self.call(reply, &payload, Self::wait),
            "Stats" => self.call(reply, &payload, Self::stats),
            "Connect" => self.call(reply, &payload, Self::connect),
            "Shutdown" => self.call(reply, &payload, Self::shutdown),
            _ => self.refuse(reply, no_method(&method)),
        }
    }

    fn call<M: Message + Default>(
        &mut self,
        reply: Reply,
        payload: &[u8],
        operation: impl FnOnce(&mut Self, M, Reply),
    ) {
        match M::decode(payload) {
            Ok(request) => operation(self, request, reply),
            Err(e) => {
                let text = format!("ttrpc: error unmarshalling payload: {e}");
                self.refuse(reply, Status::new(Code::Internal, text));
            }
        }
    }

    pub fn container(&mut self, id: &str) -> Result<&mut Container, Status> {
        self.containers
            .get_mut(id)
            .ok_or_else(|| Status::not_found("container not created"))
    }

    /// The number of a container's init (empty exec id) or exec.
    pub fn find(&mut self, id: &str, exec_id: &str) -> Result<ProcessId, Status> {
        let container = self.container(id)?;
        if exec_id.is_empty() {
            return Ok(container.init);
        }
        let found = container.execs.get(exec_id).copied();
        found.ok_or_else(|| Status::not_found(format!("process does not exist {exec_id}")))
    }

    /// A process whose operation waited for its turn: it may be gone by now.
    fn process(&mut self, id: ProcessId) -> Result<&mut Process, Status> {
        self.processes
            .get_mut(&id)
            .ok_or_else(|| Status::not_found("cannot act on a deleted process"))
    }

    fn connect(&mut self, request: v3::ConnectRequest, reply: Reply) {
        let task_pid = self
            .find(&request.id, "")
            .ok()
            .and_then(|id| self.processes.get(&id))
            .map_or(0, Process::wire_pid);
        let response = v3::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: String::new(),
        };
        self.answer(reply, &response);
    }

    /// Leaves if nothing is left to supervise.
    fn shutdown(&mut self, _: v3::ShutdownRequest, reply: Reply) {
        // A sandbox outlives its members; it has its own way to end.
        if self.is_empty() && self.sandbox.is_none() {
            self.leave();
        }
        self.answer(reply, &());
    }

    fn stats(&mut self, request: v3::StatsRequest, reply: Reply) {
        let cgroup = self.container(&request.id).and_then(|container| {
            container
                .cgroup
                .as_ref()
                .ok_or_else(|| Status::not_found("cgroup does not exist"))
        });
        match cgroup.map(crate::stats::read) {
            Ok(stats) => self.answer(reply, &v3::StatsResponse { stats: Some(stats) }),
            Err(status) => self.refuse(reply, status),
        }
    }
}

fn no_method(method: &str) -> Status {
    Status::new(Code::Unimplemented, format!("method {method}"))
}
