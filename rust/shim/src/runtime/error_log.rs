//! The runtime's JSON log, read for the error of one call.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What is read of a log at most, in bytes: its end.
const READ_LIMIT: u64 = 256 << 10;

/// A place in the log. What comes after it was written by this call (or one beside it).
pub struct Mark {
    path: PathBuf,
    offset: u64,
}

impl Mark {
    pub fn at_end_of(path: &Path) -> Self {
        let offset = path.metadata().map_or(0, |m| m.len());
        Self {
            path: path.into(),
            offset,
        }
    }

    /// The last error logged since.
    pub fn last_error(&self) -> Option<String> {
        let mut file = File::open(&self.path).ok()?;
        let length = file.metadata().ok()?.len();
        let from = self.offset.max(length.saturating_sub(READ_LIMIT));
        file.seek(SeekFrom::Start(from)).ok()?;
        let mut text = Vec::new();
        file.take(READ_LIMIT).read_to_end(&mut text).ok()?;
        last_error(&text)
    }
}

/// runc and crun write `level` and `msg`; youki an upper-case level and `fields.message`.
fn last_error(text: &[u8]) -> Option<String> {
    text.split(|b| *b == b'\n').rev().find_map(|line| {
        let entry: Value = serde_json::from_slice(line).ok()?;
        let level = entry.get("level")?.as_str()?;
        let severe = ["error", "fatal", "panic"]
            .iter()
            .any(|l| level.eq_ignore_ascii_case(l));
        let message = entry
            .get("msg")
            .or_else(|| entry.get("fields")?.get("message"))?
            .as_str()?;
        severe
            .then(|| message.trim().to_owned())
            .filter(|m| !m.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_since_the_mark() {
        let path = std::env::temp_dir().join(format!("shim-log-{}.json", std::process::id()));
        let old = r#"{"level":"error","msg":"old","time":"2024"}"#;
        std::fs::write(&path, format!("{old}\n")).unwrap();
        let mark = Mark::at_end_of(&path);
        assert_eq!(mark.last_error(), None);
        let lines = [
            old,
            r#"{"level":"error","msg":" first ","time":"2024"}"#,
            r#"{"level":"warning","msg":"later"}"#,
            "not json",
        ];
        std::fs::write(&path, lines.join("\n")).unwrap();
        assert_eq!(mark.last_error().as_deref(), Some("first"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(mark.last_error(), None);
    }

    #[test]
    fn youki_writes_it_otherwise() {
        let line = br#"{"timestamp":"t","level":"ERROR","fields":{"message":"no such thing"}}"#;
        assert_eq!(last_error(line).as_deref(), Some("no such thing"));
    }
}
