//! What the commander does at the words of the holder, while that waits for an answer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use api::Labels;
use hooks::{Failed, Hooks, Moment, Point};
use ids::HostPid;

use crate::cgroups;
use crate::error::Error;
use crate::files::Keepers;
use crate::holder::Stage;
use crate::network::Network;
use crate::options::RestoreReport;
use crate::record::Record;
use crate::subreaper::Subreaper;
use crate::users::LimitsOfMade;

/// What is done at each word, with whom.
pub(super) struct Words<'a> {
    pub(super) hooks: &'a mut dyn Hooks,
    /// Where the images are.
    pub(super) images: &'a Path,
    /// The root, if it was made.
    pub(super) root: Option<HostPid>,
    /// Masters of terminals outside the tree, for whoever asked for the restore.
    pub(super) orphans: Vec<OwnedFd>,
    pub(super) network: Network,
    /// The tree has a network namespace of its own.
    pub(super) own_network: bool,
    pub(super) groups: cgroups::Plan,
    pub(super) keepers: Option<Keepers>,
    /// Limits of user namespaces.
    pub(super) limits: Vec<LimitsOfMade>,
    /// Where it is noted that the tree lives.
    pub(super) records: Option<(&'a Path, &'a Labels)>,
    pub(super) begun_at: Instant,
    pub(super) born_at: Instant,
}

impl Words<'_> {
    pub(super) fn tell(
        &mut self,
        point: Point,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), Failed> {
        let moment = Moment { descriptor, ..Moment::of(point, self.root, self.images) };
        hooks::call(self.hooks, moment)
    }

    /// The holder is there, and goes on if this succeeds.
    pub(super) fn reached(
        &mut self,
        stage: Stage,
        subreaper: &Subreaper,
        report: &mut RestoreReport,
    ) -> Result<(), Error> {
        let Stage::Built(pids) = stage else {
            return Ok(subreaper.aside(|| self.tell(Point::PostSetupNamespaces, None))?);
        };
        report.births = self.born_at.elapsed();
        self.limits.iter().try_for_each(LimitsOfMade::set)?;
        subreaper.aside(|| self.tell_of_the_tree())?;
        self.network.let_go(&pids)?;
        self.groups.freeze();
        self.keepers = None;
        report.total = self.begun_at.elapsed();
        if let Some((place, labels)) = self.records {
            Record::of(report, self.images, labels).keep(place);
        }
        Ok(())
    }

    fn tell_of_the_tree(&mut self) -> Result<(), Failed> {
        for master in std::mem::take(&mut self.orphans) {
            self.tell(Point::OrphanPtsMaster, Some(master.as_fd()))?;
        }
        self.tell(Point::PostRestore, None)?;
        self.network.unlock();
        if self.own_network {
            self.tell(Point::NetworkUnlock, None)?;
        }
        self.tell(Point::PreResume, None)
    }
}
