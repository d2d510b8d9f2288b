//! The sandbox service, with the fake runtime for members and a real process for the namespaces.

use std::time::SystemTime;

use prost::Message;

use super::{Bench, delete, wait};
use crate::event_loop::Timer;
use crate::proto::containerd::runtime::sandbox::v1 as sb;
use crate::proto::containerd::task::v3 as api;

const SERVICE: &str = "containerd.runtime.sandbox.v1.Sandbox";
const NOT_FOUND: i32 = 5;
const ALREADY_EXISTS: i32 = 6;
const FAILED_PRECONDITION: i32 = 9;

type Answer<M> = Result<M, (i32, String)>;

/// Making namespaces takes root.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Bench {
    fn ask<M: Message + Default>(&mut self, method: &str, message: &impl Message) -> Answer<M> {
        let stream = self.send_to(SERVICE, method, message, 0);
        self.answer(stream)
    }

    fn create_sandbox(&mut self, id: &str) -> Answer<sb::CreateSandboxResponse> {
        let bundle_path = self.dir.join(format!("sandbox-{id}"));
        std::fs::create_dir_all(&bundle_path).unwrap();
        let request = sb::CreateSandboxRequest {
            sandbox_id: id.into(),
            bundle_path: bundle_path.to_str().unwrap().into(),
            ..Default::default()
        };
        self.ask("CreateSandbox", &request)
    }

    fn start_sandbox(&mut self) -> Answer<sb::StartSandboxResponse> {
        let request = sb::StartSandboxRequest {
            sandbox_id: "pod".into(),
        };
        self.ask("StartSandbox", &request)
    }

    /// A sandbox that runs; the pid of what keeps it.
    fn sandbox(&mut self) -> i32 {
        self.create_sandbox("pod").unwrap();
        let started = self.start_sandbox().unwrap();
        assert!(started.created_at.is_some());
        started.pid as i32
    }

    /// The kernel's part: waits for the end of what kept the sandbox and tells the shim.
    fn pause_ends(&mut self, pid: i32) {
        let mut status = 0;
        // SAFETY: waits for a child of this test and writes to a live integer.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        self.shim.child_exited(pid, status, SystemTime::now());
    }

    fn sandbox_status(&mut self) -> sb::SandboxStatusResponse {
        let request = sb::SandboxStatusRequest {
            sandbox_id: "pod".into(),
            verbose: true,
        };
        self.ask("SandboxStatus", &request).unwrap()
    }

    fn stop(&mut self, timeout_secs: u32) -> u32 {
        let request = sb::StopSandboxRequest {
            sandbox_id: "pod".into(),
            timeout_secs,
        };
        self.send_to(SERVICE, "StopSandbox", &request, 0)
    }

    fn shut_down(&mut self) -> u32 {
        let request = sb::ShutdownSandboxRequest {
            sandbox_id: "pod".into(),
        };
        self.send_to(SERVICE, "ShutdownSandbox", &request, 0)
    }
}

#[test]
fn the_order_of_things() {
    let mut bench = Bench::new();
    assert_eq!(bench.start_sandbox().unwrap_err().0, FAILED_PRECONDITION);
    let ping = sb::PingRequest {
        sandbox_id: "pod".into(),
    };
    assert_eq!(
        bench.ask::<()>("PingSandbox", &ping).unwrap_err().0,
        NOT_FOUND
    );
    bench.create_sandbox("pod").unwrap();
    assert_eq!(bench.create_sandbox("pod").unwrap_err().0, ALREADY_EXISTS);
    assert_eq!(bench.create_sandbox("other").unwrap_err().0, ALREADY_EXISTS);
    bench.ask::<()>("PingSandbox", &ping).unwrap();
    assert_eq!(bench.sandbox_status().state, "SANDBOX_NOTREADY");

    // A container before its sandbox is there has nothing to join.
    let request = bench.create_request("box");
    let refused = bench.call::<api::CreateTaskResponse>("Create", &request);
    assert_eq!(refused.unwrap_err().0, FAILED_PRECONDITION);

    // One that never began ends at once.
    let stop = bench.stop(0);
    bench.answer::<()>(stop).unwrap();
    assert_eq!(bench.start_sandbox().unwrap_err().0, FAILED_PRECONDITION);
    let gone = bench.shut_down();
    bench.answer::<()>(gone).unwrap();
    assert!(bench.shim.finished());
}

#[test]
fn what_is_asked_for_has_to_be_there() {
    let mut bench = Bench::new();
    let mut request = sb::CreateSandboxRequest {
        sandbox_id: "pod".into(),
        bundle_path: bench.dir.join("missing").to_str().unwrap().into(),
        ..Default::default()
    };
    let refused = bench.ask::<()>("CreateSandbox", &request).unwrap_err();
    assert!(refused.1.contains("missing"), "{refused:?}");
    request.bundle_path = bench.dir.to_str().unwrap().into();
    request.netns_path = "/no/such/netns".into();
    let refused = bench.ask::<()>("CreateSandbox", &request).unwrap_err();
    assert_eq!(refused.0, NOT_FOUND);
    assert!(refused.1.contains("/no/such/netns"), "{refused:?}");
    assert!(bench.shim.sandbox.is_none());
    let unknown = bench.ask::<()>("Dance", &request).unwrap_err();
    assert_eq!(unknown.0, 12);
}

