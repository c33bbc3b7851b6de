//! Several trees in one frozen moment.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use api::{
    Directory, DumpRequest, DumpSummary, Labels, TogetherCheckpoint, TogetherRequest,
    TogetherSummary, User,
};
use axum::Json;
use axum::extract::State;
use dumper::{DumpOptions, Member, Together, dump_together};
use encryption::Recipients;
use images::{Cancel, Destination, NewGroup, Nowhere, Progress, WriteOptions};
use service::{Body, OnBehalfOf, OperationName, OperationProgress, Problem, Way, blocking};

use super::asked::{Dumper, options, place_of, whole_name};
use super::metrics::Dumped;
use super::parents::Parent;
use super::problems::problem;
use crate::access::destination;

/// How far all of them are together.
#[derive(Debug, Default)]
struct Sum {
    step: String,
    done: u64,
    total: Option<u64>,
}

/// Tells who asked how far they are, of one of them.
#[derive(Clone, Debug)]
struct Part(OperationProgress, Arc<Mutex<Sum>>);

impl Progress for Part {
    fn begin(&mut self, step: &str, total: Option<u64>) {
        let mut sum = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        if sum.step != step {
            *sum = Sum { step: step.to_owned(), ..Sum::default() };
        }
        if let Some(total) = total {
            sum.total = Some(sum.total.unwrap_or_default().saturating_add(total));
        }
        self.0.begin(step, sum.total);
        self.0.advance(sum.done);
    }

    fn advance(&mut self, bytes: u64) {
        let mut sum = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        sum.done = sum.done.saturating_add(bytes);
        self.0.advance(bytes);
    }
}

/// What is dumped, and where all of it appears.
struct Prepared {
    /// By what the checkpoints are called that are of one moment.
    id: String,
    trees: Vec<Tree>,
    /// To whom they are encrypted, if they are.
    recipients: Option<Arc<Recipients>>,
    /// `None`: nothing is written.
    group: Option<NewGroup>,
    /// What stays where it is meanwhile.
    _held: (Vec<Parent>, Option<Way>),
}

struct Tree {
    options: DumpOptions,
    /// As requests call it.
    directory: Directory,
    /// Its name in the directory of all.
    name: String,
    labels: Labels,
}

/// Refuses what does not come to one directory.
fn check(request: &TogetherRequest) -> Result<Vec<String>, Problem> {
    let most = TogetherRequest::MOST;
    if request.dumps.is_empty() || request.dumps.len() > most {
        let message = format!("{} trees are named, of 1 to {most}", request.dumps.len());
        return Err(Problem::field("dumps", message).remedy("name fewer, or the root of all"));
    }
    let dry_run = request.dumps[0].dry_run;
    if request.dumps.iter().any(|dump| dump.dry_run != dry_run) {
        let message = "some are to be written, and others are not";
        return Err(Problem::field("dumps", message).remedy("ask for them apart"));
    }
    let inside = |dump: &DumpRequest| {
        let name = dump.directory.as_str().strip_prefix(request.directory.as_str());
        let name = name.and_then(|name| name.strip_prefix('/')).filter(|name| !name.contains('/'));
        name.map(str::to_owned).ok_or_else(|| {
            let message = format!("{} does not lie in {}", dump.directory, request.directory);
            Problem::field("dumps", message).remedy("name it by that, a slash, and a name")
        })
    };
    let names: Vec<String> = request.dumps.iter().map(inside).collect::<Result<_, _>>()?;
    match names.iter().collect::<BTreeSet<_>>().len() == names.len() {
        true => Ok(names),
        false => {
            Err(Problem::field("dumps", "two of them have one directory")
                .remedy("name each otherwise"))
        }
    }
}

