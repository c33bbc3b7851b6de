//! Network namespaces.

use ids::HostPid;

use crate::unsupported::{Refusal, word};

/// A network namespace, by a task of the tree that has it or something in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The task.
    pub task: HostPid,
    /// The task is in it itself; else it has sockets there.
    pub is_inside: bool,
    /// The kernel's id of the namespace.
    pub id: u64,
}

impl Place {
    /// A command that is run in the namespace: without that it would be told of devices of the machine.
    fn run(self, command: &str) -> String {
        match self.is_inside {
            true => format!("nsenter --net --target {} {command}", self.task),
            false => format!("in network namespace {} ({command})", self.id),
        }
    }
}

/// Rules that iptables has put into nftables by parts of its own, which `nft` shows, but does not take.
pub const FOREIGN_RULES: Refusal = Refusal::fixed(
    "it has rules of iptables that nft cannot express (xt match, xt target)",
    "write these rules for nft (iptables-translate shows how), or leave all that the namespace holds to the container's \
     engine (criu dump and criu restore with --empty-ns net)",
);

/// A namespace of its own, of a tree that is dumped for somebody who is not root.
pub const OF_USER: Refusal = Refusal::fixed(
    "it is another one than that of the machine, and only root may have one made again",
    "have root send the request (or send it with the gateway's token), or have sockets and processes leave that namespace",
);

/// Next hops that are objects of their own.
#[must_use]
pub fn next_hops(place: Place) -> Refusal {
    let replace = place.run("ip route replace DESTINATION via ADDRESS dev DEVICE");
    Refusal::new(
        "it has next hops as objects of their own (ip nexthop), which cannot be carried yet",
        format!("write the next hop of each route into the route: {replace}"),
    )
}

/// A way of queueing packets that somebody has chosen.
#[must_use]
pub fn queue(place: Place, device: &str, kind: &str) -> Refusal {
    let parent = if matches!(kind, "ingress" | "clsact") { kind } else { "root" };
    let remove = place.run(&format!("tc qdisc del dev {} {parent}", word(device)));
    Refusal::new(
        format!(
            "the packets of network device {device} are queued by {kind} (tc), which cannot be carried yet"
        ),
        format!("remove it before the dump, and set it again after the restore: {remove}"),
    )
}

/// Who a bridge was told to be in a group.
#[must_use]
pub fn bridge_groups(place: Place) -> Refusal {
    let list = place.run("bridge mdb show");
    Refusal::new(
        "a bridge was told who is in a group (bridge mdb add … permanent), which cannot be carried yet",
        format!(
            "find these entries ({list}), delete them before the dump (bridge mdb del), and add them again after the restore"
        ),
    )
}

/// A bridge that knows VLANs.
#[must_use]
pub fn vlan_filter(place: Place, device: &str) -> Refusal {
    let off = place.run(&format!("ip link set dev {} type bridge vlan_filtering 0", word(device)));
    Refusal::new(
        "it filters by VLANs, and of which ones its ports are cannot be carried yet",
        format!(
            "note them (bridge vlan show), have it filter none before the dump ({off}), and set both again after the restore"
        ),
    )
}

/// Policies or associations of IPsec.
#[must_use]
pub fn ipsec(place: Place) -> Refusal {
    let flush = place.run("ip xfrm policy flush");
    let states = place.run("ip xfrm state flush");
    Refusal::new(
        "it has policies or associations of IPsec (ip xfrm), whose keys and counts cannot be carried",
        format!(
            "end them before the dump ({flush}; {states}), and have them agreed on again after the restore"
        ),
    )
}

/// A program that sees packets before the network does.
#[must_use]
pub fn program(place: Place, device: &str) -> Refusal {
    let detach = place.run(&format!("ip link set dev {} xdp off", word(device)));
    Refusal::new(
        "a program is attached to it (XDP), which cannot be carried",
        format!("detach it before the dump: {detach}"),
    )
}

/// An open file of a program's network device, where a user asks.
pub const PROGRAM_OF_ROOT: Refusal = Refusal::fixed(
    "a network device of a program (/dev/net/tun), which takes more rights to have than who asks has",
    "have root send the request (or send it with the gateway's token), or close it before the checkpoint",
);

/// A program's network device that is not where it was made.
pub const PROGRAM_MOVED: Refusal = Refusal::fixed(
    "its network device has been moved to another network namespace than that in which it was opened",
    "have the program open it in the namespace where it is used (ip netns exec NAMESPACE PROGRAM)",
);

/// A filter that is nowhere but in the memory of who has set it.
pub const PROGRAM_FILTER: Refusal = Refusal::fixed(
    "a filter chooses the packets that it is handed (TUNATTACHFILTER), which the kernel does not give back",
    "have the program take it off before the checkpoint (TUNDETACHFILTER)",
);