#[test]
fn a_sandbox_and_its_members_end_in_order() {
    if !is_root() {
        return;
    }
    let mut bench = Bench::new();
    let pause = bench.sandbox();
    let status = bench.sandbox_status();
    assert_eq!(
        (status.state.as_str(), status.pid as i32),
        ("SANDBOX_READY", pause)
    );
    assert_eq!(status.info["pid"], pause.to_string());
    assert_eq!(status.info["namespaces"], "ipc,uts,pid");
    let id = sb::PlatformRequest {
        sandbox_id: "pod".into(),
    };
    let platform: sb::PlatformResponse = bench.ask("Platform", &id).unwrap();
    assert_eq!(platform.platform.unwrap().os, "linux");

    let init = bench.running("box");
    // Deleting a member, or asking the shim to leave without any, leaves the sandbox alone.
    bench.exits(init, 0);
    bench
        .call::<api::DeleteResponse>("Delete", &delete("box", ""))
        .unwrap();
    let shutdown = api::ShutdownRequest {
        id: "box".into(),
        now: true,
    };
    bench.call::<()>("Shutdown", &shutdown).unwrap();
    assert!(!bench.shim.finished());

    let init = bench.running("other");
    let waiting = bench.send_to(
        SERVICE,
        "WaitSandbox",
        &sb::WaitSandboxRequest {
            sandbox_id: "pod".into(),
        },
        0,
    );
    let stop = bench.stop(30);
    bench.settle();
    assert!(!bench.answered(waiting) && !bench.answered(stop));
    assert_eq!(bench.fake.calls.borrow().last().unwrap(), "kill other 15");
    bench.shim.on_sandbox_timer(Timer::SandboxKill);
    assert_eq!(bench.fake.calls.borrow().last().unwrap(), "kill other 9");
    bench.exits(init, 9);
    bench.settle();
    bench.pause_ends(pause);
    bench.answer::<()>(stop).unwrap();
    let ended: sb::WaitSandboxResponse = bench.answer(waiting).unwrap();
    assert_eq!(ended.exit_status, 0);
    assert!(ended.exited_at.is_some());
    let status = bench.sandbox_status();
    assert_eq!((status.state.as_str(), status.pid), ("SANDBOX_NOTREADY", 0));
    let again = bench.stop(0);
    bench.answer::<()>(again).unwrap();

    let gone = bench.shut_down();
    bench.answer::<()>(gone).unwrap();
    assert_eq!(bench.fake.calls.borrow().last().unwrap(), "delete other");
    bench.settle();
    assert!(bench.shim.containers.is_empty() && bench.shim.finished());
    assert!(!std::fs::exists(bench.dir.join("sandbox-pod/sandbox-state")).unwrap());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(bench.dir.to_str().unwrap()));
}

#[test]
fn a_shutdown_needs_no_stop_before_it() {
    if !is_root() {
        return;
    }
    let mut bench = Bench::new();
    let pause = bench.sandbox();
    let init = bench.running("box");
    let gone = bench.shut_down();
    bench.settle();
    assert_eq!(bench.fake.calls.borrow().last().unwrap(), "kill box 9");
    bench.exits(init, 9);
    bench.settle();
    bench.pause_ends(pause);
    bench.answer::<()>(gone).unwrap();
    assert_eq!(bench.topics(), ["create", "start", "exit", "delete"]);
    assert!(bench.shim.finished());
}

#[test]
fn members_that_do_not_die_are_named() {
    if !is_root() {
        return;
    }
    let mut bench = Bench::new();
    let pause = bench.sandbox();
    bench.running("stuck");
    let stop = bench.stop(0);
    bench.settle();
    bench.shim.on_sandbox_timer(Timer::SandboxGiveUp);
    let refused = bench.answer::<()>(stop).unwrap_err();
    assert_eq!(refused.0, 4);
    assert!(refused.1.contains("stuck"), "{refused:?}");
    bench.pause_ends(pause);
    let gone = bench.shut_down();
    bench.settle();
    assert!(!bench.answered(gone), "its member is there still");
    bench.shim.on_sandbox_timer(Timer::SandboxGiveUp);
    bench.answer::<()>(gone).unwrap();
}

#[test]
fn namespaces_that_go_end_the_sandbox() {
    if !is_root() {
        return;
    }
    let mut bench = Bench::new();
    let pause = bench.sandbox();
    let waiting = bench.send_to(
        SERVICE,
        "WaitSandbox",
        &sb::WaitSandboxRequest {
            sandbox_id: "pod".into(),
        },
        0,
    );
    // SAFETY: signals the child of this test.
    unsafe { libc::kill(pause, libc::SIGKILL) };
    bench.pause_ends(pause);
    let ended: sb::WaitSandboxResponse = bench.answer(waiting).unwrap();
    assert_eq!(ended.exit_status, 137);
    let gone = bench.shut_down();
    bench.answer::<()>(gone).unwrap();
}

#[test]
fn a_member_joins_what_the_sandbox_has() {
    if !is_root() {
        return;
    }
    let mut bench = Bench::new();
    let pause = bench.sandbox();
    let config = r#"{"linux":{"namespaces":[{"type":"ipc","path":"/proc/1/ns/ipc"}]},
        "mounts":[{"destination":"/dev/shm","type":"tmpfs","source":"shm"}]}"#;
    let bundle = bench.bundle("box", config);
    let request = api::CreateTaskRequest {
        id: "box".into(),
        bundle: bundle.clone(),
        ..Default::default()
    };
    let init = bench.run(&request);
    let config = std::fs::read_to_string(format!("{bundle}/config.json")).unwrap();
    assert!(
        config.contains(&format!("/proc/{pause}/ns/ipc")),
        "{config}"
    );
    assert!(config.contains("sandbox-pod/shm"), "{config}");
    let waiting = bench.send("Wait", &wait("box", ""));
    bench.exits(init, 0);
    bench.answer::<api::WaitResponse>(waiting).unwrap();
    let gone = bench.shut_down();
    bench.settle();
    bench.pause_ends(pause);
    bench.answer::<()>(gone).unwrap();
}
