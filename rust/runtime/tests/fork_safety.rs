//! Between `clone3` and `execve` nothing is allocated: the caller may have threads, and one of them may
//! hold the allocator's lock at that moment, for ever in the copy. A panic allocates too.
//!
//! The allocator of this test ends a process that is not the test's own, and says so.

use std::alloc::{GlobalAlloc, Layout, System};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};

use runtime::spec::Process;
use runtime::{CreateRequest, ExecRequest, Options, Runtime, Stdio, sys};
use serde_json::{Value, json};

static OWNER: AtomicI32 = AtomicI32::new(0);

struct Watching;

fn check() {
    let owner = OWNER.load(Ordering::Relaxed);
    // SAFETY: system calls that only tell, write and end.
    unsafe {
        if owner != 0 && libc::syscall(libc::SYS_getpid) as i32 != owner {
            let words = b"allocated between clone3 and execve\n";
            libc::syscall(libc::SYS_write, 2, words.as_ptr(), words.len());
            libc::syscall(libc::SYS_exit_group, 99);
        }
    }
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: passed on as it came.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        check();
        // SAFETY: passed on as it came.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        OWNER.store(0, Ordering::Relaxed);
        let _ = Runtime::new(self.0.join("state"), Options::default()).delete("box", true);
        let name = self.0.file_name().unwrap_or_default();
        let cgroups = Path::new("/sys/fs/cgroup");
        let hierarchies = std::fs::read_dir(cgroups).into_iter().flatten().flatten();
        for place in hierarchies.map(|e| e.path()).chain([cgroups.into()]) {
            let _ = std::fs::remove_dir(place.join(name));
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": source, "options": options})
}

/// As much of the specification as one container can have.
fn specification(place: &Path, users: bool) -> Value {
    let hook = |path: &str| json!([{"path": path, "args": ["busybox", "true"], "env": ["A=b"], "timeout": 9}]);
    let source = place.join("source");
    let source = source.to_str().unwrap();
    let kinds = ["pid", "ipc", "uts", "mount", "network", "cgroup"];
    let mut namespaces: Vec<Value> = kinds.iter().map(|kind| json!({"type": kind})).collect();
    let mut linux = json!({
        "cgroupsPath": format!("/{}/box", place.file_name().unwrap().to_str().unwrap()),
        "devices": [{"path": "/dev/deep/er/fuse", "type": "c", "major": 10, "minor": 229}],
        "maskedPaths": ["/proc/timer_list", "/sys/firmware", "/none"],
        "readonlyPaths": ["/proc/sys", "/none"],
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_ERRNO"}]},
        "personality": {"domain": "LINUX"},
        "rootfsPropagation": "rprivate",
    });
    if users {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        linux["uidMappings"] = map.clone();
        linux["gidMappings"] = map;
        linux["devices"] = json!([]);
        namespaces.push(json!({"type": "user"}));
    } else {
        linux["timeOffsets"] = json!({"boottime": {"secs": 5}});
        namespaces.push(json!({"type": "time"}));
    }
    linux["namespaces"] = namespaces.into();
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "box",
        "domainname": "dom",
        "process": {
            "terminal": true,
            "consoleSize": {"height": 20, "width": 70},
            "args": ["busybox", "sleep", "1000"],
            "env": ["PATH=/none:/bin"],
            "cwd": "/",
            "user": {"uid": 7, "gid": 8, "additionalGids": [9], "umask": 23},
            "capabilities": {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"],
                "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]},
            "noNewPrivileges": true,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 30, "hard": 40}],
            "oomScoreAdj": 500,
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 5},
        },
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid"]),
            mount("/dev", "tmpfs", "tmpfs", &["mode=755"]),
            mount("/dev/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0666"]),
            mount("/sys", "sysfs", "sysfs", &["ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro"]),
            mount("/link/made/here", "tmpfs", "tmpfs", &["tmpcopyup", "silent"]),
            mount("/etc", "tmpfs", "tmpfs", &["tmpcopyup"]),
            mount("/bound", "bind", source, &["rbind", "rro", "rslave"]),
            mount("/bound2/file", "bind", &format!("{source}/file"), &["bind"]),
            mount("/bound", "bind", "", &["remount", "bind", "noexec"]),
        ],
        "hooks": {
            "createRuntime": hook("/bin/true"),
            "createContainer": hook("/bin/true"),
            "startContainer": hook("/bin/busybox"),
        },
        "linux": linux,
    })
}

