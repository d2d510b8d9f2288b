//! Streams of processes: draining before exits, ends of input, terminals, logging programs.

use super::*;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use std::fs::File;
use std::os::fd::OwnedFd;

const NONBLOCK: OFlags = OFlags::NONBLOCK.union(OFlags::CLOEXEC);

/// Makes the FIFOs of a container in its bundle and names them in the request.
fn with_fifos(bench: &Bench, id: &str, terminal: bool) -> api::CreateTaskRequest {
    let mut request = bench.create_request(id);
    let make = |name: &str| {
        let path = format!("{}/{name}", request.bundle);
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        path
    };
    (request.stdin, request.stdout) = (make("stdin"), make("stdout"));
    if !terminal {
        request.stderr = make("stderr");
    }
    request.terminal = terminal;
    request
}

fn reader(path: &str) -> File {
    File::from(open(path, OFlags::RDONLY | NONBLOCK, Mode::empty()).unwrap())
}

fn read_all(bench: &mut Bench, file: &mut File) -> Vec<u8> {
    let mut all = Vec::new();
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..2000 {
        match file.read(&mut chunk) {
            Ok(0) => return all,
            Ok(n) => all.extend_from_slice(&chunk[..n]),
            Err(_) => bench.turn(),
        }
    }
    panic!("no end after {} bytes", all.len());
}

fn stdout_of(bench: &Bench, pid: i32) -> OwnedFd {
    bench
        .fake
        .streams
        .borrow_mut()
        .get_mut(&pid)
        .unwrap()
        .stdout
        .take()
        .unwrap()
}

#[test]
fn a_slow_client_gets_everything_before_the_exit_is_told() {
    let mut bench = Bench::without_forks();
    let request = with_fifos(&bench, "box", false);
    let mut client = reader(&request.stdout);
    let pid = bench.run(&request);
    let stdout = stdout_of(&bench, pid);
    let flags = rustix::fs::fcntl_getfl(&stdout).unwrap();
    rustix::fs::fcntl_setfl(&stdout, flags | OFlags::NONBLOCK).unwrap();
    let mut written = 0;
    loop {
        match rustix::io::write(&stdout, &[b'a'; 4096]) {
            Ok(n) => written += n,
            Err(_) => {
                bench.turn();
                if rustix::io::write(&stdout, b"b").is_err() {
                    break;
                }
                written += 1;
            }
        }
    }
    drop(stdout);
    bench.exits(pid, 0);
    bench.settle();
    assert!(bench.told_exits().is_empty(), "the client has not read it");
    let got = read_all(&mut bench, &mut client);
    assert_eq!(got.len(), written);
    assert_eq!(bench.told_exits(), [("box".into(), 0)]);
}

#[test]
fn nobody_reading_does_not_hold_up_the_exit() {
    let mut bench = Bench::without_forks();
    let request = with_fifos(&bench, "box", false);
    let pid = bench.run(&request);
    let stdout = stdout_of(&bench, pid);
    let flags = rustix::fs::fcntl_getfl(&stdout).unwrap();
    rustix::fs::fcntl_setfl(&stdout, flags | OFlags::NONBLOCK).unwrap();
    for _ in 0..3 {
        while rustix::io::write(&stdout, &[b'a'; 4096]).is_ok() {}
        bench.settle();
    }
    drop(stdout);
    bench.exits(pid, 0);
    assert_eq!(bench.told_exits().len(), 1);
    // Who comes later still finds what is in the FIFO and the pipe.
    let mut client = reader(&request.stdout);
    assert!(read_all(&mut bench, &mut client).len() > 64 << 10);
}

/// Go opens a FIFO in a thread of its own: a process may have ended, and may be about to be deleted,
/// before its client has come to that.
#[test]
fn a_client_that_opens_late_gets_everything_and_the_end() {
    for much in [false, true] {
        let mut bench = Bench::without_forks();
        bench.shim.opening_limit = Duration::from_secs(3600);
        let request = with_fifos(&bench, "box", false);
        let pid = bench.run(&request);
        let stdout = stdout_of(&bench, pid);
        let mut written = rustix::io::write(&stdout, b"last words").unwrap();
        if much {
            // More than the FIFO holds: some of it is still in the process's pipe.
            let flags = rustix::fs::fcntl_getfl(&stdout).unwrap();
            rustix::fs::fcntl_setfl(&stdout, flags | OFlags::NONBLOCK).unwrap();
            for _ in 0..3 {
                while let Ok(n) = rustix::io::write(&stdout, &[b'a'; 4096]) {
                    written += n;
                }
                bench.settle();
            }
        }
        drop(stdout);
        bench.exits(pid, 0);
        bench.settle();
        assert!(bench.told_exits().is_empty(), "who is told opens no more");
        let deleting = bench.send("Delete", &delete("box", ""));
        bench.settle();
        assert!(!bench.answered(deleting), "the output would be gone");
        let mut stdout = reader(&request.stdout);
        assert_eq!(read_all(&mut bench, &mut stdout).len(), written);
        bench.settle();
        assert!(!bench.answered(deleting), "standard error has an end too");
        let mut stderr = reader(&request.stderr);
        assert_eq!(read_all(&mut bench, &mut stderr), b"");
        bench.answer::<api::DeleteResponse>(deleting).unwrap();
        assert_eq!(bench.told_exits().len(), 1);
    }
}

