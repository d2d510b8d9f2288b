//! Further processes of a container.

use super::*;
use crate::proto::containerd::runc::v1::ProcessDetails;

#[test]
fn an_exec_from_add_to_delete() {
    let mut bench = Bench::new();
    bench.running("box");
    bench.call::<()>("Exec", &exec_request("box", "e")).unwrap();
    assert_eq!(bench.state("box", "e").status, 1);
    let refused = bench
        .call::<()>("Kill", &kill("box", "e", false))
        .unwrap_err();
    assert_eq!(
        refused,
        (9, "process not created: failed precondition".into())
    );
    let refused = bench
        .call::<()>("Exec", &exec_request("box", "e"))
        .unwrap_err();
    assert_eq!(refused, (6, "id e: already exists".into()));
    let waiting = bench.send("Wait", &wait("box", "e"));
    let start = api::StartRequest {
        id: "box".into(),
        exec_id: "e".into(),
    };
    let pid = bench
        .call::<api::StartResponse>("Start", &start)
        .unwrap()
        .pid;
    let spec: serde_json::Value = serde_json::from_slice(&bench.fake.last_spec.borrow()).unwrap();
    assert_eq!(
        (&spec["terminal"], &spec["args"][0]),
        (&false.into(), &"true".into())
    );
    let state = bench.state("box", "e");
    assert_eq!(
        (state.status, state.pid, state.exec_id.as_str()),
        (2, pid, "e")
    );
    let refused = bench.call::<()>("Delete", &delete("box", "e")).unwrap_err();
    assert_eq!(refused.1, "cannot delete a running process");

    *bench.fake.process_list.borrow_mut() = vec![pid, 5];
    let pids: api::PidsResponse = bench.call("Pids", &wait("box", "")).unwrap();
    let details = pids.processes[0].info.as_ref().unwrap();
    assert_eq!(details.type_url, "containerd.runc.v1.ProcessDetails");
    assert_eq!(
        ProcessDetails::decode(&*details.value).unwrap().exec_id,
        "e"
    );
    assert_eq!((pids.processes[1].pid, &pids.processes[1].info), (5, &None));

    bench.exits(pid as i32, 4);
    assert_eq!(
        bench
            .answer::<api::WaitResponse>(waiting)
            .unwrap()
            .exit_status,
        4
    );
    let refused = bench
        .call::<()>("Kill", &kill("box", "e", false))
        .unwrap_err();
    assert_eq!(refused, (5, "process already finished: not found".into()));
    let deleted: api::DeleteResponse = bench.call("Delete", &delete("box", "e")).unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 4));
    assert_eq!(
        bench.call::<()>("State", &wait("box", "e")).unwrap_err().0,
        5
    );
    assert_eq!(
        bench.topics(),
        ["create", "start", "exec-added", "exec-started", "exit"]
    );
}

#[test]
fn a_failed_exec_answers_its_waiters_and_can_be_deleted() {
    let mut bench = Bench::new();
    bench.running("box");
    bench.call::<()>("Exec", &exec_request("box", "e")).unwrap();
    let waiting = bench.send("Wait", &wait("box", "e"));
    bench.fake.fail("exec", "no such file");
    let start = api::StartRequest {
        id: "box".into(),
        exec_id: "e".into(),
    };
    let refused = bench.call::<()>("Start", &start).unwrap_err();
    assert_eq!(refused, (2, "OCI runtime exec failed: no such file".into()));
    assert_eq!(
        bench
            .answer::<api::WaitResponse>(waiting)
            .unwrap()
            .exit_status,
        255
    );
    bench
        .call::<api::DeleteResponse>("Delete", &delete("box", "e"))
        .unwrap();
    assert_eq!(bench.exec("box", "e").unwrap(), bench.fake.next_pid() - 1);
}

#[test]
fn wrong_execs_are_refused() {
    let mut bench = Bench::new();
    let pid = bench.running("box");
    for (exec_id, spec) in [("a/b", "{}"), ("", "{}"), ("e", "nope"), ("e", "[]")] {
        let mut request = exec_request("box", exec_id);
        request.spec = Some(Any {
            type_url: String::new(),
            value: spec.into(),
        });
        assert_eq!(
            bench.call::<()>("Exec", &request).unwrap_err().0,
            3,
            "{exec_id} {spec}"
        );
    }
    bench
        .call::<()>("Exec", &exec_request("box", "late"))
        .unwrap();
    bench.exits(pid, 0);
    bench.settle();
    let start = api::StartRequest {
        id: "box".into(),
        exec_id: "late".into(),
    };
    let refused = bench.call::<()>("Start", &start).unwrap_err();
    assert_eq!(refused.0, 9);
    assert!(
        refused
            .1
            .starts_with("container box init process is not running"),
        "{}",
        refused.1
    );
    let refused = bench
        .call::<()>("Exec", &exec_request("box", "later"))
        .unwrap_err();
    assert_eq!(refused.1, "cannot exec in a stopped state");
}

#[test]
fn a_frozen_container_freezes_its_execs() {
    let mut bench = Bench::new();
    bench.running("box");
    bench.exec("box", "e").unwrap();
    bench.fake.hold("pause");
    let pausing = bench.send("Pause", &api::PauseRequest { id: "box".into() });
    assert_eq!(
        (
            bench.state("box", "").status,
            bench.state("box", "e").status
        ),
        (5, 5)
    );
    bench.finish_call(0);
    bench.answer::<()>(pausing).unwrap();
    assert_eq!(
        (
            bench.state("box", "").status,
            bench.state("box", "e").status
        ),
        (4, 4)
    );
}
