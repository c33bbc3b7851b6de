//! Registers of a thread, as `core-TID.img` has them.

use arch::fpu::{self, Component, Layout};
use arch::regs::GeneralRegs;
use images::messages::{REGS_MODE_NATIVE, UserX86FpregsEntry, UserX86RegsEntry, UserX86XsaveEntry};

/// General registers. They are stored wound back (see [`GeneralRegs::resumed`]): whoever
/// restores them has only to set them.
pub(crate) fn general(registers: &GeneralRegs) -> UserX86RegsEntry {
    let r = registers.resumed();
    UserX86RegsEntry {
        r15: r.r15,
        r14: r.r14,
        r13: r.r13,
        r12: r.r12,
        bp: r.bp,
        bx: r.bx,
        r11: r.r11,
        r10: r.r10,
        r9: r.r9,
        r8: r.r8,
        ax: r.ax,
        cx: r.cx,
        dx: r.dx,
        si: r.si,
        di: r.di,
        orig_ax: r.orig_ax,
        ip: r.ip,
        cs: r.cs,
        flags: r.flags,
        sp: r.sp,
        ss: r.ss,
        fs_base: r.fs_base,
        gs_base: r.gs_base,
        ds: r.ds,
        es: r.es,
        fs: r.fs,
        gs: r.gs,
        mode: Some(REGS_MODE_NATIVE),
    }
}

/// Extended state: the FXSAVE fields one by one, and each component that the processor has.
/// `area` is what ptrace reports, at least [`fpu::LEGACY_BYTES`] and a header.
pub(crate) fn extended(area: &[u8], layout: &Layout) -> UserX86FpregsEntry {
    let short = |at: usize| u32::from(u16::from_le_bytes([area[at], area[at + 1]]));
    UserX86FpregsEntry {
        cwd: short(0),
        swd: short(2),
        twd: short(4),
        fop: short(6),
        rip: quads(&area[8..16])[0],
        rdp: quads(&area[16..24])[0],
        mxcsr: words(&area[24..28])[0],
        mxcsr_mask: words(&area[28..32])[0],
        st_space: words(&area[32..160]),
        xmm_space: words(&area[160..416]),
        padding: Vec::new(),
        xsave: Some(components(area, layout)),
    }
}

/// Each component that the processor has, whole, whether it is in use or not; an empty list for
/// one that it has not.
fn components(area: &[u8], layout: &Layout) -> UserX86XsaveEntry {
    let component = |component: Component| {
        layout.place(component).and_then(|place| area.get(place)).unwrap_or_default()
    };
    UserX86XsaveEntry {
        xstate_bv: fpu::components_in_use(area),
        ymmh_space: words(component(fpu::YMM)),
        bndreg_state: quads(component(fpu::BNDREGS)),
        bndcsr_state: quads(component(fpu::BNDCSR)),
        opmask_reg: quads(component(fpu::OPMASK)),
        zmm_upper: quads(component(fpu::ZMM_HI256)),
        hi16_zmm: quads(component(fpu::HI16_ZMM)),
        pkru: words(component(fpu::PKRU)),
        cet: None,
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect()
}

fn quads(bytes: &[u8]) -> Vec<u64> {
    words(bytes).chunks_exact(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_whole_or_absent() {
        let area: Vec<u8> = (0..8192u32).map(|at| at as u8).collect();
        let layout = Layout::of_this_processor();
        let entry = extended(&area, &layout);
        assert_eq!((entry.st_space.len(), entry.xmm_space.len()), (32, 64));
        let xsave = entry.xsave.unwrap();
        let has = |component| layout.place(component).is_some();
        assert_eq!(xsave.ymmh_space.len(), if has(fpu::YMM) { 64 } else { 0 });
        assert_eq!(xsave.hi16_zmm.len(), if has(fpu::HI16_ZMM) { 128 } else { 0 });
        assert_eq!(xsave.pkru.len(), if has(fpu::PKRU) { 2 } else { 0 });
        if has(fpu::YMM) {
            // The one component whose place is the same on all processors.
            assert_eq!(xsave.ymmh_space[0], u32::from_le_bytes([64, 65, 66, 67]));
        }
    }
}
