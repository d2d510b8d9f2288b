//! Digests, sizes, damage, limits and early ends.

mod common;

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use layer::{Algorithm, ApplyOptions, Compression, Digest, Error, Limits, apply};

fn sha256(data: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, data)
}

fn plain() -> ApplyOptions {
    ApplyOptions::default()
}

/// Some directories and files of incompressible and compressible content.
fn sample() -> Vec<u8> {
    let mut noise = Vec::new();
    let mut x = 1u64;
    for _ in 0..20_000 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        noise.push((x >> 33) as u8);
    }
    Tar::new()
        .dir("d")
        .file("d/noise", &noise)
        .file("d/text", &b"the same line again\n".repeat(2000))
        .pax(&[("SCHILY.xattr.user.k", b"v")])
        .file("d/small", b"x")
        .symlink("l", "d")
        .end()
}

fn expecting(stored: &[u8], tar: &[u8]) -> ApplyOptions {
    ApplyOptions {
        expected_digest: Some(sha256(stored)),
        expected_size: Some(stored.len() as u64),
        expected_diff_id: Some(sha256(tar)),
        ..plain()
    }
}

fn forms(tar: &[u8]) -> [(Compression, Vec<u8>); 3] {
    [
        (Compression::None, tar.to_vec()),
        (Compression::Gzip, gzip(tar)),
        (Compression::Zstd, zstd(tar)),
    ]
}

#[test]
fn digest_size_and_diff_id() {
    let tar = sample();
    for (compression, stored) in forms(&tar) {
        for named in [Compression::Auto, compression] {
            let options = ApplyOptions {
                compression: named,
                ..expecting(&stored, &tar)
            };
            let (_dir, applied) = applied(&stored, options);
            assert_eq!(applied.compression, compression);
            assert_eq!(applied.digest, Some(sha256(&stored)));
            assert_eq!(applied.size, stored.len() as u64);
            assert_eq!(applied.diff_id, sha256(&tar));
            assert_eq!(applied.unpacked_bytes, tar.len() as u64);
            assert_eq!(applied.entries, 5);
        }
    }
}

#[test]
fn each_expectation_may_have_its_own_algorithm() {
    let tar = sample();
    for (_, stored) in forms(&tar) {
        for (first, second) in [
            (Algorithm::Sha512, Algorithm::Sha256),
            (Algorithm::Sha256, Algorithm::Sha384),
            (Algorithm::Sha512, Algorithm::Sha512),
        ] {
            let options = ApplyOptions {
                expected_digest: Some(Digest::of(first, &stored)),
                expected_diff_id: Some(Digest::of(second, &tar)),
                ..plain()
            };
            let (_dir, applied) = applied(&stored, options);
            assert_eq!(applied.digest, Some(Digest::of(first, &stored)));
            assert_eq!(applied.diff_id, Digest::of(second, &tar));
        }
    }
}

#[test]
fn a_mismatch_names_both_sides() {
    let tar = sample();
    let wrong = sha256(b"something else");
    for (_, stored) in forms(&tar) {
        let error = refused(
            &stored,
            ApplyOptions {
                expected_digest: Some(wrong.clone()),
                ..plain()
            },
        );
        let got = sha256(&stored);
        let text = format!("layer digest mismatch: expected {wrong}, got {got}");
        assert_eq!(error.to_string(), text);
        let error = refused(
            &stored,
            ApplyOptions {
                expected_diff_id: Some(wrong.clone()),
                ..plain()
            },
        );
        let got = sha256(&tar);
        let text = format!("layer diff ID mismatch: expected {wrong}, got {got}");
        assert_eq!(error.to_string(), text);
        for size in [0, stored.len() as u64 - 1, stored.len() as u64 + 1] {
            let error = refused(
                &stored,
                ApplyOptions {
                    expected_size: Some(size),
                    ..plain()
                },
            );
            let got = stored.len();
            let text = format!("layer size mismatch: expected {size} bytes, got {got}");
            assert_eq!(error.to_string(), text);
        }
    }
}

#[test]
fn a_flipped_byte_anywhere_is_a_wrong_digest() {
    let tar = sample();
    for (compression, stored) in forms(&tar) {
        for at in (0..stored.len()).step_by(stored.len() / 40) {
            let mut damaged = stored.clone();
            damaged[at] ^= 0x10;
            let error = refused(&damaged, expecting(&stored, &tar));
            let is_digest = matches!(error, Error::DigestMismatch { .. });
            assert!(is_digest, "{compression} at {at}: {error}");
        }
    }
}

