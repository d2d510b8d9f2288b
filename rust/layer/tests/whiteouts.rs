//! Deletions, in both forms a target tree can have them.

mod common;

use std::fs::{create_dir_all, read_to_string, write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::*;
use layer::{ApplyOptions, Error, Whiteouts};
use tempfile::TempDir;

fn remove() -> ApplyOptions {
    ApplyOptions {
        whiteouts: Whiteouts::Remove,
        ..ApplyOptions::default()
    }
}

fn overlay() -> ApplyOptions {
    ApplyOptions {
        whiteouts: Whiteouts::Overlay { userxattr: false },
        ..ApplyOptions::default()
    }
}

/// `dir/{old,sub/{old,deeper/old}}`, `file`, `link → dir`.
fn base(dir: &Path) {
    create_dir_all(dir.join("dir/sub/deeper")).unwrap();
    for file in ["file", "dir/old", "dir/sub/old", "dir/sub/deeper/old"] {
        write(dir.join(file), "old").unwrap();
    }
    std::os::unix::fs::symlink("dir", dir.join("link")).unwrap();
}

fn onto_base(archive: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    base(dir.path());
    apply_to(dir.path(), archive, remove()).unwrap();
    dir
}

#[test]
fn a_whiteout_deletes_files_trees_and_nothing() {
    let archive = Tar::new()
        .file(".wh.file", b"")
        .file("dir/.wh.sub", b"")
        .file("dir/.wh.never-was", b"")
        .dir("dir/.wh.old")
        .file("fresh/.wh.x", b"")
        .end();
    assert_eq!(names(onto_base(&archive).path()), ["dir", "fresh", "link"]);
}

#[test]
fn a_whiteout_deletes_a_link_and_not_its_target() {
    let dir = onto_base(&Tar::new().file(".wh.link", b"").end());
    assert!(!dir.path().join("link").is_symlink());
    assert!(dir.path().join("dir/old").exists());
}

#[test]
fn a_whiteout_spares_what_its_own_layer_brought_in_either_order() {
    let entries = |t: Tar| t.dir("dir").file("dir/new", b"new").file("file", b"new");
    let marks = |t: Tar| t.file(".wh.dir", b"").file(".wh.file", b"");
    for archive in [
        marks(entries(Tar::new())).end(),
        entries(marks(Tar::new())).end(),
    ] {
        let dir = onto_base(&archive);
        assert_eq!(names(dir.path()), ["dir", "dir/new", "file", "link"]);
        assert_eq!(read_to_string(dir.path().join("file")).unwrap(), "new");
    }
}

#[test]
fn an_opaque_directory_loses_what_was_there_before_at_any_depth() {
    let entries = |t: Tar| {
        t.dir("dir/sub")
            .file("dir/new", b"")
            .file("dir/sub/new", b"")
    };
    let mark = |t: Tar| t.file("dir/.wh..wh..opq", b"");
    for archive in [
        mark(entries(Tar::new())).end(),
        entries(mark(Tar::new())).end(),
    ] {
        let dir = onto_base(&archive);
        let expected = ["dir", "dir/new", "dir/sub", "dir/sub/new", "file", "link"];
        assert_eq!(names(dir.path()), expected);
    }
}

#[test]
fn a_replaced_directory_is_resolved_anew() {
    // The directory is in the cache when the whiteout takes it away.
    let archive = Tar::new()
        .file("dir/sub/a", b"")
        .file(".wh.dir", b"")
        .dir("dir")
        .file("dir/sub/b", b"")
        .end();
    let dir = onto_base(&archive);
    let expected = ["dir", "dir/sub", "dir/sub/a", "dir/sub/b", "file", "link"];
    assert_eq!(names(dir.path()), expected);
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    for name in [".wh.", "dir/.wh..", "dir/.wh..."] {
        for options in [remove(), overlay()] {
            let error = refused(&Tar::new().dir("dir").file(name, b"").end(), options);
            let expected = format!("invalid archive: invalid whiteout name {name:?}");
            assert_eq!(error.to_string(), expected);
        }
    }
}

#[test]
fn what_aufs_kept_for_itself_is_left_out() {
    let archive = Tar::new()
        .dir(".wh..wh.plnk")
        .file(".wh..wh.plnk/1.2", b"")
        .file(".wh..wh.aufs", b"")
        .file("kept", b"")
        .end();
    for options in [remove(), overlay()] {
        assert_eq!(names(applied(&archive, options).0.path()), ["kept"]);
    }
}

#[test]
fn overlay_marks() {
    if !is_root() {
        return;
    }
    let head = Head {
        name: b"a/.wh.gone",
        uid: 5,
        gid: 6,
        ..Head::default()
    };
    let archive = Tar::new()
        .head(&head)
        .file("b/.wh..wh..opq", b"")
        .file("b/kept", b"")
        // A directory in place of a deleted one must not show the old one's files.
        .file(".wh.c", b"")
        .dir("c")
        .file(".wh.d", b"")
        .file("d/implied", b"")
        .file(".wh.e", b"")
        .file("e", b"a file hides by itself")
        .file("f", b"so does one that came first")
        .file(".wh.f", b"")
        .dir("g")
        .file(".wh.g", b"")
        .end();
    for (userxattr, opaque) in [
        (false, "trusted.overlay.opaque"),
        (true, "user.overlay.opaque"),
    ] {
        let options = ApplyOptions {
            whiteouts: Whiteouts::Overlay { userxattr },
            ..ApplyOptions::default()
        };
        let (dir, _) = applied(&archive, options);
        let tree = tree(dir.path());
        let node = |name: &str| &tree[Path::new(name)];
        let gone = node("a/gone");
        assert_eq!(
            (gone.kind, gone.device, gone.mode, gone.owner),
            ("char", 0, 0, (5, 6))
        );
        let marked = [(opaque.to_owned(), b"y".to_vec())];
        for name in ["b", "c", "d", "g"] {
            assert_eq!(
                (node(name).kind, &node(name).xattrs[..]),
                ("directory", &marked[..]),
                "{name}"
            );
        }
        assert_eq!(node("a").xattrs, []);
        assert_eq!((node("e").kind, node("f").kind), ("file", "file"));
        assert_eq!(tree.len(), 10);
    }
}

#[test]
fn overlay_attributes_do_not_come_from_archives() {
    if !is_root() {
        return;
    }
    let archive = Tar::new()
        .pax(&[
            ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.metacopy", b""),
        ])
        .dir("d")
        .end();
    let options = ApplyOptions {
        whiteouts: Whiteouts::Overlay { userxattr: true },
        ..ApplyOptions::default()
    };
    let (dir, applied) = applied(&archive, options);
    assert_eq!(xattrs(&dir.path().join("d")), []);
    assert_eq!(applied.warnings.len(), 2);
}

#[test]
fn missing_ancestors_look_like_those_of_the_nearest_lower_layer() {
    if !is_root() {
        return;
    }
    let lowers = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for (i, lower) in lowers.iter().enumerate() {
        let dir = lower.path().join("opt/app");
        create_dir_all(&dir).unwrap();
        let id = 100 + i as u32;
        std::os::unix::fs::chown(&dir, Some(id), Some(id)).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1770 + i as u32);
        std::fs::set_permissions(&dir, mode).unwrap();
        set_xattr(&dir, "user.of", format!("{i}").as_bytes());
        set_xattr(&dir, "trusted.overlay.opaque", b"y");
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 + i as u64);
        std::fs::File::open(&dir)
            .unwrap()
            .set_modified(time)
            .unwrap();
    }
    create_dir_all(lowers[1].path().join("only/below")).unwrap();
    write(lowers[0].path().join("blocked"), "").unwrap();
    create_dir_all(lowers[1].path().join("blocked")).unwrap();
    let options = ApplyOptions {
        parents: lowers.iter().map(|l| l.path().to_path_buf()).collect(),
        ..overlay()
    };
    let archive = Tar::new()
        .file("opt/app/f", b"")
        .file("only/below/f", b"")
        .file("blocked/f", b"")
        .end();
    let (dir, _) = applied(&archive, options);
    let tree = tree(dir.path());
    let app = &tree[Path::new("opt/app")];
    assert_eq!(
        (app.mode, app.owner, app.mtime),
        (0o1770, (100, 100), 1_000_000)
    );
    assert_eq!(app.xattrs, [("user.of".to_owned(), b"0".to_vec())]);
    assert_eq!(tree[Path::new("blocked")].mode, 0o755);
}

