//! The parasite's life in one process, seen from outside.
//!
//! The steps of all processes are taken side by side: each method ends with the task running, the
//! next one begins by waiting for it.

use std::io;
use std::os::fd::OwnedFd;

use ::parasite::PARASITE;
use ::parasite::plain::{bytes_of, bytes_of_mut};
use ::parasite::task::{Parasite, SIGNALS, SigAction, TimerState};
use arch::memory::PAGE_SIZE;
use arch::regs::{Abi, GeneralRegs};
use arch::syscall::nr;
use arch::{fpu, settings};
use collector::Process;
use ids::HostPid;
use kernel::ptrace::{Options, Running, Stop, Stopped};

use crate::filters::{Call, RETURN};

use super::return_frame::Detour;
use super::{Bits, Error, Gadgets, Original, ReturnFrame, Room, ThreadState, expect_stop};

/// Bytes of stack that the parasite gets; it uses a few hundred.
const STACK_BYTES: usize = 4096;

/// What the parasite is to do, and where.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The process, whose leader runs the parasite.
    pub(crate) pid: HostPid,
    /// Where the task's own code has what is needed.
    pub(crate) gadgets: Gadgets,
    /// An address range of [`Request::region_bytes`] where the process has no mapping.
    pub(crate) region: u64,
    /// Signal to ring with, which the process ignores, 0 for none.
    pub(crate) bell: i32,
    /// Ids of the POSIX timers.
    pub(crate) timers: Vec<i32>,
    /// Whether it is to donate a userfaultfd instead of reporting.
    pub(crate) uffd_handover: bool,
}

impl Request {
    /// Bytes of the region that a parasite with so many timers needs.
    pub(crate) fn region_bytes(timers: usize) -> u64 {
        let bytes = state_offset() + size_of::<Parasite>() + timers * size_of::<TimerState>();
        (bytes + STACK_BYTES).next_multiple_of(PAGE_SIZE as usize) as u64
    }
}

/// Every call that is made in a task by a parasite that reports, from the mapping of its region to the return. A filter
/// that does not let one pass could end the task.
pub(crate) fn calls(abi: Abi, has_timers: bool) -> Vec<Call> {
    const ASKED_OF_PRCTL: [u64; 8] = [
        libc::PR_GET_PDEATHSIG as u64,
        libc::PR_GET_DUMPABLE as u64,
        libc::PR_GET_SECUREBITS as u64,
        libc::PR_GET_TIMERSLACK as u64,
        libc::PR_GET_CHILD_SUBREAPER as u64,
        libc::PR_GET_TID_ADDRESS as u64,
        libc::PR_GET_THP_DISABLE as u64,
        settings::ask_clock(0).1[0],
    ];
    const ASKED_OF_ARCH_PRCTL: [u64; 2] =
        [settings::ASK_IDENTIFICATION.1[0], settings::ask_components(0).1[0]];
    let no_protection = [None, Some(PAGE_SIZE), Some(0), None, None, None];
    let mut calls = vec![
        MAP.made_at(abi),
        Call::any("rt_sigaction", nr::RT_SIGACTION),
        Call::any("getitimer", nr::GETITIMER),
        Call::any("sigaltstack", nr::SIGALTSTACK),
        Call::any("brk", nr::BRK),
        Call::any("membarrier", nr::MEMBARRIER),
        Call::with("pkey_mprotect", nr::PKEY_MPROTECT, no_protection),
        Call::any("getpid", nr::GETPID),
        Call::any("gettid", nr::GETTID),
        Call::any("tgkill", nr::TGKILL),
        Call::any("munmap", nr::MUNMAP).made_at(abi),
        RETURN.made_at(abi),
    ];
    calls.extend(ASKED_OF_PRCTL.map(|option| Call::of("prctl", nr::PRCTL, option)));
    calls.extend(ASKED_OF_ARCH_PRCTL.map(|option| Call::of("arch_prctl", nr::ARCH_PRCTL, option)));
    if has_timers {
        calls.push(Call::any("timer_gettime", nr::TIMER_GETTIME));
        calls.push(Call::any("timer_getoverrun", nr::TIMER_GETOVERRUN));
    }
    calls
}

/// The same of one that hands over a userfaultfd, but for the call that makes it.
pub(crate) fn calls_of_handover(abi: Abi) -> [Call; 4] {
    let at_door = [MAP, Call::any("munmap", nr::MUNMAP), RETURN].map(|call| call.made_at(abi));
    let [map, unmap, home] = at_door;
    [map, Call::any("close", nr::CLOSE), unmap, home]
}

/// How a parasite makes a userfaultfd.
pub(crate) const MAKE_USERFAULTFD: Call = Call::any("userfaultfd", nr::USERFAULTFD);

