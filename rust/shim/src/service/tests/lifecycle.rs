//! A container's way through its states.

use super::*;

#[test]
fn from_create_to_delete_with_events_in_order() {
    let mut bench = Bench::new();
    let request = bench.create_request("box");
    let created: api::CreateTaskResponse = bench.call("Create", &request).unwrap();
    assert_eq!(bench.state("box", "").status, 1);
    let waiting = bench.send("Wait", &wait("box", ""));
    let start = api::StartRequest {
        id: "box".into(),
        exec_id: String::new(),
    };
    let started: api::StartResponse = bench.call("Start", &start).unwrap();
    assert_eq!(created.pid, started.pid);
    let state = bench.state("box", "");
    assert_eq!(
        (state.status, state.pid, state.id.as_str()),
        (2, started.pid, "box")
    );
    assert_eq!(
        state.exited_at.unwrap().seconds,
        -62_135_596_800,
        "Go's zero time"
    );
    assert!(!bench.answered(waiting));

    bench.exits(started.pid as i32, 7);
    let waited: api::WaitResponse = bench.answer(waiting).unwrap();
    assert_eq!(waited.exit_status, 7);
    assert_eq!(bench.state("box", "").status, 3);
    let again: api::WaitResponse = bench.call("Wait", &wait("box", "")).unwrap();
    assert_eq!(again, waited);

    let deleted: api::DeleteResponse = bench.call("Delete", &delete("box", "")).unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (started.pid, 7));
    assert_eq!(deleted.exited_at, waited.exited_at);
    assert_eq!(bench.topics(), ["create", "start", "exit", "delete"]);
    assert_eq!(
        *bench.fake.calls.borrow(),
        ["create box", "start box", "delete box"]
    );
    assert!(bench.shim.processes.is_empty() && bench.shim.pumps.is_empty());
}

#[test]
fn both_versions_are_served_and_others_are_not() {
    let mut bench = Bench::new();
    bench.running("box");
    let connect = api::ConnectRequest { id: "box".into() };
    for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        let stream = bench.send_to(service, "Connect", &connect, 0);
        let answer: api::ConnectResponse = bench.answer(stream).unwrap();
        assert_eq!(answer.shim_pid, std::process::id());
        assert!(answer.task_pid > 0);
    }
    let stream = bench.send_to("containerd.task.v9.Task", "Connect", &connect, 0);
    let refused = bench.answer::<()>(stream).unwrap_err();
    assert_eq!(refused, (12, "service containerd.task.v9.Task".into()));
    let refused = bench.call::<()>("Nope", &connect).unwrap_err();
    assert_eq!(refused, (12, "method Nope".into()));
}

#[test]
fn unknown_and_known_names() {
    let mut bench = Bench::new();
    let missing = (5, "container not created: not found".to_owned());
    for method in [
        "State", "Start", "Delete", "Pids", "Pause", "Resume", "Kill", "Wait", "Stats",
    ] {
        // These requests all begin with the id in field 1.
        let refused = bench.call::<()>(method, &wait("box", "")).unwrap_err();
        assert_eq!(refused, missing, "{method}");
    }
    bench.running("box");
    let refused = bench.call::<()>("State", &wait("box", "e")).unwrap_err();
    assert_eq!(refused, (5, "process does not exist e: not found".into()));
    let request = bench.create_request("box");
    let refused = bench.call::<()>("Create", &request).unwrap_err();
    assert_eq!(refused, (6, "container box: already exists".into()));
    let request = api::CreateTaskRequest {
        id: "../x".into(),
        ..request
    };
    assert_eq!(bench.call::<()>("Create", &request).unwrap_err().0, 3);
}

#[test]
fn a_failed_create_leaves_nothing() {
    let mut bench = Bench::new();
    bench.fake.fail("create", "exec: \"x\": not found");
    let request = bench.create_request("box");
    let refused = bench.call::<()>("Create", &request).unwrap_err();
    assert_eq!(
        refused,
        (
            2,
            "OCI runtime create failed: exec: \"x\": not found".into()
        )
    );
    assert!(bench.topics().is_empty());
    assert!(bench.shim.is_empty() && bench.shim.processes.is_empty());
    bench.running("box");
}

