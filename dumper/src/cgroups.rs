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
use support::cgroups::{NO_CONTROLLER, NO_YARD, NOT_MOUNTED, not_there};
use support::{Refusal, Unsupported};

use crate::cgroup_roots::CgroupRoots;
use crate::cgroup_settings::{LISTS, value_of};
use crate::error::Error;
use crate::options::DumpOptions;

/// The dumper's own set.
pub(crate) const OWN_SET: u32 = 1;

/// Longer texts than any file of a group has.
const LONGEST: usize = 64 << 10;

/// So many groups of a hierarchy are described; further ones below those that threads are in are left to
/// whoever made them.
const MOST: usize = 1000;

/// Where a thread is: in which hierarchy, in which group, and how much of the group's path is above the root of its cgroup
/// namespace.
type Member = (String, Vec<u8>, Option<u32>);

/// A set of memberships.
type Set = Vec<Member>;

/// The sets of a tree.
#[derive(Debug)]
pub(crate) struct Sets<'o> {
    options: &'o DumpOptions,
    numbers: BTreeMap<Set, u32>,
}

/// Whether a hierarchy is among those that are asked for, if any are.
fn is_asked_for(options: &DumpOptions, hierarchy: &str) -> bool {
    let asked = &options.cgroup_controllers;
    let is_it = |name: &String| name == hierarchy || hierarchy.split(',').any(|part| part == name);
    asked.is_empty() || asked.iter().any(is_it)
}

fn set(options: &DumpOptions, cgroup: &Cgroup, namespace: Option<&CgroupRoots>) -> Set {
    let member = |group: &CgroupMembership| {
        let (name, path) = (group.name(), group.path.as_bytes().to_vec());
        let prefix = namespace.and_then(|roots| roots.above(&name, &path));
        (name, path, prefix)
    };
    let mut set: Set = cgroup.0.iter().map(member).collect();
    set.retain(|(name, ..)| is_asked_for(options, name));
    set.sort_unstable();
    set
}

impl<'o> Sets<'o> {
    /// The sets of these threads, which are in cgroup namespaces that have these roots, and the dumper's own.
    pub(crate) fn of<'a>(
        options: &'o DumpOptions,
        threads: impl Iterator<Item = (&'a Cgroup, Option<&'a CgroupRoots>)>,
    ) -> Result<Self, Error> {
        let own = Cgroup::read(&Dir::open(HostPid::own())?)?;
        let mut numbers = BTreeMap::from([(set(options, &own, None), OWN_SET)]);
        for (thread, namespace) in threads {
            let next = OWN_SET + numbers.len() as u32;
            numbers.entry(set(options, thread, namespace)).or_insert(next);
        }
        Ok(Self { options, numbers })
    }

    /// The number of a thread's set.
    pub(crate) fn number(&self, thread: &Cgroup, namespace: Option<&CgroupRoots>) -> u32 {
        self.numbers.get(&set(self.options, thread, namespace)).copied().unwrap_or(OWN_SET)
    }

    /// The image; `None` if all are where the dumper is. If groups are to be ignored none is described.
    /// Of a tree that somebody had `paused` by the group that has stopped it, that is noted.
    pub(crate) fn encode(&self, paused: bool) -> Result<Option<CgroupEntry>, Error> {
        if self.numbers.len() < 2 {
            return Ok(None);
        }
        let (mode, roots) = (self.options.cgroups, &self.options.cgroup_roots);
        let mut groups: BTreeMap<&str, Vec<&[u8]>> = BTreeMap::new();
        for (set, &number) in &self.numbers {
            for (hierarchy, group, _) in set {
                let of_hierarchy = groups.entry(hierarchy).or_default();
                // Where the dumper is, is none of the tree's business.
                if number != OWN_SET && mode != CgroupsMode::Ignore {
                    of_hierarchy.push(group);
                }
            }
        }
        let directories = directories(self.options, groups.keys().copied())?;
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
            let mut describing = Describing { options: self.options, hierarchy, count: 0 };
            let mut entry = describing.hierarchy(&groups, &directories, whole)?;
            self.freezer_state(&mut entry, paused);
            controllers.push(entry);
        }
        Ok(Some(CgroupEntry { sets, controllers }))
    }

    /// Notes for a tree that was stopped by its group of the first version whether somebody had frozen that before.
    fn freezer_state(&self, entry: &mut CgControllerEntry, paused: bool) {
        let Some(by) = self.options.freeze_cgroup.as_deref() else { return };
        let Some(first) = entry.dirs.first_mut().filter(|_| entry.cnames == ["freezer"]) else {
            return;
        };
        let file = by.join("freezer.state");
        let Some(perms) = permissions(&file) else { return };
        let value = if paused { "FROZEN" } else { "THAWED" };
        first.properties.push(CgroupPropEntry {
            name: "freezer.state".to_owned(),
            value: value.into(),
            perms: Some(perms),
        });
    }
}

