//! What the kernel tells, from outside, of a process and its threads while they stand still.

use arch::regs::GeneralRegs;
use kernel::procfs::{
    Auxv, Dir, Limits, LoginUid, OomScoreAdj, PosixTimers, ProcFile, Stat, Status,
};
use kernel::ptrace::{RawSigInfo, RseqConfiguration, Stopped};
use kernel::sched::Scheduling;

use crate::error::Error;
use crate::inject::{Original, Report, ThreadState};
use crate::obstacles;

/// A process that stands still.
#[derive(Debug)]
pub(crate) struct TaskState {
    pub(crate) stat: Stat,
    pub(crate) limits: Limits,
    pub(crate) timers: PosixTimers,
    pub(crate) auxv: Auxv,
    pub(crate) oom_score_adj: i32,
    /// `u32::MAX` for none.
    pub(crate) login_uid: u32,
    pub(crate) personality: u32,
    /// Signals pending for the process, oldest first.
    pub(crate) pending: Vec<RawSigInfo>,
    /// The signal by which it was stopped before we came, 0 for none.
    pub(crate) group_stop: i32,
    /// What the parasite said; there once it has run.
    pub(crate) report: Option<Report>,
    /// The leader first, then by rising tid.
    pub(crate) threads: Vec<ThreadCapture>,
}

/// A thread that stands still.
#[derive(Debug)]
pub(crate) struct ThreadCapture {
    pub(crate) tid: i32,
    pub(crate) original: Original,
    pub(crate) status: Status,
    pub(crate) comm: Vec<u8>,
    pub(crate) rseq: RseqConfiguration,
    pub(crate) robust_list: (u64, u64),
    pub(crate) scheduling: Scheduling,
    pub(crate) affinity: Vec<u8>,
    /// Signals pending for the thread alone, oldest first.
    pub(crate) pending: Vec<RawSigInfo>,
    /// What only the thread knows; there once it, or the kernel's own structures, were asked.
    pub(crate) in_task: Option<ThreadState>,
}

impl TaskState {
    /// Reads all of a process but its other threads. `stopped` is its stopped leader.
    pub(crate) fn read(dir: &Dir, stopped: &Stopped, group_stop: i32) -> Result<Self, Error> {
        let leader = ThreadCapture::read(dir, stopped)?;
        let mut buffer = Vec::with_capacity(4096);
        let timers = PosixTimers::read_with(dir, &mut buffer)?;
        dir.read("personality", &mut buffer)?;
        let personality = std::str::from_utf8(&buffer)
            .ok()
            .and_then(|text| u32::from_str_radix(text.trim(), 16).ok())
            .unwrap_or(0);
        let pending = match leader.status.shared_pending {
            0 => Vec::new(),
            _ => stopped.pending_signals(true)?,
        };
        Ok(Self {
            stat: Stat::read_with(dir, &mut buffer)?,
            limits: Limits::read_with(dir, &mut buffer)?,
            timers,
            auxv: Auxv::read_with(dir, &mut buffer)?,
            oom_score_adj: OomScoreAdj::read_with(dir, &mut buffer)?.0,
            // A kernel without auditing has no such file, and then there is no such id.
            login_uid: LoginUid::read_with(dir, &mut buffer).map_or(u32::MAX, |uid| uid.0),
            personality,
            pending,
            group_stop,
            report: None,
            threads: vec![leader],
        })
    }
}

impl ThreadCapture {
    /// Reads all of a thread that ptrace and the kernel tell.
    pub(crate) fn read(dir: &Dir, stopped: &Stopped) -> Result<Self, Error> {
        let tid = stopped.tid();
        let thread = dir.thread(tid)?;
        let status = Status::read(&thread)?;
        let original =
            Original::of(stopped).map_err(|source| Error::Inject { pid: status.tgid, source })?;
        obstacles::of_thread(status.tgid, tid, &original)?;
        let failed = |operation| move |source| Error::Process { operation, pid: tid, source };
        let mut comm = Vec::with_capacity(32);
        thread.read("comm", &mut comm)?;
        comm.pop_if(|last| *last == b'\n');
        Ok(Self {
            tid,
            original,
            comm,
            rseq: stopped.rseq()?,
            robust_list: kernel::sched::robust_list(tid).map_err(failed("read the robust list"))?,
            scheduling: kernel::sched::scheduling(tid).map_err(failed("read the scheduling"))?,
            affinity: kernel::sched::affinity(tid).map_err(failed("read the affinity"))?,
            pending: if status.pending == 0 {
                Vec::new()
            } else {
                stopped.pending_signals(false)?
            },
            status,
            in_task: None,
        })
    }

    pub(crate) const fn registers(&self) -> &GeneralRegs {
        &self.original.registers
    }
}
