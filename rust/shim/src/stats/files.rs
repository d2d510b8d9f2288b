//! Small files of the cgroup file system.

use std::collections::BTreeMap;
use std::path::Path;

/// One number; `max` is the greatest, a negative one or none is zero.
pub fn number(path: &Path) -> u64 {
    std::fs::read_to_string(path).map_or(0, |text| parse(text.trim()))
}

/// Lines of a name and a number.
pub fn pairs(path: &Path) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, value)| (name.to_owned(), parse(value.trim())))
        .collect()
}

pub fn parse(text: &str) -> u64 {
    match text {
        "max" => u64::MAX,
        text => text.parse().unwrap_or(0),
    }
}

/// The sizes of huge pages this machine has, as cgroup file names spell them: `2MB`, `1GB`.
pub fn huge_page_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else {
        return Vec::new();
    };
    let mut sizes: Vec<u64> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()
        })
        .collect();
    sizes.sort_unstable();
    sizes.into_iter().map(spell_kilobytes).collect()
}

fn spell_kilobytes(kilobytes: u64) -> String {
    match kilobytes {
        k if k >= 1 << 20 => format!("{}GB", k >> 20),
        k if k >= 1 << 10 => format!("{}MB", k >> 10),
        k => format!("{k}KB"),
    }
}

/// `device key=value key=value` lines of the RDMA controller: device, handles, objects.
pub fn rdma(path: &Path) -> Vec<(String, u32, u32)> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut entries = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [device, rest @ ..] = fields.as_slice() else {
            continue;
        };
        if rest.len() != 2 {
            continue;
        }
        let value = |name: &str| {
            let found = rest
                .iter()
                .filter_map(|pair| pair.split_once('='))
                .find(|(k, _)| *k == name);
            found.map_or(0, |(_, v)| u32::try_from(parse(v)).unwrap_or(u32::MAX))
        };
        entries.push((
            (*device).to_owned(),
            value("hca_handle"),
            value("hca_object"),
        ));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_numbers() {
        assert_eq!(parse("max"), u64::MAX);
        assert_eq!(parse("-1"), 0);
        assert_eq!(parse("18446744073709551615"), u64::MAX);
        assert_eq!(spell_kilobytes(2048), "2MB");
        assert_eq!(spell_kilobytes(1 << 20), "1GB");
        assert_eq!(spell_kilobytes(64), "64KB");
    }

    #[test]
    fn rdma_lines() {
        let path = std::env::temp_dir().join(format!("shim-rdma-{}", std::process::id()));
        std::fs::write(&path, "mlx4_0 hca_handle=2 hca_object=max\nodd\n").unwrap();
        assert_eq!(rdma(&path), [("mlx4_0".to_owned(), 2, u32::MAX)]);
        std::fs::remove_file(path).unwrap();
    }
}
