//! The process that holds the tree while it is built, and the moment at which it lets go.
//!
//! Tasks are let go one after the other, so whoever does it could be killed in the middle. So the
//! tree is held by a process of its own, the *holder*: a copy of the one that was asked to restore
//! (the *commander*), which traces all tasks and is known to nobody. They speak over a pair of
//! sockets:
//!
//! ```text
//! holder: "entered"  if the root has namespaces of its own: all tasks are in theirs; one word, and it goes on
//! commander: go      nobody objects
//! holder: "ready"    everything is built; one word, and it runs
//! commander: go      the switch: it has noted down what there will be
//! holder: "done"     all have been let go
//! commander: go      only if the tree is to live until_told: who asked has been told
//! holder: go         it traces the commander, which ends
//! ```
//!
//! | killed | before the switch | after it |
//! |---|---|---|
//! | the commander | the holder dies with it (`PR_SET_PDEATHSIG`, and at the switch the end of the sockets), and the kernel ends what the holder traces | the holder lets go of all, and the note of the commander tells of the tree |
//! | the holder | the kernel ends what it traces; the restore has failed | before "done": the commander ends what has been let go; the restore has failed |
//!
//! So after either of them is killed all live or nobody does.
//!
//! An engine of containers knows of a container by what it is told when all is over, and forgets one of which it hears
//! nothing, or whose restore does not end well after that. So it has the holder stay until that has been said
//! ([`Untold`]) and then trace the commander to its end, and end the tree if either does not come.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use ids::{HostPid, ImagePid};
use kernel::descriptors::duplicate_from;
use kernel::pidfd::PidFd;
use kernel::process::{Fork, exit_now, fork_as_any, set_signal_mask, wait_status};
use kernel::procfs::{Dir, ProcFile, Stat};
use kernel::ptrace::{Event, Options, Running, Stop};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::failure::Failure;
use crate::pids::Pids;

/// What the holder says, a line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Entered,
    Ready(Vec<(HostPid, ImagePid)>),
    Done,
    Failed(Failure),
}

const GO: u8 = b'g';
const FOR_GOOD: u8 = b'f';

/// How long what was killed may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// How far a tree is.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// The tasks are in their namespaces. It is told if the root has some of its own.
    Entered,
    /// All is built, and about to be let go: who is who.
    Built(Pids),
}

/// The commander's hold on the holder.
#[derive(Debug)]
pub(crate) struct Holder {
    pid: HostPid,
    socket: File,
    /// The tree has a pid namespace of its own.
    inside: bool,
}

/// A tree that has been let go, and whoever asked for it has not been told: if this is dropped, or its process
/// killed, the tree is ended.
#[derive(Debug)]
#[must_use = "the tree ends with it"]
pub struct Untold(Option<Holder>);

impl Untold {
    /// Who asked for the tree has been told that it lives, and learns it once more by the end of this process, which
    /// is next: if that ends otherwise than by itself and well, the tree is ended.
    pub fn told(mut self) {
        if let Some(mut holder) = self.0.take() {
            holder.go();
            // It is there, or gone, and then nobody is ended by it.
            drop(holder.socket.read_exact(&mut [0]));
        }
    }

    /// The tree lives, whatever becomes of this process.
    pub fn told_for_good(mut self) {
        if let Some(mut holder) = self.0.take() {
            drop(holder.socket.write_all(&[FOR_GOOD]));
            holder.await_end();
        }
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        if let Some(holder) = self.0.take() {
            holder.await_end();
        }
    }
}

/// The holder's side.
#[derive(Debug)]
pub(crate) struct Held {
    commander: HostPid,
    socket: File,
}

fn operation(what: &'static str) -> impl Fn(nix::Error) -> Error {
    move |errno| Error::kernel(what)(errno.into())
}

/// Which of the two the caller has become.
#[derive(Debug)]
pub(crate) enum Side {
    Commander(Holder),
    Holder(Held),
}

/// Makes the holder, a copy of the caller, with one of the `numbers`, none of which the tree wants.
/// The tree that it holds may be `inside` a pid namespace of its own.
pub(crate) fn split(
    numbers: impl Iterator<Item = HostPid>,
    base: RawFd,
    inside: bool,
) -> Result<Side, Error> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
        .map_err(operation("make a pair of sockets"))?;
    let keep = |end| duplicate_from(end, base).map_err(Error::kernel("keep a socket"));
    let (ours, theirs) = (File::from(keep(&ours)?), File::from(keep(&theirs)?));
    let commander = HostPid::own();
    let made = fork_as_any(numbers).map_err(Error::kernel("create a process to hold the tree"))?;
    match made {
        Some((pid, Fork::Parent)) => Ok(Side::Commander(Holder { pid, socket: ours, inside })),
        Some((_, Fork::Child)) => Ok(Side::Holder(Held { commander, socket: theirs })),
        None => Err(Error::refused(support::host::NO_NUMBER.of(0, "the tree"))),
    }
}

