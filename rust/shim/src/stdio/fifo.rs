//! FIFOs, opened so that neither side waits for the other.
//!
//! Opening one end of a FIFO blocks, or fails, until somebody has the other. So the shim first
//! opens the other end itself, without blocking, and keeps both: a client may come, go and come
//! back; its absence is never an end of file, nor a broken pipe.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;

const NONBLOCK: OFlags = OFlags::NONBLOCK.union(OFlags::CLOEXEC);

/// The client's input. The write end kept here is what `CloseIO` closes: once the client's own is
/// closed too, the reader finds the end after the last byte.
pub struct StdinFifo {
    reader: Option<OwnedFd>,
    keeper: Option<OwnedFd>,
}

impl StdinFifo {
    pub fn open(path: &str) -> io::Result<Self> {
        let reader = open(path, OFlags::RDONLY | NONBLOCK, Mode::empty())?;
        let is_fifo = FileType::from_raw_mode(fstat(&reader)?.st_mode) == FileType::Fifo;
        let keeper = is_fifo
            .then(|| open(path, OFlags::WRONLY | NONBLOCK, Mode::empty()))
            .transpose()?;
        if is_fifo {
            let _ = rustix::pipe::fcntl_setpipe_size(&reader, super::PIPE_SIZE);
        }
        Ok(Self {
            reader: Some(reader),
            keeper,
        })
    }

    /// The end to copy from; there is one, for one copy.
    pub fn take_reader(&mut self) -> io::Result<OwnedFd> {
        self.reader
            .take()
            .ok_or_else(|| io::Error::other("stdin is being read already"))
    }

    /// Lets the end of input come, after all that was written.
    pub fn close(&mut self) {
        self.keeper = None;
    }
}

/// The client's side of an output: both ends of the FIFO.
pub struct OutputFifo {
    writer: OwnedFd,
    reader: Option<OwnedFd>,
    /// Whether somebody else was seen to have opened it for reading.
    opened: bool,
}

impl OutputFifo {
    /// Opens the FIFO at `path`; None if something else is there.
    pub fn open(path: &std::path::Path) -> io::Result<Option<Self>> {
        match rustix::fs::stat(path) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo => {}
            Ok(_) | Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        // The kernel refuses a writer without a reader; one whose `open` still waits is a reader.
        let first = open(path, OFlags::WRONLY | NONBLOCK, Mode::empty());
        let opened = first.is_ok();
        let reader = open(path, OFlags::RDONLY | NONBLOCK, Mode::empty())?;
        let writer = match first {
            Ok(writer) => writer,
            Err(_) => open(path, OFlags::WRONLY | NONBLOCK, Mode::empty())?,
        };
        let _ = rustix::pipe::fcntl_setpipe_size(&writer, super::PIPE_SIZE);
        Ok(Some(Self {
            writer,
            reader: Some(reader),
            opened,
        }))
    }

    pub fn writer(&self) -> &OwnedFd {
        &self.writer
    }

    /// Whether somebody else has, or had, the FIFO open for reading, as far as can be told: when it was
    /// opened here, or now, or there is less in it than the `written` bytes.
    ///
    /// Once both ends kept here are closed, its content is gone, and an `open` that comes later waits
    /// for ever.
    pub fn was_opened(&mut self, written: u64) -> bool {
        if !self.opened {
            let held = rustix::io::ioctl_fionread(&self.writer).unwrap_or(0);
            self.opened = held < written || self.has_foreign_reader();
        }
        self.opened
    }

    /// Whether anybody but this process has the FIFO open for reading.
    ///
    /// The kernel tells a writer only whether there are readers at all, so the one of ours is closed
    /// for the question. Nothing is lost: the write end keeps the content.
    pub fn has_foreign_reader(&mut self) -> bool {
        self.reader = None;
        let mut fds = [PollFd::new(&self.writer, PollFlags::OUT)];
        let polled = poll(
            &mut fds,
            Some(&rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        );
        let alone = polled.is_ok() && fds[0].revents().contains(PollFlags::ERR);
        // By descriptor: the client may have removed the name.
        let path = format!("/proc/self/fd/{}", self.writer.as_fd().as_raw_fd());
        self.reader = open(path, OFlags::RDONLY | NONBLOCK, Mode::empty()).ok();
        !alone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, mknodat};
    use std::path::PathBuf;

    fn make(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("shim-fifo-{}-{name}", std::process::id()));
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        path
    }

