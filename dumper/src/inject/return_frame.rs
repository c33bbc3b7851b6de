//! The way home: signal frames in the task's memory that give it back what it was.

use arch::fpu::Extent;
use arch::regs::{Abi, GeneralRegs, Handler};
use arch::{fpu, sigframe};
use ids::HostPid;
use kernel::memory::{MemoryFile, read_exact, write_all};
use kernel::ptrace::{RseqConfiguration, Stopped};
use kernel::rseq::{Interrupted, interrupted, set_section};

use super::frame_space::{FrameSpace, frame_spaces};
use super::{Error, Gadgets, Room};

/// Everything of a thread that injected code changes, as it was.
#[derive(Clone, Debug)]
pub(crate) struct Original {
    /// General registers, as the stop showed them; of a thread in a restartable sequence those with
    /// which the kernel will have it abort.
    pub(crate) registers: GeneralRegs,
    /// Area and descriptor of a restartable sequence that is not to be aborted, or not by us. The
    /// kernel forgets it when the thread runs elsewhere.
    pub(crate) section: Option<(u64, u64)>,
    /// Extended state.
    pub(crate) extended: Vec<u8>,
    /// Signal mask.
    pub(crate) mask: u64,
}

impl Original {
    /// Reads it off a stopped thread. `buffer` is room to read into, kept from one to the next: the
    /// kernel wants more of it than it then uses.
    pub(crate) fn of(
        stopped: &Stopped,
        rseq: &RseqConfiguration,
        buffer: &mut Vec<u8>,
    ) -> Result<Self, Error> {
        stopped.extended_state(buffer)?;
        let extended = buffer.clone();
        let mut registers = stopped.settled()?;
        let mut section = None;
        // No system call may be made in a sequence. So this costs nothing for threads that wait.
        if rseq.pointer != 0 && !registers.in_syscall() {
            let (tid, area) = (stopped.tid(), rseq.pointer);
            match interrupted(tid, area, rseq.signature, registers.instruction()) {
                Ok(Interrupted::Aborted(handler)) => registers.go_on_at(handler),
                Ok(Interrupted::Unresolved(descriptor)) => section = Some((area, descriptor)),
                // An area that is gone: the kernel ends the process for that, if it looks.
                Ok(Interrupted::Outside) | Err(_) => {}
            }
        }
        Ok(Self { registers, section, extended, mask: stopped.signal_mask()? })
    }

    /// Gives it back. The thread must be in a stop of the kernel's signal path (interrupted, or
    /// about to be delivered a signal): only from there does the kernel restart, or break off
    /// for a signal, a system call that the first stop interrupted.
    pub(crate) fn give_back(&self, stopped: &Stopped) -> Result<(), Error> {
        stopped.set_extended_state(&self.extended)?;
        // The mask comes last: with the true registers and the wrong mask the thread would run on
        // deaf, while in the other order it is at a frame that restores both.
        stopped.set_registers(&self.registers)?;
        stopped.set_signal_mask(self.mask)?;
        let Some((area, descriptor)) = self.section else { return Ok(()) };
        let tid = stopped.tid();
        set_section(tid, area, descriptor).map_err(|source| Error::Memory {
            operation: "restore the rseq area",
            tid,
            source,
        })
    }
}

/// Signal frames laid out in a thread's memory, and what they cover.
#[derive(Debug)]
pub(crate) struct ReturnFrame {
    tid: HostPid,
    pid: HostPid,
    /// Lowest address written.
    start: u64,
    /// What stood there.
    covered: Vec<u8>,
    /// Stack pointer from which a `ret` leads to the true registers.
    pub(crate) frame: u64,
    /// The same by way of the detour, if one was asked for; otherwise equal to `frame`.
    pub(crate) first: u64,
    /// Room for answers of system calls: [`SCRATCH`] bytes, or as many as were asked for.
    pub(crate) scratch: u64,
}

/// Bytes at [`ReturnFrame::scratch`].
pub(crate) const SCRATCH: u64 = 64;

/// A system call to be made on the way home.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detour {
    pub(crate) call: usize,
    pub(crate) args: [u64; 6],
}

