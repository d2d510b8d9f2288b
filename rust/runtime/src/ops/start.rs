//! start: the waiting process goes on and becomes the container's program.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::error::{Class, Context, Error, Result};
use crate::launch::describe;
use crate::plan::{self, Plan};
use crate::spec::Spec;
use crate::state::{self, Place, Record, Status};
use crate::wire::{self, Message};
use crate::{Runtime, hooks, sys};

impl Runtime {
    pub fn start(&self, id: &str) -> Result<()> {
        let place = Place::of(&self.root, id)?;
        let record = place.load()?;
        let refused = |text| Err(Error::new(Class::State, text));
        match place.status(&record) {
            Status::Created => {}
            Status::Stopped => return refused("cannot start a container that has stopped"),
            _ => return refused("cannot start an already running container"),
        }
        let spec = place.config()?;
        let socket = connect(&place)?;
        if let Some(limit) = self.options.patience {
            sys::limit_receiving(socket.as_raw_fd(), limit)
                .context(|| "telling the container to start".into())?;
        }
        let plan = words(&spec, &record)?;
        converse(&socket, &plan, &record)?;
        std::fs::remove_file(place.path().join(state::START))
            .context(|| "the start socket".into())?;
        hooks::run_all("poststart", &spec.hooks.poststart, &record.state("running")).inspect_err(
            |_| {
                let _ = self.kill_record(&record, libc::SIGKILL, false);
            },
        )
    }
}

fn connect(place: &Place) -> Result<OwnedFd> {
    let what = || "telling the container to start".to_owned();
    let directory = std::fs::File::open(place.path()).context(what)?;
    let path = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), state::START);
    UnixStream::connect(path).map(OwnedFd::from).context(what)
}

/// As much of the plan as errors are described with.
fn words(spec: &Spec, record: &Record) -> Result<Plan> {
    let strings = |list: &[String]| list.iter().map(|s| crate::mounts::c_string(s)).collect();
    let args: Result<_> = strings(spec.process.as_ref().map_or(&[], |p| &p.args));
    Ok(Plan {
        process: plan::Process {
            args: args?,
            rlimits: spec
                .process
                .as_ref()
                .map_or(Ok(Vec::new()), crate::process::rlimits)?,
            listener: super::create::listener(&spec.linux, &record.state("created")),
            ..Default::default()
        },
        start_container: hooks::plan(&spec.hooks.start_container)?,
        ..Default::default()
    })
}

/// The connection ends when the program runs.
fn converse(socket: &OwnedFd, plan: &Plan, record: &Record) -> Result<()> {
    let lost = || "the container's messages".to_owned();
    let fd = socket.as_raw_fd();
    while let Some((message, _)) = Message::receive(fd).context(lost)? {
        match message {
            Message::Listener(number) => {
                if let Some(listener) = &plan.process.listener {
                    listener.hand(record.init_process_pid, number)?;
                }
                wire::answer(fd).context(lost)?;
            }
            Message::Failed(failure) => return Err(describe(plan, failure)),
            other => return Err(Error::failed(format!("unexpected message {other:?}"))),
        }
    }
    Ok(())
}
