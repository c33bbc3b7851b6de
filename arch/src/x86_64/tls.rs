//! Thread-local storage.
//!
//! A 64-bit task's TLS is its FS base (and, for what little uses it, the GS base). Both are part
//! of [`super::regs::GeneralRegs`], so they are carried with the general registers and nothing
//! else needs doing; the GDT's three TLS slots, which only 32-bit code uses, are listed here so
//! that a compat port has its place.

/// First of the three GDT entries that `set_thread_area` fills for 32-bit code.
pub const GDT_ENTRY_TLS_MIN: u32 = 12;
/// Number of those entries.
pub const GDT_ENTRY_TLS_COUNT: u32 = 3;
