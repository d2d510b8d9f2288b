//! From the container's root to its program: terminal, user, rights, the wait for the start.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::{At, Outcome, hook};
use crate::plan::{CapabilitySets, Plan, Process, Terminal};
use crate::sys::{self, Errno};
use crate::wire::{self, Failure, Message, Step};

/// A process may have as many labels as there are security modules that stack.
const MOST_LABELS: usize = 4;
const HOME: usize = 4096 + 8;

/// Argument and environment pointers, made by the parent; the environment has a slot left for HOME.
pub struct Vectors {
    args: Vec<*const i8>,
    env: Vec<*const i8>,
}

impl Vectors {
    pub fn new(process: &Process) -> Self {
        let pointers = |list: &[std::ffi::CString]| -> Vec<*const i8> {
            list.iter().map(|s| s.as_ptr().cast()).collect()
        };
        let mut args = pointers(&process.args);
        args.push(std::ptr::null());
        let mut env = pointers(&process.env);
        env.extend([std::ptr::null(), std::ptr::null()]);
        Self { args, env }
    }
}

pub fn schedule(process: &Process) -> Outcome<()> {
    if let Some(attr) = &process.scheduler {
        sys::sched_setattr(attr).at(Step::Scheduler)?;
    }
    if let Some(value) = process.io_priority {
        sys::ioprio_set(value).at(Step::IoPriority)?;
    }
    if let Some(policy) = &process.memory_policy {
        sys::set_mempolicy(policy.mode, &policy.nodes).at(Step::MemoryPolicy)?;
    }
    if let Some(persona) = process.personality {
        sys::personality(persona).at(Step::Personality)?;
    }
    Ok(())
}

/// The terminal of a process that joined a container: `/` is the container's root.
pub fn terminal_of_exec(plan: &Plan, maker: RawFd) -> Outcome<()> {
    let labels = open_labels(plan)?;
    if let Some(size) = plan.process.terminal {
        let root = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY).at(Step::Terminal)?;
        let slave = open_terminal(root.as_raw_fd(), size, plan, maker)?;
        take_terminal(&slave)?;
    }
    write_labels(plan, labels)
}

/// A new terminal of the container's devpts; its master goes to the maker.
pub fn open_terminal(root: RawFd, size: Terminal, plan: &Plan, maker: RawFd) -> Outcome<OwnedFd> {
    const DEVPTS: i64 = 0x1cd1;
    let slave = (|| -> sys::Result<OwnedFd> {
        let pts = sys::open_in_root(root, c"/dev/pts", libc::O_PATH | libc::O_DIRECTORY)?;
        // A file system of the kernel has no surprises under this name; an image's directory could.
        if sys::fs_magic(pts.as_raw_fd())? != DEVPTS {
            return Err(Errno(libc::ENODEV));
        }
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NOFOLLOW;
        let master = sys::openat(pts.as_raw_fd(), c"ptmx", flags, 0)?;
        let slave = sys::open_slave(master.as_raw_fd())?;
        if size.rows | size.columns != 0 {
            sys::set_window_size(slave.as_raw_fd(), size.rows, size.columns)?;
        }
        let uid = plan.process.uid;
        let flags = libc::AT_EMPTY_PATH;
        sys::fchownat(slave.as_raw_fd(), c"", uid, u32::MAX, flags)?;
        Message::Console.send(maker, Some(master.as_raw_fd()))?;
        Ok(slave)
    })();
    slave.at(Step::Terminal)
}

pub fn take_terminal(slave: &OwnedFd) -> Outcome<()> {
    let fd = slave.as_raw_fd();
    sys::set_controlling_terminal(fd).at(Step::Terminal)?;
    for target in 0..3 {
        sys::dup_to(fd, target).at(Step::Stdio)?;
    }
    Ok(())
}

type Labels = [Option<OwnedFd>; MOST_LABELS];