#[test]
fn an_exit_is_told_when_its_client_has_come() {
    let mut bench = Bench::without_forks();
    bench.shim.opening_limit = Duration::from_secs(3600);
    let request = with_fifos(&bench, "box", false);
    let pid = bench.run(&request);
    rustix::io::write(stdout_of(&bench, pid), b"last words").unwrap();
    bench.exits(pid, 0);
    let [mut stdout, mut stderr] = [reader(&request.stdout), reader(&request.stderr)];
    assert_eq!(read_all(&mut bench, &mut stdout), b"last words");
    assert_eq!(read_all(&mut bench, &mut stderr), b"");
    while bench.told_exits().is_empty() {
        bench.settle();
    }
}

#[test]
fn a_client_that_was_there_at_the_start_holds_up_nothing_when_it_has_gone() {
    let mut bench = Bench::new();
    bench.shim.opening_limit = Duration::from_secs(3600);
    let request = with_fifos(&bench, "box", false);
    let clients = [reader(&request.stdout), reader(&request.stderr)];
    let pid = bench.run(&request);
    drop(clients);
    rustix::io::write(stdout_of(&bench, pid), b"last words").unwrap();
    bench.exits(pid, 0);
    bench
        .call::<api::DeleteResponse>("Delete", &delete("box", ""))
        .unwrap();
}

#[test]
fn a_client_that_never_opens_holds_up_nothing_when_its_time_is_over() {
    let mut bench = Bench::without_forks();
    bench.shim.opening_limit = Duration::ZERO;
    let request = with_fifos(&bench, "box", false);
    let pid = bench.run(&request);
    rustix::io::write(stdout_of(&bench, pid), b"last words").unwrap();
    bench.exits(pid, 0);
    bench
        .call::<api::DeleteResponse>("Delete", &delete("box", ""))
        .unwrap();
    assert!(bench.shim.is_empty() && bench.shim.pumps.is_empty());
}

#[test]
fn a_grandchild_with_the_pipe_does_not_hold_up_the_exit_nor_lose_output() {
    let mut bench = Bench::without_forks();
    let request = with_fifos(&bench, "box", false);
    let mut client = reader(&request.stdout);
    let _stderr = reader(&request.stderr);
    let pid = bench.run(&request);
    let grandchild = stdout_of(&bench, pid);
    rustix::io::write(&grandchild, b"before ").unwrap();
    bench.exits(pid, 0);
    assert_eq!(bench.told_exits().len(), 1);
    rustix::io::write(&grandchild, b"after").unwrap();
    bench.settle();
    let mut text = [0; 64];
    let n = client.read(&mut text).unwrap();
    assert_eq!(&text[..n], b"before after");
    bench
        .call::<api::DeleteResponse>("Delete", &delete("box", ""))
        .unwrap();
    assert_eq!(
        client.read(&mut text).unwrap(),
        0,
        "closed with the container"
    );
}

#[test]
fn input_ends_with_close_io_after_the_last_byte() {
    let mut bench = Bench::without_forks();
    let request = with_fifos(&bench, "box", false);
    let pid = bench.run(&request);
    let stdin = bench
        .fake
        .streams
        .borrow_mut()
        .get_mut(&pid)
        .unwrap()
        .stdin
        .take()
        .unwrap();
    let mut stdin = File::from(stdin);
    let flags = rustix::fs::fcntl_getfl(&stdin).unwrap();
    rustix::fs::fcntl_setfl(&stdin, flags | OFlags::NONBLOCK).unwrap();
    for text in ["first", "second"] {
        let client = open(&request.stdin, OFlags::WRONLY | NONBLOCK, Mode::empty()).unwrap();
        rustix::io::write(&client, text.as_bytes()).unwrap();
        drop(client);
        bench.settle();
    }
    let mut text = [0; 64];
    let n = stdin.read(&mut text).unwrap();
    assert_eq!(&text[..n], b"firstsecond");
    assert!(stdin.read(&mut text).is_err(), "no end yet");
    let client = open(&request.stdin, OFlags::WRONLY | NONBLOCK, Mode::empty()).unwrap();
    rustix::io::write(&client, b"last").unwrap();
    let close = api::CloseIoRequest {
        id: "box".into(),
        exec_id: String::new(),
        stdin: true,
    };
    bench.call::<()>("CloseIO", &close).unwrap();
    drop(client);
    assert_eq!(read_all(&mut bench, &mut stdin), b"last");
}

