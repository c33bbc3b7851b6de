//! Control groups: which of them the threads are in, and how these are set up.
//!
//! `cgroup.img` has the *sets* of memberships that threads refer to, and for each hierarchy the groups of
//! these sets with what is below them. The set of the dumper itself is number 1: a thread in it is wherever
//! the restore is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use api::{CgroupRoot, CgroupsMode};
use ids::HostPid;
use images::messages::{
    CgControllerEntry, CgMemberEntry, CgSetEntry, CgroupDirEntry, CgroupEntry, CgroupPerms,
    CgroupPropEntry,
};
use kernel::cgroup::GroupDirectories;
use kernel::procfs::{Cgroup, CgroupMembership, Dir, ProcFile};
use support::cgroups::{NO_CONTROLLER, NOT_MOUNTED, not_there};
use support::{Refusal, Unsupported};

use crate::error::Error;
use crate::options::DumpOptions;

/// The dumper's own set.
pub(crate) const OWN_SET: u32 = 1;

/// Longer texts than any file of a group has.
const LONGEST: usize = 64 << 10;

/// So many groups of a hierarchy are described; further ones below those that threads are in are left to
/// whoever made them.
const MOST: usize = 1000;

/// Hierarchies and groups: a set of memberships.
type Set = Vec<(String, Vec<u8>)>;

/// The sets of a tree.
#[derive(Debug)]
pub(crate) struct Sets {
    numbers: BTreeMap<Set, u32>,
}

fn set(cgroup: &Cgroup) -> Set {
    let groups = cgroup.0.iter();
    let mut set: Set = groups.map(|group| (group.name(), group.path.as_bytes().to_vec())).collect();
    set.sort_unstable();
    set
}

impl Sets {
    /// The sets of these threads, and the dumper's own.
    pub(crate) fn of<'a>(threads: impl Iterator<Item = &'a Cgroup>) -> Result<Self, Error> {
        let own = Cgroup::read(&Dir::open(HostPid::own())?)?;
        let mut numbers = BTreeMap::from([(set(&own), OWN_SET)]);
        for thread in threads {
            let next = OWN_SET + numbers.len() as u32;
            numbers.entry(set(thread)).or_insert(next);
        }
        Ok(Self { numbers })
    }

    /// The number of a thread's set.
    pub(crate) fn number(&self, thread: &Cgroup) -> u32 {
        self.numbers.get(&set(thread)).copied().unwrap_or(OWN_SET)
    }

    /// The image; `None` if all are where the dumper is. If groups are to be ignored none is described.
    pub(crate) fn encode(
        &self,
        mode: CgroupsMode,
        roots: &[CgroupRoot],
    ) -> Result<Option<CgroupEntry>, Error> {
        if self.numbers.len() < 2 {
            return Ok(None);
        }
        let directories = GroupDirectories::find().map_err(|source| Error::Process {
            operation: "find the control groups",
            pid: HostPid::own(),
            source: std::io::Error::other(source),
        })?;
        let mut groups: BTreeMap<&str, Vec<&[u8]>> = BTreeMap::new();
        for (set, &number) in &self.numbers {
            for (hierarchy, group) in set {
                let of_hierarchy = groups.entry(hierarchy).or_default();
                // Where the dumper is, is none of the tree's business.
                if number != OWN_SET && mode != CgroupsMode::Ignore {
                    of_hierarchy.push(group);
                }
            }
        }
        let mut sets: Vec<CgSetEntry> =
            self.numbers.iter().map(|(set, &id)| CgSetEntry { id, ctls: members(set) }).collect();
        sets.sort_unstable_by_key(|set| set.id);
        let mut controllers = Vec::new();
        for (hierarchy, mut groups) in groups {
            // What is below the root of a hierarchy is the machine's, unless somebody says otherwise.
            let mut whole = false;
            if let Some(root) =
                CgroupRoot::of(roots, hierarchy).filter(|_| mode != CgroupsMode::Ignore)
            {
                groups = vec![root.path.as_os_str().as_bytes()];
                whole = true;
            }
            groups.sort_unstable();
            groups.dedup();
            controllers.push(hierarchy_entry(hierarchy, &groups, &directories, whole));
        }
        Ok(Some(CgroupEntry { sets, controllers }))
    }
}