#[test]
fn a_hard_link_to_a_lower_layers_file_copies_it_up() {
    if !is_root() {
        return;
    }
    let lower = tempfile::tempdir().unwrap();
    create_dir_all(lower.path().join("real/dir")).unwrap();
    let target = lower.path().join("real/dir/target");
    let mut content = vec![7; 300_000];
    content[100_000..200_000].fill(0);
    write(&target, &content).unwrap();
    std::os::unix::fs::chown(&target, Some(3), Some(4)).unwrap();
    set_xattr(&target, "user.k", b"v");
    std::os::unix::fs::symlink("real", lower.path().join("alias")).unwrap();
    std::os::unix::fs::symlink("x", lower.path().join("dangling")).unwrap();
    write(lower.path().join("deleted"), "").unwrap();
    let options = || ApplyOptions {
        parents: vec![lower.path().to_path_buf()],
        ..overlay()
    };
    let head = Head {
        name: b"link",
        flag: b'1',
        link: b"alias/dir/target",
        uid: 3,
        gid: 4,
        ..Head::default()
    };
    let archive = Tar::new().head(&head).hardlink("l2", "dangling").end();
    let (dir, _) = applied(&archive, options());
    let tree = tree(dir.path());
    let link = &tree[Path::new("link")];
    assert!(link.content == content);
    assert_eq!((link.owner, link.xattrs.len()), ((3, 4), 1));
    assert_eq!(
        tree[Path::new("real/dir/target")].first_name,
        Path::new("link")
    );
    assert_eq!(tree[Path::new("l2")].content, b"x");
    assert!(
        !tree.contains_key(Path::new("alias")),
        "a lower link must not become a directory"
    );

    let nowhere = Tar::new().hardlink("l", "not/there").end();
    let error = refused(&nowhere, options());
    assert_eq!(
        error.to_string(),
        "invalid archive: hard link \"l\" to \"not/there\", which is not there"
    );
    let deleted = Tar::new()
        .file(".wh.deleted", b"")
        .hardlink("l", "deleted")
        .end();
    assert!(matches!(
        refused(&deleted, options()),
        Error::InvalidArchive(_)
    ));
    let directory = Tar::new().hardlink("l", "real/dir").end();
    assert!(
        refused(&directory, options())
            .to_string()
            .contains("to the directory")
    );
}

