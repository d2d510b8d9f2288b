//! The first page of a recipe: lines of text that programs other than this one read as well.
//!
//! ```text
//! containerd-hybrid recipe 1
//! digest sha256:…
//! size 123456
//! encoding gzip-blocks-1 6
//! folder io.containerd.snapshotter.v1.overlayfs/snapshots/7/fs
//! ```
//!
//! The rest of the page is line feeds.

use std::fmt;
use std::fs::File;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::{Error, Result};

/// Bytes of the page.
pub(super) const PAGE: usize = 4096;
const MAGIC: &str = "containerd-hybrid recipe 1";

/// How the archive becomes the blob.
///
/// The name of an encoder stands for its bytes: one whose output changes gets another name, and the old
/// one has to stay as long as there are recipes that use it. A test keeps the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// The archive is the blob.
    Plain,
    /// The gzip of [`diff`](crate::diff()), at this level.
    GzipBlocks(u8),
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => f.write_str("none"),
            Self::GzipBlocks(level) => write!(f, "gzip-blocks-1 {level}"),
        }
    }
}

impl FromStr for Encoding {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let level = |text: &str| text.parse().ok().filter(|level| (1..=9).contains(level));
        match text.split_once(' ') {
            None if text == "none" => Ok(Self::Plain),
            Some(("gzip-blocks-1", rest)) if level(rest).is_some() => {
                Ok(Self::GzipBlocks(level(rest).unwrap_or_default()))
            }
            _ => Err(Error::invalid(format!(
                "recipe: no encoder is called {text:?}"
            ))),
        }
    }
}

/// What a recipe says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Of the blob.
    pub digest: Digest,
    /// Of the blob, in bytes.
    pub size: u64,
    /// What made the blob of the archive.
    pub encoding: Encoding,
    /// The caller's name for the folder that has the files.
    pub folder: String,
}

impl Header {
    /// Writes the page.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a name of the folder that has no room in it; [`Error::Io`].
    pub(super) fn write(&self, file: &File) -> Result<()> {
        let Self {
            digest,
            size,
            encoding,
            folder,
        } = self;
        let mut page = format!(
            "{MAGIC}\ndigest {digest}\nsize {size}\nencoding {encoding}\nfolder {folder}\n"
        )
        .into_bytes();
        if folder.contains('\n') || page.len() > PAGE {
            return Err(Error::InvalidOption(format!("name of a folder {folder:?}")));
        }
        page.resize(PAGE, b'\n');
        let mut at = 0;
        while at < PAGE {
            at += rustix::io::retry_on_intr(|| rustix::io::pwrite(file, &page[at..], at as u64))
                .map_err(|e| Error::io("write", b"recipe", e))?;
        }
        Ok(())
    }

    /// Reads the page.
    ///
    /// # Errors
    /// [`Error::InvalidArchive`] when it is none; [`Error::Io`].
    pub fn read(file: &File) -> Result<Self> {
        let mut page = vec![0; PAGE];
        if super::segments::read_at(file, &mut page, 0, b"recipe")? < PAGE {
            return Err(Error::invalid("recipe: it ends within its first page"));
        }
        let text = str::from_utf8(&page).map_err(|_| Error::invalid("recipe: no text"))?;
        let mut lines = text.lines();
        if lines.next() != Some(MAGIC) {
            return Err(Error::invalid("no recipe, or one of another release"));
        }
        let mut value = |key: &str| {
            lines
                .next()
                .and_then(|line| line.strip_prefix(key)?.strip_prefix(' '))
                .ok_or_else(|| Error::invalid(format!("recipe: no line {key:?}")))
        };
        Ok(Self {
            digest: value("digest")?.parse()?,
            size: value("size")?
                .parse()
                .map_err(|_| Error::invalid("recipe: no number as size"))?,
            encoding: value("encoding")?.parse()?,
            folder: value("folder")?.to_owned(),
        })
    }
}
