//! Threads that others of the tree trace: each is handed over to its tracer.
//!
//! A thread has one tracer, and up to here that is the holder. When a tracee is all that it is to be, and its tracer is still parked in the
//! restorer's region, it is let go with all signals blocked into a call that waits (`pause`, made in its vDSO, so that nothing of the
//! restorer is in it any more), and its tracer is made to attach to it, or to seize it, and to wait for its stop. That is a stop for a signal
//! (`SIGSTOP`), of which the tracer has been told; the tracer sets the registers, the mask and the signal that the images have, and there it is as
//! it was.
//!
//! From the moment when its tracer has it, it is killed with that one (`PTRACE_O_EXITKILL`), up to the one when the tracer is let go: so it
//! dies with the holder as all others do. In between, for as long as a signal takes, it is nobody's: the commander ends it if
//! the holder is ended then.

use std::collections::BTreeMap;

use arch::regs;
use arch::regs::{GeneralRegs, SYSCALL_INSTRUCTION, SYSCALL_INSTRUCTION_LEN};
use arch::syscall::nr;
use arch::trace::DEBUG_REGISTERS;
use ids::HostPid;
use images::MappingKind;
use images::messages::TracedEntry;
use kernel::memory::{read_exact, write_all};
use kernel::ptrace::{Options, Stop, Stopped};

use super::inject::{Parked, child_signal_is_pending, drain_child_signal, go_on, inject, take};
use crate::error::Error;
use crate::load::{Body, Checkpoint, Process, Thread, registers};
use crate::pids::Pids;
use crate::prepare::Region;
use crate::task::PreparedTask;

const PTRACE_SEIZE: u32 = 0x4206;

/// What is to be done to tracers when they are let go: by the tracer, its tracees as it calls them, and their options.
#[derive(Debug, Default)]
pub(crate) struct Traces(BTreeMap<HostPid, Tracer>);

/// A tracer that is about to be let go.
#[derive(Debug)]
struct Tracer {
    /// A `syscall` instruction of its own.
    at: u64,
    registers: GeneralRegs,
    tracees: Vec<(u64, u32)>,
}

/// Whether a thread of a process traces others.
pub(super) fn traces(checkpoint: &Checkpoint, body: &Body) -> bool {
    let tracers = all(checkpoint).map(|(.., traced)| traced.tracer);
    let mut tracers =
        tracers.filter(|tracer| body.threads.iter().any(|thread| thread.tid.unsigned() == *tracer));
    tracers.next().is_some()
}

/// Whether others trace a process.
pub(super) fn is_traced(body: &Body) -> bool {
    body.threads.iter().any(|thread| thread.core.traced.is_some())
}

fn all(checkpoint: &Checkpoint) -> impl Iterator<Item = (&Process, &Body, &Thread, &TracedEntry)> {
    checkpoint.living().flat_map(|(process, body)| {
        let traced = body.threads.iter();
        traced.filter_map(move |it| Some((process, body, it, it.core.traced.as_ref()?)))
    })
}

/// Hands all tracees over to their tracers, which are parked.
pub(super) fn hand_over(
    checkpoint: &Checkpoint,
    pids: &Pids,
    prepared: &[Option<PreparedTask>],
    parked: &mut Parked,
) -> Result<(), Error> {
    for (process, body, thread, traced) in all(checkpoint) {
        let (index, by) = tracer_of(checkpoint, traced)?;
        let Some(region) = prepared[index].as_ref().map(|prepared| &prepared.region) else {
            continue;
        };
        let at = wait_place(checkpoint, body, pids.host(process.pid)?, thread)?;
        let tracee = take(parked, pids.host(thread.tid)?)?;
        let wanted = Wanted::of(thread, process, traced)?;
        let waiting = wanted.registers.calling(nr::PAUSE, [0; 6], at, wanted.registers.stack());
        tracee.set_registers(&waiting)?;
        tracee.set_signal_mask(u64::MAX)?;
        tracee.detach(0)?;
        let tracer = take(parked, pids.host(by.tid)?)?;
        let at = tracer.registers()?.instruction() - SYSCALL_INSTRUCTION_LEN;
        let mut caller = Caller { stopped: Some(tracer), region, at, wanted: &wanted };
        caller.take_over()?;
        let mut tracer = caller.take()?;
        if !child_signal_is_pending(&checkpoint.processes[index]) {
            tracer = drain_child_signal(tracer, region, at)?;
        }
        parked.insert(tracer.tid(), tracer);
    }
    Ok(())
}

