//! Memory whose faults a program serves itself (userfaultfd(2)).

/// What a process has of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Userfaults {
    /// Its descriptors.
    pub files: Vec<Userfaultfd>,
    /// The first addresses of its mappings whose faults are served, each with by which userfaultfd.
    pub served: Vec<(u64, u64)>,
}

/// A descriptor of a userfaultfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Userfaultfd {
    /// The descriptor.
    pub fd: i32,
    /// Which userfaultfd: equal ones are the same.
    pub context: u64,
    /// It serves the memory of the process that has the descriptor.
    pub is_own: bool,
    /// Faults of the kernel's own accesses are not served.
    pub user_mode_only: bool,
    /// `UFFD_FEATURE_*`, if the program has asked for them.
    pub features: Option<u64>,
}
