//! Registers, from the image's form to the one that ptrace takes.

use arch::fpu::{self, Component, Layout};
use arch::regs::{GeneralRegs, NO_SYSCALL};
use images::messages::{UserX86FpregsEntry, UserX86RegsEntry, UserX86XsaveEntry};

use crate::error::Error;
use crate::load::{END_OF_SPACE, Thread};

/// Where the kernel says, in a register set that it gives out, which components it has.
const KNOWN_COMPONENTS: usize = 464;

/// The general registers. The dump has already wound interrupted system calls back: the kernel is
/// told that none is going on, so that it does not do so again.
pub(crate) fn general(thread: &Thread) -> Result<GeneralRegs, Error> {
    let from: &UserX86RegsEntry = &thread.info.gpregs;
    let regs = GeneralRegs {
        r15: from.r15,
        r14: from.r14,
        r13: from.r13,
        r12: from.r12,
        bp: from.bp,
        bx: from.bx,
        r11: from.r11,
        r10: from.r10,
        r9: from.r9,
        r8: from.r8,
        ax: from.ax,
        cx: from.cx,
        dx: from.dx,
        si: from.si,
        di: from.di,
        orig_ax: NO_SYSCALL,
        ip: from.ip,
        cs: from.cs,
        flags: from.flags,
        sp: from.sp,
        ss: from.ss,
        fs_base: from.fs_base,
        gs_base: from.gs_base,
        ds: from.ds,
        es: from.es,
        fs: from.fs,
        gs: from.gs,
    };
    if regs.fs_base >= END_OF_SPACE || regs.gs_base >= END_OF_SPACE || !regs.is_native() {
        let object = format!("registers of thread {}", thread.tid);
        return Err(Error::image(object, "no 64-bit task can have them"));
    }
    Ok(regs)
}

/// The extended state in the form of `current`, the state that the thread has at this moment,
/// whose length and components are those of this processor, as is `layout`.
pub(crate) fn extended(thread: &Thread, current: &[u8], layout: &Layout) -> Result<Vec<u8>, Error> {
    let from: &UserX86FpregsEntry = &thread.info.fpregs;
    let mut area = vec![0; current.len()];
    let Some((legacy, _)) = area.split_at_mut_checked(fpu::LEGACY_BYTES) else {
        return Err(Error::image("this processor", "it has no extended state"));
    };
    legacy[KNOWN_COMPONENTS..].copy_from_slice(&current[KNOWN_COMPONENTS..fpu::LEGACY_BYTES]);
    legacy[0..2].copy_from_slice(&(from.cwd as u16).to_le_bytes());
    legacy[2..4].copy_from_slice(&(from.swd as u16).to_le_bytes());
    legacy[4..6].copy_from_slice(&(from.twd as u16).to_le_bytes());
    legacy[6..8].copy_from_slice(&(from.fop as u16).to_le_bytes());
    legacy[8..16].copy_from_slice(&from.rip.to_le_bytes());
    legacy[16..24].copy_from_slice(&from.rdp.to_le_bytes());
    legacy[24..28].copy_from_slice(&from.mxcsr.to_le_bytes());
    legacy[28..32].copy_from_slice(&from.mxcsr_mask.to_le_bytes());
    words(&mut legacy[32..160], &from.st_space);
    words(&mut legacy[160..416], &from.xmm_space);
    let known =
        current[KNOWN_COMPONENTS..].first_chunk().map_or(0b11, |word| u64::from_le_bytes(*word));
    let in_use = from.xsave.as_ref().map_or(0b11, |xsave| xsave.xstate_bv);
    if in_use & !known != 0 {
        return Err(Error::refused(
            format!("thread {}", thread.tid),
            format!(
                "it uses processor state that this processor lacks (components {:#x})",
                in_use & !known
            ),
            "restore it on a processor with the features of the one it was dumped on",
        ));
    }
    if let Some(header) = area.get_mut(fpu::LEGACY_BYTES..fpu::LEGACY_BYTES + 8) {
        header.copy_from_slice(&in_use.to_le_bytes());
    }
    if let Some(xsave) = &from.xsave {
        components(&mut area, xsave, layout);
    }
    Ok(area)
}

fn components(area: &mut [u8], from: &UserX86XsaveEntry, layout: &Layout) {
    words(place(area, fpu::YMM, layout), &from.ymmh_space);
    long_words(place(area, fpu::BNDREGS, layout), &from.bndreg_state);
    long_words(place(area, fpu::BNDCSR, layout), &from.bndcsr_state);
    long_words(place(area, fpu::OPMASK, layout), &from.opmask_reg);
    long_words(place(area, fpu::ZMM_HI256, layout), &from.zmm_upper);
    long_words(place(area, fpu::HI16_ZMM, layout), &from.hi16_zmm);
    words(place(area, fpu::PKRU, layout), &from.pkru);
}

/// The bytes of a component; none where the processor has none.
fn place<'a>(area: &'a mut [u8], component: Component, layout: &Layout) -> &'a mut [u8] {
    layout.place(component).and_then(|place| area.get_mut(place)).unwrap_or_default()
}

fn words(to: &mut [u8], from: &[u32]) {
    for (to, from) in to.chunks_exact_mut(4).zip(from) {
        to.copy_from_slice(&from.to_le_bytes());
    }
}

fn long_words(to: &mut [u8], from: &[u64]) {
    for (to, from) in to.chunks_exact_mut(8).zip(from) {
        to.copy_from_slice(&from.to_le_bytes());
    }
}
