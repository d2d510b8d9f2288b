//! The process that keeps a sandbox's namespaces: the first of its PID namespace, if it has one.
//!
//! A copy of the shim that executes no program: it enters its namespaces, gives up its root file
//! system, its user and every capability, and then waits, reaping what it is given. It ends by
//! SIGTERM, and with its shim.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Network, Wish};

/// Nobody's user and group; the numbers that pause images have.
const NOBODY: libc::uid_t = 65535;

/// What the child needs, made before it: it may allocate nothing.
struct Plan {
    flags: u64,
    network: RawFd,
    hostname: CString,
    sysctls: Vec<(CString, CString)>,
    /// Files to which writing 0 moves the writer into a cgroup.
    cgroup: Vec<File>,
    /// An empty folder to become the root.
    root: CString,
    /// Where the arguments of this process lie in memory.
    arguments: Option<(usize, usize)>,
    report: RawFd,
}

/// Steps of the child that can fail, by the byte it reports.
const STEPS: [&str; 6] = [
    "session",
    "joining the network namespace",
    "hostname",
    "sysctl",
    "root file system",
    "giving up privileges",
];

/// Starts it; its pid. `root` is an empty folder.
pub fn start(
    wish: &Wish,
    network: Option<&Network>,
    cgroup: Vec<File>,
    root: &Path,
) -> io::Result<i32> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut flags = libc::CLONE_NEWNS as u64;
    for (kind, flag) in [
        ("ipc", libc::CLONE_NEWIPC),
        ("uts", libc::CLONE_NEWUTS),
        ("pid", libc::CLONE_NEWPID),
    ] {
        if wish.owns(kind) {
            flags |= flag as u64;
        }
    }
    let sysctls = wish
        .sysctls
        .iter()
        .map(|(name, value)| {
            let path = format!("/proc/sys/{}", sysctl_path(name)?);
            Ok((CString::new(path)?, CString::new(value.as_str())?))
        })
        .collect::<io::Result<Vec<_>>>()?;
    let plan = Plan {
        flags,
        network: network
            .filter(|network| network.enterable)
            .map_or(-1, |network| network.file.as_raw_fd()),
        hostname: CString::new(wish.hostname.as_str())?,
        sysctls,
        cgroup,
        root: CString::new(root.as_os_str().as_bytes())?,
        arguments: own_arguments(),
        report: write.as_raw_fd(),
    };
    #[cfg(test)]
    let _only = crate::spawn::forks::one();
    // SAFETY: the child runs the plan, which was made before, and nothing else.
    let pid = unsafe { runtime::sys::clone3(plan.flags, None) }
        .map_err(|errno| io::Error::from_raw_os_error(errno.0))?;
    if pid == 0 {
        // SAFETY: this is the child just made; it never returns from here.
        unsafe { plan.run() }
    }
    drop(write);
    let mut report = [0; 6];
    match File::from(read).read_exact(&mut report) {
        Ok(()) if report[0] == u8::MAX => Ok(pid),
        result => {
            // SAFETY: ends and reaps the child just made; no memory is passed.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
            let Ok(()) = result else {
                return Err(io::Error::other("it died at once"));
            };
            let errno = i32::from_ne_bytes([report[2], report[3], report[4], report[5]]);
            let error = io::Error::from_raw_os_error(errno);
            let step = STEPS.get(usize::from(report[0])).unwrap_or(&"?");
            let which = match wish.sysctls.keys().nth(usize::from(report[1])) {
                Some(name) if *step == "sysctl" => format!(" {name}"),
                _ => String::new(),
            };
            Err(io::Error::new(
                error.kind(),
                format!("{step}{which}: {error}"),
            ))
        }
    }
}

/// `kernel.shmmax` and `kernel/shmmax` are one name; only what namespaces have may be set.
fn sysctl_path(name: &str) -> io::Result<String> {
    let path = match name.find(['.', '/']) {
        Some(index) if name.as_bytes()[index] == b'.' => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => name.to_owned(),
    };
    let known = [
        "net/",
        "kernel/shm",
        "kernel/msg",
        "kernel/sem",
        "fs/mqueue/",
    ];
    if path.split('/').any(|part| part.is_empty() || part == "..")
        || !known.iter().any(|prefix| path.starts_with(prefix))
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("sysctl {name} is not in a separate kernel namespace"),
        ));
    }
    Ok(path)
}

