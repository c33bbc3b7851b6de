//! The messages of CRIU's RPC (4.2), one a packet. Paths and other text are bytes, as the kernel has them.

use prost::{Enumeration, Message};

/// What is asked for, and what an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(crate) enum Kind {
    Empty = 0,
    Dump = 1,
    Restore = 2,
    Check = 3,
    PreDump = 4,
    PageServer = 5,
    Notify = 6,
    CpuinfoDump = 7,
    CpuinfoCheck = 8,
    FeatureCheck = 9,
    Version = 10,
    WaitPid = 11,
    PageServerChild = 12,
    SinglePreDump = 13,
}

/// From a client.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Request {
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) options: Option<Fields>,
    /// The answer to a notification.
    #[prost(bool, optional, tag = "3")]
    pub(crate) notify_success: Option<bool>,
    /// More requests follow on the same connection.
    #[prost(bool, optional, tag = "4")]
    pub(crate) keep_open: Option<bool>,
    #[prost(message, optional, tag = "5")]
    pub(crate) features: Option<Features>,
    /// Whom to wait for.
    #[prost(uint32, optional, tag = "6")]
    pub(crate) pid: Option<u32>,
}

/// To a client.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Response {
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub(crate) kind: i32,
    #[prost(bool, required, tag = "2")]
    pub(crate) success: bool,
    #[prost(message, optional, tag = "3")]
    pub(crate) dump: Option<Dumped>,
    #[prost(message, optional, tag = "4")]
    pub(crate) restore: Option<Restored>,
    #[prost(message, optional, tag = "5")]
    pub(crate) notify: Option<Notification>,
    #[prost(message, optional, tag = "6")]
    pub(crate) page_server: Option<PageServer>,
    #[prost(int32, optional, tag = "7")]
    pub(crate) errno: Option<i32>,
    #[prost(message, optional, tag = "8")]
    pub(crate) features: Option<Features>,
    #[prost(string, optional, tag = "9")]
    pub(crate) error: Option<String>,
    #[prost(message, optional, tag = "10")]
    pub(crate) version: Option<Version>,
    /// How who was waited for has ended.
    #[prost(int32, optional, tag = "11")]
    pub(crate) status: Option<i32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Dumped {
    /// Who dumped itself, and hears this, is the restored one.
    #[prost(bool, optional, tag = "1")]
    pub(crate) restored: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Restored {
    #[prost(int32, required, tag = "1")]
    pub(crate) pid: i32,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Notification {
    /// The point.
    #[prost(string, optional, tag = "1")]
    pub(crate) script: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) pid: Option<i32>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct PageServer {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub(crate) address: Option<Vec<u8>>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) port: Option<i32>,
    #[prost(int32, optional, tag = "3")]
    pub(crate) pid: Option<i32>,
    #[prost(int32, optional, tag = "4")]
    pub(crate) descriptor: Option<i32>,
}

/// In a request those that are asked about, in an answer those that are there.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Features {
    #[prost(bool, optional, tag = "1")]
    pub(crate) mem_track: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    pub(crate) lazy_pages: Option<bool>,
    #[prost(bool, optional, tag = "3")]
    pub(crate) pidfd_store: Option<bool>,
}

