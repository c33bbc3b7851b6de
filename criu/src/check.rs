//! `criu check`.

use kernel::features::{Answer, Feature, Need};

use crate::options::Options;
use crate::{Done, Error};

/// What a name of CRIU's asks for.
enum Ask {
    /// What the kernel can do.
    Kernel(Feature),
    /// A kind of checkpoint that this version of stasis does not make: callers ask before they rely.
    NotCarried(&'static str),
    /// A program that uses the older interface of the kernel's packet filter.
    LegacyTables,
}

/// When `criu check` looks at a feature that is not asked for by name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// Only by name.
    Named,
    /// With `--extra` and `--all`.
    Extra,
    /// With `--experimental` and `--all`.
    Experimental,
}

use Ask::{Kernel, LegacyTables, NotCarried};
use When::{Experimental, Extra, Named};

/// All of CRIU 4.2's names of features.
const FEATURES: &[(&str, When, Ask)] = &[
    ("aio_remap", Extra, Kernel(Feature::AioRemap)),
    ("apparmor_stacking", Named, Kernel(Feature::ApparmorStacking)),
    ("autofs", Experimental, Kernel(Feature::Autofs)),
    ("breakpoints", Named, Kernel(Feature::Breakpoints)),
    ("can_map_vdso", Extra, Kernel(Feature::MapVdso)),
    ("cgroupns", Extra, Kernel(Feature::CgroupNamespaces)),
    ("clone3_set_tid", Extra, Kernel(Feature::Clone3SetTid)),
    ("compat_cr", Experimental, Kernel(Feature::Compat)),
    ("external_net_ns", Named, Kernel(Feature::SocketNamespace)),
    ("fdinfo_lock", Extra, Kernel(Feature::FdinfoLocks)),
    ("get_rseq_conf", Extra, Kernel(Feature::PtraceRseq)),
    ("has_ipt_legacy", Named, LegacyTables),
    ("ipv6_freebind", Extra, Kernel(Feature::Ipv6Freebind)),
    ("kcmp_epoll", Extra, Kernel(Feature::KcmpEpoll)),
    // IFLA_LINK_NETNSID and RTM_GETNSID are of one kernel, and the one is of no use without the other.
    ("link_nsid", Named, Kernel(Feature::NamespaceNumbers)),
    ("loginuid", Extra, Kernel(Feature::Loginuid)),
    ("mem_dirty_track", Extra, Kernel(Feature::UffdWpAsync)),
    ("memfd_hugetlb", Extra, Kernel(Feature::HugetlbMemfd)),
    ("mnt_id", Extra, Kernel(Feature::FdinfoMount)),
    ("move_mount_set_group", Extra, Kernel(Feature::MountGroups)),
    ("net_diag_raw", Extra, Kernel(Feature::RawDiag)),
    ("network_lock_nftables", Extra, Kernel(Feature::Nftables)),
    ("newifindex", Extra, Kernel(Feature::NewIndex)),
    ("nftables", Named, Kernel(Feature::Nftables)),
    ("ns_pid", Extra, Kernel(Feature::NsPid)),
    ("nsid", Named, Kernel(Feature::NamespaceNumbers)),
    ("openat2", Extra, Kernel(Feature::Openat2)),
    ("overlayfs_maps", Extra, Kernel(Feature::OverlayMaps)),
    ("pagemap_scan", Extra, Kernel(Feature::PagemapScan)),
    ("pagemap_scan_guard_pages", Extra, Kernel(Feature::PagemapGuards)),
    ("pidfd_store", Extra, Kernel(Feature::PidfdGetfd)),
    ("seccomp_filters", Extra, Kernel(Feature::SeccompFilters)),
    ("seccomp_suspend", Extra, Kernel(Feature::SuspendSeccomp)),
    ("sk_ns", Extra, Kernel(Feature::SocketNamespace)),
    ("sk_unix_file", Named, Kernel(Feature::SocketFile)),
    ("sockopt_buf_lock", Extra, Kernel(Feature::BufferLocks)),
    ("tcp_half_closed", Extra, Kernel(Feature::TcpWindow)),
    ("timens", Extra, Kernel(Feature::TimeNamespaces)),
    ("timer_cr_ids", Extra, Kernel(Feature::TimerIds)),
    ("timerfd", Extra, Kernel(Feature::TimerfdTicks)),
    ("tun", Extra, Kernel(Feature::Tun)),
    ("tun_ns", Named, Kernel(Feature::TunNamespace)),
    ("uffd", Extra, NotCarried("pages that are served when they are touched (--lazy-pages)")),
    (
        "uffd-noncoop",
        Extra,
        NotCarried("pages that are served when they are touched (--lazy-pages)"),
    ),
    ("userns", Extra, Kernel(Feature::UserNamespaces)),
];

