//! The numbers that images begin with.
//!
//! Every image but `inventory.img` begins with [`COMMON`] (the service files with [`SERVICE`]), then has the
//! number of its own kind; `inventory.img` has its own number only. Images of version 1 (see
//! [`InventoryEntry::img_version`](crate::messages::InventoryEntry)) have their own number only, all of them.
//! Pages files have no number: they are memory and nothing else.
//! All numbers are little-endian.

/// First number of an image.
pub const COMMON: u32 = 0x5456_4319;
/// First number of a service file: statistics, and CRIU's own caches.
pub const SERVICE: u32 = 0x5510_5940;

/// `inventory.img`.
pub const INVENTORY: u32 = 0x5831_3116;
/// `pstree.img`.
pub const PSTREE: u32 = 0x5027_3030;
/// `core-TID.img`.
pub const CORE: u32 = 0x5505_3847;
/// `ids-PID.img`.
pub const IDS: u32 = 0x5443_2030;
/// `mm-PID.img`.
pub const MM: u32 = 0x5749_2820;
/// `fs-PID.img`.
pub const FS: u32 = 0x5140_3912;
/// `pagemap-PID.img` and `pagemap-shmem-ID.img`.
pub const PAGEMAP: u32 = 0x5608_4025;
/// `files.img`.
pub const FILES: u32 = 0x5630_3138;
/// `fdinfo-ID.img`.
pub const FDINFO: u32 = 0x5621_3732;
/// `bpfmap-data.img`.
pub const BPFMAP_DATA: u32 = 0x6432_4033;
/// `pipes-data.img`.
pub const PIPES_DATA: u32 = 0x5645_3709;
/// `fifo-data.img`.
pub const FIFO_DATA: u32 = 0x5933_3054;
/// `sk-queues.img`.
pub const SK_QUEUES: u32 = 0x5626_4026;
/// `tcp-stream-INO.img`.
pub const TCP_STREAM: u32 = 0x5146_5506;
/// `remap-fpath.img`.
pub const REMAP_FPATH: u32 = 0x5913_3954;
/// `ghost-file-ID.img`.
pub const GHOST_FILE: u32 = 0x5258_3605;
/// `memfd.img`.
pub const MEMFD_INODE: u32 = 0x4845_3499;
/// `filelocks.img`.
pub const FILE_LOCKS: u32 = 0x5432_3616;
/// `tty-info.img`.
pub const TTY_INFO: u32 = 0x5945_3036;
/// `tty-data.img`.
pub const TTY_DATA: u32 = 0x5941_3026;
/// `seccomp.img`.
pub const SECCOMP: u32 = 0x6441_3049;
/// `cgroup.img`.
pub const CGROUP: u32 = 0x5938_3330;
/// `timens-0.img`.
pub const TIMENS: u32 = 0x4311_4433;
/// `utsns-ID.img`.
pub const UTSNS: u32 = 0x5447_3203;
/// `ipcns-var-ID.img`.
pub const IPC_VAR: u32 = 0x5311_5007;
/// `ipcns-shm-ID.img`.
pub const IPCNS_SHM: u32 = 0x4628_3044;
/// `ipcns-msg-ID.img`.
pub const IPCNS_MSG: u32 = 0x5545_3737;
/// `ipcns-mq-ID.img`: "mque".
pub const IPCNS_MQ: u32 = 0x6575_716d;
/// `ipcns-sem-ID.img`.
pub const IPCNS_SEM: u32 = 0x5957_3019;
/// `userns-ID.img`.
pub const USERNS: u32 = 0x5547_4906;
/// `pidns-ID.img`.
pub const PIDNS: u32 = 0x6115_7326;
/// `autofs-DEVICE.img`.
pub const AUTOFS: u32 = 0x4935_3943;
/// `mountpoints-ID.img`.
pub const MNTS: u32 = 0x5556_3928;
/// `netns-ID.img`.
pub const NETNS: u32 = 0x5593_3752;
/// `netdev-ID.img`.
pub const NETDEV: u32 = 0x5737_3951;
/// `stasis-manifest`: "sman".
pub const MANIFEST: u32 = 0x6e61_6d73;
/// `stasis-signature`: "ssig".
pub const SIGNATURE: u32 = 0x6769_7373;
/// `stasis-seal`: "ssea".
pub const SEAL: u32 = 0x6165_7373;
/// `stasis-served.img`: "sser".
pub const SERVED: u32 = 0x7265_7373;
/// `cpuinfo.img`.
pub const CPUINFO: u32 = 0x6140_4013;
/// `stats-dump` and `stats-restore`.
pub const STATS: u32 = 0x5709_3306;
