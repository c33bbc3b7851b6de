//! What is found again by its path: regular files, directories, symbolic links, `O_PATH` handles; and
//! those of them that have been deleted (*ghosts*), which come with their contents.

use std::collections::HashMap;

use collector::{OpenFile, Process};
use ids::HostPid;
use images::id_map::owner_is_known;
use images::messages::{
    FileEntry, FownEntry, GhostChunkEntry, GhostFileEntry, REMAP_GHOST, REMAP_PROCFS, RegFileEntry,
    RemapFilePathEntry, Timeval, fd_type,
};
use images::{Error, ImageWriter, names};
use nix::sys::stat::FileStat;
use support::files::{of_process_file, process_behind};

use super::Captured;
use super::beside::Part;
use super::file_cache::{Keeping, STATUS};
use super::file_kind::FileKind;
use super::link_remaps::{Found, RemappedFiles};
use super::paths::FileByPath;
use super::problem::Problem;
use super::survey::Survey;
use kernel::mounts::kernel_device;

/// `O_TMPFILE` and the `O_DIRECTORY` that is part of it.
const O_TMPFILE: u32 = libc::O_TMPFILE.cast_unsigned();

/// A file that is found by its path.
#[derive(Debug)]
pub(super) struct Regular;

/// A deleted file with its contents.
#[derive(Debug)]
struct Ghost {
    id: u32,
    entry: GhostFileEntry,
    /// What is in it, by offset; between the pieces are holes.
    pieces: Vec<(u64, Vec<u8>)>,
}

/// The deleted files of a tree.
#[derive(Debug, Default)]
struct Ghosts {
    /// Their numbers, by device and inode.
    numbers: HashMap<(u64, u64), u32>,
    remaps: Vec<RemapFilePathEntry>,
    files: Vec<Ghost>,
}

impl Part for Ghosts {}

impl FileKind for Regular {
    fn types(&self) -> &'static [u32] {
        &[fd_type::REG]
    }

    fn is(&self, file: &OpenFile) -> bool {
        use std::os::unix::ffi::OsStrExt;
        file.target.as_bytes().starts_with(b"/")
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        survey.path_file(process.pid, file, entry)
    }

    fn holds(
        &self,
        survey: &mut Survey<'_>,
        pid: HostPid,
        file: &OpenFile,
        keeping: &mut Keeping,
    ) -> Result<bool, Problem> {
        if keeping.size.is_none() {
            keeping.size = Some(survey.find(pid, file)?.stat()?.st_size.cast_unsigned());
        }
        Ok(true)
    }

    fn is_steady(&self, _entry: &FileEntry, size: Option<u64>) -> bool {
        size.is_some()
    }

    fn update(&self, entry: &mut FileEntry, keeping: &Keeping) {
        let Some(reg) = &mut entry.reg else { return };
        if (reg.flags ^ keeping.flags) & STATUS != 0 {
            reg.flags ^= STATUS;
        }
        reg.pos = keeping.position;
        reg.mode = Some(keeping.mode);
        reg.size = reg.size.map(|size| keeping.size.unwrap_or(size));
    }

    fn encode(&self, captured: &Captured, writer: &ImageWriter) -> Result<(), Error> {
        let ghosts = captured.beside.get::<Ghosts>();
        let linked = captured.beside.get::<RemappedFiles>();
        let remaps = ghosts.iter().flat_map(|ghosts| &ghosts.remaps);
        let remaps = remaps.chain(linked.iter().flat_map(|linked| &linked.remaps));
        let remaps: Vec<RemapFilePathEntry> = remaps.copied().collect();
        if !remaps.is_empty() {
            writer.write_all(&names::remap_fpath(), &remaps)?;
        }
        for ghost in ghosts.iter().flat_map(|ghosts| &ghosts.files) {
            let mut sink = writer.image(&names::ghost_file(ghost.id))?;
            let mut entry = ghost.entry.clone();
            captured.ids.enter(&mut entry);
            owner_is_known(entry.uid, entry.gid).map_err(|source| Error::Io {
                operation: "write a deleted file into",
                name: format!("ghost-file-{:x}.img", ghost.id),
                source,
            })?;
            sink.put(&entry)?;
            for (off, bytes) in &ghost.pieces {
                if ghost.entry.chunks() {
                    sink.put_as(&GhostChunkEntry { len: bytes.len() as u64, off: *off })?;
                }
                sink.payload(bytes)?;
            }
            sink.finish()?;
        }
        Ok(())
    }
}

