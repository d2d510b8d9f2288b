//! The running copies: which belong to which process, when output has been passed on, and the end
//! of logging programs.

use std::io;
use std::time::{Duration, Instant};

use crate::event_loop::{Registration, Timer, Token};
use crate::log::warn;
use crate::process::{ProcessId, Streams};
use crate::shim::{LoggerStep, Shim};
use crate::stdio::logger::{LoggerPipes, Starting};
use crate::stdio::pump::{Pump, Stop};
use crate::stdio::{LoggerUri, Prepared};

/// A client that reads nothing for this long no longer holds up an exit or a delete.
const STALL_LIMIT: Duration = Duration::from_secs(10);
const STALLED_LOOK: Duration = Duration::from_secs(1);

/// How long after the start of a copy a client may open its FIFO. (A client asks for a process and
/// opens its side at the same time; on a busy machine the process may have ended, and may even be
/// deleted, before that.)
pub const OPENING_LIMIT: Duration = Duration::from_secs(10);
const OPENING_LOOK: Duration = Duration::from_millis(5);

/// How long an exited process's terminal, which others hold open, may be silent until it counts as
/// passed on. A terminal that nobody holds open tells its end at once.
const TERMINAL_LAG: Duration = Duration::from_millis(300);
const TERMINAL_LOOK: Duration = Duration::from_millis(50);

/// How long a logging program may take to be ready.
const LOGGER_READY_LIMIT: Duration = Duration::from_secs(30);
/// How long a logging program may take to finish after the output's end, then after SIGTERM.
const LOGGER_STOP_LIMITS: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(2)];

pub struct RunningPump {
    pump: Pump,
    owner: ProcessId,
    source: Option<Registration>,
    sink: Option<Registration>,
}

impl Shim {
    /// Starts the copies of a process whose streams are open.
    pub fn attach(
        &mut self,
        owner: ProcessId,
        prepared: Prepared,
        console: Option<std::os::fd::OwnedFd>,
        logger: Option<i32>,
    ) -> io::Result<()> {
        let mut prepared = prepared;
        if let Some(master) = &console {
            prepared.attach_terminal(master)?;
        }
        let input = prepared
            .input
            .map(|pump| self.start_pump(owner, pump))
            .transpose()?;
        let mut outputs = Vec::new();
        for pump in prepared.outputs {
            outputs.push(self.start_pump(owner, pump)?);
        }
        if let Some(p) = self.processes.get_mut(&owner) {
            p.streams = Streams {
                stdin: prepared.stdin,
                input,
                outputs,
                console,
                logger,
                logger_told: false,
            };
        }
        Ok(())
    }

    fn start_pump(&mut self, owner: ProcessId, mut pump: Pump) -> io::Result<u32> {
        let id = self.new_id();
        pump.open_until = Instant::now() + self.opening_limit;
        let token = Token::Pump(id);
        // A regular file as input cannot be watched; it never keeps a reader waiting either.
        let source = pump.source.fd().map(|fd| self.events.add(fd, token));
        let source = match source.transpose() {
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => None,
            added => added?,
        };
        let sink = pump.sink.fd().filter(|_| pump.sink.pollable);
        let sink = sink.map(|fd| self.events.add(fd, token)).transpose()?;
        let streams = [pump.source.stream(), pump.sink.stream()];
        for stream in streams.into_iter().flatten() {
            stream.set_pump(id);
        }
        self.pumps.insert(
            id,
            RunningPump {
                pump,
                owner,
                source,
                sink,
            },
        );
        self.events.again(token);
        Ok(id)
    }

    pub fn drive_pump(&mut self, id: u32) {
        let Some((owner, _)) = self.run_pump(id) else {
            return;
        };
        if self
            .processes
            .get(&owner)
            .is_some_and(|p| p.exit.is_some() || p.on_drained.is_some())
        {
            self.settle_exit(owner);
            self.settle_drain(owner);
        }
    }

    /// Runs a copy; a finished one is taken off. None if there is no such copy.
    fn run_pump(&mut self, id: u32) -> Option<(ProcessId, Stop)> {
        let running = self.pumps.get_mut(&id)?;
        let owner = running.owner;
        let mut stop = running.pump.run();
        let output = running.pump.sink.stream().cloned();
        if let Some(stream) = running.pump.source.stream().cloned() {
            self.flush_stream(&stream);
        }
        if let Some(stream) = output {
            self.flush_stream(&stream);
            if stop == Stop::Full && stream.is_writable() {
                stop = Stop::Turn;
            }
        }
        match stop {
            Stop::Turn => self.events.again(Token::Pump(id)),
            Stop::End => self.stop_pump(id),
            Stop::Empty | Stop::Full => {}
            // That a reader comes causes no event.
            Stop::Unopened => self.look_again(owner, OPENING_LOOK),
        }
        Some((owner, stop))
    }

