//! Who holds what has no name, from /proc.
//!
//! It tells of processes only: what the kernel itself holds, and what is on its way in a message, is not
//! seen.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;

use ids::HostPid;
use kernel::kcmp;
use kernel::procfs::{self, Dir, FdInfo, FileStat, ProcFile, Stat};

use inventory::is_shared_anonymous;

use crate::holds::{Class, Ends, Held, Hold, is_candidate};
use crate::{Inventory, Process, VmFlags};

/// Text that stands behind the path of a file without a name.
const DELETED: &[u8] = b" (deleted)";

/// What is looked for.
struct Wanted {
    /// The texts of links to it.
    targets: HashSet<std::ffi::OsString>,
    /// The mapped files.
    mapped: HashSet<(u64, u64)>,
    /// Descriptors of the tree that only the kernel can compare with others, one of each description.
    anonymous: Vec<(HostPid, i32, u64)>,
}

/// What the processes of an inventory hold, and what is on its way to them, and who else does; and how many others may not be looked
/// into.
pub(crate) fn held(
    inventory: &Inventory,
    sent: &[crate::OpenFile],
) -> Result<(Vec<Held>, usize), procfs::Error> {
    let (mut held, mut unseen) = (Vec::new(), 0);
    let own = HostPid::own();
    let receiving = Process::with_files(own, sent.to_vec());
    let tree = || inventory.processes.values().chain([&receiving]);
    for process in tree() {
        of_tree(process, &mut held);
    }
    let wanted = Wanted::of(tree, &held);
    for pid in procfs::processes()? {
        if pid == own || inventory.processes.contains_key(&pid) {
            continue;
        }
        match of_stranger(pid, &wanted, &mut held) {
            Err(error) if error.is_denied() => unseen += 1,
            Err(error) if !error.is_gone() => return Err(error),
            _ => {}
        }
    }
    say_who_writes(&mut held);
    Ok((held, unseen))
}

fn class(mode: u32, target: &[u8], is_written: bool) -> Option<Class> {
    match mode & libc::S_IFMT {
        libc::S_IFIFO => Some(Class::Pipe),
        libc::S_IFSOCK => Some(Class::Socket),
        _ if target.starts_with(b"anon_inode:") => Some(Class::Anonymous),
        libc::S_IFREG if target.ends_with(DELETED) => Some(Class::File { is_written }),
        _ => None,
    }
}

const fn writes(flags: u32) -> bool {
    matches!(flags.cast_signed() & libc::O_ACCMODE, libc::O_WRONLY | libc::O_RDWR)
}

fn of_tree(process: &Process, held: &mut Vec<Held>) {
    for file in process.files.iter().filter(|file| is_candidate(file)) {
        let Some(class) = class(file.mode, file.target.as_bytes(), writes(file.flags)) else {
            continue;
        };
        held.push(Held {
            pid: process.pid,
            hold: Hold::Descriptor(file.fd),
            class,
            ends: Ends::of(file.flags),
            description: file.description,
            inode: (file.device, file.inode),
            peculiar: 0,
            is_program: false,
            hidden: crate::holds::Hidden::default(),
            references: None,
        });
    }
    for mapping in process.mappings.iter().filter(|mapping| mapping.inode != 0) {
        let name = mapping.name.as_bytes();
        if name.ends_with(DELETED) || is_shared_anonymous(name) {
            let both = VmFlags::SHARED.0 | VmFlags::MAY_WRITE.0;
            held.push(Held {
                pid: process.pid,
                hold: Hold::Mapping(mapping.start),
                class: Class::File { is_written: mapping.flags.contains(VmFlags(both)) },
                ends: Ends::default(),
                description: 0,
                inode: (mapping.device, mapping.inode),
                peculiar: 0,
                is_program: false,
                hidden: crate::holds::Hidden::default(),
                references: None,
            });
        }
    }
}

