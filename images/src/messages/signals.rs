//! Signal handlers and pending signals.

use prost::Message;

/// A signal's handler. [`TaskCoreEntry::sigactions`](super::TaskCoreEntry) lists them for
/// signals 1 to 64 without SIGKILL and SIGSTOP, in order: 62 of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct SaEntry {
    /// Handler: its address, 0 for the default, 1 to ignore.
    #[prost(uint64, required, tag = "1")]
    pub sigaction: u64,
    /// `SA_*`.
    #[prost(uint64, required, tag = "2")]
    pub flags: u64,
    /// Where a handler returns to.
    #[prost(uint64, required, tag = "3")]
    pub restorer: u64,
    /// Signals blocked meanwhile.
    #[prost(uint64, required, tag = "4")]
    pub mask: u64,
    /// Set by 32-bit code.
    #[prost(bool, optional, tag = "5")]
    pub compat_sigaction: Option<bool>,
    /// Signals from 65 blocked meanwhile (MIPS).
    #[prost(uint64, optional, tag = "6")]
    pub mask_extended: Option<u64>,
}

/// A pending signal: the 128 bytes of the kernel's `siginfo_t`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SiginfoEntry {
    /// The structure.
    #[prost(bytes = "vec", required, tag = "1")]
    pub siginfo: Vec<u8>,
}

/// Pending signals, oldest first.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SignalQueueEntry {
    /// The signals.
    #[prost(message, repeated, tag = "1")]
    pub signals: Vec<SiginfoEntry>,
}
