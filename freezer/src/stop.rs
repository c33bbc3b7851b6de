//! Stopping a tree, and the promise that it runs on.
//!
//! Every task is seized first, which does not stop it, with the kernel told to trace whatever it
//! forks or clones: from then on no task can slip away. Then all are interrupted at once, and the
//! frozen time begins.
//!
//! **The promise** has one mechanism: everything here belongs to the thread that called
//! [`stop`], and when that thread ends, by return, panic or `SIGKILL` of the whole process, the
//! kernel detaches all of it and lets it run. So whoever stops something does so in a thread that
//! ends with the work. [`Frozen::release`] is the polite way to the same end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ids::HostPid;
use kernel::process::own_thread;
use kernel::procfs::{self, Dir, ProcFile, Stat, Status};
use kernel::ptrace::{self, Event, Options, Running, Stop, Stopped};

use crate::frozen::{Frozen, FrozenThread, Processes, detach};
use crate::group::{FreezeGroup, StoppedGroup};
use crate::late::{cannot_be_seized, vfork_children, why_late};

pub use crate::error::StopError as Error;

/// How often tasks may be missed.
const MISSED: u32 = 10;

/// How long the last attempts wait for every thread to stop.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long the first does.
const FIRST_PATIENCE: Duration = Duration::from_millis(25);
/// The longest time for which the tree runs on between two attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// A pause between two looks at why threads do not stop.
const HURRY: Duration = Duration::from_millis(1);
/// How long the stop of one task usually takes, and more.
const EAGER: Duration = Duration::from_micros(100);
/// A pause between looks. (The kernel adds the thread's timer slack to it.)
const NAP: Duration = Duration::from_micros(20);

const OPTIONS: Options =
    Options::FORK.union(Options::VFORK).union(Options::CLONE).union(Options::SYSCALL_GOOD);

/// Stops every process of the tree below `root` and all their threads. A task that does not stop, as
/// in an exec that is under way, is tried again until `within` is over, with growing patience; no try
/// holds the others for longer than `limit`. Between the tries all run on, so that what it waits for
/// can happen. A control group that has the tree (`by`) makes all of them begin to stop at once. The kernel's
/// own threads among those of a process that `has_workers` run on, with what the process has asked them to do.
/// `before` is called before each try.
///
/// # Errors
/// If it cannot be stopped; it runs on.
pub fn stop(
    root: HostPid,
    within: Duration,
    limit: Option<Duration>,
    by: Option<&FreezeGroup>,
    has_workers: &dyn Fn(HostPid) -> bool,
    before: &mut dyn FnMut(),
) -> Result<Frozen, Error> {
    let started = Instant::now();
    let most = limit.map_or(PATIENCE, |limit| limit.min(PATIENCE));
    let mut patience = FIRST_PATIENCE.min(most);
    let mut tries = 1;
    loop {
        let group = by.map(FreezeGroup::prepare).transpose().map_err(of_group)?;
        before();
        match (Attempt { group, has_workers, ..Attempt::new(root, patience) }).run() {
            Err((Error::DidNotStop { tid, why, .. }, late)) => {
                let after = started.elapsed();
                if after >= within {
                    return Err(Error::DidNotStop { tid, why, after, tries });
                }
                let pause = PAUSE.min(Duration::from_millis(1) * tries * tries);
                let_run(late, Instant::now() + pause);
            }
            Err((error, _)) => return Err(error),
            Ok(frozen) => return Ok(frozen),
        }
        tries += 1;
        patience = (2 * patience).min(most);
    }
}

fn of_group(error: crate::Error) -> Error {
    Error::Group(Box::new(error))
}

