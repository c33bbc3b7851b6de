//! An ordinary user's program that holds one thing, named by `HELD`, below his directory `home/box`; the
//! test makes something else of that name between dump and restore.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage};

/// Nobody's user id: what a machine's own users are is no matter.
const USER: u32 = 54_321;
const TEXT: &[u8; 16] = b"what was in it.\n";

/// What is held, and how to tell whether it is still what it was.
enum Held {
    File(File),
    Mapping(Region),
    Fifo(File),
    Socket(UnixListener),
    Ghost(File),
    Directory,
    Program,
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let what = env::var("HELD").expect("HELD");
    let (home, place) = (stage.path("home"), stage.path("home/box"));
    let thing = place.join("thing");
    fs::create_dir_all(&place).expect("mkdir");
    fs::set_permissions(stage.dir(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let made_by_root = what == "root's log";
    for path in [&home, &place].into_iter().filter(|_| !made_by_root) {
        chown(path, Some(USER), Some(USER)).expect("chown");
    }
    let as_root = made_by_root.then(|| log(&thing));
    setgroups(&[]).expect("setgroups");
    let (user, group) = (Uid::from_raw(USER), Gid::from_raw(USER));
    setresgid(group, group, group).expect("setresgid");
    setresuid(user, user, user).expect("setresuid");
    let held = as_root.map_or_else(|| hold(&what, &place, &thing), Held::File);

    stage.ready_then_wait();

    let mut found = Findings::default();
    check(held, &mut found);
    found.outcome()
}

fn log(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600).open(path).expect("open")
}

fn hold(what: &str, place: &Path, thing: &Path) -> Held {
    let write = || {
        fs::write(thing, TEXT).expect("write");
        fs::set_permissions(thing, fs::Permissions::from_mode(0o640)).expect("chmod");
    };
    let open = || {
        write();
        OpenOptions::new().read(true).write(true).open(thing).expect("open")
    };
    let map = |prot, flags| {
        let file = open();
        Held::Mapping(Region::map(4096, prot, flags, Some((&file, 0))))
    };
    match what {
        "file" => Held::File(open()),
        "log" => Held::File(log(thing)),
        "shared mapping" => map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED),
        "private mapping" => map(libc::PROT_READ, libc::MAP_PRIVATE),
        "directory" => {
            fs::create_dir(thing).expect("mkdir");
            env::set_current_dir(thing).expect("chdir");
            Held::Directory
        }
        "fifo" => {
            nix::unistd::mkfifo(thing, Mode::from_bits_truncate(0o640)).expect("mkfifo");
            Held::Fifo(OpenOptions::new().read(true).write(true).open(thing).expect("open"))
        }
        "socket" => Held::Socket(UnixListener::bind(thing).expect("bind")),
        "ghost" => {
            let file = open();
            fs::remove_file(thing).expect("unlink");
            Held::Ghost(file)
        }
        "ghost directory" => {
            fs::create_dir(thing).expect("mkdir");
            let file = File::open(thing).expect("open");
            fs::remove_dir(thing).expect("rmdir");
            Held::Ghost(file)
        }
        "program" => Held::Program,
        other => panic!("nobody knows how to hold {other} in {}", place.display()),
    }
}

fn check(held: Held, found: &mut Findings) {
    match held {
        Held::File(mut file) => {
            found.works("write", file.write_all(b"on"));
        }
        Held::Mapping(region) => found.same("mapped", &&TEXT[..], &&region.bytes()[..16]),
        Held::Fifo(mut fifo) => {
            found.works("write", fifo.write_all(b"on"));
            let mut bytes = [0; 2];
            found.works("read", fifo.read_exact(&mut bytes));
        }
        Held::Socket(socket) => {
            let address = socket.local_addr().expect("address");
            let path = address.as_pathname().expect("a path").to_owned();
            found.works("connect", std::os::unix::net::UnixStream::connect(path));
            found.works("accept", socket.accept());
        }
        Held::Ghost(file) => {
            found.works("stat", file.metadata());
        }
        Held::Directory => {
            found.works("look", fs::metadata("."));
        }
        Held::Program => {}
    }
}
