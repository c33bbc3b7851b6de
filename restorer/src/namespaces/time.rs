//! Time namespaces: their clocks go on from what they showed (time_namespaces(7)).

use std::os::fd::OwnedFd;

use images::messages::Timespec;
use images::{Checkpoint, names};
use kernel::clocks::{Clocks, new_time, new_time_inside};
use kernel::user_namespaces::Inside;

use super::{Given, Kind, Making};
use crate::error::Error;
use crate::joined::JOINED_TIME;

/// The kind.
pub(super) const KIND: Kind = Kind { name: "time", load };

/// What the clocks are to show.
#[derive(Debug)]
struct Time(Clocks);

/// One that is there, and that takes the place of all.
#[derive(Debug)]
struct Joined;

fn load(checkpoint: &Checkpoint, number: u32) -> Result<Box<dyn Making>, Error> {
    if number == JOINED_TIME {
        return Ok(Box::new(Joined));
    }
    let image = names::timens(number);
    let missing = || images::Error::Missing { name: image.name().into() };
    let entry = checkpoint.images.read_one(&image)?.ok_or_else(missing)?;
    let clock = |time: Timespec| i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    let clocks = Clocks { monotonic: clock(entry.monotonic), boottime: clock(entry.boottime) };
    Ok(Box::new(Time(clocks)))
}

impl Making for Time {
    fn make(&self, number: u32, _: &Given) -> Result<OwnedFd, Error> {
        new_time(self.0).map_err(Error::kernel(format!("make time namespace {number}")))
    }

    fn make_nested(&self, number: u32, _: &Given, inside: &Inside<'_>) -> Result<OwnedFd, Error> {
        let made = new_time_inside(inside, self.0);
        made.map_err(Error::kernel(format!("make time namespace {number}")))
    }
}

impl Making for Joined {
    fn is_new(&self, _: &Given) -> bool {
        false
    }

    fn make(&self, number: u32, given: &Given) -> Result<OwnedFd, Error> {
        let no_such = || Error::image("the tree", format!("there is no time namespace {number}"));
        let joined = given.time.as_ref().ok_or_else(no_such)?;
        joined.try_clone().map_err(Error::kernel("duplicate the time namespace"))
    }
}
