//! The one place that waits: epoll, timers, and a list of sources that have more to do.
//!
//! Sources are registered edge-triggered. Whoever handles a source works until the kernel says
//! EAGAIN, or, when its share of the turn is used up, puts its token back with [`EventLoop::again`].
//! Registrations have numbers that are never used twice, so an event of a source that was removed
//! earlier in the same turn finds nobody and is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll;

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Token {
    Signals,
    Listener,
    Connection(u32),
    Publisher,
    Pump(u32),
    LoggerReady(u32),
    Oom(u32),
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A request's own deadline.
    Deadline {
        connection: u32,
        stream: u32,
    },
    /// An exited process whose output is still being copied: is it moving at all?
    Drain(u32),
    /// Init has ended, and execs of its container have not.
    Execs(u32),
    LoggerReady(u32),
    LoggerStop(u32),
    PublishRetry,
    PublishTimeout,
    Accept,
    /// A sandbox's members have had the time they were given to end.
    SandboxKill,
    /// They did not end, or could not be deleted.
    SandboxGiveUp,
    /// Nothing to supervise and nobody connected: leave.
    Idle,
    /// Give freed memory back once things are quiet.
    Trim,
}

pub type TimerId = (Instant, u64);
pub type Registration = u64;

pub struct EventLoop {
    epoll: OwnedFd,
    sources: BTreeMap<Registration, Token>,
    timers: BTreeMap<TimerId, Timer>,
    again: VecDeque<Token>,
    next_id: u64,
}

impl EventLoop {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            sources: BTreeMap::new(),
            timers: BTreeMap::new(),
            again: VecDeque::new(),
            next_id: 1,
        })
    }

    /// Watches `fd` for reading and writing, edge-triggered.
    pub fn add(&mut self, fd: impl AsFd, token: Token) -> io::Result<Registration> {
        let id = self.next_id;
        self.next_id += 1;
        epoll::add(
            &self.epoll,
            fd,
            epoll::EventData::new_u64(id),
            epoll::EventFlags::IN
                | epoll::EventFlags::OUT
                | epoll::EventFlags::RDHUP
                | epoll::EventFlags::ET,
        )?;
        self.sources.insert(id, token);
        Ok(id)
    }

    /// Stops watching. The kernel forgets the descriptor when it is closed, unless it was
    /// duplicated into a child; so it is taken out here, before the owner closes it.
    pub fn remove(&mut self, fd: impl AsFd, id: Registration) {
        if self.sources.remove(&id).is_some() {
            let _ = epoll::delete(&self.epoll, fd);
        }
    }

    /// Serves `token` again in the next turn, whatever epoll says.
    pub fn again(&mut self, token: Token) {
        if !self.again.contains(&token) {
            self.again.push_back(token);
        }
    }

    pub fn arm(&mut self, after: Duration, timer: Timer) -> TimerId {
        let id = (Instant::now() + after, self.next_id);
        self.next_id += 1;
        self.timers.insert(id, timer);
        id
    }

    pub fn disarm(&mut self, id: TimerId) {
        self.timers.remove(&id);
    }

    /// Waits for the next events and due timers; `limit` bounds the wait.
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<(Vec<Token>, Vec<Timer>)> {
        let now = Instant::now();
        let mut timeout = limit;
        if !self.again.is_empty() {
            timeout = Some(Duration::ZERO);
        } else if let Some(((due, _), _)) = self.timers.first_key_value() {
            let left = due.saturating_duration_since(now);
            timeout = Some(timeout.map_or(left, |t| t.min(left)));
        }
        let timeout = timeout.map(|t| rustix::event::Timespec {
            tv_sec: t.as_secs().min(1 << 30) as i64,
            tv_nsec: t.subsec_nanos().into(),
        });
        let mut buffer = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 64];
        let ready = match epoll::wait(&self.epoll, &mut buffer, timeout.as_ref()) {
            Ok((events, _)) => &*events,
            Err(rustix::io::Errno::INTR) => &[],
            Err(e) => return Err(e.into()),
        };
        let mut tokens: Vec<Token> = self.again.drain(..).collect();
        for event in ready {
            if let Some(token) = self.sources.get(&event.data.u64())
                && !tokens.contains(token)
            {
                tokens.push(*token);
            }
        }
        let now = Instant::now();
        let mut due = Vec::new();
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            due.push(entry.remove());
        }
        Ok((tokens, due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_removed_source_is_silent_and_numbers_are_not_reused() {
        let mut events = EventLoop::new().unwrap();
        let (a, mut b) = UnixStream::pair().unwrap();
        let first = events.add(&a, Token::Pump(1)).unwrap();
        b.write_all(b"x").unwrap();
        assert_eq!(
            events.wait(Some(Duration::ZERO)).unwrap().0,
            [Token::Pump(1)]
        );
        events.remove(&a, first);
        b.write_all(b"x").unwrap();
        assert!(events.wait(Some(Duration::ZERO)).unwrap().0.is_empty());
        let second = events.add(&a, Token::Pump(2)).unwrap();
        assert_ne!(first, second);
        assert_eq!(
            events.wait(Some(Duration::ZERO)).unwrap().0,
            [Token::Pump(2)]
        );
    }

    #[test]
    fn timers_fire_in_order_and_can_be_disarmed() {
        let mut events = EventLoop::new().unwrap();
        let gone = events.arm(Duration::ZERO, Timer::Accept);
        let later = Instant::now() + Duration::from_millis(2);
        events.arm(Duration::from_millis(2), Timer::Idle);
        events.arm(Duration::ZERO, Timer::Trim);
        let in_time = Instant::now() < later;
        events.disarm(gone);
        let mut due = Vec::new();
        while due.len() < 2 {
            due.extend(events.wait(None).unwrap().1);
        }
        if !in_time {
            due.reverse(); // the second was armed when the first was due
        }
        assert_eq!(due, [Timer::Trim, Timer::Idle]);
    }

    #[test]
    fn a_token_put_back_comes_without_an_event() {
        let mut events = EventLoop::new().unwrap();
        events.again(Token::Pump(7));
        events.again(Token::Pump(7));
        assert_eq!(events.wait(None).unwrap().0, [Token::Pump(7)]);
        assert!(events.wait(Some(Duration::ZERO)).unwrap().0.is_empty());
    }
}
