//! Calls of ptrace(2) made in a thread of the tree that traces others: so its tracees are read, which nobody else may trace.
//!
//! They only read: each changes nothing of a tracee, nor of what its tracer sees of it next. Abandoned, the tracer makes
//! the one call that is under way, and finds home as after any other ([`super`]).

use std::io;

use arch::syscall::nr;
use arch::{fpu, regs, trace};
use ids::{HostPid, ImagePid};
use kernel::memory::{read_exact, write_all};
use kernel::ptrace::{OfOther, RawSigInfo, Stop, Stopped};

use super::{Asking, Error, Gadgets, Original, ReturnFrame, expect_stop};

/// Room for arguments, and behind it for what a call answers: as much as the largest extended state has.
const ARGUMENT_BYTES: u64 = 64;
const ANSWER_BYTES: usize = 12 << 10;

const PTRACE_PEEKSIGINFO_SHARED: u32 = 1;
const SIGSET_BYTES: u64 = 8;

/// What a tracer has said of a tracee.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) state: OfOther,
    /// In the order of [`trace::DEBUG_REGISTERS`].
    pub(crate) debug_registers: Vec<u64>,
    /// It has taken note of the stop.
    pub(crate) is_waited_for: bool,
}

/// A tracer that makes calls.
#[derive(Debug)]
pub(crate) struct Tracer {
    pid: HostPid,
    tid: HostPid,
    /// Always there between calls.
    stopped: Option<Stopped>,
    original: Original,
    return_frame: ReturnFrame,
    gadgets: Gadgets,
    /// Stop signals that it was sent meanwhile.
    postponed: Vec<i32>,
}

impl Tracer {
    /// Makes a stopped thread ready for it.
    pub(crate) fn begin(asking: Asking<'_>) -> Result<Self, Error> {
        let Asking { stopped, pid, original, gadgets, room } = asking;
        let room = (&room, ARGUMENT_BYTES + ANSWER_BYTES as u64);
        let return_frame = ReturnFrame::lay_with(&stopped, pid, &original, room, &gadgets, None)?;
        let (tid, postponed) = (stopped.tid(), Vec::new());
        Ok(Self { pid, tid, stopped: Some(stopped), original, return_frame, gadgets, postponed })
    }

    /// Its process.
    pub(crate) const fn pid(&self) -> HostPid {
        self.pid
    }

    /// Gives the thread back as it was, with the stop signals that it was sent.
    pub(crate) fn end(mut self) -> Result<(Stopped, Vec<i32>), Error> {
        let stopped = self.take()?;
        stopped.interrupt_again()?;
        let is_home = |stop| matches!(stop, Stop::Interrupted | Stop::Group(_));
        let stopped = self.wait(stopped.resume(0)?, is_home)?;
        self.original.give_back(&stopped)?;
        self.return_frame.uncover()?;
        Ok((stopped, self.postponed))
    }

    /// What ptrace tells of the tracee that the tracer calls `tid`; or what the kernel answers where it is in no stop.
    pub(crate) fn read(&mut self, tid: ImagePid) -> Result<io::Result<Told>, Error> {
        let mut registers = [[0; 8]; regs::GeneralRegs::WORDS];
        match self.ask(tid, regs::GET, 0, registers.as_flattened_mut())? {
            Ok(_) => {}
            Err(error) => return Ok(Err(error)),
        }
        let registers = regs::GeneralRegs::of_words(registers.map(u64::from_ne_bytes));
        let extended = match self.extended_state(tid)? {
            Ok(extended) => extended,
            Err(error) => return Ok(Err(error)),
        };
        let mut mask = [0; SIGSET_BYTES as usize];
        let mut signal: RawSigInfo = [0; 128];
        let asked = match self.ask(tid, libc::PTRACE_GETSIGMASK, SIGSET_BYTES, &mut mask)? {
            Ok(_) => self.ask(tid, libc::PTRACE_GETSIGINFO, 0, &mut signal)?,
            error => error,
        };
        if let Err(error) = asked {
            return Ok(Err(error));
        }
        let mut debug_registers = Vec::with_capacity(trace::DEBUG_REGISTERS.len());
        for offset in trace::DEBUG_REGISTERS {
            let mut value = [0; 8];
            match self.ask(tid, libc::PTRACE_PEEKUSER, offset as u64, &mut value)? {
                Ok(_) => debug_registers.push(u64::from_ne_bytes(value)),
                Err(error) => return Ok(Err(error)),
            }
        }
        let pending = (self.pending(tid, false)?, self.pending(tid, true)?);
        let (own_pending, shared_pending) = match pending {
            (Ok(own), Ok(shared)) => (own, shared),
            (Err(error), _) | (_, Err(error)) => return Ok(Err(error)),
        };
        let is_waited_for = self.is_waited_for(tid)?;
        let mask = u64::from_ne_bytes(mask);
        let state = OfOther { registers, extended, mask, own_pending, shared_pending, signal };
        Ok(is_waited_for.map(|is_waited_for| Told { state, debug_registers, is_waited_for }))
    }

