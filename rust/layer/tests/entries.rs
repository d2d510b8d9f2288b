//! Every type of entry and every dialect of tar arrives as it was archived.

mod common;

use std::os::unix::fs::MetadataExt;

use common::*;
use layer::{ApplyOptions, Compression, Error};

fn plain() -> ApplyOptions {
    ApplyOptions::default()
}

#[test]
fn an_entry_of_each_type() {
    if !is_root() {
        return;
    }
    let special = |name: &'static str, flag, mode, device| Head {
        name: name.as_bytes(),
        flag,
        mode,
        device,
        uid: 7,
        gid: 8,
        ..Head::default()
    };
    let archive = Tar::new()
        .dir("./")
        .dir("./dir/")
        .file("./dir/file", b"content")
        .symlink("dir/symlink", "/nowhere/at all")
        .hardlink("dir/hardlink", "dir/file")
        .hardlink("dir/link-to-symlink", "./dir/symlink")
        .head(&special("null", b'3', 0o666, (1, 3)))
        // The type bits do not belong into the mode field; some writers put them there.
        .head(&special("odd", b'3', 0o20_600, (0xfff, 0xfffff)))
        .head(&special("disk", b'4', 0o7640, (259, 65537)))
        .head(&special("fifo", b'6', 0o1611, (0, 0)))
        .end();
    let (dir, applied) = applied(&archive, plain());
    assert_eq!(applied.entries, 10);
    assert_eq!(applied.compression, Compression::None);
    assert_eq!(applied.warnings, [""; 0]);
    let tree = tree(dir.path());
    let node = |name: &str| &tree[std::path::Path::new(name)];
    assert_eq!(tree.len(), 9);
    assert_eq!(node("dir").kind, "directory");
    assert_eq!(
        (node("dir").mode, node("dir").mtime),
        (0o755, 1_600_000_000)
    );
    assert_eq!(node("dir/file").content, b"content");
    assert_eq!(node("dir/hardlink").first_name, node("dir/file").first_name);
    assert_eq!(node("dir/symlink").content, b"/nowhere/at all");
    assert_eq!(node("dir/symlink").mtime, 1_600_000_000);
    assert_eq!(node("dir/link-to-symlink").kind, "symlink");
    assert_eq!(
        node("dir/link-to-symlink").first_name,
        node("dir/link-to-symlink").first_name
    );
    let shape = |name: &str| {
        let node = node(name);
        let device = (
            rustix::fs::major(node.device),
            rustix::fs::minor(node.device),
        );
        (node.kind, node.mode, node.owner, device)
    };
    assert_eq!(shape("null"), ("char", 0o666, (7, 8), (1, 3)));
    assert_eq!(shape("odd"), ("char", 0o600, (7, 8), (0xfff, 0xfffff)));
    assert_eq!(shape("disk"), ("block", 0o7640, (7, 8), (259, 65537)));
    assert_eq!(shape("fifo"), ("fifo", 0o1611, (7, 8), (0, 0)));
}

#[test]
fn set_id_bits_and_capabilities_survive_the_change_of_owner() {
    if !is_root() {
        return;
    }
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let head = Head {
        name: b"ping",
        mode: 0o6755,
        uid: 1000,
        gid: 2000,
        ..Head::default()
    };
    let archive = Tar::new()
        .pax(&[("SCHILY.xattr.security.capability", capability)])
        .head(&head)
        // Linking a file that already is as the header says must not strip it of anything.
        .head(&Head {
            name: b"linked",
            flag: b'1',
            link: b"ping",
            ..head.clone()
        })
        .end();
    let (dir, _) = applied(&archive, plain());
    let tree = tree(dir.path());
    for name in ["ping", "linked"] {
        let node = &tree[std::path::Path::new(name)];
        assert_eq!((node.mode, node.owner), (0o6755, (1000, 2000)), "{name}");
        let expected = ("security.capability".to_owned(), capability.to_vec());
        assert_eq!(node.xattrs, [expected], "{name}");
    }
}

