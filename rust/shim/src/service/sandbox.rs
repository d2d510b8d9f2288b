//! The sandbox service: `containerd.runtime.sandbox.v1.Sandbox`. See [`crate::sandbox`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ::mounts::Mount;

use crate::bundle;
use crate::cgroup::{self, Cgroup};
use crate::clock;
use crate::event_loop::Timer;
use crate::log::{info, warn};
use crate::mounts;
use crate::process::Exit;
use crate::proto::containerd::runtime::sandbox::v1 as api;
use crate::proto::containerd::task::v3::DeleteRequest;
use crate::proto::containerd::types;
use crate::sandbox::{Network, Phase, Sandbox, Wish, pause};
use crate::shim::Shim;
use crate::spawn;
use crate::ttrpc::Status;
use crate::ttrpc::server::Reply;

pub const SERVICE: &str = "containerd.runtime.sandbox.v1.Sandbox";

/// How long members may take to end once they were killed, and to be cleared away.
const END_LIMIT: Duration = Duration::from_secs(10);

impl Shim {
    pub(super) fn dispatch_sandbox(&mut self, reply: Reply, method: &str, payload: &[u8]) {
        match method {
            "CreateSandbox" => self.call(reply, payload, Self::create_sandbox),
            "StartSandbox" => self.call(reply, payload, Self::start_sandbox),
            "Platform" => self.call(reply, payload, Self::platform),
            "StopSandbox" => self.call(reply, payload, Self::stop_sandbox),
            "WaitSandbox" => self.call(reply, payload, Self::wait_sandbox),
            "SandboxStatus" => self.call(reply, payload, Self::sandbox_status),
            "PingSandbox" => self.call(reply, payload, Self::ping_sandbox),
            "ShutdownSandbox" => self.call(reply, payload, Self::shutdown_sandbox),
            "SandboxMetrics" => self.call(reply, payload, Self::sandbox_metrics),
            _ => self.refuse(reply, super::no_method(method)),
        }
    }

    /// The sandbox of that id; an empty one means the one there is.
    fn sandbox(&mut self, id: &str) -> Result<&mut Sandbox, Status> {
        match &mut self.sandbox {
            Some(sandbox) if id.is_empty() || sandbox.id == id => Ok(sandbox),
            _ => Err(Status::not_found(format!("sandbox {id}"))),
        }
    }

    fn create_sandbox(&mut self, request: api::CreateSandboxRequest, reply: Reply) {
        let made = self.make_sandbox(request);
        match made {
            Ok(()) => self.answer(reply, &api::CreateSandboxResponse {}),
            Err(status) => self.refuse(reply, status),
        }
    }