/// Lets tasks run on, as they stop after all, that were told to and did not in time; until `until`.
fn let_run(mut late: Vec<Running>, until: Instant) {
    while Instant::now() < until {
        let waiting = std::mem::take(&mut late).into_iter();
        late.extend(waiting.filter_map(|running| match running.poll() {
            Ok(Err(running)) => Some(running),
            Ok(Ok(Event::Stopped(stopped))) => {
                let signal = match stopped.stop() {
                    Stop::Signal(signal) => signal,
                    _ => 0,
                };
                ignore_gone(stopped.detach(signal)).ok().and(None)
            }
            Ok(Ok(Event::Ended { .. })) | Err(_) => None,
        }));
        std::thread::sleep(HURRY);
    }
}

struct Attempt<'a> {
    root: HostPid,
    /// Whether the kernel may work for a process by threads of its own.
    has_workers: &'a dyn Fn(HostPid) -> bool,
    running: BTreeMap<HostPid, Running>,
    /// Processes of the threads that were found in /proc.
    process_of: BTreeMap<HostPid, HostPid>,
    stopped: BTreeMap<HostPid, FrozenThread>,
    /// Threads that others trace, and who does: who stops the tree looks whether these are of it.
    traced: BTreeMap<HostPid, HostPid>,
    /// Threads that can be seized when the group has been thawed, and not before.
    postponed: BTreeSet<HostPid>,
    /// Children of vforks, with the threads that wait in the kernel for them to execute a program or to
    /// end: they must run until those stop.
    hurrying: BTreeMap<HostPid, HostPid>,
    /// When it was last looked for such children.
    hurried: Instant,
    since: Instant,
    patience: Duration,
    /// That stops them, too.
    group: Option<StoppedGroup>,
}

