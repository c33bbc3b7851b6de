//! The lock of TCP connections: what comes for them, and what goes from them, is dropped by netfilter. Or that of
//! a whole network namespace: everything is dropped there that does not carry our mark.
//!
//! It is CRIU's, in form and name, so that either may take away what the other has set. By nftables it is a table
//! of its own, `inet CRIU-ID`, with a set of connections for each family; by iptables it is two rules a
//! connection, or a chain `CRIU` for a whole namespace. The programs `nft` and `iptables-restore` do it, in one
//! transaction each.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::descriptors::inherit;
use crate::tcp::MARK;

/// How connections are locked, by CRIU's numbers in images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// By rules of iptables and ip6tables.
    Iptables,
    /// By a table of nftables.
    Nftables,
    /// Not at all.
    Skip,
}

impl Method {
    /// The number that images have.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Iptables => 0,
            Self::Nftables => 1,
            Self::Skip => 2,
        }
    }

    /// The method of a number.
    #[must_use]
    pub const fn of_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Iptables),
            1 => Some(Self::Nftables),
            2 => Some(Self::Skip),
            _ => None,
        }
    }

    /// The first that this machine has the programs for.
    #[must_use]
    pub fn here() -> Option<Self> {
        match () {
            () if find("nft").is_some() => Some(Self::Nftables),
            () if find("iptables-restore").is_some() => Some(Self::Iptables),
            () => None,
        }
    }
}

/// Both ends of a connection: ours, and its peer.
pub type Ends = (SocketAddr, SocketAddr);

/// A lock of some connections, or of a whole network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    method: Method,
    /// What the table is called by.
    id: String,
    connections: Vec<Ends>,
    /// Of everything in the namespace, whatever the connections are.
    #[serde(default)]
    whole: bool,
}

