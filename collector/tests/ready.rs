//! The eBPF programs as they are made ready for commands, and left for the next. Needs root, and a kernel
//! that lets it load BPF programs.
#![allow(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

mod common;
#[path = "common/home.rs"]
mod home;

use std::fs;
use std::num::NonZeroU32;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use api::TrackTarget;
use common::{Quiet, until};
use home::TestHome;
use ids::HostPid;
use stasis_collector::bpf::{BpfError, Stored};
use stasis_collector::{Collector, Home, Inventory, ROOM, Source};

/// This process as a collector tells it is as /proc tells it.
fn assert_tells_the_truth(collector: &mut Collector, quiet: &Quiet) {
    assert_eq!(collector.source(), Source::Bpf);
    let plain = |mut inventory: Inventory| {
        for process in inventory.processes.values_mut() {
            process.in_process = None;
            for thread in process.threads.values_mut() {
                thread.in_task = None;
            }
            for mapping in &mut process.mappings {
                mapping.locked = None;
            }
            for file in &mut process.files {
                (file.owned, file.locked, file.linkable) = (None, None, None);
                file.uncorked = false;
                file.terminal = None;
                file.mark = None;
            }
        }
        inventory
    };
    let by_proc = Collector::proc_only().inventory(&[quiet.pid()]).unwrap();
    assert!(by_proc.processes[&quiet.pid()].files.len() > 100);
    assert!(plain(collector.inventory(&[quiet.pid()]).unwrap()) == plain(by_proc));
}

/// The one set of programs that is pinned.
fn set(home: &Home) -> PathBuf {
    let Stored { pinned, .. } = home.stored();
    let [set] = &pinned[..] else { panic!("{pinned:?}") };
    assert!(set.used);
    set.path.clone()
}

/// The one file in the cache.
fn cached(home: &Home) -> PathBuf {
    let Stored { cached, .. } = home.stored();
    let [file] = &cached[..] else { panic!("{cached:?}") };
    file.path.clone()
}

/// Tells a set of programs from another one that is in its place.
fn identity(home: &Home) -> u64 {
    fs::metadata(set(home)).unwrap().ino()
}

#[test]
fn the_first_command_leaves_them_and_later_ones_find_them() {
    let quiet = Quiet::start();
    let home = TestHome::new("ready");
    assert_tells_the_truth(&mut Collector::open_at(&home), &quiet);
    let made = identity(&home);
    let mut counting = Collector::open_at(&home);
    counting.watch();
    assert_tells_the_truth(&mut counting, &quiet);
    quiet.does("files[1].write('more'); files[1].flush()");
    assert_tells_the_truth(&mut counting, &quiet);
    assert_eq!(identity(&home), made, "they are those of the first");
    assert!(home.stored().cached[0].used && !home.stored().kept);
    home.prepare().unwrap();
    assert_eq!(identity(&home), made);
    // After a start of the machine there is the file alone.
    fs::remove_dir_all(&home.pins).unwrap();
    let modified = || fs::metadata(cached(&home)).unwrap().modified().unwrap();
    let written = modified();
    assert_tells_the_truth(&mut Collector::open_at(&home), &quiet);
    assert_eq!(modified(), written);
    // All goes, and nobody is disturbed.
    assert_eq!(home.clear().unwrap(), (1, 1));
    assert_eq!(home.stored(), Stored::default());
    assert!(!home.pins.exists() && !home.cache.exists());
    assert_tells_the_truth(&mut counting, &quiet);
    assert_eq!(home.clear().unwrap(), (0, 0));
}

