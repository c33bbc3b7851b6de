//! The control group by which a tree is stopped, together with ptrace.
//!
//! To freeze a group is one write, and all of its tasks begin to stop. From there the tracer takes them over: what a dump
//! needs of a task (its registers, calls that it makes) can only be had of one that has stopped for a tracer. So a
//! group that ran is frozen only while its tasks are told to stop; then the tracer alone holds them, whose death
//! lets them go.
//!
//! A group that was frozen before (an engine has paused its container) stays so for whoever did that:
//!
//! | | version 2 | version 1 |
//! |---|---|---|
//! | its tasks stop for a tracer | while it is frozen | when it has been thawed, at once |
//! | one that a signal has stopped is seized | while it is frozen | when it has been thawed: before, the kernel makes its tracer wait, and nothing ends that |
//! | code is run in its tasks | it is thawed first | |
//! | the tasks are let go | it is frozen again first, if it was thawed | the same |
//! | the tasks are killed | it is thawed | it stays thawed |
//!
//! Both a freeze and such a thaw are kept by the kernel, so each is written down first ([`Undo`]).

use std::path::{Path, PathBuf};

use kernel::cgroup::{Cgroup, Version};

use crate::Error;
use crate::undo::{Deed, Undo};

/// A control group by which a tree is to be stopped.
#[derive(Clone, Debug)]
pub struct FreezeGroup {
    cgroup: Cgroup,
    /// Where deeds are written down.
    undo: PathBuf,
}

impl FreezeGroup {
    /// The group of a directory.
    ///
    /// # Errors
    /// If it is none that can be frozen.
    pub fn of_directory(directory: &Path, undo: &Path) -> Result<Self, Error> {
        Ok(Self { cgroup: Cgroup::of_directory(directory)?, undo: undo.to_owned() })
    }

    /// Writes down what is about to be done to the group.
    pub(crate) fn prepare(&self) -> Result<StoppedGroup, Error> {
        let was_frozen = self.cgroup.freeze_is_asked()?;
        let mut group = StoppedGroup { group: self.clone(), was_frozen, thawed: false, undo: None };
        if !was_frozen {
            group.write_down(Deed::freeze_of(&self.cgroup)?)?;
        } else if self.cgroup.version() == Version::V1 {
            group.write_down(Deed::thaw_of(&self.cgroup)?)?;
        }
        Ok(group)
    }
}

/// A group whose tasks are being stopped, or are held by their tracer. Dropped, it is as it was before.
#[derive(Debug)]
pub(crate) struct StoppedGroup {
    group: FreezeGroup,
    was_frozen: bool,
    thawed: bool,
    undo: Option<Undo>,
}

impl StoppedGroup {
    fn write_down(&mut self, deed: Deed) -> Result<(), Error> {
        self.undo = Some(Undo::before(&self.group.undo, deed)?);
        Ok(())
    }

    /// Whether somebody had frozen it before.
    pub(crate) const fn was_frozen(&self) -> bool {
        self.was_frozen
    }

    /// Whether it is frozen, and all of it has to be thawed for the tracer's stops.
    pub(crate) fn will_be_thawed(&self) -> bool {
        self.was_frozen && !self.thawed && self.group.cgroup.version() == Version::V1
    }

    /// Begins to stop all tasks.
    pub(crate) fn freeze(&self) -> Result<(), Error> {
        match self.was_frozen {
            true => Ok(()),
            false => Ok(self.group.cgroup.begin_freeze()?),
        }
    }

    /// All have been told to stop for the tracer: from here on it alone holds them, where it can.
    pub(crate) fn leave_to_tracer(&mut self) -> Result<(), Error> {
        if !self.was_frozen || self.group.cgroup.version() == Version::V1 {
            self.group.cgroup.thaw()?;
            self.thawed = true;
        }
        Ok(())
    }

    /// Thaws a group in which code is to be run. (Its tasks stay stopped for their tracer.)
    pub(crate) fn let_code_run(&mut self) -> Result<(), Error> {
        if self.thawed {
            return Ok(());
        }
        self.write_down(Deed::thaw_of(&self.group.cgroup)?)?;
        self.group.cgroup.thaw()?;
        self.thawed = true;
        Ok(())
    }

    /// Its tasks have been killed: they end, and a restore may have others go into it.
    pub(crate) fn leave_thawed(mut self) {
        if !self.thawed
            && let Err(error) = self.group.cgroup.thaw()
        {
            tracing::warn!(%error, "a control group stays frozen whose tasks have been killed");
        }
        if let Some(undo) = self.undo.take() {
            undo.keep();
        }
    }
}

impl Drop for StoppedGroup {
    fn drop(&mut self) {
        if let Some(undo) = self.undo.take_if(|_| self.thawed && !self.was_frozen) {
            // It runs already.
            undo.keep();
        }
    }
}
