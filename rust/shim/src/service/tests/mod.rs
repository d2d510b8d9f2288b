//! The service over its real ttrpc server and publisher, with the fake runtime.

mod exec;
mod exits;
mod lifecycle;
mod refusals;
mod sandbox;
mod streaming;
mod streams;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::RwLockReadGuard;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use prost::Message;
use prost_types::Any;

use crate::event_loop::{EventLoop, Timer, Token};
use crate::events::{Publisher, Route};
use crate::proto::containerd::events::TaskExit;
use crate::proto::containerd::services::events::ttrpc::v1::ForwardRequest;
use crate::proto::containerd::task::v3 as api;
use crate::proto::ttrpc::{Request, Response};
use crate::runtime::fake::Fake;
use crate::shim::Shim;
use crate::spawn::forks;
use crate::ttrpc::frame::{self, Decoded, Decoder, Frame};
use crate::ttrpc::server::{Incoming, Server};

const OWN_PID_NAMESPACE: &str = r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#;
const SHARED_PID_NAMESPACE: &str = r#"{"linux":{"namespaces":[{"type":"network"}]}}"#;

/// A shim, its runtime, its daemon, and a client of its socket.
pub struct Bench {
    pub shim: Shim,
    pub fake: Rc<Fake>,
    pub dir: PathBuf,
    client: UnixStream,
    decoder: Decoder,
    next_stream: u32,
    answers: Vec<(u32, Response)>,
    /// What came on streams.
    data: Vec<Frame>,
    daemon: Daemon,
    /// Dropped last.
    no_forks: Option<RwLockReadGuard<'static, ()>>,
}

/// What receives the events.
pub struct Daemon {
    path: PathBuf,
    server: Server,
    events: EventLoop,
    pub got: Vec<(String, Any)>,
    pub refuse: bool,
}

impl Daemon {
    pub fn new(path: PathBuf) -> Self {
        let mut daemon = Self {
            path,
            server: Server::default(),
            events: EventLoop::new().unwrap(),
            got: Vec::new(),
            refuse: false,
        };
        daemon.up();
        daemon
    }

    pub fn up(&mut self) {
        let listener = UnixListener::bind(&self.path).unwrap();
        self.server.listen(&mut self.events, listener).unwrap();
    }

    /// Gone with all its connections, as after SIGKILL; the socket stays, dead.
    pub fn down(&mut self) {
        self.server.stop_listening(&mut self.events);
        self.server = Server::default();
        self.events = EventLoop::new().unwrap();
        drop(UnixListener::bind(&self.path).unwrap());
    }

    pub fn back(&mut self) {
        std::fs::remove_file(&self.path).unwrap();
        self.up();
    }

    pub fn turn(&mut self) {
        let (tokens, _) = self.events.wait(Some(Duration::ZERO)).unwrap();
        for token in tokens {
            match token {
                Token::Listener => self.server.accept(&mut self.events),
                Token::Connection(id) => {
                    for incoming in self.server.serve(&mut self.events, id) {
                        let Incoming::Call(call) = incoming else {
                            panic!("{incoming:?}");
                        };
                        assert_eq!(call.method, "Forward");
                        let envelope = ForwardRequest::decode(&*call.payload)
                            .unwrap()
                            .envelope
                            .unwrap();
                        let answer = if self.refuse {
                            Err(crate::ttrpc::Status::unknown("no"))
                        } else {
                            self.got.push((envelope.topic, envelope.event.unwrap()));
                            Ok(Vec::new())
                        };
                        self.server.answer(&mut self.events, call.reply, answer);
                    }
                }
                _ => {}
            }
        }
    }

    pub fn topics(&self) -> Vec<&str> {
        self.got
            .iter()
            .map(|(topic, _)| topic.rsplit('/').next().unwrap())
            .collect()
    }
}

