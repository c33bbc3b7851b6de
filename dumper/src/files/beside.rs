//! What kinds of open file keep of a tree beside the entries of its files, for images of their own.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use crate::segment::{Key, Segment};

/// What one kind keeps.
pub(super) trait Part: Any + Debug + Send {
    /// Takes out memory that files hold, it is read with that of the tasks.
    fn take_memory(&mut self) -> BTreeMap<Key, Segment> {
        BTreeMap::new()
    }
}

/// What all of them keep: one value of each type.
#[derive(Debug, Default)]
pub(super) struct Beside(HashMap<TypeId, Box<dyn Part>>);

impl Beside {
    /// What is kept as a `T`.
    pub(super) fn get<T: Part>(&self) -> Option<&T> {
        let part: &dyn Any = &**self.0.get(&TypeId::of::<T>())?;
        part.downcast_ref()
    }

    /// What is kept as a `T`, to be added to.
    pub(super) fn of<T: Part + Default>(&mut self) -> &mut T {
        let part = self.0.entry(TypeId::of::<T>()).or_insert_with(|| Box::new(T::default()));
        let part: &mut dyn Any = &mut **part;
        match part.downcast_mut() {
            Some(part) => part,
            None => unreachable!("a value is kept by its own type"),
        }
    }

    /// Memory that files hold.
    pub(super) fn take_memory(&mut self) -> BTreeMap<Key, Segment> {
        self.0.values_mut().flat_map(|part| part.take_memory()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct One(u32);
    #[derive(Debug, Default)]
    struct Other;
    impl Part for One {}
    impl Part for Other {}

    #[test]
    fn each_type_has_a_value_of_its_own() {
        let mut beside = Beside::default();
        assert_eq!(beside.get::<One>(), None);
        beside.of::<One>().0 = 3;
        beside.of::<Other>();
        assert_eq!(beside.get::<One>(), Some(&One(3)));
    }
}
