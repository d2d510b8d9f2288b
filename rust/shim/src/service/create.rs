//! Create: mounts, streams, logging program, runtime, in that order; undone in the reverse.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use crate::bundle::Spec;
use crate::cgroup::{self, Cgroup};
use crate::container::{Checkpoint, Container, KillAll};
use crate::event_names as names;
use crate::log::warn;
use crate::mounts;
use crate::options::{self, Options};
use crate::process::{Phase, Process};
use crate::proto::containerd::events::{TaskCreate, TaskIo};
use crate::proto::containerd::task::v3::{CreateTaskRequest, CreateTaskResponse};
use crate::runtime::{CreateRequest, ProcessIo, Runtime, RuntimeError, Started};
use crate::sandbox::member::{self, Shared};
use crate::shim::Shim;
use crate::stdio::{Prepared, Stdio};
use crate::ttrpc::Status;
use crate::ttrpc::server::Reply;

/// A container in the making.
struct Draft {
    request: CreateTaskRequest,
    bundle: PathBuf,
    options: Options,
    spec: Spec,
    runtime: Rc<dyn Runtime>,
    stdio: Stdio,
    prepared: Prepared,
    logger: Option<i32>,
    mounted: bool,
}

impl Shim {
    pub(super) fn create(&mut self, request: CreateTaskRequest, reply: Reply) {
        let id = request.id.clone();
        let mut draft = match self.draft(request) {
            Ok(draft) => draft,
            Err(status) => return self.refuse(reply, status),
        };
        self.creating.insert(id.clone());
        match draft.prepared.logger.take() {
            None => self.create_with(draft, reply),
            Some((uri, pipes)) => self.start_logger(
                &uri,
                pipes,
                &id,
                Box::new(move |shim, result| match result {
                    Ok(pid) => {
                        draft.logger = Some(pid);
                        shim.create_with(draft, reply);
                    }
                    Err(e) => {
                        let text = format!("failed to create init process I/O: {e}");
                        shim.undo_create(draft, reply, Status::unknown(text));
                    }
                }),
            ),
        }
    }

