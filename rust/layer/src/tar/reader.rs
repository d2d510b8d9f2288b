//! The archive as a sequence of entries, extended headers already laid over them.

use super::header::{self, BLOCK, Block, Fields, Kind, Time};
use super::pax::{self, Extended};
use super::sparse::{self, Segment};
use crate::error::{Error, Result};
use crate::pipeline::Unpacked;

/// Most bytes of one extended header or long name that are kept in memory.
const MAX_EXTENDED: u64 = 1 << 20;

/// Where the archive's bytes come from.
pub trait Stream {
    /// Bytes not yet consumed; empty only at the end.
    fn fill(&mut self) -> Result<&[u8]>;
    /// Gives back the first `n` bytes of what `fill` returned.
    fn consume(&mut self, n: usize);
}

impl Stream for Unpacked {
    fn fill(&mut self) -> Result<&[u8]> {
        Unpacked::fill(self)
    }

    fn consume(&mut self, n: usize) {
        Unpacked::consume(self, n);
    }
}

impl Stream for &[u8] {
    fn fill(&mut self) -> Result<&[u8]> {
        Ok(self)
    }

    fn consume(&mut self, n: usize) {
        *self = &self[n..];
    }
}

impl<S: Stream> Stream for &mut S {
    fn fill(&mut self) -> Result<&[u8]> {
        (**self).fill()
    }

    fn consume(&mut self, n: usize) {
        (**self).consume(n);
    }
}

/// One member of the archive. Names are bytes as archived, not cleaned and not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Where it goes.
    pub path: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// The twelve permission bits.
    pub mode: u32,
    /// Owner as archived; may be out of the kernel's range.
    pub uid: i64,
    /// Group as archived.
    pub gid: i64,
    /// Size of the file in bytes, holes included; 0 for what has no content.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Access time, where archived.
    pub atime: Option<Time>,
    /// Device numbers of [`Kind::Char`] and [`Kind::Block`] as archived.
    pub device: (i64, i64),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The stored parts of a sparse file in ascending order; `None` for all other files.
    pub sparse: Option<Vec<Segment>>,
}

/// Reads entries; after each its content can be read, or is skipped by the next call.
pub struct Reader<S> {
    stream: S,
    /// Content of the present entry not yet read, in bytes as stored.
    left: u64,
    /// Blanks between that content and the next header.
    padding: u64,
}

