//! The serving shim: its tables, and the loop that moves everything.
//!
//! One thread owns all state. Handlers are given `&mut Shim`, do what can be done now and leave a
//! [`Step`] for the rest: for a child's exit, the end of output, a logging program. No handler
//! waits.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant, SystemTime};

use prost::Message;

use crate::container::Container;
use crate::event_loop::{EventLoop, Timer, TimerId, Token};
use crate::events::Publisher;
use crate::log::{debug, error, info, warn};
use crate::process::{Phase, Process, ProcessId};
use crate::proto::containerd::task::v3::DeleteRequest;
use crate::runtime::Factory;
use crate::sandbox::Sandbox;
use crate::service::streaming::{self, Openings};
use crate::stdio::logger::Starting;
use crate::stdio::stream;
use crate::streams::{OPENING_LIMIT, RunningPump};
use crate::ttrpc::Status;
use crate::ttrpc::server::{Incoming, Reply, ReplyKey, Server};

/// What goes on later.
pub type Step = Box<dyn FnOnce(&mut Shim)>;
/// What goes on when a child has exited, with its wait status.
pub type ChildStep = Box<dyn FnOnce(&mut Shim, i32)>;
/// What goes on when a logging program is ready, or failed to be.
pub type LoggerStep = Box<dyn FnOnce(&mut Shim, io::Result<i32>)>;

/// How long pending events may hold up a shim that was asked to leave.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// A shim with nothing alive to supervise and nobody connected leaves after this. How its containers
/// ended is written into their bundles, for a daemon that comes later.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Freed memory is given back after this much quiet.
const TRIM_AFTER: Duration = Duration::from_millis(500);

pub struct Shim {
    pub namespace: String,
    pub make_runtime: Factory,
    pub events: EventLoop,
    pub server: Server,
    pub publisher: Publisher,
    pub containers: BTreeMap<String, Container>,
    /// Ids of containers that are being made.
    pub creating: BTreeSet<String>,
    pub sandbox: Option<Sandbox>,
    pub processes: BTreeMap<ProcessId, Process>,
    /// Live processes of containers by pid.
    pub pids: BTreeMap<i32, ProcessId>,
    pub pumps: BTreeMap<u32, RunningPump>,
    /// Streams of bytes that clients have open, or processes have.
    pub byte_streams: stream::Table,
    pub openings: Openings,
    /// How long after a process's start its client may open its FIFOs.
    pub opening_limit: Duration,
    /// Logging programs that have not said yet that they are ready.
    pub starting_loggers: BTreeMap<u32, (Starting, u64, TimerId, LoggerStep)>,
    /// Logging programs that exited before they belonged to a process.
    pub gone_loggers: BTreeSet<i32>,
    pub(crate) children: BTreeMap<i32, ChildStep>,
    /// Runtime calls under way that make a process: its exit may be reaped before its pid is known.
    pub(crate) making: usize,
    pub(crate) early_exits: BTreeMap<i32, (i32, SystemTime)>,
    deferred: Vec<Step>,
    pub(crate) signals: Option<(OwnedFd, u64)>,
    next_id: u32,
    leave_at: Option<Instant>,
    /// It leaves because nobody asks for it any more.
    alone: bool,
    idle_timer: Option<TimerId>,
    trim_timer: Option<TimerId>,
}

impl Shim {
    pub fn new(namespace: &str, publisher: Publisher, make_runtime: Factory) -> io::Result<Self> {
        let mut shim = Self {
            namespace: namespace.into(),
            make_runtime,
            events: EventLoop::new()?,
            server: Server::default(),
            publisher,
            containers: BTreeMap::new(),
            creating: BTreeSet::new(),
            sandbox: None,
            processes: BTreeMap::new(),
            pids: BTreeMap::new(),
            pumps: BTreeMap::new(),
            byte_streams: stream::Table::new(),
            openings: Openings::new(),
            opening_limit: OPENING_LIMIT,
            starting_loggers: BTreeMap::new(),
            gone_loggers: BTreeSet::new(),
            children: BTreeMap::new(),
            making: 0,
            early_exits: BTreeMap::new(),
            deferred: Vec::new(),
            signals: None,
            next_id: 0,
            leave_at: None,
            alone: false,
            idle_timer: None,
            trim_timer: None,
        };
        shim.server.streaming = &[(streaming::SERVICE, streaming::METHOD)];
        shim.watch_idleness();
        Ok(shim)
    }

