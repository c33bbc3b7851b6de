//! Which files of a group are its settings, and what of their texts is written again.

use std::collections::BTreeMap;

/// The settings of a group, in the order in which they can be made.
const SETTINGS: &[&str] = &[
    "cgroup.type",
    "cgroup.clone_children",
    "notify_on_release",
    "cpuset.cpus",
    "cpuset.mems",
    "cpuset.cpus.exclusive",
    "cpuset.memory_migrate",
    "cpuset.cpu_exclusive",
    "cpuset.mem_exclusive",
    "cpuset.mem_hardwall",
    "cpuset.memory_spread_page",
    "cpuset.memory_spread_slab",
    "cpuset.sched_load_balance",
    "cpuset.sched_relax_domain_level",
    "cpuset.cpus.partition",
    "cpu.shares",
    "cpu.cfs_period_us",
    "cpu.cfs_quota_us",
    "cpu.cfs_burst_us",
    "cpu.rt_period_us",
    "cpu.rt_runtime_us",
    "cpu.weight",
    "cpu.max",
    "cpu.max.burst",
    "cpu.uclamp.min",
    "cpu.uclamp.max",
    "cpu.idle",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.swappiness",
    "memory.soft_limit_in_bytes",
    "memory.oom_control",
    "memory.min",
    "memory.low",
    "memory.high",
    "memory.max",
    "memory.oom.group",
    "memory.swap.high",
    "memory.swap.max",
    "memory.zswap.max",
    "memory.zswap.writeback",
    "memory.kmem.tcp.limit_in_bytes",
    "blkio.weight",
    "blkio.weight_device",
    "blkio.bfq.weight",
    "blkio.bfq.weight_device",
    "blkio.prio.class",
    "blkio.throttle.read_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.write_iops_device",
    "io.weight",
    "io.bfq.weight",
    "io.prio.class",
    "io.max",
    "io.latency",
    "pids.max",
    "net_cls.classid",
    "net_prio.ifpriomap",
    "devices.list",
    "cgroup.max.depth",
    "cgroup.max.descendants",
    "cgroup.pressure",
    "cgroup.subtree_control",
    LISTS[0],
    LISTS[1],
];

/// Who is in a group: what is carried of these is who may put others there.
pub(super) const LISTS: [&str; 2] = ["cgroup.procs", "tasks"];

/// Settings beside those that are known here, by controller: which files of its groups are described.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupProperties(BTreeMap<String, Listed>);

/// What is listed of a controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Listed {
    files: Vec<String>,
    /// Those that are known are not described.
    alone: bool,
}

impl CgroupProperties {
    /// Has these files described of a controller's groups, beside those that are so already.
    pub fn merge(&mut self, controller: &str, files: Vec<String>) {
        self.0.entry(controller.to_owned()).or_default().files.extend(files);
    }

    /// Has these files described of a controller's groups, and no others.
    pub fn replace(&mut self, controller: &str, files: Vec<String>) {
        self.0.insert(controller.to_owned(), Listed { files, alone: true });
    }

    /// Whether somebody has listed a file of a hierarchy's groups.
    pub(super) fn is_listed(&self, hierarchy: &str, name: &str) -> bool {
        self.listed(hierarchy).any(|listed| listed.files.iter().any(|file| file == name))
    }

    /// Where in the order a setting comes; `None` of a file that is none.
    pub(super) fn order(&self, hierarchy: &str, name: &str) -> Option<usize> {
        let listed = self.listed(hierarchy);
        let mut places = listed.filter_map(|listed| listed.files.iter().position(|it| it == name));
        if let Some(place) = places.next() {
            return Some(SETTINGS.len() + 1 + place);
        }
        let controller = name.split('.').next().unwrap_or_default();
        let replaced = self.0.get(controller).is_some_and(|listed| listed.alone);
        order(hierarchy, name).filter(|_| !replaced)
    }

