//! cgroup v2 (`io.containerd.cgroups.v2.Metrics`).

use std::path::Path;

use super::files::{huge_page_sizes, number, pairs, parse, rdma};
use crate::proto::io::containerd::cgroups::v2::{
    CpuStat, HugeTlbStat, IoEntry, IoStat, MemoryEvents, MemoryStat, Metrics, PidsStat, PsiData,
    PsiStats, RdmaEntry, RdmaStat,
};

pub fn read(path: &Path) -> Metrics {
    let rdma_entries = |name: &str| {
        rdma(&path.join(name))
            .into_iter()
            .map(|(device, hca_handles, hca_objects)| RdmaEntry {
                device,
                hca_handles,
                hca_objects,
            })
            .collect()
    };
    Metrics {
        pids: Some(PidsStat {
            current: number(&path.join("pids.current")),
            limit: number(&path.join("pids.max")),
        }),
        cpu: Some(cpu(path)),
        memory: Some(memory(path)),
        memory_events: memory_events(path),
        io: Some(IoStat {
            usage: io_usage(path),
            psi: pressure(&path.join("io.pressure")),
        }),
        rdma: Some(RdmaStat {
            current: rdma_entries("rdma.current"),
            limit: rdma_entries("rdma.max"),
        }),
        hugetlb: huge_page_sizes()
            .into_iter()
            .map(|size| hugetlb(path, size))
            .collect(),
        network: Vec::new(),
    }
}

fn cpu(path: &Path) -> CpuStat {
    let stat = pairs(&path.join("cpu.stat"));
    let of = |name: &str| stat.get(name).copied().unwrap_or(0);
    CpuStat {
        usage_usec: of("usage_usec"),
        user_usec: of("user_usec"),
        system_usec: of("system_usec"),
        nr_periods: of("nr_periods"),
        nr_throttled: of("nr_throttled"),
        throttled_usec: of("throttled_usec"),
        psi: pressure(&path.join("cpu.pressure")),
        nr_bursts: of("nr_bursts"),
        burst_usec: of("burst_usec"),
    }
}

