//! The new process, from `clone3` to `execve`.
//!
//! Only system calls on what [`crate::plan`] prepared: nothing here allocates, takes a lock or
//! unwinds, so that it may run in a copy of any process. A failure is one message to the maker.

mod hook;
pub mod place;
mod process;
mod rootfs;

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::plan::Plan;
use crate::sys::{self, Errno};
use crate::wire::{self, Failure, Message, Step};

pub type Outcome<T> = std::result::Result<T, Failure>;

/// Gives a kernel error its place.
pub trait At<T> {
    fn at(self, step: Step) -> Outcome<T>;
    fn at_item(self, step: Step, index: usize) -> Outcome<T>;
}

impl<T> At<T> for sys::Result<T> {
    fn at(self, step: Step) -> Outcome<T> {
        self.at_item(step, 0)
    }

    fn at_item(self, step: Step, index: usize) -> Outcome<T> {
        self.map_err(|errno| Failure {
            step,
            index: index as u32,
            errno,
        })
    }
}

/// Runs in the process between: joins namespaces and makes the real process beside itself.
pub fn between(plan: &Plan, argv: &process::Vectors, maker: RawFd) -> ! {
    let made = (|| -> Outcome<i32> {
        prepare(plan)?;
        attach(plan)?;
        join(plan)?;
        if let Some(offsets) = &plan.time_offsets {
            sys::unshare(sys::CLONE_NEWTIME).at(Step::TimeOffsets)?;
            write_proc(plan, c"self/timens_offsets", offsets).at(Step::TimeOffsets)?;
        }
        let flags = plan.clone_flags | libc::CLONE_PARENT as u64;
        let cgroup = plan.cgroup.as_ref().map(AsRawFd::as_raw_fd);
        // SAFETY: the child goes on in this module only, which never returns.
        unsafe { sys::clone3(flags, cgroup) }.at(Step::Clone)
    })();
    match made {
        Ok(0) => real(plan, argv, maker, true),
        Ok(pid) => {
            let sent = Message::Forked(pid).send(maker, None);
            sys::exit(i32::from(sent.is_err()))
        }
        Err(failure) => fail(maker, failure),
    }
}

/// Runs in the real process. `attached`: it is in its v1 cgroups already.
pub fn real(plan: &Plan, argv: &process::Vectors, maker: RawFd, attached: bool) -> ! {
    let failure = (|| -> Outcome<Failure> {
        if !attached {
            prepare(plan)?;
            attach(plan)?;
        }
        set_up(plan, maker)?;
        process::become_program(plan, argv, maker)
    })();
    match failure {
        Ok(failure) | Err(failure) => fail(maker, failure),
    }
}

fn fail(maker: RawFd, failure: Failure) -> ! {
    let _ = Message::Failed(failure).write(maker);
    sys::exit(1)
}

/// The maker's handlers and blocked signals do not belong here, and nobody may look into a process
/// that still has its memory and descriptors.
fn prepare(plan: &Plan) -> Outcome<()> {
    sys::reset_signals();
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0).at(Step::Session)?;
    if let Some(mask) = &plan.process.affinity {
        // Before the cgroup, which may take processors away.
        sys::sched_setaffinity(mask).at(Step::Affinity)?;
    }
    let score = plan.process.oom_score_adj;
    if let Some(score) = score {
        // While the user is the host's.
        let mut text = [0; 12];
        let written = write_proc(plan, c"self/oom_score_adj", decimal(score, &mut text));
        match written {
            Err(Errno(libc::EACCES | libc::EPERM)) if plan.process.clamp_oom_score_adj => {}
            other => other.at(Step::OomScore)?,
        }
    }
    for (index, (resource, soft, hard)) in plan.process.rlimits.iter().enumerate() {
        // Raising needs the rights of here; the rest comes last, or it would bind the making itself.
        let (old_soft, old_hard) = sys::get_rlimit(*resource).at_item(Step::Rlimit, index)?;
        if soft > hard {
            return Err(Errno(libc::EINVAL)).at_item(Step::Rlimit, index);
        }
        if *hard > old_hard {
            sys::set_rlimit(*resource, old_soft, *hard).at_item(Step::Rlimit, index)?;
        }
    }
    Ok(())
}

/// A number as text, without the formatting machinery.
fn decimal(number: i32, buffer: &mut [u8; 12]) -> &[u8] {
    let mut at = buffer.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    &buffer[at..]
}