#[test]
fn commands_at_once_make_one_set() {
    let quiet = Quiet::start();
    let home = TestHome::new("at-once");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_tells_the_truth(&mut Collector::open_at(&home), &quiet));
        }
    });
    set(&home);
    let names: Vec<_> =
        fs::read_dir(&home.pins).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn what_is_unfinished_damaged_or_of_another_version_is_not_used() {
    let quiet = Quiet::start();
    let home = TestHome::new("damaged");
    drop(Collector::open_at(&home));
    // Another version's, what somebody left who was killed, and what is nobody's business.
    let other = home.pins.join("0123456789abcdef");
    let (unfinished, foreign) = (home.pins.join("new-17"), home.pins.join("another"));
    for folder in [&other, &unfinished, &foreign] {
        fs::create_dir(folder).unwrap();
    }
    let own = || {
        let pinned = home.stored().pinned;
        pinned.into_iter().find(|set| set.used).unwrap().path
    };
    for missing in ["task_vma", "CHANGED"] {
        fs::remove_file(own().join(missing)).unwrap();
        assert_tells_the_truth(&mut Collector::open_at(&home), &quiet);
        assert!(own().join(missing).exists());
    }
    assert!(other.exists() && foreign.exists() && !unfinished.exists());
    assert_eq!(home.clear().unwrap().0, 2);
    assert!(foreign.exists() && !other.exists());
}

#[test]
fn a_folder_that_others_can_change_is_left_alone() {
    let quiet = Quiet::start();
    let home = TestHome::new("foreign");
    drop(Collector::open_at(&home));
    let open = |mode, owner| {
        fs::set_permissions(&home.pins, fs::Permissions::from_mode(mode)).unwrap();
        chown(&home.pins, Some(owner), None).unwrap();
    };
    let before = identity(&home);
    for (mode, owner) in [(0o777, 0), (0o700, 65534)] {
        open(mode, owner);
        let mut collector = Collector::open_at(&home);
        assert_tells_the_truth(&mut collector, &quiet);
        assert!(collector.tracks().is_some(), "it is the command's own");
        assert!(matches!(home.clear(), Err(BpfError::PinsForeign { .. })));
        assert!(home.stored().pinned.is_empty());
    }
    open(0o700, 0);
    assert_eq!(identity(&home), before);
}

#[test]
fn a_cache_that_is_not_to_be_believed_is_made_anew() {
    let quiet = Quiet::start();
    let home = TestHome::new("cache");
    let again = || {
        fs::remove_dir_all(&home.pins).unwrap();
        assert_tells_the_truth(&mut Collector::open_at(&home), &quiet);
    };
    drop(Collector::open_at(&home));
    let file = cached(&home);
    let good = fs::read(&file).unwrap();
    let is_good = || home.stored().cached[0].used;
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let mut longer = good.clone();
    longer.push(0);
    let zeros = vec![0; good.len()];
    for damaged in [&flipped, &good[..good.len() - 4].to_vec(), &longer, &zeros, &Vec::new()] {
        fs::write(&file, damaged).unwrap();
        assert!(!is_good());
    }
    again();
    assert_eq!(fs::read(&file).unwrap(), good);
    // Somebody else's, or open to others: whatever it says.
    for (mode, owner) in [(0o666, 0), (0o644, 65534)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        chown(&file, Some(owner), None).unwrap();
        assert!(!is_good());
        again();
        assert!(is_good());
    }
    // A link, a fifo, a folder.
    let elsewhere = home.cache.parent().unwrap().join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
    assert!(!is_good());
    again();
    assert!(is_good() && fs::symlink_metadata(&file).unwrap().is_file());
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    again();
    assert!(is_good());
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    again();
    fs::remove_dir(&file).unwrap();
    // A folder of others, on the way or at its end, or one that cannot be written: nothing is kept.
    for folder in [home.cache.clone(), home.cache.parent().unwrap().to_owned()] {
        chown(&folder, Some(65534), None).unwrap();
        again();
        assert!(!file.exists());
        chown(&folder, Some(0), None).unwrap();
    }
    let nowhere = Home { cache: home.cache.parent().unwrap().join("no/such"), ..home.clone() };
    fs::remove_dir_all(&home.pins).unwrap();
    assert_tells_the_truth(&mut Collector::open_at(&nowhere), &quiet);
}