pub(crate) fn run(options: &Options) -> Result<Done, Error> {
    if !options.features.is_empty() {
        let missing: Vec<_> = options.features.iter().filter_map(|name| missing(name)).collect();
        return match missing.is_empty() {
            true => Ok(Done::HasFeatures),
            false => Err(Error::Features(missing)),
        };
    }
    let missing = required();
    if !missing.is_empty() {
        return Err(Error::Kernel(missing));
    }
    let asked = |when: &When| match when {
        Named => false,
        Extra => options.check_extra,
        Experimental => options.check_experimental,
    };
    let of_kind = FEATURES.iter().filter(|(_, when, _)| asked(when));
    let missing: Vec<_> = of_kind.filter_map(|(name, _, ask)| lacking(name, ask)).collect();
    if missing.is_empty() { Ok(Done::Checked) } else { Err(Error::Extras(missing)) }
}

/// What a dump or restore cannot do without and is not there.
fn required() -> Vec<String> {
    let features = Feature::ALL.iter().filter(|feature| feature.need() == Need::Required);
    features
        .filter_map(|feature| {
            let answer = feature.probe();
            let reason = answer.reason()?;
            Some(format!("{} is required: {reason}", feature.name()))
        })
        .collect()
}

/// Why a feature is not there, if it is not.
fn missing(name: &str) -> Option<String> {
    match FEATURES.iter().find(|(known, ..)| *known == name) {
        Some((name, _, ask)) => lacking(name, ask),
        None => Some(format!("there is no feature {name}")),
    }
}

fn lacking(name: &str, ask: &Ask) -> Option<String> {
    let answer = match ask {
        Kernel(feature) => feature.probe(),
        LegacyTables => legacy_tables(),
        NotCarried(what) => {
            return Some(format!("feature {name}: this version of stasis does not carry {what}"));
        }
    };
    answer.reason().map(|reason| format!("feature {name} is not there: {reason}"))
}

/// Programs that save and restore the tables of the older packet filter, for both versions of IP.
fn legacy_tables() -> Answer {
    for (plain, legacy) in [("iptables", "iptables-legacy"), ("ip6tables", "ip6tables-legacy")] {
        let is_legacy = |name: &str| {
            let told = std::process::Command::new(name).arg("-V").output();
            told.is_ok_and(|told| {
                // Versions before there was another say nothing; later ones name the other.
                let words = String::from_utf8_lossy(&told.stdout).into_owned();
                told.status.success() && !words.contains("nf_tables")
            })
        };
        if !is_legacy(legacy) && !is_legacy(plain) {
            return Answer::No(format!("no {plain} of the older interface is on PATH"));
        }
    }
    Answer::Yes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_stands_once_and_in_order() {
        assert!(FEATURES.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn what_is_unknown_and_what_is_not_carried_is_said_by_name() {
        assert_eq!(missing("bogus").unwrap(), "there is no feature bogus");
        let uffd = missing("uffd").unwrap();
        assert!(uffd.contains("feature uffd") && uffd.contains("--lazy-pages"), "{uffd}");
    }
}
