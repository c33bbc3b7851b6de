//! `/proc/PID/fdinfo/N`: what the kernel tells of one descriptor.

use ids::HostPid;

use super::parse::{dec, hex, hex_device, kernel_device, key_value, lines, oct, split_once, words};
use super::{Dir, Error, Malformed};

/// What every descriptor has, and what its kind adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FdInfo {
    /// File position. (The kernel prints a signed number; positions beyond 2^63 keep their bits.)
    pub position: u64,
    /// `O_*` flags, `O_CLOEXEC` among them when the descriptor has it.
    pub flags: u32,
    /// Mount, as in mountinfo.
    pub mount: i32,
    /// Inode (kernel 5.14 and later).
    pub inode: Option<u64>,
    /// Index of the terminal behind a `ptmx`.
    pub tty_index: Option<u32>,
    /// Of a Unix socket: how many descriptors the messages in its queue bring (Linux 5.10).
    pub descriptors_queued: u32,
    /// Locks that this process holds through this file.
    pub locks: Vec<Lock>,
    /// What the kind of file adds.
    pub detail: Detail,
}

/// What the kind of file adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Nothing. (An epoll with no entries and an inotify with no watches say nothing either.)
    #[default]
    None,
    /// `eventfd`.
    Eventfd {
        /// The counter.
        count: u64,
        /// The kernel's number for it (kernel 5.2 and later).
        id: Option<u32>,
        /// `EFD_SEMAPHORE` (kernel 6.5 and later tell).
        semaphore: Option<bool>,
    },
    /// `epoll`, by entry.
    Epoll(Vec<EpollEntry>),
    /// `signalfd`.
    Signalfd {
        /// The signals it takes, signal 1 at bit 0.
        mask: u64,
    },
    /// `timerfd`.
    Timerfd(TimerSetting),
    /// `inotify`, by watch.
    Inotify(Vec<InotifyWatch>),
    /// `fanotify`.
    Fanotify {
        /// `FAN_*` flags of `fanotify_init`.
        flags: u32,
        /// `O_*` flags of the files it opens.
        event_flags: u32,
        /// The marks.
        marks: Vec<FanotifyMark>,
    },
    /// `pidfd`.
    Pidfd(PidfdTarget),
    /// `io_uring`.
    IoUring {
        /// The operations of requests that wait for something to happen.
        waiting: Vec<u32>,
    },
    /// `userfaultfd`.
    Userfaultfd,
    /// A map, program or link of BPF.
    Bpf,
}

/// One entry of an epoll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpollEntry {
    /// Descriptor number it was added under.
    pub fd: i32,
    /// `EPOLL*` events and flags.
    pub events: u32,
    /// User data.
    pub data: u64,
    /// Position of the file (kernel 4.13 and later, as the next two).
    pub position: u64,
    /// Inode of the file.
    pub inode: u64,
    /// Device of the file, as `st_dev` encodes it.
    pub device: u64,
}

/// State of a timerfd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerSetting {
    /// `CLOCK_*`.
    pub clock: i32,
    /// Expirations not yet read.
    pub ticks: u64,
    /// `TFD_TIMER_*` flags of the last setting.
    pub settime_flags: u32,
    /// Time until the next expiration: seconds, nanoseconds. (The kernel prints what is left, also
    /// for absolute timers.)
    pub value: (i64, i64),
    /// Period: seconds, nanoseconds.
    pub interval: (i64, i64),
}

/// One watch of an inotify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InotifyWatch {
    /// Watch descriptor.
    pub wd: i32,
    /// Inode of what is watched.
    pub inode: u64,
    /// Device of what is watched, as `st_dev` encodes it.
    pub device: u64,
    /// `IN_*` events.
    pub mask: u32,
    /// Type of the file handle, for `open_by_handle_at`; 0 when the kernel gives none.
    pub handle_type: u32,
    /// The file handle's bytes.
    pub handle: Vec<u8>,
}

