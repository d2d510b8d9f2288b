//! A few thousand seeded mutations of valid archives on the stable toolchain. The same harness runs under
//! libFuzzer in `fuzz/`. `LAYER_FUZZ_ITERATIONS` makes it longer; a failure names its iteration, which
//! alone determines the input.

mod common;
#[path = "common/harness.rs"]
mod harness;

use common::*;

fn iterations(default: u64) -> u64 {
    std::env::var("LAYER_FUZZ_ITERATIONS").map_or(default, |n| n.parse().expect("a number"))
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Archives that between them use everything the reader knows.
fn seeds() -> Vec<Vec<u8>> {
    let entries = Tar::new()
        .dir("./")
        .dir("d")
        .file("d/file", b"content")
        .symlink("d/out", "../../outside")
        .symlink("abs", "/outside")
        .hardlink("d/again", "d/file")
        .file("d/out/secret", b"x")
        .head(&Head {
            name: b"fifo",
            flag: b'6',
            ..Head::default()
        })
        .dir("d/sub")
        .file("d/sub/f", &[1; 1000])
        .end();
    let whiteouts = Tar::new()
        .file("old/.wh.file", b"")
        .file("d/.wh..wh..opq", b"")
        .file("out/.wh.secret", b"")
        .hardlink("h", "d/file")
        .file(".wh.d", b"")
        .dir("d")
        .file("out/secret", b"")
        .end();
    let long = "l".repeat(150);
    let extended = Tar::new()
        .pax(&[
            ("path", b"d/pax"),
            ("mtime", b"1.5"),
            ("SCHILY.xattr.user.k", b"v"),
        ])
        .file("x", b"content")
        .member(b'L', "@LongLink", long.as_bytes())
        .file("x", b"")
        .member(b'K', "@LongLink", long.as_bytes())
        .symlink("y", "z")
        .member(b'g', "global", &record("comment", b"c"))
        .pax(&[
            ("GNU.sparse.size", b"100000"),
            ("GNU.sparse.map", b"10,4,5000,4"),
        ])
        .file("s1", b"12345678")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"9999"),
            ("GNU.sparse.name", b"s2"),
        ])
        .file("x", &[&b"1\n7\n3\n"[..], &[0; 506], b"abc"].concat())
        .end();
    vec![entries, whiteouts, extended]
}

fn mutate(random: &mut Random, data: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..1 + random.below(6) {
        let len = data.len();
        let at = random.below(len);
        match random.below(9) {
            0 => data[at] ^= 1 << random.below(8),
            1 => data[at] = random.next() as u8,
            2 => data.truncate(at),
            3 => {
                let block = at / 512 * 512;
                let copy = data[block..(block + 512).min(len)].to_vec();
                let to = (random.below(len) / 512 * 512).min(data.len());
                data.splice(to..to, copy);
            }
            4 => {
                let block = at / 512 * 512;
                data.drain(block..(block + 512).min(len));
            }
            5 => {
                let other = &others[random.below(others.len())];
                let from = random.below(other.len()) / 512 * 512;
                data.splice(at / 512 * 512.., other[from..].iter().copied());
            }
            // The fields where it hurts: size, type, name, link.
            6 => {
                let block = at / 512 * 512;
                let field = [124, 156, 0, 157, 100, 257][random.below(6)];
                let value = [b'0', b'7', 0, 0x80, 0xff, b'/', b'.', b'x', b'1'][random.below(9)];
                if let Some(byte) = data.get_mut(block + field + random.below(12) % 12) {
                    *byte = value;
                }
            }
            7 => {
                let end = (at + random.below(40)).min(len);
                data[at..end].fill([b'/', b'.', 0, b'9'][random.below(4)]);
            }
            _ => {
                let names = [
                    "../x",
                    "d/out",
                    "/outside",
                    ".wh.d",
                    "d/.wh..wh..opq",
                    "old",
                    "out/f",
                ];
                let name = names[random.below(names.len())].as_bytes();
                let block = at / 512 * 512 + [0, 157][random.below(2)];
                if let Some(field) = data.get_mut(block..block + name.len() + 1) {
                    field[..name.len()].copy_from_slice(name);
                    field[name.len()] = 0;
                }
            }
        }
        if data.is_empty() {
            return;
        }
    }
}

