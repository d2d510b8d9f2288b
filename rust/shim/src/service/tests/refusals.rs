//! What is refused, in the words and with the codes clients know.

use super::*;

#[test]
fn wrong_moments_are_refused_in_containerds_words() {
    let mut bench = Bench::new();
    let id = || "box".to_owned();
    let start = api::StartRequest {
        id: id(),
        exec_id: String::new(),
    };
    let (pause, resume) = (
        api::PauseRequest { id: id() },
        api::ResumeRequest { id: id() },
    );
    let update = api::UpdateTaskRequest {
        id: id(),
        resources: Some(Any {
            type_url: "r".into(),
            value: b"{}".to_vec(),
        }),
        ..Default::default()
    };
    let checkpoint = api::CheckpointTaskRequest {
        id: id(),
        path: "/c".into(),
        options: None,
    };
    let request = bench.create_request("box");
    bench
        .call::<api::CreateTaskResponse>("Create", &request)
        .unwrap();
    let text = |result: Result<(), (i32, String)>| result.unwrap_err().1;
    assert_eq!(
        text(bench.call("Pause", &pause)),
        "cannot pause task in created state"
    );
    assert_eq!(
        text(bench.call("Resume", &resume)),
        "cannot resume task in created state"
    );
    let refused = text(bench.call("Checkpoint", &checkpoint));
    assert_eq!(refused, "cannot checkpoint a task in created state");
    let pid = bench
        .call::<api::StartResponse>("Start", &start)
        .unwrap()
        .pid as i32;
    assert_eq!(
        text(bench.call("Start", &start)),
        "cannot start a running process"
    );
    assert_eq!(
        text(bench.call("Resume", &resume)),
        "cannot resume a running process"
    );
    assert_eq!(
        text(bench.call("Delete", &delete("box", ""))),
        "cannot delete a running process"
    );
    bench.call::<()>("Pause", &pause).unwrap();
    assert_eq!(bench.state("box", "").status, 4);
    assert_eq!(
        text(bench.call("Pause", &pause)),
        "cannot pause a paused container"
    );
    assert_eq!(
        text(bench.call("Delete", &delete("box", ""))),
        "cannot delete a paused process"
    );
    let refused = text(bench.call("Exec", &exec_request("box", "e")));
    assert_eq!(refused, "cannot exec in a paused state");
    bench.call::<()>("Resume", &resume).unwrap();
    bench.call::<()>("Update", &update).unwrap();
    bench.call::<()>("Checkpoint", &checkpoint).unwrap();
    bench.exits(pid, 0);
    bench.settle();
    assert_eq!(
        text(bench.call("Start", &start)),
        "cannot start a stopped process"
    );
    assert_eq!(
        text(bench.call("Pause", &pause)),
        "cannot pause a stopped container"
    );
    assert_eq!(
        text(bench.call("Update", &update)),
        "cannot update a stopped container"
    );
    let expected = [
        "create",
        "start",
        "paused",
        "resumed",
        "checkpointed",
        "exit",
    ];
    assert_eq!(bench.topics(), expected);
    let calls = bench.fake.calls.borrow();
    assert!(
        calls.contains(&"update box {}".to_owned())
            && calls.contains(&"checkpoint box /c true".to_owned())
    );
}

#[test]
fn kill_says_what_clients_parse() {
    let mut bench = Bench::new();
    let pid = bench.running("box");
    bench.call::<()>("Kill", &kill("box", "", true)).unwrap();
    for (words, expected) in [
        (
            "container not running",
            (5, "process already finished: not found"),
        ),
        (
            "Kill container: No such process",
            (5, "process already finished: not found"),
        ),
        (
            "container \"box\" does not exist",
            (5, "no such container: not found"),
        ),
    ] {
        bench.fake.fail("kill", words);
        let (code, text) = bench
            .call::<()>("Kill", &kill("box", "", false))
            .unwrap_err();
        assert_eq!((code, text.as_str()), expected, "{words}");
    }
    bench.fake.fail("kill", "odd");
    let (code, text) = bench
        .call::<()>("Kill", &kill("box", "", false))
        .unwrap_err();
    assert_eq!(code, 2);
    assert!(text.starts_with("unknown error after kill: "), "{text}");
    bench.exits(pid, 0);
    bench.settle();
    let calls = bench.fake.calls.borrow().len();
    let refused = bench
        .call::<()>("Kill", &kill("box", "", false))
        .unwrap_err();
    assert_eq!(refused, (5, "process already finished: not found".into()));
    assert_eq!(
        bench.fake.calls.borrow().len(),
        calls,
        "the runtime is not asked"
    );
}
