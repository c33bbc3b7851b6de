//! ptrace(2), with the state of the traced task in its type.
//!
//! A [`Running`] task can only be interrupted or waited for, a [`Stopped`] one can be read,
//! written and resumed, and resuming consumes it. Neither may leave the thread that seized the
//! task: ptrace is a relation between two *threads*, so both are `!Send`.
//!
//! Dropping either value does nothing to the task. When the tracing thread ends, for whatever
//! reason, the kernel detaches every task and lets it run on from the registers that it has then;
//! whoever changes registers must leave them so that the task finds home from there.

mod of_other;

pub use of_other::OfOther;

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;

use arch::fpu::REGSET;
use arch::regs::{self, GeneralRegs};
use arch::tls::{self, Segment, Segments};
use ids::HostPid;
use libc::{c_int, c_long, c_void};

bitflags::bitflags! {
    /// `PTRACE_O_*`: which events stop the task, and what becomes of it when the tracer dies.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Options: i32 {
        /// System-call stops are told apart from `SIGTRAP`.
        const SYSCALL_GOOD = libc::PTRACE_O_TRACESYSGOOD;
        /// Children made by fork are traced from birth.
        const FORK = libc::PTRACE_O_TRACEFORK;
        /// Children made by vfork are traced from birth.
        const VFORK = libc::PTRACE_O_TRACEVFORK;
        /// Children (threads) made by clone are traced from birth.
        const CLONE = libc::PTRACE_O_TRACECLONE;
        /// Stop at exec.
        const EXEC = libc::PTRACE_O_TRACEEXEC;
        /// Stop before exit.
        const EXIT = libc::PTRACE_O_TRACEEXIT;
        /// The task is killed when the tracer ends.
        const KILL_WITH_TRACER = libc::PTRACE_O_EXITKILL;
        /// Filters of system calls have no effect while the task is traced.
        const SUSPEND_SECCOMP = 1 << 21;
    }
}

/// What went wrong between tracer and tracee.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The task does not exist (any more), or is not in the stop that the call needs because it
    /// was killed.
    #[error("{operation} thread {tid}: it is gone")]
    Gone {
        /// What was tried.
        operation: &'static str,
        /// The thread.
        tid: HostPid,
    },
    /// The calling thread traces nobody (any more), and has no child.
    #[error("wait for any thread: there is none")]
    Nobody,
    /// The kernel refused.
    #[error("{operation} thread {tid}")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// The thread.
        tid: HostPid,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    fn last(operation: &'static str, tid: HostPid) -> Self {
        let source = io::Error::last_os_error();
        match source.raw_os_error() {
            Some(libc::ESRCH | libc::ECHILD) => Self::Gone { operation, tid },
            _ => Self::Refused { operation, tid, source },
        }
    }

    /// Whether the kernel refused with this error.
    #[must_use]
    pub fn is(&self, errno: nix::errno::Errno) -> bool {
        matches!(self, Self::Refused { source, .. } if source.raw_os_error() == Some(errno as i32))
    }

    /// Whether the task was gone, which is often no error at all.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Nobody)
    }
}

/// Result of a ptrace operation.
pub type Result<T> = std::result::Result<T, Error>;

/// A seized task that runs, or is about to stop.
#[derive(Debug)]
pub struct Running {
    tid: HostPid,
    not_send: PhantomData<*const ()>,
}

/// A traced task that is stopped until it is resumed.
#[derive(Debug)]
pub struct Stopped {
    tid: HostPid,
    stop: Stop,
    /// Whether its registers are those with which it is to go on: looked at ([`Stopped::settled`]),
    /// or set.
    settled: Cell<bool>,
    /// Of a task that another thread traces: what that has said of it.
    told: Option<Box<OfOther>>,
    not_send: PhantomData<*const ()>,
}