    fn make_sandbox(&mut self, request: api::CreateSandboxRequest) -> Result<(), Status> {
        let id = request.sandbox_id;
        if let Some(sandbox) = &self.sandbox {
            let text = format!("sandbox {id}: this shim has the sandbox {}", sandbox.id);
            return Err(Status::already_exists(text));
        }
        if id.is_empty() || id.contains('/') {
            return Err(Status::invalid_argument(format!("sandbox id {id:?}")));
        }
        let bundle = PathBuf::from(&request.bundle_path);
        if !bundle.is_dir() {
            let text = format!(
                "sandbox {id}: bundle {:?} is no folder",
                request.bundle_path
            );
            return Err(Status::invalid_argument(text));
        }
        let named = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::InvalidInput => {
                Status::invalid_argument(format!("sandbox {id}: {e}"))
            }
            std::io::ErrorKind::NotFound => Status::not_found(format!("sandbox {id}: {e}")),
            _ => Status::unknown(format!("sandbox {id}: {e}")),
        };
        let options = request.options.as_ref();
        let wish = Wish::read(options, &bundle, &id, &self.namespace).map_err(named)?;
        let netns = match request.netns_path.as_str() {
            "" => wish.netns.as_str(),
            path => path,
        };
        let network = match netns {
            "" => None,
            path => Some(Network::open(path).map_err(named)?),
        };
        if let Some(network) = network.as_ref().filter(|network| !network.enterable) {
            warn!(
                "sandbox {id}: {} is no network namespace: it is held, and its members have the host's",
                network.path
            );
        }
        let mounted = !request.rootfs.is_empty();
        if mounted {
            mounts::mount_rootfs(&request.rootfs, &bundle).map_err(named)?;
        }
        self.sandbox = Some(Sandbox {
            id,
            bundle,
            phase: Phase::Created,
            wish,
            network,
            mounted,
            shm: None,
            pid: 0,
            cgroup: None,
            created_at: SystemTime::now(),
            exit: None,
            waiters: Vec::new(),
            stoppers: Vec::new(),
            on_stopped: Vec::new(),
            leaving: None,
        });
        Ok(())
    }

    fn start_sandbox(&mut self, request: api::StartSandboxRequest, reply: Reply) {
        let sandbox = match self.sandbox(&request.sandbox_id) {
            Ok(sandbox) if sandbox.phase == Phase::Created => sandbox,
            Ok(sandbox) => {
                let state = match sandbox.phase {
                    Phase::Running => "runs already",
                    _ => "has ended; create another",
                };
                let text = format!("sandbox {} {state}", request.sandbox_id);
                return self.refuse(reply, Status::failed_precondition(text));
            }
            Err(_) => {
                let text = format!("sandbox {} has not been created", request.sandbox_id);
                return self.refuse(reply, Status::failed_precondition(text));
            }
        };
        if let Err(e) = begin(sandbox) {
            let text = format!("failed to start sandbox {}: {e}", sandbox.id);
            return self.refuse(reply, Status::unknown(text));
        }
        let pid = sandbox.pid;
        let response = api::StartSandboxResponse {
            pid: u32::try_from(pid).unwrap_or(0),
            created_at: Some(clock::timestamp(sandbox.created_at)),
            spec: None,
        };
        self.on_child_exit(pid, Self::pause_exited);
        self.answer(reply, &response);
    }

    fn pause_exited(&mut self, status: i32) {
        let Some(sandbox) = &mut self.sandbox else {
            return;
        };
        if sandbox.phase == Phase::Running {
            warn!("sandbox {}: what kept its namespaces is gone", sandbox.id);
        }
        sandbox.exit = Some(Exit {
            status: spawn::exit_code(status),
            at: SystemTime::now(),
        });
        self.sandbox_is_over();
        self.watch_idleness();
    }

    /// Tells everybody who waits for that.
    fn sandbox_is_over(&mut self) {
        let Some(sandbox) = &mut self.sandbox else {
            return;
        };
        sandbox.phase = Phase::Stopped;
        sandbox.network = None;
        let waiters = std::mem::take(&mut sandbox.waiters);
        let stoppers = std::mem::take(&mut sandbox.stoppers);
        let steps = std::mem::take(&mut sandbox.on_stopped);
        let response = wait_response(sandbox);
        for waiter in waiters {
            self.answer(waiter, &response);
        }
        for stopper in stoppers {
            self.answer(stopper, &api::StopSandboxResponse {});
        }
        for step in steps {
            self.defer(step);
        }
    }

    fn platform(&mut self, request: api::PlatformRequest, reply: Reply) {
        if let Err(status) = self.sandbox(&request.sandbox_id) {
            return self.refuse(reply, status);
        }
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "powerpc64" => ("ppc64le", ""),
            "loongarch64" => ("loong64", ""),
            other => (other, ""),
        };
        let platform = types::Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.into(),
            ..types::Platform::default()
        };
        let response = api::PlatformResponse {
            platform: Some(platform),
        };
        self.answer(reply, &response);
    }

    fn stop_sandbox(&mut self, request: api::StopSandboxRequest, reply: Reply) {
        match self.sandbox(&request.sandbox_id) {
            Err(status) => self.refuse(reply, status),
            Ok(sandbox) if sandbox.is_over() => self.answer(reply, &api::StopSandboxResponse {}),
            Ok(sandbox) => {
                sandbox.stoppers.push(reply);
                self.end_sandbox(Duration::from_secs(request.timeout_secs.into()));
            }
        }
    }

    /// Ends the members, by force after `patience`, then what keeps the namespaces.
    fn end_sandbox(&mut self, patience: Duration) {
        let Some(sandbox) = &mut self.sandbox else {
            return;
        };
        if sandbox.phase == Phase::Created {
            return self.sandbox_is_over();
        }
        sandbox.phase = Phase::Stopping;
        if patience.is_zero() {
            self.signal_members(libc::SIGKILL);
            self.events.arm(END_LIMIT, Timer::SandboxGiveUp);
        } else {
            self.signal_members(libc::SIGTERM);
            self.events.arm(patience, Timer::SandboxKill);
        }
        self.sandbox_progress();
    }

    fn signal_members(&mut self, signal: i32) {
        let members: Vec<_> = self
            .living_members()
            .into_iter()
            .filter_map(|id| {
                let container = self.containers.get(&id)?;
                Some((id, container.runtime.clone()))
            })
            .collect();
        for (id, runtime) in members {
            let call = runtime.kill(&id, signal as u32, false);
            self.run(call, move |_, result| {
                if let Err(e) = result {
                    info!("{id}: {}", e.during("signalled for the sandbox's end"));
                }
            });
        }
    }

    /// Members whose init has not been told to have ended.
    fn living_members(&self) -> Vec<String> {
        self.containers
            .iter()
            .filter(|(_, container)| {
                self.processes
                    .get(&container.init)
                    .is_some_and(|init| init.pid != 0 && !init.exit_published)
            })
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// A member ended or went: is it time for the next step of a sandbox's end?
    pub fn sandbox_progress(&mut self) {
        let Some(sandbox) = &self.sandbox else { return };
        match sandbox.phase {
            Phase::Stopping if self.living_members().is_empty() => self.end_pause(libc::SIGTERM),
            Phase::Stopped if sandbox.leaving.is_some() && self.containers.is_empty() => {
                self.forget_sandbox();
            }
            _ => {}
        }
    }

    fn end_pause(&mut self, signal: i32) {
        if let Some(sandbox) = &self.sandbox
            && sandbox.exit.is_none()
        {
            // SAFETY: signals a child that has not been reaped; no memory is passed.
            unsafe { libc::kill(sandbox.pid, signal) };
        }
    }

    pub fn on_sandbox_timer(&mut self, timer: Timer) {
        let Some(sandbox) = &mut self.sandbox else {
            return;
        };
        match (timer, sandbox.phase) {
            (Timer::SandboxKill, Phase::Stopping) => {
                self.signal_members(libc::SIGKILL);
                self.events.arm(END_LIMIT, Timer::SandboxGiveUp);
            }
            (_, Phase::Stopping) => {
                let id = sandbox.id.clone();
                let stoppers = std::mem::take(&mut sandbox.stoppers);
                let members = self.living_members().join(", ");
                let text = format!("sandbox {id}: {members} did not end by SIGKILL");
                warn!("{text}");
                for stopper in stoppers {
                    let status = Status::new(crate::ttrpc::Code::DeadlineExceeded, text.as_str());
                    self.refuse(stopper, status);
                }
                self.end_pause(libc::SIGKILL);
            }
            (_, Phase::Stopped) if sandbox.leaving.is_some() => {
                let left: Vec<_> = self.containers.keys().cloned().collect();
                warn!("leaving without having deleted {}", left.join(", "));
                self.forget_sandbox();
            }
            _ => {}
        }
    }

    fn wait_sandbox(&mut self, request: api::WaitSandboxRequest, reply: Reply) {
        match self.sandbox(&request.sandbox_id) {
            Err(status) => self.refuse(reply, status),
            Ok(sandbox) if sandbox.is_over() => {
                let response = wait_response(sandbox);
                self.answer(reply, &response);
            }
            Ok(sandbox) => sandbox.waiters.push(reply),
        }
    }

    fn sandbox_status(&mut self, request: api::SandboxStatusRequest, reply: Reply) {
        let members = self.containers.len();
        let sandbox = match self.sandbox(&request.sandbox_id) {
            Ok(sandbox) => sandbox,
            Err(status) => return self.refuse(reply, status),
        };
        let pid = match sandbox.exit {
            None => u32::try_from(sandbox.pid).unwrap_or(0),
            Some(_) => 0,
        };
        let mut info = HashMap::new();
        if request.verbose {
            info.insert("pid".into(), pid.to_string());
            info.insert("state".into(), sandbox.state().into());
            info.insert("containers".into(), members.to_string());
            info.insert("namespaces".into(), sandbox.wish.own.join(","));
            if let Some(network) = &sandbox.network {
                info.insert("networkSandboxPath".into(), network.path.clone());
            }
        }
        let response = api::SandboxStatusResponse {
            sandbox_id: sandbox.id.clone(),
            pid,
            state: sandbox.state().into(),
            info,
            created_at: Some(clock::timestamp(sandbox.created_at)),
            exited_at: sandbox.exit.map(|exit| clock::timestamp(exit.at)),
            extra: None,
        };
        self.answer(reply, &response);
    }

    fn ping_sandbox(&mut self, request: api::PingRequest, reply: Reply) {
        match self.sandbox(&request.sandbox_id) {
            Ok(_) => self.answer(reply, &api::PingResponse {}),
            Err(status) => self.refuse(reply, status),
        }
    }

    /// Ends and deletes everything, answers, and leaves.
    fn shutdown_sandbox(&mut self, request: api::ShutdownSandboxRequest, reply: Reply) {
        let sandbox = match self.sandbox(&request.sandbox_id) {
            Ok(sandbox) => sandbox,
            Err(status) => return self.refuse(reply, status),
        };
        if sandbox.leaving.is_some() {
            let text = format!("sandbox {} is being shut down already", sandbox.id);
            return self.refuse(reply, Status::failed_precondition(text));
        }
        sandbox.leaving = Some(reply);
        if sandbox.is_over() {
            return self.delete_members();
        }
        sandbox.on_stopped.push(Box::new(Self::delete_members));
        if sandbox.phase != Phase::Stopping {
            self.end_sandbox(Duration::ZERO);
        }
    }

    fn delete_members(&mut self) {
        self.events.arm(END_LIMIT, Timer::SandboxGiveUp);
        let members: Vec<_> = self.containers.keys().cloned().collect();
        for id in members {
            let request = DeleteRequest {
                id,
                exec_id: String::new(),
            };
            self.delete(request, Reply::to_nobody());
        }
        self.sandbox_progress();
    }

    fn forget_sandbox(&mut self) {
        if let Some(reply) = self.give_back_sandbox() {
            self.answer(reply, &api::ShutdownSandboxResponse {});
        }
        self.leave();
    }

    /// Of a sandbox that nobody will ask about again.
    pub fn end_forgotten_sandbox(&mut self) {
        self.end_pause(libc::SIGKILL);
        self.give_back_sandbox();
    }

    /// Gives back what it holds; who waits for that.
    fn give_back_sandbox(&mut self) -> Option<Reply> {
        let mut sandbox = self.sandbox.take()?;
        if let Some(shm) = &sandbox.shm
            && let Err(e) = mounts::unmount_all(shm)
        {
            warn!("failed to unmount {}: {e}", shm.display());
        }
        if sandbox.mounted
            && let Err(e) = mounts::unmount_rootfs(&sandbox.bundle)
        {
            warn!("failed to cleanup the sandbox's rootfs mount: {e}");
        }
        let _ = std::fs::remove_file(sandbox.bundle.join(bundle::SANDBOX));
        if sandbox.cgroup.is_some() {
            cgroup::remove(&sandbox.wish.cgroup);
        }
        sandbox.leaving.take()
    }

    fn sandbox_metrics(&mut self, request: api::SandboxMetricsRequest, reply: Reply) {
        let sandbox = match self.sandbox(&request.sandbox_id) {
            Ok(sandbox) => sandbox,
            Err(status) => return self.refuse(reply, status),
        };
        let Some(cgroup) = &sandbox.cgroup else {
            let text = format!(
                "sandbox {} has no cgroup whose metrics could be read",
                sandbox.id
            );
            return self.refuse(reply, Status::failed_precondition(text));
        };
        let metrics = types::Metric {
            timestamp: Some(clock::timestamp(SystemTime::now())),
            id: sandbox.id.clone(),
            data: Some(crate::stats::read(cgroup)),
        };
        let response = api::SandboxMetricsResponse {
            metrics: Some(metrics),
        };
        self.answer(reply, &response);
    }
}

