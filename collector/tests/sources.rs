//! Holds the two sources of inventories against each other. Needs root, and a kernel that lets it
//! load BPF programs.
#![allow(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ids::HostPid;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use stasis_collector::bpf::{BpfSource, Loaded};
use stasis_collector::{Collector, InTask, Inventory, Parts, ProcessState, Source, VmFlags, tree};

/// The busy process, ended with its children when this goes.
struct Busy {
    child: Child,
    alt_stack: (u64, u64),
    _folder: tempfile::TempDir,
}

impl Busy {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::start_in(folder.path().to_owned(), folder)
    }

    /// With its files in `place`; `folder` is removed at the end.
    fn start_in(place: PathBuf, folder: tempfile::TempDir) -> Self {
        let mut child = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/busy.py"))
            .arg(place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("python3 is needed to be the busy process");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["ready", start, bytes] = words[..] else { panic!("busy.py said {line:?}") };
        let start = u64::from_str_radix(start.trim_start_matches("0x"), 16).unwrap();
        let busy = Self { child, alt_stack: (start, bytes.parse().unwrap()), _folder: folder };
        busy.wait_until_quiet();
        busy
    }

    /// Its first thread still runs for a moment when it has said that it is ready.
    fn wait_until_quiet(&self) {
        let mut proc = Collector::proc_only();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let inventory = proc.parts(&tree(self.pid()).unwrap(), Parts::THREADS).unwrap();
            let mut threads =
                inventory.processes.values().flat_map(|process| process.threads.values());
            if threads.all(|thread| thread.state != 'R') {
                return;
            }
            assert!(Instant::now() < deadline, "busy.py does not come to rest");
            std::thread::yield_now();
        }
    }

    fn pid(&self) -> HostPid {
        HostPid::from(&self.child)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // Its session-leading child is in the same folder of /proc, not in its group.
        for pid in tree(self.pid()).unwrap_or_default().into_iter().rev() {
            let pid = nix::unistd::Pid::from_raw(pid.get());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).ok();
        }
        self.child.wait().ok();
    }
}

/// What only one source tells is left out.
fn comparable(mut inventory: Inventory) -> Inventory {
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
}

/// Says where two inventories differ, rather than printing both.
fn assert_same(proc: &Inventory, bpf: &Inventory) {
    let pids = |inventory: &Inventory| inventory.processes.keys().copied().collect::<Vec<_>>();
    assert_eq!(pids(proc), pids(bpf));
    for (one, other) in proc.processes.values().zip(bpf.processes.values()) {
        for (one, other) in one.threads.values().zip(other.threads.values()) {
            assert_eq!(one, other);
        }
        for (one, other) in one.mappings.iter().zip(&other.mappings) {
            assert_eq!(one, other, "{} and {}", one.flags.letters(), other.flags.letters());
        }
        for (one, other) in one.files.iter().zip(&other.files) {
            assert_eq!(one, other);
        }
        assert_eq!(one, other);
    }
}

#[test]
fn both_sources_tell_the_same() {
    let busy = Busy::start();
    let pids = tree(busy.pid()).unwrap();
    assert_eq!(pids.len(), 5);
    let mut proc = Collector::proc_only();
    let mut bpf = Collector::with_bpf().unwrap();
    assert_eq!((proc.source(), bpf.source()), (Source::Proc, Source::Bpf));

    let by_proc = proc.inventory(&pids).unwrap();
    let by_bpf = bpf.inventory(&pids).unwrap();
    assert_same(&by_proc, &comparable(by_bpf.clone()));
    // The second pass uses the links of the first.
    assert_eq!(by_bpf, bpf.inventory(&pids).unwrap());

    let mut again = BpfSource::new(Loaded::load().unwrap());
    let sorted = |mut pids: Vec<HostPid>| {
        pids.sort_unstable();
        pids
    };
    assert_eq!(sorted(again.tree(busy.pid()).unwrap()), sorted(pids));
    assert!(again.tree(HostPid::new(i32::MAX).unwrap()).unwrap().is_empty());
    let everything = again
        .take(
            &kernel::procfs::processes().unwrap(),
            Parts::THREADS,
            &mut Inventory::default(),
            stasis_collector::Look::Now,
        )
        .unwrap();
    let threads = |inventory: &Inventory| inventory.processes[&busy.pid()].threads.clone();
    assert_eq!(threads(&everything), threads(&by_bpf));
    assert!(bpf.tree(HostPid::new(i32::MAX).unwrap()).is_err());

    covers_what_it_should(&busy, &by_proc);
    let inside = by_bpf.processes[&busy.pid()].in_process.as_ref().unwrap();
    let places = inside.places.as_ref().unwrap();
    for (link, place) in [
        ("exe", &places.program),
        ("cwd", &places.working_directory),
        ("root", &places.root_directory),
    ] {
        let link = format!("/proc/{}/{link}", busy.pid());
        assert_eq!(std::fs::read_link(&link).unwrap(), Path::new(&place.target));
        let stat = std::fs::metadata(&link).unwrap();
        assert_eq!((stat.dev(), stat.ino()), (place.device, place.inode));
    }
    let leader = &by_bpf.processes[&busy.pid()].threads[&busy.pid()];
    let InTask { alt_stack_start, alt_stack_bytes, parent_death_signal, .. } =
        leader.in_task.unwrap();
    assert_eq!((alt_stack_start, alt_stack_bytes), busy.alt_stack);
    assert_eq!(parent_death_signal, 1);
}