    #[test]
    fn input_ends_only_after_close_and_the_last_byte() {
        let _no_forks = crate::spawn::forks::none();
        let path = make("in");
        let mut fifo = StdinFifo::open(path.to_str().unwrap()).unwrap();
        let reader = fifo.take_reader().unwrap();
        let mut byte = [0; 8];
        let mut read = || rustix::io::read(&reader, &mut byte).map(|n| byte[..n].to_vec());
        assert_eq!(read(), Err(Errno::AGAIN), "no client yet: no end");
        let client = open(&path, OFlags::WRONLY | NONBLOCK, Mode::empty()).unwrap();
        rustix::io::write(&client, b"ab").unwrap();
        drop(client);
        assert_eq!(read(), Ok(b"ab".to_vec()));
        assert_eq!(read(), Err(Errno::AGAIN), "the client went: no end");
        let client = open(&path, OFlags::WRONLY | NONBLOCK, Mode::empty()).unwrap();
        fifo.close();
        assert_eq!(read(), Err(Errno::AGAIN), "closed, but a client is writing");
        rustix::io::write(&client, b"c").unwrap();
        drop(client);
        assert_eq!(read(), Ok(b"c".to_vec()));
        assert_eq!(read(), Ok(vec![]));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_reader_is_noticed_and_content_survives_the_question() {
        let _no_forks = crate::spawn::forks::none();
        let path = make("out");
        let mut fifo = OutputFifo::open(&path).unwrap().unwrap();
        rustix::io::write(fifo.writer(), b"kept").unwrap();
        assert!(!fifo.has_foreign_reader());
        let client = open(&path, OFlags::RDONLY | NONBLOCK, Mode::empty()).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(fifo.has_foreign_reader());
        assert!(fifo.was_opened(4));
        let mut bytes = [0; 8];
        assert_eq!(rustix::io::read(&client, &mut bytes), Ok(4));
        drop(client);
        assert!(!fifo.has_foreign_reader());
        rustix::io::write(fifo.writer(), b"no broken pipe").unwrap();
    }

    #[test]
    fn a_reader_that_waits_already_has_opened() {
        let path = make("waits");
        let file = path.clone();
        let client = std::thread::spawn(move || {
            let client = open(&file, OFlags::RDONLY, Mode::empty()).unwrap();
            rustix::io::read(&client, &mut [0; 8]).unwrap()
        });
        // Until its reader waits: that is when a writer is let in.
        let waits = || open(&path, OFlags::WRONLY | NONBLOCK, Mode::empty());
        let mut fifo = loop {
            if let Ok(_writer) = waits() {
                break OutputFifo::open(&path).unwrap().unwrap();
            }
            std::thread::yield_now();
        };
        assert!(fifo.opened && fifo.was_opened(0));
        rustix::io::write(fifo.writer(), b"x").unwrap();
        drop(fifo);
        assert_eq!(client.join().unwrap(), 1);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_reader_that_came_and_went_leaves_a_trace_if_it_read() {
        let path = make("trace");
        let mut fifo = OutputFifo::open(&path).unwrap().unwrap();
        rustix::io::write(fifo.writer(), b"kept").unwrap();
        assert!(!fifo.was_opened(4));
        let client = open(&path, OFlags::RDONLY | NONBLOCK, Mode::empty()).unwrap();
        rustix::io::read(&client, &mut [0; 1]).unwrap();
        drop(client);
        assert!(fifo.was_opened(4));
        std::fs::remove_file(path).unwrap();
    }
}
