//! Events on their way to the daemon: in order, one at a time, kept while the daemon is away.
//!
//! Over ttrpc one event is sent and answered before the next, since the daemon handles the calls of
//! one connection side by side and would reorder them. Without a ttrpc address the daemon's own
//! `publish` command is run, again one at a time.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, SystemTime};

use prost::Message;
use prost_types::Any;

use crate::clock;
use crate::event_loop::{EventLoop, Registration, Timer, TimerId, Token};
use crate::log::{debug, error, warn};
use crate::proto::containerd::services::events::ttrpc::v1::ForwardRequest;
use crate::proto::containerd::types::Envelope;
use crate::spawn::Spawn;
use crate::ttrpc::client::Client;

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
/// How long the daemon may take to answer one event.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// An event the daemon refuses so often is given up: it would hold up all others.
const REFUSALS: u32 = 5;
/// What may wait for the daemon, in bytes of encoded events.
const MEMORY_LIMIT: usize = 4 << 20;

/// How events get to the daemon.
pub enum Route {
    /// The path of its ttrpc socket.
    Ttrpc(String),
    /// Its program, run as `PROGRAM --address ADDRESS publish …`.
    Program { program: String, address: String },
    /// Nobody wants them.
    Nowhere,
}

struct Queued {
    topic: String,
    namespace: String,
    event: Any,
    at: SystemTime,
    refusals: u32,
}

impl Queued {
    fn size(&self) -> usize {
        size_of::<Self>() + self.topic.len() + self.event.type_url.len() + self.event.value.len()
    }

    /// Whether a state the daemon keeps hangs on it.
    fn is_vital(&self) -> bool {
        matches!(
            self.topic.as_str(),
            crate::event_names::EXIT | crate::event_names::DELETE
        )
    }
}

pub struct Publisher {
    route: Route,
    queue: VecDeque<Queued>,
    bytes: usize,
    connection: Option<(Client, Registration)>,
    /// The first of the queue has been sent; the timer for its answer.
    under_way: Option<Option<TimerId>>,
    retry: Option<TimerId>,
    delay: Duration,
}

impl Publisher {
    pub fn new(route: Route) -> Self {
        Self {
            route,
            queue: VecDeque::new(),
            bytes: 0,
            connection: None,
            under_way: None,
            retry: None,
            delay: RETRY_MIN,
        }
    }

    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    pub fn push(&mut self, namespace: &str, topic: &str, name: &str, message: &impl Message) {
        debug!("event {topic}");
        if matches!(self.route, Route::Nowhere) {
            return;
        }
        let event = Any {
            type_url: name.into(),
            value: message.encode_to_vec(),
        };
        let queued = Queued {
            topic: topic.into(),
            namespace: namespace.into(),
            event,
            at: SystemTime::now(),
            refusals: 0,
        };
        self.bytes += queued.size();
        self.queue.push_back(queued);
        while self.bytes > MEMORY_LIMIT && self.queue.len() > 1 {
            self.drop_one();
        }
    }

    /// Makes room: the oldest event that no state hangs on, else the oldest. Not the one on its way.
    fn drop_one(&mut self) {
        let first = usize::from(self.under_way.is_some()).min(self.queue.len() - 1);
        let index = (first..self.queue.len() - 1)
            .find(|i| !self.queue[*i].is_vital())
            .unwrap_or(first);
        if let Some(dropped) = self.queue.remove(index) {
            self.bytes -= dropped.size();
            error!(
                "dropping event {}: too many wait for the daemon",
                dropped.topic
            );
        }
    }