#[test]
fn the_owner_can_be_left_to_the_caller() {
    let options = ApplyOptions {
        same_owner: false,
        ..plain()
    };
    let head = Head {
        name: b"f",
        uid: 1234,
        gid: 1234,
        mode: 0o4711,
        ..Head::default()
    };
    let (dir, _) = applied(&Tar::new().head(&head).end(), options);
    let meta = dir.path().join("f").metadata().unwrap();
    assert_eq!(meta.uid(), rustix::process::geteuid().as_raw());
    assert_eq!(meta.mode() & 0o7777, 0o4711);
}

#[test]
fn the_process_umask_does_not_matter_and_is_left_alone() {
    let head = |name, flag, mode| Head {
        name,
        flag,
        mode,
        ..Head::default()
    };
    let archive = Tar::new()
        .head(&head(b"f", b'0', 0o666))
        .head(&head(b"d", b'5', 0o777))
        .head(&head(b"d/implied/f", b'0', 0o600))
        .end();
    let (dir, _) = applied(&archive, plain());
    let tree = tree(dir.path());
    let mode = |name: &str| tree[std::path::Path::new(name)].mode;
    assert_eq!(
        (mode("f"), mode("d"), mode("d/implied")),
        (0o666, 0o777, 0o755)
    );
    let here = tempfile::tempdir().unwrap();
    std::fs::write(here.path().join("f"), "").unwrap();
    assert_eq!(here.path().join("f").metadata().unwrap().mode() & 0o022, 0);
}

#[test]
fn later_entries_replace_earlier_ones() {
    let archive = Tar::new()
        .file("a", b"old")
        .file("a", b"new and longer")
        .dir("b")
        .file("b/inside", b"x")
        .file("b", b"b is a file now")
        .file("c", b"x")
        .dir("c")
        .file("c/inside", b"y")
        .symlink("d", "c")
        .dir("d")
        .file("d/own", b"z")
        .dir("c")
        .symlink("e", "a")
        .hardlink("e", "a")
        .hardlink("a", "a")
        .end();
    let (dir, _) = applied(&archive, plain());
    let tree = tree(dir.path());
    let node = |name: &str| &tree[std::path::Path::new(name)];
    assert_eq!(node("a").content, b"new and longer");
    assert_eq!(node("b").content, b"b is a file now");
    assert_eq!(node("c/inside").content, b"y");
    assert_eq!(node("d").kind, "directory");
    assert_eq!(node("d/own").content, b"z");
    assert!(!tree.contains_key(std::path::Path::new("c/own")));
    assert_eq!(node("e").content, b"new and longer");
    assert_eq!(tree.len(), 7);
}

#[test]
fn times_with_nanoseconds_and_out_of_range() {
    let archive = Tar::new()
        .pax(&[
            ("mtime", b"1500000000.123456789"),
            ("atime", b"1600000000.5"),
        ])
        .file("nanos", b"")
        .pax(&[("mtime", b"-1.5")])
        .file("before-1970", b"")
        .pax(&[("mtime", b"99999999999999")])
        .file("far", b"")
        .pax(&[("mtime", b"1400000000.25")])
        .dir("d")
        .file("d/later", b"")
        .end();
    let (dir, _) = applied(&archive, plain());
    let meta = |name: &str| dir.path().join(name).symlink_metadata().unwrap();
    let nanos = meta("nanos");
    assert_eq!(
        (nanos.mtime(), nanos.mtime_nsec()),
        (1_500_000_000, 123_456_789)
    );
    assert_eq!(
        (nanos.atime(), nanos.atime_nsec()),
        (1_600_000_000, 500_000_000)
    );
    assert_eq!(meta("before-1970").mtime(), 0);
    assert_eq!(meta("far").mtime(), 0);
    assert_eq!(
        (meta("d").mtime(), meta("d").mtime_nsec()),
        (1_400_000_000, 250_000_000)
    );
}

