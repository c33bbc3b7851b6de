//! Files on their way are found in the queues of Unix sockets, and get their entries.
//!
//! A look at a message gives whoever looks
//! descriptors of his own for them (`MSG_PEEK`), so they are read as those of a process are, which is the
//! dumper itself. One that is the same open file as a descriptor of the tree, or as another on its way, has
//! the entry of that one; sockets on their way have queues of their own, and so on.
//!
//! Of a running target only the first message of a queue can be looked at: to see more the peek offset has to
//! be set, which its own looks use. What is behind it is told by the count that the kernel has of them.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use collector::{Inventory, OpenFile, Process};
use ids::HostPid;
use kernel::kcmp;
use kernel::procfs::{Dir, FdInfo};
use kernel::sockets::option;
use libc::{SO_ACCEPTCONN, SOL_SOCKET};

use super::Error;
use super::file_reference::FileReference;
use super::held::{HeldFiles, with_socket};
use super::in_flight::{InFlight, Queued, Receiver};
use super::problem::{Doing, Problem};
use super::queues::{self, Message};
use super::socket_options::family;
use super::survey::{AT_ONCE, Survey, has_table, is_alive};
use super::suspects::Suspects;

/// What is on its way in the sockets of a tree: all, if it stands still.
pub(super) fn gather(
    inventory: &Inventory,
    held: &mut HeldFiles,
    is_late: Option<&dyn Fn() -> bool>,
) -> Result<InFlight, Problem> {
    let own = HostPid::own();
    let dir = Dir::open(own).doing("open the process of")?;
    let frozen = is_late.is_some();
    let mut gatherer = Gatherer {
        dir,
        frozen,
        seen: HashSet::new(),
        sockets: Vec::new(),
        text: Vec::new(),
        found: InFlight::default(),
    };
    let mut looked = 0;
    let alive = inventory.processes.values().filter(|process| is_alive(process));
    for process in alive.filter(|process| has_table(process)) {
        for file in process.files.iter().filter(|file| may_wait(file)) {
            looked += 1;
            if looked % AT_ONCE == 0 && is_late.is_some_and(|is_late| is_late()) {
                return Err(Problem::TooLate);
            }
            if !gatherer.seen.insert(file.inode) {
                continue;
            }
            let receiver = (process.pid, file.fd);
            let done = with_socket(held, process.pid, file, |socket| {
                gatherer.look(socket, file.inode, receiver)
            });
            match done {
                Err(Problem::Gone) if !frozen => {}
                done => done?,
            }
            gatherer.look_at_sockets()?;
        }
    }
    Ok(gatherer.found)
}

/// Whether a file may have messages that wait: it is a socket, and no mark says that its queue is empty.
fn may_wait(file: &OpenFile) -> bool {
    let is_handle = file.flags & libc::O_PATH.cast_unsigned() != 0;
    file.mode & libc::S_IFMT == libc::S_IFSOCK
        && !is_handle
        && file.mark.is_none_or(|mark| mark.size != Some(0))
}

struct Gatherer {
    /// Our own process.
    dir: Dir,
    frozen: bool,
    /// Inodes of sockets that have been looked into.
    seen: HashSet<u64>,
    /// Sockets on their way that have not: places among the files.
    sockets: Vec<usize>,
    text: Vec<u8>,
    found: InFlight,
}

impl Gatherer {
    /// Looks into a socket.
    fn look(
        &mut self,
        socket: BorrowedFd<'_>,
        inode: u64,
        receiver: Receiver,
    ) -> Result<(), Problem> {
        let (family, kind, _) = family(socket)?;
        let listens = option(socket, SOL_SOCKET, SO_ACCEPTCONN).doing("look at")? != 0;
        if family != libc::AF_UNIX || listens {
            return Ok(());
        }
        if !self.frozen {
            let counted = self.counted(socket)?;
            if counted > 0 {
                let files = queues::first_files(socket)?;
                self.found.is_partial |= counted > files.len();
                self.add(files, receiver)?;
            }
            return Ok(());
        }
        let queue = match queues::read(socket, kind) {
            Ok(messages) => {
                let add = |message: Message| {
                    let files = self.add(message.files, receiver)?;
                    let Message { bytes, name, sender, .. } = message;
                    Ok(Queued { bytes, name, sender, files })
                };
                Ok(messages.into_iter().map(add).collect::<Result<_, Problem>>()?)
            }
            Err(problem) => Err(problem),
        };
        self.found.queues.insert(inode, queue);
        Ok(())
    }

    /// Looks into the sockets on their way that have been found, and those in there.
    fn look_at_sockets(&mut self) -> Result<(), Problem> {
        while let Some(place) = self.sockets.pop() {
            let (file, receiver) = &self.found.files[place];
            let (inode, receiver) = (file.inode, *receiver);
            let held = &self.found.held[place];
            let socket = held.try_clone().doing("look at")?;
            self.look(socket.as_fd(), inode, receiver)?;
        }
        Ok(())
    }

    /// How many descriptors are on their way to a socket.
    fn counted(&mut self, socket: BorrowedFd<'_>) -> Result<usize, Problem> {
        let info = FdInfo::read_with(&self.dir, socket.as_raw_fd(), &mut self.text);
        Ok(info.doing("read fdinfo of")?.descriptors_queued as usize)
    }

