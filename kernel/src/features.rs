//! What this kernel can do: probed by feature, never by version, with three answers.
//!
//! A probe asks the kernel for the thing itself, in a form that changes nothing: on this very
//! process, on a descriptor or a child made for the purpose, or with an argument that a kernel
//! that knows the call refuses in a way that one that does not know it cannot. What a probe
//! leaves behind (a descriptor, a child) it takes away again.
//!
//! One [`KernelFeatures`] is probed once and passed to who needs it.

mod files;
mod probes;
mod ptrace;
mod sockets;

use std::collections::BTreeMap;

use serde::Serialize;

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "answer", content = "reason")]
pub enum Answer {
    /// It is there, and this process may use it.
    Yes,
    /// It is not there, or this process may not use it; the reason says which.
    No(String),
    /// The probe could not tell, for this reason.
    Unknown(String),
}

impl Answer {
    /// Whether the answer is a plain yes.
    #[must_use]
    pub const fn is_yes(&self) -> bool {
        matches!(self, Self::Yes)
    }

    /// `yes`, `no` or `unknown`.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No(_) => "no",
            Self::Unknown(_) => "unknown",
        }
    }

    /// Why it is not a yes.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Yes => None,
            Self::No(reason) | Self::Unknown(reason) => Some(reason),
        }
    }
}

/// How much depends on a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// No checkpoint or no restore without it.
    Required,
    /// Something is slower, or some targets are refused, without it.
    Useful,
    /// Told because it explains what happens; nothing depends on it.
    Informative,
}

macro_rules! features {
    ($($variant:ident = $name:literal, $need:ident, $probe:expr, $what:literal;)*) => {
        /// One thing that a kernel can or cannot do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Feature {
            $(#[doc = $what] $variant,)*
        }

        impl Feature {
            /// Every feature, in the order in which they are shown.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name, in `stasis check` and in JSON.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it is for.
            #[must_use]
            pub const fn purpose(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }

            /// How much depends on it.
            #[must_use]
            pub const fn need(self) -> Need {
                match self { $(Self::$variant => Need::$need,)* }
            }

            /// Asks the kernel.
            #[must_use]
            pub fn probe(self) -> Answer {
                match self { $(Self::$variant => $probe(),)* }
            }
        }
    };
}

