//! Properties of reader and writer.

mod common;
#[path = "common/harness.rs"]
#[allow(dead_code)]
mod harness;

use layer::tar::{Kind, Reader, Time, WriteEntry, write_header};
use proptest::collection::vec;
use proptest::prelude::*;

/// Bytes a name can have; slashes are frequent.
fn name(max: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => Just(b'/'), 20 => b'a'..=b'z', 1 => 1..=255u8];
    vec(byte, 1..max)
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::File),
        Just(Kind::HardLink),
        Just(Kind::Symlink),
        Just(Kind::Char),
        Just(Kind::Block),
        Just(Kind::Directory),
        Just(Kind::Fifo),
    ]
}

fn xattrs() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let pair = (vec(1..=255u8, 1..40), vec(any::<u8>(), 0..300));
    vec(pair, 0..4).prop_map(|mut list| {
        list.sort();
        list.dedup_by(|a, b| a.0 == b.0);
        list
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        // The same cases each time; new ones are the fuzzer's business.
        rng_seed: proptest::test_runner::RngSeed::Fixed(7),
        ..ProptestConfig::with_cases(1500)
    })]

    #[test]
    fn what_is_written_is_read_back(
        kind in kind(),
        path in name(400),
        link in name(400),
        mode in 0..=0o7777u32,
        ids in any::<(u32, u32)>(),
        content in vec(any::<u8>(), 0..2000),
        mtime in any::<i64>(),
        device in (0..1u32 << 21, 0..1u32 << 21),
        xattrs in xattrs(),
    ) {
        let is_device = matches!(kind, Kind::Char | Kind::Block);
        let content = if kind == Kind::File { content } else { Vec::new() };
        let entry = WriteEntry {
            kind,
            path: &path,
            link: &link,
            mode,
            uid: ids.0,
            gid: ids.1,
            size: content.len() as u64,
            mtime,
            device: if is_device { device } else { (0, 0) },
            xattrs: &xattrs,
        };
        let mut archive = Vec::new();
        write_header(&entry, &mut archive);
        archive.extend_from_slice(&content);
        archive.resize(archive.len().next_multiple_of(512), 0);
        write_header(&entry, &mut archive);
        let mut reader = Reader::new(&archive[..]);
        let read = reader.next_entry().unwrap().unwrap();
        let (major, minor) = entry.device;
        prop_assert_eq!(read.kind, kind);
        prop_assert_eq!(&read.path, &path);
        prop_assert_eq!(&read.link, &link);
        prop_assert_eq!((read.mode, read.uid, read.gid), (mode, ids.0.into(), ids.1.into()));
        prop_assert_eq!(read.size, content.len() as u64);
        prop_assert_eq!(read.mtime, Time { seconds: mtime, nanos: 0 });
        prop_assert_eq!(read.device, (major.into(), minor.into()));
        // Records are sorted by their escaped names.
        let mut read_xattrs = read.xattrs.clone();
        read_xattrs.sort();
        prop_assert_eq!(&read_xattrs, &xattrs);
        prop_assert_eq!(reader.content().unwrap(), &content[..]);
        // The next header is found without reading the content.
        prop_assert_eq!(reader.next_entry().unwrap().unwrap().path, path);
    }

    #[test]
    fn any_bytes_are_read_to_an_end(blocks in vec(vec(any::<u8>(), 512), 0..8), cut in 0..4096usize) {
        let mut archive = blocks.concat();
        archive.truncate(cut);
        harness::read_archive(&archive);
        harness::fix_checksums(&mut archive);
        harness::read_archive(&archive);
    }
}
