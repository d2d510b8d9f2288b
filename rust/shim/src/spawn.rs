//! Starting programs: fork and exec with exactly the descriptors asked for.
//!
//! std's `Command` would do for most of it, but not for children that need descriptors at given
//! numbers beyond 2, a death signal and a clean signal mask without also risking its own pipe.

use std::ffi::{CString, OsStr};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The limit of open files this process was started with; children get it back.
static FILE_LIMIT: OnceLock<libc::rlimit> = OnceLock::new();

/// Raises this process's own limit of open files as far as it may: a pod's shim has some ten for each
/// container.
pub fn raise_file_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: reads and sets limits of this process through a live structure.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0
            && FILE_LIMIT.set(limit).is_ok()
        {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// The limit (soft, hard) before it was raised, if it was.
pub fn original_file_limit() -> Option<(u64, u64)> {
    FILE_LIMIT
        .get()
        .map(|limit| (limit.rlim_cur, limit.rlim_max))
}

/// Descriptors meant for a child are first moved to this number or above, so that putting them in
/// their places can never overwrite one of them.
const LIFTED: RawFd = 64;

pub struct Spawn {
    program: PathBuf,
    /// The program's file, if it is not to be opened by its path.
    image: Option<OwnedFd>,
    args: Vec<CString>,
    env: Vec<CString>,
    fds: Vec<(RawFd, OwnedFd)>,
    kill_with_parent: bool,
    new_session: bool,
    core_scheduling: bool,
}

impl Spawn {
    /// A program by path, or by name searched on PATH. Inherits the environment.
    pub fn new(program: &str) -> io::Result<Self> {
        let env = std::env::vars_os()
            // Only the service manager's direct child may answer it.
            .filter(|(name, _)| name != "NOTIFY_SOCKET")
            .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            program: find(program)?,
            image: None,
            args: vec![CString::new(program)?],
            env,
            fds: Vec::new(),
            kill_with_parent: false,
            new_session: false,
            core_scheduling: false,
        })
    }

    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> io::Result<&mut Self> {
        self.args.push(CString::new(arg.as_ref().as_bytes())?);
        Ok(self)
    }

    pub fn args<S: AsRef<OsStr>>(
        &mut self,
        args: impl IntoIterator<Item = S>,
    ) -> io::Result<&mut Self> {
        for arg in args {
            self.arg(arg)?;
        }
        Ok(self)
    }

    /// Replaces the whole environment.
    pub fn only_env(&mut self, vars: &[(&str, &str)]) -> io::Result<&mut Self> {
        self.env.clear();
        for (name, value) in vars {
            self.set_env(name, value)?;
        }
        Ok(self)
    }

    pub fn set_env(&mut self, name: &str, value: &str) -> io::Result<&mut Self> {
        let prefix = format!("{name}=");
        self.env
            .retain(|entry| !entry.as_bytes().starts_with(prefix.as_bytes()));
        self.env.push(CString::new(prefix + value)?);
        Ok(self)
    }

    /// Executes this file (no script) in the place of what the program's path leads to.
    pub fn image(&mut self, file: impl AsFd) -> io::Result<&mut Self> {
        self.image = Some(rustix::io::fcntl_dupfd_cloexec(file, LIFTED)?);
        Ok(self)
    }

    /// Gives the child a copy of `fd` at number `target`. Of 0, 1 and 2 those not given are null.
    pub fn fd(&mut self, target: RawFd, fd: impl AsFd) -> io::Result<&mut Self> {
        self.fds
            .push((target, rustix::io::fcntl_dupfd_cloexec(fd, LIFTED)?));
        Ok(self)
    }

    /// The child gets SIGKILL when this process dies.
    pub fn kill_with_parent(&mut self) -> &mut Self {
        self.kill_with_parent = true;
        self
    }

    pub fn new_session(&mut self) -> &mut Self {
        self.new_session = true;
        self
    }

    /// The child's process group gets a core scheduling cookie of its own.
    pub fn core_scheduling(&mut self, on: bool) -> &mut Self {
        self.core_scheduling = on;
        self
    }

    /// Starts the program; the error is exec's own if it cannot be run.
    pub fn spawn(mut self) -> io::Result<i32> {
        for target in 0..3 {
            if !self.fds.iter().any(|(t, _)| *t == target) {
                let null = std::fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open("/dev/null")?;
                self.fd(target, null)?;
            }
        }
        let program = CString::new(self.program.as_os_str().as_bytes())?;
        let argv = pointers(&self.args);
        let envp = pointers(&self.env);
        let (report_read, report_write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let report = rustix::io::fcntl_dupfd_cloexec(&report_write, LIFTED)?;
        drop(report_write);
        let parent = std::process::id() as libc::pid_t;
        #[cfg(test)]
        let _only = forks::one();

        // SAFETY: between fork and exec the child calls only async-signal-safe functions on data
        // prepared before the fork, allocates nothing and ends in exec or _exit.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        if pid == 0 {
            // SAFETY: as above; all pointers outlive the call since the child has its own copy.
            unsafe {
                let errno = self.become_program(parent, &program, &argv, &envp);
                libc::write(
                    report.as_raw_fd(),
                    (&raw const errno).cast(),
                    size_of_val(&errno),
                );
                libc::_exit(127);
            }
        }
        drop(report);
        let mut errno = [0; 4];
        match std::fs::File::from(report_read).read_exact(&mut errno) {
            // The pipe closed on exec: the program runs.
            Err(_) => Ok(pid),
            Ok(()) => {
                // SAFETY: reaps the child that just reported its failure; no memory is passed.
                unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
                let error = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
                Err(io::Error::new(
                    error.kind(),
                    format!("exec {}: {error}", self.program.display()),
                ))
            }
        }
    }

    /// The child's part; returns only with the number of an error.
    ///
    /// # Safety
    /// To be called in a freshly forked child only.
    unsafe fn become_program(
        &self,
        parent: libc::pid_t,
        program: &CString,
        argv: &[*const libc::c_char],
        envp: &[*const libc::c_char],
    ) -> i32 {
        // SAFETY: plain system calls on valid descriptors and pointers.
        unsafe {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            if self.new_session && libc::setsid() < 0 {
                return *libc::__errno_location();
            }
            if self.kill_with_parent {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if libc::getppid() != parent {
                    return libc::ESRCH;
                }
            }
            // PR_SCHED_CORE, create, this process, scope: its process group.
            if self.core_scheduling && libc::prctl(libc::PR_SCHED_CORE, 1, 0, 2, 0) < 0 {
                return *libc::__errno_location();
            }
            if let Some(limit) = FILE_LIMIT.get() {
                libc::setrlimit(libc::RLIMIT_NOFILE, limit);
            }
            for (target, fd) in &self.fds {
                if libc::dup2(fd.as_raw_fd(), *target) < 0 {
                    return *libc::__errno_location();
                }
            }
            // Whatever somebody left open for this process is not the child's.
            let highest = self
                .fds
                .iter()
                .fold(2, |most, (target, _)| most.max(*target));
            libc::syscall(
                libc::SYS_close_range,
                highest as libc::c_uint + 1,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
            match &self.image {
                None => libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()),
                Some(file) => libc::syscall(
                    libc::SYS_execveat,
                    file.as_raw_fd(),
                    c"".as_ptr(),
                    argv.as_ptr(),
                    envp.as_ptr(),
                    libc::AT_EMPTY_PATH,
                ) as libc::c_int,
            };
            *libc::__errno_location()
        }
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// The path of a program: as given if it has a slash, else the first executable of that name on
/// PATH.
pub fn find(program: &str) -> io::Result<PathBuf> {
    if program.contains('/') {
        return Ok(program.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|candidate| is_executable(candidate))
        .ok_or_else(|| {
            let text = format!("exec: \"{program}\": executable file not found in $PATH");
            io::Error::new(io::ErrorKind::NotFound, text)
        })
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// A wait status as containerd's clients see it: the exit code, or 128 + the signal's number.
pub fn exit_code(status: i32) -> u32 {
    if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status) as u32
    } else {
        libc::WEXITSTATUS(status) as u32
    }
}

/// Tests are threads of one process: until a child has its program, it has copies of whatever the others
/// have open, and no pipe of theirs ends.
#[cfg(test)]
pub mod forks {
    use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

    static FORKS: RwLock<()> = RwLock::new(());

    /// To be held while a child is made.
    pub fn one() -> RwLockWriteGuard<'static, ()> {
        FORKS.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a test that makes no child, and to which it matters when a descriptor is closed.
    pub fn none() -> RwLockReadGuard<'static, ()> {
        FORKS.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn wait(pid: i32) -> u32 {
        let mut status = 0;
        // SAFETY: waits for a child of this test and writes to a live integer.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        exit_code(status)
    }

    #[test]
    fn descriptors_land_where_asked_and_no_other_is_passed() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut spawn = Spawn::new("sh").unwrap();
        spawn
            .args([
                "-c",
                "echo three >&3; echo four >&4; exec ls /proc/self/fd >&3",
            ])
            .unwrap();
        spawn.fd(4, &write).unwrap().fd(3, &write).unwrap();
        let pid = spawn.spawn().unwrap();
        drop(write);
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(wait(pid), 0);
        let mut lines = text.lines();
        assert_eq!((lines.next(), lines.next()), (Some("three"), Some("four")));
        // Lower ones may come from whoever runs the tests.
        let numbers: Vec<RawFd> = lines.map(|line| line.parse().unwrap()).collect();
        let lifted = LIFTED..LIFTED + 32;
        assert!(!numbers.iter().any(|fd| lifted.contains(fd)), "{numbers:?}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Spawn::new("no-such-program-here").err().unwrap();
        assert!(error.to_string().contains("no-such-program-here"));
        let error = Spawn::new("/no/such").unwrap().spawn().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("/no/such"));
    }

    #[test]
    fn environment_and_exit_codes() {
        let mut spawn = Spawn::new("/bin/sh").unwrap();
        spawn
            .only_env(&[("A", "1"), ("B", "2")])
            .unwrap()
            .set_env("A", "3")
            .unwrap();
        spawn.args(["-c", "exit $A$B"]).unwrap();
        assert_eq!(wait(spawn.spawn().unwrap()), 32);
        let mut spawn = Spawn::new("/bin/sh").unwrap();
        spawn.args(["-c", "kill -9 $$"]).unwrap();
        assert_eq!(wait(spawn.spawn().unwrap()), 137);
    }
}