#[test]
fn long_names_in_every_dialect() {
    let long = "d/".repeat(100) + &"n".repeat(200);
    let target = "t".repeat(300);
    let mut sized = Head {
        name: b"@LongLink",
        flag: b'L',
        size: long.len() as u64 + 1,
        magic: b"ustar  \0",
        ..Head::default()
    };
    let long_nul = [long.as_bytes(), b"\0"].concat();
    let gnu = Tar::new().head(&sized).data(&long_nul);
    sized.flag = b'K';
    sized.size = target.len() as u64;
    let gnu = gnu
        .head(&sized)
        .data(target.as_bytes())
        .symlink("cut", "cut")
        .end();
    let pax = Tar::new()
        .pax(&[("path", long.as_bytes()), ("linkpath", target.as_bytes())])
        .symlink("cut", "cut")
        .end();
    for archive in [gnu, pax] {
        let (dir, _) = applied(&archive, plain());
        let link = std::fs::read_link(dir.path().join(&long)).unwrap();
        assert_eq!(link.to_str(), Some(&*target));
    }

    let ustar = Head {
        name: b"name",
        prefix: b"some/prefix",
        ..Head::default()
    };
    let mut star = Head {
        prefix: b"star/prefix",
        ..ustar.clone()
    }
    .block();
    star[508..512].copy_from_slice(b"tar\0");
    checksum(&mut star);
    // GNU has times where ustar has the prefix; what is no number there is old Go's mistake.
    let gnu = Head {
        prefix: b"00000000000\x0000000000000\0",
        magic: b"ustar  \0",
        ..ustar.clone()
    };
    let old_go = Head {
        prefix: b"go/prefix",
        magic: b"ustar  \0",
        ..ustar.clone()
    };
    let v7 = Head {
        prefix: b"no/prefix",
        magic: &[0; 8],
        name: b"v7dir/",
        flag: 0,
        ..ustar.clone()
    };
    let archive = Tar::new()
        .head(&ustar)
        .raw(&star)
        .head(&gnu)
        .head(&old_go)
        .head(&v7)
        .end();
    let (dir, _) = applied(&archive, plain());
    let expected = [
        "go",
        "go/prefix",
        "go/prefix/name",
        "name",
        "some",
        "some/prefix",
        "some/prefix/name",
        "star",
        "star/prefix",
        "star/prefix/name",
        "v7dir",
    ];
    assert_eq!(names(dir.path()), expected);
    assert!(dir.path().join("v7dir").is_dir());
}

#[test]
fn names_of_four_kibibytes() {
    let fits = vec!["c".repeat(250); 16].join("/").into_bytes();
    assert_eq!(fits.len(), 4015);
    let (dir, _) = applied(
        &Tar::new().pax(&[("path", &fits)]).file("x", b"deep").end(),
        plain(),
    );
    assert_eq!(names(dir.path()).len(), 16);

    let too_long = "c/".repeat(2100).into_bytes();
    let error = refused(
        &Tar::new().pax(&[("path", &too_long)]).file("x", b"").end(),
        plain(),
    );
    assert_eq!(
        error.to_string(),
        "layer exceeds the limit of 4095 bytes of path"
    );

    let component = "c".repeat(256).into_bytes();
    let error = refused(
        &Tar::new().pax(&[("path", &component)]).file("x", b"").end(),
        plain(),
    );
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG), "{error}");
}

#[test]
fn numbers_in_base_256() {
    if !is_root() {
        return;
    }
    let base256 = |block: &mut [u8; 512], at: usize, len: usize, value: i64| {
        let bytes = value.to_be_bytes();
        block[at..at + len].fill(if value < 0 { 0xff } else { 0 });
        block[at + len - 8.min(len)..at + len].copy_from_slice(&bytes[8 - 8.min(len)..]);
        block[at] |= 0x80;
    };
    let mut block = Head {
        name: b"f",
        magic: b"ustar  \0",
        ..Head::default()
    }
    .block();
    base256(&mut block, 108, 8, 3_000_000_000);
    base256(&mut block, 116, 8, 4_000_000_000);
    base256(&mut block, 136, 12, 9_000_000_000);
    checksum(&mut block);
    let (dir, _) = applied(&Tar::new().raw(&block).end(), plain());
    let meta = dir.path().join("f").metadata().unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mtime()),
        (3_000_000_000, 4_000_000_000, 9_000_000_000)
    );

    for (at, len, value, what) in [
        (108, 8, -1, "uid -1 of \"f\" is out of range"),
        (
            108,
            8,
            i64::from(u32::MAX),
            "uid 4294967295 of \"f\" is out of range",
        ),
        (124, 12, -1, "negative size in tar header"),
        (124, 12, i64::MAX, "size of a tar entry is out of range"),
    ] {
        let mut block = block;
        base256(&mut block, at, len, value);
        checksum(&mut block);
        let error = refused(&Tar::new().raw(&block).end(), plain());
        assert_eq!(error.to_string(), format!("invalid archive: {what}"));
    }
    // Eleven significant bytes do not fit 64 bits.
    block[124..136].copy_from_slice(b"\x80\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
    checksum(&mut block);
    let error = refused(&Tar::new().raw(&block).end(), plain());
    assert!(error.to_string().contains("no valid size"), "{error}");
}