#[test]
fn a_second_layer_on_one_upper_directory() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let first = Tar::new()
        .file("a", b"1")
        .file("d/b", b"1")
        .file("d/c", b"1")
        .end();
    apply_to(dir.path(), &first, overlay()).unwrap();
    let second = Tar::new()
        .file(".wh.a", b"")
        .file("d/.wh..wh..opq", b"")
        .file("d/c", b"2")
        .end();
    apply_to(dir.path(), &second, overlay()).unwrap();
    let tree = tree(dir.path());
    assert_eq!(tree[Path::new("a")].kind, "char");
    assert!(!tree.contains_key(Path::new("d/b")));
    assert_eq!(tree[Path::new("d/c")].content, b"2");
}

/// Random layers over random trees: the overlay that the kernel shows must be the tree that deleting
/// in place gives.
#[test]
fn both_forms_mean_the_same() {
    if !is_root() {
        return;
    }
    // A mount namespace of this thread's own; its mounts end with it.
    // SAFETY: the flags concern mounts and the working directory, no memory and no descriptors.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE
            .union(rustix::mount::MountPropagationFlags::REC),
    )
    .unwrap();
    let mut random = Random(1);
    for round in 0..300 {
        let dir = fast_dir();
        let at = |name: &str| {
            let path = dir.path().join(name);
            create_dir_all(&path).unwrap();
            path
        };
        let (lower, plain, upper, work, merged) = (
            at("lower"),
            at("plain"),
            at("upper"),
            at("work"),
            at("merged"),
        );
        let first = random_layer(&mut random, false);
        apply_to(&lower, &first, remove()).unwrap();
        apply_to(&plain, &first, remove()).unwrap();
        let second = random_layer(&mut random, true);
        apply_to(&plain, &second, remove()).unwrap();
        let mut options = overlay();
        options.parents = vec![lower.clone()];
        apply_to(&upper, &second, options).unwrap();
        let data = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        let data = std::ffi::CString::new(data).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("overlay", &merged, "overlay", flags, &*data).unwrap();
        let (seen, expected) = (shape(&merged), shape(&plain));
        rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::empty()).unwrap();
        let list = |layer: &[u8]| String::from_utf8(run("tar", &["-tf-"], layer)).unwrap();
        assert_eq!(
            seen,
            expected,
            "round {round}: {} onto {}",
            list(&second),
            list(&first)
        );
    }
}

type Shape = Vec<(String, &'static str, u32, Vec<u8>)>;

fn shape(root: &Path) -> Shape {
    tree(root)
        .into_iter()
        .map(|(path, node)| {
            (
                path.to_str().unwrap().into(),
                node.kind,
                node.mode,
                node.content,
            )
        })
        .collect()
}

/// A layer as a tool could write it: parents before children, whiteouts anywhere among the rest.
fn random_layer(random: &mut Random, whiteouts: bool) -> Vec<u8> {
    let mut archive = Tar::new();
    for i in 0..random.below(12) {
        let depth = 1 + random.below(3);
        let names: Vec<&str> = (0..depth)
            .map(|_| ["a", "b", "c"][random.below(3)])
            .collect();
        for end in 1..depth {
            archive = archive.dir(&names[..end].join("/"));
        }
        let path = names.join("/");
        let (above, name) = path.rsplit_once('/').map_or(("", &*path), |(a, n)| (a, n));
        let slash = if above.is_empty() { "" } else { "/" };
        archive = match random.below(if whiteouts { 6 } else { 3 }) {
            0 => archive.dir(&path),
            1 => archive.file(&path, format!("{i}").as_bytes()),
            2 => archive.symlink(&path, "nowhere"),
            3 | 4 => archive.file(&format!("{above}{slash}.wh.{name}"), b""),
            _ => archive.file(&format!("{above}{slash}.wh..wh..opq"), b""),
        };
    }
    archive.end()
}

/// xorshift64: the same run each time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

#[test]
fn the_mode_of_a_merged_directory_is_the_layers() {
    let dir = tempfile::tempdir().unwrap();
    base(dir.path());
    let head = Head {
        name: b"dir",
        flag: b'5',
        mode: 0o2750,
        ..Head::default()
    };
    apply_to(dir.path(), &Tar::new().head(&head).end(), remove()).unwrap();
    assert_eq!(
        dir.path().join("dir").metadata().unwrap().mode() & 0o7777,
        0o2750
    );
    assert!(dir.path().join("dir/sub/deeper/old").exists());
}
