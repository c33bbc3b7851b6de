//! Netlink sockets: their ports, groups and options. What waits in one comes from the kernel, whose name
//! nobody else can send by.

use std::os::fd::BorrowedFd;

use collector::{OpenFile, Process};
use ids::HostPid;
use images::messages::{FileEntry, NetlinkSkEntry, fd_type};
use kernel::netlink_diag::NetlinkSocket as Known;
use kernel::sockets::is_readable;

use super::file_cache::Keeping;
use super::file_kind::FileKind;
use super::held::with_socket;
use super::problem::{Doing, Problem};
use super::socket_options;
use super::survey::Survey;

/// Whether a file is a socket of a protocol by which programs register for more than groups: the kernel keeps that by the socket's port,
/// where nobody can read it.
pub(super) fn may_be_registered(entry: &FileEntry) -> bool {
    let protocol = entry.nlsk.as_ref().map(|socket| socket.protocol.cast_signed());
    matches!(protocol, Some(libc::NETLINK_GENERIC | libc::NETLINK_AUDIT))
}

/// A netlink socket.
#[derive(Debug)]
pub(super) struct NetlinkSocket;

impl FileKind for NetlinkSocket {
    fn types(&self) -> &'static [u32] {
        &[fd_type::NETLINKSK]
    }

    fn families(&self) -> &'static [i32] {
        &[libc::AF_NETLINK]
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let (pid, strict) = (process.pid, survey.is_strict());
        let fown = survey.owner(pid, file)?;
        let common = survey.common(pid, file)?;
        let (_, kind, protocol) = common.family;
        let known = survey.diagnosed.netlink(file.inode)?;
        if protocol == libc::NETLINK_NETFILTER {
            receives_packets(known.port)?;
            // A message makes it so, which its mark does not show.
            survey.to_keep = false;
        }
        let mut opts = with_socket(survey.held, pid, file, |socket| {
            if strict {
                is_quiet(socket, &known)?;
            }
            socket_options::options(socket, true)
        })?;
        opts.others = common.others;
        let socket = NetlinkSkEntry {
            id: entry.id,
            ino: file.inode as u32,
            protocol: protocol.cast_unsigned(),
            state: known.state,
            flags: file.flags,
            portid: known.port,
            groups: known.groups,
            dst_portid: known.peer_port,
            dst_group: known.peer_group,
            fown,
            opts,
            ns_id: None,
            r#type: Some(kind.cast_unsigned()),
        };
        Ok(FileEntry { r#type: fd_type::NETLINKSK, nlsk: Some(Box::new(socket)), ..entry })
    }

    /// A mark covers all that its protocol keeps of it, and its groups.
    fn holds(
        &self,
        _survey: &mut Survey<'_>,
        _pid: HostPid,
        _file: &OpenFile,
        _keeping: &mut Keeping,
    ) -> Result<bool, Problem> {
        Ok(true)
    }

    fn is_steady(&self, _entry: &FileEntry, _size: Option<u64>) -> bool {
        true
    }

    fn update(&self, entry: &mut FileEntry, keeping: &Keeping) {
        if let Some(socket) = &mut entry.nlsk {
            socket.flags = keeping.flags;
        }
    }
}

/// Refuses a socket in which messages wait, or which the kernel has not yet sent all that it asked for.
fn is_quiet(socket: BorrowedFd<'_>, known: &Known) -> Result<(), Problem> {
    if known.sending {
        return Err(Problem::Refused(support::sockets::NETLINK_LIST));
    }
    if is_readable(socket).doing("look for messages in")? {
        return Err(Problem::Refused(support::sockets::NETLINK_MESSAGES));
    }
    Ok(())
}

/// Refuses the port of a socket to which netfilter hands packets. The program has set that up by messages, which cannot be read
/// back.
fn receives_packets(port: u32) -> Result<(), Problem> {
    for (list, what) in [
        ("/proc/thread-self/net/netfilter/nfnetlink_queue", "queue"),
        ("/proc/thread-self/net/netfilter/nfnetlink_log", "log group"),
    ] {
        // Without the module nobody has any.
        let text = std::fs::read_to_string(list).unwrap_or_default();
        if let Some(number) = number_of(&text, port) {
            return Err(Problem::Refused(support::sockets::netfilter_port(what, number)));
        }
    }
    Ok(())
}

/// The number of the first queue or group that is a port's: number and port begin each line.
fn number_of(text: &str, port: u32) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let number = words.next()?;
        (words.next()?.parse() == Ok(port)).then_some(number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_found_by_port() {
        let text = "    0   4711     0 2 65531     0     0        0  1\n   7  4712 0 2 0 0 0 0 1\n";
        assert_eq!(number_of(text, 4712), Some("7"));
        assert_eq!(number_of(text, 7), None);
    }
}