fn make(place: &Path, users: bool) -> PathBuf {
    let bundle = place.join(if users { "users" } else { "plain" });
    let rootfs = bundle.join("rootfs");
    for name in ["bin", "etc/deep", "proc", "dev", "sys", "target", "bound2"] {
        std::fs::create_dir_all(rootfs.join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
    std::fs::write(rootfs.join("etc/passwd"), "me:x:7:8::/home/me:/bin/sh\n").unwrap();
    std::os::unix::fs::symlink("/target", rootfs.join("link")).unwrap();
    std::os::unix::fs::symlink("passwd", rootfs.join("etc/deep/link")).unwrap();
    if users {
        let mut command = std::process::Command::new("chown");
        let status = command.args(["-hR", "100000:100000"]).arg(&rootfs).status();
        assert!(status.unwrap().success());
    }
    let specification = specification(place, users);
    std::fs::write(bundle.join("config.json"), specification.to_string()).unwrap();
    bundle
}

#[test]
fn nothing_is_allocated_on_the_way_to_the_program() {
    // SAFETY: it only tells.
    let root = unsafe { libc::geteuid() } == 0;
    if !root || !Path::new("/bin/busybox").exists() {
        eprintln!("skipped: it takes root and a static /bin/busybox");
        return;
    }
    let place = Place(std::env::temp_dir().join(format!("fork-safety-{}", std::process::id())));
    std::fs::create_dir_all(place.0.join("source")).unwrap();
    std::fs::write(place.0.join("source/file"), "").unwrap();
    for folder in [place.0.clone(), place.0.join("source")] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    }
    // What is tried here is this thread's alone.
    sys::unshare((libc::CLONE_NEWNS | libc::CLONE_NEWNET) as u64).unwrap();
    sys::remount(c"/", libc::MS_REC | libc::MS_PRIVATE).unwrap();
    let runtime = Runtime::new(place.0.join("state"), Options::default());
    for users in [false, true] {
        let bundle = make(&place.0, users);
        OWNER.store(std::process::id() as i32, Ordering::Relaxed);
        let started = runtime
            .create(CreateRequest {
                id: "box",
                bundle: &bundle,
                stdio: Stdio::Inherit,
                no_pivot: false,
                no_new_keyring: false,
                preserve_fds: 0,
            })
            .unwrap();
        assert!(started.console.is_some());
        runtime.start("box").unwrap();
        let process: Process = serde_json::from_value(json!({
            "args": ["/bin/busybox", "true"], "env": ["PATH=/bin"], "cwd": "/made/for/it",
            "user": {"uid": 7, "gid": 8},
        }))
        .unwrap();
        let refused = runtime.exec(request(process.clone()));
        // What is missing is said without a word allocated.
        let message = refused.unwrap_err().message;
        assert!(message.contains("no such file"), "{message}");
        let process = Process {
            cwd: "/".into(),
            ..process
        };
        let exec = runtime.exec(request(process)).unwrap();
        assert_eq!(sys::wait(exec.pid).unwrap(), 0);
        let init = sys::pidfd_open(started.pid).unwrap();
        sys::kill(started.pid, libc::SIGKILL).unwrap();
        sys::poll_in(init.as_raw_fd(), None).unwrap();
        sys::wait(started.pid).unwrap();
        runtime.delete("box", false).unwrap();
        OWNER.store(0, Ordering::Relaxed);
    }
}

fn request(process: Process) -> ExecRequest<'static> {
    ExecRequest {
        id: "box",
        process,
        stdio: Stdio::Streams([None, None, None]),
        preserve_fds: 0,
        ignore_paused: false,
        sub_cgroups: Vec::new(),
    }
}
