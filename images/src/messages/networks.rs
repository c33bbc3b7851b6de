//! Network namespaces: their settings and network devices. Addresses, routes, rules and the firewall are in images
//! that hold no messages of ours: see [`names`](crate::names).

use prost::Message;

use super::owned::{Id, Owned};

/// A value of a setting is text.
pub const SYSCTL_TEXT: u32 = 5;
/// A value of a setting is a number.
pub const SYSCTL_NUMBER: u32 = 6;

/// A setting of the kernel. Which one is told by its place in a list.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SysctlEntry {
    /// [`SYSCTL_TEXT`] or [`SYSCTL_NUMBER`].
    #[prost(uint32, required, tag = "1")]
    pub r#type: u32,
    /// The number; none where the kernel has no such setting.
    #[prost(int32, optional, tag = "2")]
    pub iarg: Option<i32>,
    /// The text; none where the kernel has no such setting, or it has no value.
    #[prost(string, optional, tag = "3")]
    pub sarg: Option<String>,
}

/// The number by which a network namespace knows another one.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct NetnsId {
    /// The other one's number in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub target_ns_id: u32,
    /// The number.
    #[prost(int32, required, tag = "2")]
    pub netnsid_value: i32,
}

/// `netns-ID.img`: a network namespace.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct NetnsEntry {
    /// Settings of IPv4 for new devices, of old versions of CRIU.
    #[prost(int32, repeated, packed = "false", tag = "1")]
    pub def_conf: Vec<i32>,
    /// Settings of IPv4 for all devices, of old versions of CRIU.
    #[prost(int32, repeated, packed = "false", tag = "2")]
    pub all_conf: Vec<i32>,
    /// Settings of IPv4 for new devices.
    #[prost(message, repeated, tag = "3")]
    pub def_conf4: Vec<SysctlEntry>,
    /// Settings of IPv4 for all devices.
    #[prost(message, repeated, tag = "4")]
    pub all_conf4: Vec<SysctlEntry>,
    /// Settings of IPv6 for new devices.
    #[prost(message, repeated, tag = "5")]
    pub def_conf6: Vec<SysctlEntry>,
    /// Settings of IPv6 for all devices.
    #[prost(message, repeated, tag = "6")]
    pub all_conf6: Vec<SysctlEntry>,
    /// The numbers by which it knows others.
    #[prost(message, repeated, tag = "7")]
    pub nsids: Vec<NetnsId>,
    /// It is not part of the checkpoint: a restore is told by this name what stands for it.
    #[prost(string, optional, tag = "8")]
    pub ext_key: Option<String>,
    /// Settings of Unix sockets.
    #[prost(message, repeated, tag = "9")]
    pub unix_conf: Vec<SysctlEntry>,
    /// Settings of IPv4 as a whole.
    #[prost(message, repeated, tag = "10")]
    pub ipv4_sysctl: Vec<SysctlEntry>,
    /// Of stasis: all other settings, by their paths below `/proc/sys/net`.
    #[prost(message, repeated, tag = "1000")]
    pub others: Vec<NamedSysctl>,
    /// Of stasis: the loopback device was up, of one that comes back empty else.
    #[prost(bool, optional, tag = "1001")]
    pub loopback_up: Option<bool>,
}

/// A setting by its name.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct NamedSysctl {
    /// The path below `/proc/sys/net`.
    #[prost(string, required, tag = "1")]
    pub name: String,
    /// The value, as it is written.
    #[prost(string, required, tag = "2")]
    pub value: String,
}

/// Kinds of network devices.
pub mod device {
    /// `lo`.
    pub const LOOPBACK: u32 = 1;
    /// One end of a pair.
    pub const VETH: u32 = 2;
    /// A device of a program.
    pub const TUN: u32 = 3;
    /// One that is there before a restore, or of a kind that CRIU does not know.
    pub const EXTERNAL: u32 = 4;
    /// Of OpenVZ.
    pub const VENET: u32 = 5;
    /// A bridge.
    pub const BRIDGE: u32 = 6;
    /// A part of another device.
    pub const MACVLAN: u32 = 7;
    /// A tunnel of IPv6 in IPv4.
    pub const SIT: u32 = 8;
}

