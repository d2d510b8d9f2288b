//! The order in which exits are told, and events kept for a daemon that is away.

use super::*;

#[test]
fn an_exit_before_create_is_answered_is_kept() {
    let mut bench = Bench::new();
    bench.fake.hold("create");
    let pid = bench.fake.next_pid();
    let request = bench.create_request("box");
    let creating = bench.send("Create", &request);
    // The init is reaped before its runtime, whose exit tells the init's pid.
    bench.exits(pid, 9);
    assert!(bench.told_exits().is_empty());
    bench.finish_call(0);
    bench.answer::<api::CreateTaskResponse>(creating).unwrap();
    assert_eq!(bench.topics(), ["create", "exit"]);
    assert_eq!(bench.told_exits(), [("box".into(), 9)]);
}

#[test]
fn an_exit_during_start_is_told_after_the_start() {
    let mut bench = Bench::new();
    let request = bench.create_request("box");
    let pid = bench
        .call::<api::CreateTaskResponse>("Create", &request)
        .unwrap()
        .pid as i32;
    bench.fake.hold("start");
    let start = api::StartRequest {
        id: "box".into(),
        exec_id: String::new(),
    };
    let starting = bench.send("Start", &start);
    bench.exits(pid, 0);
    assert_eq!(bench.topics(), ["create"]);
    bench.finish_call(0);
    assert_eq!(
        bench.answer::<api::StartResponse>(starting).unwrap().pid as i32,
        pid
    );
    assert_eq!(bench.topics(), ["create", "start", "exit"]);
}

#[test]
fn an_exec_that_exits_at_once_is_told_after_its_start() {
    let mut bench = Bench::new();
    bench.running("box");
    bench.call::<()>("Exec", &exec_request("box", "e")).unwrap();
    bench.fake.hold("exec");
    let pid = bench.fake.next_pid();
    let start = api::StartRequest {
        id: "box".into(),
        exec_id: "e".into(),
    };
    let starting = bench.send("Start", &start);
    bench.exits(pid, 1);
    bench.finish_call(0);
    bench.answer::<api::StartResponse>(starting).unwrap();
    assert_eq!(bench.topics()[2..], ["exec-added", "exec-started", "exit"]);
    // The record of early exits is not kept for a later process with the same pid.
    bench.exits(424_242, 0);
    bench.settle();
    assert_eq!(bench.told_exits().len(), 1);
}

#[test]
fn init_is_told_last() {
    let mut bench = Bench::new();
    let init = bench.running("box");
    let exec = bench.exec("box", "e").unwrap();
    let waiting = bench.send("Wait", &wait("box", ""));
    bench.exits(init, 0);
    bench.settle();
    assert!(bench.told_exits().is_empty() && !bench.answered(waiting));
    bench.exits(exec, 137);
    bench.answer::<api::WaitResponse>(waiting).unwrap();
    assert_eq!(bench.told_exits(), [("e".into(), 137), ("box".into(), 0)]);
    assert!(
        !bench
            .fake
            .calls
            .borrow()
            .iter()
            .any(|call| call.starts_with("kill"))
    );
}

#[test]
fn survivors_are_killed_without_a_pid_namespace() {
    let mut bench = Bench::new();
    let mut request = bench.create_request("box");
    request.bundle = bench.bundle("box", SHARED_PID_NAMESPACE);
    let init = bench.run(&request);
    bench.fake.hold("kill");
    bench.exits(init, 0);
    bench.settle();
    assert_eq!(bench.fake.calls.borrow().last().unwrap(), "kill box 9 all");
    assert!(bench.told_exits().is_empty());
    bench.finish_call(0);
    assert_eq!(bench.told_exits(), [("box".into(), 0)]);
}

#[test]
fn a_container_killed_while_frozen_is_thawed() {
    let mut bench = Bench::new();
    let init = bench.running("box");
    bench
        .call::<()>("Pause", &api::PauseRequest { id: "box".into() })
        .unwrap();
    bench.exits(init, 1);
    assert_eq!(bench.told_exits().len(), 1);
    assert_eq!(bench.fake.calls.borrow().last().unwrap(), "resume box");
    assert_eq!(bench.state("box", "").status, 3);
}

#[test]
fn a_delete_right_after_the_exit_comes_after_it() {
    let mut bench = Bench::new();
    let init = bench.running("box");
    let exec = bench.exec("box", "e").unwrap();
    bench.exits(init, 0);
    let deleting = bench.send("Delete", &delete("box", ""));
    bench.settle();
    assert!(!bench.answered(deleting), "an exec is not told yet");
    bench.exits(exec, 0);
    bench.answer::<api::DeleteResponse>(deleting).unwrap();
    assert_eq!(bench.topics()[4..], ["exit", "exit", "delete"]);
}

