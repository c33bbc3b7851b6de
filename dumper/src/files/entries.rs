//! The entry of each kind of open file.

use collector::obstacles::{OF_ITSELF, process_behind};
use collector::{OpenFile, Process};
use images::messages::{
    EventpollFileEntry, FifoEntry, FileEntry, FownEntry, GhostFileEntry, PipeDataEntry, PipeEntry,
    REMAP_GHOST, RegFileEntry, RemapFilePathEntry, SK_LISTEN, SkPacketEntry, Timeval, TtyFileEntry,
    fd_type,
};
use kernel::descriptors::epoll_polling;
use kernel::procfs::{Detail, FdInfo};
use kernel::sockets::has_error;
use nix::sys::stat::FileStat;

use super::classify::Kind;
use super::epoll::kernel_device;
use super::memory::with_socket;
use super::paths::{Found, is_terminal};
use super::problem::{Doing, Problem};
use super::survey::Survey;
use super::terminals::Terminal;
use super::{Ghost, epoll, events, inet_sockets, socket_options, terminals, unix_sockets};

const O_DIRECT: u32 = libc::O_DIRECT.cast_unsigned();
/// `O_TMPFILE` and the `O_DIRECTORY` that is part of it.
const O_TMPFILE: u32 = libc::O_TMPFILE.cast_unsigned();

fn is(stat: &FileStat, kind: u32) -> bool {
    stat.st_mode & libc::S_IFMT == kind
}

/// Whether a restore shall find the file as large as it was. A file that is only ever appended
/// to may have grown since.
fn size_matters(flags: u32) -> bool {
    let appended = libc::O_WRONLY | libc::O_APPEND;
    flags.cast_signed() & (libc::O_ACCMODE | libc::O_APPEND) != appended
}