/// Without a digest to compare, gzip's own checksum or the tar's finds it.
#[test]
fn a_flipped_byte_in_gzip_is_found_by_itself() {
    let tar = sample();
    let stored = gzip(&tar);
    for at in (10..stored.len()).step_by(stored.len() / 60) {
        let mut damaged = stored.clone();
        damaged[at] ^= 0x10;
        let error = refused(&damaged, plain());
        let expected = matches!(error, Error::InvalidArchive(_) | Error::UnexpectedEof(_));
        assert!(expected, "at {at}: {error}");
    }
}

#[test]
fn a_truncated_layer_is_an_error_at_any_length() {
    let tar = sample();
    for (compression, stored) in forms(&tar) {
        let step = stored.len() / 70;
        for len in (1..stored.len())
            .step_by(step)
            .chain(stored.len() - 9..stored.len())
        {
            let cut = &stored[..len];
            let error = refused(
                cut,
                ApplyOptions {
                    compression,
                    ..expecting(&stored, &tar)
                },
            );
            assert!(
                matches!(error, Error::SizeMismatch { .. }),
                "{compression} {len}: {error}"
            );
            if compression != Compression::None {
                let error = refused(
                    cut,
                    ApplyOptions {
                        compression,
                        ..plain()
                    },
                );
                let text = error.to_string();
                assert!(
                    text.starts_with("unexpected end of"),
                    "{compression} {len}: {text}"
                );
            }
        }
    }
    // A tar has no length of its own: only cuts inside a header or a file show.
    for (len, what) in [
        (100, "tar header"),
        (1024 + 512 + 100, "tar entry"),
        (tar.len() - 500, "tar end mark"),
    ] {
        let text = refused(&tar[..len], plain()).to_string();
        assert!(
            text.starts_with(&format!("unexpected end of {what}")),
            "{len}: {text}"
        );
    }
}

#[test]
fn an_empty_source_is_an_empty_layer() {
    let (dir, applied) = applied(b"", plain());
    assert_eq!((applied.size, applied.entries), (0, 0));
    assert_eq!(applied.diff_id, sha256(b""));
    assert_eq!(names(dir.path()), [""; 0]);
    let named = ApplyOptions {
        compression: Compression::Gzip,
        ..plain()
    };
    assert_eq!(
        refused(b"", named).to_string(),
        "unexpected end of gzip header"
    );
}

#[test]
fn bytes_behind_the_end_mark_count() {
    let tar = [sample(), vec![0; 9000], b"tail".repeat(100_000)].concat();
    for (_, stored) in forms(&tar) {
        let (_dir, applied) = applied(&stored, expecting(&stored, &tar));
        assert_eq!(applied.unpacked_bytes, tar.len() as u64);
    }
}

#[test]
fn gzip_members_one_behind_the_other() {
    let tar = sample();
    let (a, b) = tar.split_at(12_345);
    let stored = [gzip(a), gzip(b""), gzip(b)].concat();
    applied(&stored, expecting(&stored, &tar));
    let padded = [&stored[..], &[0; 700]].concat();
    applied(&padded, expecting(&padded, &tar));
    let garbage = [&stored[..], b"garbage"].concat();
    let error = refused(&garbage, plain());
    assert!(error.to_string().contains("gzip"), "{error}");
    let late = [&padded[..], &gzip(b"")].concat();
    assert!(
        refused(&late, plain())
            .to_string()
            .contains("garbage after the last member")
    );
    // A name in each member, as estargz and pigz --name have it.
    let named = run(
        "sh",
        &[
            "-c",
            "t=$(mktemp -d) && cd $t && cat >n && gzip -N n && cat n.gz && rm -r $t",
        ],
        &tar,
    );
    applied(&named, expecting(&named, &tar));
}

