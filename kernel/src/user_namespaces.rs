//! User namespaces: made, described and worked in (user_namespaces(7)).
//!
//! Whatever is made in one belongs to it, and only a process of a single thread may enter one, which never gets back. So what has
//! to be made inside is made by a process for that alone ([`Inside::during`]): it has the memory and the descriptors of
//! its maker, which waits, and namespaces and credentials of its own. Its real and saved ids stay those of its maker: the kernel
//! asks for them when somebody wants to signal it or to look into it, and a user of the machine may well have the ids that
//! the namespace's root is outside (kill(2), ptrace(2)).

mod limits;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use ids::HostPid;
use libc::{c_int, c_void};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

use crate::namespaces::{enter, own};
use crate::process::{exit_now, fork_any, wait_status};

pub use limits::{LIMITS, limits};

/// A range of ids: the first inside, the first outside, how many.
pub type Range = (u32, u32, u32);

/// What a user namespace says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maps {
    /// User ids.
    pub users: Vec<Range>,
    /// Group ids.
    pub groups: Vec<Range>,
    /// Project ids.
    pub projects: Vec<Range>,
    /// Nobody in it may call setgroups(2).
    pub no_groups: bool,
}

impl Maps {
    /// Those of the namespace of a process, with the ids around it as the caller has them.
    ///
    /// # Errors
    /// If the process has gone, or the kernel's text is not understood.
    pub fn of(pid: HostPid) -> io::Result<Self> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
        let map = |name: &str| {
            let text = read(name)?;
            parse(&text).ok_or_else(|| io::Error::other(format!("{name} is {text:?}")))
        };
        Ok(Self {
            users: map("uid_map")?,
            groups: map("gid_map")?,
            projects: map("projid_map")?,
            no_groups: read("setgroups")?.trim() == "deny",
        })
    }

    /// Those of a namespace in which there may be nobody, with the ids as the caller has them.
    ///
    /// # Errors
    /// Without the right to enter it.
    pub fn within(namespace: impl AsFd) -> io::Result<Self> {
        let member = Member::begin(|| enter_unseen(namespace.as_fd()))?;
        Self::of(member.pid)
    }

    fn write(&self, pid: HostPid) -> io::Result<()> {
        let write = |name: &str, text: &str| {
            let written = std::fs::write(format!("/proc/{pid}/{name}"), text);
            written
                .map_err(|error| io::Error::new(error.kind(), format!("write its {name}: {error}")))
        };
        if self.no_groups {
            write("setgroups", "deny")?;
        }
        let maps =
            [("gid_map", &self.groups), ("uid_map", &self.users), ("projid_map", &self.projects)];
        for (name, map) in maps.into_iter().filter(|(_, map)| !map.is_empty()) {
            write(name, &text(map))?;
        }
        Ok(())
    }
}

fn parse(text: &str) -> Option<Vec<Range>> {
    let line = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(|number| number.parse().ok());
        let range = (numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some(range)
    };
    text.lines().map(line).collect()
}

fn text(map: &[Range]) -> String {
    map.iter().map(|(inside, outside, count)| format!("{inside} {outside} {count}\n")).collect()
}

/// A process that has done something in a user namespace, and stays there until this is dropped. Whoever owns the namespace may signal
/// it, also stop it: nobody waits for it for long, and what it has done counts only when it has said so.
struct Member {
    pid: HostPid,
    /// While this is open it waits.
    _line: UnixStream,
}

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(2);

impl Member {
    fn begin(work: impl FnOnce() -> io::Result<()>) -> io::Result<Self> {
        Self::begin_telling(&mut [], |_| work())
    }

    /// The same, which also tells something.
    fn begin_telling(
        told: &mut [u8],
        work: impl FnOnce(&mut UnixStream) -> io::Result<()>,
    ) -> io::Result<Self> {
        let (mut ours, mut theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(PATIENCE))?;
        let mut byte = [0];
        let own = nix::unistd::getpid();
        let Some(member) = fork_any()? else {
            drop(ours);
            let told = work(&mut theirs)
                .and_then(|()| go_with(own))
                .and_then(|()| theirs.write_all(&byte))
                .and_then(|()| theirs.read(&mut byte));
            exit_now(told.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |_| 0))
        };
        drop(theirs);
        let read = ours.read_exact(told).and_then(|()| ours.read_exact(&mut byte));
        let Err(error) = read else {
            return Ok(Self { pid: member, _line: ours });
        };
        let status = end(member)?;
        match libc::WEXITSTATUS(status) {
            errno if libc::WIFEXITED(status) && errno != 0 => {
                Err(io::Error::from_raw_os_error(errno))
            }
            _ if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => {
                let silent = "a process in a user namespace has said nothing for 2 s: the machine is busy, or somebody in there stops it";
                Err(io::Error::new(io::ErrorKind::TimedOut, silent))
            }
            _ => Err(error),
        }
    }
}

