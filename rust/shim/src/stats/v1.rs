//! cgroup v1 (`io.containerd.cgroups.v1.Metrics`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::files::{huge_page_sizes, number, pairs, rdma};
use crate::proto::io::containerd::cgroups::v1::{
    BlkIoEntry, BlkIoStat, CpuStat, CpuUsage, HugetlbStat, MemoryEntry, MemoryOomControl,
    MemoryStat, Metrics, PidsStat, RdmaEntry, RdmaStat, Throttle,
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// The unit of `cpuacct.stat` in user space, on every architecture Linux has today.
const TICKS_PER_SECOND: u64 = 100;

pub fn read(controllers: &BTreeMap<String, PathBuf>, partitions: &Path) -> Metrics {
    let folder = |name: &str| controllers.get(name).filter(|path| path.is_dir());
    let mut metrics = Metrics {
        cpu: Some(cpu(folder("cpu"), folder("cpuacct"))),
        ..Metrics::default()
    };
    if let Some(path) = folder("hugetlb") {
        metrics.hugetlb = huge_page_sizes()
            .into_iter()
            .map(|size| hugetlb(path, size))
            .collect();
    }
    metrics.pids = folder("pids").map(|path| PidsStat {
        current: number(&path.join("pids.current")),
        // No limit is 0 here, the greatest number only in v2.
        limit: Some(number(&path.join("pids.max")))
            .filter(|n| *n != u64::MAX)
            .unwrap_or(0),
    });
    if let Some(path) = folder("memory") {
        metrics.memory = Some(memory(path));
        let oom = pairs(&path.join("memory.oom_control"));
        let of = |name: &str| oom.get(name).copied().unwrap_or(0);
        metrics.memory_oom_control = Some(MemoryOomControl {
            oom_kill_disable: of("oom_kill_disable"),
            under_oom: of("under_oom"),
            oom_kill: of("oom_kill"),
        });
    }
    metrics.blkio = folder("blkio").map(|path| blkio(path, &device_names(partitions)));
    metrics.rdma = folder("rdma").map(|path| RdmaStat {
        current: rdma_entries(&path.join("rdma.current")),
        limit: rdma_entries(&path.join("rdma.max")),
    });
    metrics
}

fn cpu(cpu: Option<&PathBuf>, cpuacct: Option<&PathBuf>) -> CpuStat {
    let mut usage = CpuUsage::default();
    if let Some(path) = cpuacct {
        let ticks = pairs(&path.join("cpuacct.stat"));
        let nanos = |name: &str| {
            ticks
                .get(name)
                .copied()
                .unwrap_or(0)
                .saturating_mul(NANOS_PER_SECOND)
                / TICKS_PER_SECOND
        };
        usage.total = number(&path.join("cpuacct.usage"));
        usage.user = nanos("user");
        usage.kernel = nanos("system");
        let per_cpu =
            std::fs::read_to_string(path.join("cpuacct.usage_percpu")).unwrap_or_default();
        usage.per_cpu = per_cpu
            .split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect();
    }
    let mut throttling = Throttle::default();
    if let Some(path) = cpu {
        let stat = pairs(&path.join("cpu.stat"));
        let of = |name: &str| stat.get(name).copied().unwrap_or(0);
        throttling.periods = of("nr_periods");
        throttling.throttled_periods = of("nr_throttled");
        throttling.throttled_time = of("throttled_time");
    }
    CpuStat {
        usage: Some(usage),
        throttling: Some(throttling),
    }
}

fn hugetlb(path: &Path, pagesize: String) -> HugetlbStat {
    let of = |name: &str| number(&path.join(format!("hugetlb.{pagesize}.{name}")));
    HugetlbStat {
        usage: of("usage_in_bytes"),
        max: of("max_usage_in_bytes"),
        failcnt: of("failcnt"),
        pagesize,
    }
}

fn memory(path: &Path) -> MemoryStat {
    let stat = pairs(&path.join("memory.stat"));
    let of = |name: &str| stat.get(name).copied().unwrap_or(0);
    let entry = |module: &str| {
        let of = |name: &str| number(&path.join(format!("memory.{module}{name}")));
        Some(MemoryEntry {
            limit: of("limit_in_bytes"),
            usage: of("usage_in_bytes"),
            max: of("max_usage_in_bytes"),
            failcnt: of("failcnt"),
        })
    };
    MemoryStat {
        cache: of("cache"),
        rss: of("rss"),
        rss_huge: of("rss_huge"),
        mapped_file: of("mapped_file"),
        dirty: of("dirty"),
        writeback: of("writeback"),
        pg_pg_in: of("pgpgin"),
        pg_pg_out: of("pgpgout"),
        pg_fault: of("pgfault"),
        pg_maj_fault: of("pgmajfault"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        hierarchical_memory_limit: of("hierarchical_memory_limit"),
        hierarchical_swap_limit: of("hierarchical_memsw_limit"),
        total_cache: of("total_cache"),
        total_rss: of("total_rss"),
        total_rss_huge: of("total_rss_huge"),
        total_mapped_file: of("total_mapped_file"),
        total_dirty: of("total_dirty"),
        total_writeback: of("total_writeback"),
        total_pg_pg_in: of("total_pgpgin"),
        total_pg_pg_out: of("total_pgpgout"),
        total_pg_fault: of("total_pgfault"),
        total_pg_maj_fault: of("total_pgmajfault"),
        total_inactive_anon: of("total_inactive_anon"),
        total_active_anon: of("total_active_anon"),
        total_inactive_file: of("total_inactive_file"),
        total_active_file: of("total_active_file"),
        total_unevictable: of("total_unevictable"),
        usage: entry(""),
        swap: entry("memsw."),
        kernel: entry("kmem."),
        kernel_tcp: entry("kmem.tcp."),
    }
}

fn blkio(path: &Path, devices: &BTreeMap<(u64, u64), String>) -> BlkIoStat {
    let read = |name: &str| blkio_entries(&path.join(format!("blkio.{name}")), devices);
    // The fair-queueing scheduler's figures if it is in use, else the throttling layer's.
    let stat = BlkIoStat {
        io_service_bytes_recursive: read("io_service_bytes_recursive"),
        io_serviced_recursive: read("io_serviced_recursive"),
        io_queued_recursive: read("io_queued_recursive"),
        io_service_time_recursive: read("io_service_time_recursive"),
        io_wait_time_recursive: read("io_wait_time_recursive"),
        io_merged_recursive: read("io_merged_recursive"),
        io_time_recursive: read("time_recursive"),
        sectors_recursive: read("sectors_recursive"),
    };
    if stat != BlkIoStat::default() {
        return stat;
    }
    BlkIoStat {
        io_service_bytes_recursive: read("throttle.io_service_bytes"),
        io_serviced_recursive: read("throttle.io_serviced"),
        ..BlkIoStat::default()
    }
}

/// Lines of `major:minor [operation] value`, and a total.
fn blkio_entries(path: &Path, devices: &BTreeMap<(u64, u64), String>) -> Vec<BlkIoEntry> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let entry = |line: &str| {
        let fields: Vec<&str> = line
            .split([' ', ':'])
            .filter(|field| !field.is_empty())
            .collect();
        let (major, minor, op, value) = match fields.as_slice() {
            [major, minor, op, value] => (major, minor, *op, value),
            [major, minor, value] => (major, minor, "", value),
            _ => return None,
        };
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        Some(BlkIoEntry {
            op: op.into(),
            device: devices.get(&(major, minor)).cloned().unwrap_or_default(),
            major,
            minor,
            value: value.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

/// The first name of each block device.
fn device_names(partitions: &Path) -> BTreeMap<(u64, u64), String> {
    let text = std::fs::read_to_string(partitions).unwrap_or_default();
    let mut names = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [major, minor, _, name] = fields.as_slice()
            && let (Ok(major), Ok(minor)) = (major.parse(), minor.parse())
        {
            names
                .entry((major, minor))
                .or_insert_with(|| format!("/dev/{name}"));
        }
    }
    names
}

fn rdma_entries(path: &Path) -> Vec<RdmaEntry> {
    rdma(path)
        .into_iter()
        .map(|(device, hca_handles, hca_objects)| RdmaEntry {
            device,
            hca_handles,
            hca_objects,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_controller() {
        let root = std::env::temp_dir().join(format!("shim-stats-v1-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("pids/pids.current", "3\n");
        write("pids/pids.max", "max\n");
        write(
            "cpu/cpu.stat",
            "nr_periods 5\nnr_throttled 2\nthrottled_time 77\n",
        );
        write("cpuacct/cpuacct.usage", "123456\n");
        write("cpuacct/cpuacct.stat", "user 150\nsystem 7\n");
        write("cpuacct/cpuacct.usage_percpu", "1 2 \n");
        write(
            "memory/memory.stat",
            "cache 10\nrss 20\ntotal_pgfault 30\nhierarchical_memsw_limit 9\n",
        );
        write("memory/memory.usage_in_bytes", "4096\n");
        write("memory/memory.memsw.limit_in_bytes", "8192\n");
        write(
            "memory/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        );
        write(
            "blkio/blkio.throttle.io_service_bytes",
            "8:0 Read 100\n8:0 Total 100\nTotal 100\n",
        );
        write("blkio/blkio.throttle.io_serviced", "8:16 Write 3\n");
        write(
            "partitions",
            "major minor  #blocks  name\n\n   8        0  100 sda\n",
        );
        let names = ["pids", "cpu", "cpuacct", "memory", "blkio", "absent"];
        let controllers = names
            .iter()
            .map(|n| ((*n).to_owned(), root.join(n)))
            .collect();

        let got = read(&controllers, &root.join("partitions"));
        assert_eq!(
            got.pids,
            Some(PidsStat {
                current: 3,
                limit: 0
            })
        );
        let cpu = got.cpu.unwrap();
        let usage = CpuUsage {
            total: 123_456,
            kernel: 70_000_000,
            user: 1_500_000_000,
            per_cpu: vec![1, 2],
        };
        assert_eq!(cpu.usage, Some(usage));
        assert_eq!(cpu.throttling.unwrap().throttled_time, 77);
        let memory = got.memory.unwrap();
        assert_eq!(
            (memory.cache, memory.rss, memory.total_pg_fault),
            (10, 20, 30)
        );
        assert_eq!(memory.hierarchical_swap_limit, 9);
        assert_eq!(memory.usage.unwrap().usage, 4096);
        assert_eq!(memory.swap.unwrap().limit, 8192);
        assert_eq!(got.memory_oom_control.unwrap().oom_kill, 2);
        let blkio = got.blkio.unwrap();
        let bytes = &blkio.io_service_bytes_recursive;
        assert_eq!(bytes.len(), 2);
        assert_eq!(
            (
                bytes[0].device.as_str(),
                bytes[0].op.as_str(),
                bytes[0].value
            ),
            ("/dev/sda", "Read", 100)
        );
        assert_eq!(blkio.io_serviced_recursive[0].minor, 16);
        assert!(got.hugetlb.is_empty() && got.rdma.is_none());
        std::fs::remove_dir_all(root).unwrap();
    }
}