    /// Serves until asked to leave; `signals` is a signalfd for SIGCHLD and the signals to end by.
    pub fn serve(mut self, listener: UnixListener, signals: OwnedFd) -> io::Result<()> {
        self.server.listen(&mut self.events, listener)?;
        let registration = self.events.add(&signals, Token::Signals)?;
        self.signals = Some((signals, registration));
        while !self.finished() {
            let limit = self
                .leave_at
                .map(|at| at.saturating_duration_since(Instant::now()));
            self.turn(limit)?;
        }
        Ok(())
    }

    /// Waits for events and handles them; `limit` bounds the wait.
    pub fn turn(&mut self, limit: Option<Duration>) -> io::Result<()> {
        let limit = if self.deferred.is_empty() {
            limit
        } else {
            Some(Duration::ZERO)
        };
        let (tokens, timers) = self.events.wait(limit)?;
        for token in &tokens {
            self.on_token(*token);
            self.run_deferred();
        }
        for timer in timers {
            self.on_timer(timer);
            self.run_deferred();
        }
        self.run_deferred();
        if !self.byte_streams.is_empty() {
            self.sweep_streams();
        }
        if !tokens.is_empty() && self.trim_timer.is_none() {
            self.trim_timer = Some(self.events.arm(TRIM_AFTER, Timer::Trim));
        }
        Ok(())
    }

    fn on_token(&mut self, token: Token) {
        match token {
            Token::Signals => self.on_signals(),
            Token::Listener => self.server.accept(&mut self.events),
            Token::Connection(id) => {
                for incoming in self.server.serve(&mut self.events, id) {
                    match incoming {
                        Incoming::Call(call) => self.dispatch(call),
                        Incoming::Data {
                            key,
                            message,
                            ended,
                        } => self.on_stream(key, message.as_deref(), ended),
                    }
                    self.run_deferred();
                }
                if self.server.has_connection(id) {
                    self.unstick_streams(id);
                } else {
                    self.forget_waiters(|key| key.0 == id);
                    self.forget_streams(|key| key.0 == id);
                }
                self.watch_idleness();
            }
            Token::Publisher => self.drive_publisher(),
            Token::Pump(id) => self.drive_pump(id),
            Token::LoggerReady(key) => self.check_logger(key, false),
            Token::Oom(process) => self.on_oom(process),
        }
    }

