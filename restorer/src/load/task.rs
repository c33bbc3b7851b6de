//! The images of one process: `core-TID.img`, `ids-PID.img`, `fs-PID.img`, `mm-PID.img`.

use arch::image::{Absent, ThreadImage};
use arch::regs::Abi;
use ids::ImagePid;
use images::messages::{
    CoreEntry, CredsEntry, SaEntry, SignalQueueEntry, TaskCoreEntry, ThreadCoreEntry,
};
use images::{checkpoint, names};
use parasite::restorer::SIGINFO_BYTES;
use support::Refusal;

use super::filters::Filters;
use super::memfd::Nameless;
use super::memory;
use super::registers;
use super::store::Store;
use super::{Body, Process, State, Thread};
use crate::dead;
use crate::error::Error;
use crate::levels;

/// Signals with an action of their own: 1 to 64 without SIGKILL and SIGSTOP.
const ACTIONS: usize = 62;
const LAST_SIGNAL: u32 = 64;
const SCHED_DEADLINE: u32 = 6;

/// Takes up one process.
pub(super) fn load(
    process: checkpoint::Process,
    (nameless, filters): (&Nameless, &mut Filters),
    store: &mut Store,
) -> Result<Process, Error> {
    let pid = known(process.pid)?;
    let object = format!("process {pid}");
    let core = process.task;
    if let State::Dead { status } = process.state
        && !dead::can_be(status)
    {
        return Err(Error::image(object, format!("nothing ends with the status {status:#x}")));
    }
    let body = match process.body {
        None => None,
        Some(body) => {
            check_process(pid, &core)?;
            Some(load_body(pid, (process.threads, &core), body, (nameless, filters), store)?)
        }
    };
    Ok(Process {
        pid,
        ppid: known_or_outside(process.ppid)?,
        pgid: known_or_outside(process.pgid)?,
        sid: known_or_outside(process.sid)?,
        nested: process.nested,
        state: process.state,
        core,
        body,
    })
}

/// A number that a task can have.
fn known(number: u32) -> Result<ImagePid, Error> {
    ImagePid::try_from(number)
        .map_err(|error| Error::image(format!("process {number}"), error.to_string()))
}

/// The same, or 0 for what is outside of the pid namespace.
fn known_or_outside(number: u32) -> Result<Option<ImagePid>, Error> {
    if number == 0 { Ok(None) } else { known(number).map(Some) }
}

fn load_body(
    pid: ImagePid,
    (threads, task): (Vec<checkpoint::Thread>, &TaskCoreEntry),
    body: checkpoint::Body,
    (nameless, filters): (&Nameless, &mut Filters),
    store: &mut Store,
) -> Result<Body, Error> {
    let threads = threads.into_iter().map(|entry| thread(entry.tid, entry.core, task, filters));
    let threads = threads.collect::<Result<Vec<_>, Error>>()?;
    let checkpoint::Body { ids, lender, mm, mut mappings, pages, fs } = body;
    nameless.correct(&mut mappings);
    check_kinds(pid, &threads, task)?;
    let abi = threads.first().map_or(Abi::Native, |leader| leader.processor.abi());
    memory::check(pid, abi, &mm, &mappings)?;
    let (runs, vdso) = memory::private_runs(pid, &mappings, &pages, store)?;
    Ok(Body { threads, lender, mm, mappings, runs, vdso, fs, ids })
}

fn thread(
    number: u32,
    mut core: CoreEntry,
    task: &TaskCoreEntry,
    filters: &mut Filters,
) -> Result<Thread, Error> {
    let tid = known(number)?;
    let object = format!("thread {tid}");
    let missing = |what| Error::image(names::core(number).name(), format!("no {what}"));
    let processor = ThreadImage::take(&mut core).map_err(|absent| match absent {
        Absent::Missing => missing("registers"),
        Absent::OtherProcessor => {
            Error::refused(support::host::OTHER_PROCESSOR.of(tid.get(), object.as_str()))
        }
    })?;
    let mut own = core.thread_core.ok_or_else(|| missing("thread state"))?;
    check_thread(tid, &object, &own)?;
    // Images of before CRIU 3.7 have it once for all threads.
    own.seccomp_mode = own.seccomp_mode.or(task.old_seccomp_mode);
    own.seccomp_filter = own.seccomp_filter.or(task.old_seccomp_filter);
    let filters = filters.of_thread(&own).map_err(|what| Error::image(object, what))?;
    let levels = levels::of_thread(tid, core.nested.as_ref())?;
    let thread = Thread { tid, levels, processor, core: own, filters };
    registers::general(&thread)?;
    registers::segments(&thread)?;
    Ok(thread)
}

