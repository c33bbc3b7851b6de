//! A BPF map.

use prost::Message;

use super::file_body::file_body;

use super::parts::FownEntry;

/// A BPF map.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct BpfmapFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// File position.
    #[prost(uint64, required, tag = "3")]
    pub pos: u64,
    /// Who is signalled.
    #[prost(message, required, tag = "4")]
    pub fown: FownEntry,
    /// Type of the map.
    #[prost(uint32, required, tag = "5")]
    pub map_type: u32,
    /// Bytes of a key.
    #[prost(uint32, required, tag = "6")]
    pub key_size: u32,
    /// Bytes of a value.
    #[prost(uint32, required, tag = "7")]
    pub value_size: u32,
    /// Number of the map.
    #[prost(uint32, required, tag = "8")]
    pub map_id: u32,
    /// Most entries.
    #[prost(uint32, required, tag = "9")]
    pub max_entries: u32,
    /// `BPF_F_*`.
    #[prost(uint32, required, tag = "10")]
    pub map_flags: u32,
    /// Bytes locked.
    #[prost(uint64, required, tag = "11")]
    pub memlock: u64,
    /// User space cannot write it.
    #[prost(bool, required, tag = "12", default = "false")]
    pub frozen: bool,
    /// Name.
    #[prost(bytes = "vec", required, tag = "13")]
    pub map_name: Vec<u8>,
    /// Network device.
    #[prost(uint32, required, tag = "14", default = "0")]
    pub ifindex: u32,
    /// Mount, or -1 where there is one mount namespace.
    #[prost(sint32, optional, tag = "15", default = "-1")]
    pub mnt_id: Option<i32>,
    /// More flags.
    #[prost(uint64, optional, tag = "16")]
    pub map_extra: Option<u64>,
}

/// `bpfmap-data.img`: what is in a map. `keys_bytes` and `values_bytes` bytes follow the entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct BpfmapDataEntry {
    /// Number of the map.
    #[prost(uint32, required, tag = "1")]
    pub map_id: u32,
    /// Bytes of all keys.
    #[prost(uint32, required, tag = "2")]
    pub keys_bytes: u32,
    /// Bytes of all values.
    #[prost(uint32, required, tag = "3")]
    pub values_bytes: u32,
    /// How many elements.
    #[prost(uint32, required, tag = "4")]
    pub count: u32,
}

file_body! { BpfmapFileEntry { signals belongs_to_nobody } }