impl Survey<'_> {
    /// The entry of something found by its path.
    pub(super) fn regular(
        &mut self,
        found: &Found,
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
        found: &Found,
        id: u32,
        flags: u32,
        pos: u64,
        fown: FownEntry,
    ) -> Result<(RegFileEntry, FileStat), Problem> {
        if process_behind(&found.name).is_some_and(|pid| self.known.contains(&pid)) {
            return Err(Problem::refused(OF_ITSELF, "close it before the checkpoint"));
        }
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
            return Err(Problem::refused(
                "it leads to the file of a Unix socket (O_PATH), which its socket may make anew",
                "close it before the checkpoint",
            ));
        }
        if found.ghost {
            self.ghost(found, id, &stat)?;
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
            identity: found.identity.filter(|_| !found.ghost),
            ..RegFileEntry::default()
        };
        Ok((entry, stat))
    }

    /// Notes that the file `id` is a ghost, and reads it when it is met first.
    fn ghost(&mut self, found: &Found, id: u32, stat: &FileStat) -> Result<(), Problem> {
        let next = self.ghost_ids.len() as u32 + 1;
        let name = (stat.st_dev, stat.st_ino);
        let ghost_id = *self.ghost_ids.entry(name).or_insert(next);
        self.out.remaps.push(RemapFilePathEntry {
            orig_id: id,
            remap_id: ghost_id,
            remap_type: Some(REMAP_GHOST),
        });
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
            atim: Some(time(stat.st_atime, stat.st_atime_nsec)),
            mtim: Some(time(stat.st_mtime, stat.st_mtime_nsec)),
            ..GhostFileEntry::default()
        };
        if !is(stat, libc::S_IFREG) {
            self.out.ghosts.push(Ghost { id: ghost_id, entry, pieces: Vec::new() });
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
        self.out.ghosts.push(Ghost { id: ghost_id, entry, pieces });
        Ok(())
    }

    pub(super) fn path_file(
        &mut self,
        pid: i32,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let found = self.find(pid, file)?;
        let fown = self.owner(pid, file)?;
        // Nothing else gives a directory somebody to signal.
        if file.mode & libc::S_IFMT == libc::S_IFDIR && fown.pid != 0 {
            return Err(Problem::refused(
                "changes in the directory are watched through it (F_NOTIFY), which is not supported",
                "close it before the checkpoint, or open it anew for other uses",
            ));
        }
        let reg = self.regular(&found, entry.id, file.flags, file.position, fown)?;
        Ok(FileEntry { r#type: fd_type::REG, reg: Some(reg), ..entry })
    }

    pub(super) fn device(
        &mut self,
        pid: i32,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let found = self.find(pid, file)?;
        let device = found.stat()?.st_rdev;
        if is_terminal(device) {
            return self.terminal(pid, file, &found, entry);
        }
        // null, zero, full, random, urandom: opened again they are what they were.
        if matches!((libc::major(device), libc::minor(device)), (1, 3 | 5 | 7..=9)) {
            return self.path_file(pid, file, entry);
        }
        Err(Problem::refused(
            format!(
                "character device {}:{} is not supported",
                libc::major(device),
                libc::minor(device)
            ),
            "close it before the checkpoint",
        ))
    }

    fn terminal(
        &mut self,
        pid: i32,
        file: &OpenFile,
        found: &Found,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let stat = found.stat()?;
        let terminal = Terminal::of(stat.st_rdev, self.context.shell_job)?;
        let fown = self.owner(pid, file)?;
        let regf_id = self.new_id();
        let reg = self.regular(found, regf_id, file.flags, file.position, fown)?;
        self.out.files.push(FileEntry {
            id: regf_id,
            r#type: fd_type::REG,
            reg: Some(reg),
            ..FileEntry::default()
        });
        if self.out.ttys.iter().all(|info| info.id != terminal.id()) {
            let fd = self.memory.borrow(pid, file.fd)?;
            let fd = std::os::fd::AsFd::as_fd(&fd);
            let info = terminals::info(terminal, fd, &stat, self.inventory)?;
            self.out.ttys.push(info);
        }
        let tty = TtyFileEntry {
            id: entry.id,
            tty_info_id: terminal.id(),
            flags: file.flags,
            fown,
            regf_id: Some(regf_id),
        };
        Ok(FileEntry { r#type: fd_type::TTY, tty: Some(tty), ..entry })
    }

    /// The contents of a pipe or fifo, by the first end that reads.
    pub(super) fn contents(
        &mut self,
        pid: i32,
        file: &OpenFile,
    ) -> Result<Option<(PipeDataEntry, Vec<u8>)>, Problem> {
        if file.flags.cast_signed() & libc::O_ACCMODE == libc::O_WRONLY {
            return Ok(None);
        }
        let wanted = self.frozen || self.to_keep;
        if wanted && !self.emptied.insert((file.device, file.inode)) {
            return Ok(None);
        }
        if self.frozen
            && let Some(contents) = self.kept.take_contents(file)
        {
            return Ok(Some(contents));
        }
        let tap = self.memory.tap(pid, file)?;
        if !wanted {
            return Ok(None);
        }
        let (capacity, contents) = tap.look(&mut self.scratch)?;
        let entry = PipeDataEntry {
            pipe_id: file.inode as u32,
            bytes: contents.len() as u32,
            size: Some(capacity),
        };
        Ok(Some((entry, contents)))
    }

    pub(super) fn pipe(
        &mut self,
        pid: i32,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        no_packets(file)?;
        let fown = self.owner(pid, file)?;
        let contents = self.contents(pid, file)?;
        self.out.pipes.extend(contents);
        let end = self.memory.borrow(pid, file.fd)?;
        let inode = socket_options::inode(std::os::fd::AsFd::as_fd(&end), 0o600)?;
        let pipe = PipeEntry {
            id: entry.id,
            pipe_id: file.inode as u32,
            flags: file.flags,
            fown,
            boot: self.context.joined.get(&file.inode).copied(),
            inode,
        };
        Ok(FileEntry { r#type: fd_type::PIPE, pipe: Some(pipe), ..entry })
    }

    pub(super) fn fifo(
        &mut self,
        pid: i32,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        no_packets(file)?;
        let regf_id = self.new_id();
        let path = FileEntry { id: regf_id, ..FileEntry::default() };
        let path = self.path_file(pid, file, path)?;
        self.out.files.push(path);
        let contents = self.contents(pid, file)?;
        self.out.fifos.extend(contents);
        let fifo = FifoEntry { id: entry.id, pipe_id: file.inode as u32, regf_id: Some(regf_id) };
        Ok(FileEntry { r#type: fd_type::FIFO, fifo: Some(fifo), ..entry })
    }

    pub(super) fn socket(
        &mut self,
        pid: i32,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let fown = self.owner(pid, file)?;
        let (frozen, strict) = (self.frozen, self.frozen || self.to_keep);
        let family = with_socket(self.memory, pid, file, socket_options::family)?;
        let others = if matches!(family.0, libc::AF_UNIX | libc::AF_INET | libc::AF_INET6) {
            let mut usual = std::mem::take(&mut self.memory.usual);
            let others =
                with_socket(self.memory, pid, file, |socket| usual.differences(socket, family));
            self.memory.usual = usual;
            others?
        } else {
            Vec::new()
        };
        // One that is about to be received is the frozen look's to judge.
        if strict
            && with_socket(self.memory, pid, file, |socket| {
                has_error(socket).doing("look for errors of")
            })?
        {
            return Err(Problem::refused(
                "an error waits in it that has not been received (SO_ERROR, MSG_ERRQUEUE)",
                "try again when it has been",
            ));
        }
        match family.0 {
            libc::AF_UNIX => {
                if frozen {
                    self.neighbours.load_one(file.inode as u32)?;
                } else {
                    self.neighbours.load()?;
                }
                let neighbours = &self.neighbours;
                let mut socket = with_socket(self.memory, pid, file, |socket| {
                    unix_sockets::entry(socket, file.inode, neighbours, strict)
                })?;
                if frozen {
                    let kind = socket.r#type.cast_signed();
                    self.unix_queue(pid, file, entry.id, kind, socket.state)?;
                }
                socket.opts.others = others;
                let usk = images::messages::UnixSkEntry {
                    id: entry.id,
                    flags: file.flags,
                    fown,
                    ..socket
                };
                Ok(FileEntry { r#type: fd_type::UNIXSK, usk: Some(Box::new(usk)), ..entry })
            }
            libc::AF_INET | libc::AF_INET6 => {
                let neighbours = &mut self.neighbours;
                let mut socket = with_socket(self.memory, pid, file, |socket| {
                    inet_sockets::entry(socket, family, file.inode, strict, || {
                        neighbours.udp_shutdown(file.inode as u32)
                    })
                })?;
                let groups = &mut self.neighbours.groups;
                socket.groups = with_socket(self.memory, pid, file, |socket| groups.of(socket))?;
                socket.opts.others = others;
                let isk = images::messages::InetSkEntry {
                    id: entry.id,
                    flags: file.flags,
                    fown,
                    ..socket
                };
                Ok(FileEntry { r#type: fd_type::INETSK, isk: Some(Box::new(isk)), ..entry })
            }
            other => Err(Problem::refused(
                format!("{} sockets are not supported yet", family_name(other)),
                "close it before the checkpoint",
            )),
        }
    }

    /// Takes down what is queued in a Unix socket of a kind (`SOCK_*`) and a state.
    pub(super) fn unix_queue(
        &mut self,
        pid: i32,
        file: &OpenFile,
        id_for: u32,
        kind: i32,
        state: u32,
    ) -> Result<(), Problem> {
        let neighbours = &self.neighbours;
        let queue = with_socket(self.memory, pid, file, |socket| {
            let sender = match kind {
                libc::SOCK_DGRAM => neighbours.sender(socket, file.inode as u32),
                _ => Vec::new(),
            };
            unix_sockets::queue(socket, kind, state, &sender)
        })?;
        let counted = file.mark.and_then(|mark| mark.size);
        let has_messages = kind != libc::SOCK_STREAM && state != SK_LISTEN;
        if has_messages && counted.is_some_and(|counted| counted != queue.len() as u64) {
            return Err(unix_sockets::empty_message());
        }
        self.out.queues.extend(queue.into_iter().map(|message| {
            let length = message.len() as u32;
            (SkPacketEntry { id_for, length, scm: Vec::new() }, message)
        }));
        Ok(())
    }

    pub(super) fn event(
        &mut self,
        process: &Process,
        file: &OpenFile,
        kind: Kind,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let fown = self.owner(process.pid, file)?;
        let dir = self.dir(process.pid)?;
        let mut info = FdInfo::read(&dir, file.fd).doing("read fdinfo of")?;
        if self.frozen && events::stands_still(&info) {
            let timer = self.memory.borrow(process.pid, file.fd)?;
            kernel::timerfd::catch_up(&timer).doing("count expirations of")?;
            info = FdInfo::read(&dir, file.fd).doing("read fdinfo of")?;
        }
        let (id, flags) = (entry.id, file.flags);
        Ok(match kind {
            Kind::Eventfd => FileEntry {
                r#type: fd_type::EVENTFD,
                efd: Some(events::eventfd(&info, id, flags, fown)?),
                ..entry
            },
            Kind::Signalfd => FileEntry {
                r#type: fd_type::SIGNALFD,
                sgfd: Some(events::signalfd(&info, id, flags, fown)?),
                ..entry
            },
            Kind::Timerfd => FileEntry {
                r#type: fd_type::TIMERFD,
                tfd: Some(events::timerfd(&info, id, flags, fown)?),
                ..entry
            },
            _ => {
                let watched = match &info.detail {
                    Detail::Epoll(entries) => &entries[..],
                    _ => &[],
                };
                // The numbers count in the frozen moment only: what is watched changes all
                // the time.
                let tfd = if self.frozen {
                    epoll::entries(process.pid, file.fd, watched, &process.files)?
                } else {
                    Vec::new()
                };
                let epoll = self.memory.borrow(process.pid, file.fd)?;
                let polling = epoll_polling(&epoll).doing("get parameters of")?;
                let polling = polling.map(|parameters| parameters.to_vec());
                let epfd = EventpollFileEntry { id, flags, fown, tfd, polling };
                FileEntry { r#type: fd_type::EVENTPOLL, epfd: Some(epfd), ..entry }
            }
        })
    }
}

/// Refuses an end of a pipe or fifo that writes packets.
fn no_packets(file: &OpenFile) -> Result<(), Problem> {
    if file.flags & O_DIRECT == 0 {
        return Ok(());
    }
    Err(Problem::refused(
        "pipes in packet mode (O_DIRECT) are not supported yet",
        "open the pipe without O_DIRECT",
    ))
}

fn family_name(family: i32) -> String {
    match family {
        libc::AF_NETLINK => "netlink".to_owned(),
        libc::AF_PACKET => "packet".to_owned(),
        libc::AF_VSOCK => "VM".to_owned(),
        libc::AF_ALG => "kernel crypto".to_owned(),
        libc::AF_BLUETOOTH => "Bluetooth".to_owned(),
        libc::AF_XDP => "XDP".to_owned(),
        other => format!("family {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_logs_do_not_matter() {
        let flags = |flags: i32| size_matters(flags.cast_unsigned());
        assert!(!flags(libc::O_WRONLY | libc::O_APPEND));
        assert!(flags(libc::O_RDWR | libc::O_APPEND));
        assert!(flags(libc::O_WRONLY));
        assert!(flags(libc::O_RDONLY));
    }
}