impl Holder {
    /// Descriptors that nobody of the tree must have.
    pub(crate) fn socket(&self) -> &File {
        &self.socket
    }

    /// Waits until the tree is built, gives the word, and waits until the tree has been let go. Before each
    /// word `reached` is told how far the tree is, and may refuse. After an error nobody of it (`tasks`, made since `since`, as
    /// [`started`] tells) is left. A holder that stays until who asked has been told is given back.
    pub(crate) fn finish(
        mut self,
        (tasks, since): (&[HostPid], u64),
        stays: bool,
        mut reached: impl FnMut(Stage) -> Result<(), Error>,
    ) -> Result<Option<Untold>, Error> {
        let (mut lost, mut tasks) = (false, tasks.to_vec());
        let mut said = self.next();
        let mut refused = Ok(());
        if matches!(said, Some(Word::Entered)) {
            refused = reached(Stage::Entered);
            if refused.is_ok() {
                self.go();
                said = self.next();
            }
        }
        let result = refused.and_then(|()| match said {
            Some(Word::Ready(pairs)) => {
                // In a pid namespace of others they do not end with the root.
                tasks.extend(pairs.iter().map(|(host, _)| *host));
                self.built(pairs).and_then(&mut reached).and_then(|()| {
                    let given = self.go();
                    match self.next() {
                        Some(Word::Done) => Ok(()),
                        said => {
                            lost = true;
                            Err(said.and_then(Word::failure).unwrap_or_else(|| self.lost(given)))
                        }
                    }
                })
            }
            said => Err(said.and_then(Word::failure).unwrap_or_else(|| {
                lost = true;
                self.lost(false)
            })),
        });
        if stays && result.is_ok() {
            return Ok(Some(Untold(Some(self))));
        }
        let pid = self.pid;
        drop(self);
        wait_status(pid).map_err(Error::kernel("wait for the process that holds the tree"))?;
        if lost {
            end(&tasks, since);
        }
        if result.is_err() {
            take_away(&tasks, since);
        }
        result.map(|()| None)
    }

    /// Lets go of it, and waits until it has ended.
    fn await_end(self) {
        let pid = self.pid;
        drop(self);
        if let Err(error) = wait_status(pid) {
            tracing::warn!("wait for the process that holds the tree: {error}");
        }
    }

    /// The stage that is reached when all is built, of tasks that are `pairs` of numbers.
    fn built(&self, pairs: Vec<(HostPid, ImagePid)>) -> Result<Stage, Error> {
        Ok(Stage::Built(if self.inside { Pids::told(pairs)? } else { Pids::of(false) }))
    }

    /// Whether the word could be given. If the holder is gone, it is seen at its next word.
    fn go(&mut self) -> bool {
        self.socket.write_all(&[GO]).is_ok()
    }

    fn next(&mut self) -> Option<Word> {
        // It says nothing more before it is answered, so no more than a line is there.
        let mut line = Vec::new();
        BufReader::new(&self.socket).read_until(b'\n', &mut line).ok()?;
        serde_json::from_slice(&line).ok()
    }

    fn lost(&self, given: bool) -> Error {
        let what = if given {
            "it was ended while it let go of the tree; what it had let go was ended too"
        } else {
            "it was ended while it built the tree, and what it had built with it"
        };
        Error::Lost { pid: self.pid.get(), what: what.to_owned() }
    }
}

impl Word {
    fn failure(self) -> Option<Error> {
        match self {
            Self::Failed(failure) => Some(failure.into_error()),
            Self::Entered | Self::Ready(_) | Self::Done => None,
        }
    }
}

/// Ends all of the tree, and waits until nobody of it is left. Before the word was given all are being ended already but for one that
/// was being handed over to its tracer; afterwards some had been let go.
fn end(tasks: &[HostPid], since: u64) {
    let ours: Vec<PidFd> = tasks
        .iter()
        .filter_map(|&pid| PidFd::open(pid).ok())
        .filter(|task| started(task.pid()).is_some_and(|start| start >= since))
        .collect();
    let deadline = Instant::now() + PATIENCE;
    for task in &ours {
        // It may have ended already.
        drop(task.signal(libc::SIGKILL));
    }
    for task in &ours {
        if let Err(error) = task.await_end(false, deadline) {
            tracing::warn!("wait for the end of process {}: {error}", task.pid());
        }
    }
}

