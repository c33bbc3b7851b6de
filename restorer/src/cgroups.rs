//! Control groups: those of the images are made again where they are gone, and tasks go back into theirs.
//!
//! The groups are made before any task is. A task goes into its own ones first of all, so that what it
//! uses from then on is accounted for there and its children begin where it is; a thread that is elsewhere
//! than its process is moved when it stands. Only what is different from where a task begins is changed:
//! a hierarchy that is not mounted here matters only then. The set that the dumper was in means wherever the
//! restore is.

mod groups;
mod namespaces;
mod number;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::{CgroupRoot, CgroupsMode};
use ids::{HostPid, ImagePid};
use images::messages::{CgMemberEntry, CgroupEntry, FdinfoEntry};
use kernel::cgroup::GroupDirectories;
use kernel::descriptors::duplicate_from;
use kernel::procfs::{Cgroup, Dir, ProcFile};
use support::cgroups::{ELSEWHERE, GONE, LEAVE, stopped};

use crate::capacity::{self, Births};
use crate::error::Error;
use crate::load::{Checkpoint, Process, State};
use crate::pids::Pids;
use groups::{Groups, Made};
use number::number;

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
    /// The files by which tasks go into groups, open: a task goes when its paths lead elsewhere, and with the rights
    /// of this process.
    doors: BTreeMap<PathBuf, File>,
    /// The directories of version 2, by index of the process, of those that are elsewhere there than this process.
    unified: HashMap<usize, PathBuf>,
    /// They, open.
    directories: HashMap<PathBuf, Arc<File>>,
    /// Groups that somebody had frozen, by the files that freeze them, with what is written to them last of all.
    freezes: Vec<(File, &'static str)>,
    made: Made,
}

/// What is asked for of control groups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'o> {
    pub(crate) mode: CgroupsMode,
    pub(crate) roots: &'o [CgroupRoot],
    pub(crate) yard: Option<&'o Path>,
    /// Where it is written down which groups are made.
    pub(crate) undo: &'o Path,
}

impl Plan {
    /// Makes the groups that are gone, and finds out who has to be moved.
    pub(crate) fn make(checkpoint: &mut Checkpoint, asked: Asked<'_>) -> Result<Self, Error> {
        let mode = asked.mode;
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
        // What is rewritten has been looked at.
        sets(&entry)?;
        if !asked.roots.is_empty() {
            rewrite(&mut entry, asked.roots);
        }
        let start = start()?;
        let directories = directories(&entry, asked, &start)?;
        let sets = sets(&entry)?;
        let mut plan = Self::of(checkpoint, &sets, &start, &directories)?;
        plan.check_room(checkpoint)?;
        let moves = !plan.processes.is_empty() || !plan.threads.is_empty();
        let make = || Groups::make(&entry, (mode, asked.undo), &directories);
        let groups = moves.then(make).transpose()?;
        // Somebody has to be in their roots for that, and in a root there may be nobody once it is set.
        namespaces::make(checkpoint, &entry, &directories)?;
        if let Some(groups) = groups {
            let (freezes, made) = groups.set()?;
            plan.made = made;
            plan.open(&freezes)?;
        }
        Ok(plan)
    }

    /// The tree lives: it has the groups that were made for it.
    pub(crate) fn keep_groups(self) {
        self.made.keep();
    }

    /// Opens what is written to later.
    fn open(&mut self, freezes: &[PathBuf]) -> Result<(), Error> {
        let opened = |file: &Path| {
            let doing = format!("open {} ({LEAVE})", file.display());
            OpenOptions::new().write(true).open(file).map_err(Error::kernel(doing))
        };
        let groups = self.processes.values().flatten().map(|group| (group, group.join(PROCESSES)));
        let threads = self.threads.values().flatten().map(|group| (group, door_of_threads(group)));
        for (group, door) in groups.chain(threads).collect::<Vec<_>>() {
            if !self.doors.contains_key(&door) {
                check_group(group)?;
                self.doors.insert(door.clone(), opened(&door)?);
            }
        }
        for group in self.unified.values() {
            if !self.directories.contains_key(group) {
                let directory = File::open(group)
                    .map_err(Error::kernel(format!("open {}", group.display())))?;
                self.directories.insert(group.clone(), Arc::new(directory));
            }
        }
        let own = HostPid::own();
        for file in freezes {
            let group = file.parent().unwrap_or(file);
            let cgroup = kernel::cgroup::Cgroup::of_directory(group);
            // It would stop this process, too, and nobody would be there to say that all is done.
            if cgroup
                .and_then(|cgroup| cgroup.members())
                .is_ok_and(|it| it.processes.contains(&own))
            {
                tracing::warn!(
                    "{} was frozen, and is not again: this process is in it",
                    group.display()
                );
                continue;
            }
            let value = if file.ends_with("freezer.state") { "FROZEN" } else { "1" };
            self.freezes.push((opened(file)?, value));
        }
        Ok(())
    }