/// Makes what members will share. On an error nothing is left.
fn begin(sandbox: &mut Sandbox) -> std::io::Result<()> {
    let rootfs = sandbox.bundle.join(bundle::ROOTFS);
    std::fs::create_dir_all(&rootfs)?;
    if sandbox.wish.owns("ipc") {
        sandbox.shm = Some(mount_shm(&sandbox.bundle)?);
    }
    let joined = cgroup::make(&sandbox.wish.cgroup).inspect_err(|e| {
        warn!(
            "sandbox {}: cgroup {}: {e}",
            sandbox.id, sandbox.wish.cgroup
        )
    });
    let has_cgroup = joined.as_ref().is_ok_and(|files| !files.is_empty());
    let started = pause::start(
        &sandbox.wish,
        sandbox.network.as_ref(),
        joined.unwrap_or_default(),
        &rootfs,
    );
    match started {
        Ok(pid) => {
            sandbox.pid = pid;
            sandbox.phase = Phase::Running;
            sandbox.created_at = SystemTime::now();
            let state = format!("{pid}\n{}\n", sandbox.wish.cgroup);
            if let Err(e) =
                bundle::write_private(&sandbox.bundle.join(bundle::SANDBOX), state.as_bytes())
            {
                warn!("sandbox {}: {}: {e}", sandbox.id, bundle::SANDBOX);
            }
            sandbox.cgroup = has_cgroup.then(|| Cgroup::of(pid).ok()).flatten();
            Ok(())
        }
        Err(e) => {
            if let Some(shm) = sandbox.shm.take() {
                let _ = mounts::unmount_all(&shm);
            }
            cgroup::remove(&sandbox.wish.cgroup);
            Err(e)
        }
    }
}

fn mount_shm(bundle: &Path) -> std::io::Result<PathBuf> {
    let path = bundle.join(bundle::SHM);
    std::fs::create_dir_all(&path)?;
    let options = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
    let mount = Mount {
        kind: "tmpfs".into(),
        source: "shm".into(),
        target: String::new(),
        options: options.map(Into::into).to_vec(),
    };
    mounts::mount_one(mount, &path)?;
    Ok(path)
}

fn wait_response(sandbox: &Sandbox) -> api::WaitSandboxResponse {
    api::WaitSandboxResponse {
        exit_status: sandbox.exit.map_or(0, |exit| exit.status),
        exited_at: sandbox.exit.map(|exit| clock::timestamp(exit.at)),
    }
}
