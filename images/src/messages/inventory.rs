//! `inventory.img`: the file that makes a directory a checkpoint.

use prost::Message;

use super::task::TaskKobjIdsEntry;

/// [`InventoryEntry::img_version`]: files carry the common magic. The only version written.
pub const IMG_VERSION_1_1: u32 = 2;
/// [`InventoryEntry::img_version`] of old images, whose files have their own magic only.
pub const IMG_VERSION_1: u32 = 1;

/// [`InventoryEntry::lsmtype`]: no security module labels tasks.
pub const LSM_NONE: u32 = 0;
/// [`InventoryEntry::lsmtype`]: SELinux.
pub const LSM_SELINUX: u32 = 1;
/// [`InventoryEntry::lsmtype`]: AppArmor.
pub const LSM_APPARMOR: u32 = 2;

/// The first thing read of a checkpoint, the last thing written.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct InventoryEntry {
    /// Version of the format.
    #[prost(uint32, required, tag = "1")]
    pub img_version: u32,
    /// Descriptor tables are named by their ids. Always true since CRIU 1.0.
    #[prost(bool, optional, tag = "2")]
    pub fdinfo_per_id: Option<bool>,
    /// Kernel objects of the dumper: a namespace that differs from these is created anew.
    #[prost(message, optional, tag = "3")]
    pub root_ids: Option<TaskKobjIdsEntry>,
    /// Namespace images are named by namespace ids.
    #[prost(bool, optional, tag = "4")]
    pub ns_per_id: Option<bool>,
    /// The dumper's own [`CgSetEntry`](super::CgSetEntry); not 0 if given.
    #[prost(uint32, optional, tag = "5")]
    pub root_cg_set: Option<u32>,
    /// Which security module labelled the tasks.
    #[prost(uint32, optional, tag = "6")]
    pub lsmtype: Option<u32>,
    /// Microseconds since the machine started, to tell reused process numbers in incremental
    /// dumps.
    #[prost(uint64, optional, tag = "8")]
    pub dump_uptime: Option<u64>,
    /// How memory was read in a pre-dump.
    #[prost(uint32, optional, tag = "9")]
    pub pre_dump_mode: Option<u32>,
    /// Connections were dumped as closed.
    #[prost(bool, optional, tag = "10")]
    pub tcp_close: Option<bool>,
    /// How connections were held still: 0 iptables, 1 nftables, 2 not at all.
    #[prost(uint32, optional, tag = "11")]
    pub network_lock_method: Option<u32>,
    /// Plugins a restore must have; absent: all.
    #[prost(message, optional, tag = "12")]
    pub plugins_entry: Option<PluginsEntry>,
    /// A UUID of the dump.
    #[prost(string, optional, tag = "13")]
    pub dump_criu_run_id: Option<String>,
    /// Tasks may have uprobes.
    #[prost(bool, optional, tag = "14")]
    pub allow_uprobes: Option<bool>,
}

/// Plugins a restore must have. A message of its own, so that "none" differs from "not said".
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct PluginsEntry {
    /// Names.
    #[prost(string, repeated, tag = "12")]
    pub plugins: Vec<String>,
}
