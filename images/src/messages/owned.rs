//! User and group ids in messages.

/// What an id without a number on the other side becomes. As an owner it means "leave it" to CRIU and to chown(2), which
/// gives the thing to whoever makes it: of a file with contents that is a right nobody had
/// ([`owner_is_known`](crate::id_map::owner_is_known)).
pub const NOBODY: u32 = u32::MAX;

/// Whose id it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Id {
    /// A user's.
    User,
    /// A group's.
    Group,
}

/// Has user and group ids.
pub trait Owned {
    /// Lets each of them be changed.
    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32));
}

/// Of messages whose ids are `uid` and `gid`.
macro_rules! owned {
    ($($message:ident)*) => {$(
        impl super::owned::Owned for $message {
            fn each_id(&mut self, change: &mut dyn FnMut(super::owned::Id, &mut u32)) {
                change(super::owned::Id::User, &mut self.uid);
                change(super::owned::Id::Group, &mut self.gid);
            }
        }
    )*};
}
pub(super) use owned;