#[test]
fn extended_attributes() {
    if !is_root() {
        return;
    }
    let value = b"binary\0\n=value";
    let archive = Tar::new()
        .pax(&[
            ("SCHILY.xattr.user.one", value),
            ("SCHILY.xattr.user.a%3Db", b"equals"),
            ("SCHILY.xattr.user.empty", b""),
            ("LIBARCHIVE.xattr.user.two", b"dHdv"),
            ("LIBARCHIVE.xattr.user.one", b"bm90IHRoaXM="),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ])
        .dir("d")
        .pax(&[("SCHILY.xattr.user.one", value)])
        .symlink("l", "d")
        .pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/etc")])
        .file("f", b"")
        .end();
    let (dir, applied) = applied(&archive, plain());
    let tree = tree(dir.path());
    let of = |name: &str| tree[std::path::Path::new(name)].xattrs.clone();
    let pair = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
    let expected = [
        pair("user.a=b", b"equals"),
        pair("user.empty", b""),
        pair("user.one", value),
        pair("user.two", b"two"),
    ];
    assert_eq!(of("d"), expected);
    assert_eq!(of("l"), []);
    assert_eq!(of("f"), []);
    assert_eq!(applied.warnings.len(), 3, "{:?}", applied.warnings);
    assert!(applied.warnings[1].contains("\"l\": attribute \"user.one\" left out"));
}

#[test]
fn unknown_types_are_left_out_with_their_content() {
    let archive = Tar::new()
        .member(b'V', "volume label", b"")
        .member(b'Z', "unknown", &[1; 700])
        .member(b'7', "contiguous", b"is a file")
        .member(b'D', "dumpdir", b"Ylisting\0\0")
        .pax(&[("comment", b"nobody reads this")])
        .file("f", b"after")
        .end();
    let (dir, applied) = applied(&archive, plain());
    assert_eq!(names(dir.path()), ["contiguous", "dumpdir", "f"]);
    assert!(dir.path().join("dumpdir").is_dir());
    assert_eq!(
        applied.warnings,
        ["\"unknown\" left out: entry type 'Z' is unknown"]
    );
}

#[test]
fn global_headers_are_checked_and_ignored() {
    let global = |data: &[u8]| Tar::new().member(b'g', "pax_global_header", data);
    let archive = global(&record("path", b"everywhere")).file("f", b"").end();
    assert_eq!(names(applied(&archive, plain()).0.path()), ["f"]);
    let error = refused(&global(b"nonsense").file("f", b"").end(), plain());
    assert!(matches!(error, Error::InvalidArchive(_)), "{error}");
}

/// As GNU tar writes them, each format it knows; holes stay holes.
#[test]
fn sparse_files_of_gnu_tar() {
    let source = tempfile::tempdir().unwrap();
    let mut expected = vec![0; 9 << 20];
    for i in 0..60 {
        expected[i * 150_000..][..500].fill(i as u8 + 1);
    }
    let path = source.path().join("sparse");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(expected.len() as u64).unwrap();
    for i in 0..60 {
        let at = i * 150_000;
        std::os::unix::fs::FileExt::write_all_at(&file, &expected[at..at + 500], at as u64)
            .unwrap();
    }
    let formats = [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ];
    for format in formats {
        let mut args = format.to_vec();
        args.extend(["--sparse", "--hole-detection=raw", "-cf-", "-C"]);
        args.extend([source.path().to_str().unwrap(), "sparse"]);
        let archive = run("tar", &args, b"");
        assert!(
            archive.len() < 1 << 20,
            "{format:?} did not make a sparse archive"
        );
        let (dir, _) = applied(&archive, plain());
        let path = dir.path().join("sparse");
        assert!(std::fs::read(&path).unwrap() == expected, "{format:?}");
        let blocks = path.metadata().unwrap().blocks();
        assert!(blocks * 512 < 2 << 20, "{format:?}: {blocks} blocks");
    }
}

