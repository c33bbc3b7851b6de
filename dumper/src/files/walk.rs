//! The way through all files of a tree: each is given to the kind that it is of.

use std::collections::BTreeMap;

use collector::{Inventory, OpenFile, Process};
use ids::HostPid;
use images::messages::{FdinfoEntry, FileEntry};
use support::Unsupported;
use support::files::{UNKNOWN_KIND, of_file};

use super::file_cache::{CachedFile, FileCache, Keeping};
use super::file_kind::FileKind;
use super::file_reference::FileReference;
use super::held::{HeldFiles, with_socket};
use super::in_flight::InFlight;
use super::problem::Problem;
use super::survey::{AT_ONCE, Survey, has_table, is_alive};
use super::suspects::Suspects;
use super::{Captured, Error, PlanContext, devices, socket_options, sockets, table, unchanged};
use crate::numbers::Numbers;

/// Takes a look at all files of `inventory`; `tables` gives the id of each process's descriptor table. A
/// look at a frozen target is given time, and `is_late` when there is none left. Also returns what
/// cannot be dumped.
pub(super) fn look(
    context: &PlanContext,
    held: &mut HeldFiles,
    (inventory, numbers): (&Inventory, &Numbers),
    cache: FileCache,
    tables: &BTreeMap<HostPid, u32>,
    in_flight: &mut InFlight,
    is_late: Option<&dyn Fn() -> bool>,
) -> Result<(Captured, FileCache, Vec<Unsupported>), Error> {
    let same_sockets = is_late.is_some() && unchanged::are_sockets_the_same(&cache, inventory);
    let tree = (inventory, numbers);
    Survey::new(context, held, tree, cache, in_flight, same_sockets, is_late).run(tables)
}

