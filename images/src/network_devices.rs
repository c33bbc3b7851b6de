//! Which kinds of network devices are carried, and what of each.

use crate::messages::device;

/// A kind of network device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The kernel's name for it.
    pub name: &'static str,
    /// What images call it ([`device`]).
    pub r#type: u32,
    /// The numbers of what is said of it, besides, as it is made (`IFLA_INFO_DATA`). What a device of this
    /// kind tells, and cannot be told, is not among them.
    pub data: &'static [u16],
}

/// All of them.
const KINDS: &[Kind] = &[
    Kind { name: "loopback", r#type: device::LOOPBACK, data: &[] },
    Kind { name: "veth", r#type: device::VETH, data: &[] },
    // include/uapi/linux/if_link.h: delays, ages, spanning tree, priority, VLANs, what is forwarded; multicast.
    Kind {
        name: "bridge",
        r#type: device::BRIDGE,
        data: &[
            1, 2, 3, 4, 5, 6, 7, 8, 9, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 39,
            41, 42, 43, 44,
        ],
    },
    // Not made by what is said of it, but by who attaches to it.
    Kind { name: "tun", r#type: device::TUN, data: &[] },
    Kind { name: "macvlan", r#type: device::MACVLAN, data: &[1, 2] },
    Kind { name: "ipvlan", r#type: device::EXTERNAL, data: &[1, 2] },
    Kind { name: "vlan", r#type: device::EXTERNAL, data: &[1, 2, 3, 4, 5] },
    Kind { name: "dummy", r#type: device::EXTERNAL, data: &[] },
    Kind { name: "ifb", r#type: device::EXTERNAL, data: &[] },
];

/// What else can be set of a device of any kind (include/uapi/linux/if_link.h): its alias, its group.
pub const MORE: &[u16] = &[20, 27];

/// How long packets that it is handed or hands on at once may be, and of how many segments: each with what it is by itself, in the
/// order in which they are set, as some set others.
pub const LENGTHS: &[(u16, u32)] =
    &[(40, 65535), (41, 65536), (58, 65536), (63, 65536), (64, 65536)];

/// What can be set of a port of a bridge (`IFLA_BRPORT_*`): priority, cost, who is answered for, what is learnt, where what is sent,
/// who is kept apart.
pub const OF_PORTS: &[u16] =
    &[2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 25, 27, 28, 29, 30, 31, 32, 33, 34, 37, 39, 40, 42, 43];

/// The kind with this name, if it is carried.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// The kind that images of CRIU's call so.
pub fn of_type(r#type: u32) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.r#type == r#type && r#type != device::EXTERNAL)
}