/// `netdev-ID.img`: a network device.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct NetDeviceEntry {
    /// Its kind ([`device`]).
    #[prost(uint32, required, tag = "1")]
    pub r#type: u32,
    /// Its number.
    #[prost(uint32, required, tag = "2")]
    pub ifindex: u32,
    /// The longest packet.
    #[prost(uint32, required, tag = "3")]
    pub mtu: u32,
    /// `IFF_*`.
    #[prost(uint32, required, tag = "4")]
    pub flags: u32,
    /// Its name.
    #[prost(string, required, tag = "5")]
    pub name: String,
    /// What a device of a program has.
    #[prost(message, optional, tag = "6")]
    pub tun: Option<TunLinkEntry>,
    /// Its address on the link.
    #[prost(bytes = "vec", optional, tag = "7")]
    pub address: Option<Vec<u8>>,
    /// Settings of IPv4, of old versions of CRIU.
    #[prost(int32, repeated, packed = "false", tag = "8")]
    pub conf: Vec<i32>,
    /// Settings of IPv4.
    #[prost(message, repeated, tag = "9")]
    pub conf4: Vec<SysctlEntry>,
    /// Settings of IPv6.
    #[prost(message, repeated, tag = "10")]
    pub conf6: Vec<SysctlEntry>,
    /// What a macvlan has.
    #[prost(message, optional, tag = "11")]
    pub macvlan: Option<MacvlanLinkEntry>,
    /// The number of the device that it belongs to, or of the other end of a pair.
    #[prost(uint32, optional, tag = "12")]
    pub peer_ifindex: Option<u32>,
    /// The namespace of that one, by its number in the checkpoint; none if it is in none of these.
    #[prost(uint32, optional, tag = "13")]
    pub peer_nsid: Option<u32>,
    /// The device that it is a port of.
    #[prost(uint32, optional, tag = "14")]
    pub master: Option<u32>,
    /// What a tunnel of IPv6 in IPv4 has.
    #[prost(message, optional, tag = "15")]
    pub sit: Option<SitEntry>,
    /// Of stasis: the kernel's name for its kind.
    #[prost(string, optional, tag = "1000")]
    pub kind: Option<String>,
    /// Of stasis: what the kernel says of a device of this kind, as a restore says it (`IFLA_INFO_DATA`).
    #[prost(bytes = "vec", optional, tag = "1001")]
    pub data: Option<Vec<u8>>,
    /// Of stasis: the length of its queue.
    #[prost(uint32, optional, tag = "1002")]
    pub queue: Option<u32>,
    /// Of stasis: how it gets addresses of IPv6 by itself (`IN6_ADDR_GEN_MODE_*`).
    #[prost(uint32, optional, tag = "1003")]
    pub address_mode: Option<u32>,
    /// Of stasis: what else can be set of a device of any kind, as the kernel says it (`IFLA_*`).
    #[prost(bytes = "vec", optional, tag = "1004")]
    pub more: Option<Vec<u8>>,
    /// Of stasis: what it is like as a port of a bridge (`IFLA_INFO_SLAVE_DATA`).
    #[prost(bytes = "vec", optional, tag = "1005")]
    pub port: Option<Vec<u8>>,
    /// Of stasis: its other names.
    #[prost(string, repeated, tag = "1006")]
    pub names: Vec<String>,
    /// Of stasis: the addresses of groups that somebody has it listen to, on the link (`ip maddress add`).
    #[prost(bytes = "vec", repeated, tag = "1007")]
    pub groups: Vec<Vec<u8>>,
}

/// What a macvlan has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct MacvlanLinkEntry {
    /// `MACVLAN_MODE_*`.
    #[prost(uint32, required, tag = "1")]
    pub mode: u32,
    /// `MACVLAN_FLAG_*`.
    #[prost(uint32, optional, tag = "2")]
    pub flags: Option<u32>,
}

/// What a device of a program has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct TunLinkEntry {
    /// `IFF_*` of tun devices.
    #[prost(uint32, required, tag = "1")]
    pub flags: u32,
    /// The user who may attach to it; -1 for everybody.
    #[prost(int32, required, tag = "2")]
    pub owner: i32,
    /// The group that may.
    #[prost(int32, required, tag = "3")]
    pub group: i32,
    /// Bytes of the header before packets.
    #[prost(uint32, required, tag = "4")]
    pub vnethdr: u32,
    /// Bytes of the send buffer.
    #[prost(uint32, required, tag = "5")]
    pub sndbuf: u32,
}

/// What a tunnel of IPv6 in IPv4 has.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SitEntry {
    /// The device that it goes through.
    #[prost(uint32, optional, tag = "1")]
    pub link: Option<u32>,
    /// Its own address.
    #[prost(uint32, repeated, packed = "false", tag = "2")]
    pub local: Vec<u32>,
    /// The other end's.
    #[prost(uint32, repeated, packed = "false", tag = "3")]
    pub remote: Vec<u32>,
    /// Time to live.
    #[prost(uint32, optional, tag = "4")]
    pub ttl: Option<u32>,
    /// Type of service.
    #[prost(uint32, optional, tag = "5")]
    pub tos: Option<u32>,
    /// The path's longest packet is found out.
    #[prost(bool, optional, tag = "6")]
    pub pmtudisc: Option<bool>,
    /// The protocol inside.
    #[prost(uint32, optional, tag = "7")]
    pub proto: Option<u32>,
    /// `SIT_*`.
    #[prost(uint32, optional, tag = "8")]
    pub flags: Option<u32>,
    /// `TUNNEL_ENCAP_*`.
    #[prost(uint32, optional, tag = "9")]
    pub encap_type: Option<u32>,
    /// `TUNNEL_ENCAP_FLAG_*`.
    #[prost(uint32, optional, tag = "10")]
    pub encap_flags: Option<u32>,
    /// Own port.
    #[prost(uint32, optional, tag = "11")]
    pub encap_sport: Option<u32>,
    /// The other end's port.
    #[prost(uint32, optional, tag = "12")]
    pub encap_dport: Option<u32>,
    /// Bits of the 6rd prefix.
    #[prost(uint32, optional, tag = "13")]
    pub rd_prefixlen: Option<u32>,
    /// The 6rd prefix.
    #[prost(uint32, repeated, packed = "false", tag = "14")]
    pub rd_prefix: Vec<u32>,
    /// Bits of the relay's prefix.
    #[prost(uint32, optional, tag = "15")]
    pub relay_prefixlen: Option<u32>,
    /// The relay's prefix.
    #[prost(uint32, repeated, packed = "false", tag = "16")]
    pub relay_prefix: Vec<u32>,
}

impl Owned for TunLinkEntry {
    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32)) {
        for (id, number) in [(Id::User, &mut self.owner), (Id::Group, &mut self.group)] {
            let mut changed = number.cast_unsigned();
            change(id, &mut changed);
            *number = changed.cast_signed();
        }
    }
}
