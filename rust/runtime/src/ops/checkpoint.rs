//! checkpoint: a container's processes into files, by CRIU.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::Runtime;
use crate::criu::{Criu, Kind, Request, Writer};
use crate::error::{Class, Context, Error, Result};
use crate::mounts;
use crate::spec::Spec;
use crate::state::{Place, Record, Status};

/// What the standard streams of the saved process were, for the restore.
pub const DESCRIPTORS: &str = "descriptors.json";
/// How CRIU calls a network namespace that is not the container's own.
pub const OUTER_NETWORK: &str = "extRootNetNS";

/// What checkpoint and restore have in common, with the names of runc's flags.
#[derive(Clone, Debug, Default)]
pub struct CriuOptions {
    /// The program, if it is not `criu` in PATH.
    pub program: Option<String>,
    pub image_path: PathBuf,
    /// Where logs go; the images' folder without one.
    pub work_path: Option<PathBuf>,
    pub tcp_established: bool,
    pub ext_unix_sk: bool,
    pub shell_job: bool,
    pub file_locks: bool,
    pub auto_dedup: bool,
    /// `soft` (the default), `full`, `strict` or `ignore`.
    pub manage_cgroups: String,
    /// Memory stays where it is, and is asked for page by page: the restored side has a daemon of
    /// CRIU's (`criu lazy-pages`), the saved one serves it, and says by `status_fd` when it does.
    pub lazy_pages: bool,
    /// Namespaces whose content is not saved: `network`.
    pub empty_namespaces: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct CheckpointOptions {
    pub criu: CriuOptions,
    /// Images of an earlier pre-dump, as a path from the images' folder.
    pub parent_path: Option<String>,
    pub leave_running: bool,
    pub pre_dump: bool,
    pub status_fd: Option<i32>,
    /// Address and port of who takes the memory instead of files.
    pub page_server: Option<(String, u16)>,
}

impl Runtime {
    /// Saves the container. Its processes end, unless they are to run on; on a failure they run on.
    pub fn checkpoint(&self, id: &str, options: &CheckpointOptions) -> Result<()> {
        let place = Place::of(&self.root, id)?;
        let record = place.load()?;
        match place.status(&record) {
            Status::Running | Status::Paused => {}
            status => {
                let text = format!("cannot checkpoint a container that is {}", status.name());
                return Err(Error::new(Class::State, text));
            }
        }
        let spec = place.config()?;
        let criu = Criu::new(options.criu.program.as_deref())?;
        criu.check()?;
        let folders = Folders::make(&options.criu)?;
        if let Some(parent) = &options.parent_path {
            check_parent(&options.criu.image_path, parent)?;
        }
        let mut wanted = common(&options.criu, &spec, &folders, "dump.log")?;
        wanted
            .number(2, record.init_process_pid as u64)
            .flag(3, options.leave_running)
            .text(13, &record.rootfs.to_string_lossy())
            .flag(15, options.pre_dump);
        if let Some(parent) = &options.parent_path {
            wanted.text(14, parent);
        }
        if let Some(freezer) = record.cgroups.freezer() {
            wanted.text(44, &freezer.to_string_lossy());
        }
        if let Some(fd) = options.status_fd {
            wanted.number(49, fd as u64);
        }
        if let Some((address, port)) = &options.page_server {
            let mut server = Writer::default();
            wanted.message(11, server.text(1, address).number(2, u64::from(*port)));
        }
        if let Some(outer) = outer_network(&spec, &record)? {
            wanted.text(37, &outer);
        }
        if !options.pre_dump {
            for (inside, outside) in external(&spec, &record) {
                wanted.message(23, Writer::default().text(1, &inside).text(2, &outside));
            }
            let path = options.criu.image_path.join(DESCRIPTORS);
            let streams = serde_json::Value::from(streams(record.init_process_pid));
            fs::write(&path, streams.to_string()).context(|| path.display().to_string())?;
        }
        let request = Request {
            kind: if options.pre_dump {
                Kind::PreDump
            } else {
                Kind::Dump
            },
            options: wanted,
            inherited: folders
                .numbers()
                .into_iter()
                .chain(options.status_fd)
                .collect(),
            attach: &[],
            log: folders.log("dump.log"),
        };
        criu.run(&request, &mut |_| Ok(())).map(drop)
    }
}

/// The folders CRIU works in, which it is given as descriptors.
pub struct Folders {
    images: fs::File,
    work: fs::File,
    work_path: PathBuf,
}

impl Folders {
    fn make(options: &CriuOptions) -> Result<Self> {
        for path in [Some(&options.image_path), options.work_path.as_ref()] {
            let Some(path) = path else { continue };
            if path.as_os_str().is_empty() {
                return Err(Error::invalid("the folder for images must be given"));
            }
            let mut builder = fs::DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(path);
            made.context(|| format!("folder {}", path.display()))?;
        }
        Self::open(options)
    }