/// How its region is mapped.
const MAP: Call = Call::with(
    "mmap",
    nr::MMAP,
    [None, None, Some(PROTECTION), Some(FLAGS), Some(u64::MAX), Some(0)],
);
const PROTECTION: u64 = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as u64;
const FLAGS: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;

/// Offset of [`Parasite`] in the region.
const fn state_offset() -> usize {
    PARASITE.code.len().next_multiple_of(64)
}

/// What the parasite reported.
#[derive(Debug)]
pub(crate) struct ParasiteReport {
    /// The fixed part.
    pub(crate) state: Box<Parasite>,
    /// The POSIX timers, in the order in which they were asked for.
    pub(crate) timers: Vec<TimerState>,
}

impl ParasiteReport {
    /// What the parasite would report, where the kernel's structures tell all of it.
    pub(crate) fn known(process: &Process, bits: Option<&Bits>) -> Option<Self> {
        let bits = bits?;
        let known = process.in_process.as_deref()?;
        let leader = process.threads.get(&process.pid)?.in_task?;
        // The structures say that there are timers, not what is left of them; and of restrictions
        // to huge pages there are kinds.
        if known.timers || known.thp_restricted {
            return None;
        }
        let thread = ThreadState::known(&leader, bits);
        let mut state = Box::new(Parasite {
            alt_stack: thread.alt_stack,
            clear_child_tid: thread.clear_child_tid,
            parent_death_signal: thread.parent_death_signal,
            program_break: known.program_break,
            dumpable: known.dumpable,
            child_subreaper: i32::from(known.child_subreaper),
            securebits: leader.securebits.cast_signed(),
            timer_slack: leader.settings.timer_slack,
            membarrier: known.membarrier,
            permitted: known.permitted_components,
            identification_faults: thread.identification_faults.into(),
            clock_faults: thread.clock_faults.into(),
            protection_keys: known.settings.protection_keys & !known.settings.kernels_key(),
            ..Parasite::EMPTY
        });
        if known.actions.len() != SIGNALS {
            return None;
        }
        for (to, from) in state.actions.iter_mut().zip(&known.actions) {
            *to = SigAction {
                handler: from.handler,
                flags: from.flags & !arch::compat::ACTION_FLAGS,
                restorer: from.restorer,
                mask: from.mask,
            };
        }
        Some(Self { state, timers: Vec::new() })
    }

    /// What the leader said of itself as a thread.
    pub(crate) fn leader(&self) -> ThreadState {
        ThreadState {
            alt_stack: self.state.alt_stack,
            clear_child_tid: self.state.clear_child_tid,
            parent_death_signal: self.state.parent_death_signal,
            identification_faults: self.state.identification_faults != 0,
            clock_faults: self.state.clock_faults != 0,
            timer_slack: self.state.timer_slack,
            securebits: self.state.securebits.cast_unsigned(),
        }
    }

    /// The first field in which two reports differ.
    pub(crate) fn differs(&self, other: &Self) -> Option<&'static str> {
        let (one, other) = (&self.state, &other.state);
        let fields = [
            ("signal actions", one.actions == other.actions),
            ("interval timers", one.interval_timers == other.interval_timers),
            ("alternate signal stack", one.alt_stack == other.alt_stack),
            ("clear_child_tid", one.clear_child_tid == other.clear_child_tid),
            ("program break", one.program_break == other.program_break),
            ("parent death signal", one.parent_death_signal == other.parent_death_signal),
            ("dumpable flag", one.dumpable == other.dumpable),
            ("child subreaper flag", one.child_subreaper == other.child_subreaper),
            ("huge page restriction", one.thp_disable == other.thp_disable),
            ("securebits", one.securebits == other.securebits),
            ("membarrier registrations", one.membarrier == other.membarrier),
            ("memory protection keys", one.protection_keys == other.protection_keys),
            ("timer slack", one.timer_slack == other.timer_slack),
            (
                "identification of the processor as a fault",
                one.identification_faults == other.identification_faults,
            ),
            ("reading of the processor's clock as a fault", one.clock_faults == other.clock_faults),
            (
                "permitted extended state",
                one.permitted & fpu::ON_REQUEST == other.permitted & fpu::ON_REQUEST,
            ),
        ];
        fields.into_iter().find_map(|(name, same)| (!same).then_some(name))
    }
}

/// A process with a parasite in it, or on the way.
#[derive(Debug)]
pub(crate) struct Infection {
    request: Request,
    original: Original,
    return_frame: ReturnFrame,
    /// Signals that came meanwhile and are to be sent again.
    pub(crate) postponed: Vec<i32>,
}