/// Why a task stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A signal is about to be delivered; it is delivered only if the task is resumed with it.
    Signal(c_int),
    /// Stopped by [`Running::interrupt`], or (a new child) at birth.
    Interrupted,
    /// Stopped by job control, with this stopping signal.
    Group(c_int),
    /// At the entry or the exit of a system call.
    Syscall,
    /// A `PTRACE_EVENT_*` that was asked for.
    Event(c_int),
}

/// What a wait saw.
#[derive(Debug)]
pub enum Event {
    /// The task stopped.
    Stopped(Stopped),
    /// The task ended, with this status as `waitpid` gave it.
    Ended {
        /// The thread.
        tid: HostPid,
        /// Wait status.
        status: c_int,
    },
}

/// Signal information as the kernel hands it out: `siginfo_t`, 128 bytes.
pub type RawSigInfo = [u8; 128];

/// Where a thread registered its restartable-sequence area (`struct ptrace_rseq_configuration`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RseqConfiguration {
    /// Address of `struct rseq`, 0 for none.
    pub pointer: u64,
    /// Its length in bytes.
    pub size: u32,
    /// The signature that abort handlers carry.
    pub signature: u32,
    /// Registration flags.
    pub flags: u32,
    /// Padding.
    pub pad: u32,
}

const PTRACE_PEEKSIGINFO_SHARED: u32 = 1;
const PTRACE_GET_RSEQ_CONFIGURATION: u32 = 0x420f;
const PTRACE_EVENT_STOP: c_int = 128;
/// Signal sets are eight bytes for every 64-bit kernel.
const SIGSET_BYTES: usize = 8;

pub(crate) fn ptrace(
    operation: &'static str,
    request: u32,
    tid: HostPid,
    addr: usize,
    data: *mut c_void,
) -> Result<c_long> {
    // SAFETY: each caller in this crate passes for `data` either a plain integer, where the
    // request takes one, or a pointer to a live buffer of the size that the request fills.
    let answer = unsafe { libc::ptrace(request as _, tid.get(), addr, data) };
    if answer == -1 { Err(Error::last(operation, tid)) } else { Ok(answer) }
}

/// Waits for one task, or for any: who has stopped or ended, and its wait status.
fn wait_status(whom: Option<HostPid>, flags: c_int) -> Result<Option<(HostPid, c_int)>> {
    let mut status = 0;
    let number = whom.map_or(-1, HostPid::get);
    loop {
        // SAFETY: `status` outlives the call, which writes nothing else.
        let seen = unsafe { libc::waitpid(number, &raw mut status, libc::__WALL | flags) };
        match (HostPid::new(seen), whom) {
            (Some(tid), _) => return Ok(Some((tid, status))),
            (None, _) if seen == 0 => return Ok(None),
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            (None, Some(tid)) => return Err(Error::last("wait for", tid)),
            // To wait for any fails only so.
            (None, None) => return Err(Error::Nobody),
        }
    }
}

fn event(tid: HostPid, status: c_int) -> Event {
    if !libc::WIFSTOPPED(status) {
        return Event::Ended { tid, status };
    }
    let signal = libc::WSTOPSIG(status);
    let stop = match status >> 16 {
        PTRACE_EVENT_STOP if signal == libc::SIGTRAP => Stop::Interrupted,
        PTRACE_EVENT_STOP => Stop::Group(signal),
        0 if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
        0 => Stop::Signal(signal),
        event => Stop::Event(event),
    };
    Event::Stopped(Stopped {
        tid,
        stop,
        settled: Cell::new(false),
        told: None,
        not_send: PhantomData,
    })
}

/// Waits for any traced task (or child) of this thread to stop or end.
///
/// # Errors
/// [`Error::Nobody`] when there is none to wait for.
pub fn wait_any() -> Result<Event> {
    match wait_status(None, 0)? {
        Some((tid, status)) => Ok(event(tid, status)),
        None => Err(Error::Nobody),
    }
}

/// As [`wait_any`], but returns `None` at once when nothing has happened yet.
///
/// # Errors
/// [`Error::Nobody`] when there is none to wait for.
pub fn poll_any() -> Result<Option<Event>> {
    Ok(wait_status(None, libc::WNOHANG)?.map(|(tid, status)| event(tid, status)))
}