fn prepare(
    dumper: &Dumper,
    request: &TogetherRequest,
    user: Option<User>,
    cancel: &Cancel,
) -> Result<Prepared, Problem> {
    let names = check(request)?;
    let recipients = dumper.recipients()?;
    let id = catalog::labels::new_moment();
    let (mut trees, mut parents) = (Vec::new(), Vec::new());
    for (dump, name) in request.dumps.iter().zip(names) {
        let (options, parent) = options(dumper, dump, user)?;
        parents.extend(parent);
        let labels = catalog::labels::of_moment(&id, &dump.labels);
        let labels = labels.map_err(|message| {
            Problem::field("labels", message).remedy("leave one of the others out")
        })?;
        let directory = dump.directory.clone();
        let options = DumpOptions { cancel: cancel.clone(), ..options };
        trees.push(Tree { options, directory, name, labels });
    }
    if request.dumps.iter().any(|dump| dump.dry_run) {
        let (id, _held) = (String::new(), (parents, None));
        return Ok(Prepared { id, trees, recipients, group: None, _held });
    }
    let (path, way) = place_of(&dumper.root, user, &request.directory)?;
    let group = NewGroup::create(&path, WriteOptions::default());
    let group = group.map_err(|error| {
        let error = dumper::Error::Images(error);
        problem(&error, trees[0].options.pid)
    })?;
    Ok(Prepared { id, trees, recipients, group: Some(group), _held: (parents, Some(way)) })
}

impl Prepared {
    /// Dumps all.
    fn dump(&self, progress: &OperationProgress) -> Result<Together, dumper::Error> {
        let place = |tree: &Tree| -> Box<dyn Destination> {
            match &self.group {
                Some(group) => destination(group.member(&tree.name), self.recipients.clone()),
                None => Box::new(Nowhere {
                    path: tree.directory.as_str().into(),
                    encrypts: self.recipients.is_some(),
                }),
            }
        };
        let destinations: Vec<_> = self.trees.iter().map(place).collect();
        let part = Part(progress.clone(), Arc::default());
        let mut parts = vec![part; self.trees.len()];
        let of = self.trees.iter().zip(&destinations).zip(&mut parts);
        let mut members: Vec<_> = of
            .map(|((tree, destination), progress)| Member {
                options: &tree.options,
                destination: destination.as_ref(),
                progress,
            })
            .collect();
        dump_together(&mut members, &|| self.appear())
    }

    /// Makes all checkpoints appear, which have their labels by then.
    fn appear(&self) -> Result<(), images::Error> {
        let Some(group) = &self.group else { return Ok(()) };
        for tree in &self.trees {
            let path = group.place(&tree.name);
            catalog::labels::write(&path, &tree.labels)
                .map_err(|source| images::Error::Labels { path, source })?;
        }
        group.appear()
    }

    fn told(&self, together: &Together) -> TogetherSummary {
        let of = |(tree, report): (&Tree, &dumper::DumpReport)| TogetherCheckpoint {
            pid: tree.options.pid.get(),
            directory: tree.directory.clone(),
            dump: DumpSummary::from(report),
        };
        TogetherSummary {
            id: self.id.clone(),
            frozen_us: u64::try_from(together.frozen.as_micros()).unwrap_or(u64::MAX),
            checkpoints: self.trees.iter().zip(&together.reports).map(of).collect(),
        }
    }
}