impl Infection {
    /// Sets the leader up to map the region, and lets it go to the call's entry.
    pub(crate) fn begin(
        leader: Stopped,
        request: Request,
        original: Original,
        room: &Room<'_>,
    ) -> Result<(Self, Running), Error> {
        let bytes = Request::region_bytes(request.timers.len());
        let unmap = Detour { call: nr::MUNMAP, args: [request.region, bytes, 0, 0, 0, 0] };
        let return_frame =
            ReturnFrame::lay(&leader, request.pid, &original, room, &request.gadgets, Some(unmap))?;
        let args = [request.region, bytes, PROTECTION, FLAGS, u64::MAX, 0];
        let map =
            return_frame.call(&original, &request.gadgets, nr::MMAP, args, return_frame.first);
        let infection = Self { request, original, return_frame, postponed: Vec::new() };
        // Registers before the mask: at the frames the thread gets its mask back, before it does
        // not.
        leader.set_registers(&map)?;
        leader.set_signal_mask(infection.mask())?;
        Ok((infection, leader.resume_to_syscall()?))
    }

    /// All signals but the bell.
    fn mask(&self) -> u64 {
        match self.request.bell {
            0 => u64::MAX,
            bell => !(1 << (bell - 1)),
        }
    }

    /// From the mapping call's entry to its exit.
    pub(crate) fn map(&mut self, running: Running) -> Result<Running, Error> {
        let stopped = self.syscall_stop(running, "before it maps the parasite")?;
        Ok(stopped.resume_to_syscall()?)
    }

    /// Puts the parasite into the region and lets it run.
    pub(crate) fn run(&mut self, running: Running) -> Result<Running, Error> {
        let stopped = self.syscall_stop(running, "when it had mapped the parasite")?;
        let tid = stopped.tid();
        let answer = stopped.registers()?.return_value();
        if answer != self.request.region as i64 {
            let error = i32::try_from(-answer).unwrap_or(libc::EEXIST);
            // Not mapped: the detour would unmap what is not ours. Straight home.
            let registers = GeneralRegs { sp: self.return_frame.frame, ..stopped.registers()? };
            stopped.set_registers(&registers)?;
            return Err(Error::Call {
                call: nr::MMAP as i32,
                tid,
                source: io::Error::from_raw_os_error(error),
            });
        }
        kernel::memory::write_all(self.request.pid, self.request.region, &self.image()).map_err(
            |source| Error::Memory { operation: "write the parasite into the memory", tid, source },
        )?;
        let entry = GeneralRegs {
            ip: self.request.region + PARASITE.entry as u64,
            sp: self.request.region + Request::region_bytes(self.request.timers.len()),
            di: self.request.region + state_offset() as u64,
            ..stopped.registers()?
        };
        stopped.set_registers(&entry)?;
        Ok(if self.request.bell == 0 { stopped.resume_to_syscall()? } else { stopped.resume(0)? })
    }

    /// The bytes at the start of the region: code, arguments, timers.
    fn image(&self) -> Vec<u8> {
        let Request { gadgets, region, bell, timers, uffd_handover, .. } = &self.request;
        let state = Parasite {
            region_start: *region,
            region_bytes: Request::region_bytes(timers.len()),
            syscall_return: gadgets.syscall_return,
            return_frame: self.return_frame.frame,
            compat: (gadgets.abi == Abi::Compat).into(),
            bell: *bell,
            timer_count: timers.len() as u32,
            uffd_handover: (*uffd_handover).into(),
            donated_flags: kernel::userfaultfd::CREATE_FLAGS as u32,
            ..Parasite::EMPTY
        };
        let mut image = PARASITE.code.to_vec();
        image.resize(state_offset(), 0);
        image.extend_from_slice(bytes_of(&[state]));
        for &id in timers {
            let timer = TimerState { id, ..TimerState::default() };
            image.extend_from_slice(bytes_of(&[timer]));
        }
        image
    }

    /// Waits for the bell and reads the report. The leader stays stopped, the parasite in it.
    pub(crate) fn report(&mut self, running: Running) -> Result<(Stopped, ParasiteReport), Error> {
        let bell = self.request.bell;
        let stopped = if bell == 0 {
            self.walk_to_leaving(running, |_, _| Ok(()))?
        } else {
            expect_stop(
                running,
                "while the parasite ran",
                &mut self.postponed,
                |stop| stop == Stop::Signal(bell),
                |stopped| stopped.resume(0),
            )?
        };
        let report = self.read_report(stopped.tid())?;
        Ok((stopped, report))
    }