/// Has the kernel end this process with its maker, also while somebody keeps it stopped. After the last change of its ids, which takes
/// that back.
fn go_with(maker: nix::unistd::Pid) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    match nix::unistd::getppid() == maker {
        true => Ok(()),
        false => Err(io::Error::other("its maker has gone")),
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(end(self.pid));
    }
}

/// Ends a process, wherever it is; one that ends by itself just now says what it has to.
fn end(pid: HostPid) -> io::Result<c_int> {
    crate::process::send_signal(pid, libc::SIGKILL).ok();
    wait_status(pid)
}

/// Enters a user namespace in a process that has nothing to do there but to be in it, or to write the maps of one below. Whoever owns
/// it has no right to look into that process, whose memory is the caller's.
fn enter_unseen(namespace: BorrowedFd<'_>) -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    Ok(setns(namespace, CloneFlags::CLONE_NEWUSER)?)
}

/// Makes a user namespace with these maps, a child of the caller's.
///
/// # Errors
/// Without the right to, or if the kernel does not take the maps.
pub fn new_user(maps: &Maps) -> io::Result<OwnedFd> {
    new_user_of(maps, KEPT, None)
}

/// The same, which belongs to the user `owner`; as a child of another namespace, if one is given with some group that there is. Ids are as
/// in that one.
///
/// # Errors
/// As [`new_user`].
pub fn new_user_of(
    maps: &Maps,
    owner: u32,
    around: Option<(BorrowedFd<'_>, u32)>,
) -> io::Result<OwnedFd> {
    let maker = Member::begin(|| {
        if let Some((around, group)) = around {
            enter_unseen(around)?;
            // SAFETY: the call takes integers only.
            done(unsafe { libc::syscall(libc::SYS_setresgid, KEPT, group, KEPT) })?;
        }
        // SAFETY: the call takes integers only.
        done(unsafe { libc::syscall(libc::SYS_setresuid, KEPT, owner, KEPT) })?;
        Ok(unshare(CloneFlags::CLONE_NEWUSER)?)
    })?;
    match around {
        None => maps.write(maker.pid)?,
        // Only who is there may.
        Some((around, _)) => drop(Member::begin(|| {
            enter_unseen(around)?;
            maps.write(maker.pid)
        })?),
    }
    crate::namespaces::of_process(maker.pid, "user")
}

/// The user namespace that owns a namespace.
///
/// # Errors
/// As `NS_GET_USERNS` of ioctl_ns(2): if it is none that the caller may know.
pub fn owner_of(namespace: impl AsFd) -> io::Result<OwnedFd> {
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    related(namespace.as_fd(), NS_GET_USERNS)
}

/// The kind of a namespace, by its name in `/proc/PID/ns`.
///
/// # Errors
/// With a file that is no namespace.
pub fn kind_of(namespace: impl AsFd) -> io::Result<&'static str> {
    use std::os::fd::AsRawFd;
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: the request takes no argument and gives a number.
    let flag = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_NSTYPE) };
    let flag = Errno::result(flag)?.cast_unsigned();
    let unknown = || io::Error::other(format!("a namespace of an unknown kind ({flag:#x})"));
    crate::namespaces::of_flag(flag).ok_or_else(unknown)
}

/// Whether what a task of the user namespace `user`, by its number, may do by its capabilities it may do to `namespace`: that belongs
/// to it, or to one below it.
///
/// # Errors
/// As [`owner_of`].
pub fn has_rights(user: u64, namespace: impl AsFd) -> io::Result<bool> {
    let mut next = owner_of(namespace);
    loop {
        let owner = match next {
            Ok(owner) => owner,
            // Of those around the caller's own it may know none.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(false),
            Err(error) => return Err(error),
        };
        if crate::namespaces::id(&owner)? == user {
            return Ok(true);
        }
        next = parent_of(&owner);
    }
}

