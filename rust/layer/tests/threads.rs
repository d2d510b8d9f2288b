//! Alone in its process, so that threads can be counted.

mod common;

use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::*;
use layer::{ApplyOptions, DiffOptions, Error, Limits, diff};

fn count(what: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{what}"))
        .unwrap()
        .count()
}

/// A thread that was joined is shown a moment longer.
fn wait_until(before: (usize, usize)) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while (count("task"), count("fd")) != before {
        assert!(Instant::now() < give_up, "{before:?} at first");
        std::thread::yield_now();
    }
}

#[test]
fn no_thread_and_no_descriptor_is_left_behind() {
    let mut tar = Tar::new();
    for i in 0..300 {
        tar = tar
            .dir(&format!("{i}"))
            .file(&format!("{i}/f"), &vec![i as u8; 20_000]);
    }
    let misplaced = gzip(
        &tar.clone()
            .file("0/f/below", b"")
            .file("more", &vec![1; 5 << 20])
            .end(),
    );
    let tar = tar.end();
    let stored = gzip(&tar);
    let mut flipped = stored.clone();
    flipped[stored.len() / 2] ^= 0xff;
    let limits = Limits {
        max_unpacked_bytes: Some(1 << 20),
        ..Limits::default()
    };
    let limited = ApplyOptions {
        limits,
        ..ApplyOptions::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let before = (count("task"), count("fd"));
    let mut outcomes = Vec::new();
    for (archive, options) in [
        (&stored[..], ApplyOptions::default()),
        (&tar, ApplyOptions::default()),
        (&flipped, ApplyOptions::default()),
        (&stored[..stored.len() / 2], ApplyOptions::default()),
        (&misplaced, ApplyOptions::default()),
        (&stored, limited.clone()),
        (&tar, limited),
    ] {
        outcomes.push(apply_to(dir.path(), archive, options).is_ok());
        wait_until(before);
    }
    assert_eq!(outcomes, [true, true, false, false, false, false, false]);

    let root = File::open(dir.path()).unwrap();
    // /dev/full takes nothing, at the first write or at a later one.
    for sink in ["/dev/null", "/dev/full"] {
        let sink = File::options().write(true).open(sink).unwrap();
        let result = diff(None, root.as_fd(), sink, DiffOptions::default());
        assert!(
            matches!(&result, Ok(_) | Err(Error::Io { op: "write", .. })),
            "{result:?}"
        );
    }
    drop(root);
    wait_until(before);
}
