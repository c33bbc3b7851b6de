//! Births in user namespaces that do not own all pid namespaces that the newborn is seen in, so that nobody there may choose all of
//! its numbers.
//!
//! In each pid namespace of which a number cannot be chosen there is a *registrar* while the tree is built: a process
//! of the holder's that has the rights of outside, and tells the kernel which number to give out next ([`NextNumber`]). Whoever bears
//! asks at a *desk* of each, one birth at a time, and hears afterwards whether it came out right: on a machine that others use as well
//! somebody may have been faster, and then it is tried again ([`parasite::restorer::births`] has the words). Meanwhile *guards*, which do
//! nothing else, have those of the next numbers that tasks of the tree are yet to get: nobody else gets them for good.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use ids::{HostPid, ImagePid, ImagePids};
use kernel::descriptors::{close_range, duplicate_from};
use kernel::process::{
    Fork, enter_pids_of, exists, exit_now, fork_as, fork_as_any, send_signal, wait_status,
};
use kernel::procfs::{Dir, ProcFile, Status};
use kernel::sched::{Scheduling, set_scheduling};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use parasite::restorer::births::{Answer, BORN, NEXT, Question};

use crate::error::Error;
use crate::levels::{Levels, PidSpace};
use crate::next_number::{self, NextNumber};
use crate::plan::{AskedBirth, Plan};
use crate::turns::Count;

/// Where registrars are asked. All tasks inherit them.
#[derive(Debug, Default)]
pub(crate) struct Desks {
    desks: BTreeMap<PidSpace, Desk>,
    turn: Option<Count>,
    numbers: Option<File>,
    expected: Arc<Expected>,
}

/// Who is to have which number in the pid namespace of the root.
#[derive(Debug, Default)]
struct Expected {
    /// Those whose numbers are asked for: all their numbers, and their processes.
    asked: BTreeMap<ImagePid, (ImagePids, ImagePid)>,
    /// The numbers of all.
    all: BTreeSet<ImagePid>,
}

#[derive(Debug)]
struct Desk {
    /// The end of those who ask.
    front: File,
    /// The registrar's.
    back: OwnedFd,
    /// The first process of the namespace.
    first: ImagePid,
    /// How far the namespace is below the root's.
    depth: usize,
}

impl Desks {
    /// Those that a tree needs, out of the tasks' way.
    pub(crate) fn new(plan: &Plan, levels: &Levels, base: RawFd) -> Result<Self, Error> {
        let failed = || Error::kernel("make a pair of sockets");
        let keep = |end: &OwnedFd| duplicate_from(end, base).map_err(failed());
        let mut desks = BTreeMap::new();
        for &(space, _) in plan.asked.iter().flat_map(|birth| &birth.numbers) {
            let of_space = space.and_then(|space| levels.space(space));
            let first = of_space.map_or(plan.tasks[0].pid, |space| space.first);
            if desks.contains_key(&space) {
                continue;
            }
            let flags = SockFlag::SOCK_CLOEXEC;
            let (front, back) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
                .map_err(|errno| failed()(errno.into()))?;
            let depth = if of_space.is_some() { levels.depth(first) } else { 0 };
            let (front, back) = (keep(&front)?.into(), keep(&back)?);
            desks.insert(space, Desk { front, back, first, depth });
        }
        if desks.is_empty() {
            return Ok(Self::default());
        }
        let turn = Count::new(base)?;
        turn.tell(1)?;
        let numbers = next_number::open(base).map_err(|error| {
            let refusal = support::host::no_numbers(&error.to_string());
            Error::refused(refusal.of(plan.tasks[0].pid.get(), "process numbers"))
        })?;
        let expected = |birth: &AskedBirth| (birth.task, (levels.all(birth.task), birth.process));
        let asked = plan.asked.iter().map(expected).collect();
        let expected = Arc::new(Expected { asked, all: plan.numbers.clone() });
        Ok(Self { desks, turn: Some(turn), numbers: Some(numbers), expected })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.desks.len()
    }