fn mutations(salt: u64, count: u64, mut check: impl FnMut(&mut Random, Vec<u8>)) {
    let seeds = seeds();
    for iteration in 0..count {
        let mut random = Random(iteration.wrapping_mul(0x0100_0193).wrapping_add(salt));
        let mut data = seeds[random.below(seeds.len())].clone();
        mutate(&mut random, &mut data, &seeds);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            check(&mut random, data);
        }));
        assert!(outcome.is_ok(), "iteration {iteration}");
    }
}

#[test]
fn mutated_archives_are_read_to_an_end() {
    mutations(1, iterations(20_000), |_, mut data| {
        harness::fix_checksums(&mut data);
        harness::read_archive(&data);
    });
}

#[test]
fn mutated_archives_stay_inside_the_root() {
    mutations(2, iterations(3000), |random, mut data| {
        let how = random.next() as u8 | u8::from(random.below(8) != 0);
        let how = if is_root() { how } else { how & !2 };
        data.insert(0, how);
        harness::apply_archive(&data);
    });
}

#[test]
fn mutated_compressed_archives_stay_inside_the_root() {
    let mut packed: Vec<Vec<u8>> = seeds().iter().map(|seed| gzip(seed)).collect();
    packed.extend(seeds().iter().map(|seed| zstd(seed)));
    for iteration in 0..iterations(1000) {
        let mut random = Random(iteration);
        let mut data = packed[random.below(packed.len())].clone();
        mutate(&mut random, &mut data, &packed);
        data.insert(0, 0);
        harness::apply_archive(&data);
    }
}

#[test]
fn grown_trees_survive_the_round_trip() {
    for iteration in 0..iterations(300) {
        let mut random = Random(iteration);
        let data: Vec<u8> = (0..20 + random.below(200))
            .map(|_| random.next() as u8)
            .collect();
        let outcome = std::panic::catch_unwind(|| harness::round_trip(&data));
        assert!(outcome.is_ok(), "iteration {iteration}");
    }
}

#[test]
fn compressed_bytes_that_are_wrong_are_refused() {
    for iteration in 0..iterations(300) {
        let mut random = Random(iteration ^ 0xf4a3);
        let seed = seeds().swap_remove(random.below(3));
        let how = random.below(2) as u8;
        let mut data = if how == 0 {
            gzip_of(&seed)
        } else {
            zstd_of(&seed)
        };
        for _ in 0..random.below(4) {
            let at = random.below(data.len());
            match random.below(3) {
                0 => data[at] ^= 1 << random.below(8),
                1 => data.truncate(at.max(1)),
                _ => data.extend_from_within(at..),
            }
        }
        data.insert(0, how | 2);
        harness::apply_compressed(&data);
    }
}

#[test]
fn extended_records_that_are_wrong_are_refused() {
    let keys = [
        "path",
        "size",
        "mtime",
        "linkpath",
        "GNU.sparse.map",
        "SCHILY.xattr.user.k",
    ];
    let values: [&[u8]; 6] = [
        b"../x",
        b"99999999999999999999",
        b"-1.5",
        b"\0",
        b"1,2,3",
        b"",
    ];
    for iteration in 0..iterations(300) {
        let mut random = Random(iteration ^ 0x9a5);
        let mut data = vec![random.next() as u8];
        for _ in 0..1 + random.below(3) {
            data.extend(record(keys[random.below(6)], values[random.below(6)]));
        }
        for _ in 0..random.below(3) {
            let at = 1 + random.below(data.len() - 1);
            data[at] = random.next() as u8;
        }
        harness::read_records(&data);
    }
}

/// By our own encoder: no program has to be installed, and none is started hundreds of times.
fn packed(seed: &[u8], compression: layer::DiffCompression) -> Vec<u8> {
    use std::io::{Read, Seek};
    let tree = fast_dir();
    std::fs::write(tree.path().join("file"), seed).unwrap();
    let mut sink = tempfile::tempfile().unwrap();
    let options = layer::DiffOptions {
        compression,
        ..layer::DiffOptions::default()
    };
    let above = std::fs::File::open(tree.path()).unwrap();
    let to = sink.try_clone().unwrap();
    layer::diff(None, std::os::fd::AsFd::as_fd(&above), to, options).unwrap();
    let mut data = Vec::new();
    sink.rewind().unwrap();
    sink.read_to_end(&mut data).unwrap();
    data
}

fn gzip_of(seed: &[u8]) -> Vec<u8> {
    packed(seed, layer::DiffCompression::Gzip)
}

fn zstd_of(seed: &[u8]) -> Vec<u8> {
    packed(seed, layer::DiffCompression::Zstd)
}
