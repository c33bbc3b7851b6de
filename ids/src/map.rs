//! Which task of the host is which of the images.

use std::collections::BTreeMap;
use std::fmt;

use crate::{HostPid, ImagePid, ImagePids};

/// Two tasks with one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clash {
    /// Two tasks of the images would be one task of the host.
    Host(HostPid),
    /// Two tasks of the host would be one task of the images.
    Image(ImagePid),
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(pid) => {
                write!(f, "process {pid} of this machine is two processes of the images")
            }
            Self::Image(pid) => {
                write!(f, "process {pid} of the images is two processes of this machine")
            }
        }
    }
}

impl std::error::Error for Clash {}

/// The numbers of a tree's tasks, here and in the images, each found by the other.
///
/// Nested namespaces number from 1 each, so only the outermost number of a task is its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PidMap {
    images: BTreeMap<HostPid, ImagePids>,
    hosts: BTreeMap<ImagePid, HostPid>,
}

impl PidMap {
    /// Notes that `host` is `image`. The same may be said twice.
    ///
    /// # Errors
    /// When one of them is another task's.
    pub fn insert(&mut self, host: HostPid, image: impl Into<ImagePids>) -> Result<(), Clash> {
        let image = image.into();
        let outermost = image.outermost();
        if self.images.get(&host).is_some_and(|known| *known != image) {
            return Err(Clash::Host(host));
        }
        if self.hosts.get(&outermost).is_some_and(|known| *known != host) {
            return Err(Clash::Image(outermost));
        }
        self.hosts.insert(outermost, host);
        self.images.insert(host, image);
        Ok(())
    }

    /// What the images call a task of the host.
    #[must_use]
    pub fn image(&self, host: HostPid) -> Option<ImagePid> {
        self.levels(host).map(ImagePids::outermost)
    }

    /// All numbers that a task of the host has in the tree's own pid namespaces.
    #[must_use]
    pub fn levels(&self, host: HostPid) -> Option<&ImagePids> {
        self.images.get(&host)
    }

    /// The task of the host that the images call so.
    #[must_use]
    pub fn host(&self, image: ImagePid) -> Option<HostPid> {
        self.hosts.get(&image).copied()
    }

    /// Forgets a task of the host, whose numbers others may get.
    pub fn remove(&mut self, host: HostPid) {
        if let Some(levels) = self.images.remove(&host) {
            self.hosts.remove(&levels.outermost());
        }
    }

    /// Every pair, by the number of the host.
    pub fn iter(&self) -> impl Iterator<Item = (HostPid, &ImagePids)> {
        self.images.iter().map(|(host, image)| (*host, image))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: i32) -> HostPid {
        HostPid::new(number).unwrap()
    }

    fn image(number: i32) -> ImagePid {
        ImagePid::new(number).unwrap()
    }

    #[test]
    fn each_is_found_by_the_other() {
        let mut map = PidMap::default();
        let nested = ImagePids::from_outermost([image(2), image(1)]).unwrap();
        map.insert(host(4001), image(1)).unwrap();
        map.insert(host(4002), nested.clone()).unwrap();
        assert_eq!(map.image(host(4001)), Some(image(1)));
        assert_eq!(map.levels(host(4002)), Some(&nested));
        assert_eq!(map.host(image(2)), Some(host(4002)));
        assert_eq!((map.image(host(1)), map.host(image(4001))), (None, None));
        assert_eq!(map.iter().map(|(host, _)| host.get()).collect::<Vec<_>>(), [4001, 4002]);
        map.remove(host(4001));
        map.insert(host(4003), image(1)).unwrap();
        assert_eq!((map.image(host(4001)), map.host(image(1))), (None, Some(host(4003))));
    }

    #[test]
    fn one_number_for_two_tasks_is_an_error_and_changes_nothing() {
        let mut map = PidMap::default();
        map.insert(host(41), image(1)).unwrap();
        map.insert(host(41), image(1)).unwrap();
        let before = map.clone();
        assert_eq!(map.insert(host(41), image(2)), Err(Clash::Host(host(41))));
        assert_eq!(map.insert(host(42), image(1)), Err(Clash::Image(image(1))));
        let deeper = ImagePids::from_outermost([image(1), image(5)]).unwrap();
        assert_eq!(map.insert(host(41), deeper), Err(Clash::Host(host(41))));
        assert_eq!(map, before);
    }
}
