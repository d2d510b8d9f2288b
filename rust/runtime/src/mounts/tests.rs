//! What options and remounts become.

use super::file_systems::{file_system, remount, split_data};
use super::options::{ATIME, NOEXEC, NOSUID, Options, RDONLY, parse};
use crate::plan::{self, What};
use crate::spec::Mount;

fn options(list: &[&str]) -> Options {
    let mount = Mount {
        options: list.iter().map(|s| (*s).to_owned()).collect(),
        ..Default::default()
    };
    parse(&mount).unwrap()
}

#[test]
fn the_last_of_contradicting_options_counts() {
    let o = options(&["ro", "rw", "nosuid", "noatime", "relatime"]);
    assert_eq!(o.own.set, NOSUID);
    assert_eq!(o.own.clear, RDONLY | ATIME);
    let o = options(&["rbind", "rro", "rnoexec", "rprivate"]);
    assert!(o.bind && o.recursive);
    assert_eq!(o.below.set, RDONLY | NOEXEC);
    assert_eq!(o.propagation, [libc::MS_PRIVATE | libc::MS_REC]);
}

#[test]
fn data_is_split_outside_of_quotes() {
    assert_eq!(split_data(r#"a=1,b="x,y",c"#), ["a=1", r#"b="x,y""#, "c"]);
}

#[test]
fn every_option_has_its_way_to_the_kernel() {
    let each = |list: &[&str]| match file_system("tmpfs", "x", &options(list), "").unwrap() {
        plan::FileSystem {
            parameters: plan::Parameters::Each(list),
            ..
        } => list
            .into_iter()
            .map(|(key, _)| key.into_string().unwrap())
            .collect::<Vec<_>>(),
        _ => panic!("by mount(2)"),
    };
    assert_eq!(
        each(&["sync", "mand", "lazytime", "nolazytime", "what=ever", "new"]),
        ["source", "sync", "mand", "what", "new"]
    );
    let page = |list: &[&str]| match file_system("tmpfs", "x", &options(list), "").unwrap() {
        plan::FileSystem {
            parameters: plan::Parameters::Page { flags, data, .. },
            ..
        } => (flags, data.into_string().unwrap()),
        _ => panic!("by fsconfig"),
    };
    assert_eq!(page(&["silent"]).0, libc::MS_SILENT);
    assert_eq!(page(&["acl", "ro"]).0, libc::MS_POSIXACL | libc::MS_RDONLY);
    assert_eq!(
        page(&["iversion", "size=5"]),
        (libc::MS_I_VERSION, "size=5".into())
    );
    let long = format!("lowerdir={}", "/x".repeat(200));
    assert_eq!(page(&[&long, "a=1"]).1, format!("{long},a=1"));
    let tmpfs = |list: &[&str]| file_system("tmpfs", "x", &options(list), "");
    assert!(tmpfs(&[&"x".repeat(5000)]).is_err());
}

#[test]
fn a_remount_is_of_the_mount_or_of_the_file_system() {
    let step = |list: &[&str]| {
        let mount = Mount {
            destination: "/x".into(),
            options: list.iter().map(|s| (*s).to_owned()).collect(),
            ..Default::default()
        };
        remount(&mount, parse(&mount).unwrap()).unwrap().what
    };
    let What::Remount {
        own, superblock, ..
    } = step(&["remount", "bind", "ro"])
    else {
        panic!()
    };
    assert_eq!((own.set, superblock), (RDONLY, None));
    let What::Remount { superblock, .. } = step(&["remount", "nosuid", "sync", "size=9"]) else {
        panic!()
    };
    let flags = libc::MS_NOSUID | libc::MS_SYNCHRONOUS;
    assert_eq!(superblock, Some((flags, c"size=9".to_owned())));
}
