//! Owners mapped for one mount: the ranges, and a user namespace that has them.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::error::{Error, Result};

/// Owners as they are on disk, and as they show on the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// Of users.
    pub uids: Vec<IdRange>,
    /// Of groups.
    pub gids: Vec<IdRange>,
}

/// `length` consecutive IDs from `inside` on show as those from `outside` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First ID on disk (of the container).
    pub inside: u32,
    /// First ID on the mount (of the host).
    pub outside: u32,
    /// How many.
    pub length: u32,
}

impl IdMap {
    /// Reads `container:host:length[,…]` for users and for groups.
    ///
    /// # Errors
    /// [`Error::InvalidOption`].
    pub fn parse(uids: &str, gids: &str) -> Result<Self> {
        Ok(Self {
            uids: ranges("uidmap", uids)?,
            gids: ranges("gidmap", gids)?,
        })
    }

    /// A user namespace with this mapping; it lives as long as the descriptor or a mount that uses it.
    ///
    /// # Errors
    /// [`Error::Io`], e.g. where user namespaces are switched off.
    pub fn user_namespace(&self) -> Result<OwnedFd> {
        // The namespace is born with a process, which waits until we hold the namespace ourselves.
        let (hold, release) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::io("pipe", "user namespace", e))?;
        let child = Child::in_user_namespace(hold, &release)?;
        let proc = |name: &str| format!("/proc/{}/{name}", child.pid);
        for (name, ranges) in [("uid_map", &self.uids), ("gid_map", &self.gids)] {
            // The kernel takes the whole map in one write or refuses it.
            let path = proc(name);
            std::fs::write(&path, lines(ranges))
                .map_err(|e| Error::io("write", format!("{path} ({self})"), e))?;
        }
        let path = proc("ns/user");
        let user_ns = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        drop(release);
        Ok(user_ns.into())
    }
}

impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |ranges: &[IdRange]| {
            let ranges: Vec<_> = ranges
                .iter()
                .map(|r| format!("{}:{}:{}", r.inside, r.outside, r.length))
                .collect();
            ranges.join(",")
        };
        write!(f, "uidmap={} gidmap={}", text(&self.uids), text(&self.gids))
    }
}

fn ranges(key: &str, text: &str) -> Result<Vec<IdRange>> {
    text.split(',')
        .map(|part| {
            let numbers: Option<Vec<u32>> = part.split(':').map(|n| n.parse().ok()).collect();
            match numbers.as_deref() {
                Some(&[inside, outside, length]) if length > 0 => Ok(IdRange {
                    inside,
                    outside,
                    length,
                }),
                _ => Err(Error::option(
                    format!("{key}={text}"),
                    "expected container:host:length[,…], each a number of 32 bits, length at least 1",
                )),
            }
        })
        .collect()
}

fn lines(ranges: &[IdRange]) -> String {
    ranges
        .iter()
        .map(|r| format!("{} {} {}\n", r.inside, r.outside, r.length))
        .collect()
}

/// A process that does nothing but be in a new user namespace. Dropping it waits for its end.
struct Child {
    pid: libc::pid_t,
    pidfd: OwnedFd,
}

impl Child {
    /// Its life ends when the last write end of `hold`'s pipe is closed: at the latest with our own.
    fn in_user_namespace(hold: OwnedFd, release: &OwnedFd) -> Result<Self> {
        use std::os::fd::AsRawFd;
        let (hold_fd, release_fd) = (hold.as_raw_fd(), release.as_raw_fd());
        let mut pidfd: libc::c_int = -1;
        // SAFETY: all-zero is a valid clone_args; absent fields mean their defaults.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = (libc::CLONE_NEWUSER | libc::CLONE_PIDFD) as u64;
        args.pidfd = (&raw mut pidfd) as u64;
        // No exit signal: neither a SIGCHLD handler nor a reaper of this process takes notice of it.
        args.exit_signal = 0;
        // SAFETY: without CLONE_VM this is a fork. The child may be a copy of a multi-threaded process, so
        // it makes raw system calls only, allocates nothing, takes no lock, and never returns.
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone3,
                &raw const args,
                std::mem::size_of::<libc::clone_args>(),
            )
        };
        match pid {
            0 => {
                let mut byte = 0u8;
                // SAFETY: raw system calls on our own copies of the descriptors and a local byte.
                unsafe {
                    libc::syscall(libc::SYS_close, release_fd);
                    while libc::syscall(libc::SYS_read, hold_fd, &raw mut byte, 1) < 0
                        && *libc::__errno_location() == libc::EINTR
                    {}
                    libc::syscall(libc::SYS_exit_group, 0);
                }
                unreachable!("exit_group does not return")
            }
            pid if pid > 0 => {
                drop(hold);
                Ok(Self {
                    pid: pid as libc::pid_t,
                    // SAFETY: the kernel has just put this descriptor there, and we are its only owner.
                    pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
                })
            }
            _ => Err(Error::io(
                "clone3",
                "user namespace",
                io::Error::last_os_error(),
            )),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Without a signal it could wait for a write end that another process inherited.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
        // Children without an exit signal are found with __WALL only.
        let options = WaitIdOptions::EXITED | WaitIdOptions::from_bits_retain(libc::__WALL as u32);
        let _ = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.pidfd.as_fd()), options));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_in_order() {
        let map = IdMap::parse("0:1000:1,1:100000:65535", "0:0:4294967295").unwrap();
        assert_eq!(
            map.uids[1],
            IdRange {
                inside: 1,
                outside: 100_000,
                length: 65535
            }
        );
        assert_eq!(
            map.to_string(),
            "uidmap=0:1000:1,1:100000:65535 gidmap=0:0:4294967295"
        );
    }

    #[test]
    fn a_wrong_range_is_named_with_what_is_expected() {
        for wrong in [
            "",
            "1",
            "0:1",
            "0:1:0",
            "0:1:2:3",
            "-1:0:1",
            "a:b:c",
            "0:0:4294967296",
        ] {
            let error = IdMap::parse(wrong, "0:0:1").unwrap_err().to_string();
            assert!(error.contains(&format!("\"uidmap={wrong}\"")), "{error}");
            assert!(error.contains("container:host:length"), "{error}");
        }
    }
}
