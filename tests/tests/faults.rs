//! Things going wrong: the target runs on unharmed, nothing half-made is left behind.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use stasis_tests::faults::{Random, Rig, SHAPES, Victim};
use stasis_tests::{Dump, Engine, Machine, Outcome, Scratch, Services, Workload};

const RUNNING_ON: Dump<'_> = Dump::RUNNING_ON;

/// How often the dumper is killed.
const KILLS: u32 = 200;

/// Numbers that look random and are the same every time.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Whether the directory holds a whole checkpoint: it can be shown.
fn is_whole(images: &Path) -> bool {
    Outcome::of(Engine::Stasis.command("show").arg(images)).success
}

fn must_run_on(workload: &Workload, what: &str) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", workload.pid()));
    let status =
        status.unwrap_or_else(|_| panic!("{what}: the target is gone: {}", workload.log()));
    let held = status.lines().any(|line| line.starts_with("State:") && line.contains("stop"));
    assert!(!held, "{what}: the target is stopped");
}

/// The dumper is killed at an instant between its start and its end, again and again. The program,
/// whose five threads check every step they make, must not notice.
#[test]
fn the_dumper_killed_at_random_instants() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("busy", scratch.path("work"));
    // How long a dump takes here, so that instants of all its steps are among them.
    let mut lengths: Vec<Duration> = (0..5)
        .map(|n| {
            let start = Instant::now();
            let images = scratch.path(&format!("timing-{n}"));
            Engine::Stasis.dump(workload.pid(), &images, RUNNING_ON).must_succeed("dump");
            start.elapsed()
        })
        .collect();
    lengths.sort_unstable();
    let length = u64::try_from(lengths[2].as_micros()).expect("a short time");

    let mut seed = 0x5eed_0f5e_ed0f_u64;
    let mut finished = 0;
    for attempt in 0..KILLS {
        let images = scratch.path(&format!("killed-{attempt}"));
        let mut dumper = Engine::Stasis
            .dump_command(workload.pid(), &images, RUNNING_ON)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the dumper");
        let instant = Duration::from_micros(random(&mut seed) % (length * 11 / 10));
        std::thread::sleep(instant);
        dumper.kill().expect("kill the dumper");
        finished += u32::from(dumper.wait().expect("wait").success());
        must_run_on(&workload, &format!("killed after {instant:?}"));
        if images.exists() {
            assert!(is_whole(&images), "half a checkpoint under its final name");
            std::fs::remove_dir_all(&images).expect("remove");
        }
    }
    assert!(finished < KILLS * 2 / 3, "only {} of {KILLS} were killed in time", KILLS - finished);
    // A dump works still, after all that.
    Engine::Stasis.dump(workload.pid(), &scratch.path("after"), RUNNING_ON).must_succeed("dump");
    workload.check().expect("the program's own check");
    drop(machine);
}

/// The same over the shapes that are measured, and with the services in the dumper's place; what
/// `make faults` does at length.
#[test]
fn everything_killed_at_random_instants_over_every_shape() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let mut services = Services::start(&scratch.path("services"));
    let mut random = Random::new(0x5eed);
    for shape in SHAPES {
        let mut rig = Rig::start(&machine, &scratch, &mut services, shape, false, random.another());
        for victim in Victim::ALL {
            // A collector takes its time to come back.
            rig.kill(victim, if victim == Victim::Collector { 2 } else { 12 });
        }
        rig.end();
    }
}

/// A file system of a size, gone at the end.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn new(path: std::path::PathBuf, size: &str) -> Self {
        std::fs::create_dir(&path).expect("make the mount point");
        let options = format!("size={size}");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &path, Some("tmpfs"), flags, Some(options.as_str()))
            .expect("mount a tmpfs");
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // On failure the mount goes with the machine; there is nothing better to do.
        nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH).ok();
    }
}

#[test]
fn a_full_disk_leaves_the_target_running_and_no_directory() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("memory", scratch.path("work"));
    let disk = SmallDisk::new(scratch.path("disk"), "2m");
    for how in [RUNNING_ON, Dump::default()] {
        let outcome = Engine::Stasis.dump(workload.pid(), &disk.0.join("images"), how);
        assert!(!outcome.success, "10 MiB of memory on a disk of 2 MiB");
        let said = outcome.stderr.to_lowercase();
        assert!(said.contains("no space"), "{}", outcome.stderr);
        must_run_on(&workload, "full disk");
        assert_eq!(names(&disk.0), Vec::<String>::new(), "left on the disk");
    }
    workload.check().expect("the program's own check");
}

