//! A user who is not root, on whose behalf files are restored.

use images::messages::PeerCredentials;

use super::connections::Connections;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User<'a> {
    /// His number.
    pub(crate) uid: u32,
    /// The number of his group.
    pub(crate) gid: u32,
    /// The supplementary groups of each thread, which are all his.
    pub(crate) groups: Vec<&'a [u32]>,
    /// What becomes of TCP connections.
    pub(crate) connections: Connections,
}

impl User<'_> {
    /// Whether a socket that says this of its maker says no more than that it is the user's. Supplementary groups are those that
    /// one of the threads has.
    pub(super) fn is(&self, who: &PeerCredentials) -> bool {
        let has_all = |held: &&[u32]| who.groups.iter().all(|group| held.contains(group));
        (who.uid, who.gid) == (self.uid, self.gid)
            && (who.groups.is_empty() || self.groups.iter().any(has_all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_are_told_are_held() {
        let user = User {
            uid: 1000,
            gid: 50,
            groups: vec![&[4, 27]],
            connections: Connections::default(),
        };
        let peer = |groups: &[u32]| PeerCredentials {
            uid: 1000,
            gid: 50,
            groups: groups.to_vec(),
            ..PeerCredentials::default()
        };
        assert!(user.is(&peer(&[27])) && user.is(&peer(&[])));
        assert!(!user.is(&peer(&[27, 0])));
        assert!(!user.is(&PeerCredentials { uid: 0, ..peer(&[]) }));
    }
}