#[test]
fn input_nobody_reads_is_refused_to_the_client() {
    let mut bench = Bench::without_forks();
    let request = with_fifos(&bench, "box", false);
    let pid = bench.run(&request);
    drop(
        bench
            .fake
            .streams
            .borrow_mut()
            .get_mut(&pid)
            .unwrap()
            .stdin
            .take(),
    );
    let client = open(&request.stdin, OFlags::WRONLY | NONBLOCK, Mode::empty()).unwrap();
    rustix::io::write(&client, b"x").unwrap();
    bench.settle();
    assert_eq!(
        rustix::io::write(&client, b"y"),
        Err(rustix::io::Errno::PIPE)
    );
}

#[test]
fn a_terminal_copies_resizes_and_ends() {
    let mut bench = Bench::without_forks();
    let request = with_fifos(&bench, "box", true);
    let mut client = reader(&request.stdout);
    let pid = bench.run(&request);
    let slave = bench.fake.terminals.borrow_mut().remove(&pid).unwrap();
    let resize = api::ResizePtyRequest {
        id: "box".into(),
        exec_id: String::new(),
        width: 101,
        height: 33,
    };
    bench.call::<()>("ResizePty", &resize).unwrap();
    let size = rustix::termios::tcgetwinsize(&slave).unwrap();
    assert_eq!((size.ws_col, size.ws_row), (101, 33));

    let typist = open(&request.stdin, OFlags::WRONLY | NONBLOCK, Mode::empty()).unwrap();
    rustix::io::write(&typist, b"typed\n").unwrap();
    bench.settle();
    let mut text = [0; 64];
    let n = rustix::io::read(&slave, &mut text).unwrap();
    assert_eq!(&text[..n], b"typed\n");
    let close = api::CloseIoRequest {
        id: "box".into(),
        exec_id: String::new(),
        stdin: true,
    };
    bench.call::<()>("CloseIO", &close).unwrap();
    drop(typist);
    bench.settle();
    assert_eq!(
        rustix::io::read(&slave, &mut text).unwrap(),
        0,
        "end of input, not a hang-up"
    );

    rustix::io::write(&slave, b"shown\n").unwrap();
    drop(slave);
    bench.exits(pid, 0);
    assert_eq!(bench.told_exits().len(), 1);
    let shown = read_all(&mut bench, &mut client);
    assert_eq!(String::from_utf8_lossy(&shown), "typed\r\nshown\r\n");
}

#[test]
fn a_log_file_is_made_with_its_folder_and_appended_to() {
    let mut bench = Bench::without_forks();
    let mut request = bench.create_request("box");
    let path = bench.dir.join("logs/deep/box.log");
    request.stdout = format!("file://{}", path.display());
    request.stderr = request.stdout.clone();
    for text in ["one\n", "two\n"] {
        let pid = bench.run(&request);
        let streams = bench.fake.streams.borrow_mut().remove(&pid).unwrap();
        File::from(streams.stdout.unwrap())
            .write_all(text.as_bytes())
            .unwrap();
        File::from(streams.stderr.unwrap())
            .write_all(b"err\n")
            .unwrap();
        bench.exits(pid, 0);
        bench
            .call::<api::DeleteResponse>("Delete", &delete("box", ""))
            .unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap(),
        "one\nerr\ntwo\nerr\n"
    );
}

#[test]
fn streams_that_cannot_be_opened_are_named() {
    let mut bench = Bench::without_forks();
    let mut request = bench.create_request("box");
    for (stdout, words) in [
        ("/no/such/fifo", "/no/such/fifo"),
        ("ftp://x", "unknown STDIO scheme ftp"),
    ] {
        request.stdout = stdout.into();
        let refused = bench.call::<()>("Create", &request).unwrap_err();
        assert!(refused.1.contains(words), "{}", refused.1);
    }
    assert!(bench.fake.calls.borrow().is_empty() && bench.shim.is_empty());
}

#[test]
fn many_streams_share_the_loop() {
    let mut bench = Bench::without_forks();
    let mut all = Vec::new();
    for i in 0..8 {
        let request = with_fifos(&bench, &format!("box{i}"), false);
        let client = reader(&request.stdout);
        let pid = bench.run(&request);
        let mut stdout = File::from(stdout_of(&bench, pid));
        let writer = std::thread::spawn(move || stdout.write_all(&vec![i; 4 << 20]).unwrap());
        all.push((i, pid, client, writer));
    }
    for (i, pid, mut client, writer) in all {
        let got = read_all_until(&mut bench, &mut client, 4 << 20);
        assert!(got.iter().all(|byte| *byte == i));
        writer.join().unwrap();
        bench.exits(pid, 0);
    }
    assert_eq!(bench.told_exits().len(), 8);
}

fn read_all_until(bench: &mut Bench, file: &mut File, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut chunk = vec![0; 1 << 20];
    while all.len() < length {
        match file.read(&mut chunk) {
            Ok(0) => panic!("ended at {}", all.len()),
            Ok(n) => all.extend_from_slice(&chunk[..n]),
            Err(_) => bench.turn(),
        }
    }
    all
}
