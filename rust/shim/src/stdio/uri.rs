//! The names streams have in requests.

use std::io;
use std::path::PathBuf;

/// Where output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// No name: the null device.
    Null,
    /// A FIFO, or whatever else is at the path.
    Path(PathBuf),
    /// A file that is made if it is missing, with its folders, and appended to.
    LogFile(PathBuf),
    Logger(LoggerUri),
    /// A stream that the client has opened at this shim, by its id.
    Stream(String),
}

/// A logging program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggerUri {
    pub path: String,
    pub args: Vec<String>,
    /// `binary-v2`: the program must say that it is ready, its closing of the pipe is not enough.
    pub strict: bool,
}

impl Target {
    pub fn parse(name: &str) -> io::Result<Self> {
        if name.is_empty() {
            return Ok(Self::Null);
        }
        let Some((scheme, rest)) = split_scheme(name) else {
            return Ok(Self::Path(name.into()));
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        match scheme {
            "fifo" => Ok(Self::Path(percent_decode(path, false)?.into())),
            "file" => Ok(Self::LogFile(percent_decode(path, false)?.into())),
            "binary" | "binary-v2" => {
                let mut args = Vec::new();
                for pair in query.split('&').filter(|pair| !pair.is_empty()) {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    args.push(percent_decode(key, true)?);
                    args.push(percent_decode(value, true)?);
                }
                let path = percent_decode(path, false)?;
                Ok(Self::Logger(LoggerUri {
                    path,
                    args,
                    strict: scheme == "binary-v2",
                }))
            }
            "streaming" | "ttrpc+unix" | "ttrpc" => match stream_id(query)? {
                Some(id) => Ok(Self::Stream(id)),
                None => Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{name}: no streaming_id"),
                )),
            },
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("unknown STDIO scheme {scheme}"),
            )),
        }
    }
}

fn stream_id(query: &str) -> io::Result<Option<String>> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let id = pairs.find(|(key, _)| *key == "streaming_id");
    let id = id.map(|(_, id)| percent_decode(id, true)).transpose()?;
    Ok(id.filter(|id| !id.is_empty()))
}

/// `scheme://host/path` → scheme and path. A log URI has no host; `binary://name` means a program
/// on PATH.
fn split_scheme(name: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = name.split_once("://")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    (!scheme.is_empty() && scheme.chars().all(plain)).then_some((scheme, rest))
}

fn percent_decode(text: &str, plus_is_space: bool) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next().unwrap_or(0), rest.next().unwrap_or(0)];
                let value = std::str::from_utf8(&digits)
                    .ok()
                    .and_then(|d| u8::from_str_radix(d, 16).ok());
                bytes.push(value.ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::InvalidInput,
                        format!("invalid URL escape in {text:?}"),
                    )
                })?);
            }
            b'+' if plus_is_space => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        assert_eq!(Target::parse("").unwrap(), Target::Null);
        assert_eq!(
            Target::parse("/run/a b%20").unwrap(),
            Target::Path("/run/a b%20".into())
        );
        assert_eq!(
            Target::parse("fifo:///run/x").unwrap(),
            Target::Path("/run/x".into())
        );
        assert_eq!(
            Target::parse("file:///a%20b").unwrap(),
            Target::LogFile("/a b".into())
        );
        let logger = |path: &str, args: &[&str], strict| {
            let args = args.iter().map(|a| (*a).into()).collect();
            Target::Logger(LoggerUri {
                path: path.into(),
                args,
                strict,
            })
        };
        assert_eq!(
            Target::parse("binary:///bin/l?x=1+2&y&z=%3D").unwrap(),
            logger("/bin/l", &["x", "1 2", "y", "", "z", "="], false)
        );
        assert_eq!(
            Target::parse("binary-v2://logger").unwrap(),
            logger("logger", &[], true)
        );
        assert_eq!(
            Target::parse("ttrpc+unix:///run/s/1?a=b&streaming_id=box-std%20out").unwrap(),
            Target::Stream("box-std out".into())
        );
        for name in [
            "ttrpc+unix:///run/s/1",
            "ttrpc+unix:///run/s/1?streaming_id=",
        ] {
            let error = Target::parse(name).unwrap_err().to_string();
            assert!(error.contains("no streaming_id"), "{error}");
        }
        assert!(Target::parse("grpc+vsock://3:1?streaming_id=x").is_err());
        assert!(
            Target::parse("ftp://x")
                .unwrap_err()
                .to_string()
                .contains("unknown STDIO scheme ftp")
        );
        assert!(Target::parse("file:///%zz").is_err());
    }
}
