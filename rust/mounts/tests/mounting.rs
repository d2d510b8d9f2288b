//! Mounting on the real kernel.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{a_mount, folder, names, on, on_stage};
use mounts::{
    Error, Mount, Patience, TempMount, UnmountFlags, is_mountpoint, mount_all, remove_temporary,
    unmount, unmount_all, unmount_each,
};

fn overlay(lower: &str, stage: &Path) -> Mount {
    for name in ["upper", "work"] {
        fs::create_dir_all(stage.join(name)).unwrap();
    }
    let upper = format!("upperdir={}", stage.join("upper").display());
    let work = format!("workdir={}", stage.join("work").display());
    a_mount(
        "overlay",
        "overlay",
        &["index=off", &work, &upper, &format!("lowerdir={lower}")],
    )
}

fn errno(error: &Error) -> i32 {
    error
        .raw_os_error()
        .unwrap_or_else(|| panic!("no errno: {error}"))
}

#[test]
fn an_overlay_shows_its_layers_and_takes_writes_in_the_upper_one() {
    on_stage(|stage| {
        let (a, b) = (folder(stage.join("a"), "fa"), folder(stage.join("b"), "fb"));
        let target = folder(stage.join("t"), "hidden");
        let mount = overlay(&format!("{}:{}", a.display(), b.display()), stage);
        mount_all(&[mount], &target).unwrap();
        assert_eq!(names(&target), ["fa", "fb"]);
        fs::write(target.join("new"), "").unwrap();
        assert_eq!(names(&stage.join("upper")), ["new"]);
        unmount_all(&target, Patience::default()).unwrap();
        assert_eq!(names(&target), ["hidden"]);
    });
}

/// Layers at the bottom of the stage whose option string is `bytes` long at least.
fn many_layers(stage: &Path, count: usize, name_length: usize) -> (Vec<PathBuf>, String) {
    let layers: Vec<_> = (0..count)
        .map(|n| {
            folder(
                stage.join(format!("{n:0name_length$}")).join("fs"),
                &format!("f{n}"),
            )
        })
        .collect();
    let text: Vec<_> = layers.iter().map(|l| l.to_str().unwrap()).collect();
    let text = text.join(":");
    (layers, text)
}

#[test]
fn a_lower_list_longer_than_a_page_is_mounted_and_named_in_full() {
    on_stage(|stage| {
        let (layers, lower) = many_layers(stage, 150, 40);
        assert!(lower.len() > 4096);
        let target = folder(stage.join("t"), "hidden");
        mount_all(&[overlay(&lower, stage)], &target).unwrap();
        assert_eq!(names(&target).len(), 150);
        fs::write(target.join("new"), "").unwrap();
        assert_eq!(names(&stage.join("upper")), ["new"]);
        let shown = on(&target)[0].super_options.to_str().unwrap().to_owned();
        assert!(shown.contains(layers[149].to_str().unwrap()), "{shown}");
    });
}

#[test]
fn layers_with_paths_too_long_for_one_by_one_are_mounted_from_their_common_folder() {
    on_stage(|stage| {
        let deep = stage.join("d".repeat(200)).join("e".repeat(100));
        let (_, lower) = many_layers(&deep, 120, 6);
        assert!(lower.len() > 4096);
        let target = folder(stage.join("t"), "hidden");
        let before = std::env::current_dir().unwrap();
        mount_all(&[overlay(&lower, &deep)], &target).unwrap();
        assert_eq!(names(&target).len(), 120);
        assert_eq!(std::env::current_dir().unwrap(), before);
        fs::write(target.join("new"), "").unwrap();
        assert_eq!(names(&deep.join("upper")), ["new"]);
    });
}

#[test]
fn options_that_fit_nowhere_are_refused_with_their_length() {
    on_stage(|stage| {
        let (_, lower) = many_layers(&stage.join("x".repeat(250)), 100, 200);
        let error =
            mount_all(&[overlay(&lower, stage)], &folder(stage.join("t"), "f")).unwrap_err();
        assert!(
            matches!(error, Error::OptionsTooLong { limit: 4095, .. }),
            "{error}"
        );
    });
}

