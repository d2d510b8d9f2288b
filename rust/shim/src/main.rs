//! `containerd-shim-hybrid-v2`: the process that stays with every container.
//!
//! containerd runs this program three ways: `start` makes the serving shim (or finds the one of the
//! container's group) and reports its address; `delete` cleans up after a shim that died; without an
//! action it serves the task API over ttrpc until its last container is gone. `-info` describes the
//! runtime, `-v` the version.
//!
//! Serving is one thread around epoll ([`event_loop`]); [`shim`] has the tables and the loop,
//! [`service`] one operation a file, [`runtime`] the OCI runtime behind a trait, [`stdio`] and
//! [`streams`] the copies, [`exits`] the order in which things are told.

mod bootstrap;
mod bundle;
mod cgroup;
mod children;
mod clock;
mod container;
mod event_loop;
mod event_names;
mod events;
mod exits;
mod flags;
mod log;
mod memory;
mod mount_format;
mod mounts;
mod oom;
mod options;
mod process;
mod reaper;
mod runtime;
mod sandbox;
mod service;
mod shim;
mod spawn;
mod stats;
mod stdio;
mod streams;
mod ttrpc;

mod proto {
    //! Generated from the project's `proto/`; more of it than is used.
    #![allow(dead_code, clippy::all, clippy::pedantic)]
    include!(concat!(env!("OUT_DIR"), "/proto.rs"));
}

use std::process::ExitCode;

use crate::flags::Flags;

/// The runtime's name in requests and in the log.
pub const RUNTIME_NAME: &str = "io.containerd.hybrid.v2";

fn main() -> ExitCode {
    let result = match Flags::parse(std::env::args().skip(1)) {
        Ok(flags) => run(&flags),
        Err(text) => Err(text),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{RUNTIME_NAME}: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<(), String> {
    if flags.version {
        println!(
            "containerd-shim-hybrid-v2:\n  Version:  {}",
            env!("CARGO_PKG_VERSION")
        );
        return Ok(());
    }
    if flags.info {
        return bootstrap::info::run();
    }
    if flags.namespace.is_empty() {
        return Err("shim namespace cannot be empty; containerd passes it as -namespace".into());
    }
    match flags.action.as_str() {
        "start" => bootstrap::start::run(flags),
        "delete" => bootstrap::delete::run(flags),
        "" => bootstrap::serve::run(flags),
        other => Err(format!(
            "unknown action {other:?}: it is start, delete, or none to serve"
        )),
    }
}