/// The namespace around a user namespace.
///
/// # Errors
/// As `NS_GET_PARENT` of ioctl_ns(2).
pub fn parent_of(namespace: impl AsFd) -> io::Result<OwnedFd> {
    const NS_GET_PARENT: libc::c_ulong = 0xb702;
    related(namespace.as_fd(), NS_GET_PARENT)
}

fn related(namespace: BorrowedFd<'_>, request: libc::c_ulong) -> io::Result<OwnedFd> {
    use std::os::fd::{AsRawFd, FromRawFd};
    // SAFETY: both requests take no argument and give a new descriptor.
    let found = unsafe { libc::ioctl(namespace.as_raw_fd(), request) };
    let found = Errno::result(found)?;
    // SAFETY: nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(found) })
}

/// The user who owns a user namespace, as the caller calls him.
///
/// # Errors
/// As `NS_GET_OWNER_UID` of ioctl_ns(2).
pub fn owner_uid(namespace: impl AsFd) -> io::Result<u32> {
    use std::os::fd::AsRawFd;
    const NS_GET_OWNER_UID: libc::c_ulong = 0xb704;
    let mut uid: libc::uid_t = 0;
    // SAFETY: the request writes one id to where the pointer points.
    let done =
        unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_OWNER_UID, &raw mut uid) };
    Errno::result(done)?;
    Ok(uid)
}

/// A place in a user namespace.
#[derive(Clone, Copy, Debug)]
pub struct Inside<'a> {
    /// The namespace.
    pub user: BorrowedFd<'a>,
    /// The user and the group that one is there, as they are called there.
    pub ids: (u32, u32),
    /// Namespaces that belong to another, which are entered before.
    pub before: &'a [(&'static str, BorrowedFd<'a>)],
    /// Somebody else than the caller owns it, or is in it, who has all rights over processes in there. So such a process must not be
    /// dumpable: then it takes rights in the user namespace that its memory is of, the caller's, to look into it (ptrace(2)). It has no
    /// use of files in `/proc` that are its own.
    pub is_exposed: bool,
}

impl Inside<'_> {
    /// Moves the calling process, which has one thread, there for good: with all capabilities in the namespace, and with `groups`
    /// for its supplementary ones, as the caller calls them.
    ///
    /// # Errors
    /// Without the right to.
    pub fn enter(&self, groups: &[u32]) -> io::Result<()> {
        let (user, group) = self.ids;
        self.enter_as([user; 3], [group; 3], groups)
    }

    /// The same with these real, effective and saved ids.
    fn enter_as(&self, users: [u32; 3], groups: [u32; 3], supplementary: &[u32]) -> io::Result<()> {
        for (name, namespace) in self.before {
            enter(name, namespace)?;
        }
        // The C library's functions would change all threads of whoever shares the memory.
        let count = supplementary.len();
        // SAFETY: the pointer and the length are those of the list.
        done(unsafe { libc::syscall(libc::SYS_setgroups, count, supplementary.as_ptr()) })?;
        if self.is_exposed {
            // Before anybody in there has a right over this process.
            nix::sys::prctl::set_dumpable(false)?;
        }
        setns(self.user, CloneFlags::CLONE_NEWUSER)?;
        let ([user, effective_user, saved_user], [group, effective_group, saved_group]) =
            (users, groups);
        // SAFETY: these calls take integers only.
        unsafe {
            done(libc::syscall(libc::SYS_setresgid, group, effective_group, saved_group))?;
            done(libc::syscall(libc::SYS_setresuid, user, effective_user, saved_user))?;
        }
        // Of who has changed its ids the files in /proc are the machine's root's, whom nobody is there.
        nix::sys::prctl::set_dumpable(!self.is_exposed)?;
        Ok(())
    }

    /// Does `work` there, in a process that shares memory and descriptors with the calling one, which waits.
    ///
    /// Who owns the namespace, or is root in it, may signal that process, and nobody else who may not signal the caller: all but its
    /// effective ids are the caller's. If it is stopped it goes on; who keeps it stopped for 10 s, or kills it, ends the caller as
    /// well: nobody could say what is left of what the two share.
    ///
    /// # Errors
    /// If it cannot be entered, and those of `work`.
    pub fn during<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.during_from(|| Ok(()), |()| work())
    }

    /// The same, where that process does something before it enters the namespace.
    ///
    /// # Errors
    /// As [`during`](Self::during), and those of `before`.
    pub fn during_from<P, T>(
        &self,
        before: impl FnOnce() -> io::Result<P>,
        work: impl FnOnce(P) -> io::Result<T>,
    ) -> io::Result<T> {
        let was_dumpable = nix::sys::prctl::get_dumpable()?;
        let (user, group) = self.ids;
        let own = nix::unistd::getpid();
        let enter = || {
            self.enter_as([KEPT, user, KEPT], [KEPT, group, KEPT], &[]).and_then(|()| go_with(own))
        };
        let whole = || {
            let before = before()?;
            enter().and_then(|()| work(before))
        };
        let mut job = Job { work: Some(whole), done: None };
        let ended = run(&mut job);
        nix::sys::prctl::set_dumpable(was_dumpable)?;
        ended?;
        match job.done {
            Some(Ok(done)) => done,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => std::process::abort(),
        }
    }
}

