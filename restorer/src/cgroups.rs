//! Control groups: those of the images are made again where they are gone, and tasks go back into theirs.
//!
//! The groups are made before any task is. A task goes into its own ones first of all, so that what it
//! uses from then on is accounted for there and its children begin where it is; a thread that is elsewhere
//! than its process is moved when it stands. Only what is different from where a task begins is changed:
//! a hierarchy that is not mounted here matters only then. The set that the dumper was in means wherever the
//! restore is.

mod groups;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use api::{CgroupRoot, CgroupsMode};
use ids::{HostPid, ImagePid, PidMap};
use images::messages::CgroupEntry;
use kernel::cgroup::GroupDirectories;
use kernel::procfs::{Cgroup, Dir, ProcFile};
use support::cgroups::{ELSEWHERE, GONE, LEAVE, stopped};

use crate::capacity::{self, Births};
use crate::error::Error;
use crate::load::{Checkpoint, Process, State};
use groups::make_groups;

/// Where a task is in each hierarchy, by the hierarchy's name.
type Set = BTreeMap<String, Vec<u8>>;

/// A group to go into: its directory.
pub(crate) type Moves = Vec<PathBuf>;

/// Who goes where.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// By index of the process.
    processes: HashMap<usize, Moves>,
    /// Threads that are elsewhere than their process, by their number.
    threads: BTreeMap<ImagePid, Moves>,
    /// How many tasks are made in each group.
    forks: Births,
}

impl Plan {
    /// Makes the groups that are gone, and finds out who has to be moved.
    pub(crate) fn make(
        checkpoint: &mut Checkpoint,
        mode: CgroupsMode,
        roots: &[CgroupRoot],
    ) -> Result<Self, Error> {
        let entry = checkpoint.cgroups.take().filter(|_| mode != CgroupsMode::Ignore);
        let Some(mut entry) = entry else {
            // They stay where the restore is. That this is not known is no error.
            let stay = |directories: GroupDirectories| {
                Self::staying(checkpoint, &start().unwrap_or_default(), &directories)
            };
            let plan = GroupDirectories::find().map_or_else(|_| Self::default(), stay);
            plan.check_room(checkpoint)?;
            return Ok(plan);
        };
        if !roots.is_empty() {
            rewrite(&mut entry, roots);
        }
        let directories = GroupDirectories::find().map_err(|source| {
            Error::kernel("find the control groups")(std::io::Error::other(source))
        })?;
        let start = start()?;
        let sets = sets(&entry)?;
        let plan = Self::of(checkpoint, &sets, &start, &directories)?;
        plan.check_room(checkpoint)?;
        if plan.processes.is_empty() && plan.threads.is_empty() {
            return Ok(plan);
        }
        make_groups(&entry, mode, &directories)?;
        for group in plan.processes.values().chain(plan.threads.values()).flatten() {
            check_group(group)?;
        }
        Ok(plan)
    }

    fn staying(checkpoint: &Checkpoint, start: &Set, directories: &GroupDirectories) -> Self {
        let mut plan = Self::default();
        plan.note_own(start, directories);
        for process in &checkpoint.processes {
            plan.note_births(process, start, directories);
        }
        plan
    }

    /// Notes the tasks of the restore's own.
    fn note_own(&mut self, start: &Set, directories: &GroupDirectories) {
        for directory in start.iter().filter_map(|(name, group)| directories.directory(name, group))
        {
            *self.forks.entry(directory).or_default() += capacity::OWN_TASKS;
        }
    }

    /// Notes the tasks of a process where they are made. (Threads of other groups are made there, too.)
    fn note_births(&mut self, process: &Process, set: &Set, directories: &GroupDirectories) {
        let tasks = process.body.as_ref().map_or(1, |body| body.threads.len().max(1));
        for directory in set.iter().filter_map(|(name, group)| directories.directory(name, group)) {
            *self.forks.entry(directory).or_default() += tasks as u64;
        }
    }

    /// Before any group is made: whether all tasks may be in theirs.
    fn check_room(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let Some(root) = checkpoint.processes.first() else { return Ok(()) };
        let found = capacity::of_groups(root.pid, &self.forks);
        if found.is_empty() { Ok(()) } else { Err(Error::Refused(found)) }
    }