/// Agreement about nothing would be worth nothing.
fn covers_what_it_should(busy: &Busy, inventory: &Inventory) {
    let process = &inventory.processes[&busy.pid()];
    assert_eq!(process.threads.len(), 41);
    assert_eq!(process.threads.values().filter(|thread| thread.own_tables).count(), 1);
    assert!(process.mappings.len() > 1000 && process.files.len() > 600);
    let mut flags = VmFlags::default();
    process.mappings.iter().for_each(|mapping| flags |= mapping.flags);
    let wanted = "rd wr ex sh mr mw me ms gd lo sr rr dc ac nr wf dd hg nh mg";
    for letters in wanted.split(' ') {
        let flag = VmFlags::from_letters(letters.as_bytes().try_into().unwrap());
        assert!(flags.contains(flag), "no mapping has {letters}");
    }
    assert!(!flags.contains(VmFlags::UNKNOWN));
    for name in ["[heap]", "[stack]", "[vdso]", "/SYSV00000000 (deleted)"] {
        assert!(process.mappings.iter().any(|mapping| mapping.name == name), "no {name}");
    }
    let states: Vec<_> = inventory.processes.values().map(|process| process.state).collect();
    assert!(states.contains(&ProcessState::Stopped));
    assert!(states.contains(&ProcessState::Zombie { exit_status: 7 << 8 }));
    assert!(states.contains(&ProcessState::Zombie { exit_status: 9 }));
    let child = inventory.processes.values().find(|child| child.sid == Some(child.pid)).unwrap();
    let shared = child
        .files
        .iter()
        .filter(|file| file.description >> 32 == u64::from(busy.pid().unsigned()));
    assert!(shared.count() > 600, "the child has its parent's files open");
}

/// A stacked file system shows its own numbers to `stat` and in maps, and maps files of others.
#[test]
fn both_sources_tell_the_same_of_an_overlay() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // Upper and working folder must be on a file system that can be an overlay's: tmpfs.
    let none: Option<&str> = None;
    mount(Some("stasis-test"), folder.path(), Some("tmpfs"), MsFlags::empty(), none).unwrap();
    for name in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    let shown = |name| path(name).display().to_string();
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        shown("lower"),
        shown("upper"),
        shown("work")
    );
    let merged = path("merged");
    mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(&*layers)).unwrap();
    let root = folder.path().to_owned();
    let busy = Busy::start_in(merged.clone(), folder);
    let pids = tree(busy.pid()).unwrap();
    let by_proc = Collector::proc_only().inventory(&pids);
    let by_bpf = Collector::with_bpf().and_then(|mut bpf| bpf.inventory(&pids));
    let process = by_proc.as_ref().unwrap().processes[&busy.pid()].clone();
    umount2(&merged, MntFlags::MNT_DETACH).unwrap();
    umount2(&root, MntFlags::MNT_DETACH).unwrap();
    drop(busy);
    assert_same(&by_proc.unwrap(), &comparable(by_bpf.unwrap()));
    let plain = merged.join("plain");
    assert!(process.files.iter().any(|file| file.target == plain));
    assert!(process.mappings.iter().any(|mapping| mapping.name == plain));
}

#[test]
fn processes_that_are_not_there_are_absent() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let gone = HostPid::from(&child);
    for mut collector in [Collector::proc_only(), Collector::with_bpf().unwrap()] {
        assert_eq!(collector.inventory(&[gone]).unwrap(), Inventory::default());
    }
}

/// A place that log lines are written to.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_a_record_has_no_room_for_is_noted() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let busy = Busy::start();
    tracing::subscriber::with_default(subscriber, || {
        Collector::with_bpf().unwrap().inventory(&[busy.pid()]).unwrap();
    });
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let asked = format!("is too long for its record: /proc is asked pid={}", busy.pid());
    assert!(text.contains(&asked), "{text}");
    assert!(text.contains("path of descriptor") && text.contains("name of mapping"), "{text}");
}