    /// Adds files that travel with a message.
    fn add(&mut self, files: Vec<OwnedFd>, receiver: Receiver) -> Result<Range<usize>, Problem> {
        let first = self.found.files.len();
        for fd in files {
            let number = fd.as_raw_fd();
            let file = collector::proc_source::open_file(&self.dir, number, &mut self.text);
            let file = file.doing("look at a file on its way to")?.ok_or(Problem::Gone)?;
            let description = OpenFile::description_of(HostPid::own(), number);
            let file = OpenFile { description, ..file };
            if file.mode & libc::S_IFMT == libc::S_IFSOCK
                && file.flags & libc::O_PATH.cast_unsigned() == 0
            {
                self.found.sockets.insert(file.inode as u32);
                if self.seen.insert(file.inode) {
                    self.sockets.push(self.found.files.len());
                }
            }
            self.found.files.push((file, receiver));
            self.found.held.push(fd);
        }
        Ok(first..self.found.files.len())
    }
}

/// An open file that has been met: where it is open, and id and type of its entry; none for what is refused.
type Met = ((HostPid, i32), Option<(u32, u32)>);

/// Open files by device and inode, each group in the kernel's order.
struct Known(HashMap<(u64, u64), Vec<Met>>);

impl Known {
    /// Those of a tree that may be the same as one of `files`.
    fn of(survey: &Survey<'_>, files: &[OpenFile]) -> Result<Self, Problem> {
        let mut known: HashMap<(u64, u64), Vec<Met>> =
            files.iter().map(|file| ((file.device, file.inode), Vec::new())).collect();
        for process in survey.inventory.processes.values() {
            for file in &process.files {
                let place = (process.pid, file.fd);
                if file.lowest_holder() == Some(place)
                    && let Some(group) = known.get_mut(&(file.device, file.inode))
                {
                    group.push((place, survey.entry_of(file)));
                }
            }
        }
        for group in known.values_mut() {
            let mut failed = None;
            group.sort_by(|(one, _), (other, _)| {
                kcmp::files(*one, *other).unwrap_or_else(|errno| {
                    failed = Some(errno);
                    Ordering::Equal
                })
            });
            failed.map_or(Ok(()), Err).doing("compare open files of")?;
        }
        Ok(Self(known))
    }

    /// The group of a file that process `pid` has open, and its place there: where it is, or belongs.
    fn find(
        &mut self,
        pid: HostPid,
        file: &OpenFile,
    ) -> Result<(&mut Vec<Met>, Result<usize, usize>), Problem> {
        let group = self.0.entry((file.device, file.inode)).or_default();
        let mut failed = None;
        let place = group.binary_search_by(|(one, _)| {
            kcmp::files(*one, (pid, file.fd)).unwrap_or_else(|errno| {
                failed = Some(errno);
                Ordering::Equal
            })
        });
        failed.map_or(Ok(()), Err).doing("compare open files of")?;
        Ok((group, place))
    }
}

impl Survey<'_> {
    /// Gives the files on their way their entries, when all descriptors have theirs.
    pub(super) fn on_their_way(&mut self, suspects: &Suspects) -> Result<(), Error> {
        let (sent, receivers) = self.in_flight.as_process();
        if sent.files.is_empty() {
            return Ok(());
        }
        let mut known = Known::of(self, &sent.files).map_err(in_queues)?;
        let mut ids = Vec::with_capacity(sent.files.len());
        for (nth, (file, (pid, fd))) in sent.files.iter().zip(receivers).enumerate() {
            if nth % AT_ONCE == 0 {
                self.in_time()?;
            }
            let (group, place) = known.find(sent.pid, file).map_err(in_queues)?;
            let entry = match place {
                Ok(index) => group[index].1,
                Err(index) => {
                    self.receiver = Some(pid);
                    let described = self.sent_file(&sent, file, suspects);
                    self.receiver = None;
                    let place = FileReference::Queue(fd);
                    let entry = self.settle(pid, place, &file.target, described)?;
                    group.insert(index, ((sent.pid, file.fd), entry));
                    entry
                }
            };
            ids.push(entry.map_or(0, |(id, _)| id));
        }
        super::unix_sockets::address(&mut self.out.beside, &ids);
        Ok(())
    }

    /// The entry of a file that only messages have.
    fn sent_file(
        &mut self,
        sent: &Process,
        file: &OpenFile,
        suspects: &Suspects,
    ) -> Result<(u32, u32), Problem> {
        if suspects.contains(file) && !self.fdinfo(sent.pid, file)?.locks.is_empty() {
            return Err(Problem::Refused(support::sockets::LOCKED_ON_ITS_WAY));
        }
        self.file(sent, file)
    }

    /// Id and type of the entry of a file that a process of the tree has open.
    fn entry_of(&self, file: &OpenFile) -> Option<(u32, u32)> {
        let (holder, fd) = file.lowest_holder()?;
        let entries = self.out.tables.get(self.tables.get(&holder)?)?;
        let index = entries.binary_search_by_key(&fd.cast_unsigned(), |entry| entry.fd).ok()?;
        entries.get(index).map(|entry| (entry.id, entry.r#type))
    }
}

/// What went wrong with a look into the queues of sockets.
pub(super) fn in_queues(problem: Problem) -> Error {
    let (operation, source) = match problem {
        Problem::TooLate => return Error::TooLate,
        Problem::Kernel { operation, source } => (operation, source),
        _ => ("find", std::io::Error::from_raw_os_error(libc::ENOENT)),
    };
    Error::Kernel { operation: format!("{operation} a Unix socket"), source }
}