/// Where the groups of these hierarchies are.
fn directories<'h>(
    options: &DumpOptions,
    hierarchies: impl Iterator<Item = &'h str>,
) -> Result<GroupDirectories, Error> {
    if let Some(yard) = &options.cgroup_yard {
        return Ok(GroupDirectories::in_yard(yard));
    }
    let mut found = GroupDirectories::find().map_err(|source| Error::Process {
        operation: "find the control groups",
        pid: HostPid::own(),
        source: std::io::Error::other(source),
    })?;
    found.show(hierarchies);
    Ok(found)
}

/// What is asked of control groups that are not there.
pub(crate) fn of_options(options: &DumpOptions) -> Vec<Unsupported> {
    let mut found = Vec::new();
    let mut add = |object: String, refusal: Refusal| found.push(refusal.of(options.pid, object));
    if let Some(yard) = options.cgroup_yard.as_deref().filter(|yard| !yard.is_dir()) {
        add(format!("directory {}", yard.display()), NO_YARD);
    }
    let (roots, controllers) = (&options.cgroup_roots, &options.cgroup_controllers);
    if options.cgroups == CgroupsMode::Ignore || roots.is_empty() && controllers.is_empty() {
        return found;
    }
    let Ok(own) = Dir::open(HostPid::own()).and_then(|own| Cgroup::read(&own)) else {
        return found;
    };
    let hierarchies: Vec<String> = own.0.iter().map(CgroupMembership::name).collect();
    let Ok(directories) = directories(options, hierarchies.iter().map(String::as_str)) else {
        return found;
    };
    for hierarchy in &hierarchies {
        let Some(root) = CgroupRoot::of(roots, hierarchy) else { continue };
        let object = format!("control group {hierarchy}:{}", root.path.display());
        match directories.directory(hierarchy, root.path.as_os_str().as_bytes()) {
            Some(directory) if directory.is_dir() => {}
            Some(directory) => {
                add(object, not_there(&directory.display().to_string()));
            }
            None => add(object, NOT_MOUNTED),
        }
    }
    for root in roots {
        let alone = std::slice::from_ref(root);
        if !hierarchies.iter().any(|hierarchy| CgroupRoot::of(alone, hierarchy).is_some()) {
            let controller = root.controller.as_deref().unwrap_or_default();
            add(format!("control group {controller}:{}", root.path.display()), NO_CONTROLLER);
        }
    }
    for controller in controllers {
        let has = |hierarchy: &String| {
            hierarchy == controller || hierarchy.split(',').any(|part| part == controller)
        };
        if !hierarchies.iter().any(has) {
            add(format!("controller {controller}"), NO_CONTROLLER);
        }
    }
    found
}

fn members(set: &Set) -> Vec<CgMemberEntry> {
    let members = set.iter().map(|(name, path, prefix)| CgMemberEntry {
        name: name.clone(),
        path: path.clone(),
        cgns_prefix: *prefix,
    });
    members.collect()
}

/// Describes the groups of one hierarchy.
struct Describing<'o> {
    options: &'o DumpOptions,
    hierarchy: &'o str,
    count: usize,
}

