//! Births where nobody may choose all numbers: what a task asks a *registrar*, a process in the pid namespace that a number is of,
//! which has the right that the task lacks. It tells the kernel which number to give out next there.

/// What is asked, over a socket that keeps messages apart: one of the two words below, and the number that it is about. The answer is
/// an [`Answer`].
pub type Question = [i32; 2];

/// An error number, or 0.
pub type Answer = i32;

/// The next birth is to have this number.
pub const NEXT: i32 = 1;

/// The birth is over, whatever came of it. The answer is 0 if the number is that of the task that was to have it.
pub const BORN: i32 = 2;

/// With what a task exits that has not got its numbers, but perhaps those of another one.
pub const NOT_WANTED: i32 = 93;
