//! The part of a thread's image (`core-TID.img`) that is the processor's: made of what ptrace
//! reports, and turned back into what ptrace takes.

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;

use images::messages::{
    CoreEntry, MARCH_X86_64, REGS_MODE_COMPAT, REGS_MODE_NATIVE, ThreadInfoX86, UserDescT,
    UserX86FpregsEntry, UserX86RegsEntry, UserX86TilesEntry, UserX86XsaveEntry,
};

use super::fpu::{self, Component, Layout};
use super::memory::END_OF_SPACE;
use super::regs::{Abi, GeneralRegs, Handler, NO_SYSCALL};
use super::tls::{GDT_ENTRY_TLS_COUNT, GDT_ENTRY_TLS_MIN, Segment, Segments, base_of};

// The format's pages are those of this processor.
const _: () = assert!(images::PAGE_SIZE == super::memory::PAGE_SIZE);

/// Where the kernel says, in a register set that it gives out, which components it has.
const KNOWN_COMPONENTS: usize = 464;

/// What a dump knows of a thread and its processor.
#[derive(Clone, Copy, Debug)]
pub struct ThreadState<'a> {
    /// As ptrace reports them.
    pub registers: &'a GeneralRegs,
    /// What a signal that waits for the thread has run before it goes on.
    pub handler: Handler,
    /// As ptrace reports it.
    pub extended: &'a [u8],
    /// Of 32-bit code: its segments.
    pub segments: Option<&'a Segments>,
    /// Where the kernel clears the thread's number when it ends.
    pub clear_child_tid: u64,
    /// In a leader: what the process has asked to use of the extended state, as a mask.
    pub permitted: Option<u64>,
    /// [`super::settings::identification_faults`].
    pub identification_faults: bool,
    /// [`super::settings::clock_faults`].
    pub clock_faults: bool,
}

/// The image of a thread, with only this part filled in.
///
/// The registers are stored wound back (see [`GeneralRegs::resumed`]): whoever restores them has
/// only to set them.
///
/// # Panics
/// When the extended state is shorter than [`fpu::LEGACY_BYTES`].
#[must_use]
pub fn encode(state: &ThreadState<'_>, layout: &Layout) -> CoreEntry {
    let info = ThreadInfoX86 {
        clear_tid_addr: state.clear_child_tid,
        gpregs: general(&state.registers.resumed(state.handler)),
        fpregs: extended(state.extended, layout),
        tls: state.segments.into_iter().flatten().map(described).collect(),
        permitted_components: state
            .permitted
            .map(|mask| mask & fpu::ON_REQUEST)
            .filter(|mask| *mask != 0),
        cpuid_faults: Some(state.identification_faults).filter(|faults| *faults),
        tsc_faults: Some(state.clock_faults).filter(|faults| *faults),
    };
    CoreEntry { mtype: MARCH_X86_64, thread_info: Some(info), ..CoreEntry::default() }
}

/// The image of a thread that has ended, with only this part filled in.
#[must_use]
pub fn encode_ended() -> CoreEntry {
    CoreEntry { mtype: MARCH_X86_64, ..CoreEntry::default() }
}

fn general(registers: &GeneralRegs) -> UserX86RegsEntry {
    match registers.abi() {
        Abi::Native => native(registers),
        Abi::Compat => compat(registers),
    }
}

/// The bits of [`Segment::flags`], one of `struct user_desc` each.
const SEGMENT_FLAGS: usize = 7;

fn described(segment: &Segment) -> UserDescT {
    let flag = |bit: usize| segment.flags & 1 << bit != 0;
    UserDescT {
        entry_number: segment.entry,
        base_addr: segment.base,
        limit: segment.limit,
        seg_32bit: flag(0),
        contents_l: flag(1),
        contents_h: flag(2),
        read_exec_only: flag(3),
        limit_in_pages: flag(4),
        seg_not_present: flag(5),
        usable: flag(6),
    }
}

fn segment(from: &UserDescT) -> Segment {
    let flags: [bool; SEGMENT_FLAGS] = [
        from.seg_32bit,
        from.contents_l,
        from.contents_h,
        from.read_exec_only,
        from.limit_in_pages,
        from.seg_not_present,
        from.usable,
    ];
    let flags = flags.iter().enumerate().fold(0, |set, (bit, &flag)| set | u32::from(flag) << bit);
    Segment { entry: from.entry_number, base: from.base_addr, limit: from.limit, flags }
}