impl Wanted {
    fn of<'a, T: Iterator<Item = &'a Process>>(tree: impl Fn() -> T, held: &[Held]) -> Self {
        let files =
            || tree().flat_map(|process| process.files.iter().map(move |file| (process.pid, file)));
        let candidates = || files().filter(|(_, file)| is_candidate(file));
        let is_anonymous = |file: &crate::OpenFile| file.target.as_bytes().starts_with(b"anon_");
        let anonymous = candidates().filter(|(pid, file)| {
            is_anonymous(file) && file.lowest_holder() == Some((*pid, file.fd))
        });
        let mapped = held.iter().filter(|held| matches!(held.class, Class::File { .. }));
        Self {
            targets: candidates().map(|(_, file)| file.target.clone()).collect(),
            mapped: mapped.map(|held| held.inode).collect(),
            anonymous: anonymous.map(|(pid, file)| (pid, file.fd, file.description)).collect(),
        }
    }

    /// Whether a link of this text may lead to something that is looked for. A deleted file's text is
    /// that of the name that it was opened by.
    fn may_be(&self, target: &std::ffi::OsStr) -> bool {
        self.targets.contains(target)
            || !self.mapped.is_empty() && target.as_bytes().ends_with(DELETED)
    }
}

fn of_stranger(pid: HostPid, wanted: &Wanted, held: &mut Vec<Held>) -> Result<(), procfs::Error> {
    let dir = Dir::open(pid)?;
    if Stat::read(&dir)?.is_kernel_thread() {
        return Ok(());
    }
    if !wanted.targets.is_empty() || !wanted.mapped.is_empty() {
        for fd in dir.descriptors()? {
            let link = format!("fd/{fd}");
            let Ok(target) = dir.link(&link) else { continue };
            if !wanted.may_be(&target) {
                continue;
            }
            let Ok(stat) = dir.stat_behind(&link) else { continue };
            held.extend(of_descriptor(&dir, (pid, fd), target.as_bytes(), stat, wanted));
        }
    }
    if !wanted.mapped.is_empty() {
        let mut text = Vec::new();
        dir.read("maps", &mut text)?;
        for map in procfs::maps(&text).flatten() {
            let inode = (map.device, map.inode);
            if wanted.mapped.contains(&inode) {
                let is_written = map.permissions[1] == b'w' && map.permissions[3] == b's';
                held.push(Held {
                    pid,
                    hold: Hold::Mapping(map.start),
                    class: Class::File { is_written },
                    ends: Ends::default(),
                    description: 0,
                    inode,
                    peculiar: 0,
                    is_program: false,
                    hidden: crate::holds::Hidden::default(),
                    references: None,
                });
            }
        }
    }
    Ok(())
}

fn of_descriptor(
    dir: &Dir,
    (pid, fd): (HostPid, i32),
    target: &[u8],
    stat: FileStat,
    wanted: &Wanted,
) -> Option<Held> {
    let flags = FdInfo::read(dir, fd).ok()?.flags;
    let class = class(stat.mode, target, writes(flags))?;
    let mut description = 0;
    match class {
        Class::Anonymous => {
            let same = |&&(other, number, _): &&(HostPid, i32, u64)| {
                kcmp::files((other, number), (pid, fd)) == Ok(Ordering::Equal)
            };
            description = wanted.anonymous.iter().find(same)?.2;
        }
        // A socket has one description; of the others it does not matter.
        Class::File { .. } | Class::Named | Class::Socket | Class::Pipe => {}
    }
    Some(Held {
        pid,
        hold: Hold::Descriptor(fd),
        class,
        ends: Ends::of(flags),
        description,
        inode: (stat.device, stat.inode),
        peculiar: 0,
        is_program: false,
        hidden: crate::holds::Hidden::default(),
        references: None,
    })
}

/// A file is written for all who hold it if it is by one of them.
fn say_who_writes(held: &mut [Held]) {
    let written = held.iter().filter(|held| held.class == Class::File { is_written: true });
    let written: HashSet<(u64, u64)> = written.map(|held| held.inode).collect();
    for held in held {
        if matches!(held.class, Class::File { .. }) {
            held.class = Class::File { is_written: written.contains(&held.inode) };
        } else if held.class == Class::Socket {
            held.description = held.inode.1;
        }
    }
}
