//! Thread-local storage.
//!
//! A 64-bit task's TLS is its FS base (and, for what little uses it, the GS base). Both are part
//! of [`super::regs::GeneralRegs`], so they are carried with the general registers and nothing
//! else needs doing. 32-bit code has segments for it, by selectors of three entries of the GDT that each thread has for
//! itself (`set_thread_area`).

/// First of the three GDT entries that `set_thread_area` fills for 32-bit code.
pub const GDT_ENTRY_TLS_MIN: u32 = 12;
/// Number of those entries.
pub const GDT_ENTRY_TLS_COUNT: usize = 3;

/// The register set that holds all of them (`NT_386_TLS`), of a thread that is stopped in 32-bit code.
pub const REGSET: usize = 0x200;

/// The request by which a tracer sets one of them (`PTRACE_SET_THREAD_AREA`): the entry's number, and the segment.
pub const SET: u32 = 26;

/// A segment (`struct user_desc`): the number of its entry, base, limit and flags.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Number of its entry.
    pub entry: u32,
    /// Lowest address.
    pub base: u32,
    /// Last offset, in bytes or pages.
    pub limit: u32,
    /// Bits, the first lowest: 32-bit code; two of contents; read or executed only; limit in pages; not present; for the system's use.
    pub flags: u32,
}

/// All segments of a thread.
pub type Segments = [Segment; GDT_ENTRY_TLS_COUNT];

const NOT_PRESENT: u32 = 1 << 5;
const READ_EXEC_ONLY: u32 = 1 << 3;

impl Segment {
    /// What an entry holds that nobody has filled.
    #[must_use]
    pub const fn none(entry: u32) -> Self {
        Self { entry, base: 0, limit: 0, flags: READ_EXEC_ONLY | NOT_PRESENT }
    }

    /// Whether there is one.
    #[must_use]
    pub const fn is_there(&self) -> bool {
        // The kernel takes one of zeros for an empty one, too (`LDT_zero`).
        self.flags & NOT_PRESENT == 0 && (self.base | self.limit | self.flags) != 0
    }
}

/// The base of the segment that a selector names; 0 for one that is none of these, whose base is 0.
#[must_use]
pub fn base_of(selector: u64, segments: &[Segment]) -> u64 {
    let entry = selector >> 3;
    let named = segments.iter().find(|segment| u64::from(segment.entry) == entry);
    named.filter(|segment| segment.is_there()).map_or(0, |segment| segment.base.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_name_segments() {
        // As the C library has it: a limit of 4 GiB, in pages.
        let tls = Segment { entry: 12, base: 0xf7f9_3540, limit: 0xf_ffff, flags: 0x51 };
        let all = [tls, Segment::none(13), Segment::none(14)];
        assert_eq!(base_of(0x63, &all), 0xf7f9_3540);
        for other in [0, 3, 0x2b, 0x6b, 0x73, u64::MAX] {
            assert_eq!(base_of(other, &all), 0);
        }
        assert!(tls.is_there() && !all[1].is_there() && !Segment::default().is_there());
    }
}