    fn of(
        checkpoint: &Checkpoint,
        sets: &BTreeMap<u32, Set>,
        start: &Set,
        directories: &GroupDirectories,
    ) -> Result<Self, Error> {
        let mut plan = Self::default();
        plan.note_own(start, directories);
        let mut found: HashMap<ImagePid, Set> = HashMap::new();
        for (index, process) in checkpoint.processes.iter().enumerate() {
            let begins = process.ppid.filter(|_| index > 0).and_then(|parent| found.get(&parent));
            let begins = begins.unwrap_or(start);
            let (number, is_dead) = (number(process), matches!(process.state, State::Dead { .. }));
            // One that has ended does not say where it was.
            let wanted = match number.filter(|_| !is_dead) {
                Some(number) if number != checkpoint.own_set => {
                    set(sets, number, process.pid)?.clone()
                }
                Some(_) => start.clone(),
                None => begins.clone(),
            };
            plan.note_births(process, &wanted, directories);
            let moves = moves(begins, &wanted, directories, process.pid)?;
            if !moves.is_empty() {
                plan.processes.insert(index, moves);
            }
            let threads = process.body.iter().flat_map(|body| &body.threads);
            for thread in threads.filter(|thread| thread.tid != process.pid) {
                let other = thread.core.cg_set.filter(|set| *set != 0 && Some(*set) != number);
                let Some(other) = other else { continue };
                let other = match other == checkpoint.own_set {
                    true => start,
                    false => set(sets, other, thread.tid)?,
                };
                let moves = self::moves(&wanted, other, directories, thread.tid)?;
                if !moves.is_empty() {
                    plan.threads.insert(thread.tid, moves);
                }
            }
            found.insert(process.pid, wanted);
        }
        Ok(plan)
    }

    /// Goes into the groups of process `index`, which calls this.
    pub(crate) fn enter(&self, index: usize) -> Result<(), Error> {
        for group in self.processes.get(&index).into_iter().flatten() {
            write(&group.join("cgroup.procs"), b"0")?;
        }
        Ok(())
    }

    /// Moves the threads that are elsewhere than their processes.
    pub(crate) fn move_threads(&self, pids: &PidMap) -> Result<(), Error> {
        for (tid, groups) in &self.threads {
            let tid = pids
                .host(*tid)
                .ok_or_else(|| Error::image(format!("thread {tid}"), "nobody is it"))?;
            for group in groups {
                let threads = group.join("tasks");
                let threads = if threads.exists() { threads } else { group.join("cgroup.threads") };
                write(&threads, tid.to_string().as_bytes())?;
            }
        }
        Ok(())
    }
}

/// The number of a process's set; old images have it elsewhere.
fn number(process: &Process) -> Option<u32> {
    let leader = process.body.as_ref().and_then(|body| body.threads.first());
    let set = leader.and_then(|leader| leader.core.cg_set).or(process.core.cg_set);
    set.filter(|set| *set != 0)
}

fn set(sets: &BTreeMap<u32, Set>, number: u32, id: ImagePid) -> Result<&Set, Error> {
    let missing = || {
        Error::image(
            format!("process {id}"),
            format!("it is in control groups {number}, which are not there"),
        )
    };
    sets.get(&number).ok_or_else(missing)
}

/// Where this process is.
fn start() -> Result<Set, Error> {
    let failed = |source: kernel::procfs::Error| {
        Error::kernel("read the control groups of this process")(std::io::Error::other(source))
    };
    let own = Dir::open(HostPid::own()).map_err(failed)?;
    let own = Cgroup::read(&own).map_err(failed)?;
    Ok(own.0.iter().map(|group| (group.name(), group.path.as_bytes().to_vec())).collect())
}

fn sets(entry: &CgroupEntry) -> Result<BTreeMap<u32, Set>, Error> {
    let mut sets = BTreeMap::new();
    for set in &entry.sets {
        if set.ctls.iter().any(|member| !member.path.starts_with(b"/")) {
            let object = format!("control groups {}", set.id);
            return Err(Error::image(object, "a group has no absolute path"));
        }
        let members = set.ctls.iter().map(|member| (member.name.clone(), member.path.clone()));
        sets.insert(set.id, members.collect());
    }
    Ok(sets)
}

/// The groups to go into for who is in `from`.
fn moves(
    from: &Set,
    to: &Set,
    directories: &GroupDirectories,
    id: ImagePid,
) -> Result<Moves, Error> {
    let other = to.iter().filter(|(name, group)| from.get(*name) != Some(*group));
    let directory = |(name, group): (&String, &Vec<u8>)| {
        directories.directory(name, group).ok_or_else(|| {
            let group = String::from_utf8_lossy(group);
            Error::refused(ELSEWHERE.of(id.get(), format!("control group {name}:{group}")))
        })
    };
    other.map(directory).collect()
}

fn write(path: &Path, value: &[u8]) -> Result<(), Error> {
    let doing = format!("go into the control group of {} ({LEAVE})", path.display());
    fs::write(path, value).map_err(Error::kernel(doing))
}

