//! User and group ids of a tree with a user namespace of its own: the images have them as the namespace does.
//!
//! A dump sees ids as they are outside of the namespace and writes what they are [`IdMap::inside`]; a restore reads these and works
//! with what they are [`IdMap::outside`]. Which fields of a message are ids is said beside it, once for both ([`Owned`]).

use std::io;

use crate::checkpoint::Checkpoint;
use crate::messages::{UidGidExtent, UsernsEntry};

pub use crate::messages::{Id, NOBODY, Owned};

/// Fails for a file with contents whose user or group has no number: made by root it would be root's, with its set-user-ID
/// bit, or come into the hands of the tree's root.
///
/// # Errors
/// With what is wrong, and what helps.
pub fn owner_is_known(user: u32, group: u32) -> io::Result<()> {
    match [user, group].contains(&NOBODY) {
        false => Ok(()),
        true => Err(io::Error::other(
            "its owner has no number in the user namespace of the tree; before the dump have it closed or removed, or \
             give it to somebody of the namespace (chown)",
        )),
    }
}

/// How the ids of a user namespace map to those around it. The one without ranges changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    users: Vec<UidGidExtent>,
    groups: Vec<UidGidExtent>,
}

/// The most ranges that the kernel takes (`UID_GID_MAP_MAX_EXTENTS`).
const MOST_RANGES: usize = 340;

impl IdMap {
    /// Of a namespace; else what is wrong with its ranges.
    pub fn of(entry: &UsernsEntry) -> Result<Self, String> {
        for (what, map) in [
            ("uid_map", &entry.uid_map),
            ("gid_map", &entry.gid_map),
            ("projid_map", &entry.projid_map),
        ] {
            check(map).map_err(|wrong| format!("{what}: {wrong}"))?;
        }
        if entry.uid_map.is_empty() || entry.gid_map.is_empty() {
            return Err("it maps no users, or no groups".to_owned());
        }
        Ok(Self { users: entry.uid_map.clone(), groups: entry.gid_map.clone() })
    }

    /// Whether ids are the same on both sides, as there is no other namespace.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.users.is_empty()
    }

    fn ranges(&self, id: Id) -> &[UidGidExtent] {
        match id {
            Id::User => &self.users,
            Id::Group => &self.groups,
        }
    }

    /// The number that an id of around has in the namespace, or [`NOBODY`].
    #[must_use]
    pub fn inside(&self, id: Id, number: u32) -> u32 {
        if self.is_plain() {
            return number;
        }
        let range = self
            .ranges(id)
            .iter()
            .find(|it| number.checked_sub(it.lower_first).is_some_and(|nth| nth < it.count));
        range.map_or(NOBODY, |it| it.first + (number - it.lower_first))
    }

    /// The number that an id of the namespace has around it, or [`NOBODY`].
    #[must_use]
    pub fn outside(&self, id: Id, number: u32) -> u32 {
        if self.is_plain() {
            return number;
        }
        let of =
            |it: &&UidGidExtent| number.checked_sub(it.first).is_some_and(|nth| nth < it.count);
        let range = self.ranges(id).iter().find(of);
        range.map_or(NOBODY, |it| it.lower_first + (number - it.first))
    }

    /// The id that whoever makes things in the namespace does best to have: 0, or the first that there is.
    #[must_use]
    pub fn maker(&self, id: Id) -> u32 {
        let firsts = self.ranges(id).iter().map(|range| range.first);
        firsts.min().unwrap_or(0)
    }

    /// Gives a message the ids of inside.
    pub fn enter(&self, message: &mut impl Owned) {
        if !self.is_plain() {
            message.each_id(&mut |id, number| *number = self.inside(id, *number));
        }
    }

    /// Gives a message the ids of outside.
    pub fn leave(&self, message: &mut impl Owned) {
        if !self.is_plain() {
            message.each_id(&mut |id, number| *number = self.outside(id, *number));
        }
    }

    /// Gives all of a checkpoint that is made from outside the ids that are meant there: owners of files, terminals and
    /// memory, network devices of programs, and who has sent and connected. What tasks set themselves stays as it is.
    pub fn leave_all(&self, checkpoint: &mut Checkpoint) {
        if self.is_plain() {
            return;
        }
        for body in checkpoint.files.entries.values_mut().filter_map(|file| file.body_mut()) {
            body.each_id(&mut |id, number| *number = self.outside(id, *number));
        }
        checkpoint.files.ghosts.values_mut().for_each(|ghost| self.leave(&mut ghost.entry));
        checkpoint.memfds.values_mut().for_each(|memfd| self.leave(memfd));
        checkpoint.terminals.values_mut().for_each(|terminal| self.leave(terminal));
        for device in checkpoint.networks.values_mut().flat_map(|network| &mut network.devices) {
            device.tun.iter_mut().for_each(|device| self.leave(device));
        }
        checkpoint.packets.iter_mut().for_each(|packet| self.leave(&mut packet.entry));
    }
}

