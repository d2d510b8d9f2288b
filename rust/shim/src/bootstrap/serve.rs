//! Without an action: serve until the last container is gone and containerd asks for the end.

use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::socket::{self, Made};
use crate::events::{Publisher, Route};
use crate::flags::Flags;
use crate::log::{self, error};
use crate::reaper;
use crate::runtime;
use crate::shim::Shim;

pub fn run(flags: &Flags) -> Result<(), String> {
    // As `start` executes it, it is protected already.
    ::runtime::protect::reexec().map_err(|e| e.message)?;
    // The protected program is called like its descriptor otherwise.
    let _ = rustix::thread::set_name(c"containerd-shim");
    let listener = listener(flags)?;
    log::init(flags.debug, Some("log"));
    std::panic::set_hook(Box::new(|info| error!("{info}")));
    let signals = reaper::signal_fd().map_err(|e| format!("signals: {e}"))?;
    crate::spawn::raise_file_limit();
    reaper::become_subreaper().map_err(|e| format!("subreaper: {e}"))?;

    let namespace = flags.namespace.clone();
    let make_runtime: runtime::Factory =
        Box::new(move |options, bundle| runtime::make(options, &namespace, bundle));
    ::runtime::log::to(|text| log::warn!("{text}"));
    let shim = Shim::new(&flags.namespace, Publisher::new(route(flags)), make_runtime)
        .map_err(|e| format!("event loop: {e}"))?;
    log::debug!("serving {} in {}", flags.id, flags.namespace);
    shim.serve(listener, signals)
        .map_err(|e| format!("event loop: {e}"))
}

fn route(flags: &Flags) -> Route {
    match std::env::var("TTRPC_ADDRESS") {
        Ok(path) if !path.is_empty() => Route::Ttrpc(path.trim_start_matches("unix://").into()),
        _ if !flags.publish_binary.is_empty() => Route::Program {
            program: flags.publish_binary.clone(),
            address: flags.address.clone(),
        },
        _ => Route::Nowhere,
    }
}

/// The socket to serve: made here if a path is given, else inherited. Nothing else is.
fn listener(flags: &Flags) -> Result<UnixListener, String> {
    let close_from = |first: u32| {
        // SAFETY: at this point of the program nothing but what the parent left is open there.
        unsafe { libc::close_range(first, u32::MAX, 0) };
    };
    if !flags.socket.is_empty() {
        close_from(3);
        let path = Path::new(flags.socket.trim_start_matches("unix://"));
        return match socket::make(path).map_err(|e| e.to_string())? {
            Made::New(listener) => Ok(listener),
            Made::Taken => Err(format!("{}: a shim serves it already", path.display())),
        };
    }
    close_from(4);
    // SAFETY: descriptor 3 is the listening socket by agreement with `start`; nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(3) };
    match rustix::net::sockopt::socket_acceptconn(&fd) {
        Ok(true) => {
            let _ = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC);
            Ok(UnixListener::from(fd))
        }
        _ => {
            // Not ours to close.
            std::mem::forget(fd);
            Err(
                "descriptor 3 is no listening socket; containerd runs this program with start"
                    .into(),
            )
        }
    }
}
