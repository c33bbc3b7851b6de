use api::User;

use super::*;
use crate::callers::Rights;

fn root() -> Asker {
    Asker::new("token", Arc::new(Rights::all()))
}

fn jobs() -> Jobs {
    Jobs::of(State::forgotten().unwrap())
}

fn user(uid: u32) -> Asker {
    let user = User { uid, gid: 1 };
    Asker::new(format!("uid {uid}"), Arc::new(Rights { user: Some(user), ..Rights::all() }))
}

fn directory(name: &str) -> Directory {
    name.parse().unwrap()
}

fn failed() -> Outcome {
    Outcome::Failed(ErrorDetail::default())
}

/// A checkpoint of a process that no other job is at work on, and not at all.
fn new(asker: Asker, name: &str) -> NewJob {
    let target = Target::Container(name.to_owned());
    NewJob {
        id: uuid::Uuid::new_v4().to_string(),
        asker,
        priority: Priority::Normal,
        queued: false,
        work: String::new(),
        kind: JobKind::Checkpoint,
        target,
        directory: directory(name),
        leave_running: Some(true),
        labels: Labels::default(),
        key: None,
    }
}

fn listed(jobs: &Jobs, asker: &Asker) -> Vec<Job> {
    jobs.list(asker, &JobQuery::default(), Page { limit: 1000, after: None }).unwrap().jobs
}

