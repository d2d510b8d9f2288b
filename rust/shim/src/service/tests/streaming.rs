//! Streams of processes over ttrpc.

use super::*;
use crate::proto::containerd::services::streaming::v1::StreamInit;
use crate::proto::containerd::types::transfer::{Data, WindowUpdate};
use crate::service::streaming::{METHOD, SERVICE};
use std::fs::File;

const END: u8 = frame::REMOTE_CLOSED | frame::NO_DATA;

fn message(name: &str, message: &impl Message) -> Vec<u8> {
    crate::stdio::stream::any(name, message).encode_to_vec()
}

impl Bench {
    fn stream_call(&mut self) -> u32 {
        self.send_to(SERVICE, METHOD, &(), 0)
    }

    fn init(&mut self, stream: u32, id: &str) {
        let init = StreamInit { id: id.into() };
        let init = message("containerd.services.streaming.v1.StreamInit", &init);
        self.send_frame(stream, frame::DATA, 0, &init);
    }

    /// As containerd's clients open one: the id, and an answer to it.
    fn open_stream(&mut self, id: &str) -> u32 {
        let stream = self.stream_call();
        self.init(stream, id);
        let answer = self.next_data(stream).unwrap();
        assert_eq!(answer.type_url, "google.protobuf.Empty");
        stream
    }

    /// The next message of a stream; None at its end.
    fn next_data(&mut self, stream: u32) -> Option<Any> {
        for _ in 0..5000 {
            let found = self.data.iter().position(|frame| frame.stream == stream);
            if let Some(at) = found {
                let frame = self.data.remove(at);
                assert!(frame.flags == 0 || frame.flags == END);
                return (frame.flags == 0).then(|| Any::decode(&*frame.data).unwrap());
            }
            self.turn();
        }
        panic!(
            "nothing comes on stream {stream}; answers: {:?}",
            self.answers
        );
    }

    fn has_data(&self, stream: u32) -> bool {
        self.data.iter().any(|frame| frame.stream == stream)
    }

    fn ask_for(&mut self, stream: u32, update: i32) {
        let update = message(
            "containerd.types.transfer.WindowUpdate",
            &WindowUpdate { update },
        );
        self.send_frame(stream, frame::DATA, 0, &update);
    }

    fn write(&mut self, stream: u32, data: &[u8]) {
        let data = message(
            "containerd.types.transfer.Data",
            &Data { data: data.into() },
        );
        self.send_frame(stream, frame::DATA, 0, &data);
    }

    fn read(&mut self, stream: u32) -> Option<Vec<u8>> {
        let any = self.next_data(stream)?;
        assert_eq!(any.type_url, "containerd.types.transfer.Data");
        Some(Data::decode(&*any.value).unwrap().data)
    }

    fn asked(&mut self, stream: u32) -> i32 {
        let any = self.next_data(stream).unwrap();
        assert_eq!(any.type_url, "containerd.types.transfer.WindowUpdate");
        WindowUpdate::decode(&*any.value).unwrap().update
    }

    /// A container with streams for all three.
    fn with_streams(&self) -> api::CreateTaskRequest {
        let mut request = self.create_request("box");
        let name = |id: &str| format!("ttrpc+unix:///run/shim?streaming_id=box-{id}");
        (request.stdin, request.stdout) = (name("stdin"), name("stdout"));
        request.stderr = name("stderr");
        request
    }

    fn process(&mut self, pid: i32) -> [File; 3] {
        let streams = self.fake.streams.borrow_mut().remove(&pid).unwrap();
        [streams.stdin, streams.stdout, streams.stderr].map(|fd| {
            let fd = fd.unwrap();
            crate::stdio::sink::set_nonblocking(&fd).unwrap();
            File::from(fd)
        })
    }
}