/// An address as packets have it: IPv4 where it is one of those in the form of IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Lock {
    /// The lock of `connections` by the dump with this id (`dump_criu_run_id`). `None` for an id that is
    /// none.
    #[must_use]
    pub fn new(
        method: Method,
        id: &str,
        connections: impl IntoIterator<Item = Ends>,
    ) -> Option<Self> {
        /// So long are names of CRIU's tables, with what comes before.
        const LONGEST: usize = 21;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let connections = connections.into_iter();
        (!id.is_empty() && id.chars().all(is_plain)).then(|| Self {
            method,
            id: id.chars().take(LONGEST).collect(),
            connections: connections
                .map(|(local, peer)| (canonical(local), canonical(peer)))
                .collect(),
            whole: false,
        })
    }

    /// The lock of everything in the network namespace that this is set in. `None` as of [`Lock::new`].
    #[must_use]
    pub fn of_namespace(method: Method, id: &str) -> Option<Self> {
        Some(Self { whole: true, ..Self::new(method, id, [])? })
    }

    /// Whether it is of a whole namespace.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.whole
    }

    /// How it is done.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// How many connections it is of.
    #[must_use]
    pub const fn connections(&self) -> usize {
        self.connections.len()
    }

    /// What an administrator finds it by.
    #[must_use]
    pub fn name(&self) -> String {
        match self.method {
            Method::Nftables => format!("nftables table inet CRIU-{}", self.id),
            Method::Iptables if self.whole => "chain CRIU of iptables".to_owned(),
            Method::Iptables => "rules of iptables with ! --mark 0xc114".to_owned(),
            Method::Skip => "no lock".to_owned(),
        }
    }

    /// Sets it. What is `held` is open for as long as that takes, even if this process is killed meanwhile: the
    /// program goes on without it.
    ///
    /// # Errors
    /// When there is no such program, or it fails, with what it said; then nothing is locked.
    pub fn set(&self, held: Option<BorrowedFd<'_>>) -> io::Result<()> {
        match self.method {
            Method::Nftables => run_holding("nft", &["-f", "-"], &self.script(), held),
            Method::Iptables if self.whole => lock_namespace_by_iptables(held),
            Method::Iptables => {
                let Err(error) = self.rules(true, held) else { return Ok(()) };
                // One of the two families may have been done.
                self.rules(false, held).unwrap_or_default();
                Err(error)
            }
            Method::Skip => Ok(()),
        }
    }

    /// Adds its connections to a lock of the same id that is set.
    ///
    /// # Errors
    /// As [`Lock::set`].
    pub fn add(&self, held: Option<BorrowedFd<'_>>) -> io::Result<()> {
        match self.method {
            Method::Nftables => {
                let script = self.elements().map(|element| element + "\n").collect::<String>();
                run_holding("nft", &["-f", "-"], &script, held)
            }
            Method::Iptables | Method::Skip => self.set(held),
        }
    }

    /// Takes it away; whether it was there, where that can be told.
    ///
    /// # Errors
    /// When there is no such program, or it fails, with what it said.
    pub fn take_away(&self) -> io::Result<bool> {
        match self.method {
            Method::Nftables => {
                let name = format!("CRIU-{}", self.id);
                match run("nft", &["delete", "table", "inet", &name], "") {
                    Err(error) if error.to_string().contains("No such file or directory") => {
                        Ok(false)
                    }
                    result => result.map(|()| true),
                }
            }
            Method::Iptables if self.whole => unlock_namespace_by_iptables(),
            Method::Iptables => match self.rules(false, None) {
                Ok(()) => Ok(true),
                Err(_) => self.one_by_one(),
            },
            Method::Skip => Ok(false),
        }
    }

    fn table(&self) -> String {
        format!("inet CRIU-{}", self.id)
    }

    /// The commands that add the connections to the sets of the table.
    fn elements(&self) -> impl Iterator<Item = String> {
        let table = self.table();
        let both =
            self.connections.iter().flat_map(|&(local, peer)| [(local, peer), (peer, local)]);
        both.map(move |(from, to)| {
            let family = if from.is_ipv4() { '4' } else { '6' };
            let (from, from_port, to, to_port) = (from.ip(), from.port(), to.ip(), to.port());
            format!(
                "add element {table} conns{family} {{ {from} . {from_port} . {to} . {to_port} }}"
            )
        })
    }

    /// The script that makes the table.
    fn script(&self) -> String {
        let table = self.table();
        let mut lines = vec![format!("create table {table}")];
        let chains = ["output", "input"];
        let policy = if self.whole { " policy drop;" } else { "" };
        for chain in chains {
            let hook = format!("{{ type filter hook {chain} priority 0;{policy} }}");
            lines.push(format!("add chain {table} {chain} {hook}"));
            lines.push(format!("add rule {table} {chain} meta mark {MARK:#x} accept"));
        }
        let families = [('4', "ipv4_addr", "ip"), ('6', "ipv6_addr", "ip6")];
        for (family, address, word) in families.into_iter().filter(|_| !self.whole) {
            let of = format!("type {address} . inet_service . {address} . inet_service;");
            lines.push(format!("add set {table} conns{family} {{ {of} }}"));
            let which = format!("{word} saddr . tcp sport . {word} daddr . tcp dport");
            let drop = |chain| format!("add rule {table} {chain} {which} @conns{family} drop");
            lines.extend(chains.map(drop));
        }
        lines.extend(self.elements());
        lines.join("\n") + "\n"
    }

    /// The rules of a connection, without what is done with them.
    fn rules_of((local, peer): &Ends) -> [String; 2] {
        let rule = |chain: &str, from: &SocketAddr, to: &SocketAddr| {
            let (source, sport) = (from.ip(), from.port());
            let (destination, dport) = (to.ip(), to.port());
            format!(
                "{chain} --protocol tcp -m mark ! --mark {MARK:#x} --source {source} --sport {sport} \
                 --destination {destination} --dport {dport} -j DROP"
            )
        };
        [rule("INPUT", peer, local), rule("OUTPUT", local, peer)]
    }

    /// Puts the rules of all connections in, or takes them out.
    fn rules(&self, lock: bool, held: Option<BorrowedFd<'_>>) -> io::Result<()> {
        for (program, v4) in [("iptables-restore", true), ("ip6tables-restore", false)] {
            let connections = self.connections.iter().filter(|(local, _)| local.is_ipv4() == v4);
            let rules: Vec<String> = connections.flat_map(Self::rules_of).collect();
            if rules.is_empty() {
                continue;
            }
            let act = if lock { "-I" } else { "-D" };
            let mut script = "*filter\n".to_owned();
            rules.iter().for_each(|rule| script.extend([act, " ", rule, "\n"]));
            run_holding(program, &["-w", "--noflush"], &(script + "COMMIT\n"), held)?;
        }
        Ok(())
    }

    /// Takes out those rules that are there; whether there were any.
    fn one_by_one(&self) -> io::Result<bool> {
        /// What iptables says of a rule that is not there.
        const ABSENT: &str = "matching rule exist";
        let mut found = false;
        for ends in &self.connections {
            let program = match ends.0.ip() {
                IpAddr::V4(_) => "iptables",
                IpAddr::V6(_) => "ip6tables",
            };
            for rule in Self::rules_of(ends) {
                let words: Vec<&str> = ["-w", "-D"].into_iter().chain(rule.split(' ')).collect();
                match run(program, &words, "") {
                    Ok(()) => found = true,
                    Err(error) if error.to_string().contains(ABSENT) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }
}

/// The programs of both families, with what carries out scripts of theirs.
const IPTABLES: [(&str, &str); 2] =
    [("iptables", "iptables-restore"), ("ip6tables", "ip6tables-restore")];

/// Whether the chains of packets jump to that of a lock.
fn is_locked_by(program: &str) -> bool {
    run(program, &["-w", "-C", "INPUT", "-j", "CRIU"], "").is_ok()
}

/// Locks the whole network namespace by iptables, as CRIU does: a chain of its own, to which the others jump.
fn lock_namespace_by_iptables(held: Option<BorrowedFd<'_>>) -> io::Result<()> {
    if IPTABLES.iter().any(|(program, _)| is_locked_by(program)) {
        let what = "the network namespace is locked already (chain CRIU of iptables)";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    let script = format!(
        "*filter\n:CRIU - [0:0]\n-I INPUT -j CRIU\n-I OUTPUT -j CRIU\n\
         -A CRIU -m mark --mark {MARK:#x} -j ACCEPT\n-A CRIU -j DROP\nCOMMIT\n"
    );
    for (_, restore) in IPTABLES {
        if let Err(error) = run_holding(restore, &["-w", "--noflush"], &script, held) {
            // The other family may have been done.
            unlock_namespace_by_iptables().unwrap_or_default();
            return Err(error);
        }
    }
    Ok(())
}

/// Takes away the lock of a whole network namespace by iptables, ours or CRIU's; whether it was there.
///
/// # Errors
/// When a program fails, with what it said.
pub fn unlock_namespace_by_iptables() -> io::Result<bool> {
    const CHAIN: &str = "*filter\n-D INPUT -j CRIU\n-D OUTPUT -j CRIU\n-F CRIU\n-X CRIU\nCOMMIT\n";
    let mut found = false;
    for (program, restore) in IPTABLES {
        if is_locked_by(program) {
            run(restore, &["-w", "--noflush"], CHAIN)?;
            found = true;
        }
    }
    Ok(found)
}

/// Where a program is: on `PATH`, or where those of administrators are.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = OsStr::new("/usr/sbin:/sbin:/usr/bin:/bin");
    std::env::split_paths(&path)
        .chain(std::env::split_paths(usual))
        .map(|folder| folder.join(program))
        .find(|file| file.is_absolute() && file.is_file())
}

/// Runs a program, with a script as its input.
fn run(program: &str, arguments: &[&str], script: &str) -> io::Result<()> {
    run_quietly(program, arguments, script.as_bytes())
}

/// The same, with a descriptor of ours open in it.
fn run_holding(
    program: &str,
    arguments: &[&str],
    script: &str,
    held: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    result_of(program, arguments, script.as_bytes(), Stdio::null(), held).map(drop)
}

/// The same with bytes.
pub(crate) fn run_quietly(program: &str, arguments: &[&str], input: &[u8]) -> io::Result<()> {
    result_of(program, arguments, input, Stdio::null(), None).map(drop)
}

/// What a program writes.
pub(crate) fn output(program: &str, arguments: &[&str]) -> io::Result<Vec<u8>> {
    result_of(program, arguments, &[], Stdio::piped(), None)
}

fn result_of(
    program: &str,
    arguments: &[&str],
    input: &[u8],
    to: Stdio,
    held: Option<BorrowedFd<'_>>,
) -> io::Result<Vec<u8>> {
    let file = find(program).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("there is no program {program}"))
    })?;
    let mut command = Command::new(file);
    command.args(arguments).env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(to).stderr(Stdio::piped());
    if let Some(held) = held {
        inherit(&mut command, held);
    }
    let mut child = command.spawn()?;
    let written = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(input),
        None => Ok(()),
    };
    let output = child.wait_with_output()?;
    if output.status.success() {
        return written.map(|()| output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    Err(io::Error::other(format!("{program}: {} ({})", first, output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(local: &str, peer: &str) -> Ends {
        (local.parse().unwrap(), peer.parse().unwrap())
    }

    #[test]
    fn names_are_those_of_criu() {
        let id = "0b2ac6f2-31a2-4a7b-a5c4-9de1e4f3c1aa";
        let lock = Lock::new(Method::Nftables, id, []).unwrap();
        assert_eq!(lock.name(), "nftables table inet CRIU-0b2ac6f2-31a2-4a7b-a5");
        for id in ["", "x; flush ruleset", "a b", "\n"] {
            assert!(Lock::new(Method::Nftables, id, []).is_none(), "{id:?}");
        }
    }

    #[test]
    fn both_ways_of_each_family_or_all() {
        let connections = [
            ends("10.0.0.1:80", "10.0.0.2:4000"),
            ends("[::ffff:10.0.0.1]:81", "[::ffff:10.0.0.3]:4001"),
            ends("[fd00::1]:80", "[fd00::2]:4000"),
        ];
        let lock = Lock::new(Method::Nftables, "1", connections).unwrap();
        let table = lock.script();
        for line in [
            "create table inet CRIU-1",
            "add element inet CRIU-1 conns4 { 10.0.0.1 . 80 . 10.0.0.2 . 4000 }",
            "add element inet CRIU-1 conns4 { 10.0.0.2 . 4000 . 10.0.0.1 . 80 }",
            "add element inet CRIU-1 conns4 { 10.0.0.3 . 4001 . 10.0.0.1 . 81 }",
            "add element inet CRIU-1 conns6 { fd00::2 . 4000 . fd00::1 . 80 }",
            "add rule inet CRIU-1 input meta mark 0xc114 accept",
        ] {
            assert!(table.lines().any(|other| other == line), "{line}\n{table}");
        }
        assert!(!table.contains("ffff"), "{table}");
        let whole = Lock::of_namespace(Method::Nftables, "1").unwrap();
        let chain =
            "add chain inet CRIU-1 input { type filter hook input priority 0; policy drop; }";
        assert!(whole.script().lines().any(|line| line == chain), "{}", whole.script());
        assert!(!table.contains("policy") && !whole.script().contains("conns"));
        let [input, output] = Lock::rules_of(&lock.connections[0]);
        assert!(input.starts_with("INPUT ") && input.contains("--source 10.0.0.2 --sport 4000"));
        assert!(output.starts_with("OUTPUT ") && output.contains("--source 10.0.0.1 --sport 80"));
    }
}
