//! Digests (OCI image spec, descriptor.md "Digests") and hashing of files and streams.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::error::{Error, Result};

/// A registered digest algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Algorithm {
    /// SHA-256, the default of the image spec.
    #[default]
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The name in front of the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Digits of the hexadecimal form.
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha384" => Ok(Self::Sha384),
            "sha512" => Ok(Self::Sha512),
            _ => Err(Error::InvalidDigest(format!(
                "unsupported digest algorithm {text:?}: use sha256, sha384 or sha512"
            ))),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An algorithm and its result; `Display` and `FromStr` speak `sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

impl Digest {
    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Lower-case hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The digest of bytes in memory.
    pub fn of(algorithm: Algorithm, data: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(data);
        hasher.finish()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(Error::InvalidDigest(format!(
                "invalid digest {text:?}: expected algorithm:hex, e.g. sha256:…"
            )));
        };
        let algorithm: Algorithm = algorithm.parse()?;
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() != algorithm.hex_len() || !hex.bytes().all(lower_hex) {
            return Err(Error::InvalidDigest(format!(
                "invalid digest {text:?}: expected {} lower-case hex digits",
                algorithm.hex_len()
            )));
        }
        Ok(Self {
            algorithm,
            hex: hex.to_owned(),
        })
    }
}

#[derive(Debug, Clone)]
enum State {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

/// Incremental hashing. Uses the processor's SHA instructions where it has them (found at run time).
#[derive(Debug, Clone)]
pub struct Hasher {
    state: State,
    len: u64,
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha384 => State::Sha384(Sha384::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        };
        Self { state, len: 0 }
    }

    /// Takes in `data`.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.state {
            State::Sha256(h) => h.update(data),
            State::Sha384(h) => h.update(data),
            State::Sha512(h) => h.update(data),
        }
        self.len += data.len() as u64;
    }

    /// Which algorithm this is.
    pub fn algorithm(&self) -> Algorithm {
        match self.state {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha384(_) => Algorithm::Sha384,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Bytes seen so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was hashed yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The digest of what was seen so far; hashing can go on.
    pub fn digest(&self) -> Digest {
        self.clone().finish()
    }

    /// The digest of everything seen.
    pub fn finish(self) -> Digest {
        let (algorithm, hex) = match self.state {
            State::Sha256(h) => (Algorithm::Sha256, hex(&h.finalize())),
            State::Sha384(h) => (Algorithm::Sha384, hex(&h.finalize())),
            State::Sha512(h) => (Algorithm::Sha512, hex(&h.finalize())),
        };
        Digest { algorithm, hex }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [b >> 4, b & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

/// Large enough that system calls do not count, small enough to stay in the L2 cache.
const COPY_BUFFER: usize = 256 * 1024;

/// Hashes `file` from its present offset to its end.
///
/// # Errors
/// [`Error::Io`] when reading fails.
pub fn hash_file(file: &File, algorithm: Algorithm) -> Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; COPY_BUFFER];
    loop {
        match read(file.as_fd(), &mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Copies from `source` to `target` at their present offsets, feeding `hasher` with the same bytes.
///
/// Stops after `len` bytes, or at the end of `source` when `len` is `None`. Returns the bytes copied.
///
/// # Errors
/// [`Error::UnexpectedEof`] when `source` ends before `len` bytes; [`Error::Io`]. What was copied until
/// then is in `target` and in `hasher` alike.
pub fn copy_and_hash(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    len: Option<u64>,
    hasher: &mut Hasher,
) -> Result<u64> {
    let mut buffer = vec![0; COPY_BUFFER];
    let mut copied = 0u64;
    loop {
        let want = len.map_or(buffer.len() as u64, |len| {
            (len - copied).min(buffer.len() as u64)
        });
        if want == 0 {
            return Ok(copied);
        }
        let n = read(source, &mut buffer[..want as usize])?;
        if n == 0 {
            return match len {
                Some(len) => Err(Error::UnexpectedEof(format!(
                    "source: {copied} of {len} bytes"
                ))),
                None => Ok(copied),
            };
        }
        let mut rest = &buffer[..n];
        while !rest.is_empty() {
            let written = write(target, rest)?;
            hasher.update(&rest[..written]);
            copied += written as u64;
            rest = &rest[written..];
        }
    }
}

fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut *buffer))
        .map_err(|e| Error::io("read", b"source", e))
}

fn write(fd: BorrowedFd<'_>, data: &[u8]) -> Result<usize> {
    match rustix::io::retry_on_intr(|| rustix::io::write(fd, data)) {
        Ok(0) => Err(Error::io("write", b"target", io::ErrorKind::WriteZero)),
        Ok(n) => Ok(n),
        Err(e) => Err(Error::io("write", b"target", e)),
    }
}