#[test]
fn a_failed_start_can_be_deleted() {
    let mut bench = Bench::new();
    let request = bench.create_request("box");
    bench
        .call::<api::CreateTaskResponse>("Create", &request)
        .unwrap();
    bench.fake.fail("start", "cannot start");
    let start = api::StartRequest {
        id: "box".into(),
        exec_id: String::new(),
    };
    let refused = bench.call::<()>("Start", &start).unwrap_err();
    assert_eq!(
        refused,
        (2, "OCI runtime start failed: cannot start".into())
    );
    bench
        .call::<api::DeleteResponse>("Delete", &delete("box", ""))
        .unwrap();
    assert_eq!(bench.topics(), ["create", "delete"]);
}

#[test]
fn a_create_that_misses_its_deadline_is_undone() {
    let mut bench = Bench::new();
    bench.fake.hold("create");
    let request = bench.create_request("box");
    let stream = bench.send_to("containerd.task.v2.Task", "Create", &request, 1_000_000);
    let refused = bench.answer::<()>(stream).unwrap_err();
    assert_eq!(refused, (4, "context deadline exceeded".into()));
    // The runtime had finished when it was to be killed.
    bench.finish_call(0);
    bench.settle();
    assert_eq!(
        *bench.fake.calls.borrow(),
        ["create box", "delete box force"]
    );
    assert!(bench.shim.is_empty() && bench.topics().is_empty());
}

#[test]
fn a_create_whose_client_goes_away_is_kept() {
    let mut bench = Bench::new();
    bench.fake.hold("create");
    let request = bench.create_request("box");
    bench.send("Create", &request);
    let (near, client) = UnixStream::pair().unwrap();
    client.set_nonblocking(true).unwrap();
    bench.client = client;
    bench.next_stream = 1;
    bench
        .shim
        .server
        .admit(&mut bench.shim.events, near)
        .unwrap();
    bench.settle();
    bench.finish_call(0);
    assert_eq!(
        bench.state("box", "").status,
        1,
        "the daemon finds it when it is back"
    );
}

#[test]
fn containers_proceed_side_by_side() {
    let mut bench = Bench::new();
    let streams: Vec<u32> = (0..20)
        .map(|i| {
            bench.fake.hold("create");
            let request = bench.create_request(&format!("box{i}"));
            bench.send("Create", &request)
        })
        .collect();
    assert_eq!(bench.fake.children.borrow().len(), 20, "all were begun");
    assert!(streams.iter().all(|stream| !bench.answered(*stream)));
    for _ in 0..20 {
        bench.finish_call(0);
    }
    for stream in streams {
        bench.answer::<api::CreateTaskResponse>(stream).unwrap();
    }
    bench.fake.hold("start");
    let stuck = api::StartRequest {
        id: "box0".into(),
        exec_id: String::new(),
    };
    bench.send("Start", &stuck);
    assert_eq!(
        bench.state("box0", "").status,
        1,
        "answered while a start is under way"
    );
    assert_eq!(bench.state("box1", "").status, 1);
}

#[test]
fn two_deletes_at_once() {
    let mut bench = Bench::new();
    let pid = bench.running("box");
    bench.exits(pid, 0);
    bench.settle();
    bench.fake.hold("delete");
    let first = bench.send("Delete", &delete("box", ""));
    let second = bench.send("Delete", &delete("box", ""));
    bench.settle();
    assert!(!bench.answered(first) && !bench.answered(second));
    bench.finish_call(0);
    bench.answer::<api::DeleteResponse>(first).unwrap();
    assert_eq!(bench.answer::<()>(second).unwrap_err().0, 5);
}

#[test]
fn a_failed_delete_can_be_tried_again() {
    let mut bench = Bench::new();
    let pid = bench.running("box");
    bench.exits(pid, 0);
    bench.settle();
    bench.fake.fail("delete", "device busy");
    let refused = bench.call::<()>("Delete", &delete("box", "")).unwrap_err();
    assert_eq!(refused, (2, "failed to delete task: device busy".into()));
    bench
        .fake
        .fail("delete", "container \"box\" does not exist");
    bench
        .call::<api::DeleteResponse>("Delete", &delete("box", ""))
        .unwrap();
}

