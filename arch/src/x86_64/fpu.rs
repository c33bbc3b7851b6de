//! The extended state (x87, SSE, AVX, AVX-512, protection keys) as `PTRACE_GETREGSET` with
//! `NT_X86_XSTATE` reports it: the standard, not compacted, XSAVE layout (Intel SDM vol. 1,
//! 13.4), and what a signal frame wants around it.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::ops::Range;

/// The number of the register set (`NT_X86_XSTATE`). It has up to 11,008 bytes, with AMX tiles.
pub const REGSET: usize = 0x202;

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

/// Configuration of AMX tiles.
pub const XTILECFG: Component = Component { bit: 17, bytes: 64 };
/// The eight AMX tiles: the one component that a task has to ask for (`ARCH_REQ_XCOMP_PERM`), and
/// that the kernel makes room for in a thread when it first uses it.
pub const XTILEDATA: Component = Component { bit: 18, bytes: 8192 };

/// Every component that the image format has a field for, beyond the legacy region.
pub const COMPONENTS: [Component; 9] =
    [YMM, BNDREGS, BNDCSR, OPMASK, ZMM_HI256, HI16_ZMM, PKRU, XTILECFG, XTILEDATA];

/// What there is of AMX, as a mask.
pub const TILES: u64 = 1 << XTILECFG.bit | 1 << XTILEDATA.bit;

/// Components that a task must ask for before it can use them, as a mask.
pub const ON_REQUEST: u64 = 1 << XTILEDATA.bit;

/// Number of bits of the component mask that stand for components (the last marks formats).
const BITS: usize = 63;

/// Where a processor keeps the components in the standard layout. The places differ between makers
/// (CPUID leaf 13). To be made once: in a virtual machine each question to the processor takes
/// microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// By bit: start, from the start of the area, and bytes; no bytes where there is none.
    places: [(usize, usize); BITS],
}

impl Layout {
    /// The layout of the processor that this runs on.
    #[must_use]
    pub fn of_this_processor() -> Self {
        const LEAF: u32 = 13;
        let enabled = enabled_components();
        let components = (2..BITS as u32).filter(|bit| enabled & 1 << bit != 0);
        Self::of(components.map(|bit| {
            let place = __cpuid_count(LEAF, bit);
            (bit, place.ebx as usize, place.eax as usize)
        }))
    }

    /// A layout with these components (bit number, start, bytes) beyond x87 and SSE.
    #[must_use]
    pub fn of(components: impl IntoIterator<Item = (u32, usize, usize)>) -> Self {
        let mut places = [(0, 0); BITS];
        for (bit, start, bytes) in components {
            if let Some(place) = places.get_mut(bit as usize) {
                *place = (start, bytes);
            }
        }
        Self { places }
    }

    /// Where a component is; `None` where the processor has none.
    #[must_use]
    pub fn place(&self, component: Component) -> Option<Range<usize>> {
        let (start, bytes) = self.places[component.bit as usize];
        (bytes >= component.bytes).then(|| start..start + component.bytes)
    }

    /// Bytes of an area that has room for the components of `mask`.
    #[must_use]
    pub fn bytes(&self, mask: u64) -> usize {
        let ends = (0..BITS).filter(|bit| mask & 1 << bit != 0);
        let ends = ends.map(|bit| self.places[bit].0 + self.places[bit].1);
        ends.fold(LEGACY_BYTES + HEADER_BYTES, usize::max)
    }

    /// All components that the processor has, as a mask.
    #[must_use]
    pub fn components(&self) -> u64 {
        let there = (2..BITS).filter(|&bit| self.places[bit].1 != 0);
        there.fold(0b11, |mask, bit| mask | 1 << bit)
    }
}

/// What the kernel has enabled of the extended state (XCR0).
fn enabled_components() -> u64 {
    /// CPUID leaf 1, ECX: the kernel uses XSAVE, and the instruction XGETBV may be used.
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return 0b11;
    }
    let (low, high): (u32, u32);
    // SAFETY: the processor has the instruction, which only reads.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(low) | u64::from(high) << 32
}

