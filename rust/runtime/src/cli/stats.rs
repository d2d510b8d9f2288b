//! events: what a container uses, in runc's words.

use std::time::Duration;

use runtime::{Class, Error, Runtime};
use serde_json::json;

use super::commands::id;
use super::flags::Flags;

/// Prints the numbers once, or again and again until the container ends.
pub fn events(runtime: &Runtime, flags: &Flags) -> Result<u8, Error> {
    let id = id(flags)?;
    let once = flags.is_set("stats");
    let interval = flags.get("interval").unwrap_or("5s").trim_end_matches('s');
    let wrong = |_| Error::invalid(format!("--interval {interval}: it is a number of seconds"));
    let interval: u64 = interval.parse().map_err(wrong)?;
    if interval == 0 {
        return Err(Error::invalid("duration interval must be greater than 0"));
    }
    loop {
        let (_, status) = runtime.inspect(id)?;
        if status.name() == "stopped" {
            return match once {
                true => Err(Error::new(
                    Class::State,
                    format!("container with id {id} is not running"),
                )),
                false => Ok(0),
            };
        }
        let data = runtime.stats(id)?;
        println!("{}", json!({"type": "stats", "id": id, "data": data}));
        if once {
            return Ok(0);
        }
        std::thread::sleep(Duration::from_secs(interval));
    }
}
