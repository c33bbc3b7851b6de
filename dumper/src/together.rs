//! Several trees, dumped in one frozen moment: there is an instant at which all of them stand still, and each checkpoint tells of its tree
//! at that instant. So what they share outside of themselves (files, a database, messages by the network) fits all of them.
//!
//! Each tree has the one pipeline of every dump, in a thread of its own. They meet ([`crate::rendezvous`]):
//!
//! | all | before |
//! |---|---|
//! | know their trees, and have copied memory ahead | any brings up to date what it knows |
//! | have done that | any holds connections |
//! | hold connections | any stops its tree |
//! | have stopped their trees | any reads what a tree is |
//! | have read it | any lets go of a tree that is to run on |
//! | have written their images, where nobody sees them | the checkpoints appear, all by one name: whoever is killed leaves all or none |
//! | have appeared | any ends a tree that is to end |
//!
//! If one fails, all do: no tree was harmed, and nothing has appeared. What may pass is tried again, for all of them anew.

use std::thread::scope;
use std::time::{Duration, Instant, SystemTime};

use hooks::Nobody;
use ids::HostPid;
use images::{Destination, Progress};

use crate::denied;
use crate::dump::{Among, Failed, Tries, attempt};
use crate::error::Error;
use crate::options::{DumpOptions, DumpReport};
use crate::rendezvous::{Appear, Moment, OnTheWay, Rendezvous};
use crate::rights;
use crate::threads::with_this_log;

/// So many trees are dumped together at most: each takes a thread, and a share of the memory that pages are copied to.
pub const MOST_TOGETHER: usize = api::TogetherRequest::MOST;

/// One of the trees that are dumped together. Nobody can hang on its dump.
pub struct Member<'m> {
    /// What is asked for. Limits of time count for all: a tree may stand still until the first of them is over, counted from when the
    /// first tree was told to stop.
    pub options: &'m DumpOptions,
    /// Where it is written. It must not be seen there before `appear` has been called.
    pub destination: &'m dyn Destination,
    /// Who is told how far it is.
    pub progress: &'m mut (dyn Progress + Send),
}

impl std::fmt::Debug for Member<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("pid", &self.options.pid).finish_non_exhaustive()
    }
}

/// What dumps of one moment say of themselves.
#[derive(Clone, Debug, Default)]
pub struct Together {
    /// What each says, in the order in which the trees were named.
    pub reports: Vec<DumpReport>,
    /// For how long trees stood still: from the first that was told to stop until the last that was let go.
    pub frozen: Duration,
    /// When that began.
    pub frozen_at: Option<SystemTime>,
}