features! {
    Ptrace = "ptrace", Required, ptrace::seize, "stop a task and read its registers";
    PtraceSigInfo = "ptrace_siginfo", Required, ptrace::signal_state,
        "read pending signals and signal masks";
    PtraceRseq = "ptrace_get_rseq_conf", Required, ptrace::rseq,
        "find a thread's restartable-sequence area (PTRACE_GET_RSEQ_CONFIGURATION)";
    PtraceSyscallInfo = "ptrace_get_syscall_info", Required, ptrace::syscall_info,
        "know whether a task is inside a system call";
    CheckpointRestore = "checkpoint_restore", Required, probes::map_files,
        "open mapped files through /proc/PID/map_files (CONFIG_CHECKPOINT_RESTORE)";
    Children = "proc_children", Required, probes::proc_children,
        "find children through /proc/PID/task/TID/children";
    SetMmMap = "prctl_set_mm_map", Required, probes::set_mm_map,
        "put back the layout of a process (PR_SET_MM_MAP)";
    Clone3SetTid = "clone3_set_tid", Required, probes::clone3_set_tid,
        "give a process the pid it had";
    ProcessVm = "process_vm_readv", Required, probes::process_vm,
        "copy memory between processes";
    PidfdGetfd = "pidfd_getfd", Required, probes::pidfd_getfd,
        "take a copy of another process's descriptor";
    Memfd = "memfd_create", Required, probes::memfd, "hold shared memory without a file system";
    CloseRange = "close_range", Required, probes::close_range, "close many descriptors at once";
    Rseq = "rseq", Required, probes::rseq, "register restartable sequences";
    Kcmp = "kcmp", Useful, probes::kcmp, "tell shared open files and memory from equal ones";
    PagemapScan = "pagemap_scan", Useful, probes::pagemap_scan,
        "read page tables in bulk; /proc/PID/pagemap serves without it";
    PagemapGuards = "pagemap_scan_guards", Useful, probes::pagemap_guards,
        "tell guard regions from pages";
    PosixTimers = "proc_timers", Useful, probes::proc_timers,
        "list POSIX timers through /proc/PID/timers";
    TimerIds = "timer_restore_ids", Useful, probes::timer_ids,
        "create POSIX timers with the ids they had (PR_TIMER_CREATE_RESTORE_IDS)";
    GuardRegions = "guard_regions", Useful, probes::guard_regions,
        "carry guard regions (MADV_GUARD_INSTALL), as glibc 2.42 has on threads' stacks";
    SealedMemory = "sealed_memory", Useful, probes::sealed_memory,
        "carry sealed mappings (mseal)";
    DroppableMemory = "droppable_memory", Useful, probes::droppable_memory,
        "carry memory that the kernel may drop (MAP_DROPPABLE)";
    ProtectionKeys = "protection_keys", Useful, probes::protection_keys,
        "carry memory protection keys (pkey_alloc), as JavaScript engines have for their code";
    UffdWpAsync = "uffd_wp_async", Useful, probes::uffd_wp_async,
        "track written pages without soft-dirty bits (userfaultfd, asynchronous)";
    SoftDirty = "soft_dirty", Useful, probes::soft_dirty,
        "mark written pages in page tables (soft-dirty bits): told to those who ask, not used by stasis";
    BpfIterators = "bpf_iterators", Useful, probes::bpf_iterators,
        "take the inventory in bulk; /proc serves without it";
    UnixDiag = "unix_diag", Useful, sockets::unix_diag, "describe Unix sockets";
    InetDiag = "inet_diag", Useful, sockets::inet_diag, "describe TCP and UDP sockets";
    TcpRepair = "tcp_repair", Useful, sockets::tcp_repair, "carry TCP connections";
    TimeNamespaces = "time_namespaces", Useful, probes::time_namespaces,
        "keep monotonic clocks across machines";
    CgroupV2Freeze = "cgroup_v2_freeze", Useful, probes::cgroup_v2_freeze,
        "stop a whole cgroup at once (cgroup.freeze)";
    CgroupV1Freezer = "cgroup_v1_freezer", Useful, probes::cgroup_v1_freezer,
        "stop a whole cgroup at once (v1 freezer)";
    RaiseLimits = "cap_sys_resource", Useful, probes::cap_sys_resource,
        "raise hard limits (CAP_SYS_RESOURCE): needed where a target's exceed our own";
    TcpWindow = "tcp_repair_window", Useful, sockets::tcp_window,
        "carry the windows of TCP connections";
    Nftables = "nftables", Useful, sockets::nftables,
        "lock the network while a connection is carried";
    SeccompFilters = "seccomp_filters", Useful, ptrace::seccomp_filters,
        "read the seccomp filters of a task (PTRACE_SECCOMP_GET_FILTER)";
    SuspendSeccomp = "seccomp_suspend", Useful, ptrace::suspend_seccomp,
        "suspend the seccomp filters of a task (PTRACE_O_SUSPEND_SECCOMP)";
    FdinfoLocks = "fdinfo_lock", Useful, files::fdinfo_lock, "tell whose a file lock is";
    FdinfoMount = "fdinfo_mnt_id", Useful, files::mnt_id, "tell the mount of an open file";
    TimerfdTicks = "timerfd_ticks", Useful, files::timerfd_ticks, "give a timerfd its ticks back";
    AioRemap = "aio_remap", Useful, files::aio_remap, "give an AIO ring its address back";
    KcmpEpoll = "kcmp_epoll", Useful, probes::kcmp_epoll,
        "tell which open file an epoll watches";
    SocketFile = "unix_socket_file", Useful, sockets::socket_file,
        "find the file that a Unix socket is bound to (SIOCUNIXFILE)";
    SocketNamespace = "socket_namespace", Useful, sockets::socket_namespace,
        "tell the network namespace of a socket (SIOCGSKNS)";
    RawDiag = "raw_diag", Useful, sockets::raw_diag, "describe raw sockets";
    BufferLocks = "socket_buffer_lock", Useful, sockets::buffer_locks,
        "tell whether a program set the sizes of a socket's buffers (SO_BUF_LOCK)";
    Ipv6Freebind = "ipv6_freebind", Useful, sockets::ipv6_freebind,
        "bind to IPv6 addresses that are not there (IPV6_FREEBIND)";
    HugetlbMemfd = "hugetlb_memfd", Useful, files::hugetlb_memfd,
        "hold shared memory in huge pages";
    Loginuid = "loginuid", Useful, files::loginuid, "give a task its audit user id back";
    Openat2 = "openat2", Useful, files::openat2, "open files without following links";
    NsPid = "nspid", Useful, files::nspid, "tell the pids that a task has in its namespaces";
    MapVdso = "map_vdso", Informative, probes::map_vdso,
        "map the vDSO of a task at another address";
    Compat = "compat", Informative, probes::compat, "carry programs of 32-bit code";
    OverlayMaps = "overlayfs_maps", Informative, files::overlayfs_maps,
        "find the mapped files of an overlayfs through /proc/PID/map_files";
    Uffd = "userfaultfd", Informative, probes::uffd, "serve the pages of a task when it touches them";
    UffdEvents = "userfaultfd_events", Informative, probes::uffd_events,
        "follow a task's mappings while its pages are served";
    UserNamespaces = "user_namespaces", Informative, probes::user_namespaces,
        "containers with user ids of their own";
    CgroupNamespaces = "cgroup_namespaces", Informative, probes::cgroup_namespaces,
        "containers that see their own control groups";
    NamespaceNumbers = "network_namespace_ids", Informative, sockets::namespace_numbers,
        "devices that reach into another network namespace (RTM_GETNSID)";
    NewIndex = "new_interface_index", Informative, sockets::new_index,
        "give a network device its index when it moves (IFLA_NEW_IFINDEX)";
    MountGroups = "mount_groups", Informative, probes::mount_groups,
        "put a mount into the sharing group of another (MOVE_MOUNT_SET_GROUP)";
    Tun = "tun", Informative, files::tun, "virtual network devices of a program";
    TunNamespace = "tun_namespace", Informative, files::tun_namespace,
        "tell the network namespace of a tun device";
    Autofs = "autofs", Informative, files::autofs, "mounts that are made when they are used";
    ApparmorStacking = "apparmor_stacking", Informative, files::apparmor_stacking,
        "AppArmor profiles of namespaces";
    Breakpoints = "breakpoints", Informative, ptrace::breakpoints,
        "stop a task at an address by the processor";
    IoUring = "io_uring", Informative, probes::io_uring,
        "programs may use io_uring, whose instances cannot be dumped";
}

