//! Layers made from trees, and trees made from them again.

mod common;

use std::collections::BTreeSet;
use std::fs::{File, create_dir_all, hard_link, remove_dir_all, remove_file, write};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use common::*;
use layer::{Algorithm, ApplyOptions, DiffCompression, DiffOptions, Diffed, Digest, Error, diff};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

const DAY: u64 = 1_600_000_000;

fn options(compression: DiffCompression) -> DiffOptions {
    DiffOptions {
        compression,
        ..DiffOptions::default()
    }
}

fn diff_of(lower: Option<&Path>, upper: &Path, options: DiffOptions) -> (Vec<u8>, Diffed) {
    let lower = lower.map(|path| File::open(path).unwrap());
    let upper = File::open(upper).unwrap();
    let mut sink = tempfile::tempfile().unwrap();
    let copy = sink.try_clone().unwrap();
    let diffed = diff(
        lower.as_ref().map(AsFd::as_fd),
        upper.as_fd(),
        copy,
        options,
    )
    .unwrap();
    let mut layer = Vec::new();
    sink.seek(SeekFrom::Start(0)).unwrap();
    sink.read_to_end(&mut layer).unwrap();
    (layer, diffed)
}

fn plain_diff(lower: Option<&Path>, upper: &Path) -> Vec<u8> {
    diff_of(lower, upper, options(DiffCompression::None)).0
}