impl Running {
    /// Starts tracing a thread without stopping it (`PTRACE_SEIZE`).
    ///
    /// # Errors
    /// [`Error::Gone`] when there is no such thread; otherwise refused, by rights or because
    /// another tracer has it.
    pub fn seize(tid: HostPid, options: Options) -> Result<Self> {
        ptrace("seize", libc::PTRACE_SEIZE, tid, 0, options.bits() as usize as *mut c_void)?;
        Ok(Self { tid, not_send: PhantomData })
    }

    /// Takes up a task that became traced on its own: a child of a traced task whose tracer asked
    /// for such events.
    #[must_use]
    pub const fn traced_from_birth(tid: HostPid) -> Self {
        Self { tid, not_send: PhantomData }
    }

    /// Thread id.
    #[must_use]
    pub const fn tid(&self) -> HostPid {
        self.tid
    }

    /// Asks the task to stop; the stop arrives by waiting.
    ///
    /// # Errors
    /// [`Error::Gone`] when it is.
    pub fn interrupt(&self) -> Result<()> {
        ptrace("interrupt", libc::PTRACE_INTERRUPT, self.tid, 0, std::ptr::null_mut())?;
        Ok(())
    }

    /// Waits until this task stops or ends.
    ///
    /// # Errors
    /// [`Error::Gone`] when someone else has reaped it.
    pub fn wait(self) -> Result<Event> {
        match wait_status(Some(self.tid), 0)? {
            Some((tid, status)) => Ok(event(tid, status)),
            None => Err(Error::Gone { operation: "wait for", tid: self.tid }),
        }
    }

    /// Looks whether this task has stopped or ended; gives it back when it has not.
    ///
    /// # Errors
    /// [`Error::Gone`] when someone else has reaped it.
    pub fn poll(self) -> Result<std::result::Result<Event, Self>> {
        Ok(match wait_status(Some(self.tid), libc::WNOHANG)? {
            Some((tid, status)) => Ok(event(tid, status)),
            None => Err(self),
        })
    }

    /// As [`Running::wait`], for a task that must not end here.
    ///
    /// # Errors
    /// [`Error::Gone`] when it ended.
    pub fn wait_stopped(self) -> Result<Stopped> {
        let tid = self.tid;
        match self.wait()? {
            Event::Stopped(stopped) => Ok(stopped),
            Event::Ended { .. } => Err(Error::Gone { operation: "wait for", tid }),
        }
    }
}

impl Stopped {
    /// Thread id.
    #[must_use]
    pub const fn tid(&self) -> HostPid {
        self.tid
    }

    /// Why it stopped.
    #[must_use]
    pub const fn stop(&self) -> Stop {
        self.stop
    }

    fn regset(
        &self,
        operation: &'static str,
        set: bool,
        kind: usize,
        iov: &mut libc::iovec,
    ) -> Result<()> {
        let request = if set { libc::PTRACE_SETREGSET } else { libc::PTRACE_GETREGSET };
        ptrace(operation, request, self.tid, kind, std::ptr::from_mut(iov).cast())?;
        Ok(())
    }

    /// General registers.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed.
    pub fn registers(&self) -> Result<GeneralRegs> {
        if let Some(told) = &self.told {
            return Ok(told.registers);
        }
        let mut regs = GeneralRegs::default();
        ptrace("read registers of", regs::GET, self.tid, 0, (&raw mut regs).cast())?;
        Ok(regs)
    }

    /// General registers. A call that says `EINTR` only because the task was told to stop is made to
    /// be restarted first ([`GeneralRegs::unbroken`]); a task that goes on without this having been
    /// called is seen to then.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed.
    pub fn settled(&self) -> Result<GeneralRegs> {
        let registers = self.registers()?;
        let unbroken = match self.stop {
            Stop::Interrupted if !self.settled.get() => registers.unbroken(),
            _ => None,
        };
        if let Some(unbroken) = &unbroken {
            self.set_registers(unbroken)?;
        }
        self.settled.set(true);
        Ok(unbroken.unwrap_or(registers))
    }

