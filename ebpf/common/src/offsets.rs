//! Where the kernel keeps what the programs read. Rust has no relocations for BPF types, so the
//! loader looks the offsets up in the kernel's own type information and hands them over as a
//! constant array, which the verifier then knows the values of.

/// An offset that this kernel does not have: the field is left 0.
pub const ABSENT: u32 = u32::MAX;

/// How a field that differs by processor begins.
pub const OF_PROCESSOR: &str = "processor.";

macro_rules! offsets {
    ($($name:ident = $path:literal $($kind:ident)?;)*) => {
        #[expect(non_camel_case_types, reason = "the variants become the constants' names")]
        #[derive(Clone, Copy)]
        enum Index { $($name),*, End }

        $(#[doc = concat!("Index of `", $path, "`.")]
        pub const $name: usize = Index::$name as usize;)*

        /// How many there are.
        pub const COUNT: usize = Index::End as usize;

        /// For each index the field's path (structure, then members) and what is wanted of it. What
        /// differs by processor stands here as [`OF_PROCESSOR`] and a name that the loader knows the
        /// path of.
        pub const FIELDS: [(&str, Want); COUNT] =
            [$(($path, offsets!(@want $($kind)?))),*];
    };
    (@want optional) => { Want::Optional };
    (@want bit) => { Want::Bit };
    (@want optional_bit) => { Want::OptionalBit };
    (@want value) => { Want::Value };
    (@want) => { Want::Byte };
}

/// What the table holds for a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Its offset in bytes; no kernel lacks it.
    Byte,
    /// Its offset in bytes, or [`ABSENT`].
    Optional,
    /// Its offset in bits, of a field of one bit; no kernel lacks it.
    Bit,
    /// Its offset in bits, of a field of one bit, or [`ABSENT`].
    OptionalBit,
    /// Not a field: the value that has the path's last name, in the enumeration that the field before it
    /// is of; 0 if the enumeration lacks it, [`ABSENT`] if the field is a plain number.
    Value,
}