/// One mark of a fanotify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FanotifyMark {
    /// Inode, for a mark on a file.
    pub inode: Option<u64>,
    /// Mount, for a mark on a mount.
    pub mount: Option<i32>,
    /// Device of the file or file system, as `st_dev` encodes it.
    pub device: Option<u64>,
    /// `FAN_MARK_*` flags.
    pub flags: u32,
    /// `FAN_*` events.
    pub mask: u64,
    /// Ignored events.
    pub ignored: u64,
    /// Type of the file handle of a mark on a file, for `open_by_handle_at`; 0 when the kernel gives none.
    pub handle_type: u32,
    /// The file handle's bytes.
    pub handle: Vec<u8>,
}

/// How a lock was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockKind {
    /// `fcntl(F_SETLK)`.
    Posix,
    /// `fcntl(F_OFD_SETLK)`.
    OpenFileDescription,
    /// `flock`.
    Flock,
    /// `fcntl(F_SETLEASE)`, also one that is being broken.
    Lease,
    /// A delegation, of a file server.
    Delegation,
    /// Something that this program does not know.
    Other,
}

/// Whom a pidfd names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidfdTarget {
    /// A task that is there.
    Task(HostPid),
    /// One that has no number in the reader's pid namespace.
    Elsewhere,
    /// One that has ended and been waited for.
    Ended,
}

/// A lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lock {
    /// How it was taken.
    pub kind: LockKind,
    /// For writing, that is exclusive (else for reading, or for nothing: a lease given up).
    pub write: bool,
    /// For reading, that is shared.
    pub read: bool,
    /// A mandatory lock (Linux before 5.15), or for `flock` a share reservation.
    pub mandatory: bool,
    /// A lease that is being broken.
    pub breaking: bool,
    /// Who holds it; `None` for a file description's lock, or outside of the reader's pid namespace.
    pub pid: Option<HostPid>,
    /// Device, as `st_dev` encodes it.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// First byte.
    pub start: u64,
    /// Last byte, `None` for the end of the file wherever that is.
    pub end: Option<u64>,
}