fn busy(begun: Result<Job, NoJob>) -> String {
    match begun.unwrap_err() {
        NoJob::Busy(id) => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_job_at_a_time_works_on_a_directory_and_on_a_process() {
    let jobs = jobs();
    let of_process = |name| NewJob { target: Target::Process(7), ..new(root(), name) };
    let first = jobs.begin(of_process("a")).unwrap();
    let restore = || NewJob { kind: JobKind::Restore, target: Target::Images, ..new(root(), "a") };
    assert_eq!(busy(jobs.begin(restore())), first.id);
    assert!(matches!(jobs.begin(of_process("b")), Err(NoJob::SameProcess(id)) if id == first.id));
    jobs.begin(new(root(), "b")).unwrap();
    jobs.finish(&first.id, failed()).unwrap();
    jobs.begin(restore()).unwrap();
    let order: Vec<_> = listed(&jobs, &root()).into_iter().map(|job| job.directory).collect();
    assert_eq!(order, [directory("a"), directory("b"), directory("a")]);
}

#[test]
fn a_user_has_jobs_of_his_own_and_not_too_many() {
    let jobs = jobs();
    let begin = |asker, name| jobs.begin(new(asker, name));
    let roots = begin(root(), "a").unwrap();
    let his = begin(user(1), "a").unwrap();
    assert_eq!(busy(begin(user(1), "a/b")), his.id, "below it");
    assert_eq!((listed(&jobs, &user(1)).len(), listed(&jobs, &root()).len()), (1, 2));
    assert_eq!(listed(&jobs, &user(2)), []);
    assert!(jobs.get(&his.id, &user(1)).unwrap().is_some());
    assert_eq!(jobs.get(&his.id, &user(2)).unwrap(), None);
    assert_eq!(jobs.get(&roots.id, &user(1)).unwrap(), None);
    assert_eq!(busy(begin(root(), "users/1/a")), his.id, "root calls it so");
    for name in ["b", "c", "d"] {
        begin(user(1), name).unwrap();
    }
    assert!(matches!(begin(user(1), "e"), Err(NoJob::TooMany)));
    begin(user(2), "e").unwrap();
    jobs.finish(&his.id, failed()).unwrap();
    begin(user(1), "e").unwrap();
}

#[test]
fn a_flood_of_failures_takes_the_room_of_nothing_else() {
    let jobs = jobs();
    let running = jobs.begin(new(root(), "running")).unwrap();
    let done = jobs.begin(new(root(), "done")).unwrap();
    jobs.finish(&done.id, Outcome::Restored(RestoreSummary::default())).unwrap();
    let of_another = jobs.begin(new(user(1), "his")).unwrap();
    jobs.finish(&of_another.id, failed()).unwrap();
    let mut failures = Vec::new();
    for number in 0..KEPT + 5 {
        let job = jobs.begin(new(root(), &format!("d{number}"))).unwrap();
        jobs.finish(&job.id, failed()).unwrap();
        failures.push(job.id);
    }
    for kept in [&running, &done, &of_another] {
        assert!(jobs.get(&kept.id, &root()).unwrap().is_some(), "{}", kept.directory);
    }
    let remembered = |id: &String| jobs.get(id, &root()).unwrap().is_some();
    assert_eq!(failures.iter().position(remembered), Some(5));
}

#[test]
fn a_list_is_told_page_by_page_and_by_what_is_wanted() {
    let jobs = jobs();
    for number in 0..7 {
        let job = jobs.begin(new(root(), &format!("d{number}"))).unwrap();
        if number % 2 == 0 {
            jobs.finish(&job.id, failed()).unwrap();
        }
    }
    let page =
        |wanted: &JobQuery, after| jobs.list(&root(), wanted, Page { limit: 3, after }).unwrap();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let list = page(&JobQuery::default(), after);
        seen.extend(list.jobs.into_iter().map(|job| job.directory.to_string()));
        let Some(next) = list.next else { break };
        // What begins meanwhile is on no later page.
        if seen.len() == 3 {
            jobs.begin(new(root(), "meanwhile")).unwrap();
        }
        after = Some(next.parse().unwrap());
    }
    assert_eq!(seen, ["d6", "d5", "d4", "d3", "d2", "d1", "d0"]);
    let failures = page(&JobQuery { state: Some(JobState::Failed), ..JobQuery::default() }, None);
    assert_eq!((failures.jobs.len(), failures.next.is_some()), (3, true));
    let one = JobQuery { directory: Some(directory("d3")), ..JobQuery::default() };
    assert_eq!((page(&one, None).jobs.len(), page(&one, None).next), (1, None));
    let restores = JobQuery { kind: Some(JobKind::Restore), ..JobQuery::default() };
    assert_eq!(page(&restores, None).jobs, []);
}

#[test]
fn a_request_that_is_sent_again_makes_one_job() {
    let jobs = jobs();
    let key = |request: &str| Some(Key { name: "k".to_owned(), request: request.to_owned() });
    let begin = |asker, request, name| jobs.begin(NewJob { key: key(request), ..new(asker, name) });
    let first = begin(root(), "one", "a").unwrap();
    let again = |id: &String| match begin(root(), "one", "a") {
        Err(NoJob::Again(job)) => job.id == *id,
        other => panic!("{other:?}"),
    };
    assert!(again(&first.id));
    jobs.finish(&first.id, failed()).unwrap();
    assert!(again(&first.id), "it has ended, and is known still");
    assert!(matches!(begin(root(), "two", "b"), Err(NoJob::OtherRequest)));
    begin(user(1), "two", "b").unwrap();
}

#[test]
fn jobs_outlive_the_gateway() {
    let place = tempfile::tempdir().unwrap();
    let jobs = Jobs::of(State::open(place.path()).unwrap());
    let done = jobs.begin(new(root(), "done")).unwrap();
    jobs.finish(&done.id, Outcome::Dumped(DumpSummary::default())).unwrap();
    let his = jobs.begin(new(user(7), "his")).unwrap();
    drop(jobs);
    let jobs = Jobs::of(State::open(place.path()).unwrap());
    assert_eq!(jobs.get(&done.id, &root()).unwrap().unwrap().state, JobState::Done);
    let found = jobs.found_again().unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].job.id, found[0].user), (&his.id, Some(User { uid: 7, gid: 1 })));
    assert!(jobs.get(&his.id, &root()).unwrap().unwrap().found_again);
    jobs.finish(&his.id, failed()).unwrap();
    assert_eq!(jobs.found_again().unwrap().len(), 0);
}

#[tokio::test]
async fn waiting_ends_with_the_job_or_the_time() {
    let jobs = jobs();
    let job = jobs.begin(new(root(), "a")).unwrap();
    let early = jobs.wait(&job.id, &root(), Duration::from_millis(5)).await.unwrap().unwrap();
    assert_eq!(early.state, JobState::Running);
    let waiting = tokio::spawn({
        let (jobs, id) = (jobs.clone(), job.id.clone());
        async move { jobs.wait(&id, &root(), Duration::from_secs(60)).await }
    });
    tokio::task::yield_now().await;
    jobs.finish(&job.id, failed()).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().unwrap().state, JobState::Failed);
    assert_eq!(jobs.wait("none", &root(), Duration::from_secs(60)).await.unwrap(), None);
}