#[test]
fn flags_of_a_long_overlay_are_the_mounts_own() {
    on_stage(|stage| {
        let (_, lower) = many_layers(stage, 120, 40);
        let target = folder(stage.join("t"), "hidden");
        let mount = a_mount(
            "overlay",
            "overlay",
            &[
                "ro",
                "nosuid",
                "nodev",
                "noatime",
                &format!("lowerdir={lower}"),
            ],
        );
        mount_all(&[mount], &target).unwrap();
        assert_eq!(on(&target)[0].options, "ro,nosuid,nodev,noatime");
        assert!(
            on(&target)[0]
                .super_options
                .to_str()
                .unwrap()
                .starts_with("ro,")
        );
    });
}

#[test]
fn a_missing_layer_of_a_long_overlay_is_named() {
    on_stage(|stage| {
        let (_, lower) = many_layers(stage, 120, 40);
        let target = folder(stage.join("t"), "hidden");
        let lower = format!("{lower}:{}/absent", stage.display());
        let error = mount_all(&[overlay(&lower, stage)], &target).unwrap_err();
        assert_eq!(errno(&error), libc::ENOENT);
        assert!(
            error
                .to_string()
                .contains(&format!("lowerdir+={}/absent", stage.display())),
            "{error}"
        );
        assert_eq!(on(&target), []);
    });
}

#[test]
fn separators_in_layer_names_may_be_escaped_in_short_and_long_lists() {
    for count in [1, 120] {
        on_stage(|stage| {
            let (_, lower) = many_layers(stage, count, 40);
            let odd = folder(stage.join("a:b,c\\d"), "odd");
            let escaped = odd
                .to_str()
                .unwrap()
                .replace('\\', r"\\")
                .replace(':', r"\:")
                .replace(',', r"\,");
            let target = folder(stage.join("t"), "hidden");
            mount_all(&[overlay(&format!("{escaped}:{lower}"), stage)], &target).unwrap();
            assert_eq!(names(&target).len(), count + 1);
        });
    }
}

#[test]
fn a_refused_mount_says_all_it_was_asked_for() {
    on_stage(|stage| {
        let target = folder(stage.join("t"), "f");
        let error = mount_all(
            &[a_mount("overlay", "overlay", &["lowerdir=/absent", "ro"])],
            &target,
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "mount source \"overlay\", target {target:?}, fstype overlay, flags 1, \
                 data \"lowerdir=/absent\", err: no such file or directory"
            )
        );
        let error = mount_all(&[a_mount("nosuchfs", "x", &[])], &target).unwrap_err();
        assert_eq!(errno(&error), libc::ENODEV);
    });
}

#[test]
fn a_read_only_bind_keeps_the_other_flags_of_its_source() {
    on_stage(|stage| {
        let source = folder(stage.join("s"), "f");
        mount_all(&[a_mount("tmpfs", "s", &["nosuid", "noexec"])], &source).unwrap();
        let target = folder(stage.join("t"), "hidden");
        mount_all(&[a_mount("bind", &source, &["rbind", "ro"])], &target).unwrap();
        assert!(
            on(&target)[0].options.starts_with("ro,nosuid,noexec"),
            "{:?}",
            on(&target)
        );
        assert_eq!(
            fs::write(target.join("x"), "").unwrap_err().raw_os_error(),
            Some(libc::EROFS)
        );
        fs::write(source.join("x"), "").unwrap();
        // … and a named one is changed.
        mount_all(
            &[a_mount("bind", &source, &["bind", "exec", "nodev"])],
            &target,
        )
        .unwrap();
        assert!(
            on(&target)[1]
                .options
                .starts_with("rw,nosuid,nodev,relatime"),
            "{:?}",
            on(&target)
        );
    });
}

