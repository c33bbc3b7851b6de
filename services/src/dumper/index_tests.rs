use std::fs::{create_dir_all, remove_dir_all, remove_file, rename, write};

use service::CheckpointSettings;

use super::*;

struct Place {
    _directory: tempfile::TempDir,
    root: PathBuf,
    index: Index,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let checkpoints = directory.path().join("root");
        let root = CheckpointRoot::open(&CheckpointSettings { checkpoints }).unwrap();
        let (path, index) = (root.as_path().to_owned(), Index::of(root));
        Self { _directory: directory, root: path, index }
    }

    /// What passes for a checkpoint: its images cannot be read.
    fn make(&self, name: &str) {
        create_dir_all(self.root.join(name)).unwrap();
        write(self.root.join(name).join("inventory.img"), "").unwrap();
    }

    fn names(&self) -> Vec<String> {
        self.page("", None, 1000).0
    }

    fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> (Vec<String>, bool) {
        let after = after.map(|after| after.parse::<Directory>().unwrap());
        let (found, more) = self.index.list(prefix, after.as_ref(), limit, |_| true).unwrap();
        (found.into_iter().map(|it| it.directory.to_string()).collect(), more)
    }
}

#[test]
fn what_comes_and_goes_is_known_at_once() {
    let place = Place::new();
    assert_eq!(place.names(), [""; 0]);
    place.make("b");
    assert_eq!(place.names(), ["b"]);
    for name in ["a/one", "a/two", "b/inside", "b/pre-copy", "c/d/e/f"] {
        place.make(name);
    }
    create_dir_all(place.root.join("empty")).unwrap();
    assert_eq!(place.names(), ["a/one", "a/two", "b", "b/inside", "c/d/e/f"]);
    remove_dir_all(place.root.join("a")).unwrap();
    rename(place.root.join("c"), place.root.join("moved")).unwrap();
    assert_eq!(place.names(), ["b", "b/inside", "moved/d/e/f"]);
    // One that comes below a directory that was moved is seen by the watch of that.
    place.make("moved/d/g");
    place.make("empty");
    assert_eq!(place.names(), ["b", "b/inside", "empty", "moved/d/e/f", "moved/d/g"]);
    // Another directory of the same name.
    remove_dir_all(place.root.join("b")).unwrap();
    place.make("b");
    assert_eq!(place.names(), ["b", "empty", "moved/d/e/f", "moved/d/g"]);
    remove_file(place.root.join("empty/inventory.img")).unwrap();
    assert_eq!(place.names(), ["b", "moved/d/e/f", "moved/d/g"]);
}

#[test]
fn a_temporary_directory_is_renamed_into_place() {
    let place = Place::new();
    place.make("a");
    assert_eq!(place.names(), ["a"]);
    let temporary = place.root.join(".new.stasis-tmp-1-0");
    create_dir_all(&temporary).unwrap();
    write(temporary.join("inventory.img"), "").unwrap();
    assert_eq!(place.names(), ["a"]);
    let unfinished = place.index.unfinished("").unwrap();
    assert_eq!(unfinished.len(), 1);
    assert_eq!(
        (unfinished[0].path.as_str(), unfinished[0].being_written),
        (".new.stasis-tmp-1-0", false)
    );
    rename(&temporary, place.root.join("new")).unwrap();
    assert_eq!(place.names(), ["a", "new"]);
    assert_eq!(place.index.unfinished("").unwrap(), []);
}

#[test]
fn labels_that_are_written_are_seen() {
    let place = Place::new();
    place.make("a");
    assert_eq!(place.names(), ["a"]);
    let labels: api::Labels = "app=web".parse().unwrap();
    catalog::labels::write(&place.root.join("a"), &labels).unwrap();
    let wanted = |label: &str| {
        let label: api::Labels = label.parse().unwrap();
        place.index.list("", None, 9, |it| it.labels.have(&label)).unwrap().0.len()
    };
    assert_eq!((wanted("app=web"), wanted("app=db")), (1, 0));
}

#[test]
fn pages_are_of_a_part() {
    let place = Place::new();
    for name in ["users/10/a", "users/10/b", "users/10/c", "users/100/d", "users/10-x", "v"] {
        place.make(name);
    }
    assert_eq!(place.page("users/10/", None, 2).0, ["users/10/a", "users/10/b"]);
    assert!(place.page("users/10/", None, 2).1);
    let last = place.page("users/10/", Some("users/10/b"), 2);
    assert_eq!((last.0.as_slice(), last.1), (["users/10/c".to_owned()].as_slice(), false));
    assert_eq!(place.names().len(), 6);
}

#[test]
fn links_do_not_lead_out() {
    let place = Place::new();
    place.make("a");
    std::os::unix::fs::symlink(place.root.join("a"), place.root.join("link")).unwrap();
    assert_eq!(place.names(), ["a"]);
}

#[test]
fn what_the_kernel_does_not_tell_is_read_again_and_counted() {
    let place = Place::new();
    place.make("a");
    let known = || {
        let mut names = Vec::new();
        let mut show = |found: &CheckpointSummary| names.push(found.directory.to_string());
        let lost = place.index.show_all(&mut show).unwrap();
        (names, lost)
    };
    assert_eq!(known(), (vec!["a".to_owned()], 0));
    let most = kernel::sysctl::read("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let (one, other) = (place.root.join("one"), place.root.join("other"));
    write(&one, "").unwrap();
    // Each is two events, and there and back are four.
    for _ in 0..most.trim().parse::<u64>().unwrap() / 4 + 1 {
        rename(&one, &other).unwrap();
        rename(&other, &one).unwrap();
    }
    place.make("b");
    assert_eq!(known(), (vec!["a".to_owned(), "b".to_owned()], 1));
    place.make("c");
    assert_eq!(known().1, 1, "from then on all is told");
}

/// As of an open that failed because there were too many files open.
#[test]
fn what_could_not_be_read_is_looked_at_again() {
    let place = Place::new();
    place.make("a");
    let told = || {
        let known = place.index.one(&"a".parse().unwrap()).unwrap();
        known.unwrap().summary.damage.unwrap()
    };
    let real = told();
    let before = || {
        let mut inner = place.index.lock();
        let known = inner.found.checkpoints.get_mut(&"a".parse::<Directory>().unwrap()).unwrap();
        known.summary.damage = Some("too many open files".to_owned());
    };
    before();
    assert_eq!(told(), "too many open files", "not each time");
    place.index.lock().again = Duration::ZERO;
    assert_eq!(told(), real);
    assert_eq!(place.index.lock().found.damaged.len(), 1);
    remove_dir_all(place.root.join("a")).unwrap();
    assert_eq!(place.names(), [""; 0]);
    assert!(place.index.lock().found.damaged.is_empty());
}

#[test]
fn nobody_waits_while_what_is_unfinished_is_summed_up() {
    let place = Place::new();
    assert_eq!(place.names(), [""; 0]);
    let temporary = |name: &str| place.root.join(format!(".{name}.stasis-tmp-1-0"));
    create_dir_all(temporary("gone")).unwrap();
    remove_dir_all(temporary("gone")).unwrap();
    let found = place.index.unfinished_by("", &|path| {
        let there = images::unfinished(path);
        // Others ask, and another dump begins.
        create_dir_all(temporary("new")).unwrap();
        assert_eq!(place.names(), [""; 0]);
        there
    });
    assert_eq!(found.unwrap(), []);
    assert_eq!(place.index.unfinished("").unwrap().len(), 1, "what has begun is not forgotten");
    assert_eq!(place.index.unfinished("users/7/").unwrap(), []);
}
