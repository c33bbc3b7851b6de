//! What kinds of open file have beside the entries of files, in images of their own, and what they have made
//! of it.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;
use std::io;

use super::keep::Keep;

/// What one kind has.
pub(super) trait Part: Any + Debug {
    /// Moves descriptors out of the way of the tasks.
    fn keep(&mut self, _keep: Keep) -> io::Result<()> {
        Ok(())
    }
}

/// What all of them have: one value of each type.
#[derive(Debug, Default)]
pub(super) struct Beside(HashMap<TypeId, Box<dyn Part>>);

impl Beside {
    /// What is there as a `T`.
    pub(super) fn get<T: Part>(&self) -> Option<&T> {
        let part: &dyn Any = &**self.0.get(&TypeId::of::<T>())?;
        part.downcast_ref()
    }

    /// What is there as a `T`, to be added to.
    pub(super) fn of<T: Part + Default>(&mut self) -> &mut T {
        let part = self.0.entry(TypeId::of::<T>()).or_insert_with(|| Box::new(T::default()));
        let part: &mut dyn Any = &mut **part;
        match part.downcast_mut() {
            Some(part) => part,
            None => unreachable!("a value is kept by its own type"),
        }
    }

    /// Moves descriptors out of the way of the tasks.
    pub(super) fn keep(&mut self, keep: Keep) -> io::Result<()> {
        self.0.values_mut().try_for_each(|part| part.keep(keep))
    }
}
