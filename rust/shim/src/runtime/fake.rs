//! A runtime for tests: it records what it is asked, and does what it is told.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use super::{
    Call, CheckpointRequest, CreateRequest, ExecRequest, ProcessIo, RestoreRequest, Result,
    Runtime, RuntimeError, Started, Streams,
};

/// Pids no real process has.
const FIRST_PID: i32 = 1_000_000_000;

/// The recording twin of a runtime.
pub struct Fake {
    /// What was asked, in order: `create box`, `kill box 9 all`, …
    pub calls: RefCell<Vec<String>>,
    /// Operations whose next call fails, with the runtime's words.
    pub failing: RefCell<BTreeMap<&'static str, RuntimeError>>,
    /// Operations that go on until the test ends them with the exit of the child noted here.
    pub held: RefCell<Vec<&'static str>>,
    pub children: RefCell<Vec<i32>>,
    /// The process's ends of the streams, by its pid.
    pub streams: RefCell<BTreeMap<i32, Streams>>,
    /// The slave sides of terminals, by pid.
    pub terminals: RefCell<BTreeMap<i32, OwnedFd>>,
    pub process_list: RefCell<Vec<u32>>,
    pub last_spec: RefCell<Vec<u8>>,
    next_pid: Cell<i32>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            calls: RefCell::default(),
            failing: RefCell::default(),
            held: RefCell::default(),
            children: RefCell::default(),
            streams: RefCell::default(),
            terminals: RefCell::default(),
            process_list: RefCell::default(),
            last_spec: RefCell::default(),
            next_pid: Cell::new(FIRST_PID),
        }
    }
}

impl Fake {
    pub fn fail(&self, operation: &'static str, logged: &str) {
        let error = RuntimeError {
            summary: "fake did not terminate successfully: exit status 1".into(),
            logged: Some(logged.into()),
        };
        self.failing.borrow_mut().insert(operation, error);
    }

    pub fn hold(&self, operation: &'static str) {
        self.held.borrow_mut().push(operation);
    }

    /// The pid the next process or child will have.
    pub fn next_pid(&self) -> i32 {
        self.next_pid.get()
    }

    fn new_pid(&self) -> i32 {
        self.next_pid.replace(self.next_pid.get() + 1)
    }

    fn call<T: 'static>(&self, operation: &'static str, line: String, value: T) -> Call<T> {
        self.calls.borrow_mut().push(line);
        let result: Result<T> = match self.failing.borrow_mut().remove(operation) {
            Some(error) => Err(error),
            None => Ok(value),
        };
        let mut held = self.held.borrow_mut();
        let Some(index) = held.iter().position(|name| *name == operation) else {
            return Call::Ready(result);
        };
        held.remove(index);
        let pid = self.new_pid();
        self.children.borrow_mut().push(pid);
        let finish = move |status| match status {
            0 => result,
            _ => Err(RuntimeError::new(
                "fake did not terminate successfully: exit status 137",
            )),
        };
        Call::Child {
            pid,
            finish: Box::new(finish),
        }
    }

    fn make(&self, io: ProcessIo) -> Started {
        let pid = self.new_pid();
        let console = match io {
            ProcessIo::Pipes(streams) => {
                self.streams.borrow_mut().insert(pid, streams);
                None
            }
            ProcessIo::Terminal => {
                let (master, slave) = open_terminal();
                self.terminals.borrow_mut().insert(pid, slave);
                Some(master)
            }
        };
        Started { pid, console }
    }
}

fn open_terminal() -> (OwnedFd, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let slave = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).unwrap();
    (master, slave)
}

impl Runtime for Fake {
    fn create(&self, request: CreateRequest<'_>) -> Call<Started> {
        let line = format!("create {}", request.id);
        let started = self.make(request.io);
        self.call("create", line, started)
    }

    fn restore(&self, request: RestoreRequest<'_>) -> Call<Started> {
        let line = format!("restore {} from {}", request.id, request.image_path);
        let started = self.make(request.io);
        self.call("restore", line, started)
    }

    fn start(&self, id: &str) -> Call<()> {
        self.call("start", format!("start {id}"), ())
    }

    fn exec(&self, request: ExecRequest<'_>) -> Call<Started> {
        *self.last_spec.borrow_mut() = request.spec.to_vec();
        let line = format!("exec {} {}", request.id, request.exec_id);
        let started = self.make(request.io);
        self.call("exec", line, started)
    }

    fn kill(&self, id: &str, signal: u32, all: bool) -> Call<()> {
        let all = if all { " all" } else { "" };
        self.call("kill", format!("kill {id} {signal}{all}"), ())
    }

    fn delete(&self, id: &str, force: bool) -> Call<()> {
        let force = if force { " force" } else { "" };
        self.call("delete", format!("delete {id}{force}"), ())
    }

    fn pause(&self, id: &str) -> Call<()> {
        self.call("pause", format!("pause {id}"), ())
    }

    fn resume(&self, id: &str) -> Call<()> {
        self.call("resume", format!("resume {id}"), ())
    }

    fn update(&self, id: &str, resources: &[u8]) -> Call<()> {
        let line = format!("update {id} {}", String::from_utf8_lossy(resources));
        self.call("update", line, ())
    }

    fn ps(&self, id: &str) -> Call<Vec<u32>> {
        let list = self.process_list.borrow().clone();
        self.call("ps", format!("ps {id}"), list)
    }

    fn checkpoint(&self, id: &str, request: &CheckpointRequest) -> Call<()> {
        let line = format!(
            "checkpoint {id} {} {}",
            request.image_path, request.leave_running
        );
        self.call("checkpoint", line, ())
    }
}