fn memory(path: &Path) -> MemoryStat {
    let stat = pairs(&path.join("memory.stat"));
    if stat.is_empty() {
        return MemoryStat::default();
    }
    let of = |name: &str| stat.get(name).copied().unwrap_or(0);
    let file = |name: &str| number(&path.join(name));
    MemoryStat {
        anon: of("anon"),
        file: of("file"),
        kernel_stack: of("kernel_stack"),
        slab: of("slab"),
        sock: of("sock"),
        shmem: of("shmem"),
        file_mapped: of("file_mapped"),
        file_dirty: of("file_dirty"),
        file_writeback: of("file_writeback"),
        anon_thp: of("anon_thp"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        slab_reclaimable: of("slab_reclaimable"),
        slab_unreclaimable: of("slab_unreclaimable"),
        pgfault: of("pgfault"),
        pgmajfault: of("pgmajfault"),
        workingset_refault: of("workingset_refault"),
        workingset_activate: of("workingset_activate"),
        workingset_nodereclaim: of("workingset_nodereclaim"),
        pgrefill: of("pgrefill"),
        pgscan: of("pgscan"),
        pgsteal: of("pgsteal"),
        pgactivate: of("pgactivate"),
        pgdeactivate: of("pgdeactivate"),
        pglazyfree: of("pglazyfree"),
        pglazyfreed: of("pglazyfreed"),
        thp_fault_alloc: of("thp_fault_alloc"),
        thp_collapse_alloc: of("thp_collapse_alloc"),
        usage: file("memory.current"),
        usage_limit: file("memory.max"),
        swap_usage: file("memory.swap.current"),
        swap_limit: file("memory.swap.max"),
        max_usage: file("memory.peak"),
        swap_max_usage: file("memory.swap.peak"),
        psi: pressure(&path.join("memory.pressure")),
    }
}

fn memory_events(path: &Path) -> Option<MemoryEvents> {
    let events = pairs(&path.join("memory.events"));
    let of = |name: &str| events.get(name).copied().unwrap_or(0);
    (!events.is_empty()).then(|| MemoryEvents {
        low: of("low"),
        high: of("high"),
        max: of("max"),
        oom: of("oom"),
        oom_kill: of("oom_kill"),
        oom_group_kill: of("oom_group_kill"),
    })
}

/// Lines of `major:minor key=value …`.
fn io_usage(path: &Path) -> Vec<IoEntry> {
    let text = std::fs::read_to_string(path.join("io.stat")).unwrap_or_default();
    let entry = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let mut entry = IoEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            ..IoEntry::default()
        };
        for (key, value) in rest
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='))
        {
            let value = parse(value);
            match key {
                "rbytes" => entry.rbytes = value,
                "wbytes" => entry.wbytes = value,
                "rios" => entry.rios = value,
                "wios" => entry.wios = value,
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

/// Pressure stall information; absent where the kernel does not keep it.
fn pressure(path: &Path) -> Option<PsiStats> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut stats = PsiStats::default();
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ')?;
        let mut data = PsiData::default();
        for (key, value) in rest
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='))
        {
            match key {
                "avg10" => data.avg10 = value.parse().ok()?,
                "avg60" => data.avg60 = value.parse().ok()?,
                "avg300" => data.avg300 = value.parse().ok()?,
                "total" => data.total = value.parse().ok()?,
                _ => {}
            }
        }
        match kind {
            "some" => stats.some = Some(data),
            "full" => stats.full = Some(data),
            _ => {}
        }
    }
    Some(stats)
}

fn hugetlb(path: &Path, pagesize: String) -> HugeTlbStat {
    let file = |name: &str| path.join(format!("hugetlb.{pagesize}.{name}"));
    HugeTlbStat {
        current: number(&file("current")),
        max: number(&file("max")),
        failcnt: pairs(&file("events")).get("max").copied().unwrap_or(0),
        pagesize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_cgroup() {
        let root = std::env::temp_dir().join(format!("shim-stats-v2-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let write = |name: &str, text: &str| std::fs::write(root.join(name), text).unwrap();
        write("pids.current", "4\n");
        write("pids.max", "max\n");
        write(
            "cpu.stat",
            "usage_usec 100\nuser_usec 60\nsystem_usec 40\nnr_bursts 1\n",
        );
        write(
            "cpu.pressure",
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=99\n",
        );
        write("memory.stat", "anon 1\nfile 2\npgfault 3\n");
        write("memory.current", "5\n");
        write("memory.max", "max\n");
        write("memory.peak", "6\n");
        write(
            "memory.events",
            "low 0\nhigh 0\nmax 2\noom 1\noom_kill 1\noom_group_kill 0\n",
        );
        write(
            "io.stat",
            "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n254:1\n",
        );

        let got = read(&root);
        assert_eq!(
            got.pids,
            Some(PidsStat {
                current: 4,
                limit: u64::MAX
            })
        );
        let cpu = got.cpu.unwrap();
        assert_eq!(
            (
                cpu.usage_usec,
                cpu.user_usec,
                cpu.system_usec,
                cpu.nr_bursts
            ),
            (100, 60, 40, 1)
        );
        let some = cpu.psi.unwrap().some.unwrap();
        assert_eq!((some.avg10, some.avg60, some.total), (1.5, 0.25, 99));
        let memory = got.memory.unwrap();
        assert_eq!((memory.anon, memory.file, memory.pgfault), (1, 2, 3));
        assert_eq!(
            (memory.usage, memory.usage_limit, memory.max_usage),
            (5, u64::MAX, 6)
        );
        assert_eq!(got.memory_events.unwrap().oom_kill, 1);
        let io = got.io.unwrap();
        let entry = IoEntry {
            major: 8,
            minor: 0,
            rbytes: 1,
            wbytes: 2,
            rios: 3,
            wios: 4,
        };
        assert_eq!(io.usage, [entry]);
        assert_eq!(io.psi, None);
        std::fs::remove_dir_all(root).unwrap();
    }
}