impl Survey<'_> {
    fn run(
        mut self,
        tables: &BTreeMap<HostPid, u32>,
    ) -> Result<(Captured, FileCache, Vec<Unsupported>), Error> {
        let inventory = self.inventory;
        self.find_networks();
        let suspects = Suspects::of(inventory)?;
        let alive = || inventory.processes.values().filter(|process| is_alive(process));
        for process in alive() {
            if has_table(process) {
                let unchanged = match self.frozen {
                    true => self.unchanged(process, &suspects)?,
                    false => None,
                };
                let entries = match unchanged {
                    Some(entries) => entries,
                    None => self.table(process, &suspects)?,
                };
                let id = tables.get(&process.pid).copied();
                let id = id.unwrap_or(process.pid.unsigned());
                self.out.tables.insert(id, entries);
                self.tables.insert(process.pid, id);
            }
            self.in_time()?;
            self.places(process)?;
        }
        table::all().for_each(|kind| kind.complete(&mut self));
        self.out.paths = std::mem::take(&mut self.path_ids);
        self.out.namespaces = self.context.views.namespaces().clone();
        self.on_their_way(&suspects)?;
        if self.frozen {
            self.number_outside();
        }
        self.cache.sockets = self.neighbours.into_held();
        self.out.warnings.extend(self.out.left_out());
        Ok((self.out, self.cache, self.refusals))
    }

    /// The descriptors of a process.
    fn table(&mut self, process: &Process, suspects: &Suspects) -> Result<Vec<FdinfoEntry>, Error> {
        let mut entries = Vec::with_capacity(process.files.len());
        for (nth, file) in process.files.iter().enumerate() {
            if nth % AT_ONCE == 0 {
                self.in_time()?;
            }
            let entry = self.entry(process, file, suspects, &entries)?;
            if !self.frozen {
                self.note(process.pid, file, entry.as_ref());
            }
            entries.extend(entry);
        }
        Ok(entries)
    }

    /// The entry of a descriptor. If the open file behind it is met for the first time, that gets an entry, too. `entries` are those of the
    /// process's lower descriptors. `None` if the file is refused, or has gone while the target runs.
    pub(super) fn entry(
        &mut self,
        process: &Process,
        file: &OpenFile,
        suspects: &Suspects,
        entries: &[FdinfoEntry],
    ) -> Result<Option<FdinfoEntry>, Error> {
        // Locks belong to a process or an open file: every descriptor is asked.
        let locks = if suspects.contains(file) { self.locks(process, file) } else { Ok(()) };
        let described = locks.and_then(|()| {
            if file.description == OpenFile::description_of(process.pid, file.fd) {
                self.description(process, file)
            } else if let Some(described) = self.described(process.pid, file, entries) {
                Ok(described)
            } else {
                self.stray(process, file)
            }
        });
        let place = FileReference::Descriptor(file.fd);
        let described = self.settle(process.pid, place, &file.target, described)?;
        Ok(described.map(|(id, r#type)| FdinfoEntry {
            id,
            flags: if file.close_on_exec { libc::FD_CLOEXEC.cast_unsigned() } else { 0 },
            r#type,
            fd: file.fd.cast_unsigned(),
            xattr_security_selinux: None,
        }))
    }

    /// Id and type of the entry of a description whose lowest holder has been met: in a process
    /// before, or in this one, of which `entries` have been written.
    fn described(
        &self,
        pid: HostPid,
        file: &OpenFile,
        entries: &[FdinfoEntry],
    ) -> Option<(u32, u32)> {
        let (holder, fd) = file.lowest_holder()?;
        let entries = if holder == pid {
            entries
        } else {
            self.out.tables.get(self.tables.get(&holder)?)?.as_slice()
        };
        let index = entries.binary_search_by_key(&fd.cast_unsigned(), |entry| entry.fd).ok()?;
        let entry = entries.get(index)?;
        Some((entry.id, entry.r#type))
    }

    /// The entry of a description whose lowest holder has not been met.
    fn stray(&mut self, process: &Process, file: &OpenFile) -> Result<(u32, u32), Problem> {
        if let Some(described) = self.strays.get(&file.description) {
            return Ok(*described);
        }
        let described = self.file(process, file)?;
        self.strays.insert(file.description, described);
        Ok(described)
    }

    /// The entry of a description that is met first: its id and type.
    fn description(&mut self, process: &Process, file: &OpenFile) -> Result<(u32, u32), Problem> {
        if self.frozen {
            if let Some(cached) = self.cached(process.pid, file)? {
                return Ok(cached);
            }
        } else if file.mark.is_some() {
            let before = self.out.files.len();
            self.to_keep = true;
            let described = self.file(process, file);
            let keeps = std::mem::replace(&mut self.to_keep, false);
            if let Ok((id, _)) = described {
                if keeps {
                    self.keep(process.pid, file, id, before);
                }
                return described;
            }
            // What cannot be carried now may be over when the target is frozen.
            self.out.files.truncate(before);
        }
        self.file(process, file)
    }

    /// The entry of an open file description that has none yet: its id and type.
    pub(super) fn file(
        &mut self,
        process: &Process,
        file: &OpenFile,
    ) -> Result<(u32, u32), Problem> {
        let kind = self.kind(process.pid, file)?;
        if self.receiver.is_some() && !kind.can_be_sent() {
            return Err(Problem::Refused(support::sockets::NOT_SENT));
        }
        let id = self.new_id();
        let entry = FileEntry { id, ..FileEntry::default() };
        let entry = match kind.families() {
            [] => kind.capture(self, process, file, entry),
            _ => self.in_network(process, file, |it| kind.capture(it, process, file, entry)),
        };
        let entry = entry?;
        let r#type = entry.r#type;
        self.out.files.push(entry);
        Ok((id, r#type))
    }

    /// The kind of an open file; what has none that is carried is refused.
    fn kind(&mut self, pid: HostPid, file: &OpenFile) -> Result<&'static dyn FileKind, Problem> {
        if let Some(refusal) = of_file(file) {
            return Err(Problem::Refused(refusal));
        }
        let handle = file.flags & libc::O_PATH.cast_unsigned() != 0;
        match file.mode & libc::S_IFMT {
            libc::S_IFSOCK if !handle => {
                let (family, ..) = with_socket(self.held, pid, file, socket_options::family)?;
                table::of_family(family).ok_or_else(|| sockets::unknown(family))
            }
            libc::S_IFCHR if !handle => {
                // It stays what it is.
                let device = self.find(pid, file)?.stat_of_then.st_rdev;
                table::of_device(device).ok_or_else(|| devices::unknown(device))
            }
            _ => table::of(file).ok_or(Problem::Refused(UNKNOWN_KIND)),
        }
    }

    /// Notes what has been found of a file since there were `before` entries, to be used if it does not
    /// change.
    fn keep(&mut self, pid: HostPid, file: &OpenFile, id: u32, before: usize) {
        let Some(mark) = file.mark else { return };
        let entries = before..self.out.files.len();
        let Some(own) = self.out.files[entries.clone()].iter().find(|entry| entry.id == id) else {
            return;
        };
        let kind = table::of_type(own.r#type);
        self.cache.found.entry(pid).or_default().push(CachedFile {
            fd: file.fd,
            device: file.device,
            inode: file.inode,
            target: file.target.clone(),
            mark,
            id,
            r#type: own.r#type,
            keeping: Keeping::new(file, entries, mark.size),
            is_steady: kind.is_some_and(|kind| kind.is_steady(own, mark.size)),
            peer: kind.and_then(|kind| kind.peer(own)).unwrap_or(0),
        });
    }

    /// The id and type of a file that is as it was when it was read; `None` for one that has to be
    /// read now.
    fn cached(&mut self, pid: HostPid, file: &OpenFile) -> Result<Option<(u32, u32)>, Problem> {
        let Some(mark) = file.mark else { return Ok(None) };
        let Some(found) = self.cache.find(pid, file, mark) else { return Ok(None) };
        let (id, r#type, entries) = (found.id, found.r#type, found.keeping.entries.clone());
        let Some(kind) = table::of_type(r#type) else { return Ok(None) };
        let mut keeping = Keeping::new(file, entries, mark.size);
        if !kind.holds(self, pid, file, &mut keeping)? {
            return Ok(None);
        }
        self.out.keeping.push(keeping);
        Ok(Some((id, r#type)))
    }
}