#[test]
fn a_service_and_commands_share_them() {
    let quiet = Quiet::start();
    let home = TestHome::new("shared");
    let mut earlier = Collector::open_at(&home);
    let made = identity(&home);
    // One that comes later takes what is there, and keeps tracks by it.
    let (mut service, refused) = Collector::serve(&home, ROOM).unwrap();
    assert!(refused.is_none() && home.stored().kept);
    assert_eq!(identity(&home), made);
    let mut tracks = service.tracks().unwrap();
    tracks.begin(&TrackTarget::Pid(quiet.pid().get()), true).unwrap();
    let link = set(&home).join("sys_exit_link");
    assert!(link.exists());
    for mut collector in [Collector::open_at(&home), earlier] {
        collector.watch();
        assert_tells_the_truth(&mut collector, &quiet);
        assert!(collector.tracks().is_none());
    }
    // A second one has its own; what the first one uses is not removed.
    let (second, refused) = Collector::serve(&home, ROOM).unwrap();
    assert!(matches!(refused, Some(BpfError::PinsTaken(_))), "{refused:?}");
    drop(second);
    assert!(matches!(home.clear(), Err(BpfError::PinsKept(_))));
    assert!(link.exists());
    drop((service, tracks));
    assert!(!link.exists() && !home.stored().kept);
    assert_eq!(identity(&home), made, "the programs stay");
    // One that wants more room than there is replaces them.
    let room = NonZeroU32::new(2 * ROOM.get()).unwrap();
    earlier = Collector::open_at(&home);
    let (service, refused) = Collector::serve(&home, room).unwrap();
    assert!(refused.is_none());
    assert_ne!(identity(&home), made);
    for mut collector in [service, earlier, Collector::open_at(&home)] {
        assert_tells_the_truth(&mut collector, &quiet);
    }
}

/// Is this test's other process: keeps a track until it is killed.
#[test]
fn helper_keeps_a_track() {
    let Some(pins) = std::env::var_os("STASIS_TEST_PINS") else { return };
    let home = Home { pins: pins.into(), cache: "/nonexistent/cache".into() };
    let (mut service, _) = Collector::serve(&home, ROOM).unwrap();
    let mut tracks = service.tracks().unwrap();
    let own = HostPid::own();
    tracks.begin(&TrackTarget::Pid(own.get()), true).unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn what_a_killed_service_left_attached_is_detached() {
    let home = TestHome::new("killed");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_keeps_a_track"])
        .env("STASIS_TEST_PINS", &home.pins)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("it keeps a track", || {
        home.stored().pinned.first().is_some_and(|set| set.path.join("sys_exit_link").exists())
    });
    let link = set(&home).join("sys_exit_link");
    drop(Collector::open_at(&home));
    assert!(link.exists(), "it lives");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(link.exists());
    let mut collector = Collector::open_at(&home);
    assert!(!link.exists() && collector.source() == Source::Bpf && collector.tracks().is_none());
    // And its tracks are forgotten.
    let (mut service, _) = Collector::serve(&home, ROOM).unwrap();
    let mut tracks = service.tracks().unwrap();
    let own = HostPid::own();
    tracks.begin(&TrackTarget::Pid(own.get()), false).unwrap();
}

#[test]
fn without_a_place_for_pins_a_command_has_its_own() {
    let quiet = Quiet::start();
    let dir = tempfile::tempdir().unwrap();
    let home = Home { pins: dir.path().join("pins"), cache: dir.path().join("cache") };
    assert_tells_the_truth(&mut Collector::open_at(&home), &quiet);
    assert!(!home.pins.exists());
    assert!(matches!(home.prepare(), Err(BpfError::NoBpfFs(_))));
    assert_eq!(home.clear().unwrap(), (0, 1));
}