/// Clients round a version up that names a commit, so none is named.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Version {
    #[prost(int32, required, tag = "1")]
    pub(crate) major: i32,
    #[prost(int32, required, tag = "2")]
    pub(crate) minor: i32,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct VethPair {
    #[prost(bytes = "vec", required, tag = "1")]
    pub(crate) inside: Vec<u8>,
    #[prost(bytes = "vec", required, tag = "2")]
    pub(crate) outside: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct MountMap {
    #[prost(bytes = "vec", required, tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", required, tag = "2")]
    pub(crate) value: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct JoinNamespace {
    #[prost(bytes = "vec", required, tag = "1")]
    pub(crate) kind: Vec<u8>,
    #[prost(bytes = "vec", required, tag = "2")]
    pub(crate) file: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(crate) extra: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct InheritedDescriptor {
    #[prost(bytes = "vec", required, tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(int32, required, tag = "2")]
    pub(crate) number: i32,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct ControlGroupRoot {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub(crate) controller: Option<Vec<u8>>,
    #[prost(bytes = "vec", required, tag = "2")]
    pub(crate) path: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct UnixSocket {
    #[prost(uint32, required, tag = "1")]
    pub(crate) inode: u32,
}

/// The options of a request.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Fields {
    #[prost(int32, required, tag = "1", default = "-1")]
    pub(crate) images_dir_fd: i32,
    #[prost(int32, optional, tag = "2")]
    pub(crate) pid: Option<i32>,
    #[prost(bool, optional, tag = "3")]
    pub(crate) leave_running: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    pub(crate) ext_unix_sk: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    pub(crate) tcp_established: Option<bool>,
    #[prost(bool, optional, tag = "6")]
    pub(crate) evasive_devices: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    pub(crate) shell_job: Option<bool>,
    #[prost(bool, optional, tag = "8")]
    pub(crate) file_locks: Option<bool>,
    #[prost(int32, optional, tag = "9")]
    pub(crate) log_level: Option<i32>,
    #[prost(bytes = "vec", optional, tag = "10")]
    pub(crate) log_file: Option<Vec<u8>>,
    #[prost(message, optional, tag = "11")]
    pub(crate) ps: Option<PageServer>,
    #[prost(bool, optional, tag = "12")]
    pub(crate) notify_scripts: Option<bool>,
    #[prost(bytes = "vec", optional, tag = "13")]
    pub(crate) root: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "14")]
    pub(crate) parent_img: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "15")]
    pub(crate) track_mem: Option<bool>,
    #[prost(bool, optional, tag = "16")]
    pub(crate) auto_dedup: Option<bool>,
    #[prost(int32, optional, tag = "17")]
    pub(crate) work_dir_fd: Option<i32>,
    #[prost(bool, optional, tag = "18")]
    pub(crate) link_remap: Option<bool>,
    #[prost(message, repeated, tag = "19")]
    pub(crate) veths: Vec<VethPair>,
    #[prost(uint32, optional, tag = "20")]
    pub(crate) cpu_cap: Option<u32>,
    #[prost(bool, optional, tag = "21")]
    pub(crate) force_irmap: Option<bool>,
    #[prost(bytes = "vec", repeated, tag = "22")]
    pub(crate) exec_cmd: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "23")]
    pub(crate) ext_mnt: Vec<MountMap>,
    #[prost(bool, optional, tag = "24")]
    pub(crate) manage_cgroups: Option<bool>,
    #[prost(message, repeated, tag = "25")]
    pub(crate) cg_root: Vec<ControlGroupRoot>,
    #[prost(bool, optional, tag = "26")]
    pub(crate) rst_sibling: Option<bool>,
    #[prost(message, repeated, tag = "27")]
    pub(crate) inherit_fd: Vec<InheritedDescriptor>,
    #[prost(bool, optional, tag = "28")]
    pub(crate) auto_ext_mnt: Option<bool>,
    #[prost(bool, optional, tag = "29")]
    pub(crate) ext_sharing: Option<bool>,
    #[prost(bool, optional, tag = "30")]
    pub(crate) ext_masters: Option<bool>,
    #[prost(bytes = "vec", repeated, tag = "31")]
    pub(crate) skip_mnt: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "32")]
    pub(crate) enable_fs: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "33")]
    pub(crate) unix_sk_ino: Vec<UnixSocket>,
    #[prost(int32, optional, tag = "34")]
    pub(crate) manage_cgroups_mode: Option<i32>,
    #[prost(uint32, optional, tag = "35")]
    pub(crate) ghost_limit: Option<u32>,
    #[prost(bytes = "vec", repeated, tag = "36")]
    pub(crate) irmap_scan_paths: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "37")]
    pub(crate) external: Vec<Vec<u8>>,
    #[prost(uint32, optional, tag = "38")]
    pub(crate) empty_ns: Option<u32>,
    #[prost(message, repeated, tag = "39")]
    pub(crate) join_ns: Vec<JoinNamespace>,
    #[prost(bytes = "vec", optional, tag = "41")]
    pub(crate) cgroup_props: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "42")]
    pub(crate) cgroup_props_file: Option<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "43")]
    pub(crate) cgroup_dump_controller: Vec<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "44")]
    pub(crate) freeze_cgroup: Option<Vec<u8>>,
    #[prost(uint32, optional, tag = "45")]
    pub(crate) timeout: Option<u32>,
    #[prost(bool, optional, tag = "46")]
    pub(crate) tcp_skip_in_flight: Option<bool>,
    #[prost(bool, optional, tag = "47")]
    pub(crate) weak_sysctls: Option<bool>,
    #[prost(bool, optional, tag = "48")]
    pub(crate) lazy_pages: Option<bool>,
    #[prost(int32, optional, tag = "49")]
    pub(crate) status_fd: Option<i32>,
    #[prost(bool, optional, tag = "50")]
    pub(crate) orphan_pts_master: Option<bool>,
    #[prost(bytes = "vec", optional, tag = "51")]
    pub(crate) config_file: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "52")]
    pub(crate) tcp_close: Option<bool>,
    #[prost(bytes = "vec", optional, tag = "53")]
    pub(crate) lsm_profile: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "54")]
    pub(crate) tls_cacert: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "55")]
    pub(crate) tls_cacrl: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "56")]
    pub(crate) tls_cert: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "57")]
    pub(crate) tls_key: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "58")]
    pub(crate) tls: Option<bool>,
    #[prost(bool, optional, tag = "59")]
    pub(crate) tls_no_cn_verify: Option<bool>,
    #[prost(bytes = "vec", optional, tag = "60")]
    pub(crate) cgroup_yard: Option<Vec<u8>>,
    #[prost(int32, optional, tag = "61")]
    pub(crate) pre_dump_mode: Option<i32>,
    #[prost(int32, optional, tag = "62")]
    pub(crate) pidfd_store_sk: Option<i32>,
    #[prost(bytes = "vec", optional, tag = "63")]
    pub(crate) lsm_mount_context: Option<Vec<u8>>,
    #[prost(int32, optional, tag = "64")]
    pub(crate) network_lock: Option<i32>,
    #[prost(bool, optional, tag = "65")]
    pub(crate) mntns_compat_mode: Option<bool>,
    #[prost(bool, optional, tag = "66")]
    pub(crate) skip_file_rwx_check: Option<bool>,
    #[prost(bool, optional, tag = "67")]
    pub(crate) unprivileged: Option<bool>,
    /// Looked at if there is no descriptor of a directory.
    #[prost(bytes = "vec", optional, tag = "68")]
    pub(crate) images_dir: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "69")]
    pub(crate) leave_stopped: Option<bool>,
    #[prost(bool, optional, tag = "70")]
    pub(crate) display_stats: Option<bool>,
    #[prost(bool, optional, tag = "71")]
    pub(crate) log_to_stderr: Option<bool>,
}
