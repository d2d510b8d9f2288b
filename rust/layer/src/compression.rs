//! How a layer is compressed, by its magic bytes or its media type.

use std::fmt;

use crate::error::{Error, Result};

/// Compression of a layer's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Look at the first bytes; what is neither gzip nor zstd is taken for plain tar.
    #[default]
    Auto,
    /// Plain tar.
    None,
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames, skippable ones included.
    Zstd,
}

/// Bytes that [`Compression::sniff`] wants to see.
pub(crate) const SNIFF_LEN: usize = 6;

impl Compression {
    /// What a media type promises. A docker or OCI layer type without a suffix gives `Auto`, because
    /// old registries serve gzip under it.
    ///
    /// # Errors
    /// [`Error::UnsupportedCompression`] names a media type that is no layer or has a foreign suffix.
    pub fn from_media_type(media_type: &str) -> Result<Self> {
        let unsupported = || Error::UnsupportedCompression(media_type.to_owned());
        let base = media_type.split(';').next().unwrap_or_default().trim();
        let Some(rest) = base
            .strip_prefix("application/vnd.docker.image.rootfs.diff.tar")
            .or_else(|| base.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff.tar"))
            .or_else(|| base.strip_prefix("application/vnd.oci.image.layer.v1.tar"))
            .or_else(|| {
                base.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar")
            })
        else {
            return Err(unsupported());
        };
        match rest {
            "" => Ok(Self::Auto),
            ".gzip" | "+gzip" => Ok(Self::Gzip),
            ".zstd" | "+zstd" => Ok(Self::Zstd),
            _ => Err(unsupported()),
        }
    }

    /// Names the compression of a stream that starts with `head`.
    pub(crate) fn sniff(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame in front, as `pzstd` and seekable formats write.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// The name of a known foreign format; asked only when the bytes were no valid tar either.
    pub(crate) fn foreign(head: &[u8]) -> Option<&'static str> {
        match head {
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Some("lz4"),
            [0x5d, 0x00, 0x00, ..] => Some("lzma"),
            _ => None,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}
