//! Where a copy goes to.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;

use super::fifo::OutputFifo;
use super::stream::{self, Stream};
use super::uri::Target;

pub struct Sink {
    end: End,
    /// Whether splice can move pages into it: pipes, not appended files, not terminals.
    pub splices: bool,
    /// Whether the kernel can tell when it has room again; files always have.
    pub pollable: bool,
    is_terminal: bool,
}

enum End {
    Fifo(OutputFifo),
    Fd(OwnedFd),
    Stream(stream::End),
}

impl Sink {
    /// Opens a path or a file, or takes a stream.
    pub fn open(target: &Target, streams: &stream::Table) -> io::Result<Self> {
        match target {
            Target::Path(path) => match OutputFifo::open(path)? {
                Some(fifo) => Ok(Self {
                    end: End::Fifo(fifo),
                    splices: true,
                    pollable: true,
                    is_terminal: false,
                }),
                None => Self::file(path, OpenOptions::new().append(true)),
            },
            Target::LogFile(path) => {
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                Self::file(path, OpenOptions::new().append(true).create(true))
            }
            Target::Stream(id) => Ok(Self {
                end: End::Stream(stream::take_output(streams, id)?),
                splices: false,
                pollable: false,
                is_terminal: false,
            }),
            Target::Null => Self::file(Path::new("/dev/null"), OpenOptions::new().write(true)),
            Target::Logger(uri) => {
                let text = format!("{} is a program, not a file", uri.path);
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
        }
    }

    fn file(path: &Path, options: &OpenOptions) -> io::Result<Self> {
        let fd = OwnedFd::from(options.open(path)?);
        let kind = FileType::from_raw_mode(fstat(&fd)?.st_mode);
        let pollable = !matches!(kind, FileType::RegularFile | FileType::Directory)
            && !path.starts_with("/dev/null");
        if pollable {
            set_nonblocking(&fd)?;
        }
        Ok(Self {
            end: End::Fd(fd),
            splices: false,
            pollable,
            is_terminal: false,
        })
    }

    /// The write end of a pipe.
    pub fn pipe(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self {
            end: End::Fd(fd),
            splices: true,
            pollable: true,
            is_terminal: false,
        })
    }

    pub fn terminal(master: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&master)?;
        Ok(Self {
            end: End::Fd(master),
            splices: false,
            pollable: true,
            is_terminal: true,
        })
    }

    /// Passes the end of input on. A pipe ends when it is closed; a terminal is told by its own end
    /// of file character, if it reads lines.
    pub fn end_of_input(&self) {
        if !self.is_terminal {
            return;
        }
        if let Some(fd) = self.fd()
            && let Ok(termios) = rustix::termios::tcgetattr(fd)
            && termios
                .local_modes
                .contains(rustix::termios::LocalModes::ICANON)
        {
            let eof = termios.special_codes[rustix::termios::SpecialCodeIndex::VEOF];
            let _ = rustix::io::write(fd, &[eof]);
        }
    }

    /// Whether anybody ever opened it to read, as far as can be told; `written` bytes went into it.
    pub fn was_opened(&mut self, written: u64) -> bool {
        match &mut self.end {
            End::Fifo(fifo) => fifo.was_opened(written),
            End::Fd(_) | End::Stream(_) => true,
        }
    }

    /// Whether anybody may still read what is written. Only a FIFO or a stream can have nobody.
    pub fn has_reader(&mut self) -> bool {
        match &mut self.end {
            End::Fifo(fifo) => fifo.has_foreign_reader(),
            End::Fd(_) => true,
            End::Stream(end) => end.0.is_open(),
        }
    }

    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.end {
            End::Fifo(fifo) => Some(fifo.writer().as_fd()),
            End::Fd(fd) => Some(fd.as_fd()),
            End::Stream(_) => None,
        }
    }

    pub fn stream(&self) -> Option<&Stream> {
        match &self.end {
            End::Stream(end) => Some(&end.0),
            _ => None,
        }
    }

    pub fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match &self.end {
            End::Fifo(fifo) => rustix::io::write(fifo.writer(), bytes),
            End::Fd(fd) => rustix::io::write(fd, bytes),
            End::Stream(end) => end.0.write(bytes),
        }
    }
}

pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}
