//! The numbers themselves.

use std::fmt;
use std::num::NonZeroI32;
use std::process::Child;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What cannot be the number of a task: zero, negative, more than the kernel's type holds, or no
/// number at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPid;

impl fmt::Display for NoPid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "numbers of processes are from 1 to {}", i32::MAX)
    }
}

impl std::error::Error for NoPid {}

macro_rules! pid {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "i32", try_from = "i32")]
        pub struct $name(NonZeroI32);

        impl $name {
            /// This number, if a task can have it.
            #[must_use]
            pub const fn new(number: i32) -> Option<Self> {
                match NonZeroI32::new(number) {
                    Some(number) if number.is_positive() => Some(Self(number)),
                    _ => None,
                }
            }

            /// The number, for a system call, a record or a message.
            #[must_use]
            pub const fn get(self) -> i32 {
                self.0.get()
            }

            /// The number, for a record or a message that has it without a sign.
            #[must_use]
            pub const fn unsigned(self) -> u32 {
                self.get().cast_unsigned()
            }
        }

        impl From<$name> for i32 {
            fn from(pid: $name) -> Self {
                pid.get()
            }
        }

        impl TryFrom<i32> for $name {
            type Error = NoPid;

            fn try_from(number: i32) -> Result<Self, NoPid> {
                Self::new(number).ok_or(NoPid)
            }
        }

        impl TryFrom<u32> for $name {
            type Error = NoPid;

            fn try_from(number: u32) -> Result<Self, NoPid> {
                let signed = i32::try_from(number).ok().and_then(Self::new);
                signed.ok_or(NoPid)
            }
        }

        impl FromStr for $name {
            type Err = NoPid;

            fn from_str(text: &str) -> Result<Self, NoPid> {
                text.parse().ok().and_then(Self::new).ok_or(NoPid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

pid! {
    /// The number of a process or thread (or of the group or session that it founded) in the pid
    /// namespace of this process, where /proc is mounted: 1 to `kernel.pid_max`, which is 4194304 at most.
    ///
    /// It is what ptrace(2), `pidfd_open(2)`, kill(2), waitpid(2), `process_vm_readv(2)`, kcmp(2) and
    /// every path below /proc take and tell. It is a task's name only as long as the task lives and
    /// has not been waited for.
    HostPid
}

pid! {
    /// The number of a process or thread (or of the group or session that it founded) in one pid
    /// namespace of the tree that is carried: what the task itself knows, and what it gets again.
    ///
    /// A bare one is of the outermost of these namespaces, that of the tree's root: the images name all
    /// tasks by it. [`ImagePids`] has the others.
    ImagePid
}

impl HostPid {
    /// The calling process.
    #[must_use]
    pub fn own() -> Self {
        Self::of_kernel(std::process::id())
    }

    /// What the images call this task, of a tree whose root is in the pid namespace of this process.
    /// Only who makes a [`PidMap`](crate::PidMap) knows that; all others ask the map.
    #[must_use]
    pub const fn in_own_namespace(self) -> ImagePid {
        ImagePid(self.0)
    }

    /// What the kernel has just given to a process of ours.
    fn of_kernel(number: u32) -> Self {
        Self::try_from(number).expect("the kernel numbers processes from 1 to 4194304")
    }
}

impl ImagePid {
    /// The task that has this number here, for a tree whose root is in the pid namespace of this
    /// process. Only who makes a [`PidMap`](crate::PidMap) knows that; all others ask the map.
    #[must_use]
    pub const fn in_own_namespace(self) -> HostPid {
        HostPid(self.0)
    }
}

impl From<&Child> for HostPid {
    fn from(child: &Child) -> Self {
        Self::of_kernel(child.id())
    }
}

/// The numbers of one task in all pid namespaces that it is seen in, from that of the tree's
/// root (the outermost) to its own (the innermost): one in a tree that makes no pid namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImagePids {
    outermost: ImagePid,
    /// From the outside to the inside.
    nested: Vec<ImagePid>,
}

impl ImagePids {
    /// A task in the namespace of the tree's root.
    #[must_use]
    pub const fn single(pid: ImagePid) -> Self {
        Self { outermost: pid, nested: Vec::new() }
    }

    /// From numbers in the order of `NSpid` in /proc/PID/status, the outermost first; `None` of none.
    #[must_use]
    pub fn from_outermost(levels: impl IntoIterator<Item = ImagePid>) -> Option<Self> {
        let mut levels = levels.into_iter();
        Some(Self { outermost: levels.next()?, nested: levels.collect() })
    }

    /// The number in the namespace of the tree's root, by which the images name the task.
    #[must_use]
    pub const fn outermost(&self) -> ImagePid {
        self.outermost
    }

    /// The number in the task's own namespace: what it gets from getpid(2) or gettid(2).
    #[must_use]
    pub fn innermost(&self) -> ImagePid {
        self.nested.last().copied().unwrap_or(self.outermost)
    }

    /// How many namespaces that of the task is below that of the tree's root.
    #[must_use]
    pub const fn depth(&self) -> usize {
        self.nested.len()
    }

    /// The number in the namespace that is so many below that of the tree's root; `None` if it is not seen there.
    #[must_use]
    pub fn at(&self, depth: usize) -> Option<ImagePid> {
        match depth.checked_sub(1) {
            None => Some(self.outermost),
            Some(nested) => self.nested.get(nested).copied(),
        }
    }

    /// All of them, the innermost first: the order of `set_tid` of clone3(2).
    pub fn from_innermost(&self) -> impl Iterator<Item = ImagePid> {
        self.nested.iter().rev().copied().chain([self.outermost])
    }
}

impl From<ImagePid> for ImagePids {
    fn from(pid: ImagePid) -> Self {
        Self::single(pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(number: i32) -> ImagePid {
        ImagePid::new(number).unwrap()
    }

    #[test]
    fn only_positive_numbers_are_numbers_of_tasks() {
        assert_eq!(HostPid::new(7).map(HostPid::get), Some(7));
        assert_eq!(HostPid::try_from(7_u32), Ok(HostPid::new(7).unwrap()));
        assert_eq!(ImagePid::new(i32::MAX).map(ImagePid::unsigned), Some(0x7fff_ffff));
        for number in [0, -1, i32::MIN] {
            assert_eq!(HostPid::new(number), None);
            assert_eq!(ImagePid::try_from(number), Err(NoPid));
        }
        for number in [0, 1 << 31, u32::MAX] {
            assert_eq!(ImagePid::try_from(number), Err(NoPid));
        }
        for text in ["0", "-7", "2147483648", "x", ""] {
            assert_eq!(text.parse::<HostPid>(), Err(NoPid));
        }
        assert_eq!("7".parse(), Ok(HostPid::new(7).unwrap()));
    }

    #[test]
    fn they_read_as_numbers_and_take_no_more_room() {
        let pid = HostPid::new(41).unwrap();
        assert_eq!((pid.to_string(), format!("{pid:?}")), ("41".into(), "HostPid(41)".into()));
        assert_eq!(format!("{pid:>4}"), "  41");
        assert_eq!(size_of::<Option<HostPid>>(), size_of::<i32>());
        assert!(HostPid::own().get() > 0);
    }

    #[test]
    fn levels_are_told_from_both_ends() {
        let one = ImagePids::single(image(41));
        assert_eq!((one.outermost(), one.innermost()), (image(41), image(41)));
        let deep = ImagePids::from_outermost([image(41), image(7), image(1)]).unwrap();
        assert_eq!((deep.outermost(), deep.innermost()), (image(41), image(1)));
        let order: Vec<_> = deep.from_innermost().collect();
        assert_eq!(order, [image(1), image(7), image(41)]);
        assert_eq!((deep.depth(), one.depth()), (2, 0));
        let at: Vec<_> = (0..4).map(|depth| deep.at(depth).map(ImagePid::get)).collect();
        assert_eq!(at, [Some(41), Some(7), Some(1), None]);
        assert_eq!(ImagePids::from_outermost([]), None);
    }
}