    /// Sets the general registers.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed; refused where a value is not one that user mode
    /// may hold.
    pub fn set_registers(&self, regs: &GeneralRegs) -> Result<()> {
        let from = std::ptr::from_ref(regs).cast_mut().cast();
        ptrace("write registers of", regs::SET, self.tid, 0, from)?;
        self.settled.set(true);
        Ok(())
    }

    /// The segments that a thread in 32-bit code has for its thread-local storage.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed; refused of one that is in 64-bit code.
    pub fn segments(&self) -> Result<Segments> {
        let mut segments = Segments::default();
        let mut iov =
            libc::iovec { iov_base: (&raw mut segments).cast(), iov_len: size_of::<Segments>() };
        self.regset("read segments of", false, tls::REGSET, &mut iov)?;
        Ok(segments)
    }

    /// Gives a thread such a segment.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed; refused if it is none of a thread.
    pub fn set_segment(&self, segment: &Segment) -> Result<()> {
        let from = std::ptr::from_ref(segment).cast_mut().cast();
        ptrace("write a segment of", tls::SET, self.tid, segment.entry as usize, from)?;
        Ok(())
    }

    /// Reads the extended state into `buffer`, which is made as long as the state is.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed.
    pub fn extended_state(&self, buffer: &mut Vec<u8>) -> Result<()> {
        if let Some(told) = &self.told {
            buffer.clone_from(&told.extended);
            return Ok(());
        }
        // Of a longer one the kernel gives the beginning.
        let mut room = 16 * 1024;
        loop {
            buffer.resize(room, 0);
            let mut iov =
                libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            self.regset("read extended state of", false, REGSET, &mut iov)?;
            if iov.iov_len < room {
                buffer.truncate(iov.iov_len);
                return Ok(());
            }
            room *= 2;
        }
    }

    /// Sets the extended state, in the form that [`Stopped::extended_state`] gives.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed; refused when the state is not one that this
    /// processor has.
    pub fn set_extended_state(&self, state: &[u8]) -> Result<()> {
        let mut iov =
            libc::iovec { iov_base: state.as_ptr().cast_mut().cast(), iov_len: state.len() };
        self.regset("write extended state of", true, REGSET, &mut iov)
    }

    /// Blocked signals, signal 1 at bit 0.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed.
    pub fn signal_mask(&self) -> Result<u64> {
        if let Some(told) = &self.told {
            return Ok(told.mask);
        }
        let mut mask = 0u64;
        ptrace(
            "read signal mask of",
            libc::PTRACE_GETSIGMASK,
            self.tid,
            SIGSET_BYTES,
            (&raw mut mask).cast(),
        )?;
        Ok(mask)
    }

    /// Sets the blocked signals.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed.
    pub fn set_signal_mask(&self, mut mask: u64) -> Result<()> {
        ptrace(
            "write signal mask of",
            libc::PTRACE_SETSIGMASK,
            self.tid,
            SIGSET_BYTES,
            (&raw mut mask).cast(),
        )?;
        Ok(())
    }

    /// Pending signals, oldest first, but for as many as come before, `after`, of the whole process (`shared`) or of this thread alone.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed.
    pub fn pending_signals(&self, shared: bool, after: usize) -> Result<Vec<RawSigInfo>> {
        /// Signals read in one call.
        const BATCH: usize = 32;
        #[repr(C)]
        struct Arguments {
            offset: u64,
            flags: u32,
            count: i32,
        }
        if let Some(told) = &self.told {
            let all = if shared { &told.shared_pending } else { &told.own_pending };
            return Ok(all.iter().skip(after).copied().collect());
        }
        let mut all = Vec::new();
        let mut batch = [[0u8; 128]; BATCH];
        loop {
            let mut arguments = Arguments {
                offset: (after + all.len()) as u64,
                flags: if shared { PTRACE_PEEKSIGINFO_SHARED } else { 0 },
                count: BATCH as i32,
            };
            let seen = ptrace(
                "read pending signals of",
                libc::PTRACE_PEEKSIGINFO,
                self.tid,
                (&raw mut arguments) as usize,
                batch.as_mut_ptr().cast(),
            )? as usize;
            all.extend_from_slice(&batch[..seen.min(BATCH)]);
            if seen < BATCH {
                return Ok(all);
            }
        }
    }

