//! One face over the decoders: bytes in, bytes out, and a check that the end is an end.

use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use crate::compression::Compression;
use crate::error::{Error, Result};
use crate::gzip::GzipDecoder;

/// 128 MiB, what the zstd tools accept by default; bounds the memory a frame can demand.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

pub(crate) enum Decoder {
    Gzip(Box<GzipDecoder>),
    Zstd {
        context: DCtx<'static>,
        inside_frame: bool,
    },
}

impl Decoder {
    /// The decoder for `compression`; `None` for plain bytes.
    pub(crate) fn new(compression: Compression) -> Result<Option<Self>> {
        match compression {
            Compression::Auto | Compression::None => Ok(None),
            Compression::Gzip => Ok(Some(Self::Gzip(Box::new(GzipDecoder::new())))),
            Compression::Zstd => {
                let mut context = DCtx::try_create()
                    .ok_or_else(|| Error::io("zstd", b"layer", std::io::ErrorKind::OutOfMemory))?;
                context
                    .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
                    .map_err(zstd_error)?;
                Ok(Some(Self::Zstd {
                    context,
                    inside_frame: false,
                }))
            }
        }
    }

    /// Consumes some of `input`, fills some of `output`; returns how much of each. With an empty
    /// `input` it hands out what it still holds.
    pub(crate) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize)> {
        match self {
            Self::Gzip(gzip) => gzip.step(input, output),
            Self::Zstd {
                context,
                inside_frame,
            } => {
                // Asked without input between frames, the library would begin to wait for a new one.
                if input.is_empty() && !*inside_frame {
                    return Ok((0, 0));
                }
                let mut input = InBuffer::around(input);
                let mut output = OutBuffer::around(output);
                let hint = context
                    .decompress_stream(&mut output, &mut input)
                    .map_err(zstd_error)?;
                *inside_frame = hint != 0;
                Ok((input.pos(), output.pos()))
            }
        }
    }

    /// Called at the end of the input.
    pub(crate) fn finish(&self) -> Result<()> {
        match self {
            Self::Gzip(gzip) => gzip.finish(),
            Self::Zstd {
                inside_frame: true, ..
            } => Err(Error::UnexpectedEof("zstd frame".into())),
            Self::Zstd { .. } => Ok(()),
        }
    }
}

fn zstd_error(code: usize) -> Error {
    Error::invalid(format!("zstd: {}", get_error_name(code)))
}