    /// Descriptors of those of some namespaces, and the one of the turns.
    pub(crate) fn descriptors(&self, spaces: &[PidSpace]) -> Option<(Vec<RawFd>, RawFd)> {
        let front = |space| self.desks.get(space).map(|desk| desk.front.as_raw_fd());
        let fronts: Option<Vec<RawFd>> = spaces.iter().map(front).collect();
        fronts.filter(|fronts| !fronts.is_empty()).zip(self.turn.as_ref().map(Count::number))
    }

    /// Waits for the caller's turn and asks for numbers, the next ones that are given out until the birth is told ([`Asked::born`]).
    pub(crate) fn ask<'d>(&'d self, numbers: &'d [(PidSpace, ImagePid)]) -> io::Result<Asked<'d>> {
        self.take_turn()?;
        let asked = Asked { desks: self, numbers };
        for (space, number) in numbers {
            match self.put(*space, [NEXT, number.get()])? {
                0 => {}
                errno => return Err(io::Error::from_raw_os_error(errno)),
            }
        }
        Ok(asked)
    }

    fn take_turn(&self) -> io::Result<()> {
        let turn = self.turn.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(turn.wait(1).over()?)
    }

    fn put(&self, space: PidSpace, [word, number]: Question) -> io::Result<Answer> {
        let mut front = &self.desks.get(&space).ok_or(io::ErrorKind::NotFound)?.front;
        let mut question = [0; size_of::<Question>()];
        question[..4].copy_from_slice(&word.to_ne_bytes());
        question[4..].copy_from_slice(&number.to_ne_bytes());
        front.write_all(&question)?;
        let mut answer = [0; size_of::<Answer>()];
        front.read_exact(&mut answer)?;
        Ok(Answer::from_ne_bytes(answer))
    }

    /// What the holder of the tree starts registrars by; `spare` are numbers that nobody of the tree has.
    pub(crate) fn registrars(
        &self,
        inside: bool,
        spare: impl Iterator<Item = HostPid>,
    ) -> Result<Registrars, Error> {
        let failed = || Error::kernel("duplicate a descriptor");
        let to_start = self.desks.iter().map(|(space, desk)| {
            let socket = desk.back.try_clone().map_err(failed())?;
            // Where others bear as well it may come out otherwise.
            let judges = space.is_none() && !inside;
            Ok((desk.first, Place { socket, depth: desk.depth, inside, judges }))
        });
        let to_start = to_start.collect::<Result<_, Error>>()?;
        let numbers = self.numbers.as_ref().map(File::try_clone).transpose().map_err(failed())?;
        let spare = spare.filter_map(|number| ImagePid::new(number.get())).collect();
        let expected = Arc::clone(&self.expected);
        Ok(Registrars { to_start, numbers, spare, expected, running: Vec::new() })
    }
}

/// Numbers that have been asked for: nobody else asks until the birth is told.
#[must_use]
pub(crate) struct Asked<'d> {
    desks: &'d Desks,
    numbers: &'d [(PidSpace, ImagePid)],
}

impl Asked<'_> {
    /// The birth is over, whatever came of it; whether the numbers are those of who was to have them. It is for the process that
    /// bears to say.
    pub(crate) fn born(self) -> io::Result<bool> {
        let mut is_wanted = true;
        for (space, number) in self.numbers {
            is_wanted &= self.desks.put(*space, [BORN, number.get()])? == 0;
        }
        let turn = self.desks.turn.as_ref().ok_or(io::ErrorKind::NotFound)?;
        turn.tell(1).map_err(io::Error::other)?;
        Ok(is_wanted)
    }
}

/// The registrars of a tree, which its holder starts.
#[derive(Debug)]
pub(crate) struct Registrars {
    /// By the first processes of their namespaces.
    to_start: BTreeMap<ImagePid, Place>,
    numbers: Option<File>,
    spare: Vec<ImagePid>,
    expected: Arc<Expected>,
    running: Vec<HostPid>,
}