#[test]
fn a_file_can_be_bound_on_a_file() {
    on_stage(|stage| {
        let dir = folder(stage.join("d"), "source");
        fs::write(dir.join("target"), "hidden").unwrap();
        mount_all(
            &[a_mount("bind", dir.join("source"), &["bind", "ro"])],
            &dir.join("target"),
        )
        .unwrap();
        assert_eq!(fs::read_to_string(dir.join("target")).unwrap(), "source");
    });
}

#[test]
fn rbind_takes_what_is_mounted_below_and_bind_does_not() {
    on_stage(|stage| {
        let source = folder(stage.join("s/sub"), "hidden")
            .parent()
            .unwrap()
            .to_owned();
        mount_all(&[a_mount("tmpfs", "s", &[])], &source.join("sub")).unwrap();
        let target = folder(stage.join("t"), "f");
        mount_all(&[a_mount("bind", &source, &["bind"])], &target).unwrap();
        assert_eq!(names(&target.join("sub")), ["hidden"]);
        unmount_all(&target, Patience::default()).unwrap();
        mount_all(&[a_mount("bind", &source, &["rbind"])], &target).unwrap();
        assert_eq!(names(&target.join("sub")), [""; 0]);
    });
}

#[test]
fn propagation_is_set_on_what_was_mounted() {
    on_stage(|stage| {
        let target = folder(stage.join("t"), "f");
        mount_all(&[a_mount("tmpfs", "t", &["size=64k", "shared"])], &target).unwrap();
        assert!(on(&target)[0].propagation[0].starts_with("shared:"));
        assert!(
            on(&target)[0]
                .super_options
                .to_str()
                .unwrap()
                .contains("size=64k")
        );
        mount_all(
            &[a_mount("", "", &["remount", "bind", "ro", "private"])],
            &target,
        )
        .unwrap();
        assert_eq!(on(&target).len(), 1);
        assert_eq!(on(&target)[0].propagation, [""; 0]);
        assert!(on(&target)[0].options.starts_with("ro,"));
    });
}

#[test]
fn a_remount_changes_the_data_of_what_is_mounted() {
    on_stage(|stage| {
        let target = folder(stage.join("t"), "f");
        mount_all(&[a_mount("tmpfs", "t", &["size=64k"])], &target).unwrap();
        mount_all(
            &[a_mount("tmpfs", "t", &["remount", "size=128k", "noexec"])],
            &target,
        )
        .unwrap();
        let mounts = on(&target);
        assert_eq!(mounts.len(), 1);
        assert!(
            mounts[0]
                .super_options
                .to_str()
                .unwrap()
                .contains("size=128k")
        );
        assert!(mounts[0].options.contains("noexec"));
    });
}

#[test]
fn a_failure_takes_the_earlier_mounts_away() {
    on_stage(|stage| {
        let target = folder(stage.join("t/sub"), "f")
            .parent()
            .unwrap()
            .to_owned();
        let lower = folder(stage.join("l/sub"), "f")
            .parent()
            .unwrap()
            .to_owned();
        let mut below = a_mount("tmpfs", "below", &[]);
        below.target = "/sub".into();
        let list = [
            a_mount("bind", &lower, &["bind"]),
            below,
            a_mount("overlay", "overlay", &["lowerdir=/absent"]),
        ];
        let error = mount_all(&list, &target).unwrap_err();
        assert_eq!(errno(&error), libc::ENOENT);
        assert_eq!(on(&target), []);
        let made = mount_all(&list[..2], &target).unwrap();
        assert_eq!(made, [target.clone(), target.join("sub")]);
        // Something else was there before and has to stay.
        let made = mount_all(&list[..2], &target).unwrap();
        unmount_each(&made).unwrap();
        assert_eq!(on(&target).len(), 2);
    });
}

#[test]
fn a_target_that_its_own_mount_hides_gets_its_flags_all_the_same() {
    on_stage(|stage| {
        let target = folder(stage.join("t/d"), "f").parent().unwrap().to_owned();
        let mut mount = a_mount("tmpfs", "t", &["shared"]);
        mount.target = "d/..".into();
        mount_all(&[mount], &target).unwrap();
        assert!(on(&target)[0].propagation[0].starts_with("shared:"));
    });
}