fn is(stat: &FileStat, kind: u32) -> bool {
    stat.st_mode & libc::S_IFMT == kind
}

/// Whether a restore shall find the file as large as it was. A file that is only ever appended
/// to may have grown since.
fn size_matters(flags: u32) -> bool {
    let appended = libc::O_WRONLY | libc::O_APPEND;
    flags.cast_signed() & (libc::O_ACCMODE | libc::O_APPEND) != appended
}

/// Whether an open made a file without a name that may be given one still. The flags alone do not tell: they
/// are the same with `O_EXCL`, which forbids it for good, and when the file has had a name meanwhile. Of what
/// is not known the safe side is taken.
fn makes_a_linkable_file(file: &OpenFile) -> bool {
    file.linkable == Some(true) && file.flags & O_TMPFILE == O_TMPFILE
}

/// Whether a file is of the `/proc` that shows the pid namespace of the dumper.
fn is_of_our_processes(stat: &FileStat) -> bool {
    nix::sys::stat::stat("/proc").is_ok_and(|own| own.st_dev == stat.st_dev)
}

/// The name that an open file has where it is left to the outside: of its kind, with two numbers.
pub(super) fn external_name(kind: &str, first: u64, second: u64) -> String {
    format!("{kind}[{first:x}:{second:x}]")
}