#[test]
fn who_is_bound_to_labels_sees_the_jobs_that_have_them() {
    let jobs = jobs();
    let labels = |text: &str| text.parse::<Labels>().unwrap();
    let with = |name, text| NewJob { labels: labels(text), ..new(root(), name) };
    let web = jobs.begin(with("a", "team=web,a.b/c=x y")).unwrap();
    let other = jobs.begin(with("b", "team=db")).unwrap();
    jobs.begin(new(root(), "c")).unwrap();
    for bound in ["team=web", "a.b/c=x y", "a.b/c=x y,team=web"] {
        let rights = Rights { labels: labels(bound), ..Rights::all() };
        let asker = Asker::new("token web", Arc::new(rights));
        assert_eq!(listed(&jobs, &asker), std::slice::from_ref(&web));
        assert!(jobs.get(&web.id, &asker).unwrap().is_some());
        assert!(jobs.get(&other.id, &asker).unwrap().is_none());
    }
    assert_eq!(listed(&jobs, &root()).len(), 3);
}

#[test]
fn a_job_that_waits_begins_and_one_that_is_cancelled_is_no_failure() {
    let jobs = jobs();
    let queued = |name| NewJob { queued: true, work: "\"x\"".to_owned(), ..new(root(), name) };
    let first = jobs.begin(queued("a")).unwrap();
    let second = jobs.begin(queued("b")).unwrap();
    assert_eq!(first.state, JobState::Queued);
    assert_eq!(busy(jobs.begin(new(root(), "a"))), first.id, "it has its directory");
    assert_eq!(jobs.started(&first.id).unwrap().unwrap().state, JobState::Running);
    let found = jobs.found_again().unwrap();
    assert_eq!(found.len(), 2, "those that wait, too");
    assert_eq!(found[1].work.as_deref(), Some("\"x\""));

    let progress = Progress { step: "write".to_owned(), done_bytes: 3, total_bytes: Some(9) };
    jobs.is_so_far(&first, None, progress.clone());
    let told = || jobs.get(&first.id, &root()).unwrap().unwrap();
    assert_eq!(told().progress, Some(progress));
    jobs.cancelling(&first.id, Some(&root())).unwrap();
    assert_eq!(told().cancelled_by.as_deref(), Some("token"));
    jobs.finish(&first.id, failed()).unwrap();
    assert_eq!((told().state, told().progress), (JobState::Cancelled, None));
    assert!(jobs.cancelling(&first.id, Some(&root())).unwrap().is_none(), "it is over");

    // What was done before anybody could cancel it is done.
    jobs.cancelling(&second.id, Some(&root())).unwrap();
    jobs.finish(&second.id, Outcome::Verified(Verification::default())).unwrap();
    assert_eq!(jobs.get(&second.id, &root()).unwrap().unwrap().state, JobState::Done);
}

#[test]
fn a_job_of_several_trees_is_at_work_on_each_of_them() {
    let jobs = jobs();
    let of = |asker, name, target| NewJob { target, ..new(asker, name) };
    let several = |asker, name, pids: &[i32]| of(asker, name, Target::Processes(pids.to_vec()));
    let both = jobs.begin(several(root(), "both", &[7, 8])).unwrap();
    assert_eq!((both.pid, &both.pids[..]), (None, &[7, 8][..]));
    let busy = |new| match jobs.begin(new).unwrap_err() {
        NoJob::SameProcess(id) => id,
        other => panic!("{other:?}"),
    };
    assert_eq!(busy(of(root(), "a", Target::Process(8))), both.id);
    assert_eq!(busy(several(root(), "b", &[9, 7])), both.id);
    jobs.begin(several(root(), "c", &[9, 10])).unwrap();
    assert!(matches!(jobs.begin(new(root(), "both/7")), Err(NoJob::Busy(_))));
    jobs.finish(&both.id, Outcome::FoundTogether).unwrap();
    jobs.begin(of(root(), "a", Target::Process(8))).unwrap();

    // Of a user each tree counts.
    jobs.begin(several(user(1), "a", &[1, 2, 3])).unwrap();
    assert!(matches!(jobs.begin(several(user(1), "b", &[4, 5])), Err(NoJob::TooMany)));
    jobs.begin(of(user(1), "b", Target::Process(4))).unwrap();
    assert!(matches!(jobs.begin(of(user(1), "c", Target::Process(5))), Err(NoJob::TooMany)));
}
