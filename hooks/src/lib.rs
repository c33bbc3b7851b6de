//! CRIU's notification points: where others are told of a dump or a restore, and may refuse it.
//!
//! Container engines build on which points there are, in which order they come, whether the tree stands
//! still meanwhile, and what a refusal means. All of that is one table, [`Point::contract`], which the
//! engines follow through [`call`] alone. Action scripts and notifications of the RPC hang on the points. A
//! new user implements [`Hooks`]; a new point is a value of [`Point`], a line of the table, and one call in
//! the engine, and CRIU's clients are told of it only if it is one of [`Point::CRIUS`].

use std::error::Error;
use std::os::fd::BorrowedFd;
use std::path::Path;

use ids::HostPid;

/// A point of a dump or restore, by CRIU's names (4.2). First those of a dump, then those of a restore,
/// in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// Before anything is looked at.
    PreDump,
    /// Before the network of the tree is locked.
    NetworkLock,
    /// Before open files are read that somebody else is to vouch for.
    QueryExtFiles,
    /// Before pages are served to a lazy restore.
    StatusReady,
    /// The images are whole, and nothing has been done to the tree.
    PostDump,
    /// Before a stream of images begins.
    PreStream,
    /// Before anything is read but the inventory of the images, and where the memory of the root began.
    PreRestore,
    /// The namespaces of the root are there, with a process that stands for it, and nothing has been restored in them.
    SetupNamespaces,
    /// The namespaces are filled.
    PostSetupNamespaces,
    /// The master of a terminal is handed out that no task has.
    OrphanPtsMaster,
    /// The tree is built, and has not run yet.
    PostRestore,
    /// Before the network of the tree is unlocked, after a dump or a restore.
    NetworkUnlock,
    /// Before the tree is let go.
    PreResume,
    /// The tree runs.
    PostResume,
}

/// How the tree is while a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tree {
    /// It runs.
    Running,
    /// It stands still, for as long as the hook takes.
    Frozen,
    /// It is not there.
    Absent,
    /// It is there, wholly or in part, and has not run yet.
    Built,
}

/// What the failure of a hook does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The operation ends: a dumped tree runs on, of a restored one nothing is left.
    Ends,
    /// It is logged.
    Logged,
}

/// What CRIU has promised of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contract {
    /// How the tree is.
    pub tree: Tree,
    /// What a failure does.
    pub on_failure: OnFailure,
}

impl Point {
    /// All of them, in order: those of CRIU's, as long as there are no others.
    pub const ALL: [Self; 14] = Self::CRIUS;

    /// Those of CRIU's, in order. Action scripts and clients of the RPC are told of these alone: they may take what they
    /// do not know for a mistake, and refuse it.
    pub const CRIUS: [Self; 14] = [
        Self::PreDump,
        Self::NetworkLock,
        Self::QueryExtFiles,
        Self::StatusReady,
        Self::PostDump,
        Self::PreStream,
        Self::PreRestore,
        Self::SetupNamespaces,
        Self::PostSetupNamespaces,
        Self::OrphanPtsMaster,
        Self::PostRestore,
        Self::NetworkUnlock,
        Self::PreResume,
        Self::PostResume,
    ];

    /// Whether it is one of CRIU's.
    #[must_use]
    pub fn is_crius(self) -> bool {
        Self::CRIUS.contains(&self)
    }

    /// As CRIU names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PreDump => "pre-dump",
            Self::NetworkLock => "network-lock",
            Self::QueryExtFiles => "query-ext-files",
            Self::StatusReady => "status-ready",
            Self::PostDump => "post-dump",
            Self::PreStream => "pre-stream",
            Self::PreRestore => "pre-restore",
            Self::SetupNamespaces => "setup-namespaces",
            Self::PostSetupNamespaces => "post-setup-namespaces",
            Self::OrphanPtsMaster => "orphan-pts-master",
            Self::PostRestore => "post-restore",
            Self::NetworkUnlock => "network-unlock",
            Self::PreResume => "pre-resume",
            Self::PostResume => "post-resume",
        }
    }

    /// What CRIU has promised of it; `docs/design.md` shows the table.
    #[must_use]
    pub const fn contract(self) -> Contract {
        use OnFailure::{Ends, Logged};
        use Tree::{Absent, Built, Frozen, Running};
        let (tree, on_failure) = match self {
            Self::PreDump => (Running, Ends),
            Self::NetworkLock | Self::QueryExtFiles | Self::StatusReady | Self::PostDump => {
                (Frozen, Ends)
            }
            Self::PreStream | Self::PreRestore | Self::SetupNamespaces => (Absent, Ends),
            Self::PostSetupNamespaces | Self::OrphanPtsMaster | Self::PostRestore => (Built, Ends),
            // Frozen after a dump, built after a restore: it does not run in either case.
            Self::NetworkUnlock | Self::PreResume => (Built, Logged),
            Self::PostResume => (Running, Logged),
        };
        Contract { tree, on_failure }
    }
}

/// What a hook is told.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The point.
    pub point: Point,
    /// The root of the tree as the caller numbers it, once that is known.
    pub root: Option<HostPid>,
    /// The directory of the images. They are whole from `post-dump` on.
    pub images: &'a Path,
    /// What is handed over: at `orphan-pts-master` the master.
    pub descriptor: Option<BorrowedFd<'a>>,
}

impl<'a> Moment<'a> {
    /// At a point at which nothing is handed over.
    #[must_use]
    pub const fn of(point: Point, root: Option<HostPid>, images: &'a Path) -> Self {
        Self { point, root, images, descriptor: None }
    }
}

/// Why a hook refused.
pub type Refusal = Box<dyn Error + Send + Sync>;