#[test]
fn bad_options_are_found_before_anything_is_mounted() {
    on_stage(|stage| {
        let target = folder(stage.join("t"), "f");
        let list = [
            a_mount("tmpfs", "t", &[]),
            a_mount("tmpfs", "t", &["uidmap=x", "gidmap=0:0:1"]),
        ];
        let error = mount_all(&list, &target).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
        assert_eq!(on(&target), []);
    });
}

#[test]
fn a_target_below_is_resolved_inside_whatever_links_say() {
    on_stage(|stage| {
        let outside = folder(stage.join("outside"), "f");
        let root = folder(stage.join("root/inside"), "f")
            .parent()
            .unwrap()
            .to_owned();
        symlink(&outside, root.join("absolute")).unwrap();
        symlink("../../outside", root.join("relative")).unwrap();
        symlink("/inside", root.join("good")).unwrap();
        let mut mount = a_mount("tmpfs", "x", &[]);
        for escape in ["absolute", "relative", "../outside"] {
            mount.target = escape.into();
            let error = mount_all(std::slice::from_ref(&mount), &root).unwrap_err();
            assert_eq!(errno(&error), libc::ENOENT, "{escape}: {error}");
            assert_eq!(on(stage).len(), 1, "{escape}");
        }
        mount.target = "good".into();
        mount_all(&[mount], &root).unwrap();
        assert!(is_mountpoint(&root.join("inside")).unwrap());
    });
}

#[test]
fn a_missing_target_is_named() {
    on_stage(|stage| {
        let mut mount = a_mount("tmpfs", "x", &[]);
        let error = mount_all(std::slice::from_ref(&mount), &stage.join("absent"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("{}/absent: no such file", stage.display())),
            "{error}"
        );
        mount.target = "/sub".into();
        let error = mount_all(&[mount], stage).unwrap_err().to_string();
        assert!(
            error.contains(&format!("{}/sub: no such file", stage.display())),
            "{error}"
        );
    });
}

/// A file with an ext4 file system, or nothing where mkfs is missing.
fn ext4(stage: &Path) -> Option<PathBuf> {
    let image = stage.join("image");
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    match Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(&image)
        .status()
    {
        Ok(status) => assert!(status.success()),
        Err(e) => {
            eprintln!("skipped: mkfs.ext4: {e}");
            return None;
        }
    }
    Some(image)
}

#[test]
fn a_file_is_mounted_over_a_loop_device_that_goes_with_the_mount() {
    on_stage(|stage| {
        let Some(image) = ext4(stage) else { return };
        let target = folder(stage.join("t"), "hidden");
        for (options, mode) in [(vec!["loop"], "rw,"), (vec!["loop", "ro"], "ro,")] {
            mount_all(&[a_mount("ext4", &image, &options)], &target).unwrap();
            let mount = on(&target).remove(0);
            assert!(mount.options.starts_with(mode));
            let device = mount.source.to_str().unwrap().to_owned();
            assert!(device.starts_with("/dev/loop"), "{device}");
            unmount_all(&target, Patience::default()).unwrap();
            let backing = format!("/sys/block/{}/loop/backing_file", &device["/dev/".len()..]);
            let still = fs::read_to_string(backing).unwrap_or_default();
            assert!(
                !still.contains(image.to_str().unwrap()),
                "{device} still on {still}"
            );
        }
    });
}