/// Groups to describe that are not there.
pub(crate) fn of_roots(options: &DumpOptions) -> Vec<Unsupported> {
    if options.cgroups == CgroupsMode::Ignore || options.cgroup_roots.is_empty() {
        return Vec::new();
    }
    let own = Dir::open(HostPid::own()).and_then(|own| Cgroup::read(&own));
    let (Ok(directories), Ok(own)) = (GroupDirectories::find(), own) else { return Vec::new() };
    let hierarchies: Vec<String> = own.0.iter().map(CgroupMembership::name).collect();
    let mut found = Vec::new();
    let mut add = |object: String, refusal: Refusal| found.push(refusal.of(options.pid, object));
    for hierarchy in &hierarchies {
        let Some(root) = CgroupRoot::of(&options.cgroup_roots, hierarchy) else { continue };
        let object = format!("control group {hierarchy}:{}", root.path.display());
        match directories.directory(hierarchy, root.path.as_os_str().as_bytes()) {
            Some(directory) if directory.is_dir() => {}
            Some(directory) => {
                add(object, not_there(&directory.display().to_string()));
            }
            None => add(object, NOT_MOUNTED),
        }
    }
    for root in &options.cgroup_roots {
        let alone = std::slice::from_ref(root);
        if !hierarchies.iter().any(|hierarchy| CgroupRoot::of(alone, hierarchy).is_some()) {
            let controller = root.controller.as_deref().unwrap_or_default();
            add(format!("control group {controller}:{}", root.path.display()), NO_CONTROLLER);
        }
    }
    found
}

fn members(set: &Set) -> Vec<CgMemberEntry> {
    let members = set.iter().map(|(name, path)| CgMemberEntry {
        name: name.clone(),
        path: path.clone(),
        cgns_prefix: None,
    });
    members.collect()
}

fn hierarchy_entry(
    hierarchy: &str,
    groups: &[&[u8]],
    directories: &GroupDirectories,
    whole: bool,
) -> CgControllerEntry {
    let mut entry = CgControllerEntry {
        cnames: hierarchy.split(',').map(str::to_owned).collect(),
        is_threaded: Some(hierarchy.is_empty()),
        ..CgControllerEntry::default()
    };
    let mut count = 0;
    let mut above: Option<&[u8]> = None;
    for group in groups {
        // It has been described with the one above it.
        if above.is_some_and(|above| is_below(group, above)) {
            continue;
        }
        let Some(directory) = directories.directory(hierarchy, group) else { continue };
        let name = group.strip_prefix(b"/").unwrap_or(group);
        let is_root = name.is_empty();
        let and_below = whole || !is_root;
        let Some(described) = describe(&directory, name, hierarchy, and_below, &mut count) else {
            continue;
        };
        if !is_root {
            above = Some(group);
        }
        entry.dirs.push(described);
    }
    entry
}