/// Where each part of a home lies, from the lowest address up: scratch, the frame of the detour,
/// the frame of the true registers, the extended state (in a 32-bit task with a header before it).
#[derive(Clone, Copy, Debug)]
struct Parts {
    scratch: u64,
    first: u64,
    frame: u64,
    extended: u64,
    end: u64,
}

impl Parts {
    /// Below `top`, with so many bytes of scratch area; `None` if that is too low.
    fn below(
        abi: Abi,
        top: u64,
        (extended_bytes, scratch_bytes): (usize, u64),
        detour: bool,
    ) -> Option<Self> {
        let below = |address: u64, bytes: usize, align: usize| {
            address.checked_sub(bytes as u64).map(|start| start & !(align as u64 - 1))
        };
        let extended = below(top, extended_bytes, fpu::ALIGN)?;
        let frame = below(extended, header_bytes(abi) + sigframe::FRAME_BYTES, 16)?;
        let first = if detour { below(frame, sigframe::FRAME_BYTES, 16)? } else { frame };
        let scratch = below(first, scratch_bytes as usize, 16)?;
        Some(Self { scratch, first, frame, extended, end: extended + extended_bytes as u64 })
    }

    /// Bytes that there must be room for, wherever the top is.
    const fn most_bytes(
        abi: Abi,
        (extended_bytes, scratch_bytes): (usize, u64),
        detour: bool,
    ) -> u64 {
        let frames = if detour { 2 } else { 1 };
        let frames = frames * sigframe::FRAME_BYTES.next_multiple_of(16);
        (extended_bytes + fpu::ALIGN + header_bytes(abi) + frames + 16) as u64 + scratch_bytes
    }
}

/// Bytes before the extended state.
const fn header_bytes(abi: Abi) -> usize {
    match abi {
        Abi::Native => 0,
        Abi::Compat => fpu::COMPAT_HEADER_BYTES,
    }
}

impl ReturnFrame {
    /// Writes the frames where `room` has a place for them.
    ///
    /// Nothing but memory that the thread does not use has changed when this fails.
    pub(crate) fn lay(
        stopped: &Stopped,
        pid: HostPid,
        original: &Original,
        room: &Room<'_>,
        gadgets: &Gadgets,
        detour: Option<Detour>,
    ) -> Result<Self, Error> {
        Self::lay_with(stopped, pid, original, (room, SCRATCH), gadgets, detour)
    }

