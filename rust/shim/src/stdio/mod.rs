//! Standard streams: from what a request names to descriptors and copies between them.
//!
//! A stream is a FIFO the client made (a bare path), a file (`file://PATH`, or the bare path of
//! something that is no FIFO), a logging program (`binary://PATH?args`), a stream over ttrpc
//! (`ttrpc+unix://…?streaming_id=ID`), or nothing. The process itself gets anonymous pipes, or a terminal; [`pump::Pump`]s copy between the two.

mod fifo;
pub mod logger;
pub mod pump;
pub mod sink;
pub mod stream;
mod uri;

use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use self::fifo::StdinFifo;
use self::logger::LoggerPipes;
use self::pump::{Pump, Source};
use self::sink::Sink;
pub use self::uri::{LoggerUri, Target};
use crate::runtime::{ProcessIo, Streams};

/// Room asked for between a process and its reader, in bytes. Larger pipes mean fewer turns of the
/// loop for the same output; the kernel may grant less.
const PIPE_SIZE: usize = 256 << 10;

/// The streams as a request names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

/// The client's input.
pub enum Stdin {
    Fifo(StdinFifo),
    Stream(stream::Stream, Option<stream::End>),
}

impl Stdin {
    fn open(name: &str, streams: &stream::Table) -> io::Result<Self> {
        if let Target::Stream(id) = Target::parse(name)? {
            let end = stream::take_input(streams, &id)?;
            return Ok(Self::Stream(end.0.clone(), Some(end)));
        }
        Ok(Self::Fifo(StdinFifo::open(name)?))
    }

    /// Where to copy from; there is one, for one copy.
    fn take_source(&mut self) -> io::Result<Source> {
        match self {
            Self::Fifo(fifo) => Source::pipe(fifo.take_reader()?),
            Self::Stream(_, end) => match end.take() {
                Some(end) => Ok(Source::Stream(end)),
                None => Err(io::Error::other("stdin is being read already")),
            },
        }
    }

    /// Lets the end of input come, after all that was written.
    pub fn close(&mut self) {
        match self {
            Self::Fifo(fifo) => fifo.close(),
            Self::Stream(stream, _) => stream.close_input(),
        }
    }
}

/// Everything that is open before the process exists.
pub struct Prepared {
    /// What the runtime gives the process.
    pub io: ProcessIo,
    pub stdin: Option<Stdin>,
    /// Copies that can run at once; a terminal's begin when its master has come.
    pub input: Option<Pump>,
    pub outputs: Vec<Pump>,
    /// The logging program to start first, with the ends it reads from.
    pub logger: Option<(LoggerUri, LoggerPipes)>,
    terminal_sink: Option<Sink>,
}

impl Prepared {
    /// Opens the client's sides and makes the process's. Never blocks, whoever is not there yet.
    pub fn open(stdio: &Stdio, owner: (u32, u32), streams: &stream::Table) -> io::Result<Self> {
        let target = Target::parse(&stdio.stdout)?;
        let stdin = match stdio.stdin.as_str() {
            "" => None,
            name => Some(Stdin::open(name, streams).map_err(|e| named("stdin", name, &e))?),
        };
        let mut prepared = Self {
            io: ProcessIo::Terminal,
            stdin,
            input: None,
            outputs: Vec::new(),
            logger: None,
            terminal_sink: None,
        };
        if stdio.terminal {
            prepared.open_terminal(target, &stdio.stdout, streams)?;
        } else {
            prepared.open_pipes(target, stdio, owner, streams)?;
        }
        Ok(prepared)
    }

    fn open_terminal(
        &mut self,
        target: Target,
        name: &str,
        streams: &stream::Table,
    ) -> io::Result<()> {
        self.terminal_sink = Some(match target {
            Target::Logger(uri) => {
                let (out_read, out_write) = pipe()?;
                // A terminal has one stream; the program still gets a second, at its end.
                let (err_read, _) = pipe()?;
                self.logger = Some((
                    uri,
                    LoggerPipes {
                        stdout: out_read,
                        stderr: err_read,
                    },
                ));
                Sink::pipe(out_write)?
            }
            other => Sink::open(&other, streams).map_err(|e| named("stdout", name, &e))?,
        });
        Ok(())
    }

    fn open_pipes(
        &mut self,
        target: Target,
        stdio: &Stdio,
        owner: (u32, u32),
        table: &stream::Table,
    ) -> io::Result<()> {
        let mut streams = Streams::default();
        if let Some(stdin) = &mut self.stdin {
            let (read, write) = process_pipe(owner, true)?;
            streams.stdin = Some(read);
            self.input = Some(Pump::new(stdin.take_source()?, Sink::pipe(write)?));
        }
        match target {
            Target::Logger(uri) => {
                // The program reads what the process writes: nothing to copy here.
                let (out_read, out_write) = pipe()?;
                let (err_read, err_write) = pipe()?;
                streams.stdout = Some(out_write);
                streams.stderr = Some(err_write);
                self.logger = Some((
                    uri,
                    LoggerPipes {
                        stdout: out_read,
                        stderr: err_read,
                    },
                ));
            }
            target => {
                let stderr = match &target {
                    // A log file is for both streams.
                    Target::LogFile(_) => target.clone(),
                    _ => Target::parse(&stdio.stderr)?,
                };
                if let Some((write, pump)) =
                    output(&target, owner, table).map_err(|e| named("stdout", &stdio.stdout, &e))?
                {
                    streams.stdout = Some(write);
                    self.outputs.push(pump);
                }
                if let Some((write, pump)) =
                    output(&stderr, owner, table).map_err(|e| named("stderr", &stdio.stderr, &e))?
                {
                    streams.stderr = Some(write);
                    self.outputs.push(pump);
                }
            }
        }
        self.io = ProcessIo::Pipes(streams);
        Ok(())
    }

    /// Makes the copies of a terminal, now that its master is there.
    pub fn attach_terminal(&mut self, master: &OwnedFd) -> io::Result<()> {
        if let Some(sink) = self.terminal_sink.take() {
            self.outputs
                .push(Pump::new(Source::terminal(master.try_clone()?)?, sink));
        }
        if let Some(stdin) = &mut self.stdin {
            let source = stdin.take_source()?;
            self.input = Some(Pump::new(source, Sink::terminal(master.try_clone()?)?));
        }
        Ok(())
    }
}

fn output(
    target: &Target,
    owner: (u32, u32),
    streams: &stream::Table,
) -> io::Result<Option<(OwnedFd, Pump)>> {
    if *target == Target::Null {
        return Ok(None);
    }
    let sink = Sink::open(target, streams)?;
    let (read, write) = process_pipe(owner, false)?;
    Ok(Some((write, Pump::new(Source::pipe(read)?, sink))))
}

/// A pipe for a process; its end belongs to the user the options name, so that a process that is
/// not root can open `/dev/stdout` again.
fn process_pipe(owner: (u32, u32), input: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe()?;
    if owner != (0, 0) {
        let end = if input { &read } else { &write };
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(owner.0),
            rustix::fs::Gid::from_raw(owner.1),
        );
        rustix::fs::fchown(end, Some(uid), Some(gid))?;
    }
    Ok((read, write))
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let _ = fcntl_setpipe_size(&write, PIPE_SIZE);
    Ok((read, write))
}

fn named(stream: &str, name: &str, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("containerd-shim: opening {stream} {name:?} failed: {error}"),
    )
}