/// What this kernel can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFeatures {
    answers: BTreeMap<Feature, Answer>,
}

impl KernelFeatures {
    /// Asks the kernel for every feature.
    #[must_use]
    pub fn probe() -> Self {
        Self { answers: Feature::ALL.iter().map(|feature| (*feature, feature.probe())).collect() }
    }

    /// The answer for one feature.
    #[must_use]
    pub fn answer(&self, feature: Feature) -> &Answer {
        // `probe` fills in every feature and nothing takes one away.
        &self.answers[&feature]
    }

    /// Whether a feature is there for certain.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.answer(feature).is_yes()
    }

    /// The features in the order in which they are shown, with their answers.
    pub fn iter(&self) -> impl Iterator<Item = (Feature, &Answer)> {
        self.answers.iter().map(|(feature, answer)| (*feature, answer))
    }

    /// The required features that are not there for certain.
    pub fn missing(&self) -> impl Iterator<Item = (Feature, &Answer)> {
        self.iter().filter(|(feature, answer)| feature.need() == Need::Required && !answer.is_yes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> =
            Feature::ALL.iter().map(|feature| feature.name()).collect();
        assert_eq!(names.len(), Feature::ALL.len());
    }

    #[test]
    fn probing_leaves_no_descriptor_and_no_child() {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        let features = KernelFeatures::probe();
        assert_eq!(open(), before);
        let children =
            std::fs::read_to_string(format!("/proc/self/task/{}/children", nix::unistd::gettid()));
        assert_eq!(children.unwrap_or_default().trim(), "");
        // Whatever the kernel: each answer that is not a yes says why.
        for (feature, answer) in features.iter() {
            assert!(answer.is_yes() || answer.reason().is_some_and(|why| !why.is_empty()));
            assert_eq!(features.has(feature), answer.is_yes());
        }
    }
}
