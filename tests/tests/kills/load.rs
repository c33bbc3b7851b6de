//! What goes on while services are killed. Whoever asks sends the same again until somebody answers, as clients do; what is told
//! of a job must be so, whoever was killed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};
use stasis_tests::faults::{Random, ask_for_lease, held};
use stasis_tests::{Answer, Asker, Workload, tree_of, wait_until};

/// For so long nobody may be without an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Before it is sent again.
const PAUSE: Duration = Duration::from_millis(20);
/// A service does not answer, or somebody sends too much.
const LATER: [u16; 3] = [429, 502, 503];

/// Why a job may fail here: somebody was killed who was at work on it. (Whoever listens nowhere is said to be down.)
const KILLED: [&str; 4] =
    ["ended before", "ended while it was at work", "ended when the images were safe", ".sock: "];
/// The images are there although the job has failed, and it says so.
const BOTH: [&str; 2] = ["both are there", "they are damaged"];

/// What readers ask for.
const LISTS: [&str; 7] = [
    "/v1/checkpoints?limit=100",
    "/v1/jobs?limit=50",
    "/v1/processes?programs=true&limit=100",
    "/v1/restores",
    "/v1/tracks",
    "/v1/policies",
    "/metrics",
];

/// How it went, by what it is: `checkpoint done`, `restore failed: …`.
pub(crate) type Tally = BTreeMap<String, u64>;

/// All that is done to the services at once.
#[derive(Debug)]
pub(crate) struct Load {
    asker: Asker,
    checkpoints: PathBuf,
    over: AtomicBool,
    tally: Mutex<Tally>,
    /// The jobs that were accepted.
    jobs: Mutex<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until nobody of a tree is left; those that nobody else waits for are ours to reap.
fn await_end(tree: &[i32], what: &str) {
    let gone = |pid: &i32| {
        waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG)).ok();
        !Path::new(&format!("/proc/{pid}")).exists()
    };
    assert!(wait_until(PATIENCE, || tree.iter().all(gone)), "{what}: somebody is left of {tree:?}");
}

impl Load {
    /// None yet.
    pub(crate) fn new(asker: Asker, checkpoints: PathBuf) -> Self {
        let (tally, jobs) = (Mutex::default(), Mutex::default());
        Self { asker, checkpoints, over: AtomicBool::new(false), tally, jobs }
    }

