//! Registers, from the image's form to the one that ptrace takes.

use arch::fpu::{self, Component, Layout};
use arch::regs::{GeneralRegs, NO_SYSCALL};
use images::messages::{UserX86FpregsEntry, UserX86RegsEntry, UserX86XsaveEntry};

use super::memory::END_OF_SPACE;
use super::{Body, Thread};
use crate::error::Error;

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
    let known = fpu::components_known(current);
    check(thread, known)?;
    let mut in_use = in_use(thread) & known;
    // A processor without protection keys says nothing of them: the thread has those of a new task.
    let keys = 1 << fpu::PKRU.bit;
    let foreign = from.xsave.as_ref().is_none_or(|xsave| xsave.pkru.is_empty());
    if foreign && let Some(place) = layout.place(fpu::PKRU).filter(|_| known & keys != 0) {
        in_use |= fpu::components_in_use(current) & keys;
        if let (Some(to), Some(from)) = (area.get_mut(place.clone()), current.get(place)) {
            to.copy_from_slice(from);
        }
    }
    if let Some(header) = area.get_mut(fpu::LEGACY_BYTES..fpu::LEGACY_BYTES + 8) {
        header.copy_from_slice(&in_use.to_le_bytes());
    }
    if let Some(xsave) = &from.xsave {
        components(&mut area, xsave, layout);
    }
    Ok(area)
}

/// Components in use that a processor with these (`known`) lacks, as a mask.
pub(crate) fn missing(thread: &Thread, known: u64) -> u64 {
    needed(thread) & !known
}

/// Refuses, by name, extended state that a processor with these components (`known`) lacks.
fn check(thread: &Thread, known: u64) -> Result<(), Error> {
    let missing = missing(thread, known);
    if missing == 0 {
        return Ok(());
    }
    let names: Vec<_> = fpu::names(missing).collect();
    Err(Error::refused(
        format!("thread {}", thread.tid),
        format!("it uses {}, which this processor or its kernel lacks", names.join(" and ")),
        "restore it on a processor with the features of the one it was dumped on",
    ))
}

/// Components that the process of a leader has asked to use, as a mask.
pub(crate) fn permitted(body: &Body) -> u64 {
    let leader = body.threads.first();
    leader.and_then(|leader| leader.info.permitted_components).unwrap_or(0) & fpu::ON_REQUEST
}

/// Whether a thread has AMX tiles in use.
pub(crate) fn uses_tiles(thread: &Thread) -> bool {
    in_use(thread) & 1 << fpu::XTILEDATA.bit != 0
}

/// Components that are not in their initial state by what the dump says of them.
fn in_use(thread: &Thread) -> u64 {
    let Some(xsave) = &thread.info.fpregs.xsave else { return 0b11 };
    let tiles = xsave.tiles.as_ref();
    let tile = |there: Option<&Vec<u8>>, component: Component| {
        if there.is_some() { 1 << component.bit } else { 0 }
    };
    xsave.xstate_bv
        | tile(tiles.and_then(|tiles| tiles.config.as_ref()), fpu::XTILECFG)
        | tile(tiles.and_then(|tiles| tiles.data.as_ref()), fpu::XTILEDATA)
}

/// Those of them without which the thread is not what it was: a component may be noted as in use
/// and hold what it holds initially.
fn needed(thread: &Thread) -> u64 {
    /// What the kernel gives a new task: access to the key that all memory has, to no other.
    const KEYS_OF_A_NEW_TASK: u32 = 0x5555_5554;
    let Some(xsave) = &thread.info.fpregs.xsave else { return 0 };
    let zero = |words: &[u64]| words.iter().all(|&word| word == 0);
    let rights = xsave.pkru.first().copied().unwrap_or(0);
    let initial = [
        (fpu::YMM, xsave.ymmh_space.iter().all(|&word| word == 0)),
        (fpu::BNDREGS, zero(&xsave.bndreg_state)),
        (fpu::BNDCSR, zero(&xsave.bndcsr_state)),
        (fpu::OPMASK, zero(&xsave.opmask_reg)),
        (fpu::ZMM_HI256, zero(&xsave.zmm_upper)),
        (fpu::HI16_ZMM, zero(&xsave.hi16_zmm)),
        (fpu::PKRU, [0, KEYS_OF_A_NEW_TASK].contains(&rights)),
    ];
    let initial = initial.into_iter().filter(|(_, initial)| *initial);
    in_use(thread) & !initial.fold(0b11, |mask, (component, _)| mask | 1 << component.bit)
}

fn components(area: &mut [u8], from: &UserX86XsaveEntry, layout: &Layout) {
    words(place(area, fpu::YMM, layout), &from.ymmh_space);
    long_words(place(area, fpu::BNDREGS, layout), &from.bndreg_state);
    long_words(place(area, fpu::BNDCSR, layout), &from.bndcsr_state);
    long_words(place(area, fpu::OPMASK, layout), &from.opmask_reg);
    long_words(place(area, fpu::ZMM_HI256, layout), &from.zmm_upper);
    long_words(place(area, fpu::HI16_ZMM, layout), &from.hi16_zmm);
    if !from.pkru.is_empty() {
        words(place(area, fpu::PKRU, layout), &from.pkru);
    }
    if let Some(tiles) = &from.tiles {
        bytes(place(area, fpu::XTILECFG, layout), tiles.config.as_deref());
        bytes(place(area, fpu::XTILEDATA, layout), tiles.data.as_deref());
    }
}

/// The bytes of a component; none where the processor has none.
fn place<'a>(area: &'a mut [u8], component: Component, layout: &Layout) -> &'a mut [u8] {
    layout.place(component).and_then(|place| area.get_mut(place)).unwrap_or_default()
}

fn bytes(to: &mut [u8], from: Option<&[u8]>) {
    for (to, from) in to.iter_mut().zip(from.unwrap_or_default()) {
        *to = *from;
    }
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

#[cfg(test)]
#[path = "registers_tests.rs"]
mod tests;