    /// Moves the descriptors to numbers from `base` on, out of the tasks' way.
    pub(crate) fn keep(&mut self, base: RawFd) -> Result<(), Error> {
        let freezes = self.freezes.iter_mut().map(|(file, _)| file);
        for file in self.doors.values_mut().chain(freezes) {
            let fd =
                duplicate_from(&*file, base).map_err(Error::kernel("duplicate a descriptor"))?;
            *file = fd.into();
        }
        Ok(())
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
            if let Some(group) =
                wanted.get(UNIFIED).filter(|group| start.get(UNIFIED) != Some(*group))
            {
                let directory = directories.directory(UNIFIED, group);
                plan.unified.extend(directory.map(|directory| (index, directory)));
            }
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

    /// By file, the groups of version 2 of who has it in one of the `tables` of descriptors, where they are others than this
    /// process's. What several have is the first one's. They are given away.
    pub(crate) fn of_files(
        &mut self,
        processes: &[Process],
        tables: &BTreeMap<u32, Vec<FdinfoEntry>>,
    ) -> HashMap<u32, Arc<File>> {
        let opened = std::mem::take(&mut self.directories);
        let mut of_files = HashMap::new();
        let mut seen = HashSet::new();
        for (index, process) in processes.iter().enumerate() {
            let table = process.body.as_ref().and_then(|body| tables.get(&body.ids.files_id));
            let group = self.unified.get(&index).and_then(|group| opened.get(group));
            for file in table.into_iter().flatten().filter(|file| seen.insert(file.id)) {
                of_files.extend(group.map(|group| (file.id, Arc::clone(group))));
            }
        }
        of_files
    }

    /// Goes into the groups of process `index`, which calls this.
    pub(crate) fn enter(&self, index: usize) -> Result<(), Error> {
        for group in self.processes.get(&index).into_iter().flatten() {
            self.go(&group.join(PROCESSES), b"0")?;
        }
        Ok(())
    }

    /// Moves the threads that are elsewhere than their processes.
    pub(crate) fn move_threads(&self, pids: &Pids) -> Result<(), Error> {
        for (tid, groups) in &self.threads {
            let tid = pids.host(*tid)?;
            for group in groups {
                self.go(&door_of_threads(group), tid.to_string().as_bytes())?;
            }
        }
        Ok(())
    }

    fn go(&self, door: &Path, who: &[u8]) -> Result<(), Error> {
        let doing = format!("go into the control group of {} ({LEAVE})", door.display());
        let written = match self.doors.get(door) {
            Some(file) => (&*file).write_all(who),
            None => Err(std::io::ErrorKind::NotFound.into()),
        };
        written.map_err(Error::kernel(doing))
    }

    /// Freezes the groups again that were frozen: the last thing before their tasks are let go.
    pub(crate) fn freeze(&self) {
        for (file, value) in &self.freezes {
            if let Err(error) = (&*file).write_all(value.as_bytes()) {
                tracing::error!(%error, "freeze a control group again that was frozen");
            }
        }
    }
}

/// What the hierarchy of version 2 is called.
const UNIFIED: &str = "";

/// The file by which processes go into a group.
const PROCESSES: &str = "cgroup.procs";

/// The file by which threads do.
fn door_of_threads(group: &Path) -> PathBuf {
    let threads = group.join("tasks");
    if threads.exists() { threads } else { group.join("cgroup.threads") }
}

/// Where the groups of the images are here.
fn directories(
    entry: &CgroupEntry,
    asked: Asked<'_>,
    start: &Set,
) -> Result<GroupDirectories, Error> {
    if let Some(yard) = asked.yard {
        if !yard.is_dir() {
            let object = format!("directory {}", yard.display());
            return Err(Error::refused(support::cgroups::NO_YARD.of(0, object)));
        }
        return Ok(GroupDirectories::in_yard(yard));
    }
    let mut found = GroupDirectories::find().map_err(|source| {
        Error::kernel("find the control groups")(std::io::Error::other(source))
    })?;
    let makes = !matches!(asked.mode, CgroupsMode::None | CgroupsMode::Props);
    let names: Vec<String> = entry.controllers.iter().map(|one| one.cnames.join(",")).collect();
    // Controllers are not taken from where they are by a mount. Who has a name and nothing else is made.
    let is_ours = |name: &&str| {
        start.contains_key(*name) || makes && name.starts_with("name=") && !name.contains(',')
    };
    found.show(names.iter().map(String::as_str).filter(is_ours));
    Ok(found)
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
        let is_cut = |member: &CgMemberEntry| {
            let prefix = member.cgns_prefix.unwrap_or(0) as usize;
            let rest = member.path.get(prefix..);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        if !set.ctls.iter().all(is_cut) {
            let object = format!("control groups {}", set.id);
            return Err(Error::image(object, "the root of a cgroup namespace ends within a name"));
        }
        let members = set.ctls.iter().map(|member| (member.name.clone(), member.path.clone()));
        sets.insert(set.id, members.collect());
    }
    Ok(sets)
}

/// The groups that a process in `from` has to enter to be in `to`.
fn moves(
    from: &Set,
    to: &Set,
    directories: &GroupDirectories,
    id: ImagePid,
) -> Result<Moves, Error> {
    // A hierarchy that `from` does not name is one without groups: every process is in its root.
    let other = to.iter().filter(|(name, group)| {
        let is_in = from.get(*name).map_or(&b"/"[..], |group| group);
        is_in != group.as_slice()
    });
    let directory = |(name, group): (&String, &Vec<u8>)| {
        directories.directory(name, group).ok_or_else(|| {
            let group = String::from_utf8_lossy(group);
            Error::refused(ELSEWHERE.of(id.get(), format!("control group {name}:{group}")))
        })
    };
    other.map(directory).collect()
}

/// Refuses a group that is frozen, as it would stop every process that enters it, and one that is gone.
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

/// Puts the groups of the images below other ones: of each hierarchy the root of the tree's cgroup namespace becomes the
/// new root, or else the highest described group that a member is in (or is below).
fn rewrite(entry: &mut CgroupEntry, roots: &[CgroupRoot]) {
    for hierarchy in &mut entry.controllers {
        let name = hierarchy.cnames.join(",");
        let Some(root) = CgroupRoot::of(roots, &name) else { continue };
        let new = root.path.as_os_str().as_bytes();
        for group in &mut hierarchy.dirs {
            let old = [b"/", &*group.dir_name].concat();
            let all = if group.dir_name.is_empty() { 0 } else { old.len() };
            let is_in = |path: &[u8]| path == old || all == 0 || is_below(path, &old);
            let mut highest = all;
            let members = entry.sets.iter_mut().flat_map(|set| &mut set.ctls);
            for member in members.filter(|member| member.name == name && is_in(&member.path)) {
                let prefix = member.cgns_prefix.filter(|prefix| *prefix > 0);
                let cut = prefix.map_or(all, |prefix| prefix as usize);
                let Some(rest) = member.path.get(cut..) else { continue };
                member.path = joined(new, rest);
                if prefix.is_some() {
                    highest = highest.min(cut);
                    member.cgns_prefix = u32::try_from(new.len()).ok().filter(|_| new != b"/");
                }
            }
            let kept = joined(new, old.get(highest..).filter(|_| all > 0).unwrap_or_default());
            group.dir_name = kept.strip_prefix(b"/").unwrap_or(&kept).to_vec();
        }
    }
}

fn is_below(group: &[u8], above: &[u8]) -> bool {
    group.strip_prefix(above).is_some_and(|rest| rest.starts_with(b"/"))
}

fn joined(above: &[u8], below: &[u8]) -> Vec<u8> {
    let below = below.strip_prefix(b"/").unwrap_or(below);
    let between: &[u8] = if below.is_empty() || above == b"/" { b"" } else { b"/" };
    [above, between, below].concat()
}

#[cfg(test)]
mod tests {
    use super::groups::is_plain;
    use super::*;
    use images::messages::{CgControllerEntry, CgSetEntry, CgroupDirEntry};

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
        let mut other = entry("/ns/in");
        other.sets[0].ctls[0].cgns_prefix = Some(3);
        let root = CgroupRoot { controller: None, path: "/new".into() };
        rewrite(&mut other, &[root]);
        let member = &other.sets[0].ctls[0];
        assert_eq!((&*member.path, member.cgns_prefix), (&b"/new/in"[..], Some(4)));
        assert_eq!(other.controllers[0].dirs[0].dir_name, b"new/in");
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
