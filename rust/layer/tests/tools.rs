//! Hashing, copying, disk usage and removal.

mod common;

use std::fs::{File, create_dir, create_dir_all, hard_link, write};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};

use common::*;
use layer::{Algorithm, Digest, Error, Hasher, copy_and_hash, disk_usage, hash_file, remove_tree};

#[test]
fn digests_of_known_texts() {
    let of = |algorithm, text: &str| Digest::of(algorithm, text.as_bytes()).to_string();
    assert_eq!(
        of(Algorithm::Sha256, "abc"),
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_eq!(
        of(Algorithm::Sha384, ""),
        "sha384:38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da\
         274edebfe76f65fbd51ad2f14898b95b"
    );
    assert_eq!(
        of(Algorithm::Sha512, "abc"),
        "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
         2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
    );
}

#[test]
fn digests_are_parsed_strictly() {
    let good = Digest::of(Algorithm::Sha256, b"x");
    assert_eq!(good.to_string().parse::<Digest>().unwrap(), good);
    assert_eq!(good.algorithm(), Algorithm::Sha256);
    let parse = |text: &str| text.parse::<Digest>().unwrap_err().to_string();
    assert_eq!(
        parse("abc"),
        "invalid digest \"abc\": expected algorithm:hex, e.g. sha256:…"
    );
    assert!(parse("md5:abc").starts_with("unsupported digest algorithm \"md5\""));
    assert!(parse("sha256:abc").ends_with("expected 64 lower-case hex digits"));
    assert!(parse(&good.to_string().to_uppercase().replace("SHA", "sha")).ends_with("hex digits"));
    assert!(parse(&format!("sha512:{}", good.hex())).contains("128"));
}

#[test]
fn a_hasher_goes_on_after_it_was_asked() {
    let mut hasher = Hasher::new(Algorithm::Sha512);
    assert!(hasher.is_empty());
    hasher.update(b"a");
    assert_eq!(hasher.digest(), Digest::of(Algorithm::Sha512, b"a"));
    hasher.update(b"bc");
    assert_eq!(hasher.len(), 3);
    assert_eq!(hasher.finish(), Digest::of(Algorithm::Sha512, b"abc"));
}

#[test]
fn files_are_hashed_from_where_they_stand() {
    let data = vec![3; 700_000];
    let mut file = file_of(&data);
    assert_eq!(
        hash_file(&file, Algorithm::Sha256).unwrap(),
        Digest::of(Algorithm::Sha256, &data)
    );
    file.seek(SeekFrom::Start(699_999)).unwrap();
    assert_eq!(
        hash_file(&file, Algorithm::Sha256).unwrap(),
        Digest::of(Algorithm::Sha256, &[3])
    );
}

#[test]
fn copying_hashes_what_it_copies() {
    let data: Vec<u8> = (0..700_000u32).map(|i| (i * 7) as u8).collect();
    let source = file_of(&data);
    let mut target = tempfile::tempfile().unwrap();
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut copy = |len| copy_and_hash(source.as_fd(), target.as_fd(), len, &mut hasher);
    assert_eq!(copy(Some(0)).unwrap(), 0);
    assert_eq!(copy(Some(300_001)).unwrap(), 300_001);
    assert_eq!(copy(None).unwrap(), 399_999);
    assert_eq!(copy(None).unwrap(), 0);
    let error = copy(Some(5)).unwrap_err();
    assert_eq!(error.to_string(), "unexpected end of source: 0 of 5 bytes");
    assert_eq!(hasher.finish(), Digest::of(Algorithm::Sha256, &data));
    target.seek(SeekFrom::Start(0)).unwrap();
    let mut copied = Vec::new();
    target.read_to_end(&mut copied).unwrap();
    assert!(copied == data);
}

#[test]
fn usage_counts_blocks_once_per_inode() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    create_dir_all(root.join("a/b")).unwrap();
    write(root.join("a/file"), vec![1; 100_000]).unwrap();
    hard_link(root.join("a/file"), root.join("a/b/again")).unwrap();
    symlink("/usr", root.join("link")).unwrap();
    File::create(root.join("sparse"))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    let blocks: u64 = ["", "a", "a/b", "a/file", "link", "sparse"]
        .iter()
        .map(|name| root.join(name).symlink_metadata().unwrap().blocks())
        .sum();
    let usage = disk_usage(File::open(root).unwrap().as_fd()).unwrap();
    assert_eq!((usage.bytes, usage.inodes), (blocks * 512, 6));
}

#[test]
fn removal_takes_the_tree_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    create_dir_all(root.join("kept/dir")).unwrap();
    write(root.join("kept/file"), "").unwrap();
    create_dir_all(root.join("tree/a/b")).unwrap();
    write(root.join("tree/a/b/f"), "").unwrap();
    symlink("../kept", root.join("tree/link")).unwrap();
    symlink(root.join("kept"), root.join("tree/a/link")).unwrap();
    symlink("kept", root.join("link")).unwrap();
    write(root.join("file"), "").unwrap();
    let fd = File::open(root).unwrap();
    let remove = |name: &str| remove_tree(fd.as_fd(), name.as_ref());
    assert!(remove("tree").unwrap());
    assert!(!remove("tree").unwrap());
    assert!(remove("link").unwrap());
    assert!(remove("file").unwrap());
    assert_eq!(names(root), ["kept", "kept/dir", "kept/file"]);
    for bad in ["", ".", "..", "kept/dir", "/"] {
        assert_eq!(
            remove(bad).unwrap_err().raw_os_error(),
            Some(libc::EINVAL),
            "{bad:?}"
        );
    }
}

#[test]
fn removal_stops_at_a_mount() {
    if !is_root() {
        return;
    }
    // SAFETY: the flags concern mounts and the working directory, no memory and no descriptors.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
    use rustix::mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
    };
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let point = dir.path().join("tree/sub/mnt");
    create_dir_all(&point).unwrap();
    mount("tmpfs", &point, "tmpfs", MountFlags::empty(), None).unwrap();
    write(point.join("precious"), "").unwrap();
    create_dir(point.join("dir")).unwrap();
    let root = File::open(dir.path()).unwrap();
    let error = remove_tree(root.as_fd(), "tree".as_ref()).unwrap_err();
    assert!(matches!(error, Error::Escape(_)), "{error}");
    assert!(point.join("precious").exists());
    unmount(&point, UnmountFlags::empty()).unwrap();
    assert!(remove_tree(root.as_fd(), "tree".as_ref()).unwrap());
}