/// An id that setresuid(2) leaves as it is.
const KEPT: u32 = u32::MAX;

struct Job<W, T> {
    work: Option<W>,
    done: Option<std::thread::Result<io::Result<T>>>,
}

/// Bytes of the stack of such a process: what a thread has.
const STACK: usize = 8 << 20;

fn run<W: FnOnce() -> io::Result<T>, T>(job: &mut Job<W, T>) -> io::Result<()> {
    extern "C" fn begin<W: FnOnce() -> io::Result<T>, T>(job: *mut c_void) -> c_int {
        // SAFETY: `run` passes its job, of this type, and waits until this process has ended.
        let job = unsafe { &mut *job.cast::<Job<W, T>>() };
        if let Some(work) = job.work.take() {
            job.done = Some(catch_unwind(AssertUnwindSafe(work)));
        }
        0
    }
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end;
    let flags =
        libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::CLONE_PIDFD | libc::SIGCHLD;
    let made = AtomicI32::new(NOT_MADE);
    let has_ended = AtomicBool::new(false);
    let ended = std::thread::scope(|scope| {
        let watch =
            std::thread::Builder::new().spawn_scoped(scope, || keep_going(&made, &has_ended))?;
        // SAFETY: the stack, the job and the place of the descriptor outlive the process: with CLONE_VFORK this thread goes on
        // when that has ended, and has until then not touched what the two share: memory and the thread-local storage of the
        // C library. The other thread has its own, and takes no lock that the process may hold: it allocates nothing.
        let pid = unsafe {
            libc::clone(
                begin::<W, T>,
                top.cast(),
                flags,
                std::ptr::from_mut(job).cast::<c_void>(),
                made.as_ptr(),
            )
        };
        let pid = Errno::result(pid);
        let ended = pid.map_err(io::Error::from).and_then(|pid| {
            wait_status(HostPid::new(pid).ok_or(io::ErrorKind::InvalidData)?).map(drop)
        });
        // Who was killed may have held a lock of what the two share: whoever ends a thread or frees memory would wait for it.
        if ended.is_ok() && job.done.is_none() {
            std::process::abort();
        }
        has_ended.store(true, Ordering::Release);
        watch.thread().unpark();
        ended
    });
    if let made @ 0.. = made.into_inner() {
        // SAFETY: the kernel has opened it for this function alone.
        drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(made) });
    }
    ended
}

const NOT_MADE: c_int = -1;

/// Has a process go on that somebody stops, until it has ended; for 10 s, then it is killed. It is told by its pidfd, which the kernel puts
/// there when it is made. Allocates nothing.
fn keep_going(made: &AtomicI32, has_ended: &AtomicBool) {
    const PAUSE: Duration = Duration::from_millis(20);
    const LONGEST: Duration = Duration::from_secs(10);
    let mut since = None;
    while !has_ended.load(Ordering::Acquire) {
        std::thread::park_timeout(PAUSE);
        let pidfd = made.load(Ordering::Acquire);
        let Ok(id) = libc::id_t::try_from(pidfd) else { continue };
        let how = libc::WSTOPPED | libc::WNOHANG | libc::__WALL;
        // SAFETY: all zeros are a `siginfo_t`, to which the call writes.
        let (answer, stopped) = unsafe {
            let mut told: libc::siginfo_t = std::mem::zeroed();
            (libc::waitid(libc::P_PIDFD, id, &raw mut told, how), told.si_signo != 0)
        };
        if answer == 0 && stopped {
            let now = Instant::now();
            let signal = match now.duration_since(*since.get_or_insert(now)) < LONGEST {
                true => libc::SIGCONT,
                false => libc::SIGKILL,
            };
            // SAFETY: the information pointer is null, which asks for what kill(2) would send. That it has gone is no error.
            unsafe {
                libc::syscall(
                    libc::SYS_pidfd_send_signal,
                    pidfd,
                    signal,
                    std::ptr::null::<c_void>(),
                    0,
                )
            };
        }
    }
}

