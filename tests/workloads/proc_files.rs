//! Files of `/proc` about processes of the tree, and namespaces that descriptors keep open.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;

use crate::stage::{Findings, Outcome, Stage};

fn link(file: &File) -> PathBuf {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("link")
}

fn text(file: &mut File) -> String {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).expect("seek");
    file.read_to_string(&mut text).expect("read");
    text
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let child = crate::tree::child(stage, "child", || {
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1000));
        }
    });
    let open = |path: &str| File::open(path).expect(path);
    let mut own = open("/proc/self/stat");
    let mut maps = open("/proc/self/maps");
    let mut of_child = open(&format!("/proc/{child}/status"));
    let folder = open(&format!("/proc/{child}"));
    let mut begun = [0; 4];
    of_child.read_exact(&mut begun).expect("read");
    let namespaces = ["net", "user", "mnt"].map(|name| open(&format!("/proc/self/ns/{name}")));
    let mut info = open(&format!("/proc/self/fdinfo/{}", own.as_raw_fd()));
    let all = |files: [&File; 5]| files.map(link);
    let before = (all([&own, &maps, &of_child, &folder, &info]), namespaces.each_ref().map(link));
    stage.ready_then_wait();

    let mut found = Findings::default();
    let after = (all([&own, &maps, &of_child, &folder, &info]), namespaces.each_ref().map(link));
    found.same("names", &before, &after);
    found.same("position", &Some(4), &of_child.stream_position().ok());
    let pid = std::process::id();
    found.must("own", text(&mut own).starts_with(&format!("{pid} (")));
    found.must("maps", text(&mut maps).contains("[stack]"));
    found.must("child", text(&mut of_child).contains(&format!("Pid:\t{child}\n")));
    found.must("information", text(&mut info).starts_with("pos:"));
    kill(child, Signal::SIGKILL).expect("kill");
    waitpid(child, None).expect("wait");
    let mut gone = String::new();
    of_child.rewind().unwrap_or_default();
    found.must("the child has gone", of_child.read_to_string(&mut gone).is_err());
    found.outcome()
}

/// Files of `/proc` about a process that has ended, which is also where the program is; and a child that is in the
/// folder of its parent.
pub(crate) fn dead(stage: &Stage) -> Outcome {
    let ended = crate::tree::child(stage, "ended", || {
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1000));
        }
    });
    let mut status = File::open(format!("/proc/{ended}/status")).expect("open");
    let folder = format!("/proc/{ended}");
    let parent = nix::unistd::getpid();
    let inside = crate::tree::child(stage, "inside", || {
        std::env::set_current_dir(format!("/proc/{parent}")).expect("go there");
        stage.publish("inside", "");
        stage.wait();
        let mut found = Findings::default();
        let comm = std::fs::read_to_string("comm").ok();
        found.same(
            "the parent",
            &std::fs::read_to_string(format!("/proc/{parent}/comm")).ok(),
            &comm,
        );
        found.must(
            "its folder",
            std::env::current_dir().is_ok_and(|it| it.ends_with(parent.to_string())),
        );
        found.outcome()
    });
    while !stage.path("inside").exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    std::env::set_current_dir(&folder).expect("go there");
    kill(ended, Signal::SIGKILL).expect("kill");
    waitpid(ended, None).expect("wait");
    let link = || std::fs::read_link("/proc/self/cwd").expect("link");
    let before = link();
    let gone = |status: &mut File| status.read_to_string(&mut String::new()).is_err();
    assert!(gone(&mut status) && std::env::current_dir().is_err());
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("directory", &before, &link());
    found.must("nothing is there", std::env::current_dir().is_err() && gone(&mut status));
    found.must("nobody is there", !std::path::Path::new(&folder).exists());
    let end = waitpid(inside, None);
    found.same("end of a child", &Ok(nix::sys::wait::WaitStatus::Exited(inside, 0)), &end);
    found.outcome()
}
