//! Blobs made again from what they were unpacked to.

mod common;

use std::fs::{File, create_dir_all, remove_dir_all, remove_file, write};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use common::*;
use layer::recipe::{Encoding, Header, Made, MakeOptions, make, rebuild};
use layer::{
    Algorithm, ApplyOptions, DiffCompression, DiffOptions, Digest, Error, Whiteouts, apply, diff,
};
use tempfile::{TempDir, tempdir, tempfile};

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

fn bytes_of(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn unpacked(blob: &[u8]) -> TempDir {
    let folder = tempdir().unwrap();
    let root = File::open(folder.path()).unwrap();
    let options = ApplyOptions {
        whiteouts: Whiteouts::Remove,
        ..ApplyOptions::default()
    };
    apply(file_of(blob), root.as_fd(), options).unwrap();
    folder
}

fn options(blob: &[u8]) -> MakeOptions {
    MakeOptions {
        digest: Digest::of(Algorithm::Sha256, blob),
        size: blob.len() as u64,
        folder: "snapshots/1/fs".into(),
        sync: false,
        cancel: None,
    }
}

fn made(blob: &[u8], folder: &Path) -> (File, Made) {
    let recipe = tempfile().unwrap();
    let root = File::open(folder).unwrap();
    let made = make(&file_of(blob), root.as_fd(), &recipe, &options(blob)).unwrap();
    (recipe, made)
}

fn rebuilt(recipe: &File, folder: &Path) -> layer::Result<Vec<u8>> {
    let sink = tempfile().unwrap();
    let root = File::open(folder).unwrap();
    rebuild(recipe, root.as_fd(), &sink, None)?;
    Ok(bytes_of(&sink))
}

/// That a recipe gives the layer, byte for byte; `what` names it.
fn assert_repeated(blob: &[u8], what: impl std::fmt::Display) {
    let folder = unpacked(blob);
    let (recipe, made) = made(blob, folder.path());
    assert!(matches!(made, Made::Recipe { .. }), "{what}: {made:?}");
    assert!(rebuilt(&recipe, folder.path()).unwrap() == blob, "{what}");
}

/// A tree whose files are the most of it.
fn grown() -> TempDir {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    create_dir_all(at("usr/lib")).unwrap();
    for (n, name) in ["usr/lib/one", "usr/lib/two", "three"].iter().enumerate() {
        write(at(name), noise(20_000 + n * 90_000, n as u64 + 1)).unwrap();
    }
    write(at("small"), b"small").unwrap();
    write(at("empty"), b"").unwrap();
    symlink("usr/lib", at("lib")).unwrap();
    std::fs::hard_link(at("three"), at("four")).unwrap();
    folder
}

/// Bytes without a pattern, half of which is nothing; the same everywhere.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) as u8 & 15
        })
        .collect()
}

fn layer_of(folder: &Path, compression: DiffCompression, level: Option<i32>) -> Vec<u8> {
    let sink = tempfile().unwrap();
    let options = DiffOptions {
        compression,
        level,
        ..DiffOptions::default()
    };
    let root = File::open(folder).unwrap();
    diff(None, root.as_fd(), sink.try_clone().unwrap(), options).unwrap();
    bytes_of(&sink)
}

#[test]
fn a_plain_layer_comes_out_of_a_small_recipe() {
    let tree = grown();
    let blob = layer_of(tree.path(), DiffCompression::None, None);
    let folder = unpacked(&blob);
    let (recipe, made) = made(&blob, folder.path());
    let Made::Recipe { bytes, encoding } = made else {
        panic!("{made:?}")
    };
    assert_eq!(encoding, Encoding::Plain);
    assert_eq!(bytes, recipe.metadata().unwrap().len());
    assert!(bytes < 8192, "{bytes}");
    assert_eq!(
        Header::read(&recipe).unwrap(),
        Header {
            digest: Digest::of(Algorithm::Sha256, &blob),
            size: blob.len() as u64,
            encoding,
            folder: "snapshots/1/fs".into(),
        }
    );
    assert!(rebuilt(&recipe, folder.path()).unwrap() == blob);
}

#[test]
fn so_does_a_layer_of_any_archiver_and_what_is_behind_its_end() {
    let tree = grown();
    for format in ["gnu", "pax", "ustar", "v7"] {
        let option = format!("--format={format}");
        let path = tree.path().to_str().unwrap();
        let mut blob = run("tar", &[&option, "-C", path, "-cf-", "."], b"");
        blob.extend_from_slice(b"behind the end");
        assert_repeated(&blob, format);
    }
}