fn done(answer: libc::c_long) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The calling thread's own.
///
/// # Errors
/// If `/proc` is not there.
pub fn own_user() -> io::Result<OwnedFd> {
    own("user")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespaces::{id, inside, new, uts_names};

    #[test]
    fn maps_are_read_as_they_are_written() {
        let map = vec![(0, 100_000, 1000), (1000, 1000, 1)];
        assert_eq!(parse(&text(&map)), Some(map));
        assert_eq!(parse("         0          0 4294967295\n"), Some(vec![(0, 0, u32::MAX)]));
        assert_eq!(parse("0 1\n"), None);
        assert_eq!(parse("0 1 2 3\n"), None);
    }

    /// Whoever owns a namespace may stop who works there, who goes on all the same.
    #[test]
    fn who_is_stopped_inside_goes_on() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let ranges = vec![(0, 100_000, 65_536)];
        let maps = Maps { users: ranges.clone(), groups: ranges, ..Default::default() };
        let user = new_user(&maps).unwrap();
        let there = Inside { user: user.as_fd(), ids: (0, 0), before: &[], is_exposed: true };
        let stops = || nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
        let count = there.during(|| (0..3).map(|_| Ok(stops()?)).collect::<io::Result<Vec<_>>>());
        assert_eq!(count.unwrap().len(), 3);
    }

    #[test]
    fn what_is_made_inside_belongs_to_it() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let ranges = vec![(0, 100_000, 65_536)];
        let maps =
            Maps { users: ranges.clone(), groups: ranges, no_groups: true, ..Default::default() };
        let user = new_user(&maps).unwrap();
        let there = Inside { user: user.as_fd(), ids: (0, 0), before: &[], is_exposed: false };
        let uts = there.during(|| new("uts", || Ok(nix::unistd::sethostname("inside")?))).unwrap();
        let number = |namespace: io::Result<OwnedFd>| id(namespace.unwrap()).unwrap();
        assert_eq!(number(owner_of(&uts)), number(user.try_clone()));
        assert_eq!(number(parent_of(&user)), number(own_user()));
        assert_eq!(owner_uid(&user).unwrap(), 0);
        // One in it, in which nobody is; ids are those of who looks.
        let inner = vec![(7, 1000, 5)];
        let inner = Maps { users: inner.clone(), groups: inner, ..maps.clone() };
        let below = new_user_of(&inner, 3, Some((user.as_fd(), 0))).unwrap();
        assert_eq!(number(parent_of(&below)), number(user.try_clone()));
        assert_eq!(owner_uid(&below).unwrap(), 100_003);
        let outer = vec![(7, 101_000, 5)];
        let outer = Maps { users: outer.clone(), groups: outer, ..maps.clone() };
        assert_eq!(Maps::within(&below).unwrap(), outer);
        assert_eq!(uts_names(&uts).unwrap().node, b"inside");
        // Threads are in it as well, and what is opened there is ours.
        let name = there.during(|| inside("uts", &uts, || Ok(nix::sys::utsname::uname()?)));
        assert_eq!(name.unwrap().nodename(), "inside");
        let failed = there.during(|| nix::unistd::setgroups(&[]).map_err(io::Error::from));
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(libc::EPERM));
        // Where somebody else owns it nobody of there looks into the process, which shares our memory.
        let is_dumpable = || Ok(nix::sys::prctl::get_dumpable()?);
        assert!(there.during(is_dumpable).unwrap());
        assert!(!Inside { is_exposed: true, ..there }.during(is_dumpable).unwrap());
        assert!(is_dumpable().is_ok_and(|is_so: bool| is_so));
        let panic = catch_unwind(AssertUnwindSafe(|| {
            there.during(|| -> io::Result<()> { panic!("on purpose") })
        }));
        assert!(panic.is_err());
        assert!(nix::unistd::geteuid().is_root());
    }
}