    /// Has everybody stop at the end of what he is at.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// How it went.
    pub(crate) fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// The jobs that were accepted.
    pub(crate) fn jobs(&self) -> Vec<String> {
        lock(&self.jobs).clone()
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn count(&self, what: impl Into<String>) {
        *lock(&self.tally).entry(what.into()).or_default() += 1;
    }

    /// Sends a request until it is answered by who can do it.
    pub(crate) fn sent(
        &self,
        method: &str,
        path: &str,
        body: Option<&str>,
        key: Option<&str>,
    ) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.asker.ask(method, path, body, key);
            match answer {
                Ok(answer) if !LATER.contains(&answer.status) => return answer,
                answer => assert!(Instant::now() < deadline, "{method} {path}: {answer:?}"),
            }
            sleep(PAUSE);
        }
    }

    /// Has a job done, by a request that is sent until it is accepted; what became of it.
    fn job(&self, path: &str, body: &Value, key: &str) -> Value {
        let begun = self.sent("POST", path, Some(&body.to_string()), Some(key));
        assert!(matches!(begun.status, 200 | 202), "{key}: {}", begun.text);
        let id = begun.body["id"].as_str().expect("a job has an id").to_owned();
        lock(&self.jobs).push(id.clone());
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            let answer = self.sent("GET", &format!("/v1/jobs/{id}?wait=5s"), None, None);
            assert_eq!(answer.status, 200, "{key}: the job is lost: {}", answer.text);
            let job = answer.body;
            let kind = job["kind"].as_str().unwrap_or_default();
            match job["state"].as_str() {
                Some("done") => {
                    self.count(format!("{kind} done"));
                    return job;
                }
                Some("failed") => {
                    let detail = job["error"]["detail"].as_str().unwrap_or_default();
                    let reason = KILLED.iter().find(|reason| detail.contains(**reason));
                    let reason = reason.unwrap_or_else(|| panic!("{key}: nobody's end: {job}"));
                    self.count(format!("{kind} failed: {reason}"));
                    return job;
                }
                _ => assert!(Instant::now() < deadline, "{key}: it does not end: {job}"),
            }
        }
    }

    /// Takes a checkpoint; whether there is one. What was told of it is so.
    fn checkpoint(&self, pid: i32, directory: &str, stay: bool) -> bool {
        let body = json!({"pid": pid, "directory": directory, "leave_running": stay});
        let job = self.job("/v1/checkpoints", &body, directory);
        let there = self.checkpoints.join(directory).exists();
        if job["state"] == "done" {
            assert!(there, "done, and there are no images: {job}");
            self.must_be_whole(directory);
            return true;
        }
        let detail = job["error"]["detail"].as_str().unwrap_or_default();
        let told = BOTH.iter().any(|both| detail.contains(both));
        assert_eq!(there, told, "failed, and the images: {job}");
        if there {
            self.remove(directory);
        }
        false
    }

    /// Has all of a checkpoint read, as often as whoever reads it is killed.
    fn must_be_whole(&self, directory: &str) {
        let body = json!({"directory": directory});
        for attempt in 0.. {
            let job =
                self.job("/v1/verifications", &body, &format!("verify {directory} {attempt}"));
            if job["state"] == "done" {
                assert_eq!(job["verified"]["sound"], true, "{directory}: {job}");
                return;
            }
        }
    }

    /// Removes a checkpoint; it may be gone by a request whose answer was lost.
    fn remove(&self, directory: &str) {
        let answer = self.sent("DELETE", &format!("/v1/checkpoints/{directory}"), None, None);
        assert!(matches!(answer.status, 204 | 404), "{directory}: {}", answer.text);
        assert!(!self.checkpoints.join(directory).exists(), "{directory} is removed and there");
    }

    /// Checkpoints of a program that runs on, one after the other.
    pub(crate) fn checkpoints_of(&self, target: &Workload, name: &str) {
        let mut rounds = (0..).take_while(|_| self.goes_on());
        rounds.by_ref().for_each(|round: u32| {
            let directory = format!("{name}/{round}/on");
            if self.checkpoint(target.pid(), &directory, true) {
                self.remove(&directory);
            }
        });
    }

    /// A program is ended by a checkpoint and comes back, again and again.
    pub(crate) fn ends_and_restores_of(&self, target: &Workload, name: &str) {
        let pid = target.pid();
        let tree = tree_of(pid);
        for round in (0_u32..).take_while(|_| self.goes_on()) {
            let directory = format!("{name}/{round}/end");
            if !self.checkpoint(pid, &directory, false) {
                assert!(target.program().is_alive(), "{directory} failed, and the tree is gone");
                continue;
            }
            await_end(&tree, &directory);
            for attempt in 0.. {
                let key = format!("restore {directory} {attempt}");
                let job = self.job("/v1/restores", &json!({"directory": directory}), &key);
                if job["state"] == "done" {
                    break;
                }
                await_end(&tree, &key);
            }
            assert!(target.program().is_alive(), "{directory} is restored, and nobody is there");
            self.remove(&directory);
        }
    }

    /// Reads lists. Who asks is answered, if not by who was just killed.
    pub(crate) fn reads(&self) {
        let mut paths = LISTS.iter().cycle();
        while self.goes_on() {
            let path = paths.next().expect("they are never at an end");
            match self.asker.ask("GET", path, None, None) {
                Ok(answer) if answer.status == 200 => self.count("list read"),
                Ok(answer) => {
                    assert!(LATER.contains(&answer.status), "{path}: {}", answer.text);
                    self.count("list of a service that is down");
                }
                Err(_) => {
                    self.count("list of a gateway that is down");
                    sleep(PAUSE);
                }
            }
        }
    }

    /// Has a program frozen for a moment, again and again, by each method in turns.
    pub(crate) fn leases_of(&self, pid: i32, freezer: &Path, methods: &[&str], mut random: Random) {
        let mut methods = methods.iter().cycle();
        while self.goes_on() {
            let method = methods.next().expect("they are never at an end");
            let lease = json!({"pid": pid, "method": method, "ttl_ms": 60_000});
            let Some((connection, status)) = ask_for_lease(freezer, &lease) else { continue };
            match status {
                Some(201) => self.count(format!("lease by {method}")),
                Some(status) => panic!("a lease by {method}: {status}"),
                None => self.count("lease of a freezer that is down"),
            }
            sleep(random.below(PAUSE));
            drop(connection);
            // The freezer lets go when it sees that. The killed one has let go.
            let free = wait_until(PATIENCE, || held(pid).is_empty());
            assert!(free, "a lease by {method} has ended: {:?}", held(pid));
        }
    }

    /// Has a program tracked for a moment, again and again; not where the kernel cannot count.
    pub(crate) fn tracks_of(&self, pid: i32) {
        let body = json!({"tree": pid, "files": true}).to_string();
        while self.goes_on() {
            let begun = self.sent("POST", "/v1/tracks", Some(&body), None);
            match begun.status {
                201 => {
                    let path = format!("/v1/tracks/{}", begun.body["id"]);
                    let known = self.sent("GET", &format!("{path}/inventory"), None, None);
                    // It ends with the collector.
                    assert!(matches!(known.status, 200 | 404), "{}", known.text);
                    self.count("track");
                    self.end_track(&path);
                }
                // Of a request whose answer was lost.
                409 => {
                    let list = self.sent("GET", "/v1/tracks", None, None).body;
                    for track in list["tracks"].as_array().into_iter().flatten() {
                        self.end_track(&format!("/v1/tracks/{}", track["id"]));
                    }
                }
                501 => return self.count("tracks left out: the kernel has no eBPF for them"),
                _ => panic!("a track: {}", begun.text),
            }
        }
    }

    fn end_track(&self, path: &str) {
        let ended = self.sent("DELETE", path, None, None);
        assert!(matches!(ended.status, 204 | 404), "{path}: {}", ended.text);
    }
}