/// Uses AMX tiles for the first time, and leaves them in their initial state.
///
/// # Safety
/// The processor has them, and the process has the permission to use them.
pub unsafe fn touch_tiles() {
    /// One tile of one row of 64 bytes (palette 1).
    #[repr(C, align(64))]
    struct Config([u8; 64]);
    let mut config = Config([0; 64]);
    config.0[0] = 1;
    config.0[16] = 64;
    config.0[48] = 1;
    // SAFETY: the caller's promise. To load the configuration is no use of tiles yet.
    unsafe {
        asm!(
            "ldtilecfg [{}]",
            "tilezero tmm0",
            "tilerelease",
            in(reg) &raw const config,
            options(nostack),
        );
    }
}

/// Components that are in use in `area` and that the image format has no field for, as a mask.
#[must_use]
pub fn foreign_components(area: &[u8]) -> u64 {
    let known = COMPONENTS.iter().fold(0b11, |mask, component| mask | 1 << component.bit);
    components_in_use(area) & !known
}

/// The mask of components in use (`XSTATE_BV`); x87 and SSE alone where there is no XSAVE header.
#[must_use]
pub fn components_in_use(area: &[u8]) -> u64 {
    word(area, LEGACY_BYTES).unwrap_or(0b11)
}

/// The mask of components that the kernel which reported `area` knows.
#[must_use]
pub fn components_known(area: &[u8]) -> u64 {
    word(area, SOFTWARE_RESERVED).unwrap_or(0b11)
}

fn word(area: &[u8], at: usize) -> Option<u64> {
    area.get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes)
}

/// The names of components, for people.
pub fn names(mask: u64) -> impl Iterator<Item = &'static str> {
    const NAMES: [(u64, &str); 8] = [
        (1 << YMM.bit, "AVX"),
        (1 << BNDREGS.bit | 1 << BNDCSR.bit, "MPX"),
        (1 << OPMASK.bit | 1 << ZMM_HI256.bit | 1 << HI16_ZMM.bit, "AVX-512"),
        (1 << 8, "processor trace"),
        (1 << PKRU.bit, "protection keys"),
        (1 << 11 | 1 << 12, "shadow stacks"),
        (1 << XTILECFG.bit | 1 << XTILEDATA.bit, "AMX tiles"),
        (1 << 19, "APX"),
    ];
    let unnamed = NAMES.iter().fold(mask & !0b11, |rest, (bits, _)| rest & !bits);
    let named = NAMES.into_iter().filter(move |(bits, _)| mask & bits != 0).map(|(_, name)| name);
    named.chain((unnamed != 0).then_some("a component without a name here"))
}

/// How much of a register set goes into a signal frame, and where the kernel looks for the magic
/// that closes it.
///
/// Ptrace reports all that the processor could hold, for every thread. A thread's signal frames hold
/// less of it until it first uses what has to be asked for (`fpstate->user_size` in the kernel),
/// and the kernel takes a frame for one without extended state if the magic is not just behind that
/// (`check_xstate_in_sigframe`). Kernels before 6.8 look where the frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes that the frame says it has.
    stated: usize,
    /// Bytes to the last magic: what there must be room for.
    reserved: usize,
}

impl Extent {
    /// For the register set `area`. `user_size` is what the kernel has noted for the thread,
    /// if that is known. If not, both lengths that it can have are provided for.
    #[must_use]
    pub fn of(area: &[u8], layout: &Layout, user_size: Option<usize>) -> Self {
        let (whole, used) = (area.len(), components_in_use(area));
        let fits = |bytes: usize| bytes <= whole && layout.bytes(used) <= bytes;
        if let Some(bytes) = user_size.filter(|&bytes| fits(bytes)) {
            return Self { stated: bytes, reserved: bytes };
        }
        let unasked = layout.bytes(components_known(area) & layout.components() & !ON_REQUEST);
        let on_request = components_known(area) & ON_REQUEST != 0;
        let stated = if on_request && fits(unasked) { unasked } else { whole };
        Self { stated, reserved: whole }
    }

