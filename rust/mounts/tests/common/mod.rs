//! A stage for mount tests: a thread with its own mount namespace and a folder on its own tmpfs.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use mounts::{Mount, MountInfo, MountPropagationFlags, mountinfo};
use rustix::mount::{MountFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Runs `test` in a folder of its own. Whatever it mounts is seen by nobody else and gone afterwards.
pub fn on_stage(test: impl FnOnce(&Path) + Send) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let before = mountinfo().unwrap();
    let folder = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        let actor = scope.spawn(|| {
            // SAFETY: only the mount namespace is unshared, and the thread ends with the test.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
            mount_change(
                "/",
                MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
            )
            .unwrap();
            mount("stage", folder.path(), "tmpfs", MountFlags::empty(), None).unwrap();
            test(folder.path());
        });
        if let Err(panic) = actor.join() {
            std::panic::resume_unwind(panic);
        }
    });
    let ours = |m: &MountInfo| m.mount_point.starts_with(folder.path());
    let leaked: Vec<_> = mountinfo().unwrap().into_iter().filter(ours).collect();
    assert_eq!(leaked, [], "mounts on the host, of {} before", before.len());
}

pub fn a_mount(kind: &str, source: impl AsRef<Path>, options: &[&str]) -> Mount {
    Mount {
        kind: kind.into(),
        source: source.as_ref().to_str().unwrap().into(),
        target: String::new(),
        options: options.iter().map(|&option| option.into()).collect(),
    }
}

/// Makes a folder with one file in it.
pub fn folder(path: PathBuf, file: &str) -> PathBuf {
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join(file), file).unwrap();
    path
}

/// The mounts on `target` and below it, in order.
pub fn on(target: &Path) -> Vec<MountInfo> {
    let mut mounts = mountinfo().unwrap();
    mounts.retain(|m| m.mount_point.starts_with(target));
    mounts
}

pub fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