#[test]
fn all_three_streams_are_copied_to_their_ends() {
    let mut bench = Bench::without_forks();
    let ids = ["box-stdin", "box-stdout", "box-stderr"];
    let [stdin, stdout, stderr] = ids.map(|id| bench.open_stream(id));
    let request = bench.with_streams();
    let pid = bench.run(&request);
    let [mut input, mut output, mut errors] = bench.process(pid);

    let window = bench.asked(stdin);
    assert!(window > 10_000);
    bench.write(stdin, &[b'i'; 10_000]);
    bench.send_frame(stdin, frame::DATA, END, b"");
    let mut got = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match input.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => got.extend_from_slice(&chunk[..n]),
            Err(_) => bench.turn(),
        }
    }
    assert_eq!(got, [b'i'; 10_000]);
    assert_eq!(bench.next_data(stdin), None, "nobody takes input any more");

    errors.write_all(b"oh").unwrap();
    bench.ask_for(stderr, 100);
    assert_eq!(bench.read(stderr).unwrap(), b"oh");

    output.write_all(&[b'o'; 30_000]).unwrap();
    bench.settle();
    assert!(!bench.has_data(stdout), "nothing was asked for");
    drop((output, errors));
    bench.exits(pid, 7);
    assert!(bench.told_exits().is_empty(), "the client has not read it");
    let mut got = Vec::new();
    while got.len() < 30_000 {
        bench.ask_for(stdout, 10_000);
        let asked_for = got.len() + 10_000;
        while got.len() < asked_for {
            got.extend(bench.read(stdout).unwrap());
        }
    }
    assert_eq!(got, [b'o'; 30_000]);
    assert_eq!(bench.told_exits(), [("box".into(), 7)]);
    assert_eq!(bench.next_data(stdout), None);
    assert_eq!(bench.next_data(stderr), None);
    assert!(bench.shim.byte_streams.is_empty());
}

#[test]
fn much_input_is_asked_for_piece_by_piece() {
    let mut bench = Bench::without_forks();
    let stdin = bench.open_stream("box-stdin");
    let mut request = bench.with_streams();
    (request.stdout, request.stderr) = (String::new(), String::new());
    let pid = bench.run(&request);
    let streams = bench.fake.streams.borrow_mut().remove(&pid).unwrap();
    let mut input = File::from(streams.stdin.unwrap());
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        input.read_to_end(&mut all).unwrap();
        all
    });
    let text: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    let (mut rest, mut window) = (&text[..], 0);
    while !rest.is_empty() {
        if window == 0 {
            window = bench.asked(stdin) as usize;
        }
        let part = rest.len().min(window).min(32 << 10);
        bench.write(stdin, &rest[..part]);
        (rest, window) = (&rest[part..], window - part);
    }
    bench.send_frame(stdin, frame::DATA, END, b"");
    while !reader.is_finished() {
        bench.turn();
    }
    assert!(reader.join().unwrap() == text);
}

#[test]
fn a_client_that_comes_back_goes_on_with_its_streams() {
    let mut bench = Bench::without_forks();
    for id in ["box-stdin", "box-stdout", "box-stderr"] {
        bench.open_stream(id);
    }
    let request = bench.with_streams();
    let pid = bench.run(&request);
    let [mut input, mut output, _errors] = bench.process(pid);
    bench.client_goes();
    output.write_all(b"while you were away").unwrap();
    bench.settle();
    assert!(input.read(&mut [0]).is_err(), "no end of input");

    bench.client_comes();
    let stdout = bench.open_stream("box-stdout");
    bench.ask_for(stdout, 1000);
    assert_eq!(bench.read(stdout).unwrap(), b"while you were away");
    let stdin = bench.open_stream("box-stdin");
    assert!(bench.asked(stdin) > 0);
    bench.write(stdin, b"back");
    bench.settle();
    let mut text = [0; 8];
    assert_eq!(input.read(&mut text).unwrap(), 4);

    // The end of input needs both: that nobody is there, and that none will come.
    let close = api::CloseIoRequest {
        id: "box".into(),
        exec_id: String::new(),
        stdin: true,
    };
    bench.call::<()>("CloseIO", &close).unwrap();
    bench.settle();
    assert!(input.read(&mut text).is_err());
    bench.client_goes();
    bench.settle();
    assert_eq!(input.read(&mut text).unwrap(), 0);
}

