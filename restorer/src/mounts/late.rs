//! Mounts that only the first task can make.
//!
//! A file system of kind `proc` shows the pid namespace of who makes it, and before the tree's first task that has nobody. An `autofs`
//! asks who is in it ([`super::automounts`]). So these, and all that is mounted below them, are left to that task. What does not come
//! from them is made beforehand.
//!
//! One that shows a pid namespace below that of the tree's root is made and placed by the first process of that, with all that is
//! mounted below it: the mounts of those above it are placed by then, and it has their descriptors.
//!
//! So are terminals that are mounted elsewhere, as engines mount one on `/dev/console`: there is none in a new `devpts`
//! before the tree's files are opened.

mod groups;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use ids::ImagePid;
use images::file_systems;
use images::messages::MntEntry;
use kernel::descriptors::duplicate_from;
use kernel::mounts::{self, Change, Propagation};
use kernel::namespaces::enter_mounts;
use kernel::paths::{Links, find};

use super::automounts::Automounts;
use super::failed::failed;
use super::flags;
use super::joining::Joining;
use super::last_change::last_change;
use super::lateness::{self, is_terminal, knows_pids};
use super::plan::{Index, Mount, Plan, Source};
use super::seats::Seats;
use crate::error::Error;
use groups::Groups;

/// What is left to do.
#[derive(Debug, Default)]
pub(crate) struct Late {
    /// In its order.
    steps: Vec<Step>,
    /// In a user namespace: the mount namespace in which file systems are made. The kernel makes a `proc` for nobody but the
    /// machine's root where there is none to be seen ("too revealing").
    sight: Option<OwnedFd>,
    /// Mounts that join their groups when all is placed, which would spread otherwise.
    joining: Vec<Joining>,
    /// Of what the steps make.
    groups: Groups,
    /// The namespace of the groups' seats.
    yard: Option<OwnedFd>,
    /// What has been placed, for those below who do the rest.
    placed: RefCell<BTreeMap<usize, OwnedFd>>,
    automounts: Automounts,
    /// Descriptors from this one on are out of the tasks' way.
    base: RawFd,
}

/// A mount.
#[derive(Debug)]
struct Step {
    mount: Mount,
    /// The pid namespace whose first process does it, if that is not the tree's.
    shown: Option<u32>,
    made: How,
    on: On,
    below: PathBuf,
    change: Change,
}

/// How it is made.
#[derive(Debug)]
enum How {
    New(Box<MntEntry>),
    /// Of the mount of an earlier step, from its root.
    PartOf(usize, PathBuf),
    /// Of a mount that is there, in this mount namespace.
    Terminal(OwnedFd, u32, PathBuf),
    There(OwnedFd),
}

/// What it is placed on.
#[derive(Debug)]
enum On {
    /// The mount of another step.
    Step(usize),
    There(OwnedFd),
}

