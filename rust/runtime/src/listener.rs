//! Handing a seccomp notification descriptor to the agent that serves it.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use serde_json::json;

use crate::error::{Context, Result};
use crate::plan::Listener;
use crate::sys;

impl Listener {
    /// Takes descriptor `number` out of process `pid` and sends it with the specification's
    /// `ContainerProcessState`.
    pub fn hand(&self, pid: i32, number: i32) -> Result<()> {
        let what = || format!("seccomp listener {}", self.path);
        let process = sys::pidfd_open(pid).context(what)?;
        let fd = sys::pidfd_getfd(process.as_raw_fd(), number).context(what)?;
        let agent = UnixStream::connect(&self.path).context(what)?;
        let mut state = self.state.clone();
        state["pid"] = pid.into();
        let message = json!({
            "ociVersion": crate::OCI_VERSION,
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": self.metadata,
            "state": state,
        });
        let text = message.to_string();
        sys::send(agent.as_raw_fd(), text.as_bytes(), Some(fd.as_raw_fd())).context(what)
    }
}