/// Takes away the dead whose parents no longer can: they have come to us. The first process of a pid namespace ends when those
/// are gone that were in it.
fn take_away(tasks: &[HostPid], since: u64) {
    const PATIENCE: Duration = Duration::from_secs(2);
    const PAUSE: Duration = Duration::from_millis(1);
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The dead of other parents are theirs.
        let is_left =
            |task: &HostPid| is_alive(*task) && started(*task).is_some_and(|start| start >= since);
        let some_are_left = tasks.iter().any(is_left);
        while matches!(kernel::ptrace::poll_any(), Ok(Some(_))) {}
        if !some_are_left || Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether a process has not ended.
fn is_alive(pid: HostPid) -> bool {
    let stat = Dir::open(pid).and_then(|dir| Stat::read(&dir));
    stat.is_ok_and(|stat| !matches!(stat.state, b'Z' | b'X' | b'x'))
}

/// When a process was started, in ticks since the machine was.
pub(crate) fn started(pid: HostPid) -> Option<u64> {
    let stat = Dir::open(pid).and_then(|dir| Stat::read(&dir));
    stat.ok().map(|stat| stat.start_time)
}

fn say(socket: &mut File, word: &Word) {
    let Ok(mut line) = serde_json::to_vec(word) else { return };
    line.push(b'\n');
    // Nobody may be there to hear it any more.
    drop(socket.write_all(&line));
}

impl Held {
    /// The holder's life: `hold` builds the tree and lets it go.
    /// Of what it gives back (nobody, if that does not matter) it ends all if who asked is never told.
    pub(crate) fn live(mut self, hold: impl FnOnce(&mut Self) -> Result<Vec<PidFd>, Error>) -> ! {
        let begun = prctl::set_pdeathsig(Signal::SIGKILL)
            .map_err(operation("ask to die with the restore"))
            // Out of the reach of what is sent to the commander's process group.
            .and_then(|()| nix::unistd::setsid().map(drop).map_err(operation("found a session")));
        if nix::unistd::getppid().as_raw() != self.commander.get() {
            exit_now(1);
        }
        // A panic must not unwind into the commander's code, of which this process is a copy.
        let work = std::panic::AssertUnwindSafe(|| begun.and_then(|()| hold(&mut self)));
        let (word, tasks) = match std::panic::catch_unwind(work) {
            Ok(Ok(tasks)) => (Word::Done, tasks),
            Ok(Err(error)) => (Word::Failed(Failure::of(&error)), Vec::new()),
            Err(_) => exit_now(1),
        };
        say(&mut self.socket, &word);
        if !tasks.is_empty() && !self.is_told() {
            for task in &tasks {
                // It may have ended already.
                drop(task.signal(libc::SIGKILL));
            }
        }
        exit_now(0)
    }

    /// Says that the tasks are in their namespaces, and waits until nobody objects.
    pub(crate) fn entered(&mut self) -> Result<(), Error> {
        say(&mut self.socket, &Word::Entered);
        if self.hear() {
            return Ok(());
        }
        Err(Error::Lost {
            pid: self.commander.get(),
            what: "it does not want the tree any more".to_owned(),
        })
    }

    fn hear(&mut self) -> bool {
        self.heard() == Some(GO)
    }

    fn heard(&mut self) -> Option<u8> {
        let mut word = [0];
        self.socket.read_exact(&mut word).ok().map(|()| word[0])
    }

    /// Whether who asked for the tree has been told that it lives, and sees the commander end well.
    fn is_told(&mut self) -> bool {
        match self.heard() {
            Some(GO) => self.sees_the_end(),
            Some(FOR_GOOD) => true,
            _ => false,
        }
    }

    /// Whether the commander ends by itself and well, which its tracer is told.
    fn sees_the_end(&mut self) -> bool {
        let traced = Running::seize(self.commander, Options::empty());
        drop(self.socket.write_all(&[GO]));
        let mut commander = match traced {
            Ok(commander) => commander,
            // Somebody traces it already, or nobody can any more.
            Err(_) => return is_alive(self.commander),
        };
        loop {
            let stopped = match commander.wait() {
                Ok(Event::Stopped(stopped)) => stopped,
                Ok(Event::Ended { status, .. }) => return status == 0,
                Err(_) => return false,
            };
            let resumed = match stopped.stop() {
                Stop::Signal(signal) => stopped.resume(signal),
                Stop::Group(_) => stopped.listen(),
                _ => stopped.resume(0),
            };
            match resumed {
                Ok(running) => commander = running,
                // It was killed as it stood: its end says so.
                Err(_) => return false,
            }
        }
    }

    /// Says that the tree is built, and who is who in it, and waits for the word; whether it was given. From then on
    /// nothing but SIGKILL ends this process before it has let go.
    pub(crate) fn ask(&mut self, pids: &Pids) -> Result<bool, Error> {
        set_signal_mask(u64::MAX).map_err(Error::kernel("block signals"))?;
        // From here on the end of the sockets tells that the commander is gone.
        prctl::set_pdeathsig(None).map_err(operation("ask to outlive the restore"))?;
        say(&mut self.socket, &Word::Ready(pids.pairs()));
        Ok(self.hear())
    }
}