/// Names in an archive, as GNU tar lists them.
fn listed(archive: &[u8]) -> Vec<String> {
    let list = run("tar", &["-tf-", "--quoting-style=literal"], archive);
    String::from_utf8(list)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn date_all(root: &Path, seconds: u64) {
    for path in tree(root).into_keys().rev() {
        date(&root.join(path), seconds);
    }
}

fn date(path: &Path, seconds: u64) {
    let time = rustix::fs::Timespec {
        tv_sec: seconds as i64,
        tv_nsec: 0,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// One of everything.
fn populate(root: &Path) {
    create_dir_all(root.join("etc/deep/er")).unwrap();
    write(root.join("etc/plain"), "plain").unwrap();
    write(root.join("etc/empty"), "").unwrap();
    write(root.join("setuid"), "x").unwrap();
    chown(root.join("setuid"), Some(3_000_000), Some(4_000_000_000)).unwrap();
    std::fs::set_permissions(root.join("setuid"), PermissionsExt::from_mode(0o6711)).unwrap();
    std::fs::set_permissions(root.join("etc/deep"), PermissionsExt::from_mode(0o1777)).unwrap();
    write(root.join("linked"), "three names").unwrap();
    hard_link(root.join("linked"), root.join("etc/linked")).unwrap();
    hard_link(root.join("linked"), root.join("zz-linked")).unwrap();
    symlink("../plain", root.join("etc/deep/link")).unwrap();
    symlink("x".repeat(300), root.join("long-link")).unwrap();
    hard_link(root.join("long-link"), root.join("long-link-2")).unwrap();
    let long = root.join(["directory"; 30].join("/"));
    create_dir_all(&long).unwrap();
    write(long.join("n".repeat(255)), "long").unwrap();
    write(root.join("ünïcode \n\t\u{1F600}"), "u").unwrap();
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    set_xattr(&root.join("setuid"), "security.capability", capability);
    set_xattr(&root.join("etc/plain"), "user.a=b%", b"\0\n=");
    set_xattr(&root.join("etc/deep"), "user.dir", &[b'v'; 3000]);
    set_xattr(&root.join("etc"), "trusted.overlay.opaque", b"y");
    let node = |name: &str, kind, mode, device| {
        mknodat(
            CWD,
            root.join(name),
            kind,
            Mode::from_raw_mode(mode),
            device,
        )
        .unwrap();
    };
    node("null", FileType::CharacterDevice, 0o666, makedev(1, 3));
    node("disk", FileType::BlockDevice, 0o7640, makedev(259, 300_000));
    node("fifo", FileType::Fifo, 0o600, 0);
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"island", 3 << 20).unwrap();
    let mut data = Vec::new();
    for i in 0..200_000u32 {
        data.extend_from_slice(&i.wrapping_mul(2_654_435_761).to_le_bytes());
    }
    write(root.join("large"), data).unwrap();
    date_all(root, DAY);
}

/// What a layer does not carry.
fn without_host_attributes(root: &Path) -> std::collections::BTreeMap<std::path::PathBuf, Node> {
    let mut nodes = tree(root);
    for node in nodes.values_mut() {
        node.xattrs
            .retain(|(name, _)| !name.starts_with("trusted."));
    }
    nodes
}

#[test]
fn a_tree_survives_the_round_trip_in_every_compression() {
    if !is_root() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    populate(source.path());
    let tar = plain_diff(None, source.path());
    for compression in [
        DiffCompression::None,
        DiffCompression::Gzip,
        DiffCompression::Zstd,
    ] {
        let (layer, diffed) = diff_of(None, source.path(), options(compression));
        assert_eq!(diffed.digest, Digest::of(Algorithm::Sha256, &layer));
        assert_eq!(diffed.size, layer.len() as u64);
        assert_eq!(diffed.diff_id, Digest::of(Algorithm::Sha256, &tar));
        assert_eq!(diffed.unpacked_bytes, tar.len() as u64);
        let expected = ApplyOptions {
            expected_digest: Some(diffed.digest),
            expected_size: Some(diffed.size),
            expected_diff_id: Some(diffed.diff_id),
            ..ApplyOptions::default()
        };
        let (target, _) = applied(&layer, expected);
        assert_eq!(tree(target.path()), without_host_attributes(source.path()));
        let sparse = target.path().join("sparse").metadata().unwrap();
        assert!(std::os::unix::fs::MetadataExt::blocks(&sparse) * 512 < 1 << 20);
    }
}

#[test]
fn gnu_tar_and_gzip_and_zstd_read_it() {
    if !is_root() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    populate(source.path());
    let tar = plain_diff(None, source.path());
    let target = tempfile::tempdir().unwrap();
    let to = target.path().to_str().unwrap();
    run(
        "tar",
        &["-xf-", "--xattrs", "--xattrs-include=*", "-C", to],
        &tar,
    );
    assert_eq!(tree(target.path()), without_host_attributes(source.path()));
    let (gz, _) = diff_of(None, source.path(), options(DiffCompression::Gzip));
    assert!(run("gzip", &["-dc"], &gz) == tar);
    let (zst, _) = diff_of(None, source.path(), options(DiffCompression::Zstd));
    let mut out = vec![0; tar.len() + 1];
    let n = zstd_safe::decompress(&mut out[..], &zst).unwrap();
    assert!(out[..n] == tar);
}

#[test]
fn the_bytes_depend_on_nothing_but_the_tree() {
    if !is_root() {
        return;
    }
    let trees = [tempfile::tempdir().unwrap(), fast_dir()];
    for tree in &trees {
        populate(tree.path());
        // What must not be seen: names of the host, access times, whole directories' sizes.
        date(&tree.path().join("etc"), DAY);
    }
    for compression in [
        DiffCompression::None,
        DiffCompression::Gzip,
        DiffCompression::Zstd,
    ] {
        let digests: BTreeSet<_> = trees
            .iter()
            .flat_map(|tree| [1, 2, 5, 0].map(|threads| (tree, threads)))
            .map(|(tree, threads)| {
                let options = DiffOptions {
                    threads,
                    ..options(compression)
                };
                diff_of(None, tree.path(), options).1.digest
            })
            .collect();
        assert_eq!(digests.len(), 1, "{compression:?}");
    }
}

/// Fixed here so that a change of the format is noticed: these are the bytes that containerd 2
/// (Go's `archive/tar`) writes for the same tree.
#[test]
fn the_bytes_are_those_of_containerd() {
    if !is_root() {
        return;
    }
    let lower = tempfile::tempdir().unwrap();
    let upper = tempfile::tempdir().unwrap();
    write(lower.path().join("gone"), "").unwrap();
    let root = upper.path();
    create_dir_all(root.join("dir")).unwrap();
    write(root.join("dir/file"), "content").unwrap();
    chown(root.join("dir/file"), Some(1000), Some(3_000_000)).unwrap();
    hard_link(root.join("dir/file"), root.join("link")).unwrap();
    symlink("dir/ü", root.join("symlink")).unwrap();
    create_dir_all(root.join("p".repeat(90)).join("q".repeat(90))).unwrap();
    date_all(root, DAY);
    let tar = plain_diff(Some(lower.path()), root);
    assert_eq!(
        Digest::of(Algorithm::Sha256, &tar).to_string(),
        "sha256:ccc77a40bea05fd992004c87532be66042f25e1453eb0b14c0b15f7e36cb39da"
    );
}

#[test]
fn changes_and_nothing_else() {
    let lower = tempfile::tempdir().unwrap();
    let upper = tempfile::tempdir().unwrap();
    for root in [lower.path(), upper.path()] {
        create_dir_all(root.join("same/deep")).unwrap();
        create_dir_all(root.join("gone/deep")).unwrap();
        create_dir_all(root.join("dir-to-file/deep")).unwrap();
        for name in [
            "same/deep/f",
            "gone/deep/f",
            "file-to-dir",
            "content",
            "mode",
            "time",
            "size",
        ] {
            write(root.join(name), "1234").unwrap();
        }
        symlink("a", root.join("link")).unwrap();
        symlink("a", root.join("same/link")).unwrap();
        date_all(root, DAY);
    }
    assert_eq!(
        listed(&plain_diff(Some(lower.path()), upper.path())),
        [""; 0]
    );
    let root = upper.path();
    remove_dir_all(root.join("gone")).unwrap();
    remove_dir_all(root.join("dir-to-file")).unwrap();
    write(root.join("dir-to-file"), "").unwrap();
    remove_file(root.join("file-to-dir")).unwrap();
    create_dir_all(root.join("file-to-dir/new")).unwrap();
    // Whole seconds hide this from the times: only the content tells.
    write(root.join("content"), "4321").unwrap();
    date(&root.join("content"), DAY);
    std::fs::set_permissions(root.join("mode"), PermissionsExt::from_mode(0o600)).unwrap();
    date(&root.join("time"), DAY + 1);
    write(root.join("size"), "12345").unwrap();
    date(&root.join("size"), DAY);
    remove_file(root.join("link")).unwrap();
    symlink("b", root.join("link")).unwrap();
    date(&root.join("link"), DAY);
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    // A new file in an old directory brings the directory's entry along.
    write(root.join("same/deep/new"), "").unwrap();
    let layer = plain_diff(Some(lower.path()), root);
    let expected = [
        "content",
        "dir-to-file",
        "file-to-dir/",
        "file-to-dir/new/",
        ".wh.gone",
        "link",
        "mode",
        "same/",
        "same/deep/",
        "same/deep/new",
        "size",
        "time",
    ];
    assert_eq!(listed(&layer), expected);

    apply_to(lower.path(), &layer, ApplyOptions::default()).unwrap();
    remove_file(root.join("socket")).unwrap();
    let shape = |root: &Path| -> Vec<_> {
        tree(root)
            .into_iter()
            .map(|(p, n)| (p, n.kind, n.mode, n.content))
            .collect()
    };
    assert_eq!(shape(lower.path()), shape(root));
}

#[test]
fn attributes_alone_are_a_change() {
    if !is_root() {
        return;
    }
    let lower = tempfile::tempdir().unwrap();
    let upper = tempfile::tempdir().unwrap();
    for root in [lower.path(), upper.path()] {
        create_dir_all(root.join("d")).unwrap();
        write(root.join("f"), "x").unwrap();
        write(root.join("g"), "x").unwrap();
        date_all(root, DAY);
    }
    set_xattr(&upper.path().join("d"), "user.k", b"v");
    set_xattr(&upper.path().join("f"), "user.k", b"v");
    set_xattr(&upper.path().join("g"), "trusted.k", b"v");
    assert_eq!(
        listed(&plain_diff(Some(lower.path()), upper.path())),
        ["d/", "f"]
    );
}

#[test]
fn a_new_name_of_an_old_inode_brings_the_old_names_along() {
    let lower = tempfile::tempdir().unwrap();
    let upper = tempfile::tempdir().unwrap();
    for root in [lower.path(), upper.path()] {
        create_dir_all(root.join("d")).unwrap();
        write(root.join("d/a"), "linked").unwrap();
        hard_link(root.join("d/a"), root.join("z")).unwrap();
        date_all(root, DAY);
    }
    assert_eq!(
        listed(&plain_diff(Some(lower.path()), upper.path())),
        [""; 0]
    );
    hard_link(upper.path().join("d/a"), upper.path().join("m")).unwrap();
    let layer = plain_diff(Some(lower.path()), upper.path());
    assert_eq!(listed(&layer), ["m", "d/", "d/a", "z"]);
    apply_to(lower.path(), &layer, ApplyOptions::default()).unwrap();
    let names: BTreeSet<_> = ["d/a", "m", "z"]
        .map(|name| tree(lower.path())[Path::new(name)].first_name.clone())
        .into();
    assert_eq!(names.len(), 1);
}

#[test]
fn times_are_bounded_by_the_source_date() {
    let dir = tempfile::tempdir().unwrap();
    for (name, time) in [("old", DAY - 5), ("new", DAY + 5)] {
        write(dir.path().join(name), "").unwrap();
        date(&dir.path().join(name), time);
    }
    let options = DiffOptions {
        source_date_epoch: Some(DAY as i64),
        ..options(DiffCompression::None)
    };
    let (layer, _) = diff_of(None, dir.path(), options);
    let (target, _) = applied(&layer, ApplyOptions::default());
    let times: Vec<_> = tree(target.path())
        .values()
        .map(|node| node.mtime)
        .collect();
    assert_eq!(times, [DAY as i64, DAY as i64 - 5]);
}

#[test]
fn trees_deeper_than_a_path_can_say() {
    let dir = fast_dir();
    let mut at = rustix::fs::open(dir.path(), rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&at, "deep", Mode::from_raw_mode(0o755)).unwrap();
        at = rustix::fs::openat(&at, "deep", rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    }
    rustix::fs::symlinkat("end", &at, "link").unwrap();
    let layer = plain_diff(None, dir.path());
    assert_eq!(listed(&layer).len(), 3001);
    let root = File::open(dir.path()).unwrap();
    assert_eq!(layer::disk_usage(root.as_fd()).unwrap().inodes, 3002);
    assert!(layer::remove_tree(root.as_fd(), "deep".as_ref()).unwrap());
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn levels_out_of_range_and_cancelling() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join("f"), "").unwrap();
    let root = File::open(dir.path()).unwrap();
    let run = |options| diff(None, root.as_fd(), tempfile::tempfile().unwrap(), options);
    for (compression, level) in [(DiffCompression::Gzip, 10), (DiffCompression::Zstd, 99)] {
        let options = DiffOptions {
            level: Some(level),
            ..options(compression)
        };
        let error = run(options).unwrap_err();
        let text = format!("invalid option: compression level {level}: use ");
        assert!(error.to_string().starts_with(&text), "{error}");
    }
    let options = DiffOptions {
        cancel: Some(Arc::new(AtomicBool::new(true))),
        ..DiffOptions::default()
    };
    assert!(matches!(run(options), Err(Error::Cancelled)));
}

/// Two overlay mounts over the same layers, as a snapshotter shows parent and snapshot: a file that was
/// copied up keeps its inode number, and must be found all the same.
#[test]
fn overlay_mounts_are_compared_by_inode_and_change_time() {
    if !is_root() {
        return;
    }
    use rustix::mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
    };
    // A mount namespace of this thread's own; its mounts end with it.
    // SAFETY: the flags concern mounts and the working directory, no memory and no descriptors.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .unwrap();
    let dir = fast_dir();
    let at = |name: &str| dir.path().join(name);
    for name in ["base", "more", "up", "work", "parent", "snapshot"] {
        create_dir_all(at(name)).unwrap();
    }
    for name in ["same", "content", "removed"] {
        write(at("base").join(name), "1234").unwrap();
    }
    write(at("more").join("upper-layer"), "1234").unwrap();
    date_all(&at("base"), DAY);
    date_all(&at("more"), DAY);
    let below = format!("lowerdir={}:{}", at("more").display(), at("base").display());
    let above = format!(
        "{below},upperdir={},workdir={}",
        at("up").display(),
        at("work").display()
    );
    for (point, data) in [("parent", below), ("snapshot", above)] {
        let data = std::ffi::CString::new(data).unwrap();
        mount("overlay", at(point), "overlay", MountFlags::empty(), &*data).unwrap();
    }
    let snapshot = at("snapshot");
    assert_eq!(listed(&plain_diff(Some(&at("parent")), &snapshot)), [""; 0]);
    write(snapshot.join("content"), "4321").unwrap();
    date(&snapshot.join("content"), DAY);
    remove_file(snapshot.join("removed")).unwrap();
    let layer = plain_diff(Some(&at("parent")), &snapshot);
    assert_eq!(listed(&layer), ["content", ".wh.removed"]);
    for point in ["snapshot", "parent"] {
        unmount(at(point), UnmountFlags::empty()).unwrap();
    }
}
