//! Netlink sockets, with their ports, groups and options.

use std::io;
use std::os::fd::OwnedFd;

use images::messages::{FileEntry, FilePermsEntry, NetlinkSkEntry, fd_type};
use kernel::sockets::{self, Address, set_option};
use nix::unistd::geteuid;

use support::Refusal;

use super::Error;
use super::file_kind::{FileKind, missing};
use super::images::FileImages;
use super::opening::{Opening, flagged};
use super::socket_options;
use super::user::User;

const SOL_NETLINK: i32 = 270;
const NETLINK_ADD_MEMBERSHIP: i32 = 1;
const CONNECTED: u32 = 1;

/// A netlink socket.
#[derive(Debug)]
pub(super) struct NetlinkSocket;

impl FileKind for NetlinkSocket {
    fn r#type(&self) -> u32 {
        fd_type::NETLINKSK
    }

    fn check(&self, file: &FileEntry, _images: &FileImages) -> Result<(), Error> {
        let entry = file.nlsk.as_deref().ok_or_else(|| missing(file))?;
        let wrong = |reason: &str| Err(Error::image(what(entry), reason));
        if entry.dst_group > u32::BITS {
            return wrong("nobody can be connected to its group");
        }
        if !matches!(kind(entry), libc::SOCK_RAW | libc::SOCK_DGRAM) {
            return wrong("it is of no type that such sockets have");
        }
        Ok(())
    }

    fn beyond(&self, file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        let socket = file.nlsk.as_deref()?;
        // Of these two the kernel lets everybody join any group.
        let open = [libc::NETLINK_ROUTE, libc::NETLINK_KOBJECT_UEVENT].map(i32::cast_unsigned);
        let is_open =
            open.contains(&socket.protocol) || socket.groups.iter().all(|word| *word == 0);
        let object = || format!("socket of file {}", file.id);
        (!is_open).then(|| (support::sockets::GROUPS_OF_ROOT, object()))
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        for file in files {
            let entry = file.nlsk.as_deref().ok_or_else(|| missing(file))?;
            let socket = opening.opener.networks.within(entry.ns_id, || make(opening, entry))?;
            opening.add(entry.id, socket)?;
        }
        Ok(())
    }
}

fn what(entry: &NetlinkSkEntry) -> String {
    format!("netlink socket {} of protocol {}", entry.id, entry.protocol)
}

fn kind(entry: &NetlinkSkEntry) -> i32 {
    entry.r#type.map_or(libc::SOCK_RAW, u32::cast_signed)
}

/// Makes the socket of an entry.
fn make(opening: &Opening<'_>, entry: &NetlinkSkEntry) -> Result<OwnedFd, Error> {
    let what = what(entry);
    let failed = |doing: &str| {
        let operation = format!("{doing} {what}");
        move |source| Error::Kernel { operation, source }
    };
    // The kernel asks for the rights of who opened the socket, too, when others send by it.
    let create = || sockets::create(libc::AF_NETLINK, kind(entry), entry.protocol.cast_signed());
    let socket = opening.opener.approver.as_holder(entry.id, create).and_then(|made| made);
    let socket = socket.map_err(failed("make"))?;
    if geteuid().is_root() && entry.opts.inode.is_none() {
        let usual = FilePermsEntry { mode: 0o777, uid: 0, gid: 0 };
        socket_options::inode(&socket, Some(&usual), &what)?;
    }
    socket_options::all(&socket, &entry.opts, None, &what)?;
    socket_options::others(&socket, &entry.opts, &what)?;
    socket_options::filter(&socket, &entry.opts, &what)?;
    let address = |port: u32, groups: u32| {
        let data = [&[0, 0][..], &port.to_ne_bytes(), &groups.to_ne_bytes()].concat();
        Address::new(libc::AF_NETLINK as u16, &data)
    };
    if entry.portid != 0 {
        address(entry.portid, 0)
            .and_then(|port| sockets::bind(&socket, &port))
            .map_err(failed(&format!("bind to port {}", entry.portid)))?;
    }
    for group in groups(&entry.groups) {
        join(&socket, group).map_err(failed(&format!("join group {group} with")))?;
    }
    if entry.state == CONNECTED {
        let group = entry.dst_group.checked_sub(1).map_or(0, |bit| 1 << bit);
        address(entry.dst_portid, group)
            .and_then(|peer| sockets::connect(&socket, &peer))
            .map_err(failed("connect"))?;
    }
    flagged(socket, entry.flags, &what)
}

/// The numbers of groups: bit 0 of the first word is group 1.
fn groups(words: &[u32]) -> impl Iterator<Item = u32> {
    let bits = |word: u32| (0..u32::BITS).filter(move |bit| word >> bit & 1 != 0);
    let numbered = (0_u32..).step_by(32).zip(words);
    numbered.flat_map(move |(first, word)| bits(*word).map(move |bit| first + bit + 1))
}

fn join(socket: &OwnedFd, group: u32) -> io::Result<()> {
    set_option(socket, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_numbers_from_one_on() {
        assert_eq!(groups(&[1, 1, 1 << 31]).collect::<Vec<_>>(), [1, 33, 96]);
        assert_eq!(groups(&[]).count(), 0);
    }
}