fn is_below(group: &[u8], above: &[u8]) -> bool {
    group.strip_prefix(above).is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// `None` of a group that has gone.
fn describe(
    directory: &Path,
    name: &[u8],
    hierarchy: &str,
    and_below: bool,
    count: &mut usize,
) -> Option<CgroupDirEntry> {
    *count += 1;
    let mut entry = CgroupDirEntry {
        dir_name: name.to_vec(),
        dir_perms: Some(permissions(directory)?),
        ..CgroupDirEntry::default()
    };
    if !and_below {
        return Some(entry);
    }
    let mut below = Vec::new();
    for file in fs::read_dir(directory).ok()?.flatten() {
        let name = file.file_name();
        if file.file_type().is_ok_and(|kind| kind.is_dir()) {
            below.push(name);
        } else if let Some(order) = name.to_str().and_then(|name| order(hierarchy, name)) {
            let name = name.to_string_lossy().into_owned();
            let value = match LISTS.contains(&&*name) {
                true => Some(Vec::new()),
                false => fs::read(file.path()).ok().filter(|value| value.len() <= LONGEST),
            };
            let Some(value) = value.and_then(|value| value_of(&name, &value)) else { continue };
            let perms = permissions(&file.path());
            entry.properties.push(CgroupPropEntry { name, value, perms });
            entry
                .properties
                .sort_by_key(|property| self::order(hierarchy, &property.name).unwrap_or(order));
        }
    }
    below.sort_unstable();
    for name in below {
        if *count >= MOST {
            tracing::warn!("only {MOST} groups below {} are described", directory.display());
            break;
        }
        let path = directory.join(&name);
        entry.children.extend(describe(&path, name.as_bytes(), hierarchy, true, count));
    }
    Some(entry)
}

fn permissions(path: &Path) -> Option<CgroupPerms> {
    let found = fs::symlink_metadata(path).ok()?;
    Some(CgroupPerms { mode: found.mode(), uid: found.uid(), gid: found.gid() })
}

/// The settings of a group, in the order in which they can be made.
const SETTINGS: &[&str] = &[
    "cgroup.type",
    "cgroup.clone_children",
    "notify_on_release",
    "cpuset.cpus",
    "cpuset.mems",
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
    "blkio.weight",
    "blkio.bfq.weight",
    "io.weight",
    "io.bfq.weight",
    "io.max",
    "io.latency",
    "pids.max",
    "net_cls.classid",
    "devices.list",
    "cgroup.max.depth",
    "cgroup.max.descendants",
    "cgroup.subtree_control",
    LISTS[0],
    LISTS[1],
];

/// Who is in a group: what is carried of these is who may put others there.
const LISTS: [&str; 2] = ["cgroup.procs", "tasks"];

/// Where in the order a setting comes; `None` of a file that is none.
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
fn value_of(name: &str, text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?.trim_end();
    match name {
        "cgroup.type" => (text == "threaded").then(|| text.into()),
        // The file says more than it takes.
        "memory.oom_control" => {
            let disabled = text.lines().find_map(|line| line.strip_prefix("oom_kill_disable "))?;
            Some(disabled.into())
        }
        // One that is idle has a weight that cannot be set.
        "cpu.idle" => (text != "0").then(|| text.into()),
        "blkio.weight"
        | "cpuset.cpus"
        | "cpuset.mems"
        | "io.max"
        | "io.latency"
        | "misc.max"
        | "rdma.max"
        | "cgroup.subtree_control"
            if text.is_empty() =>
        {
            None
        }
        "cpuset.cpus.partition" => (text != "member").then(|| text.into()),
        _ => Some(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup(text: &str) -> Cgroup {
        Cgroup::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn sets_are_numbered_once() {
        let threads = [cgroup("1:cpu:/x\n0::/\n"), cgroup("1:cpu:/y\n0::/\n")];
        let sets = Sets::of(threads.iter().chain(&threads)).unwrap();
        let numbers: Vec<u32> = threads.iter().map(|thread| sets.number(thread)).collect();
        assert_eq!(numbers, [2, 3]);
        let own = Cgroup::read(&Dir::open(HostPid::own()).unwrap()).unwrap();
        assert_eq!(sets.number(&own), OWN_SET);
        assert!(
            Sets::of([&own].into_iter()).unwrap().encode(CgroupsMode::Soft, &[]).unwrap().is_none()
        );
    }

    #[test]
    fn what_is_written_again() {
        assert_eq!(
            value_of("memory.oom_control", b"oom_kill_disable 1\nunder_oom 0\n"),
            Some(b"1".to_vec())
        );
        assert_eq!(value_of("cgroup.type", b"domain\n"), None);
        assert!(order("cpu", "cpu.cfs_period_us") < order("cpu", "cpu.cfs_quota_us"));
        assert_eq!(order("memory", "memory.usage_in_bytes"), None);
        assert!(order("hugetlb", "hugetlb.2MB.limit_in_bytes").is_some());
        assert!(is_below(b"/a/b", b"/a") && !is_below(b"/ab", b"/a") && !is_below(b"/a", b"/a"));
    }
}