#[test]
fn events_outlast_the_daemon_in_order() {
    let mut bench = Bench::new();
    let first = bench.running("one");
    bench.settle();
    bench.daemon().down();
    bench.exits(first, 0);
    bench
        .call::<api::DeleteResponse>("Delete", &delete("one", ""))
        .unwrap();
    let second = bench.running("two");
    bench.exits(second, 0);
    bench.settle();
    assert_eq!(bench.daemon().topics(), ["create", "start"]);
    bench.daemon().back();
    for _ in 0..5000 {
        if bench.daemon().got.len() == 7 {
            break;
        }
        bench.turn();
    }
    let expected = [
        "create", "start", "exit", "delete", "create", "start", "exit",
    ];
    assert_eq!(bench.daemon().topics(), expected);
    bench.settle();
    assert_eq!(bench.shim.publisher.queued(), 0);
}

#[test]
fn a_refused_event_does_not_hold_up_the_others_for_ever() {
    let mut bench = Bench::new();
    bench.daemon().refuse = true;
    bench.running("box");
    for _ in 0..5000 {
        if bench.shim.publisher.queued() < 2 {
            break;
        }
        bench.turn();
    }
    bench.daemon().refuse = false;
    for _ in 0..5000 {
        if bench.shim.publisher.queued() == 0 {
            break;
        }
        bench.turn();
    }
    assert_eq!(bench.daemon().topics(), ["start"]);
}

#[test]
fn a_daemon_that_stays_away_costs_bounded_memory() {
    let mut bench = Bench::new();
    bench.daemon().down();
    let pid = bench.running("box");
    bench.exits(pid, 0);
    bench.settle();
    let before = bench.shim.publisher.queued();
    let name = "x".repeat(1 << 16);
    for _ in 0..200 {
        let event = crate::proto::containerd::events::TaskOom {
            container_id: name.clone(),
        };
        bench.shim.publish(
            crate::event_names::OOM,
            crate::event_names::TASK_OOM,
            &event,
        );
    }
    let queued = bench.shim.publisher.queued();
    assert!(queued < before + 70, "{queued}");
    bench.daemon().back();
    for _ in 0..8000 {
        if bench.shim.publisher.queued() == 0 {
            break;
        }
        bench.turn();
    }
    assert!(
        bench.daemon().topics().contains(&"exit"),
        "what state hangs on is kept"
    );
}

#[test]
fn an_exec_whose_start_never_returns_does_not_hold_up_the_exit() {
    let mut bench = Bench::new();
    let pid = bench.running("box");
    let init = bench.shim.containers["box"].init;
    bench.call::<()>("Exec", &exec_request("box", "e")).unwrap();
    bench.fake.hold("exec");
    let start = api::StartRequest {
        id: "box".into(),
        exec_id: "e".into(),
    };
    let starting = bench.send("Start", &start);
    let waiting = bench.send("Wait", &wait("box", ""));
    bench.exits(pid, 3);
    assert!(bench.told_exits().is_empty(), "the exec may end yet");
    bench.shim.on_timer(Timer::Execs(init));
    assert!(bench.told_exits().is_empty(), "it was just pressed");
    bench.shim.on_timer(Timer::Execs(init));
    assert_eq!(bench.told_exits(), [("box".into(), 3)]);
    let ended: api::WaitResponse = bench.answer(waiting).unwrap();
    assert_eq!(ended.exit_status, 3);

    // Should it return after all, it has failed, and nothing is told twice.
    bench.finish_call(9);
    bench.answer::<api::StartResponse>(starting).unwrap_err();
    assert_eq!(bench.told_exits(), [("box".into(), 3)]);
    bench
        .call::<api::DeleteResponse>("Delete", &delete("box", ""))
        .unwrap();
}

#[test]
fn an_exec_that_ends_when_it_is_pressed_is_told_before_init() {
    let mut bench = Bench::new();
    let pid = bench.running("box");
    let init = bench.shim.containers["box"].init;
    let exec = bench.exec("box", "e").unwrap();
    bench.exits(pid, 0);
    bench.shim.on_timer(Timer::Execs(init));
    bench.exits(exec, 9);
    assert_eq!(bench.told_exits(), [("e".into(), 9), ("box".into(), 0)]);
}

#[test]
fn a_shim_that_nobody_asks_for_ends_with_its_container() {
    let mut bench = Bench::new();
    let pid = bench.running("box");
    bench.client_goes();
    bench.shim.on_timer(Timer::Idle);
    assert!(!bench.shim.finished(), "its container lives");
    bench.exits(pid, 7);
    bench.settle();
    bench.shim.on_timer(Timer::Idle);
    bench.settle();
    assert_eq!(bench.fake.calls.borrow().last().unwrap(), "delete box");
    assert!(bench.shim.finished());
    let (status, at) = crate::bundle::read_exit(&bench.dir.join("box")).unwrap();
    assert_eq!(status, 7);
    assert!(at.seconds > 0);
}