#[test]
fn many_loop_devices_at_once_do_not_take_each_others() {
    on_stage(|stage| {
        let Some(image) = ext4(stage) else { return };
        std::thread::scope(|scope| {
            for n in 0..12 {
                let copy = stage.join(format!("image{n}"));
                fs::copy(&image, &copy).unwrap();
                let target = folder(stage.join(format!("t{n}")), "hidden");
                scope.spawn(move || {
                    mount_all(&[a_mount("ext4", &copy, &["loop"])], &target).unwrap();
                    fs::write(target.join(format!("mine{n}")), "").unwrap();
                });
            }
        });
        for n in 0..12 {
            let target = stage.join(format!("t{n}"));
            assert_eq!(
                names(&target),
                ["lost+found".to_owned(), format!("mine{n}")]
            );
            unmount_all(&target, Patience::default()).unwrap();
        }
    });
}

#[test]
fn a_loop_device_for_a_missing_file_fails_with_its_name() {
    on_stage(|stage| {
        let error = mount_all(&[a_mount("ext4", "/absent.img", &["loop"])], stage).unwrap_err();
        assert_eq!(errno(&error), libc::ENOENT);
        assert!(error.to_string().contains("/absent.img"), "{error}");
    });
}

#[test]
fn owners_of_a_mapped_bind_are_shifted_on_the_mount_only() {
    on_stage(|stage| {
        let source = folder(stage.join("s"), "f");
        std::os::unix::fs::chown(source.join("f"), Some(7), Some(8)).unwrap();
        let target = folder(stage.join("t"), "hidden");
        let options = [
            "rbind",
            "ro",
            "uidmap=0:100000:65536",
            "gidmap=0:200000:65536",
        ];
        mount_all(&[a_mount("bind", &source, &options)], &target).unwrap();
        let shown = fs::metadata(target.join("f")).unwrap();
        assert_eq!((shown.uid(), shown.gid()), (100_007, 200_008));
        assert_eq!(fs::metadata(source.join("f")).unwrap().uid(), 7);
        assert_eq!(on(&target).len(), 1);
        assert!(
            on(&target)[0].options.starts_with("ro,"),
            "{:?}",
            on(&target)
        );
    });
}

#[test]
fn a_mapped_overlay_maps_its_lower_layers_and_leaves_nothing_else_mounted() {
    for count in [2, 120] {
        on_stage(|stage| {
            let (layers, lower) = many_layers(stage, count, 40);
            std::os::unix::fs::chown(layers[1].join("f1"), Some(5), Some(6)).unwrap();
            let target = folder(stage.join("t"), "hidden");
            let mut mount = overlay(&lower, stage);
            mount.options.push("uidmap=0:100000:65536".into());
            mount.options.push("gidmap=0:100000:65536".into());
            let before = on(stage).len();
            mount_all(&[mount], &target).unwrap();
            assert_eq!(on(stage).len(), before + 1);
            let shown = fs::metadata(target.join("f1")).unwrap();
            assert_eq!((shown.uid(), shown.gid()), (100_005, 100_006));
            fs::write(target.join("new"), "").unwrap();
            assert_eq!(fs::metadata(stage.join("upper/new")).unwrap().uid(), 0);
        });
    }
}

#[test]
fn a_mapping_the_kernel_refuses_is_named_and_leaves_nothing() {
    on_stage(|stage| {
        let source = folder(stage.join("s"), "f");
        let target = folder(stage.join("t"), "f");
        let overlapping = ["bind", "uidmap=0:0:10,5:5:10", "gidmap=0:0:1"];
        let error = mount_all(&[a_mount("bind", &source, &overlapping)], &target).unwrap_err();
        assert!(
            error.to_string().contains("uidmap=0:0:10,5:5:10"),
            "{error}"
        );
        assert_eq!(errno(&error), libc::EINVAL);
        // proc has no owners to map.
        let proc = ["uidmap=0:1000:1", "gidmap=0:1000:1"];
        let error = mount_all(&[a_mount("proc", "proc", &proc)], &target).unwrap_err();
        assert!(error.to_string().contains("cannot map owners"), "{error}");
        assert_eq!(on(&target), []);
    });
}