#[test]
fn our_own_gzip_is_repeated_whatever_its_level() {
    let tree = grown();
    for level in 1..=9u8 {
        let blob = layer_of(tree.path(), DiffCompression::Gzip, Some(level.into()));
        assert_repeated(&blob, level);
    }
}

#[test]
fn what_another_program_compressed_is_kept() {
    let tree = grown();
    let plain = layer_of(tree.path(), DiffCompression::None, None);
    let zstd = layer_of(tree.path(), DiffCompression::Zstd, None);
    let gzip = run("gzip", &["-nc"], &plain);
    // With the very header that ours has, so that the bytes have to tell.
    let mut alike = gzip.clone();
    alike[..10].copy_from_slice(&layer_of(tree.path(), DiffCompression::Gzip, None)[..10]);
    let folder = unpacked(&plain);
    for blob in [zstd, gzip, alike] {
        let (_, made) = made(&blob, folder.path());
        assert!(
            matches!(made, Made::Kept(why) if why.contains("another program")),
            "{made:?}"
        );
    }
}

#[test]
fn a_file_that_is_not_the_layers_is_in_the_recipe_and_too_many_make_none() {
    let tree = grown();
    let blob = layer_of(tree.path(), DiffCompression::None, None);
    let folder = unpacked(&blob);
    // What is before the change is still the layer's.
    let two = folder.path().join("usr/lib/two");
    File::options()
        .write(true)
        .open(&two)
        .unwrap()
        .write_all_at(b"changed", 60_000)
        .unwrap();
    let (recipe, first) = made(&blob, folder.path());
    assert!(
        matches!(first, Made::Recipe { bytes, .. } if bytes > 25_000),
        "{first:?}"
    );
    assert!(rebuilt(&recipe, folder.path()).unwrap() == blob);
    remove_file(folder.path().join("four")).unwrap();
    remove_dir_all(folder.path().join("usr")).unwrap();
    let (_, second) = made(&blob, folder.path());
    assert!(matches!(second, Made::Kept(_)), "{second:?}");
}

#[test]
fn wrong_bytes_are_never_taken_for_the_blob() {
    let tree = grown();
    let blob = layer_of(tree.path(), DiffCompression::Gzip, None);
    let folder = unpacked(&blob);
    let (recipe, _) = made(&blob, folder.path());
    let two = folder.path().join("usr/lib/two");
    let whole = std::fs::read(&two).unwrap();
    let mut other = whole.clone();
    other[1000] ^= 1;
    write(&two, &other).unwrap();
    let error = rebuilt(&recipe, folder.path()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::DigestMismatch { .. } | Error::SizeMismatch { .. }
        ),
        "{error}"
    );
    write(&two, &whole[..5000]).unwrap();
    let error = rebuilt(&recipe, folder.path()).unwrap_err();
    assert!(
        error.to_string().contains("usr/lib/two: it is shorter"),
        "{error}"
    );
    remove_file(&two).unwrap();
    symlink("/etc/passwd", &two).unwrap();
    let error = rebuilt(&recipe, folder.path()).unwrap_err();
    assert!(
        error.to_string().contains("usr/lib/two: it is no file"),
        "{error}"
    );
    remove_file(&two).unwrap();
    write(&two, &whole).unwrap();
    assert!(rebuilt(&recipe, folder.path()).unwrap() == blob);
}

#[test]
fn a_damaged_recipe_is_told() {
    let tree = grown();
    let blob = layer_of(tree.path(), DiffCompression::None, None);
    let folder = unpacked(&blob);
    let (recipe, _) = made(&blob, folder.path());
    let whole = bytes_of(&recipe);
    for at in [0, 30, 4096 + 20, whole.len() - 3] {
        let mut other = whole.clone();
        other[at] ^= 0x10;
        assert!(rebuilt(&file_of(&other), folder.path()).is_err(), "{at}");
    }
    for len in [0, 100, 4096, whole.len() - 1] {
        assert!(
            rebuilt(&file_of(&whole[..len]), folder.path()).is_err(),
            "{len}"
        );
    }
}

#[test]
fn a_blob_that_is_damaged_makes_none() {
    let tree = grown();
    let blob = layer_of(tree.path(), DiffCompression::None, None);
    let folder = unpacked(&blob);
    let mut other = blob.clone();
    let last = other.len() - 1;
    other[last] = 1;
    let root = File::open(folder.path()).unwrap();
    let recipe = tempfile().unwrap();
    let error = make(&file_of(&other), root.as_fd(), &recipe, &options(&blob)).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    assert!(Header::read(&recipe).is_err());
}