/// Dumps several trees, all as they are at one instant. `appear` is called once, when all is written, and makes all checkpoints exist
/// or none. The order of the members is that of the reports.
///
/// Whatever goes wrong, a panic or a `SIGKILL` of this process included, all trees run on as they were, and nothing has appeared; trees
/// that are to end are ended only once it has. Who is killed while he ends them leaves the checkpoints, and those that he has not ended yet.
///
/// # Errors
/// [`Error::Overlap`], before anything is done; [`Error::Together`] says which tree stands in the way, and why, as [`crate::dump`] does.
pub fn dump_together(members: &mut [Member<'_>], appear: &Appear<'_>) -> Result<Together, Error> {
    let of = |root: HostPid, error: Error| match error {
        error @ (Error::Overlap { .. } | Error::Together { .. }) => error,
        error => Error::Together { root, source: Box::new(denied::explain(error, root)) },
    };
    for member in &*members {
        let root = member.options.pid;
        rights::check_tree(member.options).map_err(|error| of(root, error))?;
    }
    let mut tries = Tries::begin();
    loop {
        refuse_overlaps(members)?;
        match attempt_all(members, tries.started, appear) {
            Ok(together) => return Ok(together),
            Err((index, failed)) => {
                let options = members[index].options;
                tries.again(options, failed).map_err(|error| of(options.pid, error))?;
            }
        }
    }
}

/// Refuses trees of which one is a part of another.
fn refuse_overlaps(members: &[Member<'_>]) -> Result<(), Error> {
    let roots: Vec<HostPid> = members.iter().map(|member| member.options.pid).collect();
    for (index, &outer) in roots.iter().enumerate() {
        // That it has gone, or may not be looked at, its dump says.
        let tree = collector::tree(outer).unwrap_or_default();
        let others = roots.iter().enumerate().filter(|(other, _)| *other != index);
        for (_, &inner) in others {
            if inner == outer || tree.contains(&inner) {
                return Err(Error::Overlap { outer, inner });
            }
        }
    }
    Ok(())
}

/// Tries once; in the end, which of them has failed, and why.
fn attempt_all(
    members: &mut [Member<'_>],
    started: Instant,
    appear: &Appear<'_>,
) -> Result<Together, (usize, Failed)> {
    let rendezvous = Rendezvous::of(members.len(), appear);
    let rendezvous = &rendezvous;
    let done: Vec<Result<DumpReport, Failed>> = scope(|scope| {
        let threads: Vec<_> = members
            .iter_mut()
            .map(|member| {
                let Member { options, destination, progress } = member;
                let (options, destination) = (*options, *destination);
                let work = move || {
                    let on_the_way = OnTheWay::to(Some(rendezvous));
                    let among = Among { started, together: Some(rendezvous) };
                    let report =
                        attempt(options, destination, among, &mut Nobody, &mut **progress)?;
                    on_the_way.done();
                    Ok(report)
                };
                std::thread::Builder::new()
                    .name("dump together".to_owned())
                    .spawn_scoped(scope, with_this_log(work))
                    .map_err(|source| {
                        rendezvous.give_up();
                        let operation = "start a thread for the dump";
                        Failed::Final(Error::Process { operation, pid: options.pid, source })
                    })
            })
            .collect();
        let ended = threads
            .into_iter()
            .map(|thread| thread?.join().unwrap_or(Err(Failed::Final(Error::Panicked))));
        ended.collect()
    });
    let mut reports = Vec::with_capacity(done.len());
    let mut failed = Vec::new();
    for (index, result) in done.into_iter().enumerate() {
        match result {
            Ok(report) => reports.push(report),
            Err(error) => failed.push((index, lasting(error))),
        }
    }
    // What stands in the way for good is told first, and last that somebody else does.
    let rank = |failed: &Failed| match failed {
        Failed::Final(Error::GivenUp { .. }) | Failed::Passing(Error::GivenUp { .. }) => 2,
        Failed::Passing(_) => 1,
        Failed::Final(_) => 0,
    };
    if let Some(first) = failed.into_iter().min_by_key(|(_, failed)| rank(failed)) {
        return Err(first);
    }
    let Moment { first, last } = rendezvous.moment();
    let frozen = first.zip(last).map(|((first, _), last)| last.saturating_duration_since(first));
    let frozen = frozen.unwrap_or_default();
    Ok(Together { reports, frozen, frozen_at: first.map(|first| first.1) })
}

/// A task that does not stop at once is not waited for while the other trees stand still: it is tried again.
fn lasting(failed: Failed) -> Failed {
    match failed {
        Failed::Final(
            error @ Error::Freeze { source: freezer::StopError::DidNotStop { .. }, .. },
        ) => Failed::Passing(error),
        failed => failed,
    }
}

#[cfg(test)]
mod tests {
    use images::Quiet;

    use super::*;

    #[test]
    fn a_tree_within_another_is_refused_by_name() {
        let own = DumpOptions::new(HostPid::own());
        let parent =
            DumpOptions::new(HostPid::new(std::os::unix::process::parent_id() as i32).unwrap());
        let nowhere = images::Nowhere { path: "nowhere".into(), encrypts: false };
        for (one, two) in [(&own, &parent), (&parent, &own), (&own, &own)] {
            let (mut quiet, mut silent) = (Quiet, Quiet);
            let mut members = [
                Member { options: one, destination: &nowhere, progress: &mut quiet },
                Member { options: two, destination: &nowhere, progress: &mut silent },
            ];
            let refused = dump_together(&mut members, &|| panic!("nothing is dumped"));
            let error = refused.unwrap_err();
            let inner = HostPid::own();
            assert!(
                matches!(error, Error::Overlap { inner: found, .. } if found == inner),
                "{error}"
            );
        }
    }
}