    pub fn open(options: &CriuOptions) -> Result<Self> {
        let open =
            |path: &Path| fs::File::open(path).context(|| format!("folder {}", path.display()));
        let work_path = options.work_path.as_ref().unwrap_or(&options.image_path);
        Ok(Self {
            images: open(&options.image_path)?,
            work: open(work_path)?,
            work_path: work_path.clone(),
        })
    }

    pub fn numbers(&self) -> Vec<i32> {
        vec![self.images.as_raw_fd(), self.work.as_raw_fd()]
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.work_path.join(name)
    }
}

/// The options of either request.
pub fn common(options: &CriuOptions, spec: &Spec, folders: &Folders, log: &str) -> Result<Writer> {
    let [images, work] = [&folders.images, &folders.work].map(|f| f.as_raw_fd() as u64);
    let mode = cgroups_mode(&options.manage_cgroups)?;
    let terminal = spec.process.as_ref().is_some_and(|p| p.terminal);
    let mut wanted = Writer::default();
    wanted
        .number(1, images)
        .flag(4, options.ext_unix_sk)
        .flag(5, options.tcp_established)
        .flag(7, options.shell_job)
        .flag(8, options.file_locks)
        .number(9, 4)
        .text(10, log)
        .flag(12, true)
        .flag(16, options.auto_dedup)
        .number(17, work)
        .flag(48, options.lazy_pages)
        .flag(24, mode != IGNORE)
        .number(34, mode)
        .flag(50, terminal);
    let mut empty = 0;
    for name in &options.empty_namespaces {
        match name.as_str() {
            "network" => empty |= libc::CLONE_NEWNET as u64,
            other => {
                return Err(Error::invalid(format!(
                    "--empty-ns {other}: only the network namespace can be left empty"
                )));
            }
        }
    }
    if empty != 0 {
        wanted.number(38, empty);
    }
    Ok(wanted)
}

const IGNORE: u64 = 0;

fn cgroups_mode(name: &str) -> Result<u64> {
    match name {
        "" | "soft" => Ok(3),
        "full" => Ok(4),
        "strict" => Ok(5),
        "ignore" => Ok(IGNORE),
        other => Err(Error::invalid(format!(
            "--manage-cgroups-mode {other}: it is soft, full, strict or ignore"
        ))),
    }
}

fn check_parent(images: &Path, parent: &str) -> Result<()> {
    let wrong = |why| Err(Error::invalid(format!("--parent-path {parent}: {why}")));
    if Path::new(parent).is_absolute() {
        return wrong("it is a path from the images' folder");
    }
    match images.join(parent).is_dir() {
        true => Ok(()),
        false => wrong("no such folder beside the images"),
    }
}

/// Places in the container that are from outside, by what they are called in the images: binds, and the
/// null device that hides files.
fn external(spec: &Spec, record: &Record) -> Vec<(String, String)> {
    let mut list: Vec<_> = mounts::from_outside(&spec.mounts, &record.cgroups)
        .map(|(inside, _)| (inside.clone(), inside))
        .collect();
    for path in &spec.linux.masked_paths {
        let there = format!("/proc/{}/root{path}", record.init_process_pid);
        if fs::metadata(there).is_ok_and(|m| !m.is_dir()) {
            list.push((path.clone(), "/dev/null".into()));
        }
    }
    list
}

/// A network namespace that was joined is not saved: its name to CRIU.
fn outer_network(spec: &Spec, record: &Record) -> Result<Option<String>> {
    if spec.linux.makes("network") {
        return Ok(None);
    }
    let path = format!("/proc/{}/ns/net", record.init_process_pid);
    let number = fs::metadata(&path).context(|| path.clone())?.ino();
    Ok(Some(format!("net[{number}]:{OUTER_NETWORK}")))
}

fn streams(pid: i32) -> Vec<String> {
    let name = |fd| {
        let link = fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap_or_default();
        link.to_string_lossy().into_owned()
    };
    (0..3).map(name).collect()
}