/// The thread that traces, and the index of its process.
fn tracer_of<'c>(
    checkpoint: &'c Checkpoint,
    traced: &TracedEntry,
) -> Result<(usize, &'c Thread), Error> {
    let processes = checkpoint.processes.iter().enumerate();
    let mut threads = processes.flat_map(|(index, process)| {
        process.body.iter().flat_map(|body| &body.threads).map(move |thread| (index, thread))
    });
    let found = threads.find(|(_, thread)| thread.tid.unsigned() == traced.tracer);
    found.ok_or_else(|| {
        Error::image(format!("thread {}", traced.tracer), "it traces, and is not there")
    })
}

/// Where a thread can make a call in its vDSO.
fn wait_place(
    checkpoint: &Checkpoint,
    body: &Body,
    pid: HostPid,
    thread: &Thread,
) -> Result<u64, Error> {
    let mut mappings = checkpoint.mappings(body).iter();
    let vdso = mappings.find(|mapping| mapping.kind == MappingKind::Vdso);
    let found = vdso.and_then(|vdso| {
        let mut code = vec![0; usize::try_from(vdso.vma.end.checked_sub(vdso.vma.start)?).ok()?];
        read_exact(pid, vdso.vma.start, &mut code).ok()?;
        let at =
            code.windows(SYSCALL_INSTRUCTION.len()).position(|it| it == SYSCALL_INSTRUCTION)?;
        Some(vdso.vma.start + at as u64)
    });
    found.ok_or_else(|| {
        let refusal = support::images::TRACED_WITHOUT_VDSO;
        Error::refused(refusal.of(thread.tid.get(), "the process"))
    })
}

/// What a tracee is to be.
struct Wanted<'c> {
    /// As its tracer calls it.
    number: u64,
    registers: GeneralRegs,
    mask: u64,
    traced: &'c TracedEntry,
}

impl<'c> Wanted<'c> {
    fn of(thread: &'c Thread, process: &Process, traced: &'c TracedEntry) -> Result<Self, Error> {
        let registers = thread.processor.traced().ok_or_else(|| {
            Error::image(format!("registers of thread {}", thread.tid), "no tracee can have them")
        })?;
        let mask = thread.core.blk_sigset.unwrap_or(process.core.blk_sigset);
        let number = u64::from(thread.levels.innermost().unsigned());
        Ok(Self { number, registers, mask, traced })
    }

    /// The same options, and its death with its tracer.
    fn held_options(&self) -> u64 {
        u64::from(self.traced.options | Options::KILL_WITH_TRACER.bits().cast_unsigned())
    }
}

/// A tracer that takes a tracee over.
struct Caller<'a> {
    /// Always there between calls.
    stopped: Option<Stopped>,
    region: &'a Region,
    at: u64,
    wanted: &'a Wanted<'a>,
}

