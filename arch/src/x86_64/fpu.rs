//! The extended state (x87, SSE, AVX, AVX-512, protection keys) as `PTRACE_GETREGSET` with
//! `NT_X86_XSTATE` reports it: the standard, not compacted, XSAVE layout (Intel SDM vol. 1,
//! 13.4), and what a signal frame wants around it.

use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::ops::Range;

/// Alignment in bytes of the area that XSAVE and XRSTOR take.
pub const ALIGN: usize = 64;

/// Bytes of the legacy (FXSAVE) region at the start.
pub const LEGACY_BYTES: usize = 512;
/// Bytes of the XSAVE header behind it; its first word is the mask of components in use.
pub const HEADER_BYTES: usize = 64;

/// Where the software-reserved bytes of the legacy region begin. Ptrace reports the kernel's mask
/// of components there; a signal frame holds its description (`struct _fpx_sw_bytes`).
const SOFTWARE_RESERVED: usize = 464;

const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Bytes of the second magic, which closes the area in a signal frame.
const MAGIC2_BYTES: usize = 4;

/// A component of the extended state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// Bit number in the component mask (XCR0).
    pub bit: u32,
    /// Length in bytes.
    pub bytes: usize,
}

/// Upper halves of the sixteen 256-bit registers.
pub const YMM: Component = Component { bit: 2, bytes: 256 };
/// Bound registers of MPX.
pub const BNDREGS: Component = Component { bit: 3, bytes: 64 };
/// Bound configuration of MPX.
pub const BNDCSR: Component = Component { bit: 4, bytes: 64 };
/// The eight AVX-512 mask registers.
pub const OPMASK: Component = Component { bit: 5, bytes: 64 };
/// Upper halves of the first sixteen 512-bit registers.
pub const ZMM_HI256: Component = Component { bit: 6, bytes: 512 };
/// The other sixteen 512-bit registers.
pub const HI16_ZMM: Component = Component { bit: 7, bytes: 1024 };
/// Protection-key rights.
pub const PKRU: Component = Component { bit: 9, bytes: 8 };

/// Where this processor keeps the components in the standard layout, in bytes from the start of the
/// area. The places differ between makers (CPUID leaf 13). To be made once: in a virtual machine
/// each question to the processor takes microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// By the component's place in [`COMPONENTS`]; `None` where the processor has none.
    starts: [Option<usize>; COMPONENTS.len()],
}

impl Layout {
    /// The layout of the processor that this runs on.
    #[must_use]
    pub fn of_this_processor() -> Self {
        const LEAF: u32 = 13;
        let supported = if __cpuid(0).eax < LEAF { 0 } else { __cpuid_count(LEAF, 0).eax };
        let start = |component: Component| {
            let there = supported & (1 << component.bit) != 0;
            there.then(|| __cpuid_count(LEAF, component.bit).ebx as usize)
        };
        Self { starts: COMPONENTS.map(start) }
    }

    /// Where a component is; `None` where the processor has none.
    #[must_use]
    pub fn place(&self, component: Component) -> Option<Range<usize>> {
        let index = COMPONENTS.iter().position(|known| *known == component)?;
        self.starts[index].map(|start| start..start + component.bytes)
    }
}

/// Every component that the image format has a field for, beyond the legacy region.
pub const COMPONENTS: [Component; 7] = [YMM, BNDREGS, BNDCSR, OPMASK, ZMM_HI256, HI16_ZMM, PKRU];

/// Components beyond those (AMX tiles and the like) that are in use in `area`, as a mask;
/// zero when the image format can carry all of it.
#[must_use]
pub fn foreign_components(area: &[u8]) -> u64 {
    let known = COMPONENTS.iter().fold(0b11, |mask, component| mask | 1 << component.bit);
    components_in_use(area) & !known
}

/// The mask of components in use (`XSTATE_BV`); x87 and SSE alone where there is no XSAVE header.
#[must_use]
pub fn components_in_use(area: &[u8]) -> u64 {
    area.get(LEGACY_BYTES..LEGACY_BYTES + 8)
        .and_then(|word| word.try_into().ok())
        .map_or(0b11, u64::from_le_bytes)
}

/// Bytes that [`to_signal_frame`] needs for a register set of `area` bytes.
#[must_use]
pub const fn signal_frame_bytes(area: usize) -> usize {
    area + MAGIC2_BYTES
}

/// Turns a register set as ptrace reports it into what a signal frame points to: the software
/// bytes filled in and the closing magic appended. `out` is [`signal_frame_bytes`] long.
///
/// # Panics
/// When `out` has another length, or `area` has no XSAVE header.
pub fn to_signal_frame(area: &[u8], out: &mut [u8]) {
    assert!(area.len() >= LEGACY_BYTES + HEADER_BYTES, "extended state without an XSAVE header");
    let (body, magic2) = out.split_at_mut(area.len());
    body.copy_from_slice(area);
    magic2.copy_from_slice(&FP_XSTATE_MAGIC2.to_le_bytes());
    // struct _fpx_sw_bytes: magic1, extended_size, xfeatures, xstate_size, 7 words of padding.
    let mut reported = [0; 8];
    reported.copy_from_slice(&area[SOFTWARE_RESERVED..SOFTWARE_RESERVED + 8]);
    let reserved = &mut body[SOFTWARE_RESERVED..LEGACY_BYTES];
    reserved.fill(0);
    reserved[0..4].copy_from_slice(&FP_XSTATE_MAGIC1.to_le_bytes());
    reserved[4..8].copy_from_slice(&(signal_frame_bytes(area.len()) as u32).to_le_bytes());
    reserved[8..16].copy_from_slice(&reported);
    reserved[16..20].copy_from_slice(&(area.len() as u32).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_frame_describes_its_area() {
        let mut area = [0xaa; 2696];
        area[SOFTWARE_RESERVED..SOFTWARE_RESERVED + 8].copy_from_slice(&0x2e7u64.to_le_bytes());
        let mut out = [0; signal_frame_bytes(2696)];
        to_signal_frame(&area, &mut out);
        assert_eq!(&out[464..468], &FP_XSTATE_MAGIC1.to_le_bytes());
        assert_eq!(&out[468..472], &2700u32.to_le_bytes());
        assert_eq!(&out[472..480], &0x2e7u64.to_le_bytes());
        assert_eq!(&out[480..484], &2696u32.to_le_bytes());
        assert_eq!(&out[2696..], &FP_XSTATE_MAGIC2.to_le_bytes());
        assert_eq!(&out[512..2696], &area[512..]);
    }

    #[test]
    fn tiles_are_foreign() {
        let mut area = [0; 640];
        area[LEGACY_BYTES..LEGACY_BYTES + 8].copy_from_slice(&(0b111u64 | 1 << 18).to_le_bytes());
        assert_eq!(foreign_components(&area), 1 << 18);
    }
}