#[test]
fn a_terminal_goes_over_streams() {
    let mut bench = Bench::without_forks();
    let stdin = bench.open_stream("box-stdin");
    let stdout = bench.open_stream("box-stdout");
    let mut request = bench.with_streams();
    (request.terminal, request.stderr) = (true, String::new());
    let pid = bench.run(&request);
    let slave = bench.fake.terminals.borrow_mut().remove(&pid).unwrap();
    bench.ask_for(stdout, 1000);
    bench.write(stdin, b"typed\n");
    let mut shown = Vec::new();
    while !shown.ends_with(b"typed\r\n") {
        shown.extend(bench.read(stdout).unwrap());
    }
    let mut text = [0; 64];
    assert_eq!(rustix::io::read(&slave, &mut text), Ok(6));
    drop(slave);
    bench.exits(pid, 0);
    assert_eq!(bench.told_exits().len(), 1);
    assert_eq!(bench.next_data(stdout), None);
}

#[test]
fn an_exec_has_streams_of_its_own() {
    let mut bench = Bench::without_forks();
    bench.running("box");
    let stdout = bench.open_stream("one");
    let mut request = exec_request("box", "e");
    request.stdout = "ttrpc+unix:///run/shim?streaming_id=one".into();
    bench.call::<()>("Exec", &request).unwrap();
    let start = api::StartRequest {
        id: "box".into(),
        exec_id: "e".into(),
    };
    let started: api::StartResponse = bench.call("Start", &start).unwrap();
    let pid = started.pid as i32;
    let streams = bench.fake.streams.borrow_mut().remove(&pid).unwrap();
    File::from(streams.stdout.unwrap())
        .write_all(b"from exec")
        .unwrap();
    bench.ask_for(stdout, 1000);
    assert_eq!(bench.read(stdout).unwrap(), b"from exec");
    bench.exits(pid, 0);
    assert_eq!(bench.next_data(stdout), None);
}

#[test]
fn what_is_wrong_with_a_stream_is_said() {
    let mut bench = Bench::without_forks();
    let refused = bench
        .call::<()>("Create", &bench.with_streams())
        .unwrap_err();
    assert!(
        refused.1.contains("\"box-stdin\" is not open"),
        "{}",
        refused.1
    );
    assert!(bench.fake.calls.borrow().is_empty() && bench.shim.is_empty());

    bench.open_stream("box-stdin");
    let twice = bench.stream_call();
    bench.init(twice, "box-stdin");
    assert_eq!(bench.answer::<()>(twice).unwrap_err().0, 6);
    let nameless = bench.stream_call();
    bench.init(nameless, "");
    assert_eq!(bench.answer::<()>(nameless).unwrap_err().0, 3);
    let other = bench.stream_call();
    bench.write(other, b"x");
    assert!(
        bench
            .answer::<()>(other)
            .unwrap_err()
            .1
            .contains("StreamInit")
    );
    let ended = bench.stream_call();
    bench.send_frame(ended, frame::DATA, END, b"");
    assert_eq!(bench.answer::<()>(ended).unwrap_err().0, 3);
    bench.send_frame(ended, frame::DATA, 0, b"");
    let error = bench.answer::<()>(ended).unwrap_err();
    assert_eq!(error.1, "StreamID is no longer active");

    let much = bench.open_stream("much");
    bench.write(much, b"unasked");
    assert_eq!(bench.answer::<()>(much).unwrap_err().0, 8);
    bench.client_goes();
    bench.settle();
    assert!(bench.shim.byte_streams.is_empty() && bench.shim.openings.is_empty());
}

#[test]
fn a_container_that_fails_ends_its_streams() {
    let mut bench = Bench::without_forks();
    let ids = ["box-stdin", "box-stdout", "box-stderr"];
    let streams = ids.map(|id| bench.open_stream(id));
    bench.fake.fail("create", "no");
    bench
        .call::<()>("Create", &bench.with_streams())
        .unwrap_err();
    assert!(bench.asked(streams[0]) > 0);
    for stream in streams {
        assert_eq!(bench.next_data(stream), None);
    }
    assert!(bench.shim.byte_streams.is_empty());
    bench.open_stream("box-stdin");
}