/// Opens what labels are written to, while the process is in the host's view of processes.
pub fn open_labels(plan: &Plan) -> Outcome<Labels> {
    let mut files: Labels = Default::default();
    for (index, ((path, _), file)) in plan.process.labels.iter().zip(&mut files).enumerate() {
        *file = Some(super::open_proc(plan, path).at_item(Step::Label, index)?);
    }
    Ok(files)
}

pub fn write_labels(plan: &Plan, files: Labels) -> Outcome<()> {
    for (index, ((_, label), file)) in plan.process.labels.iter().zip(&files).enumerate() {
        if let Some(file) = file {
            sys::write(file.as_raw_fd(), label).at_item(Step::Label, index)?;
        }
    }
    Ok(())
}

/// The rest of the way. What comes back is why the program could not be executed.
pub fn become_program(plan: &Plan, vectors: &Vectors, maker: RawFd) -> Outcome<Failure> {
    let process = &plan.process;
    stdio(process)?;
    let mut in_cwd = enter_cwd(process, plan.rootfs.is_some())?;
    let seccomp = process.seccomp.as_ref();
    let sets = process.capabilities.unwrap_or(CapabilitySets::none());
    // A filter without no_new_privs needs CAP_SYS_ADMIN: kept until the filter is there, if the
    // process will not have it anyway. Then the filter has to allow what follows it.
    const SYS_ADMIN: u64 = 1 << 21;
    let rights_last =
        seccomp.is_some() && !process.no_new_privileges && sets.effective & SYS_ADMIN == 0;
    become_user(process, &sets)?;
    if !rights_last {
        set_rights(&sets)?;
    } else {
        let (permitted, _, _) = sys::capget().at(Step::Capabilities)?;
        sys::capset(permitted, permitted, 0).at(Step::Capabilities)?;
    }
    if !in_cwd {
        sys::chdir(&process.cwd).at(Step::Cwd)?;
        in_cwd = true;
    }
    if in_cwd {
        inside()?;
    }
    let program = find(process)?;

    let mut home = [0; HOME];
    let mut env = Environment {
        pointers: &vectors.env,
        home: None,
    };
    if process.wants_home {
        find_home(process.uid, &mut home);
        env.home = Some(home.as_ptr().cast());
    }

    let mut peer = maker;
    let connection;
    if let Some(listener) = &plan.start {
        // It may wait for long, and the maker's sockets and pipes would stay open with it.
        let state = plan.state.as_ref().map_or(0, AsRawFd::as_raw_fd);
        let first = 3 + process.preserve_fds as RawFd;
        sys::close_all_from(first, &mut [maker, listener.as_raw_fd(), state])
            .at(Step::Handshake)?;
        Message::Ready.send(maker, None).at(Step::Handshake)?;
        connection = sys::accept(listener.as_raw_fd()).at(Step::Handshake)?;
        peer = connection.as_raw_fd();
        // From here on failures are the starter's to hear.
    }
    let finish = || -> Outcome<Failure> {
        hook::run_all(plan, &plan.start_container, Step::StartContainerHook)?;
        sys::close_on_exec_from(3 + process.preserve_fds).at(Step::Exec)?;
        if let Some(mask) = &process.last_affinity {
            sys::sched_setaffinity(mask).at(Step::Affinity)?;
        }
        for (index, (resource, soft, hard)) in process.rlimits.iter().enumerate() {
            sys::set_rlimit(*resource, *soft, *hard).at_item(Step::Rlimit, index)?;
        }
        if process.no_new_privileges {
            sys::set_no_new_privileges().at(Step::NoNewPrivileges)?;
        }
        if let Some(mask) = process.umask {
            sys::umask(mask);
        } else {
            sys::umask(0o022);
        }
        if let Some(filter) = seccomp {
            load(filter, peer)?;
        }
        if rights_last {
            set_rights(&sets)?;
        }
        Ok(Failure::at(Step::Exec, env.execve(program, &vectors.args)))
    };
    let failure = match finish() {
        Ok(failure) | Err(failure) => failure,
    };
    if peer != maker {
        let _ = Message::Failed(failure).write(peer);
        sys::exit(255);
    }
    Ok(failure)
}