/// The registers of 32-bit code: the others hold what the kernel has left there.
fn compat(r: &GeneralRegs) -> UserX86RegsEntry {
    let low = |word: u64| u64::from(word as u32);
    UserX86RegsEntry {
        bp: low(r.bp),
        bx: low(r.bx),
        ax: low(r.ax),
        cx: low(r.cx),
        dx: low(r.dx),
        si: low(r.si),
        di: low(r.di),
        orig_ax: low(r.orig_ax),
        ip: low(r.ip),
        cs: r.cs,
        flags: low(r.flags),
        sp: low(r.sp),
        ss: r.ss,
        ds: r.ds,
        es: r.es,
        fs: r.fs,
        gs: r.gs,
        mode: Some(REGS_MODE_COMPAT),
        ..UserX86RegsEntry::default()
    }
}

fn native(r: &GeneralRegs) -> UserX86RegsEntry {
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
fn extended(area: &[u8], layout: &Layout) -> UserX86FpregsEntry {
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

/// What an image says of a thread's processor.
#[derive(Clone, Debug)]
pub struct ThreadImage(ThreadInfoX86);

/// Why there is none in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// It was made on another kind of processor.
    OtherProcessor,
    /// It is not there, as in the image of a thread that has ended.
    Missing,
}

impl ThreadImage {
    /// Takes it out of the image.
    ///
    /// # Errors
    /// If there is none of this processor's.
    pub fn take(core: &mut CoreEntry) -> Result<Self, Absent> {
        if core.mtype != MARCH_X86_64 {
            return Err(Absent::OtherProcessor);
        }
        core.thread_info.take().map(Self).ok_or(Absent::Missing)
    }

    /// Whose code it runs.
    #[must_use]
    pub fn abi(&self) -> Abi {
        match self.0.gpregs.mode {
            Some(REGS_MODE_COMPAT) => Abi::Compat,
            _ => Abi::Native,
        }
    }

    /// The segments of a thread of 32-bit code, of 64-bit code that has some for other code, too; `None` if no thread can have them.
    #[must_use]
    pub fn segments(&self) -> Option<Vec<Segment>> {
        let known = GDT_ENTRY_TLS_MIN..GDT_ENTRY_TLS_MIN + GDT_ENTRY_TLS_COUNT as u32;
        let there = || self.0.tls.iter().map(segment).filter(Segment::is_there);
        let all: Vec<_> = there().collect();
        all.iter().all(|segment| known.contains(&segment.entry)).then_some(all)
    }

    /// Where the kernel clears the thread's number when it ends.
    #[must_use]
    pub const fn clear_child_tid(&self) -> u64 {
        self.0.clear_tid_addr
    }

    /// [`super::settings::identification_faults`].
    #[must_use]
    pub fn identification_faults(&self) -> bool {
        self.0.cpuid_faults == Some(true)
    }

    /// [`super::settings::clock_faults`].
    #[must_use]
    pub fn clock_faults(&self) -> bool {
        self.0.tsc_faults == Some(true)
    }

    /// The general registers; `None` if no task can have them. The dump has already wound
    /// interrupted system calls back: the kernel is told that none is going on, so that it does not do
    /// so again.
    #[must_use]
    pub fn general(&self) -> Option<GeneralRegs> {
        let from: &UserX86RegsEntry = &self.0.gpregs;
        let mut regs = GeneralRegs {
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
        let is_as_it_says = regs.abi() == self.abi();
        match regs.abi() {
            Abi::Native => {
                let inside = regs.fs_base < END_OF_SPACE && regs.gs_base < END_OF_SPACE;
                (is_as_it_says && inside).then_some(regs)
            }
            Abi::Compat => {
                let segments = self.segments()?;
                (regs.fs_base, regs.gs_base) =
                    (base_of(regs.fs, &segments), base_of(regs.gs, &segments));
                let selectors = [regs.ds, regs.es, regs.fs, regs.gs];
                // The kernel takes none of its own.
                let is_of_user =
                    |selector: &u64| *selector == 0 || *selector <= 0xffff && selector & 3 == 3;
                let words =
                    [regs.ip, regs.sp, regs.bx, regs.cx, regs.dx, regs.si, regs.di, regs.bp];
                let narrow = words.iter().all(|&word| u32::try_from(word).is_ok());
                let whole = is_as_it_says && regs.is_plain_compat() && narrow;
                (whole && selectors.iter().all(is_of_user)).then_some(regs)
            }
        }
    }

    /// The general registers of a thread that stands where its tracer has it: in a call that was interrupted it still is.
    #[must_use]
    pub fn traced(&self) -> Option<GeneralRegs> {
        let regs = self.general()?;
        let call = self.0.gpregs.orig_ax;
        let is_call = call == NO_SYSCALL || u32::try_from(call).is_ok();
        (regs.abi() == Abi::Native && is_call).then_some(GeneralRegs { orig_ax: call, ..regs })
    }

    /// The extended state in the form of `current`, the state that the thread has at this moment,
    /// whose length and components are those of this processor, as is `layout`. `None` if that is no
    /// extended state. What is [`ThreadImage::missing`] is left out.
    #[must_use]
    pub fn extended(&self, current: &[u8], layout: &Layout) -> Option<Vec<u8>> {
        let from: &UserX86FpregsEntry = &self.0.fpregs;
        let mut area = vec![0; current.len()];
        let (legacy, _) = area.split_at_mut_checked(fpu::LEGACY_BYTES)?;
        legacy[KNOWN_COMPONENTS..].copy_from_slice(&current[KNOWN_COMPONENTS..fpu::LEGACY_BYTES]);
        legacy[0..2].copy_from_slice(&(from.cwd as u16).to_le_bytes());
        legacy[2..4].copy_from_slice(&(from.swd as u16).to_le_bytes());
        legacy[4..6].copy_from_slice(&(from.twd as u16).to_le_bytes());
        legacy[6..8].copy_from_slice(&(from.fop as u16).to_le_bytes());
        legacy[8..16].copy_from_slice(&from.rip.to_le_bytes());
        legacy[16..24].copy_from_slice(&from.rdp.to_le_bytes());
        legacy[24..28].copy_from_slice(&from.mxcsr.to_le_bytes());
        legacy[28..32].copy_from_slice(&from.mxcsr_mask.to_le_bytes());
        put_words(&mut legacy[32..160], &from.st_space);
        put_words(&mut legacy[160..416], &from.xmm_space);
        let known = fpu::components_known(current);
        let mut in_use = self.in_use() & known;
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
            put_components(&mut area, xsave, layout);
        }
        Some(area)
    }

    /// Components that a processor with these (`known`) lacks and without which the thread is not
    /// what it was, as a mask.
    #[must_use]
    pub fn missing(&self, known: u64) -> u64 {
        self.needed() & !known
    }

    /// In a leader's: components that the process has asked to use, as a mask.
    #[must_use]
    pub fn permitted(&self) -> u64 {
        self.0.permitted_components.unwrap_or(0) & fpu::ON_REQUEST
    }

    /// Whether the kernel has to make room in the thread ([`super::settings::make_room`]).
    #[must_use]
    pub fn needs_room(&self) -> bool {
        self.in_use() & 1 << fpu::XTILEDATA.bit != 0
    }

    /// Components that are not in their initial state by what the dump says of them.
    fn in_use(&self) -> u64 {
        let Some(xsave) = &self.0.fpregs.xsave else { return 0b11 };
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
    fn needed(&self) -> u64 {
        /// What the kernel gives a new task: access to the key that all memory has, to no other.
        const KEYS_OF_A_NEW_TASK: u32 = 0x5555_5554;
        let Some(xsave) = &self.0.fpregs.xsave else { return 0 };
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
        self.in_use() & !initial.fold(0b11, |mask, (component, _)| mask | 1 << component.bit)
    }
}

fn put_components(area: &mut [u8], from: &UserX86XsaveEntry, layout: &Layout) {
    put_words(place(area, fpu::YMM, layout), &from.ymmh_space);
    put_quads(place(area, fpu::BNDREGS, layout), &from.bndreg_state);
    put_quads(place(area, fpu::BNDCSR, layout), &from.bndcsr_state);
    put_quads(place(area, fpu::OPMASK, layout), &from.opmask_reg);
    put_quads(place(area, fpu::ZMM_HI256, layout), &from.zmm_upper);
    put_quads(place(area, fpu::HI16_ZMM, layout), &from.hi16_zmm);
    if !from.pkru.is_empty() {
        put_words(place(area, fpu::PKRU, layout), &from.pkru);
    }
    if let Some(tiles) = &from.tiles {
        put_bytes(place(area, fpu::XTILECFG, layout), tiles.config.as_deref());
        put_bytes(place(area, fpu::XTILEDATA, layout), tiles.data.as_deref());
    }
}

/// The bytes of a component; none where the processor has none.
fn place<'a>(area: &'a mut [u8], component: Component, layout: &Layout) -> &'a mut [u8] {
    layout.place(component).and_then(|place| area.get_mut(place)).unwrap_or_default()
}

fn put_bytes(to: &mut [u8], from: Option<&[u8]>) {
    for (to, from) in to.iter_mut().zip(from.unwrap_or_default()) {
        *to = *from;
    }
}

fn put_words(to: &mut [u8], from: &[u32]) {
    for (to, from) in to.chunks_exact_mut(4).zip(from) {
        to.copy_from_slice(&from.to_le_bytes());
    }
}

fn put_quads(to: &mut [u8], from: &[u64]) {
    for (to, from) in to.chunks_exact_mut(8).zip(from) {
        to.copy_from_slice(&from.to_le_bytes());
    }
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