impl FdInfo {
    /// Understands the text.
    ///
    /// # Errors
    /// If it is not what the kernel prints.
    pub fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let mut info = Self::default();
        let mut general = false;
        for line in lines(text) {
            general |= line.starts_with(b"flags:");
            info.take(line).ok_or(Malformed("a line"))?;
        }
        if general { Ok(info) } else { Err(Malformed("flags")) }
    }

    /// Reads the information of descriptor `fd`.
    ///
    /// # Errors
    /// If the descriptor or the process has gone, or the text cannot be understood.
    pub fn read(dir: &Dir, fd: i32) -> Result<Self, Error> {
        Self::read_with(dir, fd, &mut Vec::new())
    }

    /// Like [`FdInfo::read`], with a buffer that is used again and again.
    ///
    /// # Errors
    /// As [`FdInfo::read`].
    pub fn read_with(dir: &Dir, fd: i32, buffer: &mut Vec<u8>) -> Result<Self, Error> {
        let name = format!("fdinfo/{fd}");
        dir.read_single(&name, buffer)?;
        Self::parse(buffer).map_err(|source| dir.malformed(&name, source))
    }

    /// Takes one line in; `None` for one that cannot be understood.
    fn take(&mut self, line: &[u8]) -> Option<()> {
        if line.starts_with(b"tfd:") {
            self.epoll()?.push(epoll_entry(line)?);
            return Some(());
        }
        if line.starts_with(b"inotify ") {
            self.inotify()?.push(inotify_watch(line)?);
            return Some(());
        }
        if line.starts_with(b"fanotify ") {
            return self.fanotify(line);
        }
        if let (Detail::IoUring { waiting }, Some(request)) =
            (&mut self.detail, line.trim_ascii().strip_prefix(b"op="))
        {
            let number = request.split(|byte| *byte == b',').next()?;
            waiting.push(dec(number)?);
            return Some(());
        }
        let Some((key, value)) = key_value(line) else { return Some(()) };
        match key {
            b"pos" => self.position = dec::<i64>(value)?.cast_unsigned(),
            b"flags" => self.flags = u32::try_from(oct(value)?).ok()?,
            b"mnt_id" => self.mount = dec(value)?,
            b"ino" => self.inode = Some(dec(value)?),
            b"tty-index" => self.tty_index = Some(dec(value)?),
            b"scm_fds" => self.descriptors_queued = dec(value)?,
            b"lock" => self.locks.push(lock(value)?),
            b"eventfd-count" => {
                self.detail = Detail::Eventfd { count: hex(value)?, id: None, semaphore: None };
            }
            b"eventfd-id" | b"eventfd-semaphore" => self.eventfd(key, value)?,
            b"sigmask" => self.detail = Detail::Signalfd { mask: hex(value)? },
            b"clockid" | b"ticks" | b"settime flags" | b"it_value" | b"it_interval" => {
                self.timerfd(key, value)?;
            }
            b"Pid" => self.detail = Detail::Pidfd(pidfd_target(value)?),
            b"SqMask" => self.detail = Detail::IoUring { waiting: Vec::new() },
            b"API" => self.detail = Detail::Userfaultfd,
            b"map_type" | b"prog_type" | b"link_type" => self.detail = Detail::Bpf,
            _ => {}
        }
        Some(())
    }

    fn epoll(&mut self) -> Option<&mut Vec<EpollEntry>> {
        if self.detail == Detail::None {
            self.detail = Detail::Epoll(Vec::new());
        }
        match &mut self.detail {
            Detail::Epoll(entries) => Some(entries),
            _ => None,
        }
    }

    fn inotify(&mut self) -> Option<&mut Vec<InotifyWatch>> {
        if self.detail == Detail::None {
            self.detail = Detail::Inotify(Vec::new());
        }
        match &mut self.detail {
            Detail::Inotify(watches) => Some(watches),
            _ => None,
        }
    }

    /// The first line tells of the group, the others of one mark each.
    fn fanotify(&mut self, line: &[u8]) -> Option<()> {
        if let Detail::Fanotify { marks, .. } = &mut self.detail {
            marks.push(fanotify_mark(line)?);
        } else {
            self.detail = Detail::Fanotify {
                flags: hex32(field(line, b"flags:")?)?,
                event_flags: hex32(field(line, b"event-flags:")?)?,
                marks: Vec::new(),
            };
        }
        Some(())
    }

    fn eventfd(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if let Detail::Eventfd { id, semaphore, .. } = &mut self.detail {
            if key == b"eventfd-id" {
                *id = Some(dec(value)?);
            } else {
                *semaphore = Some(dec::<u32>(value)? != 0);
            }
        }
        Some(())
    }

    fn timerfd(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if self.detail == Detail::None {
            self.detail = Detail::Timerfd(TimerSetting::default());
        }
        let Detail::Timerfd(timer) = &mut self.detail else { return Some(()) };
        match key {
            b"clockid" => timer.clock = dec(value)?,
            b"ticks" => timer.ticks = dec(value)?,
            b"settime flags" => timer.settime_flags = u32::try_from(oct(value)?).ok()?,
            b"it_value" => timer.value = pair(value)?,
            _ => timer.interval = pair(value)?,
        }
        Some(())
    }
}

/// `(SECONDS, NANOSECONDS)`.
fn pair(value: &[u8]) -> Option<(i64, i64)> {
    let inner = value.strip_prefix(b"(")?.strip_suffix(b")")?;
    let (seconds, nanoseconds) = split_once(inner, b',')?;
    Some((dec(seconds.trim_ascii())?, dec(nanoseconds.trim_ascii())?))
}

fn hex32(value: &[u8]) -> Option<u32> {
    u32::try_from(hex(value)?).ok()
}

/// The word that starts with `key`, or the one behind it when `key` stands alone.
fn field<'a>(line: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let mut words = words(line);
    let value = words.find_map(|word| word.strip_prefix(key))?;
    if value.is_empty() { words.next() } else { Some(value) }
}

fn epoll_entry(line: &[u8]) -> Option<EpollEntry> {
    let position = match field(line, b"pos:") {
        Some(value) => dec::<i64>(value)?.cast_unsigned(),
        None => 0,
    };
    Some(EpollEntry {
        fd: dec(field(line, b"tfd:")?)?,
        events: hex32(field(line, b"events:")?)?,
        data: hex(field(line, b"data:")?)?,
        position,
        inode: field(line, b"ino:").map_or(Some(0), hex)?,
        device: field(line, b"sdev:").map_or(Some(0), kernel_device)?,
    })
}

