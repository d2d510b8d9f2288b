//! Compressed layer → tar stream, for programs that read it from a pipe or a file.

use std::fs::File;

use rustix::io::Errno;

use crate::CancelFlag;
use crate::compression::Compression;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::pipeline::{self, Plan, Unpacked};
use crate::source::Source;

/// How to read the layer, and what it has to be.
#[derive(Debug, Clone, Default)]
pub struct UnpackOptions {
    /// How the source is compressed.
    pub compression: Compression,
    /// Digest of the source.
    pub expected_digest: Option<Digest>,
    /// Bytes of the source.
    pub expected_size: Option<u64>,
    /// Ends the call early.
    pub cancel: Option<CancelFlag>,
}

/// What passed.
#[derive(Debug, Clone)]
pub struct UnpackedLayer {
    /// Digest of the uncompressed bytes.
    pub diff_id: Digest,
    /// How many they are.
    pub bytes: u64,
}

/// Writes the uncompressed bytes of `source` to `sink`. A reader of a pipe that has seen enough may close
/// it; what is left is hashed all the same.
///
/// # Errors
/// Any [`Error`] of reading; [`Error::Io`] of writing.
pub fn unpack(source: File, sink: &File, options: &UnpackOptions) -> Result<UnpackedLayer> {
    let plan = Plan {
        compression: options.compression,
        expected_digest: options.expected_digest.clone(),
        expected_size: options.expected_size,
        expected_diff_id: None,
        max_unpacked: None,
        cancel: options.cancel.clone(),
    };
    let passed = pipeline::run(Source::of(source)?, &plan, |stream| write_all(stream, sink))?;
    Ok(UnpackedLayer {
        diff_id: passed.diff_id,
        bytes: passed.unpacked_bytes,
    })
}

fn write_all(stream: &mut Unpacked, sink: &File) -> Result<()> {
    loop {
        let chunk = stream.fill()?;
        if chunk.is_empty() {
            return Ok(());
        }
        match rustix::io::write(sink, chunk) {
            Ok(written) => stream.consume(written),
            Err(Errno::INTR) => {}
            Err(Errno::PIPE) => return Ok(()),
            Err(error) => return Err(Error::io("write", b"unpacked layer", error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;
    use crate::digest::Algorithm;

    fn gzipped(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        let mut child = std::process::Command::new("gzip")
            .stdin(std::process::Stdio::piped())
            .stdout(file.try_clone().unwrap())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(content).unwrap();
        assert!(child.wait().unwrap().success());
        file.rewind().unwrap();
        file
    }

    #[test]
    fn the_uncompressed_bytes_are_written_and_hashed() {
        let content = vec![7; 3 << 20];
        let mut sink = tempfile::tempfile().unwrap();
        let unpacked = unpack(gzipped(&content), &sink, &UnpackOptions::default()).unwrap();
        assert_eq!(unpacked.bytes, 3 << 20);
        assert_eq!(unpacked.diff_id, Digest::of(Algorithm::Sha256, &content));
        sink.rewind().unwrap();
        let mut written = Vec::new();
        sink.read_to_end(&mut written).unwrap();
        assert_eq!(written, content);
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_error() {
        let content = vec![7; 3 << 20];
        let (reading, writing) = std::io::pipe().unwrap();
        drop(reading);
        let sink = File::from(std::os::fd::OwnedFd::from(writing));
        let unpacked = unpack(gzipped(&content), &sink, &UnpackOptions::default()).unwrap();
        assert_eq!(unpacked.bytes, 3 << 20);
    }

    #[test]
    fn bytes_that_are_not_the_layers_are_refused() {
        let options = UnpackOptions {
            expected_digest: Some(Digest::of(Algorithm::Sha256, b"another")),
            ..UnpackOptions::default()
        };
        let sink = tempfile::tempfile().unwrap();
        let error = unpack(gzipped(b"content"), &sink, &options).unwrap_err();
        assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    }
}