    fn stop_pump(&mut self, id: u32) {
        let Some(RunningPump {
            pump,
            owner,
            source,
            sink,
        }) = self.pumps.remove(&id)
        else {
            return;
        };
        for (fd, registration) in [(pump.source.fd(), source), (pump.sink.fd(), sink)] {
            if let (Some(fd), Some(registration)) = (fd, registration) {
                self.events.remove(fd, registration);
            }
        }
        if let Some(p) = self.processes.get_mut(&owner) {
            p.streams.outputs.retain(|output| *output != id);
            if p.streams.input == Some(id) {
                p.streams.input = None;
                // Nobody reads the client's input any more: it should see that when it writes.
                p.streams.stdin = None;
            }
        }
    }

    pub fn stop_input(&mut self, owner: ProcessId) {
        let Some(p) = self.processes.get_mut(&owner) else {
            return;
        };
        p.streams.stdin = None;
        if let Some(id) = p.streams.input {
            self.stop_pump(id);
        }
    }

    /// Notes which FIFOs their client has opened by now. One that detaches is gone as soon as its start
    /// is answered, and would be expected without need when the process is deleted.
    pub fn meet_client(&mut self, owner: ProcessId) {
        let Some(p) = self.processes.get(&owner) else {
            return;
        };
        for id in &p.streams.outputs {
            if let Some(running) = self.pumps.get_mut(id) {
                running.pump.is_awaited();
            }
        }
    }

    /// Whether all that the process wrote has been passed on; copies what there is. A client that has
    /// not opened its side yet is waited for: Go's, once it is told of the exit, opens no more.
    ///
    /// What an exited process wrote is in its pipe, so a pipe that is empty has been passed on, even
    /// if a grandchild still holds it open. A client that is there and reads, however slowly, is
    /// waited for; one that is gone, or has not read for [`STALL_LIMIT`], is not: the copy goes on
    /// and the data stays in the pipes until the process is deleted.
    pub fn drained(&mut self, owner: ProcessId) -> bool {
        let Some(p) = self.processes.get_mut(&owner) else {
            return true;
        };
        let since = *p.drain_since.get_or_insert_with(Instant::now);
        let mut drained = true;
        for id in p.streams.outputs.clone() {
            let stop = self.run_pump(id).map(|(_, stop)| stop);
            if let Some(running) = self.pumps.get_mut(&id)
                && running.pump.is_awaited()
            {
                drained = false;
                self.look_again(owner, OPENING_LOOK);
                continue;
            }
            match stop {
                Some(Stop::Turn) => drained = false,
                Some(Stop::Full) => {
                    let Some(running) = self.pumps.get_mut(&id) else {
                        continue;
                    };
                    let quiet = running.pump.last_moved.max(since).elapsed();
                    if quiet < STALL_LIMIT && running.pump.sink.has_reader() {
                        drained = false;
                        self.look_again(owner, STALLED_LOOK);
                    }
                }
                Some(Stop::Empty) => {
                    let Some(running) = self.pumps.get(&id) else {
                        continue;
                    };
                    let quiet = running.pump.last_moved.max(since).elapsed();
                    if running.pump.source.lags() && quiet < TERMINAL_LAG {
                        drained = false;
                        self.look_again(owner, TERMINAL_LOOK);
                    }
                }
                _ => {}
            }
        }
        drained
    }

    /// A client that stops reading causes no event: time has to tell.
    fn look_again(&mut self, owner: ProcessId, after: Duration) {
        if let Some(p) = self.processes.get_mut(&owner)
            && !p.drain_timer
        {
            p.drain_timer = true;
            self.events.arm(after, Timer::Drain(owner));
        }
    }

    pub fn on_drain_timer(&mut self, owner: ProcessId) {
        if let Some(p) = self.processes.get_mut(&owner) {
            p.drain_timer = false;
            for id in p.streams.outputs.clone() {
                self.run_pump(id);
            }
        }
        self.settle_exit(owner);
        self.settle_drain(owner);
    }

    /// Runs `then` when the output has been passed on for the last time.
    pub fn after_drain(&mut self, owner: ProcessId, then: impl FnOnce(&mut Shim) + 'static) {
        if let Some(p) = self.processes.get_mut(&owner) {
            p.drain_since = None;
            p.on_drained = Some(Box::new(then));
        }
        self.settle_drain(owner);
    }

    pub fn settle_drain(&mut self, owner: ProcessId) {
        let waiting = self
            .processes
            .get(&owner)
            .is_some_and(|p| p.on_drained.is_some());
        if waiting
            && self.drained(owner)
            && let Some(step) = self
                .processes
                .get_mut(&owner)
                .and_then(|p| p.on_drained.take())
        {
            self.defer(step);
        }
    }

