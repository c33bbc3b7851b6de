//! What the kernel tells, from outside, of a process and its threads while they stand still.

use std::collections::BTreeMap;

use arch::compat;
use arch::regs::{Abi, GeneralRegs};
use arch::tls::Segments;
use collector::settings::{ProcessSettings, ThreadSettings};
use collector::{Process, Thread};
use ids::HostPid;
use kernel::procfs::{Dir, PosixTimers, ProcFile};
use kernel::ptrace::{RawSigInfo, RseqConfiguration, Stopped};
use parasite::task::Time;

use crate::error::Error;
use crate::inject::{Bits, Original, ParasiteReport, ThreadState};
use crate::programs;
use crate::seccomp::Seccomp;
use crate::task_state::{ProcessAttributes, TaskStates, ThreadAttributes};
use crate::tracers::Traced;
use crate::unsupported;

/// A process that stands still.
#[derive(Debug)]
pub(crate) struct TaskCapture {
    pub(crate) attributes: ProcessAttributes,
    pub(crate) settings: ProcessSettings,
    pub(crate) timers: PosixTimers,
    /// Signals pending for the process, oldest first.
    pub(crate) pending: Vec<RawSigInfo>,
    /// The signal by which it was stopped before we came, 0 for none.
    pub(crate) group_stop: i32,
    /// What it says of itself: known from the kernel's structures, or there once the parasite has
    /// run.
    pub(crate) report: Option<ParasiteReport>,
    /// The leader first, then by rising tid.
    pub(crate) threads: Vec<ThreadCapture>,
}

/// A thread that stands still.
#[derive(Debug)]
pub(crate) struct ThreadCapture {
    pub(crate) tid: HostPid,
    pub(crate) original: Original,
    /// Of 32-bit code.
    pub(crate) segments: Option<Segments>,
    pub(crate) attributes: ThreadAttributes,
    pub(crate) settings: ThreadSettings,
    pub(crate) comm: Vec<u8>,
    pub(crate) rseq: RseqConfiguration,
    /// Head and bytes.
    pub(crate) robust_list: (u64, u64),
    /// Signals pending for the thread alone, oldest first.
    pub(crate) pending: Vec<RawSigInfo>,
    /// Signals blocked where it was stopped: in a call that has a mask of its own (`sigsuspend`,
    /// `ppoll`) others than when it goes on.
    pub(crate) blocked: u64,
    /// [`collector::InTask::continues`].
    pub(crate) continues: u64,
    pub(crate) seccomp: Seccomp,
    /// How another thread of the tree traces it, if one does.
    pub(crate) traced: Option<Traced>,
    /// What only the thread knows; there once it, or the kernel's own structures, were asked.
    pub(crate) in_task: Option<ThreadState>,
}

/// Bytes of `struct robust_list_head`, the one size that the kernel accepts.
const ROBUST_LIST_BYTES: u64 = 24;

impl TaskCapture {
    /// Reads all of a process but its other threads. `stopped` is its stopped leader.
    pub(crate) fn read(
        dir: &Dir,
        process: &Process,
        stopped: &Stopped,
        group_stop: i32,
        (states, bits): (&mut TaskStates, Option<&Bits>),
        buffer: &mut Vec<u8>,
    ) -> Result<Self, Error> {
        let attributes = states.of_process(dir, process)?;
        let abi = attributes.abi;
        unsupported::refuse(process.pid, programs::of_actions(process, abi).into_iter().collect())?;
        let leader = ThreadCapture::read(dir, (process, abi), stopped, (states, bits), buffer)?;
        let timers = match &process.in_process {
            Some(known) if !known.timers => PosixTimers(Vec::new()),
            _ => PosixTimers::read(dir)?,
        };
        let shared_pending =
            process.threads.get(&process.pid).map_or(0, |leader| leader.shared_pending);
        let known = process.in_process.as_ref().map(|known| known.settings);
        Ok(Self {
            settings: known.or(attributes.settings).unwrap_or_default(),
            attributes,
            timers,
            pending: pending(stopped, shared_pending, true)?,
            group_stop,
            report: ParasiteReport::known(process, bits),
            threads: vec![leader],
        })
    }
}

