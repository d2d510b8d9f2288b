//! Nothing in an archive lands, is linked, changed or deleted outside the root.

mod common;

use std::fs::{create_dir, write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::*;
use layer::{ApplyOptions, Error, Whiteouts};
use tempfile::TempDir;

/// A root and, beside it, a directory that must stay as it is.
struct Scene {
    dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        create_dir(dir.path().join("root")).unwrap();
        create_dir(dir.path().join("outside")).unwrap();
        write(dir.path().join("outside/secret"), "secret").unwrap();
        create_dir(dir.path().join("outside/dir")).unwrap();
        write(dir.path().join("outside/dir/file"), "file").unwrap();
        Self { dir }
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    fn outside(&self) -> std::path::PathBuf {
        self.dir.path().join("outside")
    }

    /// Everything one can see of the outside, change times included.
    fn print(&self) -> impl PartialEq + std::fmt::Debug {
        let stat = |path: &Path| {
            let meta = path.symlink_metadata().unwrap();
            (meta.ctime(), meta.ctime_nsec(), meta.nlink(), meta.mode())
        };
        let mut names: Vec<_> = tree(&self.outside()).into_keys().collect();
        names.push("".into());
        let mut all: Vec<_> = names
            .into_iter()
            .map(|name| (stat(&self.outside().join(&name)), name))
            .collect();
        let mut here: Vec<_> = std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        here.sort();
        all.extend(here.into_iter().map(|path| ((0, 0, 0, 0), path)));
        all
    }
}

/// Applies with both kinds of whiteouts; the archive may be refused or not, the outside stays.
fn stays_inside(make: impl Fn(&Scene) -> Tar) -> Vec<Result<Vec<String>, Error>> {
    [Whiteouts::Remove, Whiteouts::Overlay { userxattr: false }]
        .into_iter()
        .filter(|&whiteouts| whiteouts == Whiteouts::Remove || is_root())
        .map(|whiteouts| {
            let scene = Scene::new();
            let archive = make(&scene).end();
            let before = scene.print();
            let options = ApplyOptions {
                whiteouts,
                ..ApplyOptions::default()
            };
            let result = apply_to(&scene.root(), &archive, options);
            assert_eq!(scene.print(), before, "{result:?}");
            result.map(|_| names(&scene.root()))
        })
        .collect()
}

fn path(scene: &Scene, name: &str) -> String {
    scene.outside().join(name).to_str().unwrap().to_owned()
}

#[test]
fn dots_and_absolute_names_stay_below_the_root() {
    let results = stays_inside(|_| {
        Tar::new()
            .file("../outside/evil", b"1")
            .file("../../../../../../outside/evil2", b"2")
            .file("a/../../outside/evil3", b"3")
            .file("/outside/evil4", b"4")
            .file("..", b"the root itself")
            .file("", b"nothing")
            .file("/", b"the root again")
            .dir("../")
    });
    for result in results {
        let expected = [
            "outside",
            "outside/evil",
            "outside/evil2",
            "outside/evil3",
            "outside/evil4",
        ];
        assert_eq!(result.unwrap(), expected);
    }
}

#[test]
fn links_to_the_outside_lead_to_the_same_place_inside() {
    for target in [
        "../outside",
        "../../../../../../outside",
        "/outside",
        "./../x/../../outside",
    ] {
        let results = stays_inside(|_| Tar::new().symlink("l", target).file("l/evil", b"x"));
        for result in results {
            let names = result.unwrap();
            assert!(
                names.contains(&"outside/evil".to_owned()),
                "{target}: {names:?}"
            );
        }
    }
    let results = stays_inside(|scene| {
        let outside = path(scene, "");
        Tar::new()
            .symlink("l", &outside)
            .file("l/secret", b"x")
            .file("l/dir/file", b"x")
    });
    results.into_iter().for_each(|result| drop(result.unwrap()));
}

#[test]
fn links_through_links() {
    let results = stays_inside(|_| {
        Tar::new()
            .symlink("a", ".")
            .symlink("b", "a/..")
            .symlink("c", "b/../..")
            .symlink("d", "c/outside")
            .file("d/evil", b"x")
            .file("c/outside/secret", b"x")
    });
    for result in results {
        let expected = [
            "a",
            "b",
            "c",
            "d",
            "outside",
            "outside/evil",
            "outside/secret",
        ];
        assert_eq!(result.unwrap(), expected);
    }
    let results = stays_inside(|_| {
        Tar::new()
            .symlink("x", "y")
            .symlink("y", "x")
            .file("x/f", b"")
    });
    for result in results {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }
}

#[test]
fn a_directory_that_turns_into_a_link_is_resolved_anew() {
    for target in ["../outside", "/outside"] {
        let results = stays_inside(|_| {
            Tar::new()
                .dir("a")
                .file("a/first", b"")
                .symlink("a", target)
                .file("a/evil", b"")
                .file("a/secret", b"x")
        });
        for result in results {
            let names = result.unwrap();
            assert_eq!(names, ["a", "outside", "outside/evil", "outside/secret"]);
        }
    }
    // The same with the directory deeper, and taken away by a whiteout first.
    let results = stays_inside(|scene| {
        Tar::new()
            .dir("p/a/b")
            .file("p/a/b/first", b"")
            .file(".wh.p", b"")
            .symlink("p/a", &path(scene, ""))
            .file("p/a/dir/file", b"x")
            .dir("p/a/dir")
    });
    results.into_iter().for_each(|result| drop(result.unwrap()));
}

#[test]
fn a_link_is_replaced_and_never_written_through() {
    let results = stays_inside(|scene| {
        let secret = path(scene, "secret");
        Tar::new()
            .symlink("f", &secret)
            .file("f", b"overwritten")
            .symlink("g", "../outside/secret")
            .file("g", b"overwritten")
            .symlink("d", &path(scene, "dir"))
            .dir("d")
            .file("d/file", b"x")
            .symlink("n", &secret)
            .head(&Head {
                name: b"n",
                flag: b'6',
                ..Head::default()
            })
    });
    for result in results {
        assert_eq!(result.unwrap(), ["d", "d/file", "f", "g", "n"]);
    }
}

#[test]
fn hard_links_reach_nothing_outside() {
    for target in [
        "../outside/secret",
        "../../../../outside/secret",
        "/outside/secret",
    ] {
        for result in stays_inside(|_| Tar::new().hardlink("h", target)) {
            assert!(
                matches!(result, Err(Error::InvalidArchive(_))),
                "{result:?}"
            );
        }
    }
    let results = stays_inside(|scene| {
        Tar::new()
            .symlink("l", &path(scene, ""))
            .hardlink("h", "l/secret")
            .file("h", b"x")
    });
    for result in results {
        assert!(
            matches!(result, Err(Error::InvalidArchive(_))),
            "{result:?}"
        );
    }
    // A link to a link is a link; what is set on it must not reach the file it names.
    let results = stays_inside(|scene| {
        let head = Head {
            name: b"h",
            flag: b'1',
            link: b"l",
            mode: 0,
            uid: 1,
            gid: 1,
            ..Head::default()
        };
        Tar::new()
            .symlink("l", &path(scene, "secret"))
            .pax(&[("SCHILY.xattr.user.evil", b"x")])
            .head(&head)
    });
    results
        .into_iter()
        .for_each(|result| assert_eq!(result.unwrap(), ["h", "l"]));
}

#[test]
fn whiteouts_reach_nothing_outside() {
    for name in [
        "../outside/.wh.secret",
        "../.wh.outside",
        "/outside/.wh..wh..opq",
        "../outside/.wh..wh..opq",
    ] {
        stays_inside(|_| Tar::new().file(name, b""))
            .into_iter()
            .for_each(|r| drop(r.unwrap()));
    }
    let results = stays_inside(|scene| {
        Tar::new()
            .symlink("l", &path(scene, ""))
            .file("l/.wh.secret", b"")
            .file("l/dir/.wh..wh..opq", b"")
            .symlink("m", "../outside")
            .file("m/.wh.dir", b"")
            .file(".wh.l", b"")
    });
    results.into_iter().for_each(|result| drop(result.unwrap()));
}

#[test]
fn a_link_that_an_earlier_layer_left_is_no_way_out() {
    let scene = Scene::new();
    let root = scene.root();
    std::os::unix::fs::symlink(scene.outside(), root.join("abs")).unwrap();
    std::os::unix::fs::symlink("../outside", root.join("rel")).unwrap();
    let before = scene.print();
    let archive = Tar::new()
        .file("abs/secret", b"x")
        .file("rel/dir/file", b"x")
        .file("rel/.wh.secret", b"")
        .file("abs/.wh..wh..opq", b"")
        .end();
    apply_to(&root, &archive, ApplyOptions::default()).unwrap();
    assert_eq!(scene.print(), before);
    assert!(root.join("outside/dir/file").exists());
}

#[test]
fn magic_links_are_not_followed() {
    // /proc inside the root, as a bind mount would have it, is out of reach: a mount needs no archive.
    // What an archive can do is name the path, and that is only a name.
    let results = stays_inside(|scene| {
        let through = format!("/proc/self/root{}", path(scene, ""));
        Tar::new().symlink("p", &through).file("p/secret", b"x")
    });
    results.into_iter().for_each(|result| drop(result.unwrap()));
}

#[test]
fn a_file_in_the_way_of_a_directory_is_an_error() {
    for result in stays_inside(|_| Tar::new().file("f", b"").file("f/below", b"")) {
        let error = result.unwrap_err();
        assert_eq!(error.to_string(), "mkdir f: Not a directory (os error 20)");
    }
}

#[test]
fn names_with_nul_are_refused() {
    for key in ["path", "linkpath", "GNU.sparse.name"] {
        for result in stays_inside(|_| Tar::new().pax(&[(key, b"a\0b")]).symlink("l", "t")) {
            assert!(matches!(result, Err(Error::InvalidArchive(_))), "{key}");
        }
    }
}

#[test]
fn device_numbers_that_do_not_fit_are_refused() {
    let head = |device| Head {
        name: b"dev",
        flag: b'3',
        device,
        ..Head::default()
    };
    let mut block = head((0, 0)).block();
    block[329..337].copy_from_slice(b"\x80\0\0\x01\0\0\0\0");
    checksum(&mut block);
    for result in stays_inside(|_| Tar::new().raw(&block)) {
        assert!(
            result
                .unwrap_err()
                .to_string()
                .contains("device number 4294967296:0")
        );
    }
}