#[test]
fn a_restore_happens_at_the_start() {
    let mut bench = Bench::new();
    let mut request = bench.create_request("box");
    request.checkpoint = "/images".into();
    let created: api::CreateTaskResponse = bench.call("Create", &request).unwrap();
    assert_eq!(created.pid, 0);
    let refused = bench
        .call::<()>("Exec", &exec_request("box", "e"))
        .unwrap_err();
    assert_eq!(refused.1, "cannot exec in a created state");
    let start = api::StartRequest {
        id: "box".into(),
        exec_id: String::new(),
    };
    let started: api::StartResponse = bench.call("Start", &start).unwrap();
    assert!(started.pid > 0);
    assert_eq!(*bench.fake.calls.borrow(), ["restore box from /images"]);
    bench.exits(started.pid as i32, 3);
    assert_eq!(bench.told_exits(), [("box".into(), 3)]);
}

#[test]
fn nobody_waits_for_a_restore_that_failed() {
    let mut bench = Bench::new();
    let mut request = bench.create_request("box");
    request.checkpoint = "/images".into();
    bench
        .call::<api::CreateTaskResponse>("Create", &request)
        .unwrap();
    let waiting = bench.send("Wait", &wait("box", ""));
    bench.fake.fail("restore", "no such image");
    let start = api::StartRequest {
        id: "box".into(),
        exec_id: String::new(),
    };
    let refused = bench.call::<api::StartResponse>("Start", &start);
    assert!(refused.unwrap_err().1.contains("no such image"));
    let ended: api::WaitResponse = bench.answer(waiting).unwrap();
    assert_eq!(ended.exit_status, 255);
    bench
        .call::<api::DeleteResponse>("Delete", &delete("box", ""))
        .unwrap();
}

#[test]
fn shutdown_waits_for_the_last_container() {
    let mut bench = Bench::new();
    let pid = bench.running("box");
    let shutdown = api::ShutdownRequest {
        id: "box".into(),
        now: true,
    };
    bench.call::<()>("Shutdown", &shutdown).unwrap();
    assert_eq!(bench.state("box", "").status, 2);
    bench.exits(pid, 0);
    bench
        .call::<api::DeleteResponse>("Delete", &delete("box", ""))
        .unwrap();
    bench.call::<()>("Shutdown", &shutdown).unwrap();
    bench.settle();
    assert_eq!(
        bench.topics().last().map(String::as_str),
        Some("delete"),
        "told before it left"
    );
    assert!(bench.shim.finished());
}

#[test]
fn stats_need_a_cgroup() {
    let mut bench = Bench::new();
    // The fake's pids are nobody's, so no cgroup is found.
    bench.running("box");
    let refused = bench.call::<()>("Stats", &wait("box", "")).unwrap_err();
    assert_eq!(refused, (5, "cgroup does not exist: not found".into()));
    let own = crate::cgroup::Cgroup::of(std::process::id() as i32).unwrap();
    bench.shim.containers.get_mut("box").unwrap().cgroup = Some(own);
    let stats: api::StatsResponse = bench.call("Stats", &wait("box", "")).unwrap();
    assert!(
        stats
            .stats
            .unwrap()
            .type_url
            .starts_with("io.containerd.cgroups.v")
    );
}

#[test]
fn nobody_is_kept_waiting_for() {
    let mut bench = Bench::new();
    bench.running("box");
    let stream = bench.send_to(
        "containerd.task.v2.Task",
        "Wait",
        &wait("box", ""),
        1_000_000,
    );
    assert_eq!(bench.answer::<()>(stream).unwrap_err().0, 4);
    bench.send("Wait", &wait("box", ""));
    let waiters = |bench: &Bench| {
        bench
            .shim
            .processes
            .values()
            .map(|p| p.waiters.len())
            .sum::<usize>()
    };
    assert_eq!(waiters(&bench), 1);
    bench.client.shutdown(std::net::Shutdown::Both).unwrap();
    bench.shim.turn(None).unwrap();
    assert_eq!(waiters(&bench), 0);
}