impl Survey<'_> {
    /// The entry of a file that is left to the outside, if it is one: it has its name there in the place of a path.
    fn external(
        &mut self,
        pid: HostPid,
        file: &OpenFile,
        entry: &FileEntry,
    ) -> Result<Option<RegFileEntry>, Problem> {
        if self.context.external_files.is_empty() {
            return Ok(None);
        }
        let mount = self.fdinfo(pid, file)?.mount;
        let name = external_name("file", mount.cast_unsigned().into(), file.inode);
        if !self.context.external_files.contains(&name) {
            return Ok(None);
        }
        Ok(Some(RegFileEntry {
            id: entry.id,
            flags: file.flags,
            pos: file.position,
            fown: self.owner(pid, file)?,
            name: name.into_bytes(),
            ext: Some(true),
            mode: Some(file.mode),
            ..RegFileEntry::default()
        }))
    }

    /// The entry of something found by its path.
    pub(super) fn regular(
        &mut self,
        found: &FileByPath,
        id: u32,
        flags: u32,
        pos: u64,
        fown: FownEntry,
    ) -> Result<RegFileEntry, Problem> {
        Ok(self.regular_now(found, id, flags, pos, fown)?.0)
    }

    /// The entry of something found by its path, and what it was when that was made.
    pub(super) fn regular_now(
        &mut self,
        found: &FileByPath,
        id: u32,
        flags: u32,
        pos: u64,
        fown: FownEntry,
    ) -> Result<(RegFileEntry, FileStat), Problem> {
        // What it is when it is frozen is asked then.
        let stat = if self.frozen { found.stat()? } else { found.stat_of_then };
        let now;
        let found = if self.frozen && found.is_outdated(&stat) {
            now = found.anew(self.context)?;
            &now
        } else {
            found
        };
        if is(&stat, libc::S_IFSOCK) {
            return Err(Problem::Refused(support::files::SOCKET_FILE));
        }
        let is_ghost = match &found.lost {
            Some(lost) => match self.link_remap(found, lost, id, &stat)? {
                Found::Linked(link) => {
                    let entry = |link: RegFileEntry| FileEntry {
                        id: link.id,
                        r#type: fd_type::REG,
                        reg: Some(link),
                        ..FileEntry::default()
                    };
                    self.out.files.extend(link.map(entry));
                    false
                }
                Found::Deleted => true,
            },
            None => found.ghost,
        };
        if is_ghost {
            self.ghost(found, id, &stat)?;
        }
        // Whether it has that name still, is for the frozen look to say.
        self.to_keep &= !found.renamed;
        // Of a process of the tree, or one that is there for a moment, nobody knows the number in another pid namespace.
        let about = process_behind(&found.name);
        if self.numbers.are_inside()
            && about.is_some_and(|pid| found.about_dead.is_some() || self.known.contains(&pid))
            && is_of_our_processes(&stat)
            || about.is_some() && self.context.views.shown_pids(stat.st_dev).is_some()
        {
            return Err(Problem::Refused(support::files::OTHER_NUMBERS));
        }
        if let Some(pid) = found.about_dead {
            self.out.beside.of::<Ghosts>().remaps.push(RemapFilePathEntry {
                orig_id: id,
                remap_id: pid.unsigned(),
                remap_type: Some(REMAP_PROCFS),
            });
            // Whether it is so is the frozen look's to tell.
            self.to_keep = false;
        }
        let regular = is(&stat, libc::S_IFREG);
        let entry = RegFileEntry {
            id,
            // The file exists when it is opened again.
            flags: if regular && flags & O_TMPFILE == O_TMPFILE {
                flags & !O_TMPFILE
            } else {
                flags
            },
            pos,
            fown,
            name: found.name.clone(),
            size: (regular && size_matters(flags)).then_some(stat.st_size.cast_unsigned()),
            mode: Some(stat.st_mode),
            identity: found.identity.filter(|_| !is_ghost),
            mnt_id: found.mount,
            ..RegFileEntry::default()
        };
        Ok((entry, stat))
    }

    /// Notes that the file `id` is a ghost, and reads it when it is met first.
    fn ghost(&mut self, found: &FileByPath, id: u32, stat: &FileStat) -> Result<(), Problem> {
        let ghosts = self.out.beside.of::<Ghosts>();
        let next = ghosts.numbers.len() as u32 + 1;
        let name = (stat.st_dev, stat.st_ino);
        let ghost_id = *ghosts.numbers.entry(name).or_insert(next);
        ghosts.remaps.push(RemapFilePathEntry {
            orig_id: id,
            remap_id: ghost_id,
            remap_type: Some(REMAP_GHOST),
        });
        // Its number is the frozen look's to give.
        self.to_keep = false;
        let flags = match is(stat, libc::S_IFREG) || is(stat, libc::S_IFDIR) {
            true => found.flags()?,
            false => None,
        };
        if ghost_id != next || !self.frozen {
            return Ok(());
        }
        let time = |seconds: i64, nanoseconds: i64| Timeval {
            tv_sec: seconds.cast_unsigned(),
            tv_usec: (nanoseconds / 1000).cast_unsigned(),
        };
        let entry = GhostFileEntry {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode,
            dev: Some(kernel_device(stat.st_dev)),
            ino: Some(stat.st_ino),
            rdev: is(stat, libc::S_IFCHR).then_some(stat.st_rdev as u32),
            symlnk_target: is(stat, libc::S_IFLNK).then(|| found.leads_to()).transpose()?,
            atim: Some(time(stat.st_atime, stat.st_atime_nsec)),
            mtim: Some(time(stat.st_mtime, stat.st_mtime_nsec)),
            attributes: found.attributes()?,
            atime_nanoseconds: Some(stat.st_atime_nsec as u32),
            mtime_nanoseconds: Some(stat.st_mtime_nsec as u32),
            flags,
            ..GhostFileEntry::default()
        };
        if !is(stat, libc::S_IFREG) {
            self.out.beside.of::<Ghosts>().files.push(Ghost {
                id: ghost_id,
                entry,
                pieces: Vec::new(),
            });
            return Ok(());
        }
        let size = stat.st_size.cast_unsigned();
        let pieces = found.pieces(size, self.context.ghost_limit, self.is_late)?;
        let whole = matches!(&pieces[..], [(0, bytes)] if bytes.len() as u64 == size);
        // A file with holes is written in pieces, so that it has them again.
        let entry = if whole || size == 0 {
            entry
        } else {
            GhostFileEntry { chunks: Some(true), size: Some(size), ..entry }
        };
        self.out.beside.of::<Ghosts>().files.push(Ghost { id: ghost_id, entry, pieces });
        Ok(())
    }

    /// Whether a number in the tree's pid namespace is that of a process of the tree.
    pub(super) fn is_of_tree(&self, number: HostPid) -> bool {
        let is_it = |known: &HostPid| {
            self.numbers.image(*known).is_some_and(|image| image.get() == number.get())
        };
        match self.numbers.are_inside() {
            true => self.known.iter().any(is_it),
            false => self.known.contains(&number),
        }
    }

    pub(super) fn path_file(
        &mut self,
        pid: HostPid,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        if let Some(reg) = self.external(pid, file, &entry)? {
            return Ok(FileEntry { r#type: fd_type::REG, reg: Some(reg), ..entry });
        }
        let found = self.find(pid, file)?;
        // It is opened when the processes are there, whomever it is about.
        if self.receiver.is_some() && process_behind(&found.name).is_some() {
            return Err(Problem::Refused(support::sockets::NOT_SENT));
        }
        let about = process_behind(&found.name).filter(|about| self.is_of_tree(*about));
        let holder = self.numbers.image(pid).and_then(|pid| HostPid::new(pid.get()));
        let refusal = about.zip(holder);
        let refusal =
            refusal.and_then(|(about, holder)| of_process_file(&found.name, about, holder));
        if let Some(refusal) = refusal {
            return Err(Problem::Refused(refusal));
        }
        let fown = self.owner(pid, file)?;
        // Nothing else gives a directory somebody to signal.
        if file.mode & libc::S_IFMT == libc::S_IFDIR && fown.pid != 0 {
            return Err(Problem::Refused(support::files::WATCHED_DIRECTORY));
        }
        let mut reg = self.regular(&found, entry.id, file.flags, file.position, fown)?;
        reg.unnamed = makes_a_linkable_file(file).then_some(true);
        Ok(FileEntry { r#type: fd_type::REG, reg: Some(reg), ..entry })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_linkable_is_restored_so() {
        let file = |linkable, flags| OpenFile {
            fd: 3,
            close_on_exec: false,
            description: 1,
            position: 0,
            flags,
            mode: libc::S_IFREG,
            device: 1,
            inode: 7,
            target: "/tmp/#7 (deleted)".into(),
            owned: None,
            locked: None,
            linkable,
            uncorked: false,
            terminal: None,
            mark: None,
        };
        assert!(makes_a_linkable_file(&file(Some(true), O_TMPFILE | 2)));
        assert!(!makes_a_linkable_file(&file(Some(true), 2)), "opened again by another open");
        assert!(!makes_a_linkable_file(&file(Some(false), O_TMPFILE | 2)), "O_EXCL");
        assert!(!makes_a_linkable_file(&file(None, O_TMPFILE | 2)), "not known");
    }

    #[test]
    fn sizes_of_logs_do_not_matter() {
        let flags = |flags: i32| size_matters(flags.cast_unsigned());
        assert!(!flags(libc::O_WRONLY | libc::O_APPEND));
        assert!(flags(libc::O_RDWR | libc::O_APPEND));
        assert!(flags(libc::O_WRONLY));
        assert!(flags(libc::O_RDONLY));
    }
}
