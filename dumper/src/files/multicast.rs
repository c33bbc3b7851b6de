//! Multicast groups that sockets are members of.

use std::os::fd::BorrowedFd;

use images::messages::MulticastEntry;
use kernel::multicast::{self, Group};

use super::problem::{Doing, Problem};

/// The groups of the network namespace; known once they have been asked for.
#[derive(Debug, Default)]
pub(super) struct Groups(Option<Vec<Group>>);

impl Groups {
    /// Those that a socket is a member of.
    pub(super) fn of(&mut self, socket: BorrowedFd<'_>) -> Result<Vec<MulticastEntry>, Problem> {
        let groups = match &mut self.0 {
            Some(groups) => groups,
            none => none.insert(multicast::groups().doing("list the multicast groups beside")?),
        };
        let mut entries = Vec::new();
        for &group in groups.iter() {
            let Some(sources) =
                multicast::membership(socket, group).doing("get the multicast groups of")?
            else {
                continue;
            };
            let interface = kernel::sockets::interface_name(group.interface);
            let interface = interface.doing("name the interface of a multicast group of")?;
            entries.push(MulticastEntry {
                interface: interface.to_string_lossy().into_owned(),
                group: group.address.to_string(),
                only: sources.only,
                sources: sources.list.iter().map(ToString::to_string).collect(),
            });
        }
        Ok(entries)
    }
}