    /// Closes everything that is open for a process, then waits for its logging program.
    pub fn close_streams(&mut self, owner: ProcessId, then: impl FnOnce(&mut Shim) + 'static) {
        self.stop_input(owner);
        let Some(p) = self.processes.get_mut(&owner) else {
            return then(self);
        };
        p.streams.console = None;
        for id in std::mem::take(&mut p.streams.outputs) {
            // What came since the last look; its processes are gone or are given up now.
            while matches!(self.run_pump(id), Some((_, Stop::Turn))) {}
            self.stop_pump(id);
        }
        let Some(p) = self.processes.get_mut(&owner) else {
            return then(self);
        };
        if p.streams.logger.is_none() {
            return then(self);
        }
        p.on_logger_exit = Some(Box::new(then));
        self.events
            .arm(LOGGER_STOP_LIMITS[0], Timer::LoggerStop(owner));
    }

    // Logging programs.

    /// Starts a logging program and goes on, with its pid, when it is ready.
    pub fn start_logger(
        &mut self,
        uri: &LoggerUri,
        pipes: LoggerPipes,
        id: &str,
        then: LoggerStep,
    ) {
        let starting = match Starting::spawn(uri, pipes, id, &self.namespace) {
            Ok(starting) => starting,
            Err(e) => {
                let e = io::Error::new(e.kind(), format!("failed to start binary process: {e}"));
                return then(self, Err(e));
            }
        };
        let key = self.new_id();
        let pid = starting.pid;
        self.on_child_exit(pid, move |shim, _| {
            shim.gone_loggers.insert(pid);
        });
        match self.events.add(&starting.ready, Token::LoggerReady(key)) {
            Err(e) => then(self, Err(e)),
            Ok(registration) => {
                let timer = self.events.arm(LOGGER_READY_LIMIT, Timer::LoggerReady(key));
                self.starting_loggers
                    .insert(key, (starting, registration, timer, then));
                self.check_logger(key, false);
            }
        }
    }

    pub fn check_logger(&mut self, key: u32, timed_out: bool) {
        let Some((starting, ..)) = self.starting_loggers.get(&key) else {
            return;
        };
        let readiness = match starting.readiness() {
            None if timed_out => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "logging binary was not ready in time",
            )),
            None => return,
            Some(readiness) => readiness,
        };
        let Some((starting, registration, timer, then)) = self.starting_loggers.remove(&key) else {
            return;
        };
        self.events.remove(&starting.ready, registration);
        self.events.disarm(timer);
        if readiness.is_err() {
            self.discard_logger(Some(starting.pid));
        }
        then(self, readiness.map(|()| starting.pid));
    }

    /// A logging program without a process to log for has to go.
    pub fn discard_logger(&mut self, logger: Option<i32>) {
        let Some(pid) = logger else { return };
        if !self.gone_loggers.remove(&pid) {
            kill(pid, libc::SIGKILL);
            self.on_child_exit(pid, |_, _| ());
        }
    }

    /// Follows the logging program of a process to its end.
    pub fn follow_logger(&mut self, owner: ProcessId, pid: i32) {
        if self.gone_loggers.remove(&pid) {
            if let Some(p) = self.processes.get_mut(&owner) {
                p.streams.logger = None;
            }
            return;
        }
        self.on_child_exit(pid, move |shim, status| {
            if status != 0 {
                warn!(
                    "logging program {pid} ended with {}",
                    crate::spawn::exit_code(status)
                );
            }
            let Some(p) = shim.processes.get_mut(&owner) else {
                return;
            };
            p.streams.logger = None;
            if let Some(step) = p.on_logger_exit.take() {
                step(shim);
            }
        });
    }

    /// It has seen the end of its input and is still there: SIGTERM, later SIGKILL.
    pub fn press_logger(&mut self, owner: ProcessId) {
        let Some(p) = self.processes.get_mut(&owner) else {
            return;
        };
        let (Some(pid), true) = (p.streams.logger, p.on_logger_exit.is_some()) else {
            return;
        };
        if !std::mem::replace(&mut p.streams.logger_told, true) {
            warn!("logging program {pid} did not end with its input: SIGTERM");
            kill(pid, libc::SIGTERM);
            self.events
                .arm(LOGGER_STOP_LIMITS[1], Timer::LoggerStop(owner));
        } else {
            warn!("logging program {pid} did not end: SIGKILL");
            kill(pid, libc::SIGKILL);
        }
    }
}

/// Signals a child that has not been reaped: its pid cannot be another's.
fn kill(pid: i32, signal: i32) {
    // SAFETY: sends a signal; no memory is passed.
    unsafe { libc::kill(pid, signal) };
}