    /// Bytes that [`to_signal_frame`] needs.
    #[must_use]
    pub const fn frame_bytes(self) -> usize {
        self.reserved + MAGIC2_BYTES
    }
}

/// Turns a register set as ptrace reports it into what a signal frame points to: the software
/// bytes filled in and the closing magic put where the kernel looks for it. `out` is
/// [`Extent::frame_bytes`] long.
///
/// # Panics
/// When `out` has another length, or `area` has no XSAVE header.
pub fn to_signal_frame(area: &[u8], extent: Extent, layout: &Layout, out: &mut [u8]) {
    assert!(area.len() >= LEGACY_BYTES + HEADER_BYTES, "extended state without an XSAVE header");
    assert!(out.len() == extent.frame_bytes(), "a frame of another length");
    let Extent { stated, reserved } = extent;
    out.fill(0);
    out[..stated].copy_from_slice(&area[..stated]);
    for end in [stated, reserved] {
        out[end..end + MAGIC2_BYTES].copy_from_slice(&FP_XSTATE_MAGIC2.to_le_bytes());
    }
    let known = components_known(area);
    let fitting = (2..BITS as u32).map(|bit| 1 << bit).filter(|bit| {
        // A component of which this program knows no place is one that is not in the frame.
        known & layout.components() & bit != 0 && layout.bytes(*bit) <= stated
    });
    let fitting = fitting.fold(known & 0b11, |mask, bit| mask | bit);
    // struct _fpx_sw_bytes: magic1, extended_size, xfeatures, xstate_size, 7 words of padding.
    let software = &mut out[SOFTWARE_RESERVED..LEGACY_BYTES];
    software.fill(0);
    software[0..4].copy_from_slice(&FP_XSTATE_MAGIC1.to_le_bytes());
    software[4..8].copy_from_slice(&((stated + MAGIC2_BYTES) as u32).to_le_bytes());
    software[8..16].copy_from_slice(&fitting.to_le_bytes());
    software[16..20].copy_from_slice(&(stated as u32).to_le_bytes());
}

/// Bytes of [`compat_header`].
pub const COMPAT_HEADER_BYTES: usize = 112;

/// What stands before the extended state in a frame of 32-bit code (`struct fregs_state`): the state of the x87, in the layout of FSAVE. The
/// kernel takes that from here, and all else from what follows.
///
/// # Panics
/// When `area` is shorter than [`LEGACY_BYTES`].
#[must_use]
pub fn compat_header(area: &[u8]) -> [u8; COMPAT_HEADER_BYTES] {
    const REGISTERS_AT: usize = 28;
    const REGISTER_BYTES: usize = 10;
    /// Bits of the words that have no meaning are set.
    const UPPER: u32 = 0xffff_0000;
    const EMPTY: u32 = 0b11;
    let short = |at: usize| u32::from(u16::from_le_bytes([area[at], area[at + 1]]));
    let long = |at: usize| short(at) | short(at + 2) << 16;
    // FXSAVE has one bit of each register, FSAVE two: whether it is empty, and what is in it, which is looked at again.
    let used = short(4);
    let tags = (0..8).filter(|register| used & 1 << register == 0);
    let tags = tags.fold(UPPER, |tags, register| tags | EMPTY << (2 * register));
    let mut header = [0; COMPAT_HEADER_BYTES];
    // Control, status, tags; where the last instruction was, its code; where its operand was. Of segments there is no word.
    let words =
        [UPPER | short(0), UPPER | short(2), tags, long(8), short(6) << 16, long(16), UPPER];
    for (place, word) in header.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    for register in 0..8 {
        let (to, from) = (REGISTERS_AT + REGISTER_BYTES * register, 32 + 16 * register);
        header[to..to + REGISTER_BYTES].copy_from_slice(&area[from..from + REGISTER_BYTES]);
    }
    // The status once more, and a word that says that more follows (X86_FXSR_MAGIC).
    header[108..110].copy_from_slice(&area[2..4]);
    header
}

#[cfg(test)]
#[path = "fpu_tests.rs"]
mod tests;