    /// Does what can be done now. If a program was started to publish, its pid; its end has to be
    /// told to [`Publisher::program_done`].
    pub fn drive(&mut self, events: &mut EventLoop) -> Option<i32> {
        if let Some((client, _)) = &mut self.connection {
            match client.progress() {
                Ok(None) => {}
                Ok(Some(None)) => self.delivered(events),
                Ok(Some(Some(status))) => self.refused(events, &status.message),
                Err(e) => self.disconnected(events, &e),
            }
        }
        if self.under_way.is_some() || self.retry.is_some() || self.queue.is_empty() {
            return None;
        }
        if matches!(self.route, Route::Program { .. }) {
            return self.run_program(events);
        }
        while self.under_way.is_none() && self.retry.is_none() && !self.queue.is_empty() {
            match self.send(events) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                    self.refused(events, &e.to_string())
                }
                Err(e) => self.disconnected(events, &e),
            }
        }
        None
    }

    fn send(&mut self, events: &mut EventLoop) -> io::Result<()> {
        let (Route::Ttrpc(path), Some(first)) = (&self.route, self.queue.front()) else {
            return Ok(());
        };
        if self.connection.is_none() {
            let client = Client::connect(path)?;
            let registration = events.add(&client, Token::Publisher)?;
            self.connection = Some((client, registration));
        }
        let envelope = Envelope {
            timestamp: Some(clock::timestamp(first.at)),
            namespace: first.namespace.clone(),
            topic: first.topic.clone(),
            event: Some(first.event.clone()),
        };
        let payload = ForwardRequest {
            envelope: Some(envelope),
        }
        .encode_to_vec();
        if let Some((client, _)) = &mut self.connection {
            client.call(SERVICE, "Forward", payload, ANSWER_LIMIT.as_nanos() as i64)?;
        }
        self.under_way = Some(Some(events.arm(ANSWER_LIMIT, Timer::PublishTimeout)));
        Ok(())
    }

    fn run_program(&mut self, events: &mut EventLoop) -> Option<i32> {
        let (Route::Program { program, address }, Some(first)) = (&self.route, self.queue.front())
        else {
            return None;
        };
        let start = || -> io::Result<i32> {
            let mut spawn = Spawn::new(program)?;
            spawn.args(["--address", address, "publish", "--topic", &first.topic])?;
            spawn.args(["--namespace", &first.namespace])?;
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            // An event is far below a pipe's 64 KiB: this does not wait for a reader.
            rustix::io::write(&write, &first.event.encode_to_vec())?;
            spawn.fd(0, &read)?;
            spawn.spawn()
        };
        match start() {
            Ok(pid) => {
                self.under_way = Some(None);
                Some(pid)
            }
            Err(e) => {
                self.refused(events, &e.to_string());
                None
            }
        }
    }

    pub fn program_done(&mut self, events: &mut EventLoop, success: bool) {
        if success {
            self.delivered(events);
        } else {
            self.refused(events, "the publish command failed");
        }
    }

    pub fn on_timer(&mut self, events: &mut EventLoop, timer: Timer) {
        match timer {
            Timer::PublishRetry => self.retry = None,
            _ => {
                if self.under_way.is_some() {
                    self.disconnected(events, &io::ErrorKind::TimedOut.into());
                }
            }
        }
    }

    fn delivered(&mut self, events: &mut EventLoop) {
        self.no_longer_under_way(events);
        self.delay = RETRY_MIN;
        if let Some(done) = self.queue.pop_front() {
            self.bytes -= done.size();
        }
    }

    fn refused(&mut self, events: &mut EventLoop, why: &str) {
        self.no_longer_under_way(events);
        let Some(first) = self.queue.front_mut() else {
            return;
        };
        first.refusals += 1;
        if first.refusals >= REFUSALS {
            error!(
                "giving up event {} after {REFUSALS} refusals: {why}",
                first.topic
            );
            if let Some(dropped) = self.queue.pop_front() {
                self.bytes -= dropped.size();
            }
            return;
        }
        warn!("event {} was refused: {why}", first.topic);
        self.retry_later(events);
    }

    fn disconnected(&mut self, events: &mut EventLoop, why: &io::Error) {
        let was_under_way = self.no_longer_under_way(events);
        if let Some((client, registration)) = self.connection.take() {
            events.remove(&client, registration);
            if !was_under_way {
                // An idle connection that the daemon closed: a new one at the next event.
                return;
            }
        }
        if self.delay == RETRY_MIN {
            warn!(
                "events cannot be delivered: {why}; {} kept",
                self.queue.len()
            );
        }
        self.retry_later(events);
    }

    fn no_longer_under_way(&mut self, events: &mut EventLoop) -> bool {
        let under_way = self.under_way.take();
        if let Some(Some(timer)) = under_way {
            events.disarm(timer);
        }
        under_way.is_some()
    }

    fn retry_later(&mut self, events: &mut EventLoop) {
        if self.retry.is_none() {
            self.retry = Some(events.arm(self.delay, Timer::PublishRetry));
            self.delay = (self.delay * 2).min(RETRY_MAX);
        }
    }
}
