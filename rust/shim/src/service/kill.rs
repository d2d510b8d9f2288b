//! Kill: a signal to a process, or to all of a container.

use crate::process::ProcessId;
use crate::proto::containerd::task::v3::KillRequest;
use crate::runtime::RuntimeError;
use crate::shim::Shim;
use crate::ttrpc::Status;
use crate::ttrpc::server::Reply;

impl Shim {
    pub(super) fn kill(&mut self, request: KillRequest, reply: Reply) {
        match self.find(&request.id, &request.exec_id) {
            Err(status) => self.refuse(reply, status),
            Ok(process) if request.exec_id.is_empty() => {
                self.lock(process, move |shim| {
                    shim.kill_init(process, &request, reply)
                });
            }
            Ok(process) => {
                self.lock(process, move |shim| {
                    let result = shim.kill_exec(process, request.signal);
                    shim.unlock(process);
                    shim.conclude(reply, result);
                });
            }
        }
    }

    fn kill_init(&mut self, id: ProcessId, request: &KillRequest, reply: Reply) {
        let finished = match self.process(id) {
            // Others of the container may live on.
            Ok(p) => p.exit.is_some() && !request.all,
            Err(_) => {
                return self.refuse(reply, Status::not_found("cannot kill a deleted process"));
            }
        };
        let runtime = self
            .container(&request.id)
            .map(|container| container.runtime.clone());
        let runtime = match runtime {
            Ok(runtime) if !finished => runtime,
            result => {
                self.unlock(id);
                let status = result.err().unwrap_or_else(already_finished);
                return self.refuse(reply, status);
            }
        };
        let call = runtime.kill(&request.id, request.signal, request.all);
        self.run(call, move |shim, result| {
            shim.unlock(id);
            shim.conclude(reply, result.map_err(|e| kill_error(&e)));
        });
    }

    fn kill_exec(&mut self, id: ProcessId, signal: u32) -> Result<(), Status> {
        let p = self.process(id)?;
        if p.exit.is_some() {
            return Err(already_finished());
        }
        if p.pid == 0 {
            return Err(Status::failed_precondition("process not created"));
        }
        let signal = i32::try_from(signal).unwrap_or(-1);
        // SAFETY: the process is a child that has not been reaped, so the pid is its own; no
        // memory is passed.
        if unsafe { libc::kill(p.pid, signal) } == 0 {
            return Ok(());
        }
        match std::io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ESRCH) => {
                let status = already_finished();
                Err(Status::new(
                    status.code,
                    format!("exec kill error: {status}"),
                ))
            }
            e => Err(Status::unknown(format!(
                "exec kill error: unknown error after kill: {e}"
            ))),
        }
    }
}

fn already_finished() -> Status {
    Status::not_found("process already finished")
}

/// Runtimes say in words that there is nothing left to signal.
fn kill_error(error: &RuntimeError) -> Status {
    let gone = [
        "process already finished",
        "container not running",
        "no such process",
    ];
    if gone.iter().any(|text| error.mentions(text)) {
        already_finished()
    } else if error.mentions("does not exist") {
        Status::not_found("no such container")
    } else {
        Status::unknown(format!("unknown error after kill: {}", error.summary))
    }
}
