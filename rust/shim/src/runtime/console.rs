//! The console socket: a runtime sends the master of a container's terminal through it.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A listening socket in the bundle.
///
/// A bundle's path may be longer than a socket address can hold (108 bytes), so both sides go
/// through this process's descriptor of the directory.
pub struct ConsoleSocket {
    listener: UnixListener,
    directory: File,
    name: String,
}

impl ConsoleSocket {
    pub fn in_bundle(bundle: &Path) -> io::Result<Self> {
        let directory = File::open(bundle)?;
        let name = format!("pty-{}.sock", NEXT.fetch_add(1, Ordering::Relaxed));
        let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            directory,
            name,
        })
    }

    /// The path for another process of this user.
    pub fn path(&self) -> String {
        format!(
            "/proc/{}/fd/{}/{}",
            std::process::id(),
            self.directory.as_raw_fd(),
            self.name
        )
    }

    /// Takes the terminal's master. The runtime has sent it before it reported success, so it is
    /// there or will never be.
    pub fn receive(&self) -> io::Result<OwnedFd> {
        let (connection, _) = self.listener.accept().map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => io::Error::other("the runtime did not send its console"),
            _ => e,
        })?;
        let mut name = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        rustix::net::recvmsg(
            &connection,
            &mut [IoSliceMut::new(&mut name)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        )?;
        control
            .drain()
            .find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            })
            .ok_or_else(|| io::Error::other("the runtime's console message has no descriptor"))
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let path = format!("/proc/self/fd/{}/{}", self.directory.as_raw_fd(), self.name);
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    use std::io::{IoSlice, Read};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_comes_through_a_long_path() {
        let bundle = std::env::temp_dir()
            .join(format!("shim-console-{}", std::process::id()))
            .join("x".repeat(150));
        std::fs::create_dir_all(&bundle).unwrap();
        let socket = ConsoleSocket::in_bundle(&bundle).unwrap();
        assert!(
            socket
                .receive()
                .unwrap_err()
                .to_string()
                .contains("did not send")
        );

        let client = UnixStream::connect(socket.path()).unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [write.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        rustix::net::sendmsg(
            &client,
            &[IoSlice::new(b"/dev/ptmx")],
            &mut control,
            SendFlags::empty(),
        )
        .unwrap();
        drop(write);
        let got = socket.receive().unwrap();
        rustix::io::write(&got, b"hello").unwrap();
        drop(got);
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");

        drop(socket);
        assert_eq!(std::fs::read_dir(&bundle).unwrap().count(), 0);
        std::fs::remove_dir_all(bundle.parent().unwrap()).unwrap();
    }
}
