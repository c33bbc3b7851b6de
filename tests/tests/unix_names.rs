//! Unix sockets whose files are called otherwise than the programs bound them, as daemons do that put a new socket in the place of an
//! older one. Needs root.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use stasis_tests::{Dump, Engine, Machine, Program, Scratch, wait_until};

/// Answers, by each of its sockets, with the path that it bound it to.
const SERVER: &str = r#"
import os, socket, sys, threading
def serve(bound):
    while True:
        answer, _ = bound.accept()
        answer.sendall(bound.getsockname().encode())
        answer.close()
def bind(path):
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(os.path.abspath(path))
    bound.listen()
    threading.Thread(target=serve, args=(bound,), daemon=True).start()
os.mkdir("before")
bind("before/in-a-directory")
os.rename("before", "after")
bind("renamed.new")
os.rename("renamed.new", "renamed")
bind("linked.new")
os.link("linked.new", "linked")
os.unlink("linked.new")
bind("as-bound")
if sys.argv[1:]:
    os.link("as-bound", sys.argv[1])
with open("renamed.new", "w") as file:
    file.write("another's")
open("there", "w").close()
threading.Event().wait()
"#;

/// Names, and what their sockets say.
const SOCKETS: [(&str, &str); 4] = [
    ("after/in-a-directory", "before/in-a-directory"),
    ("renamed", "renamed.new"),
    ("linked", "linked.new"),
    ("as-bound", "as-bound"),
];

struct Case {
    machine: Machine,
    scratch: Scratch,
    program: Program,
}

impl Case {
    fn start(arguments: &[&str]) -> Self {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        fs::create_dir(scratch.path("work")).expect("mkdir");
        let mut command = Command::new("python3");
        command.args(["-c", SERVER]).args(arguments).current_dir(scratch.path("work"));
        let program = Program::start(&mut command, &scratch.path("log"));
        let is_there = || scratch.path("work/there").exists();
        assert!(wait_until(Duration::from_secs(20), is_there), "the program does not start");
        Self { machine, scratch, program }
    }

    fn answer(&self) {
        for (name, bound) in SOCKETS {
            let mut stream = UnixStream::connect(self.scratch.path(&format!("work/{name}")))
                .unwrap_or_else(|error| panic!("connect to {name}: {error}"));
            let mut said = String::new();
            stream.read_to_string(&mut said).expect("an answer");
            assert!(said.ends_with(&format!("work/{bound}")), "{name}: {said}");
        }
        let other = fs::read_to_string(self.scratch.path("work/renamed.new"));
        assert_eq!(other.expect("another's file"), "another's");
        let left = fs::read_dir(self.scratch.path("work")).expect("list").filter(|entry| {
            let kind = entry.as_ref().map(|entry| entry.file_type());
            matches!(kind, Ok(Ok(kind)) if kind.is_socket())
        });
        assert_eq!(left.count(), 3, "a socket is left over");
    }
}

#[test]
fn they_come_back_under_the_names_that_they_have() {
    let case = Case::start(&[]);
    case.answer();
    for images in ["first", "second"] {
        let images = case.scratch.path(images);
        Engine::Stasis.dump(case.program.pid(), &images, Dump::ENDING).must_succeed("dump");
        case.machine.await_no_children();
        Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
        case.answer();
    }
    case.machine.end_all();
}

#[test]
fn what_has_several_names_is_refused() {
    let case = Case::start(&["another"]);
    let outcome =
        Engine::Stasis.dump(case.program.pid(), &case.scratch.path("images"), Dump::ENDING);
    let said = &outcome.stderr;
    assert!(!outcome.success && said.contains("more than one name (hard links)"), "{said}");
    fs::remove_file(case.scratch.path("work/another")).expect("remove a name");
    case.answer();
    Engine::Stasis
        .dump(case.program.pid(), &case.scratch.path("images"), Dump::ENDING)
        .must_succeed("dump without it");
    case.machine.await_no_children();
}
