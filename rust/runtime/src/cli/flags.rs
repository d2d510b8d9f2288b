//! Command lines as Go's flag packages read them: `-name`, `--name`, `--name=value`, until the first
//! word that is no flag.

use std::collections::BTreeMap;

/// A flag: its names, and whether it takes a value.
pub type Known = (&'static [&'static str], bool);

#[derive(Debug, Default)]
pub struct Flags {
    values: BTreeMap<&'static str, Vec<String>>,
    pub rest: Vec<String>,
}

impl Flags {
    pub fn parse(known: &[Known], words: &[String]) -> Result<Self, String> {
        let mut flags = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                flags.rest.extend(words.cloned());
                break;
            }
            if !word.starts_with('-') || word == "-" {
                flags.rest.push(word.clone());
                flags.rest.extend(words.cloned());
                break;
            }
            let bare = word.trim_start_matches('-');
            let (name, given) = match bare.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (bare, None),
            };
            let Some((names, takes)) = known.iter().find(|(names, _)| names.contains(&name)) else {
                return Err(format!("flag provided but not defined: -{name}"));
            };
            let value = match (takes, given) {
                (_, Some(value)) => value,
                (false, None) => "true".into(),
                (true, None) => match words.next() {
                    Some(value) => value.clone(),
                    None => return Err(format!("flag needs an argument: -{name}")),
                },
            };
            flags.values.entry(names[0]).or_default().push(value);
        }
        Ok(flags)
    }

    /// Takes over a flag that came before the command.
    pub fn adopt(&mut self, other: &Self, name: &'static str) {
        if let Some(values) = other.values.get(name) {
            self.values.insert(name, values.clone());
        }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.last().map(String::as_str)
    }

    pub fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn is_set(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| value == "true" || value == "1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_end_at_the_first_word() {
        let known: &[Known] = &[(&["env", "e"], true), (&["tty", "t"], false)];
        let words = ["-e", "A=1", "--env=B=2", "-t", "box", "-x"].map(str::to_owned);
        let flags = Flags::parse(known, &words).unwrap();
        assert_eq!(flags.all("env"), ["A=1", "B=2"]);
        assert!(flags.is_set("tty"));
        assert_eq!(flags.rest, ["box", "-x"]);
        assert!(Flags::parse(known, &["--no".to_owned()]).is_err());
        assert!(Flags::parse(known, &["-e".to_owned()]).is_err());
    }
}