    /// Checks the request and opens what it names. On an error nothing is left.
    fn draft(&mut self, request: CreateTaskRequest) -> Result<Draft, Status> {
        let id = &request.id;
        if id.is_empty() || id.contains('/') {
            return Err(Status::invalid_argument(format!("container id {id:?}")));
        }
        if self.containers.contains_key(id) || self.creating.contains(id) {
            return Err(Status::already_exists(format!("container {id}")));
        }
        let options = options::decode(request.options.as_ref())?;
        let bundle = PathBuf::from(&request.bundle);
        let failed =
            |what: &str, e: &dyn std::fmt::Display| Status::unknown(format!("{what}: {e}"));
        let shared = match &self.sandbox {
            Some(sandbox) if sandbox.is_ready() => Some(Shared::of(sandbox)),
            Some(sandbox) => {
                let text = format!("container {id}: its sandbox {} does not run", sandbox.id);
                return Err(Status::failed_precondition(text));
            }
            None => None,
        };
        let spec = Spec::adapt(&bundle, |spec| {
            let joins = shared.as_ref().is_some_and(|shared| shared.adapt(spec));
            member::adapt_sockets(spec) || joins
        })
        .map_err(|e| failed("bundle", &e))?;
        options::save(&bundle, &options).map_err(|e| failed("options", &e))?;
        let stdio = Stdio {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let prepared = Prepared::open(&stdio, (options.io_uid, options.io_gid), &self.byte_streams)
            .map_err(|e| failed("failed to create init process I/O", &e))?;
        let mounted = !request.rootfs.is_empty();
        if mounted {
            mounts::mount_rootfs(&request.rootfs, &bundle)
                .map_err(|e| failed("failed to mount rootfs component", &e))?;
        }
        let runtime = (self.make_runtime)(&options, &bundle);
        Ok(Draft {
            request,
            bundle,
            options,
            spec,
            runtime,
            stdio,
            prepared,
            logger: None,
            mounted,
        })
    }

    fn create_with(&mut self, mut draft: Draft, reply: Reply) {
        if !draft.request.checkpoint.is_empty() {
            return self.created(
                draft,
                reply,
                Ok(Started {
                    pid: 0,
                    console: None,
                }),
            );
        }
        let call = draft.runtime.create(CreateRequest {
            id: &draft.request.id,
            io: std::mem::replace(&mut draft.prepared.io, ProcessIo::Terminal),
            no_pivot_root: draft.options.no_pivot_root,
            no_new_keyring: draft.options.no_new_keyring,
        });
        let key = reply.key();
        self.run_making(call, key, move |shim, result| {
            shim.created(draft, reply, result)
        });
    }

    fn created(&mut self, draft: Draft, reply: Reply, result: Result<Started, RuntimeError>) {
        let started = match result {
            Ok(started) if !self.server.expired(&reply) => started,
            Ok(_) => return self.delete_draft(draft, reply, Status::deadline_exceeded()),
            Err(e) => {
                let status = Status::unknown(e.during("OCI runtime create failed"));
                // The runtime cleans up after itself, unless it was killed.
                if self.server.expired(&reply) {
                    return self.delete_draft(draft, reply, status);
                }
                return self.undo_create(draft, reply, status);
            }
        };
        self.adopt(draft, reply, started);
    }

    /// Puts the made container on the tables and tells everybody.
    fn adopt(&mut self, draft: Draft, reply: Reply, started: Started) {
        let Draft {
            request,
            bundle,
            options,
            spec,
            runtime,
            stdio,
            prepared,
            logger,
            mounted,
        } = draft;
        let id = request.id.clone();
        let init = self.new_id();
        let mut process = Process::new(&id, "", stdio);
        process.pid = started.pid;
        let (mut checkpoint, mut prepared) = (None, Some(prepared));
        if !request.checkpoint.is_empty() {
            process.phase = Phase::CreatedFromCheckpoint;
            process.streams.logger = logger;
            checkpoint = prepared.take().map(|prepared| Checkpoint {
                path: request.checkpoint.clone(),
                parent: request.parent_checkpoint.clone(),
                prepared,
            });
        }
        self.processes.insert(init, process);
        let cgroup = match started.pid {
            0 => None,
            pid => Cgroup::of(pid)
                .inspect_err(|e| warn!("loading cgroup for {pid}: {e}"))
                .ok(),
        };
        let kill_all = if spec.kill_all_on_exit {
            KillAll::Needed
        } else {
            KillAll::NotNeeded
        };
        let container = Container {
            bundle,
            options,
            runtime,
            init,
            execs: BTreeMap::new(),
            running_execs: 0,
            counting: false,
            kill_all,
            pausing: false,
            mounted,
            checkpoint,
            cgroup,
            oom: None,
        };
        self.containers.insert(id.clone(), container);
        self.creating.remove(&id);
        if let Some(prepared) = prepared
            && let Err(e) = self.attach(init, prepared, started.console, logger)
        {
            // Descriptors ran out, most likely. The container is whole; it has no output.
            self.complain("failed to start io pipe copy", &e);
        }
        if let Some(pid) = logger {
            self.follow_logger(init, pid);
        }
        let io = TaskIo {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let pid = u32::try_from(started.pid).unwrap_or(0);
        let event = TaskCreate {
            container_id: id.clone(),
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: Some(io),
            checkpoint: request.checkpoint,
            pid,
        };
        self.publish(names::CREATE, names::TASK_CREATE, &event);
        self.watch_oom(&id);
        self.answer(reply, &CreateTaskResponse { pid });
        if started.pid != 0 {
            self.track(init, started.pid);
        }
    }

    /// Deletes what the runtime has of a container that will not be, then undoes the rest.
    fn delete_draft(&mut self, draft: Draft, reply: Reply, status: Status) {
        let call = draft.runtime.delete(&draft.request.id, true);
        self.run(call, move |shim, result| {
            if let Err(e) = result
                && !e.mentions("does not exist")
            {
                warn!(
                    "{}: {}",
                    draft.request.id,
                    e.during("failed to delete after a failed create")
                );
            }
            // Once, not waiting: the loop has others to serve.
            let path = &draft.spec.cgroups_path;
            cgroup::remove_leftover(path, &draft.request.id, Duration::ZERO);
            shim.undo_create(draft, reply, status);
        });
    }

    fn undo_create(&mut self, draft: Draft, reply: Reply, status: Status) {
        self.creating.remove(&draft.request.id);
        self.discard_logger(draft.logger);
        if draft.mounted
            && let Err(e) = mounts::unmount_rootfs(&draft.bundle)
        {
            warn!("failed to cleanup rootfs mount: {e}");
        }
        self.refuse(reply, status);
    }
}