/// A program's network device in the namespace of the machine, which goes with the program.
#[must_use]
pub fn program_outside(name: &str) -> Refusal {
    Refusal::new(
        format!(
            "the network device {name} goes with its program, with all addresses and routes that this machine \
             has for it"
        ),
        "start the program again on one that stays and is made before it (ip tuntap add dev DEVICE mode tun, or tap), or in \
         a network namespace of its own (ip netns exec NAMESPACE PROGRAM)",
    )
}

/// A program's network device of a namespace of the tree, of which a process outside has a queue.
#[must_use]
pub fn program_held_outside(place: Place) -> Refusal {
    Refusal::new(
        "a process outside the tree is attached to it (/dev/net/tun)",
        format!(
            "end that process before the dump (fuser -v /dev/net/tun names it); or leave the namespace out: criu dump \
             --external 'net[{}]:NAME'",
            place.id
        ),
    )
}

/// A program's network device with the kind of another link.
#[must_use]
pub fn program_link(place: Place, name: &str) -> Refusal {
    Refusal::new(
        "the kind of its link was set (TUNSETLINK), which is not carried",
        format!(
            "remove it before the dump: {}; or leave the namespace out: criu dump --external 'net[{}]:NAME'",
            place.run(&format!("ip link del dev {}", word(name))),
            place.id,
        ),
    )
}

/// A program's network device that is not there when its program comes back.
#[must_use]
pub fn program_gone(name: &str, is_another: bool) -> Refusal {
    let what = if is_another { "another one by now" } else { "not there" };
    Refusal::new(
        format!("it was attached to the network device {name}, which is {what}"),
        format!(
            "make it as it was: ip tuntap add dev {} mode tun (or tap; with user, group, pi, vnet_hdr and multi_queue as it \
             had them)",
            word(name)
        ),
    )
}

/// A device of a kind that is not carried.
#[must_use]
pub fn device(place: Place, kind: &str, name: &str) -> Refusal {
    let name = word(name);
    match kind {
        "" => Refusal::new(
            "it is a device of this machine that was moved into the namespace, and cannot be made anew",
            format!(
                "move it out before the dump: {}",
                place.run(&format!("ip link set dev {name} netns 1"))
            ),
        ),
        kind => Refusal::new(
            format!("devices of kind {kind} cannot be carried yet"),
            format!(
                "remove it before the dump: {}; or leave the namespace out: criu dump --external 'net[{}]:NAME'",
                place.run(&format!("ip link del dev {name}")),
                place.id,
            ),
        ),
    }
}

/// A device that the images do not say enough of to make it.
#[must_use]
pub fn unknown_device(kind: &str) -> Refusal {
    Refusal::new(
        format!("network devices of kind {kind} cannot be made yet"),
        "dump again without its namespace (criu dump --external 'net[INODE]:NAME'), and restore into one that has such a \
         device (criu restore --inherit-fd 'fd[N]:NAME')",
    )
}

/// A pair of devices of which the other end is in no namespace of the checkpoint.
#[must_use]
pub fn other_end(name: &str) -> Refusal {
    Refusal::new(
        "its other end was outside of the tree",
        format!(
            "say what that is to be called here: criu restore --external {} (or NAME@BRIDGE)",
            word(&format!("veth[{name}]:NAME"))
        ),
    )
}

/// A device that belongs to one outside of the tree.
#[must_use]
pub fn lower_device(kind: &str, name: &str) -> Refusal {
    Refusal::new(
        "the device that it belongs to was outside of the tree",
        format!(
            "name that of this machine: criu restore --external {}",
            word(&format!("{kind}[{name}]:DEVICE"))
        ),
    )
}

/// A namespace that a restore has to be given.
#[must_use]
pub fn external(key: &str) -> Refusal {
    Refusal::new(
        "the network namespace was not dumped",
        format!(
            "open one that stands for it as descriptor N, and name it: criu restore --inherit-fd {}",
            word(&format!("fd[N]:{key}"))
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commands without `nsenter` would be carried out on the machine's own devices.
    #[test]
    fn commands_are_run_in_the_namespace() {
        let task = HostPid::new(7).unwrap();
        let inside = Place { task, is_inside: true, id: 5 };
        assert_eq!(
            program(inside, "eth0").remedy,
            "detach it before the dump: nsenter --net --target 7 ip link set dev eth0 xdp off"
        );
        assert!(
            device(inside, "", "a'b").remedy.ends_with(r"7 ip link set dev 'a'\''b' netns 1"),
            "{}",
            device(inside, "", "a'b").remedy
        );
        let remedy = device(inside, "gre", "gre1").remedy;
        assert!(remedy.contains(": nsenter --net --target 7 ip link del dev gre1; or"), "{remedy}");
        assert!(remedy.ends_with("criu dump --external 'net[5]:NAME'"), "{remedy}");
        let socket = Place { is_inside: false, ..inside };
        assert!(next_hops(socket).remedy.contains("in network namespace 5 (ip route replace"));
    }
}
