//! What tracers of the tree's own read and set, by calls that are made in them: registers as words, and breakpoints of the processor's.

use super::regs::GeneralRegs;

impl GeneralRegs {
    /// Number of words of the register set.
    pub const WORDS: usize = size_of::<Self>() / size_of::<u64>();

    /// The registers in the order in which the kernel has them.
    #[must_use]
    pub const fn of_words(words: [u64; Self::WORDS]) -> Self {
        let [
            r15,
            r14,
            r13,
            r12,
            bp,
            bx,
            r11,
            r10,
            r9,
            r8,
            ax,
            cx,
            dx,
            si,
            di,
            orig_ax,
            ip,
            cs,
            flags,
            sp,
            ss,
            fs_base,
            gs_base,
            ds,
            es,
            fs,
            gs,
        ] = words;
        Self {
            r15,
            r14,
            r13,
            r12,
            bp,
            bx,
            r11,
            r10,
            r9,
            r8,
            ax,
            cx,
            dx,
            si,
            di,
            orig_ax,
            ip,
            cs,
            flags,
            sp,
            ss,
            fs_base,
            gs_base,
            ds,
            es,
            fs,
            gs,
        }
    }

    /// The same the other way round.
    #[must_use]
    pub const fn words(self) -> [u64; Self::WORDS] {
        let Self {
            r15,
            r14,
            r13,
            r12,
            bp,
            bx,
            r11,
            r10,
            r9,
            r8,
            ax,
            cx,
            dx,
            si,
            di,
            orig_ax,
            ip,
            cs,
            flags,
            sp,
            ss,
            fs_base,
            gs_base,
            ds,
            es,
            fs,
            gs,
        } = self;
        [
            r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs,
            flags, sp, ss, fs_base, gs_base, ds, es, fs, gs,
        ]
    }
}

/// Where `struct user` has what a debugger sets of hardware breakpoints and watchpoints (`PTRACE_PEEKUSER`), in the order in which it is
/// set again: four addresses, which of them fired, and what they are for.
pub const DEBUG_REGISTERS: [usize; 6] = [848, 856, 864, 872, 896, 904];

/// What these are in a thread for which nothing of the kind is set.
pub const NO_BREAKPOINTS: [u64; 6] = [0, 0, 0, 0, 0xffff_0ff0, 0];

/// What a tracer writes, in this order, into `struct user` (`PTRACE_POKEUSER`: an offset and a value), for a thread
/// to stop before it executes the instruction at an address, or to stop nowhere.
pub const fn breakpoint(at: Option<u64>) -> [(usize, u64); 2] {
    /// The kernel's `struct user` has them at this offset.
    const DEBUG_REGISTERS: usize = 848;
    const ADDRESS: usize = DEBUG_REGISTERS;
    const CONTROL: usize = DEBUG_REGISTERS + 7 * size_of::<u64>();
    const ENABLE_FIRST: u64 = 1;
    match at {
        Some(address) => [(ADDRESS, address), (CONTROL, ENABLE_FIRST)],
        None => [(CONTROL, 0), (ADDRESS, 0)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_in_the_order_of_the_kernels() {
        let words = core::array::from_fn(|index| index as u64 * 3 + 1);
        let registers = GeneralRegs::of_words(words);
        assert_eq!(registers.words(), words);
        assert_eq!((registers.r15, registers.gs), (words[0], words[GeneralRegs::WORDS - 1]));
        let at = core::mem::offset_of!(GeneralRegs, orig_ax) / 8;
        assert_eq!(registers.orig_ax, words[at]);
    }
}