    fn listed(&self, hierarchy: &str) -> impl Iterator<Item = &Listed> {
        let has = move |controller: &str| {
            hierarchy.is_empty() || hierarchy.split(',').any(|known| known == controller)
        };
        self.0.iter().filter(move |(controller, _)| has(controller)).map(|(_, listed)| listed)
    }
}

fn order(hierarchy: &str, name: &str) -> Option<usize> {
    let by_page_size = (name.starts_with("hugetlb.") || name == "misc.max" || name == "rdma.max")
        && (name.ends_with(".limit_in_bytes") || name.ends_with(".max"));
    // The first version's files of this name say the same for the whole hierarchy.
    let known = SETTINGS.iter().position(|setting| *setting == name);
    match known {
        Some(_) if name == "cgroup.type" && !hierarchy.is_empty() => None,
        None if by_page_size => Some(SETTINGS.len()),
        known => known,
    }
}

/// The text to be written again; `None` where there is nothing to write.
pub(super) fn value_of(name: &str, text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?.trim_end();
    if USUAL.contains(&(name, text)) {
        return None;
    }
    match name {
        "cgroup.type" => (text == "threaded").then(|| text.into()),
        // The file says more than it takes.
        "memory.oom_control" => {
            let disabled = text.lines().find_map(|line| line.strip_prefix("oom_kill_disable "))?;
            Some(disabled.into())
        }
        // Of these nothing is written but who may write to them.
        _ if LISTS.contains(&name) => Some(Vec::new()),
        // Nothing is allowed then.
        "devices.list" => Some(text.into()),
        _ => (!text.is_empty() || !SETTINGS.contains(&name)).then(|| text.into()),
    }
}

/// What some settings are by themselves, which need not be a value that can be set.
const USUAL: &[(&str, &str)] = &[
    // One that is idle has a weight that cannot be set.
    ("cpu.idle", "0"),
    ("cpuset.cpus.partition", "member"),
    ("memory.zswap.writeback", "1"),
    // No limit; to set one has the group's sockets be accounted for.
    ("memory.kmem.tcp.limit_in_bytes", "9223372036854771712"),
    ("blkio.prio.class", "no-change"),
    ("io.prio.class", "no-change"),
    ("cgroup.pressure", "1"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_again() {
        assert_eq!(
            value_of("memory.oom_control", b"oom_kill_disable 1\nunder_oom 0\n"),
            Some(b"1".to_vec())
        );
        assert_eq!(value_of("cgroup.type", b"domain\n"), None);
        assert_eq!(value_of("cgroup.pressure", b"1\n"), None);
        assert_eq!(value_of("cgroup.pressure", b"0\n"), Some(b"0".to_vec()));
        assert_eq!(value_of("blkio.throttle.read_bps_device", b""), None);
        assert_eq!(value_of("devices.list", b""), Some(Vec::new()));
        assert_eq!(value_of("listed.by_somebody", b""), Some(Vec::new()));
        assert!(order("cpu", "cpu.cfs_period_us") < order("cpu", "cpu.cfs_quota_us"));
        assert_eq!(order("memory", "memory.usage_in_bytes"), None);
        assert!(order("hugetlb", "hugetlb.2MB.limit_in_bytes").is_some());
    }

    #[test]
    fn what_is_listed_comes_to_what_is_known_or_in_its_place() {
        let mut properties = CgroupProperties::default();
        properties.merge("memory", vec!["memory.usage".to_owned()]);
        properties.replace("cpu", vec!["cpu.shares".to_owned(), "cpuacct.x".to_owned()]);
        let has = |hierarchy: &str, name: &str| properties.order(hierarchy, name).is_some();
        assert!(has("memory", "memory.usage") && has("memory", "memory.limit_in_bytes"));
        assert!(!has("pids", "memory.usage") && has("", "memory.usage"));
        assert!(has("cpu,cpuacct", "cpu.shares") && !has("cpu,cpuacct", "cpu.cfs_quota_us"));
        assert!(has("cpu,cpuacct", "cpuacct.x") && has("cpu,cpuacct", "tasks"));
    }
}
