//! Logging programs (`binary://`): they read the container's output from descriptors 3 and 4 and
//! say on descriptor 5 when they are ready for it.

use std::io;
use std::os::fd::OwnedFd;

use super::uri::LoggerUri;
use crate::spawn::Spawn;

/// The ends a logging program reads.
pub struct LoggerPipes {
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// A program just started, and the pipe it will write to or close when it is ready.
pub struct Starting {
    pub pid: i32,
    pub ready: OwnedFd,
    strict: bool,
}

impl Starting {
    pub fn spawn(
        uri: &LoggerUri,
        pipes: LoggerPipes,
        id: &str,
        namespace: &str,
    ) -> io::Result<Self> {
        let (ready, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        super::sink::set_nonblocking(&ready)?;
        let mut spawn = Spawn::new(&uri.path)?;
        spawn.args(&uri.args)?;
        spawn.only_env(&[("CONTAINER_ID", id), ("CONTAINER_NAMESPACE", namespace)])?;
        spawn
            .fd(3, &pipes.stdout)?
            .fd(4, &pipes.stderr)?
            .fd(5, &tell)?;
        Ok(Self {
            pid: spawn.spawn()?,
            ready,
            strict: uri.strict,
        })
    }

    /// None while the program has said nothing.
    pub fn readiness(&self) -> Option<io::Result<()>> {
        let mut byte = [0];
        match rustix::io::read(&self.ready, &mut byte) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => None,
            Ok(0) if self.strict => Some(Err(io::Error::other(
                "logging binary did not call ready (it may have crashed or exited prematurely)",
            ))),
            Ok(_) => Some(Ok(())),
            Err(e) => Some(Err(io::Error::other(format!(
                "failed to read from logging binary: {e}"
            )))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::time::Duration;

    fn run(script: &str, strict: bool) -> (Starting, OwnedFd, OwnedFd) {
        let (out_read, out_write) = super::super::pipe().unwrap();
        let (err_read, err_write) = super::super::pipe().unwrap();
        let uri = LoggerUri {
            path: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            strict,
        };
        let pipes = LoggerPipes {
            stdout: out_read,
            stderr: err_read,
        };
        (
            Starting::spawn(&uri, pipes, "box", "ns").unwrap(),
            out_write,
            err_write,
        )
    }

    fn readiness(starting: &Starting) -> io::Result<()> {
        loop {
            if let Some(result) = starting.readiness() {
                return result;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn reap(pid: i32) -> u32 {
        let mut status = 0;
        // SAFETY: waits for a child of this test and writes to a live integer.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        crate::spawn::exit_code(status)
    }

    #[test]
    fn the_protocol_of_descriptors_three_to_five() {
        let path = std::env::temp_dir().join(format!("shim-logger-{}", std::process::id()));
        let script = format!(
            "printf . >&5; exec 5>&-; {{ echo $CONTAINER_NAMESPACE/$CONTAINER_ID; /bin/cat <&3; /bin/cat <&4; }} > {}",
            path.display()
        );
        let (starting, out, err) = run(&script, true);
        readiness(&starting).unwrap();
        File::from(out).write_all(b"out\n").unwrap();
        File::from(err).write_all(b"err\n").unwrap();
        assert_eq!(reap(starting.pid), 0);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "ns/box\nout\nerr\n"
        );
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn closing_without_a_word_is_ready_only_for_the_old_form() {
        let (starting, _out, _err) = run("exit 3", false);
        readiness(&starting).unwrap();
        assert_eq!(reap(starting.pid), 3);
        let (starting, _out, _err) = run("exit 0", true);
        assert!(
            readiness(&starting)
                .unwrap_err()
                .to_string()
                .contains("did not call ready")
        );
        reap(starting.pid);
    }
}
