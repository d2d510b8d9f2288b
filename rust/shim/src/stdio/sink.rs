//! Where a copy goes to.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags, fstat};

use super::fifo::OutputFifo;
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
}

impl Sink {
    /// Opens a path or a file.
    pub fn open(target: &Target) -> io::Result<Self> {
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
        if let Ok(termios) = rustix::termios::tcgetattr(self.as_fd())
            && termios
                .local_modes
                .contains(rustix::termios::LocalModes::ICANON)
        {
            let eof = termios.special_codes[rustix::termios::SpecialCodeIndex::VEOF];
            let _ = rustix::io::write(self.as_fd(), &[eof]);
        }
    }

    /// Whether anybody may still read what is written. Only a FIFO can have nobody.
    pub fn has_reader(&mut self) -> bool {
        match &mut self.end {
            End::Fifo(fifo) => fifo.has_foreign_reader(),
            End::Fd(_) => true,
        }
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.end {
            End::Fifo(fifo) => fifo.writer().as_fd(),
            End::Fd(fd) => fd.as_fd(),
        }
    }
}

pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}