#[derive(Debug)]
struct Place {
    socket: OwnedFd,
    depth: usize,
    /// The tree has a pid namespace of its own.
    inside: bool,
    /// It says whether births came out right.
    judges: bool,
}

impl Registrars {
    /// A task is there: if it is the first one of a namespace, the registrar of that starts.
    pub(crate) fn met(&mut self, task: Option<ImagePid>, host: HostPid) -> Result<(), Error> {
        let Some(place) = task.and_then(|task| self.to_start.remove(&task)) else { return Ok(()) };
        let failed = || Error::kernel("create a process that has numbers given out");
        let is_elsewhere = place.inside || place.depth > 0;
        if is_elsewhere {
            enter_pids_of(host.in_own_namespace()).map_err(failed())?;
        }
        let made = self.fork(place.depth);
        let made = match made.map_err(failed())? {
            Some(made) => made,
            None => self.work(place),
        };
        self.running.push(made);
        if is_elsewhere {
            enter_pids_of(HostPid::own().in_own_namespace()).map_err(failed())?;
        }
        Ok(())
    }

    fn fork(&mut self, depth: usize) -> io::Result<Option<HostPid>> {
        while let Some(spare) = self.spare.pop() {
            let Some(numbers) = ImagePids::from_outermost(vec![spare; depth + 1]) else { continue };
            match fork_as(&numbers, false, CloneFlags::empty()) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other,
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// In a new process: serves those who ask until the tree is built.
    fn work(&self, place: Place) -> ! {
        let served = self.begin(&place).and_then(|numbers| {
            let expected = Some(&*self.expected).filter(|_| place.judges);
            serve(&File::from(place.socket), numbers, place.judges, expected)
        });
        exit_now(served.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0))
    }

    fn begin(&self, place: &Place) -> io::Result<&File> {
        let numbers = self.numbers.as_ref().ok_or(io::ErrorKind::NotFound)?;
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // Of what it has open nothing else is its business; others may wait for the end of that.
        let mut from = 0;
        let mut kept = [place.socket.as_raw_fd(), numbers.as_raw_fd()];
        kept.sort_unstable();
        for kept in kept {
            if kept > from {
                close_range(from, kept - 1)?;
            }
            from = kept + 1;
        }
        close_range(from, RawFd::MAX)?;
        hasten(HostPid::own());
        Ok(numbers)
    }

    /// Whether a process is one of them.
    pub(crate) fn has(&self, pid: HostPid) -> bool {
        self.running.contains(&pid)
    }

    /// Ends them.
    pub(crate) fn end(&mut self) {
        for pid in std::mem::take(&mut self.running) {
            // It may have ended already, with the first process of its namespace.
            drop(send_signal(pid, libc::SIGKILL));
            drop(wait_status(pid));
        }
    }
}

/// What to say of one that has ended, with the status that [`wait_status`] has.
pub(crate) fn ended(status: i32) -> Error {
    let source = match libc::WIFEXITED(status) {
        true => io::Error::from_raw_os_error(libc::WEXITSTATUS(status)),
        false => io::Error::other(format!("signal {}", libc::WTERMSIG(status))),
    };
    Error::kernel("have numbers given out by /proc/sys/kernel/ns_last_pid")(source)
}

/// Has a process go before all others, as far as that is allowed: whoever else makes a process between a question and the birth
/// gets the number. What it makes is not so.
pub(crate) fn hasten(pid: HostPid) {
    set_policy(pid, libc::SCHED_FIFO, 1);
}

fn set_policy(pid: HostPid, policy: libc::c_int, priority: u32) {
    const SCHED_FLAG_RESET_ON_FORK: u64 = 1;
    let flags = if priority > 0 { SCHED_FLAG_RESET_ON_FORK } else { 0 };
    let wanted =
        Scheduling { policy: policy.cast_unsigned(), priority, flags, ..Scheduling::default() };
    // It only takes longer otherwise, and more tries.
    set_scheduling(pid, &wanted).unwrap_or_default();
}

impl Expected {
    /// The leader that makes the thread with this number.
    fn maker(&self, number: ImagePid) -> Option<HostPid> {
        let (_, process) = self.asked.get(&number)?;
        (*process != number).then(|| process.in_own_namespace())
    }