/// The memory that `/proc/self/cmdline` shows (proc_pid_stat(5), fields 48 and 49).
fn own_arguments() -> Option<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(45);
    let mut number = || fields.next()?.parse().ok().filter(|n| *n != 0);
    let (start, end) = (number()?, number()?);
    (start < end).then_some((start, end))
}

impl Plan {
    /// # Safety
    /// To be called in a freshly forked child only.
    unsafe fn run(&self) -> ! {
        let mut which = 0;
        // SAFETY: plain system calls on descriptors and pointers made before the fork.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
            let failed = self.become_pause(&mut which);
            let errno = if failed.is_some() {
                *libc::__errno_location()
            } else {
                0
            };
            let e = errno.to_ne_bytes();
            let step = failed.unwrap_or(u8::MAX);
            let report = [step, which, e[0], e[1], e[2], e[3]];
            libc::write(self.report, report.as_ptr().cast(), report.len());
            libc::close(self.report);
            if failed.is_some() {
                libc::_exit(1);
            }
            keep()
        }
    }

    /// The step that failed, with errno set.
    ///
    /// # Safety
    /// As for [`Plan::run`].
    unsafe fn become_pause(&self, which: &mut u8) -> Option<u8> {
        let check = |step: u8, result: libc::c_int| (result < 0).then_some(step);
        // SAFETY: as for `run`; the strings outlive the calls.
        unsafe {
            // Where the accounting is wished for but not to be had, the pod is not refused for it.
            for file in &self.cgroup {
                libc::write(file.as_raw_fd(), c"0".as_ptr().cast(), 1);
            }
            if let step @ Some(_) = check(0, libc::setsid()) {
                return step;
            }
            if self.network >= 0
                && let step @ Some(_) = check(1, libc::setns(self.network, libc::CLONE_NEWNET))
            {
                return step;
            }
            let name = self.hostname.as_bytes();
            if !name.is_empty()
                && let step @ Some(_) =
                    check(2, libc::sethostname(name.as_ptr().cast(), name.len()))
            {
                return step;
            }
            for (path, value) in &self.sysctls {
                let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                let value = value.as_bytes();
                if fd < 0 || libc::write(fd, value.as_ptr().cast(), value.len()) < 0 {
                    return Some(3);
                }
                libc::close(fd);
                *which += 1;
            }
            self.leave_root().or_else(|| self.give_up())
        }
    }

    /// An empty file system of its own: `/proc/PID/root` leads members that see this process nowhere.
    ///
    /// # Safety
    /// As for [`Plan::run`].
    unsafe fn leave_root(&self) -> Option<u8> {
        let (root, none) = (self.root.as_ptr(), std::ptr::null());
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        // SAFETY: as for `run`.
        let done = unsafe {
            libc::mount(
                c"".as_ptr(),
                c"/".as_ptr(),
                none,
                libc::MS_REC | libc::MS_PRIVATE,
                none.cast(),
            ) == 0
                && libc::mount(
                    c"pause".as_ptr(),
                    root,
                    c"tmpfs".as_ptr(),
                    flags,
                    c"size=0,nr_inodes=2".as_ptr().cast(),
                ) == 0
                && libc::chdir(root) == 0
                && libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) == 0
                && libc::umount2(c".".as_ptr(), libc::MNT_DETACH) == 0
                && libc::chdir(c"/".as_ptr()) == 0
        };
        (!done).then_some(4)
    }

    /// # Safety
    /// As for [`Plan::run`].
    unsafe fn give_up(&self) -> Option<u8> {
        let report = self.report as u32;
        // SAFETY: as for `run`; the arguments' memory is this process's own and writable.
        unsafe {
            if report > 0 {
                libc::close_range(0, report - 1, 0);
            }
            libc::close_range(report + 1, u32::MAX, 0);
            libc::prctl(libc::PR_SET_NAME, c"pause".as_ptr());
            if let Some((start, end)) = self.arguments {
                let memory = std::slice::from_raw_parts_mut(start as *mut u8, end - start);
                for (index, byte) in memory.iter_mut().enumerate() {
                    *byte = *b"pause".get(index).unwrap_or(&0);
                }
            }
            let mut capability = 0;
            while libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) == 0 {
                capability += 1;
            }
            let done = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) == 0
                && libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY) == 0
                // With the user go the capabilities.
                && libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) == 0
                && libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0;
            (!done).then_some(5)
        }
    }
}

