//! Layers applied while they are being written, and before the layers below them are known.

mod common;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::*;
use layer::{
    Algorithm, Applied, ApplyOptions, Digest, Error, Growing, Growth, Whiteouts, apply_growing,
};

/// A layer's file with nothing in it yet.
struct Written {
    file: File,
    growth: Arc<Growth>,
}

impl Written {
    fn new() -> Self {
        Self {
            file: tempfile::tempfile().unwrap(),
            growth: Growth::new(0),
        }
    }

    fn put(&self, data: &[u8], at: usize) {
        self.file.write_all_at(data, at as u64).unwrap();
        self.growth.reached((at + data.len()) as u64);
    }

    fn applied_to(
        &self,
        dir: &Path,
        total: usize,
        options: ApplyOptions,
    ) -> Result<Applied, Error> {
        let source = Growing {
            file: self.file.try_clone().unwrap(),
            growth: Arc::clone(&self.growth),
            total: total as u64,
        };
        apply_growing(source, File::open(dir).unwrap().as_fd(), options)
    }
}

fn archive() -> Vec<u8> {
    (0..40)
        .fold(Tar::new().dir("d"), |tar, n| {
            tar.file(&format!("d/file{n}"), &vec![n; 10_000])
        })
        .end()
}

#[test]
fn what_is_applied_behind_the_writer_is_what_was_written() {
    for stored in [archive(), gzip(&archive()), zstd(&archive())] {
        let written = Written::new();
        let dir = fast_dir();
        let applied = thread::scope(|scope| {
            let apply = scope
                .spawn(|| written.applied_to(dir.path(), stored.len(), ApplyOptions::default()));
            for (n, piece) in stored.chunks(997).enumerate() {
                written.put(piece, n * 997);
            }
            apply.join().unwrap().unwrap()
        });
        assert_eq!(applied.diff_id, Digest::of(Algorithm::Sha256, &archive()));
        assert_eq!(applied.digest, None, "the writer sees to it");
        assert_eq!(applied.size, stored.len() as u64);
        let (whole, _) = common::applied(&stored, ApplyOptions::default());
        assert_eq!(tree(dir.path()), tree(whole.path()));
    }
}

#[test]
fn a_writer_that_gives_up_ends_it() {
    let written = Written::new();
    let stored = gzip(&archive());
    written.put(&stored[..stored.len() / 2], 0);
    let dir = fast_dir();
    let error = thread::scope(|scope| {
        let apply =
            scope.spawn(|| written.applied_to(dir.path(), stored.len(), ApplyOptions::default()));
        written.growth.abandon();
        apply.join().unwrap().unwrap_err()
    });
    assert!(matches!(error, Error::Abandoned), "{error}");
}

#[test]
fn a_file_that_was_cut_off_is_no_end_of_the_layer() {
    let written = Written::new();
    written.growth.reached(1 << 20); // as it was before the writer began anew
    let dir = fast_dir();
    let error = written
        .applied_to(dir.path(), 1 << 20, ApplyOptions::default())
        .unwrap_err();
    assert!(matches!(error, Error::Abandoned), "{error}");
}

#[test]
fn who_waits_for_a_writer_can_be_cancelled() {
    let written = Written::new();
    let cancel = Arc::new(AtomicBool::new(false));
    let options = ApplyOptions {
        cancel: Some(Arc::clone(&cancel)),
        ..ApplyOptions::default()
    };
    let dir = fast_dir();
    let error = thread::scope(|scope| {
        let apply = scope.spawn(|| written.applied_to(dir.path(), 1000, options));
        cancel.store(true, Ordering::Relaxed);
        apply.join().unwrap().unwrap_err()
    });
    assert!(matches!(error, Error::Cancelled), "{error}");
}

fn blind() -> ApplyOptions {
    ApplyOptions {
        whiteouts: Whiteouts::Overlay { userxattr: false },
        blind: true,
        ..ApplyOptions::default()
    }
}

#[test]
fn what_builds_upon_unknown_layers_is_told() {
    for archive in [
        Tar::new().file("not/described/file", b""),
        Tar::new().dir("d").file("d/.wh.gone", b""),
        Tar::new().file(".wh..wh..opq", b""),
        Tar::new().hardlink("link", "below"),
    ] {
        let error = refused(&archive.end(), blind());
        assert!(matches!(error, Error::NeedsParents(_)), "{error}");
    }
}

#[test]
fn what_stands_by_itself_needs_no_layer_below() {
    let archive = Tar::new()
        .dir("d")
        .file("d/file", b"1")
        .hardlink("d/link", "d/file")
        .symlink("l", "d")
        .end();
    let (dir, _) = applied(&archive, blind());
    assert_eq!(names(dir.path()), ["d", "d/file", "d/link", "l"]);
}
