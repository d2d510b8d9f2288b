//! What `delete` says to a shim that lives: to forget the container, and to leave if it was the last.
//!
//! containerd deletes after it lost a shim, and a shim may live on that nobody will speak to again.

use std::path::Path;
use std::time::{Duration, Instant};

use prost::Message;
use rustix::event::{PollFd, PollFlags, poll};

use crate::bundle;
use crate::log::debug;
use crate::proto::containerd::runtime::sandbox::v1::ShutdownSandboxRequest;
use crate::proto::containerd::task::v3::{DeleteRequest, ShutdownRequest};
use crate::service::SANDBOX_SERVICE;
use crate::ttrpc::client::Client;

const TASK_SERVICE: &str = "containerd.task.v3.Task";

/// Has the sandbox's shim end it; whether there was anybody to be told.
pub fn end_sandbox(bundle: &Path, id: &str, limit: Duration) -> bool {
    let request = ShutdownSandboxRequest {
        sandbox_id: id.into(),
    };
    let payload = request.encode_to_vec();
    tell(
        bundle,
        limit,
        &[(SANDBOX_SERVICE, "ShutdownSandbox", payload)],
    )
}

/// Has the shim forget a container whose processes are gone, and leave if it has no other.
pub fn let_go(bundle: &Path, id: &str, limit: Duration) {
    let delete = DeleteRequest {
        id: id.into(),
        exec_id: String::new(),
    };
    let shutdown = ShutdownRequest {
        id: id.into(),
        now: false,
    };
    let calls = [
        (TASK_SERVICE, "Delete", delete.encode_to_vec()),
        (TASK_SERVICE, "Shutdown", shutdown.encode_to_vec()),
    ];
    tell(bundle, limit, &calls);
}

/// Whether there is a shim. What it answers changes nothing.
fn tell(bundle: &Path, limit: Duration, calls: &[(&str, &str, Vec<u8>)]) -> bool {
    let Ok(address) = std::fs::read_to_string(bundle.join(bundle::ADDRESS)) else {
        return false;
    };
    let path = address.trim().trim_start_matches("unix://");
    let Ok(mut client) = Client::connect(path) else {
        return false;
    };
    let deadline = Instant::now() + limit;
    for (service, method, payload) in calls {
        if let Err(e) = exchange(&mut client, service, method, payload.clone(), deadline) {
            debug!("{method}: {e}");
            break;
        }
    }
    true
}

fn exchange(
    client: &mut Client,
    service: &str,
    method: &str,
    payload: Vec<u8>,
    deadline: Instant,
) -> std::io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = i64::try_from(left.as_nanos()).unwrap_or(i64::MAX).max(1);
    client.call(service, method, payload, timeout)?;
    loop {
        if let Some(answer) = client.progress()? {
            if let Some(refusal) = answer {
                debug!("{method}: {}", refusal.message);
            }
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        let timeout = rustix::event::Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(client, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
