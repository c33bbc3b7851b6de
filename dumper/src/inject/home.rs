//! The way home: signal frames in the task's memory that give it back what it was.

use arch::regs::{GeneralRegs, NO_SYSCALL, RED_ZONE};
use arch::{fpu, sigframe};
use kernel::memory::MemoryFile;
use kernel::ptrace::Stopped;

use super::{Codes, Error};

/// Everything of a thread that injected code changes, as it was.
#[derive(Clone, Debug)]
pub(crate) struct Original {
    /// General registers, as the stop showed them.
    pub(crate) registers: GeneralRegs,
    /// Extended state.
    pub(crate) extended: Vec<u8>,
    /// Signal mask.
    pub(crate) mask: u64,
}

impl Original {
    /// Reads it off a stopped thread. `buffer` is room to read into, kept from one to the next: the
    /// kernel wants more of it than it then uses.
    pub(crate) fn of(stopped: &Stopped, buffer: &mut Vec<u8>) -> Result<Self, Error> {
        stopped.extended_state(buffer)?;
        let extended = buffer.clone();
        Ok(Self { registers: stopped.registers()?, extended, mask: stopped.signal_mask()? })
    }

    /// Gives it back. The thread must be in a stop of the kernel's signal path (interrupted, or
    /// about to be delivered a signal): only from there does the kernel restart, or break off
    /// for a signal, a system call that the first stop interrupted.
    pub(crate) fn give_back(&self, stopped: &Stopped) -> Result<(), Error> {
        stopped.set_extended_state(&self.extended)?;
        // The mask comes last: with the true registers and the wrong mask the thread would run on
        // deaf, while in the other order it is at a frame that restores both.
        stopped.set_registers(&self.registers)?;
        Ok(stopped.set_signal_mask(self.mask)?)
    }
}

/// Signal frames laid out in a thread's memory, and what they cover.
#[derive(Debug)]
pub(crate) struct Home {
    tid: i32,
    pid: i32,
    /// Lowest address written.
    start: u64,
    /// What stood there.
    covered: Vec<u8>,
    /// Stack pointer from which a `ret` leads to the true registers.
    pub(crate) frame: u64,
    /// The same by way of the detour, if one was asked for; otherwise equal to `frame`.
    pub(crate) first: u64,
    /// Room for answers of system calls, [`SCRATCH`] bytes.
    pub(crate) scratch: u64,
}

/// Bytes at [`Home::scratch`].
pub(crate) const SCRATCH: u64 = 64;

/// A system call to be made on the way home.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detour {
    pub(crate) call: usize,
    pub(crate) args: [u64; 6],
}

impl Home {
    /// Writes the frames. `alt_stack` is the thread's alternate signal stack (start, bytes).
    ///
    /// Nothing but memory that the thread does not use has changed when this fails.
    pub(crate) fn lay(
        stopped: &Stopped,
        pid: i32,
        original: &Original,
        alt_stack: Option<(u64, u64)>,
        codes: &Codes,
        detour: Option<Detour>,
    ) -> Result<Self, Error> {
        let tid = stopped.tid();
        let top = top(original.registers.sp, alt_stack);
        let extended_bytes = fpu::signal_frame_bytes(original.extended.len()) as u64;
        let below = |address: u64, bytes: u64, align: u64| {
            address
                .checked_sub(bytes)
                .map(|start| start & !(align - 1))
                .ok_or(Error::NoRoom { tid })
        };
        let extended = below(top, extended_bytes, fpu::ALIGN as u64)?;
        let frame = below(extended, sigframe::FRAME_BYTES as u64, 16)?;
        let first = match detour {
            Some(_) => below(frame, sigframe::FRAME_BYTES as u64, 16)?,
            None => frame,
        };
        let scratch = below(first, SCRATCH, 16)?;
        if let Some((start, bytes)) = alt_stack
            && on_stack(top - 1, start, bytes)
            && scratch < start
        {
            return Err(Error::NoRoom { tid });
        }
        let mut laid = vec![0; (extended + extended_bytes - scratch) as usize];
        let resumed = original.registers.resumed();
        let encode =
            |regs: &GeneralRegs| sigframe::encode(regs, original.mask, extended, codes.trampoline);
        put(&mut laid, frame - scratch, &encode(&resumed));
        if let Some(Detour { call, args }) = detour {
            let regs = resumed.calling(call, args, codes.syscall_return, frame);
            put(&mut laid, first - scratch, &encode(&regs));
        }
        fpu::to_signal_frame(&original.extended, &mut laid[(extended - scratch) as usize..]);
        let covered = cover(pid, tid, scratch, &laid)?;
        Ok(Self { tid, pid, start: scratch, covered, frame, first, scratch })
    }

    /// Puts back what the frames covered, once nothing leads to them any more.
    pub(crate) fn uncover(&self) -> Result<(), Error> {
        kernel::memory::write_all(self.pid, self.start, &self.covered).map_err(|source| {
            Error::Memory { operation: "restore the stack", tid: self.tid, source }
        })
    }

    /// Registers that make one system call and then go home.
    pub(crate) fn call(
        &self,
        original: &Original,
        codes: &Codes,
        call: usize,
        args: [u64; 6],
        stack: u64,
    ) -> GeneralRegs {
        debug_assert!(stack == self.frame || stack == self.first);
        GeneralRegs { orig_ax: NO_SYSCALL, ..original.registers }.calling(
            call,
            args,
            codes.syscall_return,
            stack,
        )
    }
}

/// Writes the frames; returns what stood in their place.
fn cover(pid: i32, tid: i32, at: u64, laid: &[u8]) -> Result<Vec<u8>, Error> {
    let mut covered = vec![0; laid.len()];
    let failed = |operation| move |source| Error::Memory { operation, tid, source };
    if kernel::memory::read_exact(pid, at, &mut covered).is_ok() {
        kernel::memory::write_all(pid, at, laid).map_err(failed("write the stack"))?;
        return Ok(covered);
    }
    // A stack that ends just below the stack pointer: it has to grow, as it would for a signal.
    let memory = MemoryFile::open(pid).map_err(failed("open the memory"))?;
    memory.read_exact(at, &mut covered).map_err(|_| Error::NoRoom { tid })?;
    memory.write_all(at, laid).map_err(failed("write the stack"))?;
    Ok(covered)
}

fn on_stack(address: u64, start: u64, bytes: u64) -> bool {
    address.wrapping_sub(start) < bytes
}

/// Address below which frames may lie: as the kernel would choose for a signal handler that asks
/// for the alternate stack.
fn top(sp: u64, alt_stack: Option<(u64, u64)>) -> u64 {
    match alt_stack {
        Some((start, bytes)) if bytes > 0 && !on_stack(sp, start, bytes) => start + bytes,
        _ => sp.saturating_sub(RED_ZONE),
    }
}

fn put(laid: &mut [u8], offset: u64, bytes: &[u8]) {
    laid[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_lie_where_the_kernel_would_put_a_signal() {
        assert_eq!(top(0x7000, None), 0x7000 - RED_ZONE);
        assert_eq!(top(0x7000, Some((0x1000, 0x800))), 0x1800);
        // Already on the alternate stack: below what is in use of it.
        assert_eq!(top(0x1400, Some((0x1000, 0x800))), 0x1400 - RED_ZONE);
        assert_eq!(top(0x7000, Some((0x1000, 0))), 0x7000 - RED_ZONE);
    }
}
