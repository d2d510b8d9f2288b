//! The maker's side of making a process.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::child::{self, Vectors};
use crate::error::{Class, Context, Error, Result};
use crate::netdev;
use crate::plan::Plan;
use crate::sys::{self, Errno};
use crate::wire::{self, Failure, Message, Step};

pub struct Launched {
    pub pid: i32,
    /// The master of the terminal, if the process has one.
    pub console: Option<OwnedFd>,
    /// Network devices that it has now.
    pub given: Option<netdev::Given>,
}

/// What the maker does while the process waits, given its id.
pub struct Meanwhile<'a> {
    /// Writes the maps of its user namespace.
    pub identity: &'a mut dyn FnMut(i32) -> Result<()>,
    /// Runs the hooks of the runtime's namespaces.
    pub before_pivot: &'a mut dyn FnMut(i32) -> Result<()>,
}

/// Makes the process and returns when it waits for its start, or executes its program. On failure
/// nothing of it is left.
pub fn launch(plan: &Plan, meanwhile: &mut Meanwhile<'_>) -> Result<Launched> {
    let vectors = Vectors::new(&plan.process);
    let (ours, theirs) = sys::socket_pair().context(|| "a pair of sockets".into())?;
    if let Some(limit) = plan.patience {
        sys::limit_receiving(ours.as_raw_fd(), limit).context(|| "a pair of sockets".into())?;
    }
    // What the process sets before its namespaces needs the rights it loses in a new user namespace.
    let between = !plan.joins.is_empty()
        || plan.time_offsets.is_some()
        || plan.clone_flags & libc::CLONE_NEWUSER as u64 != 0;
    let made = if between {
        // SAFETY: the child runs `child::between`, which does what clone3 asks for and never returns.
        unsafe { sys::clone3(0, None) }
    } else {
        let cgroup = plan.cgroup.as_ref().map(AsRawFd::as_raw_fd);
        // SAFETY: as above, with `child::real`.
        unsafe { sys::clone3(plan.clone_flags, cgroup) }
    };
    let first = made.context(|| "clone3".into())?;
    if first == 0 {
        let maker = theirs.as_raw_fd();
        if between {
            child::between(plan, &vectors, maker);
        }
        child::real(plan, &vectors, maker, false);
    }
    drop(theirs);
    let mut launch = Launch {
        plan,
        pid: (!between).then_some(first),
        waiting: Vec::new(),
        console: None,
        given: None,
        ready: false,
    };
    let result = launch.converse(ours.as_raw_fd(), meanwhile);
    // Gone or not, it hears that its maker is done.
    drop(ours);
    if between {
        if launch.pid.is_none() {
            let _ = sys::kill(first, libc::SIGKILL);
        }
        let _ = sys::wait(first);
    }
    match (result, launch.pid) {
        (Ok(()), Some(pid)) => Ok(Launched {
            pid,
            console: launch.console,
            given: launch.given,
        }),
        (result, pid) => {
            let back = launch.given.map_or(Ok(()), netdev::Given::take_back);
            if let Err(e) = back {
                crate::log::warning(&e.message);
            }
            if let Some(pid) = pid {
                let _ = sys::kill(pid, libc::SIGKILL);
                let _ = sys::wait(pid);
            }
            Err(result
                .err()
                .unwrap_or_else(|| Error::failed("the container's process died while it was made")))
        }
    }
}

struct Launch<'a> {
    plan: &'a Plan,
    pid: Option<i32>,
    /// What the process said before it was known who it is.
    waiting: Vec<(Message, Option<OwnedFd>)>,
    console: Option<OwnedFd>,
    given: Option<netdev::Given>,
    ready: bool,
}