#[test]
fn unmount_all_takes_stacks_and_what_lies_below() {
    on_stage(|stage| {
        let target = folder(stage.join("t"), "hidden");
        for round in 0..3 {
            mount_all(&[a_mount("tmpfs", format!("t{round}"), &[])], &target).unwrap();
            let below = folder(target.join("a b/c"), "f");
            mount_all(&[a_mount("tmpfs", "below", &[])], &below).unwrap();
            mount_all(&[a_mount("tmpfs", "below", &[])], &below).unwrap();
        }
        assert_eq!(on(&target).len(), 9);
        let beside = folder(stage.join("tt"), "f");
        mount_all(&[a_mount("tmpfs", "beside", &[])], &beside).unwrap();
        unmount_all(&target, Patience::default()).unwrap();
        assert_eq!(names(&target), ["hidden"]);
        assert!(is_mountpoint(&beside).unwrap());
        unmount_all(&target, Patience::default()).unwrap();
        unmount_all(&stage.join("absent"), Patience::default()).unwrap();
    });
}

#[test]
fn a_busy_mount_is_waited_for_and_then_detached_or_reported() {
    on_stage(|stage| {
        let target = folder(stage.join("t"), "hidden");
        mount_all(&[a_mount("tmpfs", "t", &[])], &target).unwrap();
        let used = fs::File::create(target.join("used")).unwrap();
        let strict = Patience {
            wait: Duration::from_millis(30),
            lazy: false,
        };
        let error = unmount_all(&target, strict).unwrap_err();
        assert_eq!(errno(&error), libc::EBUSY);
        assert!(
            error.to_string().contains(target.to_str().unwrap()),
            "{error}"
        );
        assert!(is_mountpoint(&target).unwrap());
        unmount_all(
            &target,
            Patience {
                lazy: true,
                ..strict
            },
        )
        .unwrap();
        assert_eq!(names(&target), ["hidden"]);
        assert_eq!(used.metadata().unwrap().nlink(), 1);
    });
}

#[test]
fn a_link_mounted_over_a_mount_point_does_not_lead_the_unmount_elsewhere() {
    on_stage(|stage| {
        let victim = folder(stage.join("victim/y"), "f");
        mount_all(&[a_mount("tmpfs", "victim", &[])], &victim).unwrap();
        let below = folder(stage.join("t/x/y"), "f");
        let target = stage.join("t");
        mount_all(&[a_mount("tmpfs", "below", &[])], &below).unwrap();
        let image = folder(stage.join("image"), "f");
        symlink(stage.join("victim"), image.join("x")).unwrap();
        mount_all(&[a_mount("bind", &image, &["bind"])], &target).unwrap();
        unmount_all(&target, Patience::default()).unwrap();
        assert!(is_mountpoint(&victim).unwrap());
        assert_eq!(on(&target), []);
    });
}

#[test]
fn a_mount_whose_server_is_gone_or_silent_is_found_and_taken_away() {
    use std::os::fd::AsRawFd;
    let device = || {
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
    };
    if let Err(e) = device() {
        eprintln!("skipped: /dev/fuse: {e}");
        return;
    }
    for gone in [true, false] {
        on_stage(|stage| {
            let target = folder(stage.join("t"), "hidden");
            let server = device().unwrap();
            let fd = format!("fd={}", server.as_raw_fd());
            let options = [&fd, "rootmode=40000", "user_id=0", "group_id=0"];
            mount_all(&[a_mount("fuse", "x", &options)], &target).unwrap();
            let silent = (!gone).then_some(server);
            assert!(is_mountpoint(&target).unwrap());
            unmount_all(&target, Patience::default()).unwrap();
            assert_eq!(names(&target), ["hidden"]);
            drop(silent);
        });
    }
}

#[test]
fn mounts_hidden_by_another_one_above_the_folder_are_left_alone() {
    on_stage(|stage| {
        let outer = folder(stage.join("o/t"), "f").parent().unwrap().to_owned();
        mount_all(&[a_mount("tmpfs", "hidden", &[])], &outer.join("t")).unwrap();
        mount_all(&[a_mount("tmpfs", "above", &[])], &outer).unwrap();
        folder(outer.join("t"), "f");
        unmount_all(&outer.join("t"), Patience::default()).unwrap();
        assert_eq!(on(&outer).len(), 2);
    });
}