/// Who hangs on the points.
pub trait Hooks: Send {
    /// Whether somebody hangs on a point. Where nobody does, nothing is called.
    fn hang_on(&self, point: Point) -> bool;

    /// Whether a tree that is to run on stands still until `post-dump`, for somebody who does something with it there.
    /// Else it is let go before the images are written, and who hangs on the point hears that they are whole.
    fn keep_frozen(&self) -> bool {
        self.hang_on(Point::PostDump)
    }

    /// Is called at a point on which somebody hangs, by a thread that the dump or restore cannot go on
    /// without; in a restore, by the only thread of its process.
    ///
    /// # Errors
    /// What that does, the point's [`Contract`] says.
    fn at(&mut self, moment: Moment<'_>) -> Result<(), Refusal>;
}

/// A hook refused, and the operation has ended for it.
#[derive(Debug, thiserror::Error)]
#[error("hook at {}", point.name())]
pub struct Failed {
    /// Where.
    pub point: Point,
    /// Why.
    #[source]
    pub source: Refusal,
}

/// Calls who hangs on a point, as the contract of that says.
///
/// # Errors
/// A refusal that ends the operation. Any other is logged.
pub fn call(hooks: &mut dyn Hooks, moment: Moment<'_>) -> Result<(), Failed> {
    let point = moment.point;
    if !hooks.hang_on(point) {
        return Ok(());
    }
    match (hooks.at(moment), point.contract().on_failure) {
        (Err(source), OnFailure::Ends) => Err(Failed { point, source }),
        (Err(source), OnFailure::Logged) => {
            let name = point.name();
            tracing::warn!("hook at {name}: {source}; it is too late for that to change anything");
            Ok(())
        }
        (Ok(()), _) => Ok(()),
    }
}

/// Two who hang on the points. The first is asked first, and the second only if that one agrees.
pub struct Both<'a>(pub &'a mut dyn Hooks, pub &'a mut dyn Hooks);

impl Hooks for Both<'_> {
    fn hang_on(&self, point: Point) -> bool {
        self.0.hang_on(point) || self.1.hang_on(point)
    }

    fn keep_frozen(&self) -> bool {
        self.0.keep_frozen() || self.1.keep_frozen()
    }

    fn at(&mut self, moment: Moment<'_>) -> Result<(), Refusal> {
        for hooks in [&mut *self.0, &mut *self.1] {
            if hooks.hang_on(moment.point) {
                hooks.at(moment)?;
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Both<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Both")
    }
}

/// Nobody hangs on any point.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Hooks for Nobody {
    fn hang_on(&self, _: Point) -> bool {
        false
    }

    fn at(&mut self, _: Moment<'_>) -> Result<(), Refusal> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refuses everywhere, but hangs on one point only.
    struct Refuses(Point);

    impl Hooks for Refuses {
        fn hang_on(&self, point: Point) -> bool {
            point == self.0
        }

        fn at(&mut self, moment: Moment<'_>) -> Result<(), Refusal> {
            assert_eq!(moment.point, self.0);
            Err("no".into())
        }
    }

    #[test]
    fn a_refusal_means_what_the_table_says() {
        for point in Point::ALL {
            let images = Path::new("/images");
            let called = |at| call(&mut Refuses(point), Moment::of(at, None, images));
            let ends = point.contract().on_failure == OnFailure::Ends;
            assert_eq!(called(point).is_err(), ends, "{}", point.name());
            let others = Point::ALL.into_iter().filter(|other| *other != point);
            assert!(others.map(called).all(|called| called.is_ok()));
        }
    }

    #[test]
    fn of_two_the_second_is_asked_when_the_first_has_agreed() {
        let images = Path::new("/images");
        let moment = |point| Moment::of(point, None, images);
        let (mut first, mut second) = (Refuses(Point::PreDump), Refuses(Point::PostDump));
        let mut both = Both(&mut first, &mut second);
        assert!(both.hang_on(Point::PreDump) && both.hang_on(Point::PostDump));
        assert!(!both.hang_on(Point::PreResume));
        assert!(both.keep_frozen());
        assert!(!Both(&mut Nobody, &mut Refuses(Point::PreDump)).keep_frozen());
        assert!(
            both.at(moment(Point::PreDump)).is_err() && both.at(moment(Point::PostDump)).is_err()
        );
        assert!(
            Both(&mut Nobody, &mut Refuses(Point::PreDump)).at(moment(Point::PreDump)).is_err()
        );
    }

    /// What scripts and clients are told of is what CRIU 4.2 tells them.
    #[test]
    fn clients_of_criu_are_told_of_its_points_alone() {
        let names = "pre-dump network-lock query-ext-files status-ready post-dump pre-stream pre-restore \
                     setup-namespaces post-setup-namespaces orphan-pts-master post-restore network-unlock \
                     pre-resume post-resume";
        let told = Point::ALL.into_iter().filter(|point| point.is_crius());
        assert_eq!(told.map(Point::name).collect::<Vec<_>>().join(" "), names);
    }

    /// The table of the design is this one.
    #[test]
    fn the_design_shows_the_table() {
        let design = include_str!("../../docs/design.md");
        let mut rows = design.lines().filter(|line| line.starts_with("| `"));
        for point in Point::ALL {
            let row = rows.find(|row| row.starts_with(&format!("| `{}`", point.name())));
            let row = row.unwrap_or_else(|| panic!("{} is missing, or out of order", point.name()));
            let Contract { tree, on_failure } = point.contract();
            let tree = match tree {
                Tree::Running => "runs",
                Tree::Frozen => "frozen",
                Tree::Absent => "not there",
                Tree::Built => "built",
            };
            let failure = if on_failure == OnFailure::Ends { "ends it" } else { "logged" };
            assert!(row.contains(&format!("| {tree} | {failure} |")), "{row}");
        }
    }
}