    pub(crate) fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::Deadline { connection, stream } => {
                self.server.expire(&mut self.events, connection, stream);
                self.forget_waiters(|key| key == (connection, stream));
                self.forget_streams(|key| key == (connection, stream));
            }
            Timer::Drain(process) => self.on_drain_timer(process),
            Timer::Execs(init) => self.press_execs(init),
            Timer::LoggerReady(key) => self.check_logger(key, true),
            Timer::LoggerStop(process) => self.press_logger(process),
            Timer::PublishRetry | Timer::PublishTimeout => {
                self.publisher.on_timer(&mut self.events, timer);
                self.drive_publisher();
            }
            Timer::SandboxKill | Timer::SandboxGiveUp => self.on_sandbox_timer(timer),
            Timer::Accept => self.server.accept(&mut self.events),
            Timer::Idle => {
                self.idle_timer = None;
                if self.is_idle() {
                    self.leave_alone();
                }
            }
            Timer::Trim => {
                self.trim_timer = None;
                crate::memory::trim();
            }
        }
    }

    pub fn run_deferred(&mut self) {
        while !self.deferred.is_empty() {
            for step in std::mem::take(&mut self.deferred) {
                step(self);
            }
        }
    }

    /// Runs `step` before the loop waits again, outside the caller's borrows.
    pub fn defer(&mut self, step: impl FnOnce(&mut Shim) + 'static) {
        self.deferred.push(Box::new(step));
    }

    pub fn new_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    // Answers.

    pub fn answer(&mut self, reply: Reply, message: &impl Message) {
        self.server
            .answer(&mut self.events, reply, Ok(message.encode_to_vec()));
    }

    pub fn refuse(&mut self, reply: Reply, status: Status) {
        debug!("request refused: {status}");
        self.server.answer(&mut self.events, reply, Err(status));
    }

    /// Answers with an empty message or the refusal.
    pub fn conclude(&mut self, reply: Reply, result: Result<(), Status>) {
        match result {
            Ok(()) => self.answer(reply, &()),
            Err(status) => self.refuse(reply, status),
        }
    }

    /// Calls of Wait that nobody waits for any more.
    fn forget_waiters(&mut self, gone: impl Fn(ReplyKey) -> bool) {
        for p in self.processes.values_mut() {
            p.waiters.retain(|waiter| !gone(waiter.key()));
        }
        if let Some(sandbox) = &mut self.sandbox {
            sandbox.waiters.retain(|waiter| !gone(waiter.key()));
        }
    }

    // Events.

    pub fn publish(&mut self, topic: &str, name: &str, message: &impl Message) {
        self.publisher.push(&self.namespace, topic, name, message);
        self.drive_publisher();
    }

    pub fn drive_publisher(&mut self) {
        if let Some(pid) = self.publisher.drive(&mut self.events) {
            self.on_child_exit(pid, |shim, status| {
                shim.publisher.program_done(&mut shim.events, status == 0);
                shim.drive_publisher();
            });
        }
    }

    // One operation after the other on a process.

    /// Runs `step` when no other operation changes the process; it must end in [`Shim::unlock`].
    pub fn lock(&mut self, process: ProcessId, step: impl FnOnce(&mut Shim) + 'static) {
        let Some(p) = self.processes.get_mut(&process) else {
            return step(self);
        };
        if p.busy {
            p.queue.push_back(Box::new(step));
        } else {
            p.busy = true;
            step(self);
        }
    }

    pub fn unlock(&mut self, process: ProcessId) {
        let Some(p) = self.processes.get_mut(&process) else {
            return;
        };
        match p.queue.pop_front() {
            Some(step) => self.deferred.push(step),
            None => p.busy = false,
        }
    }

    /// Takes a process off the table. Who waited for its lock finds it gone.
    pub fn remove_process(&mut self, process: ProcessId) {
        if let Some(mut p) = self.processes.remove(&process) {
            p.phase = Phase::Deleted;
            self.pids.retain(|_, owner| *owner != process);
            self.deferred.extend(p.queue);
        }
    }

    // Leaving.

    /// Stops taking connections and leaves once all that is due has been sent.
    pub fn leave(&mut self) {
        if self.leave_at.is_some() {
            return;
        }
        self.leave_at = Some(Instant::now() + FLUSH_LIMIT);
        self.server.stop_listening(&mut self.events);
    }

    pub fn finished(&self) -> bool {
        let Some(at) = self.leave_at else {
            return false;
        };
        if Instant::now() >= at {
            warn!(
                "leaving with {} events not delivered",
                self.publisher.queued()
            );
            return true;
        }
        let given_back = !self.alone || (self.children.is_empty() && self.is_empty());
        self.server.all_sent() && self.publisher.queued() == 0 && given_back
    }

    pub fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.creating.is_empty()
    }

    fn is_idle(&self) -> bool {
        let kept = |sandbox: &Sandbox| !sandbox.is_over() && sandbox.bundle.exists();
        let ended = |container: &Container| {
            let init = self.processes.get(&container.init);
            init.is_none_or(|init| init.exit_published)
        };
        !self.server.has_connections()
            && self.creating.is_empty()
            && !self.sandbox.as_ref().is_some_and(kept)
            && self.containers.values().all(ended)
    }

    /// Nobody asks any more: gives back what ended containers hold, and leaves.
    fn leave_alone(&mut self) {
        info!("nothing to supervise and nobody connected: leaving");
        let ended: Vec<(String, ProcessId)> = self
            .containers
            .iter()
            .map(|(id, container)| (id.clone(), container.init))
            .collect();
        for (id, init) in ended {
            if let (Some(container), Some(p)) =
                (self.containers.get(&id), self.processes.get(&init))
                && let Err(e) =
                    crate::bundle::write_exit(&container.bundle, p.exit_status(), p.exited_at())
            {
                warn!("{id}: how it ended is lost: {e}");
            }
            let request = DeleteRequest {
                id,
                exec_id: String::new(),
            };
            self.delete(request, Reply::to_nobody());
        }
        self.end_forgotten_sandbox();
        self.alone = true;
        self.leave();
    }

    pub(crate) fn watch_idleness(&mut self) {
        match self.idle_timer {
            None if self.is_idle() => {
                self.idle_timer = Some(self.events.arm(IDLE_LIMIT, Timer::Idle));
            }
            Some(timer) if !self.is_idle() => {
                self.events.disarm(timer);
                self.idle_timer = None;
            }
            _ => {}
        }
    }

    /// An error nobody asked about.
    pub fn complain(&self, what: &str, error: &dyn std::fmt::Display) {
        error!("{what}: {error}");
    }
}