#[test]
fn unmounting_the_root_is_refused() {
    let error = unmount_all(Path::new("/"), Patience::default()).unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
}

#[test]
fn one_unmount_takes_the_topmost_and_fails_where_nothing_is() {
    on_stage(|stage| {
        let target = folder(stage.join("t"), "hidden");
        for _ in 0..2 {
            mount_all(&[a_mount("tmpfs", "t", &[])], &target).unwrap();
        }
        unmount(&target, UnmountFlags::empty()).unwrap();
        assert_eq!(on(&target).len(), 1);
        unmount(&target, UnmountFlags::empty()).unwrap();
        let error = unmount(&target, UnmountFlags::empty()).unwrap_err();
        assert_eq!(errno(&error), libc::EINVAL);
    });
}

#[test]
fn mount_points_are_told_from_folders() {
    on_stage(|stage| {
        let dir = folder(stage.join("d"), "f");
        assert!(is_mountpoint(stage).unwrap());
        assert!(is_mountpoint(Path::new("/")).unwrap());
        assert!(!is_mountpoint(&dir).unwrap());
        assert!(!is_mountpoint(&dir.join("absent")).unwrap());
        assert!(!is_mountpoint(&dir.join("f/below a file")).unwrap());
        // A bind within one file system has the same device number on both sides.
        mount_all(&[a_mount("bind", &dir, &["bind"])], &dir).unwrap();
        assert!(is_mountpoint(&dir).unwrap());
    });
}

#[test]
fn a_temporary_mount_is_private_and_gone_when_dropped() {
    on_stage(|stage| {
        let base = stage.join("base");
        let source = folder(stage.join("s"), "f");
        let bind = [a_mount("bind", &source, &["bind"])];
        let temp = TempMount::new(&bind, &base, "tmp-").unwrap();
        assert_eq!(fs::metadata(&base).unwrap().mode() & 0o777, 0o700);
        assert_eq!(names(temp.path()), ["f"]);
        let other = TempMount::new(&bind, &base, "tmp-").unwrap();
        assert_ne!(temp.path(), other.path());
        drop(temp);
        other.close().unwrap();
        assert_eq!(names(&base), [""; 0]);
        assert_eq!(names(&source), ["f"]);
    });
}

#[test]
fn a_temporary_mount_that_fails_leaves_no_folder() {
    on_stage(|stage| {
        let base = stage.join("base");
        TempMount::new(&[a_mount("nosuchfs", "x", &[])], &base, "tmp-").unwrap_err();
        assert_eq!(names(&base), [""; 0]);
    });
}

#[test]
fn a_kept_temporary_mount_is_removed_by_its_path_but_never_its_contents() {
    on_stage(|stage| {
        let source = folder(stage.join("s"), "f");
        let temp = TempMount::new(
            &[a_mount("bind", &source, &["bind"])],
            &stage.join("base"),
            "x",
        )
        .unwrap();
        let path = temp.keep();
        assert!(is_mountpoint(&path).unwrap());
        remove_temporary(&path).unwrap();
        remove_temporary(&path).unwrap();
        assert_eq!(names(&source), ["f"]);
        let full = folder(stage.join("base/full"), "precious");
        let error = remove_temporary(&full).unwrap_err();
        assert_eq!(errno(&error), libc::ENOTEMPTY);
        assert_eq!(names(&full), ["precious"]);
    });
}

#[test]
fn a_helper_that_is_missing_or_fails_is_named() {
    on_stage(|stage| {
        let error = mount_all(&[a_mount("fuse3.no-such-fs", "x", &["ro"])], stage).unwrap_err();
        assert!(
            matches!(&error, Error::Helper { program, .. } if program == "mount.fuse3"),
            "{error}"
        );
        assert_eq!(on(stage).len(), 1);
    });
}
