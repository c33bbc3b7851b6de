//! What a process holds without a descriptor: its program, its directories, the files that it maps.
//!
//! A frozen target is asked for as little of it as there may be news of. Mappings that are those of
//! the plan are mappings of the same files; whether such a file is still called what it was is seen
//! by the handle that the plan has on it, once for each file, however many map it.

use std::os::unix::ffi::OsStrExt;

use collector::{Mapping, NamedFile, Process, VmFlags};
use ids::HostPid;
use images::MappingKind;
use images::messages::{FileEntry, fd_type};
use kernel::procfs::Dir;
use support::files::{OF_ITSELF, process_behind};
use support::mappings::of_mapping;

use super::file_kind::FileKind;
use super::file_reference::FileReference;
use super::owners;
use super::paths::{Check, Key};
use super::problem::{Doing, Problem};
use super::survey::{AT_ONCE, Survey};
use super::{Captured, Error, table};

/// The places that a process has one of, with the links that show them.
const LINKS: [(FileReference, &str); 3] =
    [(FileReference::Exe, "exe"), (FileReference::Cwd, "cwd"), (FileReference::Root, "root")];

pub(super) fn key_of(namespace: u64, mapping: &Mapping) -> Key {
    let (device, inode, target) = (mapping.device, mapping.inode, mapping.name.clone());
    Key { namespace, mount: 0, device, inode, target }
}

impl Captured {
    /// Id of the file behind a mapping (`VmaEntry.shmid` of a file mapping); `None` for a mapping
    /// with no file that has a path: anonymous and shared anonymous memory (`/dev/zero (deleted)`),
    /// System V segments, the vDSO.
    #[must_use]
    pub fn mapped(&self, pid: HostPid, mapping: &Mapping) -> Option<u32> {
        let namespace = self.namespaces.get(&pid).copied().unwrap_or(0);
        // Of shared memory only what is a file as well has an entry.
        (is_memory(mapping) || is_of_file(mapping))
            .then(|| self.paths.get(&key_of(namespace, mapping)).copied())
            .flatten()
    }
}

/// What the entry of a mapping says of the kind of its file (`vma_status`).
pub(crate) fn mapping_status(mapping: &Mapping) -> u32 {
    table::of_mapped(mapping.inode, &mapping.name).map_or(0, |kind| kind.mapping_status())
}