/// Refuses a process that is not all of one kind of code: its signal handlers are, which leave no choice.
fn check_kinds(pid: ImagePid, threads: &[Thread], task: &TaskCoreEntry) -> Result<(), Error> {
    let mut kinds = threads.iter().map(|thread| thread.processor.abi());
    let Some(abi) = kinds.next() else { return Ok(()) };
    let is_compat = |action: &SaEntry| action.compat_sigaction == Some(true);
    // What is not run is of no kind.
    let mut handlers = task.sigactions.iter().filter(|action| action.sigaction > 1);
    if kinds.all(|kind| kind == abi)
        && handlers.all(|action| is_compat(action) == (abi == Abi::Compat))
    {
        return Ok(());
    }
    let refusal = support::images::MIXED_CODE;
    Err(Error::refused(refusal.of(pid.get(), format!("process {pid}"))))
}

fn check_thread(tid: ImagePid, object: &str, core: &ThreadCoreEntry) -> Result<(), Error> {
    let refuse = |refusal: Refusal| Err(Error::refused(refusal.of(tid.get(), object)));
    if core.sched_policy == Some(SCHED_DEADLINE) {
        return refuse(support::images::DEADLINE);
    }
    let creds = core.creds.as_ref().ok_or_else(|| Error::image(object, "it has no credentials"))?;
    if creds.lsm_profile.is_some() || creds.lsm_sockcreate.is_some() {
        return refuse(support::images::CONFINED);
    }
    check_signals(object, core.signals_p.as_ref())
}

fn check_process(pid: ImagePid, core: &TaskCoreEntry) -> Result<(), Error> {
    let object = &format!("process {pid}");
    if core.sigactions.len() != ACTIONS {
        let found = core.sigactions.len();
        return Err(Error::image(object, format!("{found} signal actions instead of {ACTIONS}")));
    }
    personality(core.personality).ok_or_else(|| {
        Error::image(object, format!("{:#x} is no personality", core.personality))
    })?;
    check_signals(object, core.signals_s.as_ref())
}

/// The personality that an image of a process means. CRIU reads the kernel's hexadecimal digits as decimal
/// ones: 0x40000 becomes 40,000. What programs use does not look like the outcome of that, apart from
/// the few values that are the same either way. But the kernel takes any value, save the one by which it is asked; so
/// our images have such also with the leader.
pub(crate) fn personality(stored: u32) -> Option<u32> {
    /// The lowest byte says whose behaviour is wanted; these are the ones that Linux has.
    const DOMAINS: std::ops::RangeInclusive<u32> = 0..=0x11;
    /// Bits 17 to 27 switch single things on or off; the rest of Linux's "bug emulation" lies in
    /// the second byte's upper half.
    const SWITCHES: u32 = 0x0ffe_0000;
    /// With this the call only asks.
    const ASKED: u32 = u32::MAX;
    let valid = |value: u32| DOMAINS.contains(&(value & 0xff)) && value & !(SWITCHES | 0xff) == 0;
    if valid(stored) {
        return Some(stored);
    }
    let misread = u32::from_str_radix(&stored.to_string(), 16).ok().filter(|&value| valid(value));
    misread.or(Some(stored)).filter(|&value| value != ASKED)
}

fn check_signals(object: &str, queue: Option<&SignalQueueEntry>) -> Result<(), Error> {
    for entry in queue.iter().flat_map(|queue| &queue.signals) {
        let signal = signal_of(&entry.siginfo);
        if entry.siginfo.len() > SIGINFO_BYTES || signal == 0 || signal > LAST_SIGNAL {
            return Err(Error::image(object, format!("{signal} is no pending signal")));
        }
    }
    Ok(())
}

/// The number in a `siginfo_t`, 0 when there is none.
pub(crate) fn signal_of(siginfo: &[u8]) -> u32 {
    siginfo.first_chunk().map_or(0, |word| u32::from_le_bytes(*word))
}

/// Users and groups, and supplementary groups.
pub(crate) fn ids_of(creds: Option<&CredsEntry>) -> Option<([u32; 8], &[u32])> {
    let creds = creds?;
    let CredsEntry { uid, euid, suid, fsuid, gid, egid, sgid, fsgid, .. } = *creds;
    Some(([uid, euid, suid, fsuid, gid, egid, sgid, fsgid], &creds.groups))
}

/// A capability set from its two words.
pub(crate) fn capability_set(words: &[u32]) -> u64 {
    words
        .iter()
        .take(2)
        .enumerate()
        .fold(0, |set, (index, word)| set | u64::from(*word) << (32 * index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn personalities_are_taken_as_they_were_meant() {
        assert_eq!(personality(0), Some(0));
        assert_eq!(personality(0x4_0000), Some(0x4_0000));
        assert_eq!(personality(40000), Some(0x4_0000));
        assert_eq!(personality(8), Some(8));
        assert_eq!(personality(440_008), Some(0x44_0008));
        assert_eq!(personality(0xffdc_38e9), Some(0xffdc_38e9));
        assert_eq!(personality(0xffff_ffff), None);
    }

    #[test]
    fn capability_words_are_low_first() {
        assert_eq!(capability_set(&[1, 2, 3]), 0x2_0000_0001);
        assert_eq!(capability_set(&[]), 0);
    }
}
