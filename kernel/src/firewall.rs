//! The firewall of the calling thread's network namespace as text: nftables by `nft`, and the older tables by
//! `iptables-legacy-save` and its like.

use std::io;

use crate::netfilter::{find, output, run_quietly};
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
        Err(error) if is_unknown(&error) => Ok(false),
        listed => Ok(!listed?.is_empty()),
    }
}

/// The connections that are tracked, as messages of netlink; empty if there are none.
///
/// # Errors
/// If the kernel does not say.
pub fn tracked() -> io::Result<Vec<u8>> {
    /// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_GET`.
    const GET: u16 = 1 << 8 | 1;
    // A list of none takes a walk through all the machine's.
    let count = crate::sysctl::read("/proc/sys/net/netfilter/nf_conntrack_count");
    if count.is_ok_and(|count| count.trim() == "0") {
        return Ok(Vec::new());
    }
    match Rtnetlink::open_netfilter()?.list(GET, &[0; 4]) {
        Err(error) if is_unknown(&error) => Ok(Vec::new()),
        listed => listed,
    }
}

/// Whether the kernel was built without what was asked for, or nobody has needed it yet.
fn is_unknown(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    let unknown = [libc::EINVAL, libc::EOPNOTSUPP, libc::ENOENT, libc::EPROTONOSUPPORT];
    number.is_some_and(|number| unknown.contains(&number))
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
/// If the text has more than tables, there is no `nft`, or it fails, with what it said.
pub fn load_nftables(ruleset: &[u8]) -> io::Result<()> {
    if !has_tables_alone(ruleset) {
        return Err(no_list());
    }
    run_quietly("nft", &["-f", "-"], ruleset)
}

fn no_list() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the text has more than what a list of tables has")
}

/// The table that holds packets back.
const HOLD: &str = "inet CRIU-hold";

/// Whether packets can be held back here ([`hold`]).
#[must_use]
pub fn can_hold() -> bool {
    find("nft").is_some()
}

/// Drops what comes in and goes out by any device but the loopback device, until [`release`].
///
/// # Errors
/// If there is no `nft`, or it fails, with what it said.
pub fn hold() -> io::Result<()> {
    let mut script = format!("create table {HOLD}\n");
    for (chain, way) in [("input", "iifname"), ("forward", "iifname"), ("output", "oifname")] {
        let hook = format!("{{ type filter hook {chain} priority -500; }}");
        script += &format!("add chain {HOLD} {chain} {hook}\n");
        script += &format!("add rule {HOLD} {chain} {way} != \"lo\" drop\n");
    }
    run_quietly("nft", &["-f", "-"], script.as_bytes())
}

/// Takes away what [`hold`] has put there.
///
/// # Errors
/// As [`hold`].
pub fn release() -> io::Result<()> {
    run_quietly("nft", &["-f", "-"], format!("delete table {HOLD}\n").as_bytes())
}

/// Whether a text has tables and nothing else. `nft` takes programs: they may read files (`include`) and have variables.
fn has_tables_alone(text: &[u8]) -> bool {
    const MORE: [&[u8]; 4] = [b"include", b"define", b"redefine", b"undefine"];
    let (mut depth, mut quoted, mut comment) = (0_usize, false, false);
    let mut statement: Vec<u8> = Vec::new();
    for &byte in text.iter().chain(b"\n") {
        match byte {
            b'\n' => comment = false,
            _ if comment => continue,
            b'"' => quoted = !quoted,
            b'#' if !quoted => {
                comment = true;
                continue;
            }
            b'$' | b'\\' if !quoted => return false,
            _ => {}
        }
        if quoted || !matches!(byte, b'\n' | b';' | b'{' | b'}') {
            statement.push(byte);
            continue;
        }
        let words = statement.trim_ascii();
        let first = words.split(|byte| !byte.is_ascii_alphanumeric()).next().unwrap_or_default();
        if MORE.contains(&first) || depth == 0 && !words.is_empty() && first != b"table" {
            return false;
        }
        statement.clear();
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => return false,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    depth == 0 && !quoted
}

/// Whether a text has what `iptables-save` writes and nothing else.
fn has_rules_alone(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').all(|line| {
        let line = line.trim_ascii();
        let known = line.is_empty()
            || line == b"COMMIT"
            || matches!(line[0], b'*' | b':' | b'#')
            || line.starts_with(b"-A ")
            || line.starts_with(b"[");
        // What stands between quotation marks are words of rules: comments, prefixes of logs.
        let outside = line.split(|byte| *byte == b'"').step_by(2);
        let mut words = outside.flat_map(|part| part.split(|byte| byte.is_ascii_whitespace()));
        known && !words.any(|word| word.starts_with(b"-M") || word.starts_with(b"--modprobe"))
    })
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
    if !has_rules_alone(text) {
        return Err(no_list());
    }
    run_quietly(family.programs().1, &["-w"], text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_tables_are_no_programs() {
        let list = b"# a note $x\ntable inet a {\n\tset s { type ipv4_addr; elements = { 10.0.0.1 } }\n\tchain c {\n\t\ttype filter hook input priority 0; policy accept;\n\t\tcounter comment \"include $x; {\"\n\t}\n}\n";
        assert!(has_tables_alone(list));
        for more in [
            &b"include \"/etc/shadow\"\n"[..],
            b"table ip a { }; include \"/x\"\n",
            b"table ip a { include \"/x\"\n }\n",
            b"table ip a {\n chain c { include \"/x\"\n }\n}\n",
            b"define x = 1\n",
            b"table ip a { chain c { tcp dport $x accept; } }\n",
            b"flush ruleset\n",
            b"table ip a {\n",
            b"}\n",
        ] {
            assert!(!has_tables_alone(more), "{}", String::from_utf8_lossy(more));
        }
        let saved = b"# Generated\n*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m comment --comment \"a -M b\" -j ACCEPT\nCOMMIT\n";
        assert!(has_rules_alone(saved));
        for more in
            [&b"*filter\n-F\nCOMMIT\n"[..], b"-A INPUT -M /x\n", b"-A INPUT --modprobe=/x\n"]
        {
            assert!(!has_rules_alone(more));
        }
    }
}
