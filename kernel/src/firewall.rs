//! The firewall of the calling thread's network namespace as text: nftables by `nft`, and the older tables by
//! `iptables-legacy-save` and its like.

use std::io;

use crate::netfilter::{output, run_quietly};
use crate::rtnetlink::Rtnetlink;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    const fn programs(self) -> (&'static str, &'static str) {
        match self {
            Self::V4 => ("iptables-legacy-save", "iptables-legacy-restore"),
            Self::V6 => ("ip6tables-legacy-save", "ip6tables-legacy-restore"),
        }
    }
}

/// All tables of nftables as `nft list ruleset` writes them; empty if there are none.
///
/// # Errors
/// If there are some, and there is no `nft`, or it fails.
pub fn nftables() -> io::Result<Vec<u8>> {
    match has_nftables()? {
        true => output("nft", &["list", "ruleset"]),
        false => Ok(Vec::new()),
    }
}

/// Whether there is a table of nftables.
///
/// # Errors
/// If the kernel does not say.
pub fn has_nftables() -> io::Result<bool> {
    /// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_GETTABLE`.
    const GET_TABLES: u16 = 10 << 8 | 1;
    // `struct nfgenmsg`: any family.
    let listed = Rtnetlink::open_netfilter()?.list(GET_TABLES, &[0; 4]);
    match listed {
        // The kernel was built without, or nobody has needed it yet.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT | libc::EPROTONOSUPPORT)
            ) =>
        {
            Ok(false)
        }
        listed => Ok(!listed?.is_empty()),
    }
}

/// Whether a text of nftables has parts that `nft` writes, but does not read: those that iptables has put
/// there.
#[must_use]
pub fn has_foreign_parts(ruleset: &[u8]) -> bool {
    let text = String::from_utf8_lossy(ruleset);
    text.lines().any(|line| line.contains("xt match \"") || line.contains("xt target \""))
}

/// Adds tables.
///
/// # Errors
/// If there is no `nft`, or it fails, with what it said.
pub fn load_nftables(ruleset: &[u8]) -> io::Result<()> {
    run_quietly("nft", &["-f", "-"], ruleset)
}

/// Whether there are tables of the older kind.
#[must_use]
pub fn has_legacy_tables(family: Family) -> bool {
    let name = match family {
        Family::V4 => "ip_tables_names",
        Family::V6 => "ip6_tables_names",
    };
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
    text.is_ok_and(|text| !text.trim().is_empty())
}

/// The older tables; empty if there are none.
///
/// # Errors
/// If there are some, and there is no program for them, or it fails.
pub fn legacy_tables(family: Family) -> io::Result<Vec<u8>> {
    match has_legacy_tables(family) {
        true => output(family.programs().0, &[]),
        false => Ok(Vec::new()),
    }
}

/// Puts the older tables in place of those that are there.
///
/// # Errors
/// As [`load_nftables`].
pub fn load_legacy_tables(family: Family, text: &[u8]) -> io::Result<()> {
    run_quietly(family.programs().1, &["-w"], text)
}