struct Environment<'a> {
    pointers: &'a [*const i8],
    home: Option<*const i8>,
}

impl Environment<'_> {
    fn execve(&self, path: &CStr, args: &[*const i8]) -> Errno {
        const MOST: usize = 4096;
        let Some(home) = self.home else {
            // SAFETY: the vectors were made of the plan's strings, which live.
            return unsafe { sys::execve(path, args, self.pointers) };
        };
        let mut env = [std::ptr::null(); MOST];
        let count = self.pointers.len() - 2;
        if count + 2 > MOST {
            return Errno(libc::E2BIG);
        }
        env[..count].copy_from_slice(&self.pointers[..count]);
        env[count] = home;
        // SAFETY: as above; HOME is in a buffer of the caller's frame.
        unsafe { sys::execve(path, args, &env[..count + 2]) }
    }
}

impl CapabilitySets {
    const fn none() -> Self {
        Self {
            bounding: 0,
            effective: 0,
            permitted: 0,
            inheritable: 0,
            ambient: 0,
            last: 40,
        }
    }
}

/// Puts the streams in place and gives them to the user, who may have to open them again by
/// /dev/stdout.
fn stdio(process: &Process) -> Outcome<()> {
    if process.terminal.is_some() {
        return Ok(());
    }
    for (target, fd) in process.stdio.iter().enumerate() {
        if let Some(fd) = fd {
            sys::dup_to(fd.as_raw_fd(), target as RawFd).at(Step::Stdio)?;
        }
    }
    for fd in 0..3 {
        let Ok(stat) = sys::fstat(fd) else { continue };
        let null =
            stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3);
        if null || stat.st_uid == process.uid {
            continue;
        }
        match sys::fchownat(fd, c"", process.uid, u32::MAX, libc::AT_EMPTY_PATH) {
            // A file of the host's, in a user namespace or on a read-only file system.
            Err(Errno(libc::EINVAL | libc::EPERM | libc::EROFS)) => {}
            other => other.at(Step::Stdio)?,
        }
    }
    Ok(())
}

/// Tries as root first; where root may not go (a network file system), the user tries again. A missing
/// one is made for a container's first process, and an error for those that join it.
fn enter_cwd(process: &Process, made_when_missing: bool) -> Outcome<bool> {
    match sys::chdir(&process.cwd) {
        Ok(()) => Ok(true),
        Err(Errno(libc::ENOENT)) if made_when_missing => {
            let root = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY).at(Step::Cwd)?;
            let make = super::place::Make::Directory;
            super::place::make(root.as_raw_fd(), &process.cwd, make).at(Step::Cwd)?;
            sys::chdir(&process.cwd).at(Step::Cwd)?;
            Ok(true)
        }
        Err(Errno(libc::EACCES | libc::EPERM)) => Ok(false),
        Err(e) => Err(e).at(Step::Cwd),
    }
}

/// A working directory may be a magic link to a descriptor of the host: the kernel then says that it
/// is out of reach.
fn inside() -> Outcome<()> {
    let mut buffer = [0; libc::PATH_MAX as usize];
    match sys::getcwd(&mut buffer) {
        Ok(_) if buffer[0] == b'/' => Ok(()),
        Ok(_) => Err(Errno(libc::ENOENT)).at(Step::CwdOutside),
        Err(e) => Err(e).at(Step::Cwd),
    }
}