#[test]
fn gzip_headers_with_all_their_parts_and_wrong_trailers() {
    let tar = sample();
    let stored = gzip(&tar);
    let (head, rest) = stored.split_at(10);
    let mut full = head.to_vec();
    full[3] = 0b1_1110;
    full.extend_from_slice(b"\x04\0abcd");
    full.extend_from_slice(b"name\0comment\0");
    let sum = zlib_rs::crc32::crc32(0, &full) as u16;
    full.extend_from_slice(&sum.to_le_bytes());
    full.extend_from_slice(rest);
    applied(&full, expecting(&full, &tar));
    for (at, text) in [(3, "reserved header flags"), (20, "header checksum")] {
        let mut bad = full.clone();
        bad[at] ^= 0x80;
        assert!(refused(&bad, plain()).to_string().contains(text));
    }
    for (back, text) in [
        (5, "CRC-32 of the uncompressed data"),
        (1, "length of the uncompressed data"),
    ] {
        let mut bad = stored.clone();
        let at = bad.len() - back;
        bad[at] ^= 1;
        assert!(refused(&bad, plain()).to_string().contains(text));
    }
    let endless = [&head[..3], &[0b1000], &head[4..], &[b'x'; 2 << 20]].concat();
    assert!(
        refused(&endless, plain())
            .to_string()
            .contains("exceeds 1 MiB")
    );
}

#[test]
fn zstd_frames_one_behind_the_other() {
    let tar = sample();
    let (a, b) = tar.split_at(12_345);
    let skippable = b"\x50\x2a\x4d\x18\x05\0\0\0skip!";
    let stored = [
        &skippable[..],
        &zstd(a),
        skippable,
        &zstd(b""),
        &zstd(b),
        skippable,
    ]
    .concat();
    let (_dir, applied) = applied(&stored, expecting(&stored, &tar));
    assert_eq!(applied.compression, Compression::Zstd);
    let garbage = [&stored[..], b"garbage"].concat();
    assert!(
        refused(&garbage, plain())
            .to_string()
            .starts_with("invalid archive: zstd")
    );
}

#[test]
fn foreign_compressions_are_named() {
    for (head, name) in [
        (&b"\xfd7zXZ\0"[..], "xz"),
        (b"BZh91AY", "bzip2"),
        (b"\x04\x22\x4d\x18", "lz4"),
    ] {
        let error = refused(&[head, &[7; 2000]].concat(), plain());
        assert_eq!(
            error.to_string(),
            format!("unsupported layer compression: {name}")
        );
    }
    // A file may be called that.
    assert_eq!(
        names(
            applied(&Tar::new().file("BZh9", b"").end(), plain())
                .0
                .path()
        ),
        ["BZh9"]
    );
    let error = refused(&[b'x'; 2000], plain());
    assert!(matches!(error, Error::InvalidArchive(_)), "{error}");
    let named = ApplyOptions {
        compression: Compression::Gzip,
        ..plain()
    };
    let error = refused(&sample(), named);
    assert!(error.to_string().contains("no member header"), "{error}");
}

#[test]
fn media_types() {
    let of = |text: &str| Compression::from_media_type(text);
    let oci = "application/vnd.oci.image.layer.v1.tar";
    assert_eq!(of(oci).unwrap(), Compression::Auto);
    assert_eq!(of(&format!("{oci}+gzip")).unwrap(), Compression::Gzip);
    assert_eq!(of(&format!("{oci}+zstd")).unwrap(), Compression::Zstd);
    let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    assert_eq!(of(docker).unwrap(), Compression::Gzip);
    for bad in [
        "",
        "application/json",
        "application/vnd.oci.image.layer.v1.tar+encrypted",
    ] {
        assert!(matches!(of(bad), Err(Error::UnsupportedCompression(text)) if text == bad));
    }
}

#[test]
fn a_bomb_stops_at_its_limit() {
    let bomb = run(
        "sh",
        &[
            "-c",
            "dd if=/dev/zero bs=1M count=600 2>/dev/null | gzip -1c",
        ],
        b"",
    );
    let limits = Limits {
        max_unpacked_bytes: Some(10 << 20),
        ..Limits::default()
    };
    let options = || ApplyOptions { limits, ..plain() };
    let error = refused(&bomb, options());
    assert_eq!(
        error.to_string(),
        "layer exceeds the limit of 10485760 unpacked bytes"
    );
    let tar = [Tar::new().file("f", &vec![1; 11 << 20]).end()].concat();
    let error = refused(&tar, options());
    assert!(
        matches!(
            error,
            Error::LimitExceeded {
                limit: 10_485_760,
                ..
            }
        ),
        "{error}"
    );

    let limits = Limits {
        max_entries: Some(4),
        ..Limits::default()
    };
    let error = refused(&sample(), ApplyOptions { limits, ..plain() });
    assert_eq!(error.to_string(), "layer exceeds the limit of 4 entries");

    let header = Tar::new()
        .member(b'x', "pax", &vec![b' '; (1 << 20) + 1])
        .end();
    let error = refused(&header, plain());
    assert_eq!(
        error.to_string(),
        "layer exceeds the limit of 1048576 bytes of pax header"
    );
}