impl Late {
    /// What has to be done for the mounts `late`, where `copies` are those that have been made.
    pub(super) fn plan(
        plan: &Plan,
        late: &BTreeSet<Index>,
        copies: &mut BTreeMap<Index, OwnedFd>,
        seats: &Seats,
        (sight, automounts): (Option<OwnedFd>, Automounts),
    ) -> Result<Self, Error> {
        let mut steps = Vec::new();
        let mut places: BTreeMap<Index, usize> = BTreeMap::new();
        // By their numbers they are in the order of placing, those of the tree's own namespace first.
        for index in late {
            let mount = &plan.mounts[*index];
            let unknown =
                || failed(mount, "find what is needed for")(io::ErrorKind::NotFound.into());
            let made = match &mount.source {
                Source::New(_) if knows_pids(plan, mount) => {
                    How::New(Box::new(mount.entry.clone()))
                }
                Source::Part(giver, below) if knows_pids(plan, mount) => {
                    How::PartOf(*places.get(giver).ok_or_else(unknown)?, below.clone())
                }
                Source::Part(giver, below) if is_terminal(plan, mount) => {
                    let there = copies.get(giver).ok_or_else(unknown)?;
                    let there = there.try_clone().map_err(failed(mount, "hold the origin of"))?;
                    How::Terminal(there, plan.mounts[*giver].namespace, below.clone())
                }
                _ => How::There(copies.remove(index).ok_or_else(unknown)?),
            };
            let (on, below) = mount.on.clone().ok_or_else(unknown)?;
            let on = match places.get(&on) {
                Some(step) => On::Step(*step),
                None => {
                    let there = copies.get(&on).ok_or_else(unknown)?;
                    On::There(there.try_clone().map_err(failed(mount, "hold the parent of"))?)
                }
            };
            // Whoever makes what it is mounted on, or further down.
            let above = match on {
                On::Step(step) => steps.get(step).and_then(|step: &Step| step.shown),
                On::There(_) => None,
            };
            let shown = lateness::shown(plan, mount).or(above);
            places.insert(*index, steps.len());
            let mut change = last_change(mount);
            // It is shared as what it is placed on is, if that is of the outside.
            if !mount.shares_outside {
                change.propagation = change.propagation.or(Some(Propagation::Private));
            }
            steps.push(Step { mount: mount.clone(), shown, made, on, below, change });
        }
        let groups = Groups::plan(plan, &places, seats)?;
        Ok(Self { steps, groups, sight, automounts, ..Self::default() })
    }

    /// Has a mount join its group in the end.
    pub(super) fn join(&mut self, joining: Joining) {
        self.joining.push(joining);
    }

    /// Keeps the namespace of the groups' seats, if it is needed.
    pub(super) fn hold(&mut self, yard: OwnedFd) {
        let is_needed = !self.joining.is_empty() || self.groups.have_seats();
        self.yard = Some(yard).filter(|_| is_needed);
    }

    /// Moves the descriptors to numbers from `base` on.
    pub(crate) fn keep(&mut self, base: RawFd) -> Result<(), Error> {
        for step in &mut self.steps {
            let made = match &mut step.made {
                How::There(fd) | How::Terminal(fd, ..) => Some(fd),
                How::New(_) | How::PartOf(..) => None,
            };
            let on = match &mut step.on {
                On::There(fd) => Some(fd),
                On::Step(_) => None,
            };
            for fd in made.into_iter().chain(on) {
                *fd =
                    duplicate_from(&*fd, base).map_err(Error::kernel("duplicate a descriptor"))?;
            }
        }
        self.base = base;
        self.groups.keep(base)?;
        self.automounts.keep(base)?;
        let joining = self.joining.iter_mut().flat_map(Joining::descriptors);
        for fd in joining.chain(&mut self.yard).chain(&mut self.sight) {
            *fd = duplicate_from(&*fd, base).map_err(Error::kernel("duplicate a descriptor"))?;
        }
        Ok(())
    }