impl ThreadCapture {
    /// Reads all of a thread that ptrace and the kernel tell; `abi` is that of its program.
    pub(crate) fn read(
        dir: &Dir,
        (process, abi): (&Process, Abi),
        stopped: &Stopped,
        (states, bits): (&mut TaskStates, Option<&Bits>),
        buffer: &mut Vec<u8>,
    ) -> Result<Self, Error> {
        let (pid, tid) = (process.pid, stopped.tid());
        let known: &Thread = process.threads.get(&tid).ok_or_else(|| Error::Process {
            operation: "find a thread in the inventory",
            pid: tid,
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        let (rseq, robust_list) = match &known.in_task {
            // A kernel that keeps these elsewhere shows an area of no length.
            Some(known) if known.rseq == 0 || known.rseq_bytes != 0 => (
                RseqConfiguration {
                    pointer: known.rseq,
                    size: known.rseq_bytes,
                    signature: known.rseq_signature,
                    ..RseqConfiguration::default()
                },
                match abi {
                    Abi::Native => (known.robust_list, ROBUST_LIST_BYTES),
                    Abi::Compat => (known.compat_robust_list, compat::ROBUST_LIST_BYTES),
                },
            ),
            _ => {
                let failed =
                    |source| Error::Process { operation: "read the robust list", pid: tid, source };
                let robust_list = match abi {
                    Abi::Native => kernel::sched::robust_list(tid),
                    Abi::Compat => kernel::sched::compat_robust_list(tid),
                };
                (stopped.rseq()?, robust_list.map_err(failed)?)
            }
        };
        let original =
            Original::of(stopped, &rseq, buffer).map_err(|source| Error::Inject { pid, source })?;
        unsupported::of_thread(pid, (tid, abi), &original)?;
        let mixed = programs::of_segments(process, tid, abi);
        unsupported::refuse(pid, mixed.into_iter().collect())?;
        let segments = match abi {
            Abi::Native => None,
            Abi::Compat => Some(stopped.segments()?),
        };
        let attributes = states.of_thread(dir, process, tid)?;
        let settings = known.in_task.map(|known| known.settings);
        let seccomp = Seccomp::read(stopped, attributes.status.seccomp, &mut states.filters)?;
        unsupported::refuse(pid, seccomp.unsupported(tid).into_iter().collect())?;
        Ok(Self {
            tid,
            original,
            segments,
            settings: settings.or(attributes.settings).unwrap_or_default(),
            attributes,
            comm: known.comm.as_encoded_bytes().to_vec(),
            rseq,
            robust_list,
            pending: pending(stopped, known.pending, false)?,
            blocked: known.blocked,
            continues: known.in_task.map_or(0, |known| known.continues),
            seccomp,
            traced: None,
            in_task: known.in_task.zip(bits).map(|(known, bits)| ThreadState::known(&known, bits)),
        })
    }

    pub(crate) const fn registers(&self) -> &GeneralRegs {
        &self.original.registers
    }
}

/// Reads what is pending once more, when all else has been read: timers run on while a tree stands still, and what is sent to a process
/// by what it has open. `stopped` tells who stands still.
pub(crate) fn read_pending<'s>(
    tasks: &mut BTreeMap<HostPid, TaskCapture>,
    stopped: impl Fn(HostPid, HostPid) -> Option<&'s Stopped>,
) -> Result<(), Error> {
    for (&pid, task) in tasks {
        if let Some(leader) = stopped(pid, pid) {
            task.take_pending(None, leader)?;
        }
        for index in 0..task.threads.len() {
            if let Some(thread) = stopped(pid, task.threads[index].tid) {
                task.take_pending(Some(index), thread)?;
            }
        }
    }
    Ok(())
}

impl TaskCapture {
    /// Takes over the signals that are pending for a thread, or for the process, in the end. A timer that expires once, and has sent one of
    /// them since the signals were read before, has expired, whatever was left of it when it was asked in between.
    fn take_pending(&mut self, thread: Option<usize>, stopped: &Stopped) -> Result<(), Error> {
        /// For each that it tells the kernel goes through all before it.
        const ALL: usize = 64;
        let pending = match thread {
            Some(index) => &mut self.threads[index].pending,
            None => &mut self.pending,
        };
        // Of few it is seen if one has gone (SIGCONT takes SIGTSTP away); nobody takes one.
        let known = if pending.len() > ALL { pending.len() } else { 0 };
        let found = stopped.pending_signals(thread.is_none(), known)?;
        let before = match known {
            0 => std::mem::replace(pending, found.clone()),
            _ => pending.clone(),
        };
        if known > 0 {
            pending.extend(&found);
        }
        let Some(report) = &mut self.report else { return Ok(()) };
        let is_new = |info: &&RawSigInfo| !before.iter().any(|it| sender(it) == sender(info));
        for sender in found.iter().filter(is_new).filter_map(sender) {
            let setting = match sender {
                Sender::Interval => report.state.interval_timers.first_mut(),
                Sender::Posix(id) => report
                    .timers
                    .iter_mut()
                    .find(|timer| timer.id == id)
                    .map(|timer| &mut timer.setting),
            };
            if let Some(setting) = setting.filter(|it| it.interval == Time::default()) {
                setting.value = Time::default();
            }
        }
        Ok(())
    }
}

/// A timer that has sent a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    /// `ITIMER_REAL`.
    Interval,
    /// The POSIX timer with this id.
    Posix(i32),
}

/// The timer that sent a signal (`struct kernel_siginfo`: `si_signo`, `si_code`, and `_timer._tid`).
fn sender(info: &RawSigInfo) -> Option<Sender> {
    let field =
        |at: usize| i32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    match (field(0), field(8)) {
        (libc::SIGALRM, libc::SI_KERNEL) => Some(Sender::Interval),
        (_, libc::SI_TIMER) => Some(Sender::Posix(field(16))),
        _ => None,
    }
}

fn pending(stopped: &Stopped, set: u64, shared: bool) -> Result<Vec<RawSigInfo>, Error> {
    Ok(if set == 0 { Vec::new() } else { stopped.pending_signals(shared, 0)? })
}