/// Writes itself into its cgroups: much cheaper than being written there by another.
fn attach(plan: &Plan) -> Outcome<()> {
    for (index, tasks) in plan.attach.iter().enumerate() {
        sys::write(tasks.as_raw_fd(), b"0").at_item(Step::Cgroup, index)?;
    }
    Ok(())
}

fn join(plan: &Plan) -> Outcome<()> {
    const USER: i32 = libc::CLONE_NEWUSER;
    let mut refused: u64 = 0;
    for (index, join) in plan.joins.iter().enumerate() {
        if join.flags == USER {
            continue;
        }
        match sys::setns(join.fd.as_raw_fd(), join.flags) {
            Err(Errno(libc::EPERM)) if index < 64 => refused |= 1 << index,
            other => other.at_item(Step::JoinNamespace, index)?,
        }
    }
    let mut joined_user = false;
    for (index, join) in plan.joins.iter().enumerate() {
        if join.flags == USER {
            sys::setns(join.fd.as_raw_fd(), USER).at_item(Step::JoinNamespace, index)?;
            joined_user = true;
        }
    }
    for (index, join) in plan.joins.iter().enumerate().take(64) {
        if refused & (1 << index) != 0 {
            let again = match joined_user {
                true => sys::setns(join.fd.as_raw_fd(), join.flags),
                false => Err(Errno(libc::EPERM)),
            };
            again.at_item(Step::JoinNamespace, index)?;
        }
    }
    Ok(())
}

fn set_up(plan: &Plan, maker: RawFd) -> Outcome<()> {
    let root = plan.rootfs.as_ref();
    let root = match root {
        Some(root) => Some((root, rootfs::attach(root)?)),
        None => None,
    };
    if plan.clone_flags & libc::CLONE_NEWUSER as u64 != 0 {
        Message::Identity.send(maker, None).at(Step::Handshake)?;
        wire::wait_for_answer(maker).at(Step::Handshake)?;
    }
    if plan.in_user_namespace {
        sys::setresgid(0).at(Step::Identity)?;
        sys::setresuid(0).at(Step::Identity)?;
        // Changing the user made it visible again.
        sys::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0).at(Step::Session)?;
    }
    if plan.makes_cgroup_namespace {
        sys::unshare(libc::CLONE_NEWCGROUP as u64).at(Step::CgroupNamespace)?;
    }
    sys::new_session().at(Step::Session)?;
    if let Some(name) = &plan.keyring {
        match sys::join_session_keyring(name) {
            Err(Errno(libc::ENOSYS)) => {}
            other => other.at(Step::Keyring)?,
        }
    }
    if plan.loopback {
        sys::interface_up(b"lo").at(Step::Loopback)?;
    }
    for (place, device) in plan.net_devices.iter().enumerate() {
        let number = device.place().at_item(Step::NetDevice, place)?;
        let message = Message::NetDevice(place as u32, number);
        message.send(maker, None).at(Step::Handshake)?;
        wire::wait_for_answer(maker).at(Step::Handshake)?;
        device.set_up(number).at_item(Step::NetDevice, place)?;
    }
    if !plan.hostname.is_empty() {
        sys::sethostname(&plan.hostname).at(Step::Hostname)?;
    }
    if !plan.domainname.is_empty() {
        sys::setdomainname(&plan.domainname).at(Step::Domainname)?;
    }
    for (index, (path, value)) in plan.sysctls.iter().enumerate() {
        write_proc(plan, path, value).at_item(Step::Sysctl, index)?;
    }
    process::schedule(&plan.process)?;
    match &root {
        Some((root, fd)) => rootfs::set_up(plan, root, fd.as_raw_fd(), maker),
        None => process::terminal_of_exec(plan, maker),
    }
}

/// A file of the host's procfs, to be written. Not by its path: what a container has at /proc, and what
/// is mounted over the host's, might only look like it, and swallow a label or a limit.
fn open_proc(plan: &Plan, path: &std::ffi::CStr) -> sys::Result<OwnedFd> {
    const PROC: i64 = 0x9fa0;
    let root = plan.proc.as_ref().ok_or(Errno(libc::ENOTDIR))?;
    let file = sys::openat(root.as_raw_fd(), path, libc::O_WRONLY, 0)?;
    match sys::fs_magic(file.as_raw_fd())? {
        PROC => Ok(file),
        _ => Err(Errno(libc::EXDEV)),
    }
}

/// The writer's own namespaces are what it shows.
fn write_proc(plan: &Plan, path: &std::ffi::CStr, content: &[u8]) -> sys::Result<()> {
    let file = open_proc(plan, path)?;
    sys::write(file.as_raw_fd(), content).map(drop)
}

pub use process::Vectors;