impl Attempt<'_> {
    fn new(root: HostPid, patience: Duration) -> Self {
        Self {
            root,
            has_workers: &|_| true,
            patience,
            running: BTreeMap::new(),
            process_of: BTreeMap::new(),
            stopped: BTreeMap::new(),
            traced: BTreeMap::new(),
            postponed: BTreeSet::new(),
            hurrying: BTreeMap::new(),
            hurried: Instant::now(),
            since: Instant::now(),
            group: None,
        }
    }

    /// Also returns what has been told to stop and has not, if that is what went wrong.
    fn run(mut self) -> Result<Frozen, (Error, Vec<Running>)> {
        let others = |error| (error, Vec::new());
        while self.seize_new().map_err(others)? {}
        self.freeze()
    }

    /// Stops what is seized, the root with it.
    fn freeze(mut self) -> Result<Frozen, (Error, Vec<Running>)> {
        let others = |error| (error, Vec::new());
        let (root, since) = (self.root, Instant::now());
        self.since = since;
        self.hurried = since;
        let mut stopped = self.stop()?;
        let group = stopped.group.take();
        let processes = stopped.sort().map_err(others)?;
        let frozen = Frozen { processes, since, postponed: Vec::new(), missed: 0, group };
        match frozen.processes.contains_key(&root) {
            true => Ok(frozen),
            false => Err(others(Error::RootEnded(root))),
        }
    }

    /// Stops all that is seized, or lets go of it.
    fn stop(mut self) -> Result<Self, (Error, Vec<Running>)> {
        match self.tell_to_stop().and_then(|()| self.wait_for_all()) {
            Ok(()) => Ok(self),
            Err(error) => {
                self.group.take();
                self.let_go();
                Err((error, self.running.into_values().collect()))
            }
        }
    }

    /// What a frozen group holds meets the tracer's stop when the group is thawed, before it runs. What could not be seized until then is stopped
    /// by a signal, and does not run.
    fn tell_to_stop(&mut self) -> Result<(), Error> {
        if let Some(group) = &self.group {
            group.freeze().map_err(of_group)?;
        }
        self.running.values().try_for_each(|task| ignore_gone(task.interrupt()))?;
        self.group.as_mut().map_or(Ok(()), StoppedGroup::leave_to_tracer).map_err(of_group)?;
        for tid in std::mem::take(&mut self.postponed) {
            match Running::seize(tid, OPTIONS) {
                Ok(running) => {
                    ignore_gone(running.interrupt())?;
                    self.running.insert(tid, running);
                }
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Seizes every task of the tree that is not yet seized; whether there were any.
    fn seize_new(&mut self) -> Result<bool, Error> {
        let mut any = false;
        for pid in procfs::tree(self.root)? {
            any |= self.seize_threads(pid)?;
        }
        Ok(any)
    }

    /// The same of one process.
    fn seize_threads(&mut self, pid: HostPid) -> Result<bool, Error> {
        let mut any = false;
        let Ok(dir) = Dir::open(pid) else { return Ok(false) };
        let Ok(threads) = dir.threads() else { return Ok(false) };
        if let Some(stuck) = cannot_be_seized(&dir, &threads) {
            self.postpone(stuck, &threads)?;
            self.process_of.extend(threads.iter().map(|tid| (*tid, pid)));
            return Ok(false);
        }
        for tid in threads {
            any |= self.seize(&dir, pid, tid)?;
            self.process_of.insert(tid, pid);
        }
        Ok(any)
    }

    /// Leaves threads, one of which is `stuck`, for the time when the group has been thawed, if that is what will be done.
    fn postpone(&mut self, stuck: HostPid, threads: &[HostPid]) -> Result<(), Error> {
        if self.group.as_ref().is_some_and(StoppedGroup::will_be_thawed) {
            let unseized = threads.iter().filter(|tid| !self.running.contains_key(tid));
            self.postponed.extend(unseized);
            return Ok(());
        }
        let (tid, why) = why_late(&[stuck], self.root, &self.hurrying);
        Err(Error::DidNotStop { tid, why, after: Duration::ZERO, tries: 1 })
    }

    /// Whether a thread is one of the kernel's own, which could be stopped as any other one.
    fn is_worker(&self, dir: &Dir, pid: HostPid, tid: HostPid) -> bool {
        let stat = || dir.thread(tid).and_then(|thread| Stat::read(&thread));
        (self.has_workers)(pid) && stat().is_ok_and(|stat| stat.is_worker())
    }

    fn seize(&mut self, dir: &Dir, pid: HostPid, tid: HostPid) -> Result<bool, Error> {
        let is_known = self.running.contains_key(&tid) || self.traced.contains_key(&tid);
        if is_known || tid != pid && self.is_worker(dir, pid, tid) {
            return Ok(false);
        }
        let error = match Running::seize(tid, OPTIONS) {
            Ok(running) => {
                self.running.insert(tid, running);
                return Ok(true);
            }
            Err(error) if error.is_gone() => return Ok(false),
            Err(error) => error,
        };
        let Ok(status) = dir.thread(tid).and_then(|thread| Status::read(&thread)) else {
            return Ok(false);
        };
        if matches!(status.state, b'Z' | b'X') {
            return Ok(false);
        }
        if status.tracer == Some(own_thread()) {
            // Born of a task that was already seized.
            self.running.insert(tid, Running::traced_from_birth(tid));
            return Ok(true);
        }
        match status.tracer {
            None => Err(error.into()),
            Some(tracer) => {
                self.traced.insert(tid, tracer);
                Ok(true)
            }
        }
    }

    /// Fails if somebody else traces one of those that are to be stopped.
    fn all_ours(&self) -> Result<(), Error> {
        match self.traced.first_key_value() {
            Some((&tid, &tracer)) => Err(Error::Traced { tid, tracer }),
            None => Ok(()),
        }
    }

    /// Waits for each by its number, which the kernel finds at once; to wait for any it would go
    /// through all of them every time.
    fn wait_for_all(&mut self) -> Result<(), Error> {
        while !self.running.is_empty() {
            let mut any = false;
            for tid in self.running.keys().copied().collect::<Vec<_>>() {
                let Some(running) = self.running.remove(&tid) else { continue };
                match running.poll() {
                    Ok(Err(running)) => {
                        self.running.insert(tid, running);
                        continue;
                    }
                    Ok(Ok(Event::Stopped(stopped))) => self.arrived(stopped)?,
                    Ok(Ok(Event::Ended { .. })) => self.forget(tid)?,
                    Err(error) if error.is_gone() => self.forget(tid)?,
                    Err(error) => return Err(error.into()),
                }
                any = true;
            }
            if !any {
                self.pause()?;
            }
        }
        Ok(())
    }

    /// There is no descriptor to poll for a tracee's stop, and a blocking wait has no deadline:
    /// so look again at once for as long as the stop of one task usually takes, then with short
    /// naps, which leave the processor to those that are to stop.
    fn pause(&mut self) -> Result<(), Error> {
        let after = self.since.elapsed();
        if after < EAGER {
            std::thread::yield_now();
            return Ok(());
        }
        if after < self.patience {
            if self.hurrying.is_empty() || self.hurried.elapsed() > HURRY {
                self.hurry()?;
                self.hurried = Instant::now();
            }
            std::thread::sleep(NAP);
            return Ok(());
        }
        let late: Vec<HostPid> = self.running.keys().copied().collect();
        let (tid, why) = why_late(&late, self.root, &self.hurrying);
        Err(Error::DidNotStop { tid, why, after, tries: 1 })
    }

    /// Sets those going again that others wait for in a vfork which began before they were seized.
    fn hurry(&mut self) -> Result<(), Error> {
        let running = self.running.keys().copied();
        let late: Vec<HostPid> = running.filter(|tid| !self.hurrying.contains_key(tid)).collect();
        for tid in late {
            for child in vfork_children(tid) {
                if self.hurrying.insert(child, tid).is_none() {
                    self.set_going(child);
                }
            }
        }
        Ok(())
    }

    /// Resumes a task that has stopped before it was known that another one waits for it.
    fn set_going(&mut self, tid: HostPid) {
        if let Some(FrozenThread { stopped: Some(stopped), .. }) = self.stopped.remove(&tid)
            && let Ok(running) = stopped.resume(0)
        {
            self.running.insert(tid, running);
        }
    }

    fn arrived(&mut self, stopped: Stopped) -> Result<(), Error> {
        let tid = stopped.tid();
        let again = match stopped.stop() {
            Stop::Interrupted if self.hurrying.contains_key(&tid) => stopped.resume(0),
            Stop::Interrupted => return self.keep(stopped, 0),
            Stop::Group(signal) => return self.keep(stopped, signal),
            // The stop that was asked for is still to come; until then all goes its way.
            Stop::Signal(signal) => stopped.resume(signal),
            Stop::Syscall => stopped.resume(0),
            Stop::Event(event) => {
                let vfork = event == libc::PTRACE_EVENT_VFORK;
                if let Some(born) = HostPid::new(stopped.event_message()? as i32) {
                    self.born(born, vfork.then_some(tid));
                }
                stopped.resume(0)
            }
        };
        match again {
            Ok(running) => {
                self.running.insert(tid, running);
                Ok(())
            }
            Err(error) if error.is_gone() => self.forget(tid),
            Err(error) => Err(error.into()),
        }
    }

    fn keep(&mut self, stopped: Stopped, group_stop: i32) -> Result<(), Error> {
        let tid = stopped.tid();
        self.running.remove(&tid);
        let stopped = FrozenThread { stopped: Some(stopped), group_stop, tracer: None };
        self.stopped.insert(tid, stopped);
        self.has_been_waited_for(tid)
    }

    /// A parent that stops, or ends, has its vfork behind it: the child need not run any more.
    fn has_been_waited_for(&mut self, parent: HostPid) -> Result<(), Error> {
        let children: Vec<HostPid> =
            self.hurrying.iter().filter(|(_, by)| **by == parent).map(|(tid, _)| *tid).collect();
        for child in children {
            self.hurrying.remove(&child);
            if let Some(running) = self.running.get(&child) {
                ignore_gone(running.interrupt())?;
            }
        }
        Ok(())
    }

    /// `waits` is the thread that waits for it, if one does.
    fn born(&mut self, tid: HostPid, waits: Option<HostPid>) {
        if let Some(parent) = waits {
            self.hurrying.insert(tid, parent);
            // Its stop at birth may have been seen before its parent told of it.
            self.set_going(tid);
        }
        if !self.stopped.contains_key(&tid) {
            self.running.entry(tid).or_insert_with(|| Running::traced_from_birth(tid));
        }
    }

    fn forget(&mut self, tid: HostPid) -> Result<(), Error> {
        self.running.remove(&tid);
        self.stopped.remove(&tid);
        self.process_of.remove(&tid);
        self.hurrying.remove(&tid);
        self.has_been_waited_for(tid)
    }

    /// Detaches everything after a failed attempt. What does not stop cannot be detached here; it
    /// is when this thread ends, and it runs until then.
    fn let_go(&mut self) {
        for (_, mut thread) in std::mem::take(&mut self.stopped) {
            detach(&mut thread);
        }
    }

    /// The stopped threads by their processes.
    fn sort(mut self) -> Result<Processes, Error> {
        let mut processes = Processes::new();
        let traced = std::mem::take(&mut self.traced).into_iter();
        let traced = traced.map(|(tid, tracer)| {
            (tid, FrozenThread { stopped: None, group_stop: 0, tracer: Some(tracer) })
        });
        for (tid, thread) in std::mem::take(&mut self.stopped).into_iter().chain(traced) {
            let pid = match self.process_of.get(&tid) {
                Some(&pid) => pid,
                // Born while the others were being stopped.
                None => Status::read(&Dir::open(tid)?)?.tgid,
            };
            processes.entry(pid).or_default().insert(tid, thread);
        }
        Ok(processes)
    }
}

impl Frozen {
    /// Stops tasks that were missed: their processes and numbers. (While children end, the kernel's list
    /// of children may leave some out.)
    ///
    /// # Errors
    /// As [`stop`], and if tasks are missed again and again.
    pub fn stop_missed(&mut self, missed: &[(HostPid, HostPid)]) -> Result<(), Error> {
        let Some(&(pid, tid)) = missed.first() else { return Ok(()) };
        self.missed += 1;
        if self.missed > MISSED {
            return Err(Error::Slipped { pid, tid });
        }
        let mut attempt = Attempt::new(pid, PATIENCE);
        for &(pid, tid) in missed {
            let Ok(dir) = Dir::open(pid) else { continue };
            attempt.seize(&dir, pid, tid)?;
            attempt.process_of.insert(tid, pid);
        }
        for (pid, mut threads) in attempt.stop().map_err(|(error, _)| error)?.sort()? {
            self.processes.entry(pid).or_default().append(&mut threads);
        }
        Ok(())
    }
}

/// Stops all threads of one process, and no other process. What it makes before it stops stops with it; of the kernel's own threads
/// none does.
///
/// # Errors
/// If it does not stop in time, has ended or cannot be traced: then it runs on.
pub fn stop_process(pid: HostPid, patience: Duration) -> Result<Frozen, Error> {
    let mut attempt = Attempt::new(pid, patience);
    while attempt.seize_threads(pid)? {}
    attempt.all_ours()?;
    attempt.freeze().map_err(|(error, _)| error)
}

/// Stops one thread that is seized, and no other of its process.
///
/// # Errors
/// If it is gone, or does not stop in time: then it runs on.
pub fn stop_thread(seized: Running, patience: Duration) -> Result<FrozenThread, Error> {
    let tid = seized.tid();
    let mut attempt = Attempt::new(tid, patience);
    attempt.running.insert(tid, seized);
    let mut stopped = attempt.stop().map_err(|(error, _)| error)?.stopped;
    stopped.remove(&tid).ok_or(Error::Ptrace(ptrace::Error::Gone { operation: "stop", tid }))
}

fn ignore_gone<T>(result: ptrace::Result<T>) -> ptrace::Result<()> {
    match result {
        Err(error) if !error.is_gone() => Err(error),
        _ => Ok(()),
    }
}
