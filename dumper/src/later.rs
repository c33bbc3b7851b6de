//! What takes long to give back is given back when nobody waits for it.

use std::ops::{Deref, DerefMut};
use std::sync::mpsc::Sender;

/// A value that is not dropped where it goes out of scope, by an error or a panic, but sent to whoever
/// has the other end. The thread that holds the target uses it: it ends, and the target runs, before
/// the value is dropped.
#[derive(Debug)]
pub(crate) struct Later<T> {
    /// There for as long as this is.
    value: Option<T>,
    to: Sender<T>,
}

impl<T> Later<T> {
    pub(crate) fn new(value: T, to: Sender<T>) -> Self {
        Self { value: Some(value), to }
    }

    /// The value, which is from now on dropped like any other.
    pub(crate) fn take(mut self) -> T {
        let Some(value) = self.value.take() else { unreachable!("nobody else takes it") };
        value
    }
}

impl<T> Drop for Later<T> {
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            // If nobody has the other end any more, it comes back, and is dropped here.
            drop(self.to.send(value));
        }
    }
}

impl<T> Deref for Later<T> {
    type Target = T;

    fn deref(&self) -> &T {
        let Some(value) = &self.value else { unreachable!("it is there until the end") };
        value
    }
}

impl<T> DerefMut for Later<T> {
    fn deref_mut(&mut self) -> &mut T {
        let Some(value) = &mut self.value else { unreachable!("it is there until the end") };
        value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn what_goes_out_of_scope_is_dropped_elsewhere() {
        let (to, others) = channel();
        drop(Later::new(1, to.clone()));
        let panicked = std::thread::spawn({
            let to = to.clone();
            move || {
                let _value = Later::new(2, to);
                panic!("on purpose");
            }
        });
        assert!(panicked.join().is_err());
        let mut taken = Later::new(3, to);
        *taken += 1;
        assert_eq!(taken.take(), 4);
        assert_eq!(others.into_iter().collect::<Vec<_>>(), [1, 2]);
    }
}
