//! The shim's socket: its name, and making it while others may do the same.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sha2::{Digest, Sha256};

/// Where containerd's shims have their sockets.
pub const DEFAULT_DIR: &str = "/run/containerd/s";

/// The socket of a group in a daemon's namespace: the same for every caller, different from any
/// other group's.
pub fn path(dir: &Path, daemon: &str, namespace: &str, group: &str) -> PathBuf {
    let name = Path::new(daemon).join(namespace).join(group);
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(name.as_os_str().as_encoded_bytes()) {
        hex.push_str(&format!("{byte:02x}"));
    }
    dir.join(hex)
}

pub enum Made {
    /// A new socket, listening already.
    New(UnixListener),
    /// A shim serves it.
    Taken,
}

/// Makes the socket, or finds that a shim serves it. One that nobody serves is replaced.
///
/// A lock on the folder keeps two callers of one group from taking each other's new socket for a
/// dead one.
pub fn make(path: &Path) -> io::Result<Made> {
    let named =
        |e: io::Error| io::Error::new(e.kind(), format!("shim socket {}: {e}", path.display()));
    let dir = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(named)?;
    let lock = File::open(dir).map_err(named)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| named(e.into()))?;
    match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            if is_served(path).map_err(named)? {
                return Ok(Made::Taken);
            }
            std::fs::remove_file(path).map_err(named)?;
        }
        made => return made.and_then(|l| private(l, path)).map_err(named),
    }
    UnixListener::bind(path)
        .and_then(|l| private(l, path))
        .map_err(named)
}

fn private(listener: UnixListener, path: &Path) -> io::Result<Made> {
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(Made::New(listener))
}

/// Whether anybody listens at the path; a full backlog counts.
pub fn is_served(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_containerds() {
        let got = path(
            Path::new("/run/containerd/s"),
            "/run/containerd/containerd.sock",
            "k8s.io",
            "x",
        );
        // The SHA-256 of "/run/containerd/containerd.sock/k8s.io/x".
        let expected = "f4387a886804a7f6b2a0bdfb71552d9a9ebe98742a803b1b2ef60583547245f0";
        assert_eq!(got.file_name().unwrap(), expected);
        assert_eq!(got.parent().unwrap(), Path::new("/run/containerd/s"));
    }

    #[test]
    fn live_is_taken_and_dead_is_replaced() {
        let _no_forks = crate::spawn::forks::none();
        let dir = std::env::temp_dir().join(format!("shim-socket-{}", std::process::id()));
        let path = dir.join("sock");
        let Made::New(first) = make(&path).unwrap() else {
            panic!("taken")
        };
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(matches!(make(&path).unwrap(), Made::Taken));
        drop(first);
        assert!(path.exists() && !is_served(&path).unwrap());
        assert!(matches!(make(&path).unwrap(), Made::New(_)));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn many_callers_get_one_shim() {
        let _no_forks = crate::spawn::forks::none();
        let dir = std::env::temp_dir().join(format!("shim-socket-many-{}", std::process::id()));
        let path = dir.join("sock");
        std::fs::create_dir_all(&dir).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        let threads: Vec<_> = (0..16)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || make(&path).unwrap())
            })
            .collect();
        let made: Vec<Made> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert_eq!(made.iter().filter(|m| matches!(m, Made::New(_))).count(), 1);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
