//! Sockets: what those of every family have in common. Each family is a kind of its own.

use std::io;

use collector::OpenFile;
use collector::sharing::{Failure, Hidden};
use ids::HostPid;
use images::messages::SkOptEntry;
use kernel::socket_names::{
    IP_MULTICAST_IF, IPV6_MTU, IPV6_PKTINFO, SO_BUSY_POLL_BUDGET, interface_in,
};
use kernel::sockets::{create, has_error, set_option_bytes};

use super::held::with_socket;
use super::problem::{Doing, Problem};
use super::socket_options;
use super::survey::Survey;

/// What is common to the sockets of all families.
#[derive(Debug)]
pub(super) struct Common {
    /// Family, type and protocol.
    pub(super) family: (i32, i32, i32),
    /// Options that are not those of a new socket, and that CRIU has no place for.
    pub(super) others: Vec<SkOptEntry>,
    /// An error that a call has yet to be told of, where it is known which. Of another socket than a TCP connection that is
    /// over it is refused.
    pub(super) failure: Option<Failure>,
}

/// A socket of a family that is carried by no kind.
pub(super) fn unknown(family: i32) -> Problem {
    Problem::Refused(support::sockets::unknown_family(family))
}

impl Survey<'_> {
    /// Whether this look refuses what waits in a socket now: the target stands still, or what is found is to hold until it does.
    pub(super) const fn is_strict(&self) -> bool {
        self.frozen || self.to_keep
    }

    /// What a socket has whatever its family.
    pub(super) fn common(&mut self, pid: HostPid, file: &OpenFile) -> Result<Common, Problem> {
        let strict = self.is_strict();
        let hidden = self.context.hidden.get(&file.inode);
        let known = hidden.and_then(|hidden| hidden.failure);
        let usual = &mut std::mem::take(&mut self.held.usual);
        let common = with_socket(self.held, pid, file, |socket| {
            let family = socket_options::family(socket)?;
            let others = usual.differences(socket, family)?;
            // One that is about to be received is the frozen look's to judge.
            let fails = strict && has_error(socket).doing("look for errors of")?;
            if fails && known.is_none() {
                return Err(Problem::Refused(support::sockets::ERROR_WAITS));
            }
            Ok(Common { family, others, failure: known.filter(|_| fails) })
        });
        self.held.usual = std::mem::take(usual);
        let mut common = common?;
        if let Some(hidden) = hidden {
            common.others.extend(as_options(hidden));
        }
        Ok(common)
    }
}

/// Gives options that have the number of a network interface its name: a restore may find it under another number. The thread is
/// in the socket's network namespace.
pub(super) fn name_interfaces(options: &mut [SkOptEntry]) -> Result<(), Problem> {
    for option in options {
        let known = (option.level.cast_signed(), option.name.cast_signed());
        if let Some(number) = interface_in(known, &option.value) {
            let name = kernel::sockets::interface_name(number)
                .map_err(|_| Problem::Refused(support::sockets::OPTION_INTERFACE_GONE))?;
            option.interface = Some(name.to_string_lossy().into_owned());
        }
        if is_by_nobody(known, &option.value).doing("compare an address with those here, of")? {
            return Err(Problem::Refused(support::sockets::OPTION_ADDRESS_GONE));
        }
    }
    Ok(())
}

/// Whether an option sends multicast by an address (`IP_MULTICAST_IF`) that is of no interface any more: no socket could be made so.
fn is_by_nobody(option: (i32, i32), value: &[u8]) -> io::Result<bool> {
    if option != (IP_MULTICAST_IF.level, IP_MULTICAST_IF.number) || value.len() != 4 {
        return Ok(false);
    }
    let other = create(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let set = set_option_bytes(&other, option.0, option.1, value);
    Ok(set.is_err_and(|error| error.raw_os_error() == Some(libc::EADDRNOTAVAIL)))
}

/// What no call reads back, as it is set.
fn as_options(hidden: &Hidden) -> impl Iterator<Item = SkOptEntry> + use<> {
    let number = |number: u32| number.to_ne_bytes().to_vec();
    let packet = Some(hidden.packet).filter(|bytes| *bytes != 0).map(number);
    let polled = Some(hidden.polled).filter(|count| *count != 0).map(|count| number(count.into()));
    // struct in6_pktinfo
    let source = hidden
        .source
        .map(|(address, interface)| [&address.octets()[..], &interface.to_ne_bytes()].concat());
    // struct ip_mreqn: a group, an address, and the interface.
    let multicast = Some(hidden.multicast).filter(|interface| *interface != 0);
    let multicast = multicast.map(|interface| [&[0; 8][..], &interface.to_ne_bytes()].concat());
    let all = [
        (IPV6_MTU, packet),
        (IPV6_PKTINFO, source),
        (SO_BUSY_POLL_BUDGET, polled),
        (IP_MULTICAST_IF, multicast),
    ];
    all.into_iter().filter_map(|(option, value)| {
        Some(SkOptEntry {
            level: option.level.cast_unsigned(),
            name: option.number.cast_unsigned(),
            value: value?,
            interface: None,
        })
    })
}
