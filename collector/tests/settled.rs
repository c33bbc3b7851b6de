//! Open files that need not be read again, as for a dump: counted without any track. Needs root, and a
//! kernel that lets it load BPF programs.
#![allow(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

mod common;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use api::TrackTarget;
use common::{Quiet, until};
use kernel::pidfd::PidFd;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use stasis_collector::{Collector, Inventory, Look, OpenFile};

struct Watched {
    quiet: Quiet,
    collector: Collector,
}

impl Watched {
    fn start() -> Self {
        let quiet = Quiet::start();
        let mut collector = Collector::with_bpf().unwrap();
        collector.watch();
        Self { quiet, collector }
    }

    fn take(&mut self, earlier: &mut Inventory, look: Look) -> Inventory {
        let mut inventory = self.collector.take_tree(self.quiet.pid(), earlier, look).unwrap();
        if look == Look::Ahead {
            inventory.refer_to_this();
        }
        inventory
    }

    /// An inventory after `change`, which must be like one that is read whole; and the descriptors that
    /// it says to be of different files.
    fn after(&mut self, change: impl FnOnce(&Quiet)) -> Vec<i32> {
        let mut before = self.take(&mut Inventory::default(), Look::Ahead);
        change(&self.quiet);
        let after = self.take(&mut before, Look::Now);
        let pid = self.quiet.pid();
        let whole = self.collector.inventory(&[pid]).unwrap();
        // Others go on to move the marks.
        let without = |files: &[OpenFile]| -> Vec<OpenFile> {
            files.iter().map(|file| OpenFile { mark: None, ..file.clone() }).collect()
        };
        let files = |inventory: &Inventory| without(&inventory.processes[&pid].files);
        assert!(files(&after) == files(&whole));
        after.different_files(pid).map(<[i32]>::to_vec).unwrap_or_default()
    }

    fn fd_of(&mut self, name: &str) -> i32 {
        let pid = self.quiet.pid();
        let inventory = self.collector.inventory(&[pid]).unwrap();
        let path = self.quiet.dir.path().join(name);
        let files = &inventory.processes[&pid].files;
        files.iter().find(|file| file.target == path).unwrap().fd
    }

    /// Until nobody else on the machine renames anything in between.
    fn is_spared_at_some_time(&mut self, from: &mut Inventory) {
        let mut last = Some(std::mem::take(from));
        until("two inventories with nothing between", || {
            let mut before = match last.take() {
                Some(mut earlier) => self.take(&mut earlier, Look::Ahead),
                None => self.take(&mut Inventory::default(), Look::Ahead),
            };
            let after = self.take(&mut before, Look::Now);
            let is_spared = self.collector.spared() == 1;
            last = Some(after);
            is_spared
        });
    }
}

#[test]
fn what_nobody_touches_is_not_read() {
    let mut watched = Watched::start();
    watched.is_spared_at_some_time(&mut Inventory::default());
    // After the target itself has done something it is so again, once that is known.
    let mut before = watched.take(&mut Inventory::default(), Look::Ahead);
    watched.quiet.does("os.write(pipes[3][1], b'x')");
    watched.is_spared_at_some_time(&mut before);
}

#[test]
fn what_the_dumper_itself_has_got_at_is_none_the_less_settled() {
    let mut watched = Watched::start();
    let mut before = watched.take(&mut Inventory::default(), Look::Ahead);
    let process = PidFd::open(watched.quiet.pid()).unwrap();
    let held: Vec<_> = (3..60).map(|fd| process.get(fd).unwrap()).collect();
    watched.quiet.does("os.write(pipes[3][1], b'x')");
    watched.is_spared_at_some_time(&mut before);
    drop(held);
}