offsets! {
    TASK_STATE = "task_struct.__state";
    TASK_FLAGS = "task_struct.flags";
    TASK_MM = "task_struct.mm";
    TASK_EXIT_STATE = "task_struct.exit_state";
    TASK_EXIT_CODE = "task_struct.exit_code";
    TASK_PDEATH_SIGNAL = "task_struct.pdeath_signal";
    TASK_PID = "task_struct.pid";
    TASK_TGID = "task_struct.tgid";
    TASK_REAL_PARENT = "task_struct.real_parent";
    TASK_THREAD_PID = "task_struct.thread_pid";
    TASK_CLEAR_CHILD_TID = "task_struct.clear_child_tid";
    TASK_START_TIME = "task_struct.start_time";
    TASK_START_BOOTTIME = "task_struct.start_boottime";
    TASK_REAL_CRED = "task_struct.real_cred";
    TASK_COMM = "task_struct.comm";
    TASK_FS = "task_struct.fs";
    TASK_FILES = "task_struct.files";
    TASK_CGROUPS = "task_struct.cgroups";
    TASK_NSPROXY = "task_struct.nsproxy";
    TASK_SIGNAL = "task_struct.signal";
    TASK_SIGHAND = "task_struct.sighand";
    TASK_BLOCKED = "task_struct.blocked";
    TASK_PENDING = "task_struct.pending.signal";
    TASK_SAS_SP = "task_struct.sas_ss_sp";
    TASK_SAS_SIZE = "task_struct.sas_ss_size";
    TASK_SAS_FLAGS = "task_struct.sas_ss_flags";
    TASK_ROBUST_LIST = "task_struct.robust_list" optional;
    TASK_RSEQ = "task_struct.rseq" optional;
    TASK_RSEQ_LEN = "task_struct.rseq_len" optional;
    TASK_RSEQ_SIG = "task_struct.rseq_sig" optional;
    TASK_CONTINUES = "task_struct.restart_block.fn" optional;
    TASK_STATIC_PRIO = "task_struct.static_prio";
    TASK_RT_PRIORITY = "task_struct.rt_priority";
    TASK_POLICY = "task_struct.policy";
    TASK_CPUS_MASK = "task_struct.cpus_mask";
    TASK_UCLAMP = "task_struct.uclamp_req" optional;
    TASK_SLICE = "task_struct.se.slice" optional;
    TASK_DEADLINE = "task_struct.dl.dl_runtime";
    TASK_RESET_ON_FORK = "task_struct.sched_reset_on_fork" bit;
    TASK_EXECS = "task_struct.self_exec_id";
    TASK_PERSONALITY = "task_struct.personality";
    TASK_SECCOMP_MODE = "task_struct.seccomp.mode" optional;
    TASK_ATOMIC_FLAGS = "task_struct.atomic_flags";
    TASK_LOGIN_UID = "task_struct.loginuid" optional;
    TASK_TIMER_SLACK = "task_struct.timer_slack_ns";
    TASK_SHADOW_STACK = "processor.shadow_stack" optional;
    TASK_BYTES = "task_struct";
    TASK_FPU = "processor.extended_state" optional;
    FPU_STATE = "processor.extended_area" optional;
    FPU_PERMITTED = "processor.permitted_components" optional;
    FPSTATE_USER_SIZE = "processor.frame_bytes" optional;
    TASK_INFO_FLAGS = "task_struct.thread_info.flags" optional;
    TASK_IO_BITMAP = "processor.port_map" optional;
    TASK_IO_LEVEL = "processor.port_level" optional;
    MM_LOCAL_DESCRIPTORS = "processor.local_descriptors" optional;
    TASK_DEFAULT_TIMER_SLACK = "task_struct.default_timer_slack_ns";
    TASK_EXIT_SIGNAL = "task_struct.exit_signal";
    TASK_PTRACED = "task_struct.ptraced";
    TASK_SEM_UNDO = "task_struct.sysvsem.undo_list" optional;
    SEM_UNDO_LIST = "sem_undo_list.list_proc" optional;
    SEM_UNDO_USERS = "sem_undo_list.refcnt.refs.counter" optional;
    SEM_UNDO_NEXT = "sem_undo.list_proc" optional;
    SEM_UNDO_SET = "sem_undo.semid" optional;
    SEM_UNDO_ADJUSTMENTS = "sem_undo.semadj" optional;
    TASK_SYSCALL_WORK = "task_struct.thread_info.syscall_work" optional;
    TASK_DISPATCH_SELECTOR = "task_struct.syscall_dispatch.selector" optional;
    TASK_CORE_COOKIE = "task_struct.core_cookie" optional;
    RINGS_HEAD = "io_uring_task.xa.xa_head" optional;
    TASK_IO_CONTEXT = "task_struct.io_context" optional;
    IO_PRIORITY = "io_context.ioprio" optional;
    IO_SHARERS = "io_context.active_ref.counter" optional;
    TASK_MEMORY_POLICY = "task_struct.mempolicy" optional;
    POLICY_MODE = "mempolicy.mode" optional;
    POLICY_FLAGS = "mempolicy.flags" optional;
    POLICY_NODES = "mempolicy.nodes" optional;
    POLICY_HOME = "mempolicy.home_node" optional;
    POLICY_USER_NODES = "mempolicy.w" optional;
    CRED_SESSION_KEYRING = "cred.session_keyring" optional;
    CRED_PROCESS_KEYRING = "cred.process_keyring" optional;
    CRED_THREAD_KEYRING = "cred.thread_keyring" optional;
    CRED_REQUEST_KEY = "cred.request_key_auth" optional;
    CRED_SECURITY = "cred.security" optional;
    KEY_DESCRIPTION = "key.description" optional;
    KEY_ROOT = "key.keys.root" optional;
    KEY_LEAVES = "key.keys.nr_leaves_on_tree" optional;
    KEY_NODE_SLOTS = "assoc_array_node.slots" optional;
    SIGNAL_AUTOGROUP = "signal_struct.autogroup" optional;
    AUTOGROUP_NICE = "autogroup.nice" optional;
    MM_DEFAULT_FLAGS = "mm_struct.def_flags";
    MM_MAPPING_BASE = "mm_struct.mmap_base" optional;
    MM_PROTECTION_KEYS = "mm_struct.context.pkey_allocation_map" optional;
    MM_EXECUTE_ONLY_KEY = "mm_struct.context.execute_only_pkey" optional;
    VMA_POLICY = "vm_area_struct.vm_policy" optional;
    MAPPING_PRIVATE = "address_space.i_private_data" optional;
    MAPPING_PRIVATE_BEFORE = "address_space.private_data" optional;
    MM_AIO_TABLE = "mm_struct.ioctx_table" optional;
    AIO_TABLE_COUNT = "kioctx_table.nr" optional;
    AIO_TABLE_ENTRIES = "kioctx_table.table" optional;
    AIO_ID = "kioctx.id" optional;
    AIO_ADDRESS = "kioctx.user_id" optional;
    AIO_REQUESTS = "kioctx.max_reqs" optional;
    AIO_EVENTS = "kioctx.nr_events" optional;
    AIO_TAIL = "kioctx.tail" optional;
    AIO_COMPLETED = "kioctx.completed_events" optional;
    AIO_AVAILABLE = "kioctx.reqs_available.counter" optional;
    AIO_CANCELLABLE = "kioctx.active_reqs" optional;
    AIO_OF_PROCESSORS = "kioctx.cpu" optional;
    AIO_AVAILABLE_THERE = "kioctx_cpu.reqs_available" optional;
    ARRAY_OF_PROCESSORS = "bpf_array.pptrs" optional;
    ELEMENTS_OF_PROCESSORS = "bpf_map_ops.map_lookup_percpu_elem" optional;
    RING_FLAGS = "io_ring_ctx.flags" optional;
    RING_SUBMITTER = "io_ring_ctx.submitter_task" optional;
    RING_SUBMISSION_ENTRIES = "io_ring_ctx.sq_entries" optional;
    RING_SUBMITTED = "io_ring_ctx.cached_sq_head" optional;
    RING_COMPLETION_ENTRIES = "io_ring_ctx.cq_entries" optional;
    RING_COMPLETED = "io_ring_ctx.cached_cq_tail" optional;
    RING_EVENTFD = "io_ring_ctx.io_ev_fd" optional;
    RING_EVENTFD_CONTEXT = "io_ev_fd.cq_ev_fd" optional;
    RING_EVENTFD_ASYNC = "io_ev_fd.eventfd_async" optional;
    EVENTFD_ID = "eventfd_ctx.id" optional;
    RING_FILES = "io_ring_ctx.file_table.data.nr" optional;
    RING_FILE_NODES = "io_ring_ctx.file_table.data.nodes" optional;
    RING_NODE_FILE = "io_rsrc_node.file_ptr" optional;
    RING_NODE_TAG = "io_rsrc_node.tag" optional;
    RING_FREE_START = "io_ring_ctx.file_alloc_start" optional;
    RING_FREE_END = "io_ring_ctx.file_alloc_end" optional;
    RING_BUFFERS = "io_ring_ctx.buf_table.nr" optional;
    RING_PERSONALITIES = "io_ring_ctx.personalities.xa_head" optional;
    RING_RESTRICTED = "io_ring_ctx.restrictions.registered" optional;
    RING_BUFFER_GROUPS = "io_ring_ctx.io_bl_xa.xa_head" optional;
    RING_OVERFLOW = "io_ring_ctx.cq_overflow_list" optional;
    RING_POLLED_DEVICES = "io_ring_ctx.napi_track_mode" optional;
    RING_WAIT_REGION = "io_ring_ctx.param_region.nr_pages" optional;
    RING_RECEIVE_QUEUES = "io_ring_ctx.zcrx_ctxs.xa_head" optional;
    RING_WORKERS = "io_ring_ctx.iowq_limits_set" optional_bit;
    RING_NO_DRAIN = "io_ring_ctx.drain_disabled" optional_bit;
    RING_CLOCK = "io_ring_ctx.clockid" optional;
    RING_TIMEOUTS = "io_ring_ctx.timeout_list" optional;
    REQUESTS_CACHED = "io_uring_task.cached_refs" optional;
    REQUESTS_IN_FLIGHT = "io_uring_task.inflight.count" optional;
    REQUESTS_OF_PROCESSORS = "io_uring_task.inflight.counters" optional;
    REQUESTS_RINGS = "io_uring_task.registered_rings" optional;
    REQUESTS_WORKERS = "io_uring_task.io_wq" optional;
    WORKERS_OF_KIND = "io_wq.acct" optional;
    WORKERS_KIND_BYTES = "io_wq_acct" optional;
    WORKERS_COUNT = "io_wq_acct.nr_workers" optional;
    CRED_UID = "cred.uid";
    CRED_SECUREBITS = "cred.securebits";
    CRED_CAPABILITIES = "cred.cap_inheritable";
    CRED_GROUPS = "cred.group_info";
    GROUPS_COUNT = "group_info.ngroups";
    GROUPS_IDS = "group_info.gid";
    FS_UMASK = "fs_struct.umask";
    CPUMASK_BYTES = "cpumask";
    SIGNAL_SUBREAPER = "signal_struct.is_child_subreaper" bit;
    SIGNAL_POSIX_TIMERS = "signal_struct.posix_timers";
    SIGNAL_REAL_TIMER_STATE = "signal_struct.real_timer.state";
    SIGNAL_REAL_TIMER_PERIOD = "signal_struct.it_real_incr";
    SIGNAL_CPU_TIMERS = "signal_struct.it";
    SIGNAL_LIMITS = "signal_struct.rlim";
    SIGNAL_OOM_SCORE_ADJ = "signal_struct.oom_score_adj";
    MM_START_CODE = "mm_struct.start_code";
    MM_FLAGS = "mm_struct.flags";
    MM_EXE_FILE = "mm_struct.exe_file";
    MM_MEMBARRIER = "mm_struct.membarrier_state" optional;
    MM_SEQUENCE = "mm_struct.mm_lock_seq" optional;
    SIGNAL_NR_THREADS = "signal_struct.nr_threads";
    SIGNAL_SHARED_PENDING = "signal_struct.shared_pending.signal";
    SIGNAL_FLAGS = "signal_struct.flags";
    SIGNAL_GROUP_EXIT_CODE = "signal_struct.group_exit_code";
    SIGNAL_PIDS = "signal_struct.pids";
    SIGHAND_ACTION = "sighand_struct.action";
    MM_START_BRK = "mm_struct.start_brk";
    MM_BRK = "mm_struct.brk";
    MM_START_STACK = "mm_struct.start_stack";
    PID_LEVEL = "pid.level";
    PID_NUMBERS = "pid.numbers";
    UPID_NR = "upid.nr";
    UPID_NS = "upid.ns";
    UPID_BYTES = "upid";
    CRED_USER_NS = "cred.user_ns";
    NSPROXY_CGROUP = "nsproxy.cgroup_ns" optional;
    NSPROXY_IPC = "nsproxy.ipc_ns" optional;
    NSPROXY_MNT = "nsproxy.mnt_ns";
    NSPROXY_NET = "nsproxy.net_ns";
    NSPROXY_PID_FOR_CHILDREN = "nsproxy.pid_ns_for_children";
    NSPROXY_TIME = "nsproxy.time_ns" optional;
    NSPROXY_TIME_FOR_CHILDREN = "nsproxy.time_ns_for_children" optional;
    NSPROXY_UTS = "nsproxy.uts_ns";
    CGROUP_NS_INUM = "cgroup_namespace.ns.inum" optional;
    IPC_NS_INUM = "ipc_namespace.ns.inum" optional;
    MNT_NS_INUM = "mnt_namespace.ns.inum";
    NET_NS_INUM = "net.ns.inum";
    PID_NS_INUM = "pid_namespace.ns.inum";
    TIME_NS_INUM = "time_namespace.ns.inum" optional;
    USER_NS_INUM = "user_namespace.ns.inum";
    UTS_NS_INUM = "uts_namespace.ns.inum";
    FILES_FDT = "files_struct.fdt";
    FILES_COUNT = "files_struct.count.counter" optional;
    FS_USERS = "fs_struct.users" optional;
    SIGHAND_COUNT = "sighand_struct.count.refs.counter" optional;
    MM_USERS = "mm_struct.mm_users.counter" optional;
    FDTABLE_CLOSE_ON_EXEC = "fdtable.close_on_exec";
    FDTABLE_MAX_FDS = "fdtable.max_fds";
    FDTABLE_FD = "fdtable.fd";
    REGISTERS_CALL = "processor.call" optional;
    REGISTERS_FIRST = "processor.first_argument" optional;
    REGISTERS_SECOND = "processor.second_argument" optional;
    REGISTERS_THIRD = "processor.third_argument" optional;
    TASK_IO_URING = "task_struct.io_uring" optional;
    TASK_STATUS = "processor.status" optional;
    SIGNAL_LIVE = "signal_struct.live.counter";
    FILE_REFERENCES = "file.f_ref.refcnt.counter" optional;
    INODE_WRITERS = "inode.i_writecount.counter";
    INODE_REFERENCES = "inode.i_count.counter";
    INODE_MAPPING = "inode.i_mapping";
    MAPPING_WRITABLE = "address_space.i_mmap_writable.counter";
    DENTRY_REFERENCES = "dentry.d_lockref.count";
    MAP_REFERENCES = "bpf_map.refcnt.counter" optional;
    EVENTFD_REFERENCES = "eventfd_ctx.kref.refcount.refs.counter" optional;
    PIPE_FILES = "pipe_inode_info.files";
    SOCKET_FILE = "socket.file";
    FS_PWD = "fs_struct.pwd";
    FS_ROOT = "fs_struct.root";
    PATH_DENTRY = "path.dentry";
    DENTRY_INODE = "dentry.d_inode";
    DENTRY_PARENT = "dentry.d_parent";
    DENTRY_SEQUENCE = "dentry.d_seq.seqcount.sequence" optional;
    FILE_DENTRY = "file.f_path.dentry";
    FILE_INODE = "file.f_inode";
    FILE_MODE = "file.f_mode";
    FILE_FLAGS = "file.f_flags";
    FILE_POS = "file.f_pos";
    FILE_PATH = "file.f_path";
    FILE_PRIVATE = "file.private_data";
    FILE_OWNER = "file.f_owner";
    OWNER_FILE = "fown_struct.file" optional;
    OWNER_PID = "fown_struct.pid";
    OWNER_SIGNAL = "fown_struct.signum";
    INODE_MODE = "inode.i_mode";
    INODE_INO = "inode.i_ino";
    INODE_SB = "inode.i_sb";
    INODE_UID = "inode.i_uid";
    INODE_GID = "inode.i_gid";
    INODE_NLINK = "inode.i_nlink";
    INODE_STATE = "inode.i_state" optional;
    INODE_STATE_LINKABLE = "inode.i_state.I_LINKABLE" value;
    INODE_RDEV = "inode.i_rdev";
    INODE_SIZE = "inode.i_size";
    INODE_MTIME = "inode.i_mtime_sec" optional;
    INODE_MTIME_NSEC = "inode.i_mtime_nsec" optional;
    INODE_LOCKS = "inode.i_flctx";
    INODE_PIPE = "inode.i_pipe";
    LOCKS_FLOCK = "file_lock_context.flc_flock";
    LOCKS_POSIX = "file_lock_context.flc_posix";
    LOCKS_LEASE = "file_lock_context.flc_lease";
    PIPE_HEAD = "pipe_inode_info.head" optional;
    PIPE_WATCH_QUEUE = "pipe_inode_info.watch_queue" optional;
    PIPE_TAIL = "pipe_inode_info.tail" optional;
    PIPE_MAX_USAGE = "pipe_inode_info.max_usage" optional;
    PIPE_RING_SIZE = "pipe_inode_info.ring_size" optional;
    PIPE_BUFFERS = "pipe_inode_info.bufs";
    BUFFER_BYTES = "pipe_buffer";
    SOCKET_STATE = "socket.state";
    SOCKET_SOCK = "socket.sk";
    SOCK_PROTOCOL = "sock.__sk_common.skc_prot";
    SOCK_FAMILY = "sock.__sk_common.skc_family";
    SOCK_COOKIE = "sock.__sk_common.skc_cookie";
    SOCK_NODE = "sock.__sk_common.skc_node";
    SOCK_BIND_NODE = "sock.__sk_common.skc_bind_node";
    SOCK_RECEIVE_QUEUE_LENGTH = "sock.sk_receive_queue.qlen";
    SOCK_RECEIVED_BYTES = "sock.sk_backlog.rmem_alloc.counter";
    SOCK_CONNECTIONS = "sock.sk_ack_backlog";
    SOCK_SOCKET = "sock.sk_socket";
    SOCK_PROTOCOL_NUMBER = "sock.sk_protocol";
    SOCK_TYPE = "sock.sk_type";
    SOCK_REUSEPORT = "sock.sk_reuseport_cb";
    REUSEPORT_PROGRAM = "sock_reuseport.prog";
    SOCK_POLICY = "sock.sk_policy" optional;
    SOCK_ERROR = "sock.sk_err" optional;
    SOCK_ERRORS_QUEUED = "sock.sk_error_queue.qlen" optional;
    SOCK_FLAGS = "sock.__sk_common.skc_flags" optional;
    INET_MULTICAST_INDEX = "inet_sock.mc_index";
    INET_MULTICAST_ADDRESS = "inet_sock.mc_addr";
    INET_IPV6 = "inet_sock.pinet6" optional;
    IPV6_ANYCAST = "ipv6_pinfo.ipv6_ac_list" optional;
    IPV6_FRAGMENT_SIZE = "ipv6_pinfo.frag_size" optional;
    IPV6_SOURCE = "ipv6_pinfo.sticky_pktinfo" optional;
    IPV6_FLOW_LABELS = "ipv6_pinfo.ipv6_fl_list" optional;
    INET_FLOW_LABELS = "inet_sock.ipv6_fl_list" optional;
    FILE_WRITE_ERROR = "file.f_wb_err" optional;
    MAPPING_WRITE_ERROR = "address_space.wb_err" optional;
    SOCK_POLL_BUDGET = "sock.sk_busy_poll_budget" optional;
    TCP_MD5 = "tcp_sock.md5sig_info" optional;
    TCP_AO = "tcp_sock.ao_info" optional;
    NETLINK_GROUPS = "netlink_sock.groups" optional;
    NETLINK_GROUP_COUNT = "netlink_sock.ngroups" optional;
    PROTOCOL_BYTES = "proto.obj_size";
    UNIX_PEER = "unix_sock.peer" optional;
    SUPER_BLOCK_DEV = "super_block.s_dev";
    SUPER_BLOCK_MAGIC = "super_block.s_magic";
    VMA_START = "vm_area_struct.vm_start";
    VMA_END = "vm_area_struct.vm_end";
    VMA_FLAGS = "vm_area_struct.vm_flags";
    VMA_PGOFF = "vm_area_struct.vm_pgoff";
    VMA_FILE = "vm_area_struct.vm_file";
    VMA_OPS = "vm_area_struct.vm_ops";
    VMA_PRIVATE_DATA = "vm_area_struct.vm_private_data";
    VMA_ANON_NAME = "vm_area_struct.anon_name" optional;
    ANON_NAME_TEXT = "anon_vma_name.name" optional;
    VM_OPS_NAME = "vm_operations_struct.name";
    SPECIAL_MAPPING_NAME = "vm_special_mapping.name";
    SIGNAL_TERMINAL = "signal_struct.tty" optional;
    FILE_OPERATIONS = "file.f_op";
    OPERATIONS_OPEN = "file_operations.open";
    TERMINAL_OF_FILE = "tty_file_private.tty" optional;
    FILE_OF_TERMINAL = "tty_file_private.file" optional;
    TERMINAL_INDEX = "tty_struct.index" optional;
    TERMINAL_DRIVER = "tty_struct.driver" optional;
    TERMINAL_PORT = "tty_struct.port" optional;
    TERMINAL_DISCIPLINE = "tty_struct.ldisc" optional;
    TERMINAL_MODES = "tty_struct.termios" optional;
    TERMINAL_LOCKED = "tty_struct.termios_locked" optional;
    TERMINAL_FLAGS = "tty_struct.flags" optional;
    TERMINAL_OPENS = "tty_struct.count" optional;
    TERMINAL_WINDOW = "tty_struct.winsize" optional;
    TERMINAL_STOPPED = "tty_struct.flow.stopped" optional;
    TERMINAL_STOPPED_BY_CALL = "tty_struct.flow.tco_stopped" optional;
    TERMINAL_FOREGROUND = "tty_struct.ctrl.pgrp" optional;
    TERMINAL_PACKET_STATUS = "tty_struct.ctrl.pktstatus" optional;
    TERMINAL_PACKETS = "tty_struct.ctrl.packet" optional;
    TERMINAL_LINK = "tty_struct.link" optional;
    TERMINAL_INPUT = "tty_struct.disc_data" optional;
    TERMINAL_DRIVER_DATA = "tty_struct.driver_data" optional;
    DRIVER_MAJOR = "tty_driver.major" optional;
    DRIVER_FIRST_MINOR = "tty_driver.minor_start" optional;
    DISCIPLINE_OPERATIONS = "tty_ldisc.ops" optional;
    DISCIPLINE_NUMBER = "tty_ldisc_ops.num" optional;
    PTS_SB = "pts_fs_info.sb" optional;
    PORT_BUFFERS = "tty_port.buf" optional;
    BUFFERS_HEAD = "tty_bufhead.head" optional;
    BUFFERS_WORK = "tty_bufhead.work.data.counter" optional;
    BUFFERS_LOCK = "tty_bufhead.lock.owner.counter" optional;
    FLIP_NEXT = "tty_buffer.next" optional;
    FLIP_COMMIT = "tty_buffer.commit" optional;
    FLIP_READ = "tty_buffer.read" optional;
    FLIP_FLAGS = "tty_buffer.flags" optional;
    FLIP_DATA = "tty_buffer.data" optional;
    INPUT_HEAD = "n_tty_data.read_head" optional;
    INPUT_CANONICAL = "n_tty_data.canon_head" optional;
    INPUT_TAIL = "n_tty_data.read_tail" optional;
    INPUT_ECHO_HEAD = "n_tty_data.echo_head" optional;
    INPUT_ECHO_TAIL = "n_tty_data.echo_tail" optional;
    INPUT_COLUMN = "n_tty_data.column" optional;
    INPUT_LITERAL_NEXT = "n_tty_data.lnext" optional_bit;
    INPUT_BUFFER = "n_tty_data.read_buf" optional;
    INPUT_LINE_ENDS = "n_tty_data.read_flags" optional;
}
