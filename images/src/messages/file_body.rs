//! What the kinds of open file have in common: each says of its member of a [`FileEntry`](super::FileEntry) what it is to all who do not know
//! the kind.

use std::net::SocketAddr;

use super::owned::Id;
use super::parts::FownEntry;

/// The member of a [`FileEntry`](super::FileEntry) that its `type` names.
pub trait FileBody {
    /// Number of the file in the checkpoint.
    fn id(&self) -> u32;

    /// Who is signalled, and the flags (`F_GETFL`); `None` for kinds that nobody is signalled by.
    fn owner(&self) -> Option<(&FownEntry, u32)>;

    /// Who is signalled, to be changed.
    fn owner_mut(&mut self) -> Option<&mut FownEntry>;

    /// Lets each user and group id in it be changed, but not those of who is signalled by it: tasks set these themselves, inside of their
    /// user namespace.
    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32));

    /// The network namespace that it belongs to, if that is told.
    fn network(&self) -> Option<u32> {
        None
    }

    /// The place of that number; `None` for kinds that belong to no network namespace.
    fn network_mut(&mut self) -> Option<&mut Option<u32>> {
        None
    }

    /// The namespace that it stands for: its kind (`CLONE_NEW*`), and the place of its number.
    fn namespace_mut(&mut self) -> Option<(u32, &mut u32)> {
        None
    }

    /// The ends of an established connection, or of those that wait to be accepted: its own, and its peer's.
    fn connections(&self) -> Vec<(SocketAddr, SocketAddr)> {
        Vec::new()
    }

    /// The file that has the path that it was opened by.
    fn path(&self) -> Option<u32> {
        None
    }

    /// The mount, and the path there, of the file that it is bound to.
    fn bound_to(&self) -> Option<(i32, &[u8])> {
        None
    }

    /// Whether the path that it was opened by is another entry with the same id, which is joined to this one.
    fn has_path_apart(&self) -> bool {
        false
    }

    /// What the entry of a mapping of it says of that ([`vma_status::OF_KINDS`](super::vma_status::OF_KINDS)).
    fn mapping_status(&self) -> u32 {
        0
    }
}

impl<T: FileBody + ?Sized> FileBody for Box<T> {
    fn id(&self) -> u32 {
        (**self).id()
    }

    fn owner(&self) -> Option<(&FownEntry, u32)> {
        (**self).owner()
    }

    fn owner_mut(&mut self) -> Option<&mut FownEntry> {
        (**self).owner_mut()
    }

    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32)) {
        (**self).each_id(change);
    }

    fn network(&self) -> Option<u32> {
        (**self).network()
    }

    fn network_mut(&mut self) -> Option<&mut Option<u32>> {
        (**self).network_mut()
    }

    fn namespace_mut(&mut self) -> Option<(u32, &mut u32)> {
        (**self).namespace_mut()
    }

    fn connections(&self) -> Vec<(SocketAddr, SocketAddr)> {
        (**self).connections()
    }

    fn path(&self) -> Option<u32> {
        (**self).path()
    }

    fn bound_to(&self) -> Option<(i32, &[u8])> {
        (**self).bound_to()
    }

    fn has_path_apart(&self) -> bool {
        (**self).has_path_apart()
    }

    fn mapping_status(&self) -> u32 {
        (**self).mapping_status()
    }
}

/// [`FileBody`] of a message that has its number in `id`. The words say what it has: `signals` (`fown` and `flags`) or
/// `signals_nobody`; `belongs_to_nobody` if there are no ids of users and groups in it; `in_network` (`ns_id`). What else
/// there is to say follows, as it stands in the trait.
macro_rules! file_body {
    ($message:ident { $($word:ident)* } $($more:tt)*) => {
        impl super::file_body::FileBody for $message {
            fn id(&self) -> u32 {
                self.id
            }

            $(file_body! { @$word })*
            $($more)*
        }
    };
    (@signals) => {
        fn owner(&self) -> Option<(&super::parts::FownEntry, u32)> {
            Some((&self.fown, self.flags))
        }

        fn owner_mut(&mut self) -> Option<&mut super::parts::FownEntry> {
            Some(&mut self.fown)
        }
    };
    (@signals_nobody) => {
        fn owner(&self) -> Option<(&super::parts::FownEntry, u32)> {
            None
        }

        fn owner_mut(&mut self) -> Option<&mut super::parts::FownEntry> {
            None
        }
    };
    (@belongs_to_nobody) => {
        fn each_id(&mut self, _: &mut dyn FnMut(super::owned::Id, &mut u32)) {}
    };
    (@in_network) => {
        fn network(&self) -> Option<u32> {
            self.ns_id
        }

        fn network_mut(&mut self) -> Option<&mut Option<u32>> {
            Some(&mut self.ns_id)
        }
    };
}
pub(super) use file_body;
