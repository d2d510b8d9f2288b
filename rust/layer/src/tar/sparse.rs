//! Sparse files: which parts of a file are stored. Holes are what lies between.

use super::header::{self, BLOCK, Block, field};
use super::pax::decimal;
use crate::error::{Error, Result};

/// A stored part of a sparse file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file it belongs.
    pub offset: u64,
    /// How long it is.
    pub len: u64,
}

/// Most bytes of map read for one file, in whichever format; a map of that size describes some
/// 50,000 segments.
pub(crate) const MAX_MAP_BYTES: usize = 1 << 20;

/// The four segments in an old GNU header, and whether blocks with more follow.
pub(crate) fn old_gnu_header(block: &Block) -> Result<(Vec<Segment>, bool, i64)> {
    let real_size = header::parse_number(&block[field::GNU_REAL_SIZE]).ok_or_else(bad_map)?;
    let mut map = Vec::new();
    old_gnu_segments(&block[field::GNU_SPARSE], &mut map)?;
    Ok((map, block[field::GNU_EXTENDED] != 0, real_size))
}

/// The 21 segments in one of the blocks that follow; true when another block follows.
pub(crate) fn old_gnu_block(block: &Block, map: &mut Vec<Segment>) -> Result<bool> {
    old_gnu_segments(&block[..504], map)?;
    Ok(block[504] != 0)
}

fn old_gnu_segments(mut fields: &[u8], map: &mut Vec<Segment>) -> Result<()> {
    while let Some((pair, rest)) = fields.split_first_chunk::<24>() {
        fields = rest;
        if pair[0] == 0 {
            break;
        }
        let number = |field: &[u8]| {
            let value = header::parse_number(field).ok_or_else(bad_map)?;
            u64::try_from(value).map_err(|_| bad_map())
        };
        map.push(Segment {
            offset: number(&pair[..12])?,
            len: number(&pair[12..])?,
        });
    }
    Ok(())
}

/// Format 1.0 keeps the map in front of the data, padded to whole blocks: a count, then offsets and
/// lengths, one decimal number a line.
#[derive(Default)]
pub(crate) struct MapText {
    text: Vec<u8>,
    lines: usize,
    /// Lines that make it whole, once the count is known.
    needed: Option<usize>,
}

impl MapText {
    /// Takes one more block; the map when it is whole.
    pub(crate) fn push(&mut self, block: &Block) -> Result<Option<Vec<Segment>>> {
        self.text.extend_from_slice(block);
        self.lines += block.iter().filter(|&&b| b == b'\n').count();
        if self.needed.is_none() {
            let count = numbers(&self.text).next().ok_or_else(bad_map)??;
            // Two digits and two newlines are the least a segment takes.
            if count > (MAX_MAP_BYTES / 4) as u64 {
                return Err(too_long());
            }
            self.needed = Some(1 + 2 * count as usize);
        }
        if self.needed.is_none_or(|needed| self.lines < needed) {
            return match self.text.len() < MAX_MAP_BYTES {
                true => Ok(None),
                false => Err(too_long()),
            };
        }
        let values: Vec<u64> = numbers(&self.text)
            .take(self.needed.unwrap_or_default())
            .collect::<Result<_>>()?;
        let (pairs, _) = values[1..].as_chunks::<2>();
        let segment = |&[offset, len]: &[u64; 2]| Segment { offset, len };
        Ok(Some(pairs.iter().map(segment).collect()))
    }
}

/// The numbers on whole lines.
fn numbers(text: &[u8]) -> impl Iterator<Item = Result<u64>> {
    text.split_inclusive(|&b| b == b'\n').map(|line| {
        let digits = line.strip_suffix(b"\n").ok_or_else(bad_map)?;
        let value = decimal(digits).and_then(|n| u64::try_from(n).ok());
        value.ok_or_else(bad_map)
    })
}

/// Holds a map against the file's size and the bytes stored in the archive.
pub(crate) fn validate(map: &[Segment], real_size: u64, stored: u64) -> Result<()> {
    let mut end = 0u64;
    let mut sum = 0u64;
    for segment in map {
        let next = segment
            .offset
            .checked_add(segment.len)
            .ok_or_else(bad_map)?;
        if segment.offset < end || next > real_size {
            return Err(bad_map());
        }
        end = next;
        sum += segment.len;
    }
    if sum != stored {
        return Err(Error::invalid(format!(
            "sparse map describes {sum} bytes of data, the archive holds {stored}"
        )));
    }
    Ok(())
}

pub(crate) fn bad_map() -> Error {
    Error::invalid("malformed sparse map")
}

pub(crate) fn too_long() -> Error {
    Error::LimitExceeded {
        what: "bytes of sparse map",
        limit: MAX_MAP_BYTES as u64,
    }
}

/// Bytes that fill the last block of `len` bytes.
pub(crate) fn padding(len: u64) -> u64 {
    len.next_multiple_of(BLOCK as u64) - len
}