#[test]
fn malformed_sparse_maps_are_refused() {
    let sparse = |records: &[(&str, &[u8])], data: &[u8]| {
        refused(&Tar::new().pax(records).file("f", data).end(), plain()).to_string()
    };
    let map = |map: &'static [u8], size: &'static [u8], data: &[u8]| {
        sparse(&[("GNU.sparse.size", size), ("GNU.sparse.map", map)], data)
    };
    assert!(map(b"4,4,2,4", b"100", &[1; 8]).contains("malformed sparse map"));
    assert!(map(b"0,8", b"7", &[1; 8]).contains("malformed sparse map"));
    assert!(map(b"9223372036854775807,9223372036854775807", b"8", &[1; 8]).contains("malformed"));
    assert!(map(b"0,4", b"8", &[1; 8]).contains("describes 4 bytes of data, the archive holds 8"));
    assert!(map(b"0,9", b"9", &[1; 8]).contains("describes 9 bytes of data, the archive holds 8"));
    assert!(map(b"-1,9", b"9", &[1; 8]).contains("no valid value"));
    let one_zero = |data: &[u8]| {
        let records: [(&str, &[u8]); 3] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"100"),
        ];
        sparse(&records, data)
    };
    assert!(
        one_zero(b"1\n0\n").contains("malformed"),
        "shorter than a block"
    );
    assert!(one_zero(&[b'1'; 512]).contains("malformed"), "no newline");
    assert!(one_zero(&[b"999999999\n", &[0; 502][..]].concat()).contains("limit of 1048576 bytes"));
    assert!(one_zero(&b"7\n".repeat(1 << 19)).contains("malformed"));

    // Extension blocks of the old format that never end.
    let mut head = Head {
        name: b"f",
        flag: b'S',
        magic: b"ustar  \0",
        ..Head::default()
    }
    .block();
    head[482] = 1;
    octal(&mut head[483..495], 0);
    checksum(&mut head);
    let mut endless = Tar::new().raw(&head);
    for _ in 0..2100 {
        let mut block = [0; 512];
        block[504] = 1;
        endless = endless.raw(&block);
    }
    let error = refused(&endless.end(), plain());
    assert!(matches!(error, Error::LimitExceeded { .. }), "{error}");
}

#[test]
fn a_huge_sparse_file_takes_no_room() {
    let archive = Tar::new()
        .pax(&[
            ("GNU.sparse.size", b"1099511627776"),
            ("GNU.sparse.map", b"1099511627768,8"),
        ])
        .file("f", b"the end!")
        .end();
    let (dir, _) = applied(&archive, plain());
    let meta = dir.path().join("f").metadata().unwrap();
    assert_eq!(meta.len(), 1 << 40);
    assert!(meta.blocks() < 1000);
}

#[test]
fn long_runs_of_zeros_become_holes() {
    let mut data = vec![0; 3 << 20];
    data[1 << 20] = 1;
    let (dir, _) = applied(&Tar::new().file("f", &data).end(), plain());
    assert!(std::fs::read(dir.path().join("f")).unwrap() == data);
    assert!(dir.path().join("f").metadata().unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn a_hundred_thousand_entries() {
    let mut archive = Tar::new();
    for d in 0..100 {
        archive = archive.dir(&format!("{d}"));
        for f in 0..999 {
            archive = archive.file(&format!("{d}/{f}"), b"");
        }
    }
    let dir = fast_dir();
    let archive = archive.end();
    let applied = apply_to(dir.path(), &archive, plain()).unwrap();
    assert_eq!(applied.entries, 100_000);
    let root = std::fs::File::open(dir.path()).unwrap();
    let usage = layer::disk_usage(std::os::fd::AsFd::as_fd(&root)).unwrap();
    assert_eq!(usage.inodes, 100_001);
}