    /// In the first task of a pid namespace, or of the tree: makes and places what is left to it; `enter` moves to a mount
    /// namespace, by its number.
    pub(crate) fn place(
        &self,
        shown: Option<u32>,
        enter: impl Fn(u32) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let own = |nth: &usize| self.steps[*nth].shown == shown;
        let steps: Vec<usize> = (0..self.steps.len()).filter(own).collect();
        if steps.is_empty() && shown.is_some() {
            return Ok(());
        }
        let mut made = self.make_in_sight(&steps)?;
        // What is in another namespace is not copied.
        for &nth in &steps {
            let step = &self.steps[nth];
            if let How::Terminal(of, namespace, below) = &step.made {
                enter(*namespace)?;
                made.insert(nth, part(of, below).map_err(failed(&step.mount, "make"))?);
            }
        }
        let mut here = None;
        for &nth in &steps {
            let step = &self.steps[nth];
            if here.replace(step.mount.namespace) != Some(step.mount.namespace) {
                enter(step.mount.namespace)?;
            }
            let there = step.place(&self.placed.borrow(), made.remove(&nth), &self.automounts);
            let there = there.map_err(failed(&step.mount, "place"))?;
            // What is in another namespace is not copied: parts are, as long as this is the place of the whole.
            for &later in steps.iter().filter(|later| **later > nth) {
                let other = &self.steps[later];
                let How::PartOf(whole, below) = &other.made else { continue };
                if *whole == nth {
                    let copy = part(&there, below).map_err(failed(&other.mount, "make"))?;
                    made.insert(later, copy);
                }
            }
            let there = duplicate_from(&there, self.base)
                .map_err(Error::kernel("duplicate a descriptor"))?;
            self.placed.borrow_mut().insert(nth, there);
        }
        if shown.is_none() {
            self.joining.iter().try_for_each(Joining::join)?;
        }
        let placed = self.placed.borrow();
        for (&nth, mount) in placed.iter().filter(|(nth, _)| own(nth)) {
            let step = &self.steps[nth];
            if here.replace(step.mount.namespace) != Some(step.mount.namespace) {
                enter(step.mount.namespace)?;
            }
            mounts::change(mount, &step.change).map_err(failed(&step.mount, "set the flags of"))?;
        }
        if shown.is_some() {
            return Ok(());
        }
        self.groups.make(&placed, |step| {
            let mount = &self.steps[step].mount;
            enter(mount.namespace)?;
            Ok(mount)
        })
    }

    /// In a task that has its descriptors: has the automounts ask it that did.
    pub(crate) fn give_pipes(&self, pid: ImagePid) -> Result<(), Error> {
        self.automounts.give_pipes(pid)
    }

    /// Makes the file systems of steps in a user namespace, by their places in the order.
    fn make_in_sight(&self, steps: &[usize]) -> Result<BTreeMap<usize, OwnedFd>, Error> {
        let Some(sight) = self.sight.as_ref().filter(|_| !steps.is_empty()) else {
            return Ok(BTreeMap::new());
        };
        enter_mounts(sight).map_err(Error::kernel("enter a mount namespace"))?;
        let mut made = BTreeMap::new();
        for &nth in steps {
            let step = &self.steps[nth];
            if let How::New(entry) = &step.made {
                made.insert(
                    nth,
                    new(entry, &self.automounts).map_err(failed(&step.mount, "make"))?,
                );
            }
        }
        Ok(made)
    }
}

/// Makes a file system of the caller's pid namespace.
fn new(entry: &MntEntry, automounts: &Automounts) -> io::Result<OwnedFd> {
    match file_systems::kind(entry.fstype) {
        Some("autofs") => automounts.make(entry),
        _ => mounts::make(b"proc", &entry.source, flags::with_read_only(entry)),
    }
}

impl Step {
    /// Places it; `made` is what has been made for it.
    fn place(
        &self,
        placed: &BTreeMap<usize, OwnedFd>,
        made: Option<OwnedFd>,
        automounts: &Automounts,
    ) -> io::Result<OwnedFd> {
        let of_step = |step: usize| placed.get(&step).ok_or(io::ErrorKind::NotFound);
        let made = match &self.made {
            How::New(entry) => made.map_or_else(|| new(entry, automounts), Ok)?,
            How::PartOf(..) | How::Terminal(..) => made.ok_or(io::ErrorKind::NotFound)?,
            How::There(fd) => fd.try_clone()?,
        };
        let on: BorrowedFd<'_> = match &self.on {
            On::Step(step) => of_step(*step)?.as_fd(),
            On::There(fd) => fd.as_fd(),
        };
        mounts::attach(&made, find(on, &self.below, Links::Refused)?)?;
        Ok(made)
    }
}

/// A copy of a mount from `below` on, which is empty for all of it: that may be a file.
pub(super) fn part(mount: &OwnedFd, below: &Path) -> io::Result<OwnedFd> {
    match below.as_os_str().is_empty() {
        true => mounts::copy(mount, Path::new(""), false),
        false => mounts::copy(find(mount, below, Links::Refused)?, Path::new(""), false),
    }
}