    fn read_report(&self, tid: HostPid) -> Result<ParasiteReport, Error> {
        let mut state = Box::new(Parasite::EMPTY);
        let mut timers = vec![TimerState::default(); self.request.timers.len()];
        let at = self.request.region + state_offset() as u64;
        let failed =
            |source| Error::Memory { operation: "read the parasite's report", tid, source };
        let state_bytes = bytes_of_mut(std::slice::from_mut(&mut *state));
        kernel::memory::read_exact(self.request.pid, at, state_bytes).map_err(failed)?;
        if !timers.is_empty() {
            let at = at + size_of::<Parasite>() as u64;
            kernel::memory::read_exact(self.request.pid, at, bytes_of_mut(&mut timers))
                .map_err(failed)?;
        }
        if state.error != 0 {
            return Err(Error::Call {
                call: state.failed_call,
                tid,
                source: io::Error::from_raw_os_error(state.error),
            });
        }
        Ok(ParasiteReport { state, timers })
    }

    /// Without a bell: takes over the descriptor that the parasite makes, while it has it. `meanwhile` are the options that the
    /// task is traced with from the entry of the call that makes it to its exit, if they are others then.
    pub(crate) fn donation(
        &mut self,
        running: Running,
        usual: Options,
        meanwhile: Options,
        take: impl Fn(i32) -> io::Result<OwnedFd>,
    ) -> Result<(Stopped, Result<OwnedFd, Error>), Error> {
        let tid = self.request.pid;
        let (mut taken, mut is_in_call) = (None, false);
        let stopped = self.walk_to_leaving(running, |stopped, registers| {
            // Of each call there are two stops.
            is_in_call = !is_in_call;
            if registers.call() != Some(nr::USERFAULTFD) {
                return Ok(());
            }
            if meanwhile != usual {
                stopped.set_options(if is_in_call { meanwhile } else { usual })?;
            }
            if !is_in_call && let Ok(fd @ 0..) = i32::try_from(registers.return_value()) {
                taken.get_or_insert_with(|| take(fd));
            }
            Ok(())
        })?;
        let taken = match taken {
            Some(taken) => taken.map_err(|source| Error::Memory {
                operation: "take over a descriptor of",
                tid,
                source,
            }),
            // Its report says why there was none.
            None => self.read_report(tid).and(Err(Error::NoRoom { tid })),
        };
        Ok((stopped, taken))
    }

    /// Without a bell: from system call to system call, up to the one that leaves.
    /// `seen` is shown the task and its registers at each stop.
    fn walk_to_leaving(
        &mut self,
        running: Running,
        mut seen: impl FnMut(&Stopped, &GeneralRegs) -> Result<(), Error>,
    ) -> Result<Stopped, Error> {
        // Entry and exit of every call that the parasite makes, and then some.
        let limit = 4 * (SIGNALS + 32 + 2 * self.request.timers.len());
        let mut running = running;
        for _ in 0..limit {
            let stopped = self.syscall_stop(running, "while the parasite ran")?;
            let registers = stopped.registers()?;
            seen(&stopped, &registers)?;
            if registers.unmaps(self.request.gadgets.abi, self.request.region) {
                return Ok(stopped);
            }
            running = stopped.resume_to_syscall()?;
        }
        Err(Error::Unexpected {
            tid: self.request.pid,
            during: "while the parasite ran",
            stop: Stop::Syscall,
        })
    }

    /// Lets the parasite leave: up to the entry of its last system call.
    pub(crate) fn leave(&mut self, leader: Stopped) -> Result<Running, Error> {
        if self.request.bell == 0 {
            // Already at the entry.
            leader.interrupt_again()?;
            return Ok(leader.resume(0)?);
        }
        Ok(leader.resume_to_syscall()?)
    }

    /// Through the last system call, to a stop of the signal path.
    pub(crate) fn left(&mut self, running: Running) -> Result<Running, Error> {
        if self.request.bell == 0 {
            return Ok(running);
        }
        let stopped = self.syscall_stop(running, "when the parasite left")?;
        stopped.interrupt_again()?;
        Ok(stopped.resume(0)?)
    }

    /// Gives the leader back all that it had.
    pub(crate) fn cured(&mut self, running: Running) -> Result<Stopped, Error> {
        let stopped = expect_stop(
            running,
            "when the parasite had left",
            &mut self.postponed,
            |stop| matches!(stop, Stop::Interrupted | Stop::Group(_)),
            |stopped| stopped.resume(0),
        )?;
        self.original.give_back(&stopped)?;
        self.return_frame.uncover()?;
        Ok(stopped)
    }

    fn syscall_stop(&mut self, running: Running, during: &'static str) -> Result<Stopped, Error> {
        expect_stop(
            running,
            during,
            &mut self.postponed,
            |stop| stop == Stop::Syscall,
            Stopped::resume_to_syscall,
        )
    }
}