impl<S: Stream> Reader<S> {
    /// A reader at the start of an archive.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            left: 0,
            padding: 0,
        }
    }

    /// The next entry, or `None` at the end mark or the end of the stream.
    ///
    /// Global headers are checked and then ignored, as Go's reader and so containerd does: an archive
    /// must not mean one thing to us and another to the tool that inspected it.
    ///
    /// # Errors
    /// [`Error::InvalidArchive`], [`Error::UnexpectedEof`], [`Error::LimitExceeded`] for an extended
    /// header or a sparse map over 1 MiB, and what the stream itself reports.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.skip_content()?;
        let mut extended: Option<Extended> = None;
        let mut long_name: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        loop {
            let pending = extended.is_some() || long_name.is_some() || long_link.is_some();
            let Some(block) = self.header_block()? else {
                return match pending {
                    true => Err(Error::invalid("extended header without an entry")),
                    false => Ok(None),
                };
            };
            let fields = header::parse(&block)?;
            let size = u64::try_from(fields.size)
                .map_err(|_| Error::invalid("negative size in tar header"))?;
            match fields.flag {
                // Old Solaris wrote `X` for the same thing.
                b'x' | b'X' => extended = Some(pax::parse(&self.small(size, "pax header")?)?),
                b'g' => drop(pax::parse(&self.small(size, "global pax header")?)?),
                b'L' => long_name = Some(self.long(size, "GNU long name")?),
                b'K' => long_link = Some(self.long(size, "GNU long link")?),
                _ => {
                    let extended = extended.unwrap_or_default();
                    return self
                        .entry(&block, fields, extended, long_name, long_link)
                        .map(Some);
                }
            }
        }
    }

    /// The next piece of the present entry's stored content; empty when all was read. A sparse file's
    /// content is its segments, one behind the other.
    pub fn content(&mut self) -> Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let left = self.left;
        let bytes = self.stream.fill()?;
        if bytes.is_empty() {
            return Err(Error::UnexpectedEof(format!(
                "tar entry, {left} bytes missing"
            )));
        }
        let n = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        Ok(&bytes[..n])
    }

    /// Declares the first `n` bytes of [`Reader::content`] read.
    pub fn consume(&mut self, n: usize) {
        self.left -= n as u64;
        self.stream.consume(n);
    }

    fn entry(
        &mut self,
        block: &Block,
        fields: Fields,
        extended: Extended,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        let mut path = long_name.or(extended.path).unwrap_or(fields.name);
        let kind = match fields.flag {
            // v7 had no flag for directories, only the slash.
            0 if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        };
        let size = extended.size.unwrap_or(fields.size);
        let size =
            u64::try_from(size).map_err(|_| Error::invalid("negative size of a tar entry"))?;
        if size > i64::MAX as u64 - BLOCK as u64 {
            return Err(Error::invalid("size of a tar entry is out of range"));
        }
        // Links, devices and directories carry no content whatever their size says; GNU's `D` lists
        // the directory's names there.
        let stored = match kind {
            Kind::File | Kind::Other(_) => size,
            Kind::Directory if fields.flag == b'D' => size,
            _ => 0,
        };
        let mut entry = Entry {
            kind,
            path: Vec::new(),
            link: long_link.or(extended.link).unwrap_or(fields.link),
            mode: fields.mode,
            uid: extended.uid.unwrap_or(fields.uid),
            gid: extended.gid.unwrap_or(fields.gid),
            size: if kind == Kind::File { size } else { 0 },
            mtime: extended.mtime.unwrap_or(Time {
                seconds: fields.mtime,
                nanos: 0,
            }),
            atime: extended.atime,
            device: (fields.major, fields.minor),
            xattrs: extended.xattrs,
            sparse: None,
        };
        self.left = stored;
        self.padding = sparse::padding(stored);
        if kind == Kind::File {
            let records = extended.sparse;
            let real_size = if fields.flag == b'S' {
                Some(self.old_gnu_sparse(block, &mut entry)?)
            } else if records.major == Some(1) && records.minor == Some(0) {
                entry.sparse = Some(self.map_1_0()?);
                Some(records.real_size.ok_or_else(sparse::bad_map)?)
            } else if records.has_map {
                entry.sparse = Some(records.map);
                Some(records.real_size.ok_or_else(sparse::bad_map)?)
            } else {
                None
            };
            if let (Some(real_size), Some(map)) = (real_size, &entry.sparse) {
                entry.size = u64::try_from(real_size).map_err(|_| sparse::bad_map())?;
                sparse::validate(map, entry.size, self.left)?;
                path = records.name.unwrap_or(path);
            }
        }
        entry.path = path;
        Ok(entry)
    }

    /// Reads the map of an old GNU sparse file, extension blocks included; returns the real size.
    fn old_gnu_sparse(&mut self, block: &Block, entry: &mut Entry) -> Result<i64> {
        let (mut map, mut more, real_size) = sparse::old_gnu_header(block)?;
        let mut blocks = 0;
        while more {
            blocks += 1;
            if blocks * BLOCK > sparse::MAX_MAP_BYTES {
                return Err(sparse::too_long());
            }
            let block = self.block("GNU sparse header")?;
            more = sparse::old_gnu_block(&block, &mut map)?;
        }
        entry.sparse = Some(map);
        Ok(real_size)
    }

    /// Reads the map in front of the content of a sparse 1.0 file.
    fn map_1_0(&mut self) -> Result<Vec<Segment>> {
        let mut text = sparse::MapText::default();
        loop {
            if self.left < BLOCK as u64 {
                return Err(sparse::bad_map());
            }
            let block = self.block("sparse map")?;
            self.left -= BLOCK as u64;
            if let Some(map) = text.push(&block)? {
                return Ok(map);
            }
        }
    }

    /// Reads a small member whole.
    fn small(&mut self, size: u64, what: &'static str) -> Result<Vec<u8>> {
        if size > MAX_EXTENDED {
            return Err(Error::LimitExceeded {
                what: match what {
                    "pax header" | "global pax header" => "bytes of pax header",
                    _ => "bytes of GNU long name",
                },
                limit: MAX_EXTENDED,
            });
        }
        let mut data = Vec::new();
        let mut left = size as usize;
        while left > 0 {
            let bytes = self.stream.fill()?;
            if bytes.is_empty() {
                return Err(Error::UnexpectedEof(what.into()));
            }
            let n = left.min(bytes.len());
            data.extend_from_slice(&bytes[..n]);
            self.stream.consume(n);
            left -= n;
        }
        self.padding = sparse::padding(size);
        self.skip_content()?;
        Ok(data)
    }

    fn long(&mut self, size: u64, what: &'static str) -> Result<Vec<u8>> {
        let data = self.small(size, what)?;
        Ok(header::text(&data).to_vec())
    }

    /// A header, or `None` at the end. Two zero blocks are the end mark; the stream may also just stop
    /// between two entries, or behind a single zero block, as sloppy writers leave it.
    fn header_block(&mut self) -> Result<Option<Block>> {
        if self.stream.fill()?.is_empty() {
            return Ok(None);
        }
        let block = self.block("tar header")?;
        if !header::is_zero(&block) {
            return Ok(Some(block));
        }
        if self.stream.fill()?.is_empty() || header::is_zero(&self.block("tar end mark")?) {
            return Ok(None);
        }
        Err(Error::invalid("tar header behind a single zero block"))
    }

    fn block(&mut self, what: &str) -> Result<Block> {
        let mut block = [0; BLOCK];
        let mut at = 0;
        while at < BLOCK {
            let bytes = self.stream.fill()?;
            if bytes.is_empty() {
                return Err(Error::UnexpectedEof(what.into()));
            }
            let n = bytes.len().min(BLOCK - at);
            block[at..at + n].copy_from_slice(&bytes[..n]);
            self.stream.consume(n);
            at += n;
        }
        Ok(block)
    }

    /// Moves to the next header. Blanks missing at the very end are forgiven, as by Go and GNU tar.
    fn skip_content(&mut self) -> Result<()> {
        loop {
            let n = self.content()?.len();
            if n == 0 {
                break;
            }
            self.consume(n);
        }
        while self.padding > 0 {
            let n = self.stream.fill()?.len().min(self.padding as usize);
            if n == 0 {
                self.padding = 0;
            }
            self.stream.consume(n);
            self.padding -= n as u64;
        }
        Ok(())
    }
}
