//! Loop devices: a file as a block device for as long as something is mounted from it.
//!
//! Source: `linux/loop.h`, losetup(8).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result, check};
use crate::options::LoopOptions;

const CONTROL: &str = "/dev/loop-control";
const LOOP_SET_FD: libc::c_ulong = 0x4C00;
const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
const LOOP_SET_STATUS64: libc::c_ulong = 0x4C04;
const LOOP_SET_DIRECT_IO: libc::c_ulong = 0x4C08;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// A free device is only found, not reserved; others look for one at the same time.
const ATTEMPTS: u32 = 100;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

impl LoopInfo {
    fn of(file: &Path, read_only: bool, options: LoopOptions) -> Self {
        let mut flags = LO_FLAGS_AUTOCLEAR;
        if read_only {
            flags |= LO_FLAGS_READ_ONLY;
        }
        if options.direct_io {
            flags |= LO_FLAGS_DIRECT_IO;
        }
        // For people who run losetup; a longer name is cut, the kernel knows the file by itself.
        let mut file_name = [0; 64];
        let name = file.as_os_str().as_bytes();
        let length = name.len().min(file_name.len() - 1);
        file_name[..length].copy_from_slice(&name[..length]);
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            sizelimit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name,
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// A loop device on a file. The kernel takes it apart when the last user is gone: this value, or what
/// was mounted from it meanwhile.
pub(crate) struct LoopDevice {
    path: String,
    _fd: OwnedFd,
}

impl LoopDevice {
    /// Puts a free loop device on `file`.
    pub(crate) fn attach(file: &Path, read_only: bool, options: LoopOptions) -> Result<Self> {
        Self::attach_with(configure, file, read_only, options)
    }

    fn attach_with(
        configure: fn(&File, &File, &LoopInfo) -> io::Result<()>,
        file: &Path,
        read_only: bool,
        options: LoopOptions,
    ) -> Result<Self> {
        let open = |path: &Path| OpenOptions::new().read(true).write(!read_only).open(path);
        let backing = open(file).map_err(|e| Error::io("open", file, e))?;
        let info = LoopInfo::of(file, read_only, options);
        let mut attempt = 0;
        loop {
            let path = format!("/dev/loop{}", free_number()?);
            let result = open(Path::new(&path)).and_then(|device| {
                configure(&device, &backing, &info)?;
                Ok(device)
            });
            match result {
                Ok(device) => {
                    return Ok(Self {
                        path,
                        _fd: device.into(),
                    });
                }
                Err(e) if attempt < ATTEMPTS && lost_race(&e) => {
                    attempt += 1;
                    std::thread::sleep(pause(attempt));
                }
                Err(e) => {
                    return Err(Error::io(
                        "loop device for",
                        format!("{} ({path})", file.display()),
                        e,
                    ));
                }
            }
        }
    }

    /// `/dev/loopN`.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

/// Busy: another process was quicker. Absent: the device node is still on its way.
fn lost_race(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBUSY | libc::ENOENT | libc::ENXIO)
    )
}

/// Grows with the attempts, and differs between threads that lost the same race.
fn pause(attempt: u32) -> Duration {
    let spread = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos());
    Duration::from_micros(u64::from(spread % (attempt.min(20) * 1000)))
}

fn free_number() -> Result<i32> {
    let failed = |e| Error::io("find a free loop device with", CONTROL, e);
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open(CONTROL)
        .map_err(failed)?;
    // SAFETY: this request has no argument.
    match unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) } {
        number if number >= 0 => Ok(number),
        _ => Err(failed(io::Error::last_os_error())),
    }
}

fn configure(device: &File, backing: &File, info: &LoopInfo) -> io::Result<()> {
    let config = LoopConfig {
        fd: backing.as_raw_fd() as u32,
        block_size: 0,
        info: info.clone(),
        reserved: [0; 8],
    };
    // SAFETY: the argument is a valid loop_config that outlives the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
    match check(result) {
        // Linux before 5.8: one step after the other.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOTTY)) => {
            configure_stepwise(device, backing, info)
        }
        result => result,
    }
}

fn configure_stepwise(device: &File, backing: &File, info: &LoopInfo) -> io::Result<()> {
    let fd = device.as_raw_fd();
    // SAFETY: the argument is an open descriptor.
    check(unsafe { libc::ioctl(fd, LOOP_SET_FD as _, backing.as_raw_fd()) })?;
    // SAFETY: the argument is a valid loop_info64 that outlives the call.
    let mut result = check(unsafe { libc::ioctl(fd, LOOP_SET_STATUS64 as _, &raw const *info) });
    if result.is_ok() && info.flags & LO_FLAGS_DIRECT_IO != 0 {
        // SAFETY: the argument is a number.
        result = check(unsafe { libc::ioctl(fd, LOOP_SET_DIRECT_IO as _, 1 as libc::c_ulong) });
    }
    if result.is_err() {
        // SAFETY: this request has no argument.
        unsafe { libc::ioctl(fd, LOOP_CLR_FD as _, 0) };
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_size() {
        assert_eq!(size_of::<LoopInfo>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }

    #[test]
    fn a_long_file_name_is_cut_before_its_terminator() {
        let info = LoopInfo::of(
            Path::new(&"x".repeat(100)),
            true,
            LoopOptions { direct_io: true },
        );
        assert_eq!((info.file_name[62], info.file_name[63]), (b'x', 0));
        assert_eq!(
            info.flags,
            LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO
        );
    }

    #[test]
    fn step_by_step_gives_the_same_device_as_at_once() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: loop devices need root");
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let describe = |device: &LoopDevice| {
            let folder = Path::new("/sys/block").join(&device.path()["/dev/".len()..]);
            let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
            [
                "size",
                "ro",
                "loop/backing_file",
                "loop/autoclear",
                "loop/dio",
            ]
            .map(read)
        };
        for read_only in [false, true] {
            let attach = |how| {
                LoopDevice::attach_with(how, file.path(), read_only, LoopOptions::default())
                    .unwrap()
            };
            let (stepwise, at_once) = (attach(configure_stepwise), attach(configure));
            let seen = describe(&stepwise);
            assert_eq!(seen, describe(&at_once));
            assert_eq!(seen[2].trim_end(), file.path().to_str().unwrap());
            assert_eq!((seen[0].trim_end(), seen[3].trim_end()), ("2048", "1"));
        }
    }
}