    /// The same with more room for answers.
    pub(crate) fn lay_with(
        stopped: &Stopped,
        pid: HostPid,
        original: &Original,
        (room, scratch): (&Room<'_>, u64),
        gadgets: &Gadgets,
        detour: Option<Detour>,
    ) -> Result<Self, Error> {
        let (tid, abi) = (stopped.tid(), gadgets.abi);
        if original.registers.abi() != abi {
            return Err(Error::OtherCode { tid });
        }
        let extent = Extent::of(&original.extended, room.layout, room.extended_bytes);
        let sizes = (extent.frame_bytes(), scratch);
        let bytes = Parts::most_bytes(abi, sizes, detour.is_some());
        for space in frame_spaces(original.registers.stack(), bytes, room) {
            let Some(parts) = Parts::below(abi, space.top, sizes, detour.is_some()) else {
                continue;
            };
            let laid = lay_out(parts, extent, original, room, gadgets, detour);
            if let Some(covered) = cover(pid, parts.scratch, &laid, space) {
                let Parts { scratch, first, frame, .. } = parts;
                return Ok(Self { tid, pid, start: scratch, covered, frame, first, scratch });
            }
        }
        Err(Error::NoRoom { tid })
    }

    /// Puts back what the frames covered, once nothing leads to them any more.
    pub(crate) fn uncover(&self) -> Result<(), Error> {
        write_all(self.pid, self.start, &self.covered).map_err(|source| Error::Memory {
            operation: "restore the stack",
            tid: self.tid,
            source,
        })
    }

    /// Registers that make one system call and then go home.
    pub(crate) fn call(
        &self,
        original: &Original,
        gadgets: &Gadgets,
        call: usize,
        args: [u64; 6],
        stack: u64,
    ) -> GeneralRegs {
        debug_assert!(stack == self.frame || stack == self.first);
        original.registers.calling_by(gadgets.abi, call, args, gadgets.syscall_return, stack)
    }
}

/// The bytes of a home.
fn lay_out(
    parts: Parts,
    extent: Extent,
    original: &Original,
    room: &Room<'_>,
    gadgets: &Gadgets,
    detour: Option<Detour>,
) -> Vec<u8> {
    let Parts { scratch, first, frame, extended, end } = parts;
    let mut laid = vec![0; (end - scratch) as usize];
    let resumed = original.registers.resumed(Handler::None);
    let places = (extended, gadgets.trampoline);
    let encode = |regs: &GeneralRegs| sigframe::encode(gadgets.abi, regs, original.mask, places);
    put(&mut laid, frame - scratch, &encode(&resumed));
    if let Some(Detour { call, args }) = detour {
        let regs = resumed.calling_by(gadgets.abi, call, args, gadgets.syscall_return, frame);
        put(&mut laid, first - scratch, &encode(&regs));
    }
    if gadgets.abi == Abi::Compat {
        let header = fpu::compat_header(&original.extended);
        put(&mut laid, extended - scratch - header.len() as u64, &header);
    }
    let state = &mut laid[(extended - scratch) as usize..];
    fpu::to_signal_frame(&original.extended, extent, room.layout, state);
    laid
}

/// Writes the frames; returns what stood in their place, or `None` if they cannot lie there.
fn cover(pid: HostPid, at: u64, laid: &[u8], space: FrameSpace) -> Option<Vec<u8>> {
    if space.zeros != 0 {
        let mut unused = vec![0xff; space.zeros as usize];
        read_exact(pid, space.floor, &mut unused).ok()?;
        if unused.iter().any(|&byte| byte != 0) {
            return None;
        }
    }
    let mut covered = vec![0; laid.len()];
    if read_exact(pid, at, &mut covered).is_ok() {
        if write_all(pid, at, laid).is_ok() {
            return Some(covered);
        }
        // A part may have been written. What could not be was not changed.
        let written = (0..laid.len()).take_while(|&index| {
            let mut byte = [0];
            read_exact(pid, at + index as u64, &mut byte).is_ok() && byte[0] == laid[index]
        });
        let written = written.count();
        let _nothing_else_to_try = write_all(pid, at, &covered[..written]);
        return None;
    }
    if !space.grows {
        return None;
    }
    // A stack that ends just below the stack pointer: it has to grow, as it would for a signal.
    let memory = MemoryFile::open(pid).ok()?;
    memory.read_exact(at, &mut covered).ok()?;
    memory.write_all(at, laid).ok()?;
    Some(covered)
}

fn put(laid: &mut [u8], offset: u64, bytes: &[u8]) {
    laid[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_in_the_room_reckoned_for_them() {
        let sizes = [516, 836, 2700, 11_012];
        let kinds = [Abi::Native, Abi::Compat].into_iter();
        for (abi, extended) in kinds.flat_map(|abi| sizes.map(|extended| (abi, extended))) {
            for (detour, top) in [true, false]
                .into_iter()
                .flat_map(|detour| (0..200).map(move |offset| (detour, 0x7000_0000 + offset)))
            {
                let parts = Parts::below(abi, top, (extended, SCRATCH), detour).unwrap();
                assert!(parts.scratch >= top - Parts::most_bytes(abi, (extended, SCRATCH), detour));
                assert!(parts.end <= top && parts.extended.is_multiple_of(64));
                let state = parts.extended - header_bytes(abi) as u64;
                assert!(parts.frame + sigframe::FRAME_BYTES as u64 <= state);
                assert!(parts.scratch + SCRATCH <= parts.first && parts.first <= parts.frame);
                assert_eq!(parts.first != parts.frame, detour);
            }
            assert!(Parts::below(abi, 100, (extended, SCRATCH), true).is_none());
        }
    }

    #[test]
    fn a_home_fits_on_the_smallest_stack_that_the_kernel_recommends() {
        // AT_MINSIGSTKSZ of processors with AVX-512, and with AMX.
        for (extended, smallest) in [(2700, 3632), (11_012, 11_952)] {
            assert!(Parts::most_bytes(Abi::Native, (extended, SCRATCH), true) <= smallest);
        }
    }
}
