//! Registers of a thread, as `core-TID.img` has them.

use arch::fpu::{self, Component, Layout};
use arch::regs::GeneralRegs;
use images::messages::{
    REGS_MODE_NATIVE, UserX86FpregsEntry, UserX86RegsEntry, UserX86TilesEntry, UserX86XsaveEntry,
};

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
    let in_use = fpu::components_in_use(area);
    let used = |of: Component| (in_use & 1 << of.bit != 0).then(|| component(of).to_vec());
    let tiles = UserX86TilesEntry { config: used(fpu::XTILECFG), data: used(fpu::XTILEDATA) };
    UserX86XsaveEntry {
        xstate_bv: in_use & !fpu::TILES,
        tiles: Some(tiles).filter(|tiles| tiles.config.is_some() || tiles.data.is_some()),
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

    /// An area whose bytes tell where they are, with these components in use.
    fn area(bytes: usize, in_use: u64) -> Vec<u8> {
        let mut area: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
        area[fpu::LEGACY_BYTES..fpu::LEGACY_BYTES + 8].copy_from_slice(&in_use.to_le_bytes());
        area
    }

    #[test]
    fn components_are_whole_or_absent() {
        let avx512 = [(2, 576, 256), (5, 1088, 64), (6, 1152, 512), (7, 1664, 1024)];
        let layout = Layout::of(avx512);
        let entry = extended(&area(8192, 0xe7), &layout);
        assert_eq!((entry.st_space.len(), entry.xmm_space.len()), (32, 64));
        let xsave = entry.xsave.unwrap();
        assert_eq!((xsave.ymmh_space.len(), xsave.hi16_zmm.len()), (64, 128));
        assert_eq!((xsave.bndreg_state.len(), xsave.pkru.len()), (0, 0));
        assert_eq!(xsave.ymmh_space[0], u32::from_le_bytes([64, 65, 66, 67]));
        assert_eq!((xsave.xstate_bv, xsave.tiles), (0xe7, None));
    }

    #[test]
    fn tiles_are_written_if_they_are_in_use() {
        let layout = Layout::of([(2, 576, 256), (17, 2752, 64), (18, 2816, 8192)]);
        let tiles = |in_use| extended(&area(11_008, in_use), &layout).xsave.unwrap();
        assert_eq!(tiles(0b111).tiles, None);
        let both = tiles(0b111 | fpu::TILES);
        assert_eq!(both.xstate_bv, 0b111);
        let both = both.tiles.unwrap();
        assert_eq!(both.config.unwrap()[0], 2752_u32 as u8);
        assert_eq!(both.data.unwrap().len(), 8192);
        let configured = tiles(0b111 | 1 << fpu::XTILECFG.bit).tiles.unwrap();
        assert_eq!((configured.config.map(|bytes| bytes.len()), configured.data), (Some(64), None));
    }
}
