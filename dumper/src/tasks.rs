//! What the kernel tells, from outside, of a process and its threads while they stand still.

use arch::regs::GeneralRegs;
use collector::settings::{ProcessSettings, ThreadSettings};
use collector::{Process, Thread};
use ids::HostPid;
use kernel::procfs::{Dir, PosixTimers, ProcFile};
use kernel::ptrace::{RawSigInfo, RseqConfiguration, Stopped};

use crate::error::Error;
use crate::inject::{Bits, Original, ParasiteReport, ThreadState};
use crate::seccomp::Seccomp;
use crate::task_state::{ProcessAttributes, TaskStates, ThreadAttributes};
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
        let leader = ThreadCapture::read(dir, process, stopped, (states, bits), buffer)?;
        let timers = match &process.in_process {
            Some(known) if !known.timers => PosixTimers(Vec::new()),
            _ => PosixTimers::read(dir)?,
        };
        let shared_pending =
            process.threads.get(&process.pid).map_or(0, |leader| leader.shared_pending);
        let attributes = states.of_process(dir, process)?;
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
    /// Reads all of a thread that ptrace and the kernel tell.
    pub(crate) fn read(
        dir: &Dir,
        process: &Process,
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
                (known.robust_list, ROBUST_LIST_BYTES),
            ),
            _ => {
                let failed =
                    |source| Error::Process { operation: "read the robust list", pid: tid, source };
                (stopped.rseq()?, kernel::sched::robust_list(tid).map_err(failed)?)
            }
        };
        let original =
            Original::of(stopped, &rseq, buffer).map_err(|source| Error::Inject { pid, source })?;
        unsupported::of_thread(pid, tid, &original)?;
        let attributes = states.of_thread(dir, process, tid)?;
        let settings = known.in_task.map(|known| known.settings);
        let seccomp = Seccomp::read(stopped, attributes.status.seccomp, &mut states.filters)?;
        unsupported::refuse(pid, seccomp.unsupported(tid).into_iter().collect())?;
        Ok(Self {
            tid,
            original,
            settings: settings.or(attributes.settings).unwrap_or_default(),
            attributes,
            comm: known.comm.as_encoded_bytes().to_vec(),
            rseq,
            robust_list,
            pending: pending(stopped, known.pending, false)?,
            blocked: known.blocked,
            continues: known.in_task.map_or(0, |known| known.continues),
            seccomp,
            in_task: known.in_task.zip(bits).map(|(known, bits)| ThreadState::known(&known, bits)),
        })
    }

    pub(crate) const fn registers(&self) -> &GeneralRegs {
        &self.original.registers
    }
}

fn pending(stopped: &Stopped, set: u64, shared: bool) -> Result<Vec<RawSigInfo>, Error> {
    Ok(if set == 0 { Vec::new() } else { stopped.pending_signals(shared)? })
}