/// Dumps several trees as they are at one moment: all checkpoints appear, or none does.
pub(super) async fn make(
    State(dumper): State<Dumper>,
    asker: OnBehalfOf,
    operation: OperationName,
    Body(request): Body<TogetherRequest>,
) -> Result<Json<TogetherSummary>, Problem> {
    let directory = whole_name(asker.0, &request.directory)?;
    let pids: Vec<String> = request.dumps.iter().map(|dump| dump.pid.to_string()).collect();
    let (pids, count) = (pids.join(", "), request.dumps.len());
    let dry_run = request.dumps.iter().any(|dump| dump.dry_run);
    let dumped = if dry_run { Dumped::DryRun } else { Dumped::Together };
    let cancel = Cancel::default();
    let prepared = {
        let (dumper, cancel) = (dumper.clone(), cancel.clone());
        blocking(move || prepare(&dumper, &request, asker.0, &cancel)).await
    };
    let prepared = prepared.inspect_err(|problem| {
        dumper.metrics.turned_away(dumped, problem);
        tracing::warn!("{asker}: dump processes {pids} together: {}", problem.detail.message);
    })?;
    let operation = dumper.operations.begin(operation, asker.0)?;
    operation.cancelled_by(move || cancel.cancel());
    let (metrics, room) = (dumper.metrics.clone(), dumper.room.clone());
    (0..count).for_each(|_| metrics.begun(dumped));
    let start = Instant::now();
    // They are finished and counted even when who asked hangs up.
    let work = tokio::task::spawn_blocking(move || {
        let reserve = |tree: &Tree| room.reserve(tree.options.pid, asker.0);
        let room = prepared.trees.iter().map(reserve).collect::<Result<Vec<_>, _>>();
        let done = room.and_then(|_room| {
            let done = prepared.dump(&operation.progress());
            done.map_err(|error| problem(&error, prepared.trees[0].options.pid))
        });
        let done = done.map(|together| (prepared.told(&together), together));
        // Who hears that they are done finds nothing held.
        drop(prepared);
        match done {
            Ok((told, together)) => {
                together.reports.iter().for_each(|it| metrics.finished(dumped, Ok(it)));
                operation.end(Ok(&told));
                Ok((told, together))
            }
            Err(problem) => {
                (0..count).for_each(|_| metrics.finished(dumped, Err(&problem)));
                operation.end::<()>(Err(&problem));
                Err(problem)
            }
        }
    });
    match work.await {
        Ok(Ok((told, together))) => {
            let (took, frozen) = (start.elapsed(), together.frozen);
            let what = if dry_run { "tried a dump of processes" } else { "dumped processes" };
            tracing::info!(
                "{asker}: {what} {pids} together to {directory} in {took:?}, frozen for {frozen:?}"
            );
            for warning in together.reports.iter().flat_map(|report| &report.warnings) {
                tracing::warn!("{asker}: dump processes {pids} together: {warning}");
            }
            if let Some(at) = together.frozen_at {
                dumper.traces.measured("frozen together", at, frozen, &[]);
            }
            Ok(Json(told))
        }
        Ok(Err(problem)) => {
            tracing::warn!("{asker}: dump processes {pids} together: {}", problem.detail.message);
            Err(problem)
        }
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    fn request(directories: &[&str]) -> TogetherRequest {
        let dump = |directory: &&str| {
            let json = serde_json::json!({"pid": 1, "directory": directory, "after": "resume"});
            serde_json::from_value(json).unwrap()
        };
        let dumps = directories.iter().map(dump).collect();
        TogetherRequest { directory: "a/b".parse().unwrap(), dumps }
    }

    #[test]
    fn all_come_to_one_directory() {
        assert_eq!(check(&request(&["a/b/7", "a/b/8"])).unwrap(), ["7", "8"]);
        let many: Vec<String> = (0..65).map(|n| format!("a/b/{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for wrong in [&[][..], &["a/b"], &["a/bc/7"], &["a/b/7/8"], &["a/b/7", "a/b/7"], &many] {
            assert_eq!(
                check(&request(wrong)).unwrap_err().status,
                StatusCode::UNPROCESSABLE_ENTITY
            );
        }
    }

    #[test]
    fn progress_is_that_of_all() {
        let progress = OperationProgress::default();
        let part = Part(progress, Arc::default());
        let (mut one, mut two) = (part.clone(), part);
        one.begin("write", Some(10));
        one.advance(4);
        two.begin("write", Some(5));
        two.advance(1);
        let sum = one.1.lock().unwrap();
        assert_eq!((sum.done, sum.total), (5, Some(15)));
    }
}
