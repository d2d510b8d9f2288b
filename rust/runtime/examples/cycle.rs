//! The way of a container inside one process, timed: `cycle BUNDLE STATE-FOLDER TIMES`.
//!
//! Prints the smallest times in milliseconds of create, start, the program's run and delete.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Instant;

use runtime::{CreateRequest, Options, Runtime, Stdio, sys};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, bundle, state, times] = args.as_slice() else {
        return Err("usage: cycle BUNDLE STATE-FOLDER TIMES".into());
    };
    let runtime = Runtime::new(state, Options::default());
    let mut least = [f64::MAX; 5];
    for number in 0..times.parse::<u32>()? {
        let id = format!("cycle{}-{number}", std::process::id());
        let begin = Instant::now();
        let mut marks = vec![0.0];
        let mut mark = || marks.push(begin.elapsed().as_secs_f64() * 1000.0);
        let started = runtime.create(CreateRequest {
            id: &id,
            bundle: Path::new(bundle),
            stdio: Stdio::Streams([None, None, None]),
            no_pivot: false,
            no_new_keyring: false,
            preserve_fds: 0,
        })?;
        mark();
        runtime.start(&id)?;
        mark();
        let process = sys::pidfd_open(started.pid).map_err(std::io::Error::from)?;
        sys::poll_in(process.as_raw_fd(), None).map_err(std::io::Error::from)?;
        sys::wait(started.pid).map_err(std::io::Error::from)?;
        mark();
        runtime.delete(&id, false)?;
        mark();
        for (least, pair) in least.iter_mut().zip(marks.windows(2)) {
            *least = least.min(pair[1] - pair[0]);
        }
        least[4] = least[4].min(marks[4]);
    }
    let names = ["create", "start", "run", "delete", "all"];
    for (name, time) in names.iter().zip(least) {
        println!("{name:<7} {time:.2} ms");
    }
    Ok(())
}