impl Describing<'_> {
    fn hierarchy(
        &mut self,
        groups: &[&[u8]],
        directories: &GroupDirectories,
        whole: bool,
    ) -> Result<CgControllerEntry, Error> {
        let mut entry = CgControllerEntry {
            cnames: self.hierarchy.split(',').map(str::to_owned).collect(),
            ..CgControllerEntry::default()
        };
        let mut above: Option<&[u8]> = None;
        for group in groups {
            // It has been described with the one above it.
            if above.is_some_and(|above| is_below(group, above)) {
                continue;
            }
            let Some(directory) = directories.directory(self.hierarchy, group) else { continue };
            let name = group.strip_prefix(b"/").unwrap_or(group);
            let is_root = name.is_empty();
            let Some(described) = self.group(&directory, name, whole || !is_root)? else {
                continue;
            };
            if !is_root {
                above = Some(group);
            }
            entry.dirs.push(described);
        }
        // In the first version a thread may be elsewhere than its process; in the second in groups of this type.
        let threaded = !self.hierarchy.is_empty() || entry.dirs.iter().any(is_threaded);
        Ok(CgControllerEntry { is_threaded: Some(threaded), ..entry })
    }

    /// `None` of a group that has gone.
    fn group(
        &mut self,
        directory: &Path,
        name: &[u8],
        and_below: bool,
    ) -> Result<Option<CgroupDirEntry>, Error> {
        self.count += 1;
        let Some(perms) = permissions(directory) else { return Ok(None) };
        let mut entry = CgroupDirEntry {
            dir_name: name.to_vec(),
            dir_perms: Some(perms),
            ..CgroupDirEntry::default()
        };
        let Ok(files) = fs::read_dir(directory) else { return Ok(None) };
        if !and_below {
            return Ok(Some(entry));
        }
        let mut below = Vec::new();
        let mut properties = Vec::new();
        for file in files.flatten() {
            let name = file.file_name();
            if file.file_type().is_ok_and(|kind| kind.is_dir()) {
                below.push(name);
            } else if let Some(name) = name.to_str() {
                properties.extend(self.property(&file.path(), name)?);
            }
        }
        properties.sort_by_key(|(order, _)| *order);
        entry.properties = properties.into_iter().map(|(_, property)| property).collect();
        below.sort_unstable();
        for name in below {
            if self.count >= MOST {
                tracing::warn!("only {MOST} groups below {} are described", directory.display());
                break;
            }
            entry.children.extend(self.group(&directory.join(&name), name.as_bytes(), true)?);
        }
        Ok(Some(entry))
    }

    /// A file that is a setting of its group, with its place among them.
    fn property(&self, path: &Path, name: &str) -> Result<Option<(usize, CgroupPropEntry)>, Error> {
        let listed = &self.options.cgroup_properties;
        let Some(order) = listed.order(self.hierarchy, name) else { return Ok(None) };
        let text = match LISTS.contains(&name) {
            true => Ok(Vec::new()),
            false => fs::read(path),
        };
        let text = match text {
            // Whoever lists it counts on it.
            Err(source) if listed.is_listed(self.hierarchy, name) && path.exists() => {
                let pid = self.options.pid;
                return Err(Error::Process {
                    operation: "read a listed setting of the control groups of",
                    pid,
                    source,
                });
            }
            text => text.unwrap_or_default(),
        };
        let value = Some(text).filter(|text| text.len() <= LONGEST);
        let value = value.and_then(|text| value_of(name, &text));
        Ok(value.map(|value| {
            let perms = permissions(path);
            (order, CgroupPropEntry { name: name.to_owned(), value, perms })
        }))
    }
}

/// Whether a group, or one below it, is threaded.
fn is_threaded(group: &CgroupDirEntry) -> bool {
    let is_it = |property: &CgroupPropEntry| property.name == "cgroup.type";
    group.properties.iter().any(is_it) || group.children.iter().any(is_threaded)
}

fn is_below(group: &[u8], above: &[u8]) -> bool {
    group.strip_prefix(above).is_some_and(|rest| rest.first() == Some(&b'/'))
}

fn permissions(path: &Path) -> Option<CgroupPerms> {
    let found = fs::symlink_metadata(path).ok()?;
    Some(CgroupPerms { mode: found.mode(), uid: found.uid(), gid: found.gid() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup(text: &str) -> Cgroup {
        Cgroup::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn sets_are_numbered_once() {
        let options = DumpOptions::new(HostPid::own());
        let threads = [cgroup("1:cpu:/x\n0::/\n"), cgroup("1:cpu:/y\n0::/\n")];
        let of = |threads: &[&Cgroup]| {
            let threads: Vec<_> = threads.iter().map(|thread| (*thread, None)).collect();
            Sets::of(&options, threads.into_iter()).unwrap()
        };
        let sets = of(&[&threads[0], &threads[1], &threads[0]]);
        let numbers: Vec<u32> = threads.iter().map(|thread| sets.number(thread, None)).collect();
        assert_eq!(numbers, [2, 3]);
        let own = Cgroup::read(&Dir::open(HostPid::own()).unwrap()).unwrap();
        assert_eq!(sets.number(&own, None), OWN_SET);
        assert!(of(&[&own]).encode(false).unwrap().is_none());
    }

    #[test]
    fn only_hierarchies_that_are_asked_for() {
        let asked = DumpOptions {
            cgroup_controllers: vec!["cpuacct".to_owned(), String::new()],
            ..DumpOptions::new(HostPid::own())
        };
        let set = set(&asked, &cgroup("2:cpu,cpuacct:/x\n1:pids:/y\n0::/z\n"), None);
        let names: Vec<&str> = set.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["", "cpu,cpuacct"]);
    }

    #[test]
    fn what_is_below() {
        assert!(is_below(b"/a/b", b"/a") && !is_below(b"/ab", b"/a") && !is_below(b"/a", b"/a"));
    }
}