/// Type and bytes of the handle that a line tells; 0 and none if it does not.
fn file_handle(line: &[u8]) -> Option<(u32, Vec<u8>)> {
    let Some(digits) = field(line, b"f_handle:") else { return Some((0, Vec::new())) };
    let bytes = digits.chunks(2).map(|pair| hex(pair).and_then(|byte| u8::try_from(byte).ok()));
    let kind = field(line, b"fhandle-type:").map_or(Some(0), hex32)?;
    Some((kind, bytes.collect::<Option<_>>()?))
}

fn inotify_watch(line: &[u8]) -> Option<InotifyWatch> {
    let (handle_type, handle) = file_handle(line)?;
    Some(InotifyWatch {
        wd: i32::try_from(hex(field(line, b"wd:")?)?).ok()?,
        inode: hex(field(line, b"ino:")?)?,
        device: kernel_device(field(line, b"sdev:")?)?,
        mask: hex32(field(line, b"mask:")?)?,
        handle_type,
        handle,
    })
}

fn fanotify_mark(line: &[u8]) -> Option<FanotifyMark> {
    let (handle_type, handle) = file_handle(line)?;
    Some(FanotifyMark {
        inode: field(line, b"ino:").map(hex).map_or(Some(None), |value| value.map(Some))?,
        mount: match field(line, b"mnt_id:") {
            Some(value) => Some(i32::try_from(hex(value)?).ok()?),
            None => None,
        },
        device: match field(line, b"sdev:") {
            Some(value) => Some(kernel_device(value)?),
            None => None,
        },
        flags: hex32(field(line, b"mflags:")?)?,
        mask: hex(field(line, b"mask:")?)?,
        ignored: hex(field(line, b"ignored_mask:")?)?,
        handle_type,
        handle,
    })
}

fn pidfd_target(value: &[u8]) -> Option<PidfdTarget> {
    match dec::<i32>(value)? {
        -1 => Some(PidfdTarget::Ended),
        0 => Some(PidfdTarget::Elsewhere),
        number => HostPid::new(number).map(PidfdTarget::Task),
    }
}

/// `1: POSIX  ADVISORY  WRITE 17164 fe:00:10010628 0 EOF`.
/// All locks of the machine that are held (`/proc/locks`), by processes that are seen here.
///
/// # Errors
/// If `/proc` is not there.
pub fn locks() -> std::io::Result<Vec<Lock>> {
    Ok(held_locks(&std::fs::read("/proc/locks")?))
}

fn held_locks(text: &[u8]) -> Vec<Lock> {
    let is_held = |line: &&[u8]| words(line).nth(1) != Some(b"->");
    text.split(|byte| *byte == b'\n').filter(is_held).filter_map(lock).collect()
}

fn lock(value: &[u8]) -> Option<Lock> {
    let mut words = words(value).skip(1).filter(|word| *word != b"->");
    let kind = match words.next()? {
        b"POSIX" => LockKind::Posix,
        b"OFDLCK" => LockKind::OpenFileDescription,
        b"FLOCK" => LockKind::Flock,
        b"LEASE" => LockKind::Lease,
        b"DELEG" => LockKind::Delegation,
        _ => LockKind::Other,
    };
    let nature = words.next()?;
    let access = words.next()?;
    let pid = HostPid::new(dec(words.next()?)?);
    let place = words.next()?;
    let colon = place.iter().rposition(|&byte| byte == b':')?;
    let end = match (words.next().and_then(dec)?, words.next()?) {
        (start, b"EOF") => (start, None),
        (start, last) => (start, Some(dec(last)?)),
    };
    Some(Lock {
        kind,
        write: matches!(access, b"WRITE" | b"RW"),
        read: matches!(access, b"READ" | b"RW"),
        mandatory: matches!(nature, b"MANDATORY" | b"MSNFS"),
        breaking: nature == b"BREAKING",
        pid,
        device: hex_device(&place[..colon])?,
        inode: dec(&place[colon + 1..])?,
        start: end.0,
        end: end.1,
    })
}

#[cfg(test)]
#[path = "fdinfo_tests.rs"]
mod tests;