/// A checkpoint of a small tree of processes, ended.
fn ended_checkpoint(machine: &Machine, scratch: &Scratch) -> (Workload, std::path::PathBuf) {
    let workload = Workload::start("tree", scratch.path("work"));
    let images = scratch.path("images");
    Engine::Stasis.dump(workload.pid(), &images, Dump::default()).must_succeed("dump");
    machine.await_no_children();
    (workload, images)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("make a directory");
    for entry in std::fs::read_dir(from).expect("list").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copy");
    }
}

/// A restore of damaged images either fails and leaves no process, or what it restores is ended
/// by the test: it must never hang, panic, or leave something half-made.
fn restore_damaged(machine: &Machine, images: &Path, what: &str) -> bool {
    let outcome = Engine::Stasis.restore(images, Dump::default());
    assert!(!outcome.stderr.contains("panicked"), "{what}: {}", outcome.stderr);
    assert!(outcome.code.is_some(), "{what}: the restore was killed by a signal");
    if outcome.success {
        machine.end_all();
    } else {
        assert!(!outcome.stderr.is_empty(), "{what}: failed without a word");
        machine.await_no_children();
    }
    outcome.success
}

#[test]
fn images_cut_short_or_missing_are_refused_and_leave_no_process() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let (workload, images) = ended_checkpoint(&machine, &scratch);
    let damaged = scratch.path("damaged");
    for name in names(&images) {
        if name.starts_with("stats-") {
            continue;
        }
        let length = std::fs::metadata(images.join(&name)).expect("stat").len();
        for (what, keep) in [("missing", None), ("empty", Some(0)), ("half", Some(length / 2))] {
            copy(&images, &damaged);
            let file = damaged.join(&name);
            match keep {
                None => std::fs::remove_file(&file).expect("remove"),
                Some(keep) => {
                    let file = std::fs::File::options().write(true).open(&file).expect("open");
                    file.set_len(keep).expect("truncate");
                }
            }
            let restored = restore_damaged(&machine, &damaged, &format!("{name} {what}"));
            // No file and no entry are the same in this format, so what is there only now and then
            // is not missed.
            let missed = ["inventory", "pstree", "core-", "mm-", "pagemap-", "files", "ids-"];
            let there =
                missed.iter().any(|n| name.starts_with(n)) && !name.starts_with("pagemap-shmem");
            let sometimes = what == "missing" && !there;
            assert!(!restored || sometimes, "{name} {what}: was restored");
            std::fs::remove_dir_all(&damaged).expect("remove");
        }
    }
    // The whole ones are as good as ever.
    Engine::Stasis.restore(&images, Dump::default()).must_succeed("restore");
    workload.check().expect("the program's own check");
}

#[test]
fn images_with_flipped_bits_never_leave_half_a_tree() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let (_workload, images) = ended_checkpoint(&machine, &scratch);
    let damaged = scratch.path("damaged");
    let mut seed = 0xb17_f11b_u64;
    // The pages themselves carry no sums: a flipped bit there is a flipped bit in memory.
    let names: Vec<_> = names(&images)
        .into_iter()
        .filter(|n| n.ends_with(".img") && !n.starts_with("pages-"))
        .collect();
    for round in 0..60 {
        copy(&images, &damaged);
        let name = &names[usize::try_from(random(&mut seed)).expect("64 bits") % names.len()];
        let mut bytes = std::fs::read(damaged.join(name)).expect("read");
        if !bytes.is_empty() {
            let place = usize::try_from(random(&mut seed)).expect("64 bits") % bytes.len();
            bytes[place] ^= 1 << (random(&mut seed) % 8);
            std::fs::write(damaged.join(name), bytes).expect("write");
        }
        restore_damaged(&machine, &damaged, &format!("round {round}: a bit of {name}"));
        std::fs::remove_dir_all(&damaged).expect("remove");
    }
}

#[test]
fn a_restore_whose_pid_is_taken_leaves_everything_as_it_was() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("tree", scratch.path("work"));
    let images = scratch.path("images");
    Engine::Stasis.dump(workload.pid(), &images, RUNNING_ON).must_succeed("dump");
    let outcome = Engine::Stasis.restore(&images, Dump::default());
    assert!(!outcome.success, "restored beside itself");
    let pid = workload.pid().to_string();
    assert!(outcome.stderr.contains(&pid), "does not name the pid: {}", outcome.stderr);
    workload.check().expect("the program's own check");
}