#[test]
fn whoever_changes_what_it_has_open_is_noticed() {
    let mut watched = Watched::start();
    let [one, two, three, four, five, six] =
        [1, 2, 3, 4, 5, 6].map(|nth| watched.fd_of(&format!("file-{nth}")));
    let path = |quiet: &Quiet, name: &str| quiet.dir.path().join(name);
    let different = watched.after(|quiet| {
        fs::set_permissions(path(quiet, "file-1"), Permissions::from_mode(0o640)).unwrap();
    });
    assert!(different.contains(&one));
    let different = watched.after(|quiet| {
        let mut file = OpenOptions::new().append(true).open(path(quiet, "file-2")).unwrap();
        file.write_all(b"more").unwrap();
    });
    assert!(different.contains(&two) && !different.contains(&one), "{different:?}");
    watched.quiet.does("files[7].write('x' * 100); files[7].flush()");
    let seven = watched.fd_of("file-7");
    let different = watched.after(|quiet| {
        // Without being open for writing.
        let flags = OFlag::O_RDONLY | OFlag::O_TRUNC;
        open(&path(quiet, "file-7"), flags, Mode::empty()).unwrap();
    });
    assert!(different.contains(&seven));
    let handle = File::open(path(&watched.quiet, "file-3")).unwrap();
    let different =
        watched.after(|_| handle.set_permissions(Permissions::from_mode(0o600)).unwrap());
    assert!(different.contains(&three));
    let different = watched.after(|quiet| {
        let script = "import ctypes, os, sys\n\
                      pid, fd = int(sys.argv[1]), int(sys.argv[2])\n\
                      fd = ctypes.CDLL(None).syscall(438, os.pidfd_open(pid), fd, 0)\n\
                      os.lseek(fd, 77, os.SEEK_SET)\n";
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", script, &quiet.pid().to_string(), &four.to_string()]);
        assert!(command.status().unwrap().success());
    });
    assert!(different.contains(&four));
    let different =
        watched.after(|quiet| fs::rename(path(quiet, "file-5"), path(quiet, "elsewhere")).unwrap());
    assert!(different.contains(&five));
    // And the folder that it is in, with all.
    let dir = watched.quiet.dir.path().to_owned();
    let different = watched.after(|_| fs::rename(&dir, dir.with_extension("moved")).unwrap());
    assert!([one, two, three, four, five, six].iter().all(|fd| different.contains(fd)));
    let different = watched.after(|_| fs::rename(dir.with_extension("moved"), &dir).unwrap());
    assert!(different.contains(&one));
    let different = watched.after(|quiet| fs::remove_file(path(quiet, "file-8")).unwrap());
    assert_eq!(different.len(), 1, "{different:?}");
    let different = watched.after(|quiet| {
        fs::rename(path(quiet, "elsewhere"), path(quiet, "file-6")).unwrap();
    });
    assert!(different.contains(&five) && different.contains(&six), "{different:?}");
}

#[test]
fn whoever_opens_its_pipes_is_noticed() {
    let mut watched = Watched::start();
    watched.quiet.does("os.write(pipes[0][1], b'xyz')");
    let different = watched.after(|quiet| {
        let mut pipe = File::open(format!("/proc/{}/fd/3", quiet.pid())).unwrap();
        pipe.read_exact(&mut [0]).unwrap();
    });
    assert!(different.contains(&3) && different.contains(&4), "{different:?}");
    // As long as somebody else has it open, it is read each time.
    let mut pipe = File::open(format!("/proc/{}/fd/3", watched.quiet.pid())).unwrap();
    let different = watched.after(|_| pipe.read_exact(&mut [0]).unwrap());
    assert!(different.contains(&3) && different.contains(&4), "{different:?}");
}

#[test]
fn descriptors_that_come_and_go_are_noticed() {
    let mut watched = Watched::start();
    for line in [
        "os.close(pipes[7][0])",
        "os.dup2(pipes[8][0], pipes[9][0])",
        "os.dup(0)",
        "child = os.fork() or signal.pause()",
        "os.kill(child, 9); os.waitpid(child, 0)",
        "pairs[4][0].send(b'hello')",
        "pairs[4][1].recv(2)",
        "os.set_inheritable(pipes[1][0], True)",
        "files[9].write('x' * 100); files[9].flush()",
    ] {
        watched.after(|quiet| quiet.does(line));
    }
}

#[test]
fn a_track_takes_over_what_a_dump_has_entered() {
    let quiet = Quiet::start();
    let mut collector = Collector::with_bpf().unwrap();
    collector.watch();
    let mut tracks = collector.tracks().unwrap();
    collector.take_tree(quiet.pid(), &mut Inventory::default(), Look::Ahead).unwrap();
    let id = tracks.begin(&TrackTarget::Pid(quiet.pid().get()), true).unwrap();
    drop(collector);
    let track = tracks.get(id).unwrap().unwrap();
    assert!(track.processes.contains_key(&quiet.pid()), "the end of the dump leaves it alone");
}