impl Bench {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "shim-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir).unwrap();
        let daemon = Daemon::new(dir.join("daemon"));
        let fake = Rc::new(Fake::default());
        let runtime = fake.clone();
        let publisher = Publisher::new(Route::Ttrpc(dir.join("daemon").to_str().unwrap().into()));
        let mut shim = Shim::new(&name, publisher, Box::new(move |_, _| runtime.clone())).unwrap();
        // Tests in which a client is waited for say so.
        shim.opening_limit = Duration::ZERO;
        let (near, client) = UnixStream::pair().unwrap();
        client.set_nonblocking(true).unwrap();
        shim.server.admit(&mut shim.events, near).unwrap();
        Self {
            shim,
            fake,
            dir,
            client,
            decoder: Decoder::default(),
            next_stream: 1,
            answers: Vec::new(),
            data: Vec::new(),
            daemon,
            no_forks: None,
        }
    }

    /// For tests to which it matters when a descriptor is closed.
    pub fn without_forks() -> Self {
        let guard = forks::none();
        let mut bench = Self::new();
        bench.no_forks = Some(guard);
        bench
    }

    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    pub fn turn(&mut self) {
        self.shim.turn(Some(Duration::from_millis(1))).unwrap();
        self.daemon.turn();
        let mut chunk = [0; 4096];
        while let Ok(n @ 1..) = self.client.read(&mut chunk) {
            self.decoder.feed(&chunk[..n]);
        }
        while let Some(Decoded::Frame(frame)) = self.decoder.next() {
            if frame.kind == frame::DATA {
                self.data.push(frame);
            } else {
                self.answers
                    .push((frame.stream, Response::decode(&*frame.data).unwrap()));
            }
        }
    }

    /// Some turns, for what must not happen as much as for what must.
    pub fn settle(&mut self) {
        for _ in 0..20 {
            self.turn();
        }
    }

    pub fn send(&mut self, method: &str, message: &impl Message) -> u32 {
        self.send_to("containerd.task.v3.Task", method, message, 0)
    }

    pub fn send_to(
        &mut self,
        service: &str,
        method: &str,
        message: &impl Message,
        timeout: i64,
    ) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let request = Request {
            service: service.into(),
            method: method.into(),
            payload: message.encode_to_vec(),
            timeout_nano: timeout,
            metadata: Vec::new(),
        };
        self.send_frame(stream, frame::REQUEST, 0, &request.encode_to_vec());
        stream
    }

    pub fn send_frame(&mut self, stream: u32, kind: u8, flags: u8, data: &[u8]) {
        let mut wire = Vec::new();
        assert!(frame::encode(&mut wire, stream, kind, flags, data));
        self.client.write_all(&wire).unwrap();
        self.turn();
    }

    pub fn answered(&self, stream: u32) -> bool {
        self.answers.iter().any(|(id, _)| *id == stream)
    }

    pub fn answer<M: Message + Default>(&mut self, stream: u32) -> Result<M, (i32, String)> {
        for _ in 0..5000 {
            if let Some(index) = self.answers.iter().position(|(id, _)| *id == stream) {
                let (_, response) = self.answers.remove(index);
                return match response.status {
                    Some(status) => Err((status.code, status.message)),
                    None => Ok(M::decode(&*response.payload).unwrap()),
                };
            }
            self.turn();
        }
        panic!(
            "no answer on stream {stream}; runtime calls: {:?}",
            self.fake.calls.borrow()
        );
    }

    pub fn call<M: Message + Default>(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Result<M, (i32, String)> {
        let stream = self.send(method, message);
        self.answer(stream)
    }

    /// A bundle with this configuration.
    pub fn bundle(&self, id: &str, config: &str) -> String {
        let bundle = self.dir.join(id);
        std::fs::create_dir_all(&bundle).unwrap();
        std::fs::write(bundle.join("config.json"), config).unwrap();
        bundle.to_str().unwrap().into()
    }

    pub fn create_request(&self, id: &str) -> api::CreateTaskRequest {
        let bundle = self.bundle(id, OWN_PID_NAMESPACE);
        api::CreateTaskRequest {
            id: id.into(),
            bundle,
            ..Default::default()
        }
    }

    /// Creates and starts a container; its pid.
    pub fn running(&mut self, id: &str) -> i32 {
        let request = self.create_request(id);
        self.run(&request)
    }

    pub fn run(&mut self, request: &api::CreateTaskRequest) -> i32 {
        let created: api::CreateTaskResponse = self.call("Create", request).unwrap();
        let start = api::StartRequest {
            id: request.id.clone(),
            exec_id: String::new(),
        };
        let started: api::StartResponse = self.call("Start", &start).unwrap();
        assert_eq!(created.pid, started.pid);
        started.pid as i32
    }

    pub fn exec(&mut self, id: &str, exec_id: &str) -> Result<i32, (i32, String)> {
        let request = exec_request(id, exec_id);
        self.call::<()>("Exec", &request)?;
        let start = api::StartRequest {
            id: id.into(),
            exec_id: exec_id.into(),
        };
        self.call::<api::StartResponse>("Start", &start)
            .map(|r| r.pid as i32)
    }

    /// The client hangs up.
    pub fn client_goes(&mut self) {
        self.client = UnixStream::pair().unwrap().0;
        self.client.set_nonblocking(true).unwrap();
        while self.shim.server.has_connections() {
            self.turn();
        }
    }

    /// The client connects again.
    pub fn client_comes(&mut self) {
        let (near, client) = UnixStream::pair().unwrap();
        client.set_nonblocking(true).unwrap();
        self.shim.server.admit(&mut self.shim.events, near).unwrap();
        (self.client, self.decoder) = (client, Decoder::default());
        self.next_stream = 1;
        self.answers.clear();
        self.data.clear();
    }

    pub fn exits(&mut self, pid: i32, code: i32) {
        self.fake.streams.borrow_mut().remove(&pid);
        self.shim.child_exited(pid, code << 8, SystemTime::now());
    }

    /// Ends the oldest held call of the runtime.
    pub fn finish_call(&mut self, status: i32) {
        let pid = self.fake.children.borrow_mut().remove(0);
        self.shim.child_exited(pid, status, SystemTime::now());
    }

    pub fn state(&mut self, id: &str, exec_id: &str) -> api::StateResponse {
        let request = api::StateRequest {
            id: id.into(),
            exec_id: exec_id.into(),
        };
        self.call("State", &request).unwrap()
    }

    pub fn topics(&mut self) -> Vec<String> {
        self.settle();
        self.daemon.topics().into_iter().map(Into::into).collect()
    }

    /// Exits as told: id and status.
    pub fn told_exits(&mut self) -> Vec<(String, u32)> {
        self.settle();
        let exits = self
            .daemon
            .got
            .iter()
            .filter(|(topic, _)| topic == "/tasks/exit");
        exits
            .map(|(_, any)| {
                assert_eq!(any.type_url, "containerd.events.TaskExit");
                let exit = TaskExit::decode(&*any.value).unwrap();
                (exit.id, exit.exit_status)
            })
            .collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub fn exec_request(id: &str, exec_id: &str) -> api::ExecProcessRequest {
    let spec = Any {
        type_url: "x/Process".into(),
        value: br#"{"args":["true"],"cwd":"/"}"#.to_vec(),
    };
    api::ExecProcessRequest {
        id: id.into(),
        exec_id: exec_id.into(),
        spec: Some(spec),
        ..Default::default()
    }
}

pub fn wait(id: &str, exec_id: &str) -> api::WaitRequest {
    api::WaitRequest {
        id: id.into(),
        exec_id: exec_id.into(),
    }
}

pub fn delete(id: &str, exec_id: &str) -> api::DeleteRequest {
    api::DeleteRequest {
        id: id.into(),
        exec_id: exec_id.into(),
    }
}

pub fn kill(id: &str, exec_id: &str, all: bool) -> api::KillRequest {
    api::KillRequest {
        id: id.into(),
        exec_id: exec_id.into(),
        signal: 15,
        all,
    }
}