    /// Information on the signal that this stop is about.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed.
    pub fn signal_info(&self) -> Result<RawSigInfo> {
        let mut info = [0u8; 128];
        ptrace("read signal of", libc::PTRACE_GETSIGINFO, self.tid, 0, info.as_mut_ptr().cast())?;
        Ok(info)
    }

    /// The thread's restartable-sequence registration (Linux 5.13).
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed; refused by a kernel that lacks the request.
    pub fn rseq(&self) -> Result<RseqConfiguration> {
        let mut configuration = RseqConfiguration::default();
        ptrace(
            "read restartable sequence of",
            PTRACE_GET_RSEQ_CONFIGURATION,
            self.tid,
            size_of::<RseqConfiguration>(),
            (&raw mut configuration).cast(),
        )?;
        Ok(configuration)
    }

    /// The number that came with a `PTRACE_EVENT_*` stop: a child's pid, an exit status.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed.
    pub fn event_message(&self) -> Result<u64> {
        let mut message: libc::c_ulong = 0;
        ptrace("read event of", libc::PTRACE_GETEVENTMSG, self.tid, 0, (&raw mut message).cast())?;
        Ok(message)
    }

    fn settle(&self) -> Result<()> {
        let is_to = self.stop == Stop::Interrupted && !self.settled.get();
        if is_to { self.settled().map(|_| ()) } else { Ok(()) }
    }

    fn go(self, operation: &'static str, request: u32, signal: c_int) -> Result<Running> {
        self.settle()?;
        ptrace(operation, request, self.tid, 0, signal as usize as *mut c_void)?;
        Ok(Running { tid: self.tid, not_send: PhantomData })
    }

    /// Lets the task run, with `signal` delivered if the stop was about one (0 for none).
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed.
    pub fn resume(self, signal: c_int) -> Result<Running> {
        self.go("resume", libc::PTRACE_CONT, signal)
    }

    /// Lets the task run up to the next entry or exit of a system call.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed.
    pub fn resume_to_syscall(self) -> Result<Running> {
        self.go("resume", libc::PTRACE_SYSCALL, 0)
    }

    /// Lets a task in a group stop stay stopped as job control has it, while events still reach
    /// the tracer.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed.
    pub fn listen(self) -> Result<Running> {
        self.go("listen to", libc::PTRACE_LISTEN, 0)
    }

    /// Asks for another stop as soon as the task, once resumed, would return to user mode.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed.
    pub fn interrupt_again(&self) -> Result<()> {
        ptrace("interrupt", libc::PTRACE_INTERRUPT, self.tid, 0, std::ptr::null_mut())?;
        Ok(())
    }

    /// Sets what stops the task from now on, and what becomes of it, in place of what was set before.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed; refused where an option wants a right that the caller lacks.
    pub fn set_options(&self, options: Options) -> Result<()> {
        let data = std::ptr::without_provenance_mut(options.bits() as usize);
        ptrace("set the options of", libc::PTRACE_SETOPTIONS, self.tid(), 0, data).map(|_| ())
    }

    /// Stops tracing; the task runs on, with `signal` delivered if the stop was about one.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed.
    pub fn detach(self, signal: c_int) -> Result<()> {
        self.settle()?;
        ptrace("detach from", libc::PTRACE_DETACH, self.tid, 0, signal as usize as *mut c_void)?;
        Ok(())
    }
}
