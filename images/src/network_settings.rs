//! The settings of network namespaces that images hold by their places in a list, in CRIU's order.

/// Of IPv4, for a device: below `/proc/sys/net/ipv4/conf/DEVICE`.
pub const IPV4: [&str; 30] = [
    "accept_local",
    "accept_redirects",
    "accept_source_route",
    "arp_accept",
    "arp_announce",
    "arp_filter",
    "arp_ignore",
    "arp_notify",
    "bootp_relay",
    "disable_policy",
    "disable_xfrm",
    "force_igmp_version",
    "forwarding",
    "igmpv2_unsolicited_report_interval",
    "igmpv3_unsolicited_report_interval",
    "log_martians",
    "medium_id",
    "promote_secondaries",
    "proxy_arp",
    "proxy_arp_pvlan",
    "route_localnet",
    "rp_filter",
    "secure_redirects",
    "send_redirects",
    "shared_media",
    "src_valid_mark",
    "tag",
    "ignore_routes_with_linkdown",
    "drop_gratuitous_arp",
    "drop_unicast_in_l2_multicast",
];

/// Of IPv6, for a device: below `/proc/sys/net/ipv6/conf/DEVICE`.
pub const IPV6: [&str; 42] = [
    "accept_dad",
    "accept_ra",
    "accept_ra_defrtr",
    "accept_ra_from_local",
    "accept_ra_min_hop_limit",
    "accept_ra_mtu",
    "accept_ra_pinfo",
    "accept_ra_rt_info_max_plen",
    "accept_ra_rtr_pref",
    "accept_redirects",
    "accept_source_route",
    "autoconf",
    "dad_transmits",
    "disable_ipv6",
    "drop_unicast_in_l2_multicast",
    "drop_unsolicited_na",
    "force_mld_version",
    "force_tllao",
    "forwarding",
    "hop_limit",
    "ignore_routes_with_linkdown",
    "keep_addr_on_down",
    "max_addresses",
    "max_desync_factor",
    "mldv1_unsolicited_report_interval",
    "mldv2_unsolicited_report_interval",
    "mtu",
    "ndisc_notify",
    "optimistic_dad",
    "proxy_ndp",
    "regen_max_retry",
    "router_probe_interval",
    "router_solicitation_delay",
    "router_solicitation_interval",
    "router_solicitations",
    STABLE_SECRET,
    "suppress_frag_ndisc",
    "temp_prefered_lft",
    "temp_valid_lft",
    "use_oif_addrs_only",
    "use_optimistic",
    "use_tempaddr",
];

/// The one of them that is a text.
pub const STABLE_SECRET: &str = "stable_secret";

/// Of Unix sockets: below `/proc/sys/net/unix`.
pub const UNIX: [&str; 1] = ["max_dgram_qlen"];

/// Of IPv4 as a whole: below `/proc/sys/net/ipv4`. A text.
pub const OF_IPV4: [&str; 1] = ["ping_group_range"];

/// Whether images hold a setting by its place in one of these lists; `path` is below `/proc/sys/net`.
pub fn has_place(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["ipv4", "conf", _, name] => IPV4.contains(&name),
        ["ipv6", "conf", of, ADDRESS_MODE] => !matches!(of, "all" | "default"),
        ["ipv6", "conf", _, name] => IPV6.contains(&name),
        ["ipv4", name] => OF_IPV4.contains(&name),
        ["unix", name] => UNIX.contains(&name),
        _ => false,
    }
}

/// The device that a setting is of; `path` is below `/proc/sys/net`.
pub fn device_of(path: &str) -> Option<&str> {
    let owner = owner_of(path)?;
    (!matches!(owner, "all" | "default")).then_some(owner)
}

/// Of a setting that each device has: the device, or `all` or `default`.
pub fn owner_of(path: &str) -> Option<&str> {
    match path.split('/').collect::<Vec<_>>()[..] {
        [_, "conf" | "neigh", owner, _] => Some(owner),
        _ => None,
    }
}

/// What images say of a device itself.
const ADDRESS_MODE: &str = "addr_gen_mode";

/// What a network namespace has of its own, and each other one of its own as well. (`netfilter/nf_hooks_lwtunnel`, which a new one shows as
/// if it were, is a switch of the whole machine.)
const OF_NAMESPACES: [&str; 13] = [
    "bridge/",
    "core/",
    "dccp/",
    "ipv4/",
    "ipv6/",
    "mpls/",
    "mptcp/",
    "netfilter/nf_conntrack_",
    "netfilter/nf_flowtable_",
    "netfilter/nf_log/",
    "sctp/",
    "smc/",
    "unix/",
];

/// Whether this can be the path of a setting of a network namespace below `/proc/sys/net`, and leads nowhere else.
pub fn is_below(path: &str) -> bool {
    OF_NAMESPACES.iter().any(|prefix| path.starts_with(prefix)) && is_plain(path)
}

/// Whether a path leads to where it says.
pub fn is_plain(path: &str) -> bool {
    let is_plain =
        |part: &str| !part.is_empty() && !matches!(part, "." | "..") && !part.contains('\0');
    path.split('/').all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_told_apart() {
        assert_eq!(device_of("ipv4/neigh/eth0/locktime"), Some("eth0"));
        assert_eq!(device_of("ipv4/neigh/default/locktime"), None);
        assert_eq!(owner_of("ipv6/conf/all/mtu"), Some("all"));
        assert_eq!(owner_of("core/somaxconn"), None);
        for path in ["ipv4/conf/eth0/rp_filter", "ipv6/conf/all/mtu", "unix/max_dgram_qlen"] {
            assert!(has_place(path) && is_below(path), "{path}");
        }
        for path in ["ipv4/conf/eth0.5/arp_evict_nocarrier", "core/somaxconn", "ipv4/ip_forward"] {
            assert!(!has_place(path) && is_below(path), "{path}");
        }
        for path in [
            "../kernel/core_pattern",
            "ipv4/../../kernel/x",
            "/etc/passwd",
            "ipv4",
            "",
            "ipv4//b",
            "netfilter/nf_hooks_lwtunnel",
        ] {
            assert!(!is_below(path), "{path}");
        }
    }
}