#[test]
fn a_pipe_is_as_good_as_a_file() {
    let tar = sample();
    for (_, stored) in forms(&tar) {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let expected = expecting(&stored, &tar);
        let feed = std::thread::spawn(move || {
            for piece in stored.chunks(777) {
                std::io::Write::write_all(&mut writer, piece).unwrap();
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        let source = File::from(std::os::fd::OwnedFd::from(reader));
        apply(source, root.as_fd(), expected).unwrap();
        feed.join().unwrap();
    }
}

#[test]
fn an_endless_pipe_stops_at_the_expected_size() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let feed =
        std::thread::spawn(
            move || {
                while std::io::Write::write_all(&mut writer, &[0; 65536]).is_ok() {}
            },
        );
    let dir = tempfile::tempdir().unwrap();
    let root = File::open(dir.path()).unwrap();
    let options = ApplyOptions {
        expected_size: Some(1_000_000),
        ..plain()
    };
    let source = File::from(std::os::fd::OwnedFd::from(reader));
    let error = apply(source, root.as_fd(), options).unwrap_err();
    assert!(
        matches!(
            error,
            Error::SizeMismatch {
                expected: 1_000_000,
                ..
            }
        ),
        "{error}"
    );
    feed.join().unwrap();
}

#[test]
fn cancelling() {
    let flag = Arc::new(AtomicBool::new(true));
    let options = |flag: &Arc<AtomicBool>| ApplyOptions {
        cancel: Some(Arc::clone(flag)),
        ..plain()
    };
    assert!(matches!(
        refused(&sample(), options(&flag)),
        Error::Cancelled
    ));

    // A pipe into which nobody writes, before and after the first bytes.
    for head in [&b""[..], &gzip(&sample())[..200]] {
        let flag = Arc::new(AtomicBool::new(false));
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, head).unwrap();
        let source = File::from(std::os::fd::OwnedFd::from(reader));
        let options = options(&flag);
        let call = std::thread::spawn(move || {
            let dir = tempfile::tempdir().unwrap();
            apply(source, File::open(dir.path()).unwrap().as_fd(), options)
        });
        std::thread::sleep(std::time::Duration::from_millis(120));
        assert!(!call.is_finished());
        flag.store(true, Ordering::Relaxed);
        let error = call.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error}");
        drop(writer);
    }
}

#[test]
fn a_consumer_that_fails_stops_a_pipe_that_goes_on() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let source = File::from(std::os::fd::OwnedFd::from(reader));
    let bad = Tar::new().file("f", b"").file("f/below", b"").end();
    let feed = std::thread::spawn(move || {
        std::io::Write::write_all(&mut writer, &bad).unwrap();
        // Keeps the pipe open until the reader is gone.
        while std::io::Write::write_all(&mut writer, &[0; 4096]).is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let error = apply(source, File::open(dir.path()).unwrap().as_fd(), plain()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
    feed.join().unwrap();
}

#[test]
fn sync_is_accepted() {
    let options = ApplyOptions {
        sync: true,
        ..plain()
    };
    applied(&sample(), options);
}

#[test]
fn a_full_file_system_is_an_error_that_names_the_file() {
    if !is_root() {
        return;
    }
    // A mount namespace of this thread's own; its mounts end with it.
    // SAFETY: the flags concern mounts and the working directory, no memory and no descriptors.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    mount(
        "tmpfs",
        dir.path(),
        "tmpfs",
        MountFlags::empty(),
        c"size=1m",
    )
    .unwrap();
    let archive = Tar::new()
        .dir("d")
        .file("d/large", &vec![7; 40 << 20])
        .end();
    for stored in [archive.clone(), gzip(&archive)] {
        let expected = expecting(&stored, &archive);
        let error = apply_to(dir.path(), &stored, expected).unwrap_err();
        assert_eq!(
            error.to_string(),
            "write d/large: No space left on device (os error 28)"
        );
    }
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
}
