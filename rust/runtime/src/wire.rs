//! What the new process and its maker tell each other: a closed set of short messages.

use std::os::fd::{OwnedFd, RawFd};

use crate::sys::{self, Errno, Result};

/// Where the new process was when something failed. `index` of the failure says at which item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    JoinNamespace,
    TimeOffsets,
    Clone,
    Handshake,
    Cgroup,
    CgroupNamespace,
    Identity,
    Session,
    Keyring,
    Loopback,
    NetDevice,
    Hostname,
    Domainname,
    Sysctl,
    OomScore,
    Rlimit,
    Scheduler,
    IoPriority,
    Affinity,
    Personality,
    MemoryPolicy,
    RootPropagation,
    Rootfs,
    MountTarget,
    MountGuard,
    Mount,
    MountAttributes,
    CopyUp,
    Device,
    DeviceLink,
    CreateContainerHook,
    ReadonlyPath,
    MaskedPath,
    Terminal,
    Console,
    ReadonlyRoot,
    Pivot,
    Cwd,
    CwdOutside,
    Label,
    Stdio,
    Groups,
    User,
    Capabilities,
    NoNewPrivileges,
    Executable,
    NotInPath,
    StartContainerHook,
    Seccomp,
    Listener,
    Exec,
    Unknown,
}

impl Step {
    const LAST: u8 = Step::Unknown as u8;

    fn from_byte(byte: u8) -> Self {
        if byte > Self::LAST {
            return Step::Unknown;
        }
        // SAFETY: the enum is a byte without gaps from 0 to LAST.
        unsafe { std::mem::transmute::<u8, Step>(byte) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    pub step: Step,
    pub index: u32,
    pub errno: Errno,
}

impl Failure {
    pub fn at(step: Step, errno: Errno) -> Self {
        Self {
            step,
            index: 0,
            errno,
        }
    }
}

/// From the new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The process between has made the real one, with this id.
    Forked(i32),
    /// It is in its new user namespace and needs its maps; answered.
    Identity,
    /// All is mounted, the root is not changed yet; answered when the hooks have run.
    BeforePivot,
    /// The terminal's master comes along.
    Console,
    /// It waits for the start, or is about to become the program.
    Ready,
    /// The seccomp listener has this number there; answered.
    Listener(i32),
    Failed(Failure),
    /// It is in its network namespace: the device of this place in the list may come, as this number;
    /// answered.
    NetDevice(u32, u32),
}

const SIZE: usize = 12;

impl Message {
    fn encode(self) -> [u8; SIZE] {
        let (kind, step, index, number) = match self {
            Message::Forked(pid) => (0, 0, 0, pid),
            Message::Identity => (1, 0, 0, 0),
            Message::BeforePivot => (2, 0, 0, 0),
            Message::Console => (3, 0, 0, 0),
            Message::Ready => (4, 0, 0, 0),
            Message::Listener(fd) => (5, 0, 0, fd),
            Message::Failed(f) => (6, f.step as u8, f.index, f.errno.0),
            Message::NetDevice(place, number) => (7, 0, place, number as i32),
        };
        let mut bytes = [0; SIZE];
        bytes[0] = kind;
        bytes[1] = step;
        bytes[4..8].copy_from_slice(&index.to_ne_bytes());
        bytes[8..].copy_from_slice(&number.to_ne_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SIZE]) -> Result<Self> {
        let index = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let number = i32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        Ok(match bytes[0] {
            0 => Message::Forked(number),
            1 => Message::Identity,
            2 => Message::BeforePivot,
            3 => Message::Console,
            4 => Message::Ready,
            5 => Message::Listener(number),
            6 => Message::Failed(Failure {
                step: Step::from_byte(bytes[1]),
                index,
                errno: Errno(number),
            }),
            7 => Message::NetDevice(index, number as u32),
            _ => return Err(Errno(libc::EBADMSG)),
        })
    }

    pub fn send(self, socket: RawFd, fd: Option<RawFd>) -> Result<()> {
        sys::send(socket, &self.encode(), fd)
    }

    /// By `write`: a filter that is already loaded allows it before anything else.
    pub fn write(self, socket: RawFd) -> Result<()> {
        sys::write(socket, &self.encode()).map(drop)
    }

    /// The next message, or nothing when the other side is gone.
    pub fn receive(socket: RawFd) -> Result<Option<(Self, Option<OwnedFd>)>> {
        let mut bytes = [0; SIZE];
        match sys::receive(socket, &mut bytes) {
            Ok((SIZE, fd)) => Ok(Some((Self::decode(&bytes)?, fd))),
            Ok((0, _)) | Err(Errno(libc::ECONNRESET)) => Ok(None),
            Ok(_) => Err(Errno(libc::EBADMSG)),
            // The limit that the socket may have.
            Err(Errno(libc::EAGAIN)) => Err(Errno(libc::ETIMEDOUT)),
            Err(e) => Err(e),
        }
    }
}

/// The maker's answer: go on.
pub fn answer(socket: RawFd) -> Result<()> {
    sys::send(socket, b"g", None)
}

/// Waits for the answer. A maker that is gone is a broken pipe.
pub fn wait_for_answer(socket: RawFd) -> Result<()> {
    match sys::read(socket, &mut [0])? {
        0 => Err(Errno(libc::EPIPE)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn every_message_arrives_as_it_was_sent() {
        let (a, b) = sys::socket_pair().unwrap();
        let failed = |step| {
            Message::Failed(Failure {
                step,
                index: 70_000,
                errno: Errno(libc::ENOENT),
            })
        };
        for message in [
            Message::Forked(7),
            Message::Identity,
            Message::BeforePivot,
            Message::Ready,
            Message::Listener(9),
            Message::NetDevice(3, 70_000),
            failed(Step::JoinNamespace),
            failed(Step::Exec),
        ] {
            message.send(a.as_raw_fd(), None).unwrap();
            let got = Message::receive(b.as_raw_fd()).unwrap().unwrap();
            assert_eq!(got.0, message);
            assert!(got.1.is_none());
        }
        Message::Console
            .send(a.as_raw_fd(), Some(a.as_raw_fd()))
            .unwrap();
        let got = Message::receive(b.as_raw_fd()).unwrap().unwrap();
        assert!(got.1.is_some());
        drop((a, got));
        assert!(Message::receive(b.as_raw_fd()).unwrap().is_none());
    }

    #[test]
    fn a_process_that_says_nothing_is_not_waited_for_without_end() {
        let (a, b) = sys::socket_pair().unwrap();
        let limit = std::time::Duration::from_millis(1);
        sys::limit_receiving(b.as_raw_fd(), limit).unwrap();
        let error = Message::receive(b.as_raw_fd()).unwrap_err();
        assert_eq!(error, Errno(libc::ETIMEDOUT));
        Message::Ready.send(a.as_raw_fd(), None).unwrap();
        assert!(Message::receive(b.as_raw_fd()).unwrap().is_some());
    }
}
