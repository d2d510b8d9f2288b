//! Signal names.

use runtime::Error;

const NAMES: [&str; 32] = [
    "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// `9`, `KILL`, `SIGKILL`, `RTMIN+3`.
pub fn parse(text: &str) -> Result<i32, Error> {
    if let Ok(number) = text.parse::<i32>()
        && (0..=64).contains(&number)
    {
        return Ok(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let unknown = || Error::invalid(format!("unknown signal {text:?}"));
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset = offset.strip_prefix('+').unwrap_or("0");
        let offset: i32 = offset.parse().map_err(|_| unknown())?;
        return (0..=30)
            .contains(&offset)
            .then_some(34 + offset)
            .ok_or_else(unknown);
    }
    let index = NAMES.iter().skip(1).position(|known| *known == name);
    index.map(|n| n as i32 + 1).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [("9", 9), ("KILL", 9), ("sigterm", 15), ("RTMIN+3", 37)] {
            assert_eq!(parse(text).unwrap(), number);
        }
        assert!(parse("SIGNOPE").is_err());
        assert!(parse("99").is_err());
    }
}