impl Launch<'_> {
    fn converse(&mut self, socket: i32, meanwhile: &mut Meanwhile<'_>) -> Result<()> {
        let lost = || "the new process's messages".to_owned();
        while !self.ready {
            let Some((message, fd)) = Message::receive(socket).context(lost)? else {
                return self.end();
            };
            match message {
                Message::Forked(pid) => self.pid = Some(pid),
                Message::Failed(failure) => return Err(describe(self.plan, failure)),
                other => self.waiting.push((other, fd)),
            }
            let Some(pid) = self.pid else { continue };
            for (message, fd) in std::mem::take(&mut self.waiting) {
                if self.hear(message, fd, pid, meanwhile)? {
                    wire::answer(socket).context(lost)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the message is one that is answered.
    fn hear(
        &mut self,
        message: Message,
        fd: Option<OwnedFd>,
        pid: i32,
        meanwhile: &mut Meanwhile<'_>,
    ) -> Result<bool> {
        match message {
            Message::Identity => (meanwhile.identity)(pid)?,
            Message::BeforePivot => (meanwhile.before_pivot)(pid)?,
            Message::Listener(number) => hand_listener(self.plan, pid, number)?,
            Message::NetDevice(place, number) => {
                if let Some(device) = self.plan.net_devices.get(place as usize) {
                    let given = match &mut self.given {
                        Some(given) => given,
                        none => none.insert(netdev::Given::of_process(pid)?),
                    };
                    given.hand(device, number)?;
                }
            }
            Message::Console => {
                self.console = fd;
                return Ok(false);
            }
            Message::Ready => {
                self.ready = true;
                return Ok(false);
            }
            Message::Forked(_) | Message::Failed(_) => return Ok(false),
        }
        Ok(true)
    }

    /// The socket was closed: by `execve` if the process waits for no start, else by its death.
    fn end(&self) -> Result<()> {
        let killed = || Error::failed("the container's process died while it was made");
        if self.plan.start.is_some() || self.pid.is_none() {
            return Err(killed());
        }
        Ok(())
    }
}

/// A hook for whoever serves seccomp notifications: set by the caller through the plan's state.
fn hand_listener(plan: &Plan, pid: i32, number: i32) -> Result<()> {
    let Some(target) = &plan.process.listener else {
        return Err(Error::failed("a seccomp listener that nobody asked for"));
    };
    target.hand(pid, number)
}

/// Says what failed in the words that clients know from runc.
pub fn describe(plan: &Plan, failure: Failure) -> Error {
    let Failure { step, index, errno } = failure;
    let index = index as usize;
    let process = &plan.process;
    let text = |s: &std::ffi::CString| s.to_string_lossy().into_owned();
    let first = || process.args.first().map(text).unwrap_or_default();
    let root = plan.rootfs.as_ref();
    let mount = || {
        let found = root.and_then(|r| r.mounts.get(index));
        found.map(|m| text(&m.target)).unwrap_or_default()
    };
    let device = || {
        let found = root.and_then(|r| r.devices.get(index));
        found.map(|d| text(&d.path)).unwrap_or_default()
    };
    let hook = |kind: &str, hooks: &[crate::plan::Hook]| {
        let path = hooks.get(index).map(|h| text(&h.path)).unwrap_or_default();
        let why = match errno.0 {
            libc::ECHILD => "it did not succeed".into(),
            libc::ETIMEDOUT => "it ran out of its time".into(),
            _ => errno.to_string(),
        };
        return_hook(kind, index, &path, &why)
    };
    let what = match step {
        Step::JoinNamespace => {
            let name = plan.joins.get(index).map_or("", |j| j.name.as_str());
            format!("joining the namespace {name}")
        }
        Step::TimeOffsets => "setting the offsets of the time namespace".into(),
        Step::Clone => "clone3".into(),
        Step::Handshake => "talking to the runtime".into(),
        Step::Cgroup => "entering the cgroup".into(),
        Step::CgroupNamespace => "making a cgroup namespace".into(),
        Step::Identity => "becoming root of the user namespace".into(),
        Step::Session => "setsid".into(),
        Step::Keyring => "unable to join session keyring".into(),
        Step::Loopback => "bringing the loopback interface up".into(),
        Step::NetDevice => {
            let device = plan.net_devices.get(index);
            let name = device.map(|d| d.name.as_str()).unwrap_or_default();
            let new = device.map(|d| text(&d.new_name)).unwrap_or_default();
            format!("linux.netDevices: {name} as {new:?} of the container")
        }
        Step::Hostname => "sethostname".into(),
        Step::Domainname => "setdomainname".into(),
        Step::Sysctl => {
            let path = plan.sysctls.get(index).map(|s| text(&s.0));
            format!("write sysctl /proc/{}", path.unwrap_or_default())
        }
        Step::OomScore => "setting oom_score_adj".into(),
        Step::Rlimit => {
            let kind = process.rlimits.get(index).map_or(0, |l| l.0);
            let name = crate::process::rlimit_name(kind);
            format!("error setting rlimit {name}")
        }
        Step::Scheduler => "setting scheduler".into(),
        Step::IoPriority => "setting ioPriority".into(),
        Step::Affinity => "setting CPU affinity".into(),
        Step::MemoryPolicy => "linux.memoryPolicy: set_mempolicy".into(),
        Step::Personality => "setting personality".into(),
        Step::RootPropagation => "setting the propagation of the root".into(),
        Step::Rootfs => {
            let path = root.map(|r| text(&r.path)).unwrap_or_default();
            format!("error preparing rootfs {path}")
        }
        Step::MountTarget => format!("error mounting to rootfs: create mountpoint {}", mount()),
        Step::MountGuard => {
            let target = mount();
            return start_error(match errno.0 {
                libc::ELOOP => format!(
                    "error mounting to rootfs at {target:?}: it must be mounted on an ordinary directory"
                ),
                libc::EPERM => format!(
                    "error mounting to rootfs at {target:?}: it cannot be mounted because it is inside /proc"
                ),
                _ => format!("error mounting to rootfs at {target:?}: {errno}"),
            });
        }
        Step::Mount => format!("error mounting to rootfs at {:?}", mount()),
        Step::MountAttributes => format!("error setting mount options at {:?}", mount()),
        Step::CopyUp => format!("tmpcopyup to {:?}", mount()),
        Step::Device => format!("error creating device node {:?}", device()),
        Step::DeviceLink => "error creating the links below /dev".into(),
        Step::CreateContainerHook => return hook("createContainer", &plan.create_container),
        Step::StartContainerHook => return hook("startContainer", &plan.start_container),
        Step::ReadonlyPath => {
            let path = root.and_then(|r| r.readonly_paths.get(index)).map(text);
            format!("can't make {:?} read-only", path.unwrap_or_default())
        }
        Step::MaskedPath => {
            let path = root.and_then(|r| r.masked_paths.get(index)).map(text);
            format!("can't mask path {:?}", path.unwrap_or_default())
        }
        Step::Terminal => "opening a terminal of the container's /dev/pts".into(),
        Step::Console => "mounting the terminal on /dev/console".into(),
        Step::ReadonlyRoot => "making the root read-only".into(),
        Step::Pivot => "pivot_root".into(),
        Step::Cwd => {
            let cwd = text(&process.cwd);
            return start_error(format!(
                "chdir to cwd ({cwd:?}) set in config.json failed: {errno}"
            ));
        }
        Step::CwdOutside => {
            return start_error(
                "current working directory is outside of container mount namespace root \
                 -- possible container breakout detected"
                    .into(),
            );
        }
        Step::Label => "setting the security label".into(),
        Step::Stdio => "setting up the standard streams".into(),
        Step::Groups => "setgroups".into(),
        Step::User => format!("setuid to {}:{}", process.uid, process.gid),
        Step::Capabilities => "unable to apply caps".into(),
        Step::NoNewPrivileges => "setting no_new_privs".into(),
        Step::NotInPath => {
            let text = format!("exec: {:?}: executable file not found in $PATH", first());
            return not_found(start_error(text));
        }
        Step::Executable if matches!(errno, Errno(libc::ENOENT | libc::ENOTDIR)) => {
            let name = first();
            return not_found(start_error(format!("exec: {name:?}: stat {name}: {errno}")));
        }
        Step::Executable => return start_error(format!("exec: {:?}: {errno}", first())),
        Step::Exec => return start_error(format!("exec {}: {errno}", first())),
        Step::Seccomp => "unable to init seccomp: error loading seccomp filter into kernel".into(),
        Step::Listener => "handing over the seccomp listener".into(),
        Step::Unknown => "an unknown step".into(),
    };
    start_error(format!("error during container init: {what}: {errno}"))
}

fn return_hook(kind: &str, index: usize, path: &str, why: &str) -> Error {
    Error::failed(format!(
        "error running {kind} hook #{index} ({path}): {why}"
    ))
}

fn start_error(text: String) -> Error {
    Error::failed(format!("unable to start container process: {text}"))
}

fn not_found(error: Error) -> Error {
    Error::new(Class::NotFound, error.message)
}