/// Waits for the end.
///
/// # Safety
/// To be called in a child that has nothing else to do.
unsafe fn keep() -> ! {
    // SAFETY: plain system calls on local memory; all signals are blocked.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        let none = std::ptr::null_mut();
        loop {
            match libc::sigwaitinfo(&raw const all, none) {
                libc::SIGTERM | libc::SIGINT => libc::_exit(0),
                libc::SIGCHLD => while libc::waitpid(-1, none.cast(), libc::WNOHANG) > 0 {},
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn sysctls_of_namespaces_only() {
        assert_eq!(
            sysctl_path("net.ipv4.ip_forward").unwrap(),
            "net/ipv4/ip_forward"
        );
        assert_eq!(
            sysctl_path("net/ipv4/conf/a.b/x").unwrap(),
            "net/ipv4/conf/a.b/x"
        );
        assert_eq!(
            sysctl_path("net.ipv4.conf.a/b.x").unwrap(),
            "net/ipv4/conf/a.b/x"
        );
        assert_eq!(
            sysctl_path("kernel.shm_rmid_forced").unwrap(),
            "kernel/shm_rmid_forced"
        );
        for wrong in [
            "kernel.core_pattern",
            "net/../kernel/core_pattern",
            "vm.swappiness",
            "",
            "net.",
        ] {
            assert!(sysctl_path(wrong).is_err(), "{wrong}");
        }
    }

    fn wish() -> Wish {
        Wish {
            own: super::super::KINDS.to_vec(),
            hostname: "a-sandbox".into(),
            sysctls: BTreeMap::from([("kernel.msgmax".into(), "4096".into())]),
            ..Wish::default()
        }
    }

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    fn reap(pid: i32) -> u32 {
        let mut status = 0;
        // SAFETY: waits for a child of this test and writes to a live integer.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        crate::spawn::exit_code(status)
    }

    fn empty_folder(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("shim-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn it_keeps_namespaces_and_has_nothing_else() {
        if !is_root() {
            return;
        }
        let root = empty_folder("pause");
        let pid = start(&wish(), None, Vec::new(), &root).unwrap();
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
        let link =
            |pid: &str, name: &str| std::fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
        for kind in super::super::KINDS {
            let name = format!("ns/{kind}");
            assert_ne!(link(&pid.to_string(), &name), link("self", &name));
        }
        assert_eq!(link(&pid.to_string(), "ns/net"), link("self", "ns/net"));
        assert_eq!(
            (
                read("comm").as_str(),
                read("cmdline").trim_end_matches('\0')
            ),
            ("pause\n", "pause")
        );
        let status = read("status");
        let line = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace()
                .skip(1)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(line("Uid:"), "65535 65535 65535 65535");
        for name in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(line(name).trim_start_matches('0'), "", "{name}");
        }
        assert!(
            line("NSpid:").ends_with(" 1"),
            "the first of its PID namespace"
        );
        let entries = |name: &str| {
            std::fs::read_dir(format!("/proc/{pid}/{name}"))
                .unwrap()
                .count()
        };
        // The descriptor it reported by is closed after the report.
        while entries("fd") > 0 {
            std::thread::yield_now();
        }
        assert_eq!(entries("root"), 0);
        assert_eq!(read("mountinfo").lines().count(), 1);
        // SAFETY: signals the child of this test.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        assert_eq!(reap(pid), 0);
        std::fs::remove_dir(root).unwrap();
    }

    #[test]
    fn what_cannot_be_set_is_named_and_nothing_stays() {
        if !is_root() {
            return;
        }
        let root = empty_folder("pause-fails");
        let mut wish = wish();
        wish.sysctls.insert("net.no_such".into(), "1".into());
        let error = start(&wish, None, Vec::new(), &root)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("sysctl net.no_such: "), "{error}");
        std::fs::remove_dir(root).unwrap();
    }
}