fn become_user(process: &Process, sets: &CapabilitySets) -> Outcome<()> {
    const SETPCAP: u64 = 1 << 8;
    let (_, effective, _) = sys::capget().at(Step::Capabilities)?;
    if process.capabilities.is_some() && effective & SETPCAP != 0 {
        for capability in 0..=sets.last {
            if sets.bounding & (1 << capability) == 0 {
                sys::prctl(libc::PR_CAPBSET_DROP, u64::from(capability), 0, 0)
                    .at(Step::Capabilities)?;
            }
        }
    }
    if !process.keep_groups {
        sys::setgroups(&process.groups).at(Step::Groups)?;
    }
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0).at(Step::Capabilities)?;
    sys::setresgid(process.gid).at(Step::User)?;
    sys::setresuid(process.uid).at(Step::User)?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 0, 0, 0).at(Step::Capabilities)?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0).at(Step::Capabilities)?;
    Ok(())
}

fn set_rights(sets: &CapabilitySets) -> Outcome<()> {
    sys::capset(sets.permitted, sets.effective, sets.inheritable).at(Step::Capabilities)?;
    const RAISE: u64 = 2;
    for capability in 0..=sets.last {
        if sets.ambient & (1 << capability) != 0 {
            sys::prctl(libc::PR_CAP_AMBIENT, RAISE, u64::from(capability), 0)
                .at(Step::Capabilities)?;
        }
    }
    Ok(())
}

fn load(filter: &crate::seccomp::Program, peer: RawFd) -> Outcome<()> {
    let listener = sys::seccomp(&filter.instructions, filter.flags).at(Step::Seccomp)?;
    if let Some(fd) = listener {
        Message::Listener(fd.as_raw_fd())
            .write(peer)
            .at(Step::Listener)?;
        wire::wait_for_answer(peer).at(Step::Listener)?;
    }
    Ok(())
}

fn find(process: &Process) -> Outcome<&CStr> {
    let mut worst = Errno(libc::ENOENT);
    for path in &process.candidates {
        match executable(path) {
            Ok(()) => return Ok(path),
            Err(Errno(libc::ENOENT | libc::ENOTDIR)) if process.searched => {}
            Err(e) => worst = e,
        }
    }
    let not_found = process.searched && worst.0 == libc::ENOENT;
    let step = if not_found {
        Step::NotInPath
    } else {
        Step::Executable
    };
    Err(worst).at(step)
}

fn executable(path: &CStr) -> sys::Result<()> {
    let stat = sys::stat(path)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Errno(libc::EISDIR));
    }
    sys::faccessat(libc::AT_FDCWD, path, libc::X_OK)
}

/// Fills `HOME=…` from the container's /etc/passwd, `/` if it has none.
fn find_home(uid: u32, home: &mut [u8; HOME]) {
    const PREFIX: &[u8] = b"HOME=";
    let mut file = [0; 64 << 10];
    let length = read_regular(c"/etc/passwd", &mut file).unwrap_or(0);
    let found = file[..length]
        .split(|b| *b == b'\n')
        .find_map(|line| {
            let mut fields = line.split(|b| *b == b':');
            let id = fields.nth(2)?;
            let mut number = 0_u32;
            for digit in id {
                let digit = u32::from(digit.checked_sub(b'0').filter(|d| *d < 10)?);
                number = number.checked_mul(10)?.checked_add(digit)?;
            }
            (!id.is_empty() && number == uid).then(|| fields.nth(2))?
        })
        .filter(|path| !path.is_empty() && path.len() < HOME - PREFIX.len());
    let path = found.unwrap_or(b"/");
    home[..PREFIX.len()].copy_from_slice(PREFIX);
    home[PREFIX.len()..][..path.len()].copy_from_slice(path);
}

fn read_regular(path: &CStr, buffer: &mut [u8]) -> sys::Result<usize> {
    let file = sys::open(path, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY)?;
    if sys::fstat(file.as_raw_fd())?.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Errno(libc::EINVAL));
    }
    let mut length = 0;
    while length < buffer.len() {
        match sys::read(file.as_raw_fd(), &mut buffer[length..])? {
            0 => break,
            n => length += n,
        }
    }
    Ok(length)
}
