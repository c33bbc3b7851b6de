//! CRIU's commands.

/// What CRIU is asked to do, of what is supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Write a tree's images.
    Dump,
    /// Write its memory, while it runs.
    PreDump,
    /// Make a tree from images.
    Restore,
    /// Say what the kernel can do.
    Check,
    /// Give back the room of pages that a child has newer copies of.
    Dedup,
    /// Take the pages of a dump.
    PageServer,
    /// Listen for clients of the RPC.
    Service,
    /// Describe the processor.
    CpuinfoDump,
    /// Compare the processor with what was described.
    CpuinfoCheck,
}

impl Command {
    /// As CRIU names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dump => "dump",
            Self::PreDump => "pre-dump",
            Self::Restore => "restore",
            Self::Check => "check",
            Self::Dedup => "dedup",
            Self::PageServer => "page-server",
            Self::Service => "service",
            Self::CpuinfoDump => "cpuinfo dump",
            Self::CpuinfoCheck => "cpuinfo check",
        }
    }
}