/// What is wrong with ranges, which come from images.
fn check(map: &[UidGidExtent]) -> Result<(), String> {
    if map.len() > MOST_RANGES {
        return Err(format!("{} ranges", map.len()));
    }
    let ends = |first: u32, count: u32| first.checked_add(count).is_some();
    let wrong = |it: &&UidGidExtent| {
        it.count == 0 || !ends(it.first, it.count) || !ends(it.lower_first, it.count)
    };
    map.iter().find(wrong).map_or(Ok(()), |it| Err(format!("a range {it:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{CredsEntry, PeerCredentials};

    #[test]
    fn no_file_is_given_to_who_makes_it() {
        assert!(owner_is_known(0, 65534).is_ok());
        assert!(owner_is_known(NOBODY, 0).is_err() && owner_is_known(0, NOBODY).is_err());
    }

    const fn range(first: u32, lower_first: u32, count: u32) -> UidGidExtent {
        UidGidExtent { first, lower_first, count }
    }

    fn map(users: &[UidGidExtent]) -> Result<IdMap, String> {
        let groups = vec![range(0, 200_000, 10)];
        IdMap::of(&UsernsEntry { uid_map: users.to_vec(), gid_map: groups, ..Default::default() })
    }

    #[test]
    fn ids_are_those_of_their_range() {
        let map = map(&[range(0, 100_000, 1000), range(1000, 1000, 1)]).unwrap();
        for (inside, outside) in [(0, 100_000), (999, 100_999), (1000, 1000)] {
            assert_eq!(map.inside(Id::User, outside), inside);
            assert_eq!(map.outside(Id::User, inside), outside);
        }
        assert_eq!(map.inside(Id::User, 0), NOBODY);
        assert_eq!(map.outside(Id::User, 1001), NOBODY);
        assert_eq!(map.outside(Id::Group, 9), 200_009);
        assert_eq!(IdMap::default().inside(Id::User, 7), 7);
    }

    #[test]
    fn ranges_that_cannot_be_are_refused() {
        for wrong in [range(0, 1, 0), range(u32::MAX, 0, 2), range(0, u32::MAX - 1, 3)] {
            assert!(map(&[wrong]).is_err(), "{wrong:?}");
        }
        assert!(map(&[]).is_err());
        assert!(map(&vec![range(0, 0, 1); MOST_RANGES + 1]).is_err());
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let map = map(&[range(0, 100_000, 1000)]).unwrap();
        let mut creds =
            CredsEntry { uid: 100_007, gid: 200_003, groups: vec![200_001], ..Default::default() };
        map.enter(&mut creds);
        assert_eq!((creds.uid, creds.gid, &creds.groups[..]), (7, 3, &[1][..]));
        assert_eq!(creds.euid, NOBODY);
        let mut peer =
            PeerCredentials { uid: 3, gid: 4, groups: vec![5, 77], ..Default::default() };
        map.leave(&mut peer);
        assert_eq!((peer.uid, peer.gid, &peer.groups[..]), (100_003, 200_004, &[200_005][..]));
    }
}