    /// The extended state of a tracee, as it is.
    fn extended_state(&mut self, tid: ImagePid) -> Result<io::Result<Vec<u8>>, Error> {
        let iov = [self.answer_at(), ANSWER_BYTES as u64].map(u64::to_ne_bytes);
        self.put(iov.as_flattened())?;
        let kind = fpu::REGSET as u64;
        let at = self.return_frame.scratch;
        if let Err(error) = self.ptrace(libc::PTRACE_GETREGSET, tid, kind, at)? {
            return Ok(Err(error));
        }
        let mut iov = [0; 16];
        self.get(at, &mut iov)?;
        let bytes = iov.last_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
        let mut state = vec![0; (bytes as usize).min(ANSWER_BYTES)];
        self.get(self.answer_at(), &mut state)?;
        Ok(Ok(state))
    }

    /// Signals pending for a tracee, or for its process.
    fn pending(
        &mut self,
        tid: ImagePid,
        shared: bool,
    ) -> Result<io::Result<Vec<RawSigInfo>>, Error> {
        /// As many as there is room for.
        const BATCH: usize = ANSWER_BYTES / size_of::<RawSigInfo>();
        let mut all: Vec<RawSigInfo> = Vec::new();
        loop {
            let flags = if shared { PTRACE_PEEKSIGINFO_SHARED } else { 0 };
            // `struct ptrace_peeksiginfo_args`: from which on, flags, how many.
            let mut arguments = (all.len() as u64).to_ne_bytes().to_vec();
            arguments.extend(flags.to_ne_bytes());
            arguments.extend((BATCH as u32).to_ne_bytes());
            self.put(&arguments)?;
            let (from, to) = (self.return_frame.scratch, self.answer_at());
            let seen = match self.ptrace(libc::PTRACE_PEEKSIGINFO, tid, from, to)? {
                Ok(seen) => (seen.max(0) as usize).min(BATCH),
                Err(error) => return Ok(Err(error)),
            };
            let mut batch = vec![[0; 128]; seen];
            self.get(to, batch.as_flattened_mut())?;
            all.extend(batch);
            if seen < BATCH {
                return Ok(Ok(all));
            }
        }
    }

    /// Whether the tracer would hear of nothing new of a tracee if it waited for it.
    fn is_waited_for(&mut self, tid: ImagePid) -> Result<io::Result<bool>, Error> {
        const P_PID: u64 = 1;
        const LOOK: i32 =
            libc::WNOHANG | libc::WNOWAIT | libc::WSTOPPED | libc::WEXITED | libc::__WALL;
        let at = self.answer_at();
        let number = u64::from(tid.unsigned());
        let args = [P_PID, number, at, u64::from(LOOK.cast_unsigned()), 0, 0];
        let mut info: RawSigInfo = [0; 128];
        Ok(match self.call(nr::WAITID, args)? {
            Ok(_) => {
                self.get(at, &mut info)?;
                // No signal: nothing has been found.
                Ok(info.first_chunk() == Some(&[0; 4]))
            }
            Err(error) => Err(error),
        })
    }

    /// One request, whose answer fills `to`.
    fn ask(
        &mut self,
        tid: ImagePid,
        request: u32,
        address: u64,
        to: &mut [u8],
    ) -> Result<io::Result<i64>, Error> {
        let at = self.answer_at();
        let answered = self.ptrace(request, tid, address, at)?;
        if answered.is_ok() {
            self.get(at, to)?;
        }
        Ok(answered)
    }

    fn ptrace(
        &mut self,
        request: u32,
        tid: ImagePid,
        address: u64,
        data: u64,
    ) -> Result<io::Result<i64>, Error> {
        let args = [request.into(), tid.unsigned().into(), address, data, 0, 0];
        self.call(nr::PTRACE, args)
    }

    /// Makes one call.
    fn call(&mut self, number: usize, args: [u64; 6]) -> Result<io::Result<i64>, Error> {
        let stopped = self.take()?;
        let frame = self.return_frame.frame;
        let registers = self.return_frame.call(&self.original, &self.gadgets, number, args, frame);
        stopped.set_registers(&registers)?;
        stopped.set_signal_mask(u64::MAX)?;
        let is_call = |stop| stop == Stop::Syscall;
        let entered = self.wait(stopped.resume_to_syscall()?, is_call)?;
        let left = self.wait(entered.resume_to_syscall()?, is_call)?;
        let answer = left.registers()?.return_value();
        self.stopped = Some(left);
        Ok(match answer {
            0.. => Ok(answer),
            _ => Err(io::Error::from_raw_os_error(-answer as i32)),
        })
    }

    fn take(&mut self) -> Result<Stopped, Error> {
        let gone = kernel::ptrace::Error::Gone { operation: "run code in", tid: self.tid };
        self.stopped.take().ok_or(Error::Ptrace(gone))
    }

    fn wait(
        &mut self,
        running: kernel::ptrace::Running,
        wanted: impl Fn(Stop) -> bool,
    ) -> Result<Stopped, Error> {
        let during = "while it was asked for its tracees";
        expect_stop(running, during, &mut self.postponed, wanted, Stopped::resume_to_syscall)
    }

    const fn answer_at(&self) -> u64 {
        self.return_frame.scratch + ARGUMENT_BYTES
    }

    fn put(&self, arguments: &[u8]) -> Result<(), Error> {
        let (tid, operation) = (self.tid, "write the arguments");
        write_all(self.pid, self.return_frame.scratch, arguments).map_err(|source| Error::Memory {
            operation,
            tid,
            source,
        })
    }

    fn get(&self, at: u64, to: &mut [u8]) -> Result<(), Error> {
        let (tid, operation) = (self.tid, "read the answers");
        read_exact(self.pid, at, to).map_err(|source| Error::Memory { operation, tid, source })
    }
}