impl Survey<'_> {
    /// What a process holds without a descriptor.
    pub(super) fn places(&mut self, process: &Process) -> Result<(), Error> {
        let pid = process.pid;
        let known = process.in_process.as_ref().and_then(|inside| inside.places.as_ref());
        let known =
            known.map(|known| [&known.program, &known.working_directory, &known.root_directory]);
        for (nth, (place, link)) in LINKS.into_iter().enumerate() {
            let named = match known {
                Some(known) => Ok(known[nth].clone()),
                None => self.ask(pid, link),
            };
            let target = named.as_ref().map_or_else(|_| link.into(), |named| named.target.clone());
            let id = named.and_then(|named| self.place(pid, link, named));
            if let Some(id) = self.settle(pid, place, &target, id)? {
                self.out.places.insert((pid, place), id);
            }
        }
        self.mappings(process)
    }

    fn ask(&mut self, pid: HostPid, link: &str) -> Result<NamedFile, Problem> {
        let dir = self.dir(pid)?;
        let target = dir.link(link).doing("read link of")?;
        let stat = dir.stat_behind(link).doing("stat")?;
        Ok(NamedFile { device: stat.device, inode: stat.inode, target })
    }

    fn place(&mut self, pid: HostPid, link: &str, named: NamedFile) -> Result<u32, Problem> {
        let NamedFile { device, inode, target } = named;
        let key = Key { namespace: self.namespace(pid), mount: 0, device, inode, target };
        if let Some(kind) = table::of_mapped(inode, &key.target).filter(|_| link == "exe") {
            return self.place_of_kind(kind, pid, link, key);
        }
        let holds = if link == "exe" { Holds::Contents } else { Holds::File };
        self.held_path(key, Check::Numbers, pid, link, holds)
    }

    /// The files that a process maps.
    fn mappings(&mut self, process: &Process) -> Result<(), Error> {
        let mark = process.in_process.as_ref().and_then(|inside| inside.mappings_mark);
        // A file that is opened of memory changes nothing that the mark covers.
        if self.frozen
            && self.memory.is_empty()
            && let Some(mark) = mark
            && let Some((_, firsts)) =
                self.cache.mapped.remove(&process.pid).filter(|(before, _)| *before == mark)
        {
            for mapping in firsts.into_iter().filter_map(|nth| process.mappings.get(nth)) {
                let id = self.mapping_of_before(process.pid, mapping);
                self.settle(process.pid, FileReference::Mapping(mapping.start), &mapping.name, id)?;
            }
            return Ok(());
        }
        let mut firsts = Vec::new();
        let mut last: Option<&Mapping> = None;
        for (nth, mapping) in process.mappings.iter().enumerate() {
            if nth % AT_ONCE == AT_ONCE - 1 {
                self.in_time()?;
            }
            if last.is_some_and(|last| is_same_file(last, mapping)) {
                continue;
            }
            if !is_of_file(mapping)
                || is_memory(mapping) && !self.memory.contains(&(mapping.device, mapping.inode))
            {
                continue;
            }
            let id = self.mapping(process.pid, mapping);
            last = Some(mapping);
            firsts.push(nth);
            self.settle(process.pid, FileReference::Mapping(mapping.start), &mapping.name, id)?;
        }
        if let (Some(mark), false) = (mark, self.frozen) {
            self.cache.mapped.insert(process.pid, (mark, firsts));
        }
        Ok(())
    }

    fn mapping(&mut self, pid: HostPid, mapping: &Mapping) -> Result<u32, Problem> {
        let link = format!("map_files/{:x}-{:x}", mapping.start, mapping.end);
        let key = key_of(self.namespace(pid), mapping);
        if let Some(kind) = table::of_mapped(mapping.inode, &mapping.name) {
            if let Some(id) = kind.mapped_as(self, mapping) {
                let id = id?;
                self.path_ids.insert(key, id);
                return Ok(id);
            }
            return self.place_of_kind(kind, pid, &link, key);
        }
        self.held_path(key, Check::Name, pid, &link, holds(mapping))
    }

    /// The id of a file that is mapped or run and is not found by its path.
    fn place_of_kind(
        &mut self,
        kind: &dyn FileKind,
        pid: HostPid,
        link: &str,
        key: Key,
    ) -> Result<u32, Problem> {
        if let Some(id) = self.path_ids.get(&key) {
            return Ok(*id);
        }
        let id = self.new_id();
        let entry = FileEntry { id, ..FileEntry::default() };
        let entry = kind.capture_mapped(self, pid, link, &key.target, entry)?;
        self.out.files.push(entry);
        self.path_ids.insert(key, id);
        Ok(id)
    }

    /// The id of the file behind a mapping that has not been read again: it may have another name by
    /// now.
    fn mapping_of_before(&mut self, pid: HostPid, mapping: &Mapping) -> Result<u32, Problem> {
        let key = key_of(self.namespace(pid), mapping);
        if let Some(id) = self.path_ids.get(&key) {
            return Ok(*id);
        }
        if table::of_mapped(mapping.inode, &mapping.name).is_some()
            || self.held.paths.is_called(&key)?
        {
            return self.mapping(pid, mapping);
        }
        let link = format!("map_files/{:x}-{:x}", mapping.start, mapping.end);
        let target = self.dir(pid)?.link(&link).doing("read link of")?;
        let renamed = Key { target, ..key.clone() };
        let id = self.held_path(renamed, Check::Name, pid, &link, holds(mapping))?;
        self.path_ids.insert(key, id);
        Ok(id)
    }

    /// The id of a file that is held by something other than a descriptor; `link` in `/proc/PID`
    /// leads to it.
    fn held_path(
        &mut self,
        key: Key,
        check: Check,
        pid: HostPid,
        link: &str,
        holds: Holds,
    ) -> Result<u32, Problem> {
        if let Some(id) = self.path_ids.get(&key) {
            return Ok(*id);
        }
        let open = || Dir::open(pid).and_then(|dir| dir.open_behind(link)).doing("open");
        let found = self.held.paths.find(&key, check, self.context, open)?;
        // A directory is entered when all processes are there, or have been for a moment.
        let is_of_tree = process_behind(&found.name)
            .is_some_and(|pid| self.is_of_tree(pid) || found.about_dead.is_some());
        if is_of_tree && link != "cwd" {
            return Err(Problem::Refused(OF_ITSELF));
        }
        let id = self.new_id();
        let (mut reg, now) = self.regular_now(&found, id, 0, 0, owners::nobody())?;
        let regular = now.st_mode & libc::S_IFMT == libc::S_IFREG;
        if holds == Holds::Contents && self.context.contents && regular && now.st_nlink != 0 {
            let content = found.content(&now, self.frozen)?;
            reg.build_id = content.build_id;
            reg.content = Some(content.entry);
        }
        self.out.files.push(FileEntry {
            id,
            r#type: fd_type::REG,
            reg: Some(reg),
            ..FileEntry::default()
        });
        self.path_ids.insert(key, id);
        Ok(id)
    }
}

/// What of a file a process relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// That it is this file.
    File,
    /// Its contents too: what is read from it later has to fit what has been.
    Contents,
}

fn holds(mapping: &Mapping) -> Holds {
    let written = mapping.flags.contains(VmFlags::MAY_SHARE | VmFlags::MAY_WRITE);
    if written { Holds::File } else { Holds::Contents }
}

fn is_same_file(one: &Mapping, other: &Mapping) -> bool {
    one.inode == other.inode && one.device == other.device && one.name == other.name
}

/// Whether a mapping is of the file behind shared anonymous memory.
fn is_memory(mapping: &Mapping) -> bool {
    matches!(mapping.kind, MappingKind::SharedAnonymous | MappingKind::PrivateOfSharedAnonymous)
}

/// Whether a mapping is of a file. (What the rules for mappings refuse is of none.)
fn is_of_file(mapping: &Mapping) -> bool {
    let has_path = mapping.kind.is_of_file() && mapping.name.as_bytes().starts_with(b"/");
    (has_path || table::of_mapped(mapping.inode, &mapping.name).is_some())
        && of_mapping(mapping).is_none()
}