    /// Whether who has a number here is the task that is to have it.
    fn has(&self, number: ImagePid) -> bool {
        let Some((levels, process)) = self.asked.get(&number) else { return false };
        let there = Dir::open(number.in_own_namespace()).and_then(|dir| Status::read(&dir));
        there.is_ok_and(|status| {
            status.tgid == process.in_own_namespace()
                && ImagePids::from_outermost(status.ns_pid).as_ref() == Some(levels)
        })
    }

    /// Processes that have the next numbers after one, if they are of the tree and nobody has them yet.
    fn guards(&self, number: ImagePid) -> io::Result<Guards> {
        /// More are not born elsewhere on the machine while one is born here.
        const MOST: i32 = 16;
        let mut guards = Guards::default();
        let next = self.all.range(number..).skip(1);
        let next = next.take_while(|it| it.get() - number.get() <= MOST);
        for wanted in next.map(|it| it.in_own_namespace()).filter(|it| !exists(*it)) {
            let own = nix::unistd::getpid();
            match fork_as_any([wanted])? {
                Some((pid, Fork::Parent)) => guards.0.push(pid),
                Some((_, Fork::Child)) => stand_guard(own),
                None => {}
            }
        }
        Ok(guards)
    }
}

/// Is there until it is killed, or `of` has gone.
fn stand_guard(of: nix::unistd::Pid) -> ! {
    if prctl::set_pdeathsig(Signal::SIGKILL).is_err() || nix::unistd::getppid() != of {
        exit_now(1);
    }
    loop {
        nix::unistd::pause();
    }
}

/// They go with this.
#[derive(Debug, Default)]
struct Guards(Vec<HostPid>);

impl Drop for Guards {
    fn drop(&mut self) {
        for pid in &self.0 {
            drop(send_signal(*pid, libc::SIGKILL));
            drop(wait_status(*pid));
        }
    }
}

/// Answers, one birth after the other, where others bear as well by what is expected.
fn serve(
    mut socket: &File,
    numbers: &File,
    shared: bool,
    expected: Option<&Expected>,
) -> io::Result<()> {
    let mut given: Option<(NextNumber<'_>, Guards)> = None;
    loop {
        let mut question = [0; size_of::<Question>()];
        if socket.read(&mut question)? != question.len() {
            return Ok(());
        }
        let ([word, number], _) = question.as_chunks::<4>() else { return Ok(()) };
        let (word, number) = (i32::from_ne_bytes(*word), i32::from_ne_bytes(*number));
        let number = ImagePid::new(number).ok_or(io::ErrorKind::InvalidData)?;
        let done = match word {
            NEXT => {
                // The turn first: guards have numbers that others of the tree want when it is theirs.
                NextNumber::begin(numbers, shared).and_then(|turn| {
                    let guards = expected.map_or(Ok(Guards::default()), |it| it.guards(number))?;
                    if let Some(maker) = expected.and_then(|it| it.maker(number)) {
                        hasten(maker);
                    }
                    turn.set(number)?;
                    given = Some((turn, guards));
                    Ok(())
                })
            }
            _ => given.take().map_or(Ok(()), |(next, _guards)| next.put_back()).and_then(|()| {
                // How it was scheduled is put back when all is built.
                if let Some(maker) = expected.and_then(|it| it.maker(number)) {
                    set_policy(maker, libc::SCHED_OTHER, 0);
                }
                match expected.is_none_or(|expected| expected.has(number)) {
                    true => Ok(()),
                    false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
                }
            }),
        };
        let answer: Answer = done.map_or_else(|e| e.raw_os_error().unwrap_or(libc::EIO), |()| 0);
        socket.write_all(&answer.to_ne_bytes())?;
    }
}
