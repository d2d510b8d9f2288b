//! Errors and warnings: on standard error, and in the log that was asked for.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;

use runtime::Error;

use super::flags::Flags;

struct Log {
    file: File,
    json: bool,
}

thread_local! {
    static LOG: RefCell<Option<Log>> = const { RefCell::new(None) };
}

pub fn set_up(global: &Flags) -> Result<(), Error> {
    let json = match global.get("log-format").unwrap_or("text") {
        "text" => false,
        "json" => true,
        other => return Err(Error::invalid(format!("invalid log-format: {other}"))),
    };
    if let Some(path) = global.get("log").filter(|path| !path.is_empty()) {
        let opened = File::options().append(true).create(true).open(path);
        let file = opened.map_err(|e| Error::failed(format!("--log {path}: {e}")))?;
        LOG.with(|log| *log.borrow_mut() = Some(Log { file, json }));
    }
    runtime::log::to(|text| write("warning", text));
    Ok(())
}

pub fn error(text: &str) {
    write("error", text);
    let logged = LOG.with(|log| log.borrow().is_some());
    if logged {
        eprintln!("{text}");
    }
}

fn write(level: &str, text: &str) {
    LOG.with(|log| match &mut *log.borrow_mut() {
        None => eprintln!("{}: {text}", if level == "error" { "ERRO" } else { "WARN" }),
        Some(log) => {
            let time = runtime::now();
            let line = match log.json {
                true => serde_json::json!({"level": level, "msg": text, "time": time}).to_string(),
                false => format!("time={time:?} level={level} msg={text:?}"),
            };
            // There is nowhere left to complain.
            let _ = writeln!(log.file, "{line}");
        }
    });
}