impl Caller<'_> {
    fn take_over(&mut self) -> Result<(), Error> {
        let Wanted { number, registers, mask, traced } = *self.wanted;
        let options = self.wanted.held_options();
        if traced.seized {
            self.ptrace("seize", PTRACE_SEIZE, [0, options])?;
            self.call("stop", nr::TKILL, [number, libc::SIGSTOP as u64, 0, 0, 0, 0])?;
        } else {
            self.ptrace("attach to", libc::PTRACE_ATTACH, [0, 0])?;
        }
        self.wait()?;
        if !traced.seized {
            self.ptrace("set the options of", libc::PTRACE_SETOPTIONS, [0, options])?;
        }
        let place = self.put(registers.words().map(u64::to_ne_bytes).as_flattened())?;
        self.ptrace("set the registers of", regs::SET, [0, place])?;
        for (offset, value) in DEBUG_REGISTERS.into_iter().zip(&traced.debug_registers) {
            self.ptrace("set breakpoints of", libc::PTRACE_POKEUSER, [offset as u64, *value])?;
        }
        let mut signal = [0; 128];
        signal[..traced.signal.len()].copy_from_slice(&traced.signal);
        let place = self.put(&signal)?;
        self.ptrace("set the signal of", libc::PTRACE_SETSIGINFO, [0, place])?;
        let place = self.put(&mask.to_ne_bytes())?;
        self.ptrace("set the signal mask of", libc::PTRACE_SETSIGMASK, [8, place])?;
        Ok(())
    }

    /// Waits until the tracee has stopped.
    fn wait(&mut self) -> Result<(), Error> {
        const WALL: u64 = libc::__WALL as u64;
        let place = self.put(&[0; 8])?;
        self.call("wait for", nr::WAIT4, [self.wanted.number, place, WALL, 0, 0, 0])?;
        let mut status = [0; 4];
        let tid = self.stopped.as_ref().map(Stopped::tid);
        if let Some(tid) = tid {
            read_exact(tid, place, &mut status).map_err(Error::kernel("read what a wait says"))?;
        }
        let status = i32::from_ne_bytes(status);
        match libc::WIFSTOPPED(status) && status >> 8 == libc::SIGSTOP {
            true => Ok(()),
            false => Err(self.failed("stop", std::io::Error::other(format!("status {status:#x}")))),
        }
    }

    fn ptrace(&mut self, what: &str, request: u32, args: [u64; 2]) -> Result<(), Error> {
        let [address, data] = args;
        self.call(what, nr::PTRACE, [request.into(), self.wanted.number, address, data, 0, 0])
    }

    fn call(&mut self, what: &str, number: usize, args: [u64; 6]) -> Result<(), Error> {
        let (stopped, answer) = inject(self.take()?, self.region, self.at, number, args)?;
        self.stopped = Some(stopped);
        match answer {
            0.. => Ok(()),
            _ => Err(self.failed(what, std::io::Error::from_raw_os_error(-answer as i32))),
        }
    }

    fn failed(&self, what: &str, source: std::io::Error) -> Error {
        let Wanted { number, traced, .. } = self.wanted;
        let operation = format!("have thread {} {what} thread {number}", traced.tracer);
        Error::kernel(operation)(source)
    }

    /// Puts what a call reads, or fills, below the stack that calls are made with; returns its address.
    fn put(&self, bytes: &[u8]) -> Result<u64, Error> {
        const ROOM: u64 = 512;
        let place = self.region.address + self.region.stack as u64 - ROOM;
        let Some(tid) = self.stopped.as_ref().map(Stopped::tid) else { return Ok(place) };
        write_all(tid, place, bytes).map_err(Error::kernel(format!("write to thread {tid}")))?;
        Ok(place)
    }

    fn take(&mut self) -> Result<Stopped, Error> {
        let lost =
            || Error::Lost { pid: self.wanted.traced.tracer as i32, what: "it is gone".to_owned() };
        let lost = lost();
        self.stopped.take().ok_or(lost)
    }
}

impl Traces {
    /// Of tracers that are all that they are to be.
    pub(super) fn of(checkpoint: &Checkpoint, pids: &Pids) -> Result<Self, Error> {
        let mut tracers: BTreeMap<HostPid, Tracer> = BTreeMap::new();
        for (.., thread, traced) in all(checkpoint) {
            let (index, by) = tracer_of(checkpoint, traced)?;
            let process = &checkpoint.processes[index];
            let Some(body) = &process.body else { continue };
            let tid = pids.host(by.tid)?;
            let at = wait_place(checkpoint, body, pids.host(process.pid)?, by)?;
            let registers = registers::general(by)?;
            let tracer = tracers.entry(tid);
            let tracer = tracer.or_insert(Tracer { at, registers, tracees: Vec::new() });
            let number = u64::from(thread.levels.innermost().unsigned());
            tracer.tracees.push((number, traced.options));
        }
        Ok(Self(tracers))
    }

    /// Has a tracer whose tracees are to outlive it say so, before it is let go: as it was.
    pub(super) fn settle(&self, mut task: Stopped) -> kernel::ptrace::Result<Stopped> {
        const EXIT_KILL: u32 = Options::KILL_WITH_TRACER.bits().cast_unsigned();
        let Some(tracer) = self.0.get(&task.tid()) else { return Ok(task) };
        let own = task.registers()?;
        let mask = task.signal_mask()?;
        task.set_signal_mask(u64::MAX)?;
        for &(number, options) in tracer.tracees.iter().filter(|(_, it)| it & EXIT_KILL == 0) {
            let args = [libc::PTRACE_SETOPTIONS.into(), number, 0, u64::from(options), 0, 0];
            let stack = tracer.registers.stack();
            task.set_registers(&own.calling(nr::PTRACE, args, tracer.at, stack))?;
            for _ in 0..2 {
                task = match go_on(task, Stop::Syscall, Stopped::resume_to_syscall) {
                    Ok(task) => task,
                    Err(_) => return Err(kernel::ptrace::Error::Nobody),
                };
            }
        }
        task.set_registers(&own)?;
        task.set_signal_mask(mask)?;
        Ok(task)
    }
}