/// A group that is frozen would stop what goes into it.
fn check_group(group: &Path) -> Result<(), Error> {
    let object = || format!("control group {}", group.display());
    let says = |path: &Path, text: &str| {
        fs::read_to_string(path).is_ok_and(|found| found.trim_ascii() == text)
    };
    if !group.is_dir() {
        return Err(Error::refused(GONE.of(0, object())));
    }
    let v1 = group.join("freezer.state");
    if v1.exists() && !says(&v1, "THAWED") {
        let refusal = stopped("THAWED", &v1.display().to_string());
        return Err(Error::refused(refusal.of(0, object())));
    }
    if let Some(frozen) =
        group.ancestors().map(|above| above.join("cgroup.freeze")).find(|file| says(file, "1"))
    {
        let refusal = stopped("0", &frozen.display().to_string());
        return Err(Error::refused(refusal.of(0, object())));
    }
    Ok(())
}

/// Puts the groups of the images below other ones: of each hierarchy the highest described group that
/// a member is in (or is below) becomes the new root.
fn rewrite(entry: &mut CgroupEntry, roots: &[CgroupRoot]) {
    for hierarchy in &mut entry.controllers {
        let name = hierarchy.cnames.join(",");
        let Some(root) = CgroupRoot::of(roots, &name) else { continue };
        let new = root.path.as_os_str().as_bytes();
        for group in &mut hierarchy.dirs {
            let old = [b"/", &*group.dir_name].concat();
            for member in entry.sets.iter_mut().flat_map(|set| &mut set.ctls) {
                if member.name != name {
                    continue;
                }
                let rest = match member.path.strip_prefix(&*old) {
                    Some(rest)
                        if rest.is_empty()
                            || rest.starts_with(b"/")
                            || group.dir_name.is_empty() =>
                    {
                        rest
                    }
                    _ => continue,
                };
                let rest = rest.strip_prefix(b"/").unwrap_or(rest);
                let between: &[u8] = if rest.is_empty() || new == b"/" { b"" } else { b"/" };
                member.path = [new, between, rest].concat();
            }
            group.dir_name = new.strip_prefix(b"/").unwrap_or(new).to_vec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::groups::is_plain;
    use super::*;
    use images::messages::{CgControllerEntry, CgMemberEntry, CgSetEntry, CgroupDirEntry};

    fn entry(group: &str) -> CgroupEntry {
        let ctls =
            vec![CgMemberEntry { name: "cpu".to_owned(), path: group.into(), cgns_prefix: None }];
        let dir_name = group.trim_start_matches('/').into();
        CgroupEntry {
            sets: vec![CgSetEntry { id: 2, ctls }],
            controllers: vec![CgControllerEntry {
                cnames: vec!["cpu".to_owned()],
                dirs: vec![CgroupDirEntry { dir_name, ..CgroupDirEntry::default() }],
                is_threaded: None,
            }],
        }
    }

    #[test]
    fn another_root_takes_the_place_of_the_highest_group() {
        for (old, new, expected) in [("/a/b", "/n", "/n"), ("/", "/n", "/n"), ("/a", "/", "/")] {
            let mut entry = entry(old);
            let root = CgroupRoot { controller: Some("cpu".to_owned()), path: new.into() };
            rewrite(&mut entry, &[root]);
            assert_eq!(entry.sets[0].ctls[0].path, expected.as_bytes(), "{old} to {new}");
            assert_eq!(entry.controllers[0].dirs[0].dir_name, &expected.as_bytes()[1..]);
        }
        let mut other = entry("/a");
        let root = CgroupRoot { controller: Some("pids".to_owned()), path: "/n".into() };
        rewrite(&mut other, &[root]);
        assert_eq!(other.sets[0].ctls[0].path, b"/a");
    }

    #[test]
    fn only_what_differs_is_moved() {
        let set = |group: &str| {
            Set::from([("cpu".to_owned(), group.into()), ("gone".to_owned(), b"/".to_vec())])
        };
        let none = GroupDirectories::default();
        let who = ImagePid::new(7).unwrap();
        assert_eq!(moves(&set("/a"), &set("/a"), &none, who).unwrap(), Moves::new());
        let error = moves(&set("/a"), &set("/b"), &none, who).unwrap_err();
        assert!(error.to_string().contains("cpu:/b"), "{error}");
    }

    #[test]
    fn names_that_lead_elsewhere_are_none() {
        assert!(is_plain(Path::new("a/b")));
        for bad in ["", "/", "..", "a/../b", "/a"] {
            assert!(!is_plain(Path::new(bad)), "{bad}");
        }
        assert!(
            sets(&CgroupEntry {
                sets: vec![CgSetEntry {
                    id: 1,
                    ctls: vec![CgMemberEntry {
                        name: String::new(),
                        path: b"a".to_vec(),
                        cgns_prefix: None
                    }]
                }],
                controllers: Vec::new()
            })
            .is_err()
        );
    }
}
